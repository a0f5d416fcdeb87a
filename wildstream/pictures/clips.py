"""Windows of a dataset → strips of their frames, as JPEG.

Only the frames that are shown are decoded, through a loader that draws these windows alone, so they are those that a
model saw, or lie between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from wildstream.stream.dataset import WindowDataset
from wildstream.stream.windows import SlidingStyle

if TYPE_CHECKING:
    import numpy.typing as npt

    from wildstream.stream.samplers import Labels

    Ints = npt.NDArray[np.int64]

FRAMES = 4
"""Frames of a strip, at most."""
HEIGHT = 96
"""Pixels of a strip."""
_WIDEST = 2.4
_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A sampler that draws given windows, each once."""

    windows: Ints = field(repr=False)
    """(n,) their running numbers, increasing."""

    def size(self, num_windows: int, labels: Labels) -> int:
        """See Sampler."""
        return len(self.windows)

    def draw(self, num_windows: int, labels: Labels, random: np.random.Generator) -> Ints:
        """See Sampler."""
        return self.windows


def running_numbers(dataset: WindowDataset, keys: Sequence[str], starts: Ints) -> Ints:
    """The place of windows among all of a dataset, by their addresses: (n,), -1 where it has no such video.

    Args:
        dataset: The windows in order of (key, start).
        keys: Videos of the windows, (n,).
        starts: (n,) source frame of each window's first kept frame.
    """
    counts = dataset.style.num_windows(dataset.index.num_frames)
    first = dict(zip(dataset.index.keys, (np.cumsum(counts) - counts).tolist(), strict=True))
    stride = dataset.style.step_size * dataset.style.temporal_sample_interval
    inside = (np.asarray(starts, np.int64) + dataset.style.pad_front) // stride
    return np.array(
        [first[key] + n if key in first else -1 for key, n in zip(keys, inside.tolist(), strict=True)], np.int64
    )


def film_strips(dataset: WindowDataset, windows: Ints) -> dict[int, bytes]:
    """Decode windows, and lay the frames of each side by side.

    Args:
        dataset: Of videos; one of features has no frames, and gives nothing.
        windows: (n,) their running numbers.

    Returns:
        A JPEG for each number; none where the window does not decode.

    Raises:
        ShardError: A shard is missing or damaged.
    """
    if dataset.index.info.features is not None or not len(windows):
        return {}
    style = _few_frames(dataset.style)
    videos, starts = dataset.addresses()
    number_of = {(dataset.index.keys[videos[n]], int(starts[n])): int(n) for n in windows}
    sizes = {number: _thumbnail(*dataset.index.frame_size(int(videos[number]))) for number in number_of.values()}
    strips = {}
    for size in sorted(set(sizes.values())):
        chosen = np.array(sorted(number for number in sizes if sizes[number] == size), np.int64)
        loader = replace(dataset, style=style, transform=None, only_labels=False).loader(
            batch_size=_AT_ONCE,
            size=size,
            sampler=Chosen(windows=chosen),
            rank=0,
            world_size=1,
            max_skipped=len(chosen),
        )
        for batch in loader:
            for row, (key, start) in enumerate(zip(batch.keys, batch.starts.tolist(), strict=True)):
                if batch.frames is not None and batch.mask[row]:
                    strips[number_of[key, start]] = encode_strip(batch.frames[row])
    return strips


def encode_strip(frames: Tensor) -> bytes:
    """Frames (T, C, H, W) uint8, at most `FRAMES` of them, side by side, as a JPEG."""
    places = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(np.int64))
    shown = [np.pad(frames[place].permute(1, 2, 0).numpy(), ((0, 0), (0, 2), (0, 0))) for place in places]
    data = BytesIO()
    Image.fromarray(np.concatenate(shown, axis=1)[:, :-2]).save(data, "JPEG", quality=80)
    return data.getvalue()


def _few_frames(style: SlidingStyle) -> SlidingStyle:
    """The same windows of few frames, whole ones instead of patches; of all frames where nothing near divides them."""
    divisors = [number for number in range(2, FRAMES + 1) if style.window_size % number == 0]
    number = max(divisors, default=style.window_size)
    return replace(style, samples_per_window=number, data_ndim=4, patch_type="relative", patch_h=1, patch_w=1)


def _thumbnail(height: int, width: int) -> tuple[int, int]:
    """Height and width of a small frame of the same shape, but for very wide or narrow ones."""
    ratio = min(max(width / max(1, height), 1 / _WIDEST), _WIDEST)
    return HEIGHT, max(2, round(HEIGHT * ratio / 2) * 2)
