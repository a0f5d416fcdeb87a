"""One video's bytes → its frames in presentation order, those that are damaged left out and named.

The only module, with `probe`, that talks to a decoder. It uses torchcodec's building blocks (demuxer, packet decoder,
colour converter) rather than its `VideoDecoder`: they decode straight through, tell every frame's timestamp, and
convert only the frames that are asked for. (`nvdec` asks `VideoDecoder` whether a GPU takes a video.)

A frame's number is its place in the decoder's output when the video is decoded from its first packet, which is
presentation order. `probe` finds facts that way and they are kept in the index; `decode` starts at a key frame named
there and checks the timestamp of every frame it passes, so that a frame is either the right one or an error.

A damaged packet costs frames: from the first one that cannot be had from the packets before it, up to the next key
frame that can be trusted. What comes out in between may be made up by the decoder, so it is not given out. Damage
inside a packet that FFmpeg conceals without an error, as it often does for H.264, VP9 and AV1, cannot be seen here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import VideoError
from wildstream.facts import NO_PTS, FrameTable
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.packets import Sparing

if TYPE_CHECKING:
    import numpy.typing as npt
    from torchcodec.decoders import Demuxer, RawFrame, VideoStream

VIDEO_EXTENSIONS = ("mp4", "avi", "mkv", "mov", "webm")
INVALID_DATA = -1094995529
"""AVERROR_INVALIDDATA, as torchcodec reports it."""
MAX_REORDER = 16
"""Places by which a codec may show a frame later than its packet's place says: the most that H.264 and HEVC allow."""


def scan(data: Tensor) -> FrameTable:
    """What the packets of a video promise, without decoding it.

    Args:
        data: (num_bytes,) uint8, CPU: the file.

    Raises:
        VideoError: There is no video stream.
    """
    with unreadable_is_refused():
        packets = _open(data)[1].scan()
    pts = packets._pts.numpy()
    key_frames = key_frames_of(pts, pts[packets.is_key_frame.numpy()])
    time_base = Fraction(packets._time_base_num, packets._time_base_den)
    return FrameTable(pts=pts, key_frames=key_frames, time_base=time_base)


def coding_of(data: Tensor) -> tuple[str, str]:
    """FFmpeg's names of a video's codec and pixel format, as its container has them; VideoError where it has none."""
    with unreadable_is_refused():
        metadata = _open(data)[1].metadata
    return metadata.codec or "", metadata.pixel_format or ""


class FullSize:
    """Decoded frames → RGB as large as they are."""

    def __init__(self, device: torch.device) -> None:
        """Convert frames that were decoded on `device`, and leave them there."""
        ensure_ffmpeg()  # before torchcodec is imported, which may be here
        from torchcodec.decoders import ColorConverter

        self._converter = ColorConverter(device=device)

    def __call__(self, number: int, frame: RawFrame) -> Tensor:
        """(3, H, W) uint8 RGB, upright, in memory of its own; its colours lie side by side there."""
        with unreadable_is_refused():
            return self._converter.convert(frame).data


def decode(
    data: Tensor,
    frames: Sequence[int] | npt.NDArray[np.int64],
    table: FrameTable,
    *,
    device: torch.device,
    convert: Callable[[int, RawFrame], Tensor] | None = None,
) -> Iterator[tuple[int, Tensor | VideoError]]:
    """Yield the given frames, or why they cannot be had, in one forward pass from the key frame before the first.

    Frames that are known to be lost are passed over by a seek. At damage that nobody knew of, the frames up to the next
    key frame are lost, and decoding goes on there. Of all frames that one damage costs, the error is the same object.

    Args:
        data: (num_bytes,) uint8, CPU: the file.
        frames: Frame numbers, strictly increasing, within [0, len(table.pts)).
        table: What is known of the video.
        device: Where to decode.
        convert: Makes of a frame, by its number and as the decoder gives it, what is yielded; `FullSize` by default.

    Yields:
        A frame's number, with either what `convert` made of it, or a VideoError. What comes last for a number counts:
        an error may take back one of the last `MAX_REORDER` frames, and a run that was decoded with packets left out is
        decoded again, and given again, if anything is wrong with it.

    Raises:
        torch.OutOfMemoryError: Of the GPU, which is no fault of the video.
    """
    if len(frames) == 0:
        return
    convert = convert or FullSize(device)
    num_frames, key_frames = len(table.pts), table.key_frames
    wanted = np.asarray(frames, np.int64)
    needed: npt.NDArray[np.bool_] | None = None
    if device.type == "cpu" and len(table.unreferenced):
        needed = np.zeros(num_frames, np.bool_)
        needed[wanted] = True
    place = 0
    for first, stop in (*table.lost.tolist(), (num_frames, num_frames)):
        while place < len(wanted) and wanted[place] < first:  # a run, which ends here or at damage
            start = int(key_frames[np.searchsorted(key_frames, wanted[place], side="right") - 1])
            end = int(np.searchsorted(wanted, first))
            begun, target = place, int(wanted[place])
            try:
                for number, frame in run_from(Opened(data), start, table, device, needed):
                    if number == target:
                        yield number, convert(number, frame)
                        place += 1
                        if place == end:
                            break
                        target = int(wanted[place])
            except BrokenRun as broken:
                if needed is not None:  # again from where it began, with nothing spared: it might be for that
                    needed, place = None, begun
                    continue
                damage = broken.damage(key_frames, num_frames)
                back, place = place, int(np.searchsorted(wanted, min(damage[1], first)))
                taken = wanted[min(back, int(np.searchsorted(wanted, damage[0]))) : place]
                loss = VideoError(f"{name_frames(*damage)} not decode ({broken})")
                yield from ((number, loss) for number in taken.tolist())
            except VideoError as error:  # the file cannot be opened, or its colours not be converted
                yield from ((number, error) for number in wanted[place:].tolist())
                return
        after = int(np.searchsorted(wanted, stop))
        loss = VideoError(f"{name_frames(first, stop)} not decode (the file is damaged there)")
        yield from ((number, loss) for number in wanted[place:after].tolist())
        place = after


