"""Sizes as people write them → bytes."""

from __future__ import annotations

import re

from wildstream.errors import ConfigError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(text: str) -> int:
    """A size such as 512MiB, 2GB or 1048576, in bytes; ConfigError where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if size < 1:
        raise ConfigError(f"{text!r} is not a size. Write 512MiB, 2GB or 1048576.")
    return size
