"""Where the configuration files lie: beside the package in a checkout, inside it where it was installed."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

CONFIGS = next(
    (folder for folder in (_PACKAGE.parent / "configs", _PACKAGE / "configs") if (folder / "sliding").is_dir()),
    _PACKAGE / "configs",
)
"""Folder of the YAML configuration (`sliding/`, `train.yaml` and its groups)."""
