"""Where the configuration files lie (beside the package in a checkout, else inside it), and where caches go."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

CONFIGS = next(
    (folder for folder in (_PACKAGE.parent / "configs", _PACKAGE / "configs") if (folder / "sliding").is_dir()),
    _PACKAGE / "configs",
)
"""Folder of the YAML configuration (`sliding/`, `train.yaml` and its groups)."""


def cache_folder() -> Path:
    """Folder for what can be made anew: XDG_CACHE_HOME/wildstream. RuntimeError where the user has no home folder."""
    configured = os.environ.get("XDG_CACHE_HOME")
    return (Path(configured).absolute() if configured else Path.home() / ".cache") / "wildstream"