def name_frames(first: int, stop: int) -> str:
    """The words for a run of frames, up to the verb's "not": "frame 3 does" or "frames 3 to 5 do"."""
    return f"frame {first} does" if stop - first == 1 else f"frames {first:,} to {stop - 1:,} do"


def name_runs(runs: Sequence[tuple[int, int]]) -> str:
    """The words for several runs of frames: "frames 3 to 5, 9", and how many more there are after the first five."""
    words = [f"{first:,}" if stop - first == 1 else f"{first:,} to {stop - 1:,}" for first, stop in runs]
    more = f" and {len(words) - 5} more runs" if len(words) > 5 else ""
    return f"frames {', '.join(words[:5])}{more}"


class BrokenRun(VideoError):
    """Decoding came to frames that are damaged, or to others than were promised."""

    def __init__(self, reason: str, *, first: int, reached: int, in_silence: bool) -> None:
        """Frame `reached` of a run from key frame `first` could not be had; `in_silence` if no packet raised."""
        super().__init__(reason)
        self.first = first
        self.reached = reached
        self.in_silence = in_silence

    def damage(self, key_frames: npt.NDArray[np.int64], num_frames: int) -> tuple[int, int]:
        """First and stop of the frames that cannot be trusted: up to the next key frame, or the end."""
        following = key_frames[np.searchsorted(key_frames, max(self.reached, self.first + 1)) :]
        stop = int(following[0]) if len(following) else num_frames
        if not self.in_silence:
            return self.reached, stop
        # It is not known where the missing packet was: frames that are shown before its own may have needed it.
        before = int(key_frames[max(0, int(np.searchsorted(key_frames, self.reached)) - 1)])
        return min(self.reached, max(before, self.first, self.reached - MAX_REORDER)), stop


def run_from(
    opened: Opened,
    first: int,
    table: FrameTable,
    device: torch.device,
    needed: npt.NDArray[np.bool_] | None = None,
) -> Iterator[tuple[int, RawFrame]]:
    """Frames with their numbers, from key frame number `first` on, as long as they are those that `table` promises.

    Of frames that are not `needed`, (num_frames,), those that can be spared are left out; None needs all.

    Raises:
        BrokenRun: At the first frame that is missing; frames of packets before a damaged one have all come.
    """
    number, num_frames, time_base = first, len(table.pts), table.time_base
    promised = table.pts.data  # a memoryview, whose items are Python's numbers, as quickly as can be
    spared: set[int] = set()
    for frame, damage in _before_damage(opened, first, table, device, needed, spared):
        shown_at = None if frame is None else to_pts(frame, time_base)
        # Before the key frame come the leading frames of an open group, whose references lie before it.
        if shown_at is not None and number == first > 0 and shown_at < promised[first]:
            continue
        while number in spared:
            number += 1
        if number == num_frames:
            return
        if frame is None or shown_at != promised[number]:
            reason = damage or _mismatch(number, shown_at, table)
            raise BrokenRun(reason, first=first, reached=number, in_silence=damage is None)
        yield number, frame
        number += 1
        if number == num_frames:
            return


def _mismatch(number: int, shown_at: int | None, table: FrameTable) -> str:
    """What to say of a frame that did not come, in the place of which another came, or none."""
    if shown_at is None:
        return f"the video ends before frame {number:,}: the file is damaged or has changed"
    promised, given = (f"{float(time * table.time_base):.6f} s" for time in (int(table.pts[number]), shown_at))
    return f"frame {number:,} should be shown at {promised}, the decoder gave one for {given}: damaged or changed"


