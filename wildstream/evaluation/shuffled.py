"""The shuffled-frames test: how much worse a model is where the frames of every clip are out of order.

One permutation is drawn for the whole set. A model that is as good with it looks at what is in the frames, not at how
it moves. How disordered a permutation p of n frames is, its Shannon entropy says: with the circular steps
d_i = (p[i + 1] − p[i]) mod n, i from 0 to n − 1 and p[n] = p[0], and h the share of each step that occurs,

    H = −Σ h · log2 h  bits

0 where all steps are equal, as in order or backwards; at most log2(n − 1) for n > 2, a step being never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from wildstream.errors import ConfigError
from wildstream.samples import Batch

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.training.checkpoints import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleFrames:
    """Put the frames of every clip into one and the same other order."""

    permutation: tuple[int, ...]
    """For each place of the clip, the frame that comes there."""

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches with frames (B, T, [P,] C, H, W) in that order."""
        order = torch.tensor(self.permutation)
        for batch in batches:
            yield replace(batch, frames=batch.inputs[:, order.to(batch.inputs.device)])


def draw_permutation(length: int, *, seed: int) -> tuple[int, ...]:
    """A random permutation of so many frames, at least 2; never that which leaves them in order."""
    random = np.random.default_rng(seed)
    while True:
        drawn = tuple(random.permutation(length).tolist())
        if drawn != tuple(range(length)):
            return drawn


def permutation_entropy(permutation: npt.ArrayLike) -> float:
    """Shannon entropy of a permutation's circular steps, in bits."""
    order = np.asarray(permutation, np.int64)
    _, counts = np.unique((np.roll(order, -1) - order) % len(order), return_counts=True)
    shares = counts / len(order)
    return float(abs((shares * np.log2(shares)).sum()))  # abs: −0.0 looks odd in a report


def check_shuffling(manifest: Manifest) -> None:
    """Refuse the test for a model of which the order of frames cannot be changed (ConfigError)."""
    if manifest.features is not None:
        raise ConfigError(
            "shuffled_frames=True changes the order of frames, and this model takes precomputed features. Leave it "
            "out, or evaluate a model of frames."
        )
    if manifest.sliding_style.samples_per_window == 1:
        raise ConfigError(
            "shuffled_frames=True takes samples_per_window > 1, but the model's clips have 1 frame, which has no "
            "order. Leave it out."
        )
