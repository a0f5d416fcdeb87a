"""What is done to frames: once per frame while decoding (resize), or per clip on the gathered batch (normalise)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torchvision.transforms.v2.functional import resize

from wildstream.errors import ConfigError

Size = int | tuple[int, int]
"""Pixels: one number for a square, or (height, width)."""


ResizeBy = Literal["swscale", "torchvision"]
"""Who resizes frames: libswscale before they become RGB, which is quicker, or torchvision afterwards. The two differ by
about one grey level; patches, and frames on CUDA, are always torchvision's."""


def parse_size(size: object) -> tuple[int, int]:
    """Height and width of a size; ConfigError where it is none."""
    pair = (size, size) if isinstance(size, int) else size
    if (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair)
    ):
        return pair[0], pair[1]
    raise ConfigError(f"size={size!r} must be a positive number of pixels, a pair (height, width) of them, or None.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Resize frames or patches, bilinear with antialiasing; the aspect ratio is not kept."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""

    def __call__(self, frames: Tensor) -> Tensor:
        """Resize (..., C, H, W) uint8 to (..., C, height, width) uint8."""
        if frames.shape[-2:] == (self.height, self.width):
            return frames
        flat = frames.flatten(0, -4) if frames.ndim > 4 else frames
        resized: Tensor = resize(flat, [self.height, self.width], antialias=True)
        return resized.unflatten(0, frames.shape[:-3]) if frames.ndim > 4 else resized