def _before_damage(
    opened: Opened,
    first: int,
    table: FrameTable,
    device: torch.device,
    needed: npt.NDArray[np.bool_] | None,
    spared: set[int],
) -> Iterator[tuple[RawFrame | None, str | None]]:
    """Frames of the packets before the first damaged one, and None for the end; beside them the damage, once met."""
    given = 0
    try:
        for frame in opened.feed(first, table, device, Sparing(table, needed, spared)):
            yield frame, None
            given += 1
        yield None, None
    except _DamagedPacket as damage:
        # Some frames were still held back to be put in order. Whatever this decoder gives out from here may be made up;
        # another one, fed with the packets before the damage alone, gives those frames and no others.
        again = Sparing(table, needed, set())
        with suppress(_DamagedPacket):
            for frame in islice(opened.feed(first, table, device, again, packets=damage.before), given, None):
                yield frame, str(damage)
        yield None, str(damage)


class _DamagedPacket(VideoError):
    """A packet does not decode."""

    def __init__(self, reason: str, *, before: int) -> None:
        """`before` packets were decoded without an error."""
        super().__init__(reason)
        self.before = before


class Opened:
    """A container in memory, and its best video stream."""

    def __init__(self, data: Tensor) -> None:
        """Open the file; VideoError where there is no video in it."""
        self._data = data
        self.demuxer, self.stream = _open(data)
        self._at_start = True

    def feed(
        self,
        first: int,
        table: FrameTable,
        device: torch.device,
        sparing: Sparing,
        *,
        packets: int | None = None,
    ) -> Iterator[RawFrame]:
        """Frames of so many packets, all by default, from the one of key frame number `first` on, by a new decoder.

        Raises:
            _DamagedPacket: One does not decode, or cannot be reached.
        """
        if not self._at_start:
            self.demuxer, self.stream = (self.demuxer, self.stream) if first > 0 else _open(self._data)
        self._at_start = False
        before = 0
        try:
            decoder = self.stream.make_decoder(device)
            if first > 0:
                if _needs_first_packet(self.stream):
                    self.demuxer.seek(float(table.pts[0] * table.time_base))
                    for packet in islice(self.demuxer, 1):
                        decoder.decode(packet)
                self.demuxer.seek(float(table.pts[first] * table.time_base))
                decoder.reset()
            else:
                sparing.begin()
            for packet in islice(self.demuxer, packets):
                frames = [] if sparing.leaves_out() else decoder.decode(packet)
                before += 1
                if frames and sparing.waits:
                    sparing.begin(to_pts(frames[0], table.time_base))
                yield from frames
            yield from decoder.drain()
        except torch.OutOfMemoryError:
            raise  # no fault of the video
        except RuntimeError as error:
            raise _DamagedPacket(last_clause(error), before=before) from error


def _open(data: Tensor) -> tuple[Demuxer, VideoStream]:
    """Open a container in memory and follow its best video stream."""
    ensure_ffmpeg()
    from torchcodec.decoders import Demuxer

    if data.numel() == 0:
        raise VideoError("the file is empty")
    try:
        demuxer = Demuxer(data)
    except (RuntimeError, ValueError) as error:
        raise VideoError(f"not a video that FFmpeg can open ({last_clause(error)})") from error
    return demuxer, cast("VideoStream", demuxer.streams[0])


@contextmanager
def unreadable_is_refused() -> Iterator[None]:
    """Errors of torchcodec about this video → VideoError; running out of GPU memory is no fault of the video."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise VideoError(f"FFmpeg cannot decode it ({last_clause(error)}); repair or re-encode the file") from error
    except json.JSONDecodeError as error:  # torchcodec hands on FFmpeg's facts as JSON, which has no infinite rate
        raise VideoError(
            "FFmpeg knows no frame rate of it: all its frames are shown at one time; write their times, or re-encode it"
        ) from error


def _needs_first_packet(stream: VideoStream) -> bool:
    """Whether the decoder must see the stream's first packet before it may start elsewhere.

    x264 before build 151 (of 2017) wrote 4:4:4 in a way of its own. It signs with its build in the first packet alone,
    and FFmpeg, which makes up for it where it has seen that, else decodes to wrong pixels. Resetting keeps the build.
    """
    return stream.metadata.codec == "h264" and (stream.metadata.pixel_format or "").startswith("yuv444")


def to_pts(frame: RawFrame, time_base: Fraction) -> int:
    """When a frame is shown, in units of the time base; the least int64 where the container does not say."""
    numerator, denominator = time_base.as_integer_ratio()
    return max(round(frame.pts_seconds * denominator / numerator), NO_PTS)


def key_frames_of(pts: npt.NDArray[np.int64], key_pts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Frame numbers of the key frames that a seek by time can reach; only 0 where times do not increase."""
    if not bool((pts[1:] > pts[:-1]).all()):
        return np.zeros(1, np.int64)
    return np.union1d([0], np.flatnonzero(np.isin(pts, key_pts))).astype(np.int64)


def last_clause(error: Exception) -> str:
    """The part of a C++ message that speaks of the data: what follows the source line."""
    message = (str(error).strip().splitlines() or ["no reason given"])[0]
    if f"status {INVALID_DATA}" in message:
        return "FFmpeg found invalid data"
    return message.rsplit(".cpp:", 1)[-1].split(", ", 1)[-1].rstrip(". ")
