"""Segments → clips in order: drawn by plan from a pool of open segments, or at random from a buffer."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import SupportsInt

from wildstream.errors import ConfigError
from wildstream.samples import Clip, DecodedSegment


@dataclass(frozen=True, slots=True)
class DrawPlanned:
    """Draw clips in order of their planned positions.

    Segments arrive in the order in which the stream first needs them. One is open from then until its last clip is
    drawn; what is open at a time is the pool, and its size follows from the plan.
    """

    positions: Iterable[SupportsInt] | None = None
    """Places in the stream, in the order to draw; 0, 1, 2, ... by default."""

    def __call__(self, segments: Iterable[DecodedSegment]) -> Iterator[Clip]:
        """Yield the clip of each position; it ends where the segments do."""
        pool: dict[int, tuple[DecodedSegment, int]] = {}
        source = iter(segments)
        for place in count() if self.positions is None else self.positions:
            position = int(place)
            while position not in pool:
                segment = next(source, None)
                if segment is None:
                    return
                pool.update({int(planned): (segment, n) for n, planned in enumerate(segment.windows.positions)})
                del segment
            holder, window = pool.pop(position)
            yield holder.clip(window)
            del holder


@dataclass(frozen=True, slots=True)
class Windows:
    """Cut the clips of each segment in order: for streams without a plan."""

    def __call__(self, segments: Iterable[DecodedSegment]) -> Iterator[Clip]:
        """Yield the clips of one segment after the other."""
        for segment in segments:
            for window in range(len(segment.windows.starts)):
                yield segment.clip(window)


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferShuffle:
    """Shuffle a stream through a buffer: for streams without a plan, whose order is then not exact.

    A clip keeps its segment's frames in memory, so the buffer holds up to `size` segments.
    """

    size: int = 1000
    """Clips in the buffer."""
    seed: int
    """Decides the order; there is no shuffle without one."""

    def __post_init__(self) -> None:
        """Refuse a buffer that holds nothing (ConfigError)."""
        if self.size < 1:
            raise ConfigError(f"size={self.size} must be at least 1.")

    def __call__(self, clips: Iterable[Clip]) -> Iterator[Clip]:
        """Yield each clip once, a random one of the buffer at a time."""
        draw = random.Random(self.seed)
        buffer: list[Clip] = []
        for clip in clips:
            if len(buffer) < self.size:
                buffer.append(clip)
                continue
            place = draw.randrange(self.size)
            chosen, buffer[place] = buffer[place], clip
            yield chosen
        draw.shuffle(buffer)
        yield from buffer
