"""What feature shards hold: one array per video, and what it was made by and from.

    <key>.features.npy    (windows, members × tokens, dim): of each window its members, of each member its tokens

A window's members are what goes through the backbone by itself: its frames (of each, its patches) for an image
backbone, its patches for one that takes clips. bf16, which .npy does not know, is kept as uint16.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from wildstream.errors import ConfigError

Tokens = Literal["all", "cls", "pooled"]
Precision = Literal["fp16", "bf16", "fp32"]

FEATURES = "features.npy"
"""Extension of the arrays in the shards."""
STORED = {"fp16": "<f2", "bf16": "<u2", "fp32": "<f4"}
"""numpy's types of the arrays, by precision."""
TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
"""torch's."""


class FeatureInfo(BaseModel):
    """How features were made; a part of dataset.json.

    Imported ones do not tell all: weights, resize and source are then empty, and size is (1, 1).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str
    """Name of the backbone."""
    weights: str
    """Hash of its parameters and buffers."""
    style: dict[str, Any]
    """The sliding style whose windows they are of."""
    size: tuple[int, int]
    """Height and width in pixels of the frames or patches that went through the backbone."""
    resize: str
    """Who resized them."""
    tokens: Tokens
    """all: every token; cls: the first one; pooled: their mean."""
    dtype: Precision
    """Precision of the values."""
    members: int
    """Frames, patches or both of a window that went through the backbone by themselves."""
    num_tokens: int
    """Tokens of each member."""
    dim: int
    """Length of a token."""
    source: str
    """Fingerprint of the index of the clips that they were made from."""

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and length of a token, of one window."""
        return self.members * self.num_tokens, self.dim

    @property
    def window_bytes(self) -> int:
        """Bytes of one window."""
        rows, dim = self.shape
        return rows * dim * np.dtype(STORED[self.dtype]).itemsize

    def check(self, *, style: dict[str, Any], backbone: str | None = None) -> None:
        """Refuse features of another style or backbone (ConfigError), naming both sides."""
        if backbone is not None and backbone != self.backbone:
            raise ConfigError(
                f"feature_model={backbone!r}, but the features are of {self.backbone!r}. Take that, or extract anew."
            )
        for name, value in style.items():
            if self.style.get(name) != value:
                raise ConfigError(
                    f"the features are of a style with {name}={self.style.get(name)!r}, not {value!r}. Take the style "
                    "that they were extracted with, or extract anew."
                )
