"""Which part of a video is a sample of its own: some of its frames, and a rectangle of them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from wildstream.errors import LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.labels import LabelTrack, TimedEvent

SMALLEST_BOX = 16
"""Pixels of a side of a box, at least; what is smaller is a slip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A part of a video; by default all of it."""

    frames: tuple[int, int | None] | None = None
    """First frame and last + 1 (None: to the end)."""
    seconds: tuple[Fraction, Fraction] | None = None
    """Instead of them: every frame that is shown from the first of these times until just before the second, in
    seconds since the first frame."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right and bottom of a rectangle, in pixels of the upright frames, from their upper left corner; what
    lies outside them is left out."""
    origin: str = ""
    """File and entry where it stands, for messages."""

    def run(self, facts: VideoFacts) -> tuple[int, int]:
        """First frame and last + 1.

        Raises:
            LabelError: They do not lie in the video, or there is none.
        """
        if self.seconds is not None:
            event = TimedEvent(0, *self.seconds, self.origin)
            try:
                track = LabelTrack.from_seconds([event], pts=facts.pts, time_base=facts.time_base, num_classes=1)
            except LabelError as error:
                raise LabelError(str(error).replace("the event of class 0", "the clip")) from error
            return int(track.first[0]), int(track.stop[0])
        first, stop = self.frames or (0, None)
        stop = facts.num_frames if stop is None else stop
        if not 0 <= first < stop <= facts.num_frames:
            raise LabelError(
                f"{self.origin}: the frames from {first:,} up to {stop:,} (without it, counted from 0) are not within "
                f"the video, which has {facts.num_frames:,}. Correct them, or pair the right video; if the videos are "
                "cut already, say so (--format-option cut=no)"
            )
        return first, stop

    def region(self, facts: VideoFacts) -> tuple[int, int, int, int]:
        """Left, top, width and height of the rectangle in pixels; all even, as 4:2:0 needs it, unless it is all.

        Raises:
            LabelError: It is smaller than `SMALLEST_BOX` pixels within the frames.
        """
        if self.box is None:
            return 0, 0, facts.width, facts.height
        limits = (facts.width, facts.height)
        sides = []
        for low, high, limit in zip(self.box[:2], self.box[2:], limits, strict=True):
            least, most = max(0, int(low)), min(limit, round(high))
            start = least - least % 2
            sides.append((start, min(most - start + (most - start) % 2, limit - limit % 2 - start)))
        (left, width), (top, height) = sides
        if min(width, height) < SMALLEST_BOX:
            raise LabelError(
                f"{self.origin}: the box {', '.join(f'{side:g}' for side in self.box)} (left, top, right, bottom) is "
                f"less than {SMALLEST_BOX} pixels wide or high in frames of {facts.width} × {facts.height}. Correct it"
            )
        if (width, height) == (facts.width - facts.width % 2, facts.height - facts.height % 2):
            return 0, 0, facts.width, facts.height
        return left, top, width, height

    def is_whole(self, facts: VideoFacts) -> bool:
        """Whether it is all of the video; errors as of `run` and `region`."""
        everything = (0, 0, facts.width, facts.height)
        return self.run(facts) == (0, facts.num_frames) and self.region(facts) == everything

    def as_dict(self) -> dict[str, object]:
        """What is set, by name, for JSON."""
        seconds = None if self.seconds is None else [float(time) for time in self.seconds]
        values = {"frames": self.frames, "seconds": seconds, "box": self.box}
        return {name: value for name, value in values.items() if value is not None}
