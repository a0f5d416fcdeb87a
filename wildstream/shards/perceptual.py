"""What a picture looks like, in 64 bits: alike pictures differ in few of them.

dHash (N. Krawetz, "Kind of Like That", 2013): the frame as 8 rows of 9 greys, each the mean of its part of the frame;
a bit for each two neighbours in a row says whether it gets brighter. It stays what it is under other sizes, codecs and
brightness, but not under cropping, turning or mirroring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    Hashes = npt.NDArray[np.uint64]

BITS = 64
NEAR = 6
"""Bits in which the first frames of near-duplicates differ, at most; measured in leaks.py."""
FLAT = 4.0
"""Standard deviation of the greys below which a frame says nothing: black, white, or nothing but noise."""
_LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601
_BLOCK = 1 << 22  # pairs that are compared at once


def hash_frame(frame: Tensor) -> int | None:
    """The hash of a frame; None where it is flat.

    Args:
        frame: (3, H, W) uint8 RGB, CPU.
    """
    import torch  # not before it is needed: the command line reads NEAR

    small = torch.nn.functional.adaptive_avg_pool2d(frame.to(torch.float32), (8, 9))
    greys = (small * torch.tensor(_LUMA)[:, None, None]).sum(dim=0).numpy()  # (8, 9)
    if greys.std() < FLAT:
        return None
    bits = greys[:, :-1] < greys[:, 1:]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def nearest(queries: Hashes, others: Hashes, *, near: int) -> tuple[npt.NDArray[np.int64], ...]:
    """For each hash the one that differs in the fewest bits, among those that differ in `near` at most; exact.

    Args:
        queries: (num_queries,) uint64.
        others: (num_others,) uint64.
        near: Bits, 0 to 64.

    Returns:
        (num_queries,) number of the nearest, the first of several, -1 where none is near; (num_queries,) bits by which
        it differs, 0 there; and (num_queries,) how many are near.
    """
    place = np.full(len(queries), -1, np.int64)
    bits, count = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
    if not len(others):
        return place, bits, count
    rows = max(1, _BLOCK // len(others))
    for begin in range(0, len(queries), rows):
        block = slice(begin, begin + rows)
        distances = np.bitwise_count(queries[block, np.newaxis] ^ others)
        first = distances.argmin(axis=1)
        least = distances[np.arange(len(first)), first]
        place[block] = np.where(least <= near, first, -1)
        bits[block] = np.where(least <= near, least, 0)
        count[block] = (distances <= near).sum(axis=1)
    return place, bits, count
