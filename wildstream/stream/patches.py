"""Frames → spatial patches: true tiles, in rows from the top left.

patch_type="relative", patch_h=2, patch_w=3      patch_type="absolute", patch_h=patch_w=224: a 500 × 640 frame
+---+---+---+                                    +-----+-----+----+
| 0 | 1 | 2 |                                    |  0  |  1  |  2 0
+---+---+---+                                    +-----+-----+----+   zeros at the right and at the bottom
| 3 | 4 | 5 |                                    |  3  |  4  |  5 0
+---+---+---+                                    +--6--+--7--+--8-+
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Cut frames into tiles."""

    patch_type: Literal["relative", "absolute"]
    """Whether patch_h and patch_w are the rows and columns of a grid, or the height and width of a tile in pixels."""
    patch_h: int
    """Rows of the grid, or height of a tile."""
    patch_w: int
    """Columns of the grid, or width of a tile."""

    def __call__(self, frames: Tensor) -> Tensor:
        """Tile (N, C, H, W) frames into (N, P, C, h, w), P = rows * columns in row-major order."""
        rows, height = self._cut(frames.shape[-2], self.patch_h)
        columns, width = self._cut(frames.shape[-1], self.patch_w)
        padded = pad(frames, (0, columns * width - frames.shape[-1], 0, rows * height - frames.shape[-2]))
        tiles = padded.unflatten(-1, (columns, width)).unflatten(-3, (rows, height))  # N, C, rows, h, columns, w
        patches: Tensor = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return patches

    def _cut(self, length: int, patch: int) -> tuple[int, int]:
        """Number of tiles along one side, and their length in pixels."""
        if self.patch_type == "relative":
            return patch, -(-length // patch)
        return -(-length // patch), patch
