"""Events as BORIS has them (Behavioral Observation Research Interactive Software, Friard & Gamba 2016; 8.27 was read).

BORIS takes events in by one way for tables: of a spreadsheet whose first row names the columns time, subject, code,
modifier and comment, in any order and among others, all rows go into the observation that is open (Observations >
Import observations; it wants .xlsx or .ods). Or rows of exactly the columns time, subject, code, modifier, comment and
frame index are pasted into it (right click on the events > Paste events). `imported_rows` are such a table, of one
video: a state event is two rows, the first of which starts and the second of which stops it. Behaviours need to be in
the ethogram, as state events.

The other table has the columns of BORIS' Export events > Aggregated events: a row for each event, of all videos. It is
what programs that read BORIS' exports take, and what people read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wildstream.prediction.events import Event

IMPORTED_COLUMNS = ("time", "subject", "code", "modifier", "comment", "frame index")
"""time: seconds, with three digits as BORIS has them; code: the class; subject and modifier: empty."""
AGGREGATED_COLUMNS = (
    "Observation id",
    "Observation date",
    "Description",
    "Observation type",
    "Source",
    "Time offset (s)",
    "Coding duration",
    "Media duration (s)",
    "FPS (frame/s)",
    "Subject",
    "Observation duration by subject by observation",
    "Behavior",
    "Behavioral category",
    "Behavior type",
    "Start (s)",
    "Stop (s)",
    "Duration (s)",
    "Media file name",
    "Image index start",
    "Image index stop",
    "Image file path start",
    "Image file path stop",
    "Comment start",
    "Comment stop",
)
NO_SUBJECT = "No focal subject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What BORIS wants to know of a video."""

    name: str
    """Observation id: the key."""
    media: str
    """The file."""
    date: str
    """ISO 8601."""
    duration: float
    """Seconds."""
    fps: float
    """Mean frames per second."""


def imported_rows(events: Sequence[Event]) -> list[tuple[str, ...]]:
    """Rows of IMPORTED_COLUMNS of one video, in order of time."""
    rows = []
    for event in events:
        for seconds, frame in ((event.start_seconds, event.first_frame), (event.stop_seconds, event.stop_frame)):
            rows.append((frame, (f"{seconds:.3f}", "", event.label, "", _comment(event), str(frame))))
    return [row for _, row in sorted(rows, key=lambda entry: entry[0])]


def aggregated_rows(observation: Observation, events: Sequence[Event]) -> list[tuple[str, ...]]:
    """Rows of AGGREGATED_COLUMNS of one video; a video without events has none, as in BORIS."""
    duration = f"{observation.duration:.3f}"
    return [
        (
            observation.name,
            observation.date,
            "",
            "Media file",
            f"player #1:{observation.media}",
            "0.000",
            duration,
            duration,
            f"{observation.fps:.3f}",
            NO_SUBJECT,
            duration,
            event.label,
            "",
            "STATE",
            f"{event.start_seconds:.6f}",
            f"{event.stop_seconds:.6f}",
            f"{event.stop_seconds - event.start_seconds:.6f}",
            observation.media,
            str(event.first_frame),
            str(event.stop_frame),
            "NA",
            "NA",
            _comment(event),
            "",
        )
        for event in events
    ]


def _comment(event: Event) -> str:
    """What a person may want to know of an event."""
    return f"probability {event.mean_probability:.3f}, at most {event.max_probability:.3f}"
