"""A 3-D convolutional network small enough to train on a laptop's processor: for the demo, tests and first tries."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (16, 32, 48, 64)
"""Channels after each block."""


class Tiny3D(nn.Module):
    """Four blocks of 3×3×3 convolution, batch norm, ReLU; each halves height and width, all but the first also time."""

    def __init__(self) -> None:
        """Start from random weights; there are no pretrained ones."""
        super().__init__()
        blocks: list[nn.Module] = []
        previous = 3
        for number, width in enumerate(WIDTHS):
            stride = (2 if number else 1, 2, 2)
            blocks += [
                nn.Conv3d(previous, width, kernel_size=3, stride=stride, padding=1, bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(inplace=True),
            ]
            previous = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, clips: Tensor) -> Tensor:
        """(N, T, C, H, W) normalised float clips to (N, t*h*w, 64) tokens."""
        features: Tensor = self.blocks(clips.transpose(1, 2))
        return features.flatten(2).transpose(1, 2)
