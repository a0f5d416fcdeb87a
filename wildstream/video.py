"""One video's bytes → facts about it, or its frames in presentation order.

The only module that talks to a decoder. It uses torchcodec's building blocks (demuxer, packet decoder, colour
converter) rather than its `VideoDecoder`: they decode straight through, tell every frame's timestamp, and convert only
the frames that are asked for.

A frame's number is its place in the decoder's output when the video is decoded from its first packet, which is
presentation order. Facts found that way (`probe`) are kept in the index; `decode` starts at a key frame named there and
checks the timestamp of every frame it passes, so that a frame is either the right one or an error.

Not every key frame that a container names is one to start from: some videos then decode to wrong pixels, without an
error. So `probe` seeks to each and compares the first frames with those of the straight pass; only key frames that
agree are kept. (One cause is known and cured: see `_needs_first_packet`.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import VideoError
from wildstream.ffmpeg import ensure_ffmpeg

if TYPE_CHECKING:
    import numpy.typing as npt
    from torchcodec.decoders import Demuxer, RawFrame, VideoPacketDecoder, VideoStream

VIDEO_EXTENSIONS = ("mp4", "avi", "mkv", "mov", "webm")
NO_PTS = -(1 << 63)
"""The pts of a frame whose container does not say when it is shown: the least int64, as in FFmpeg."""
COMPARED_FRAMES = 8
"""Frames after each key frame, at most, that `probe` compares between a seek and the straight pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """What one full sequential decode says about a video."""

    codec: str
    """FFmpeg's name of the codec, such as "h264"."""
    pixel_format: str
    """FFmpeg's name of the decoded format, such as "yuv420p"."""
    width: int
    """Pixels, upright (after rotation)."""
    height: int
    """Pixels, upright (after rotation)."""
    num_frames: int
    """Frames that decode, whatever the container claims."""
    claimed_frames: int
    """Frames that the container's packets promise."""
    time_base: Fraction
    """Seconds per unit of pts."""
    pts: npt.NDArray[np.int64]
    """(num_frames,) presentation times in units of `time_base`, in order of output; NO_PTS where there is none."""
    key_frames: npt.NDArray[np.int64]
    """(num_key_frames,) frame numbers where decoding may start, tried; always holds 0."""

    @property
    def fps(self) -> float:
        """Mean frames per second of those that have a time; 0.0 where one frame or equal times leave it undefined."""
        timed = self.pts[self.pts != NO_PTS].tolist()
        span = (timed[-1] - timed[0]) * self.time_base if timed else 0
        return float((len(timed) - 1) / span) if span > 0 else 0.0


def probe(data: Tensor) -> VideoFacts:
    """Decode a whole video once, try its key frames, and report what came out.

    Args:
        data: (num_bytes,) uint8, CPU: the file.

    Raises:
        VideoError: There is no video stream, nothing decodes, or a packet in the middle is damaged (a damaged tail
            only shortens the video: `num_frames` stays below `claimed_frames`).
    """
    with _unreadable_is_refused():
        return _probe(data)


def _probe(data: Tensor) -> VideoFacts:
    """What `probe` does; torchcodec's errors come out as they are."""
    demuxer, stream = _open(data)
    packets = stream.scan()
    packet_pts = packets._pts.numpy()
    key_pts = packet_pts[packets.is_key_frame.numpy()]
    time_base = Fraction(packets._time_base_num, packets._time_base_den)
    run = _compared_run(len(packet_pts), len(key_pts))
    frames = _decode_packets(demuxer, stream.make_decoder("cpu"))
    seen = _decode_through(frames, time_base, set(key_pts.tolist()), run)
    _refuse_damage(seen, packet_pts)
    pts = np.asarray(seen.pts, np.int64)
    return VideoFacts(
        codec=stream.metadata.codec or "unknown",
        pixel_format=seen.pixel_format,
        width=seen.width,
        height=seen.height,
        num_frames=len(pts),
        claimed_frames=len(packet_pts),
        time_base=time_base,
        pts=pts,
        key_frames=_trusted(data, _key_frames(pts, key_pts), pts, time_base, seen.checksums, run),
    )


def scan(data: Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Fraction]:
    """What the packets of a video promise, without decoding it: pts, key_frames and time_base as in `VideoFacts`.

    Args:
        data: (num_bytes,) uint8, CPU: the file.

    Raises:
        VideoError: There is no video stream.
    """
    with _unreadable_is_refused():
        packets = _open(data)[1].scan()
    pts = packets._pts.numpy()
    key_frames = _key_frames(pts, pts[packets.is_key_frame.numpy()])
    return pts, key_frames, Fraction(packets._time_base_num, packets._time_base_den)


def decode(
    data: Tensor,
    frames: Sequence[int] | npt.NDArray[np.int64],
    *,
    pts: npt.NDArray[np.int64],
    key_frames: npt.NDArray[np.int64],
    time_base: Fraction,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield the given frames in one forward pass from the key frame before the first of them.

    Args:
        data: (num_bytes,) uint8, CPU: the file.
        frames: Frame numbers, strictly increasing, within [0, len(pts)).
        pts: (num_frames,) as in `VideoFacts`.
        key_frames: (num_key_frames,) as in `VideoFacts`.
        time_base: Seconds per unit of pts.
        device: Where to decode, and where the frames will be.

    Yields:
        uint8 (3, H, W) RGB frames, upright, one per number, each memory of its own.

    Raises:
        VideoError: A packet is damaged, or a frame is not the one that the index promises.
    """
    if len(frames) == 0:
        return
    ensure_ffmpeg()  # before torchcodec is imported, which may be here
    from torchcodec.decoders import ColorConverter

    converter = ColorConverter(device=device)
    wanted = iter(frames)
    target = next(wanted)
    first = int(key_frames[np.searchsorted(key_frames, target, side="right") - 1])
    decoded = _frames_from(*_open(data), first, pts, time_base, device)
    for position, (shown_at, frame) in zip(range(first, len(pts)), decoded, strict=False):
        if shown_at != pts[position]:
            raise VideoError(
                f"frame {position} should be shown at {float(pts[position] * time_base):.6f} s, the decoder gave one "
                f"for {float(shown_at * time_base):.6f} s: the file is damaged or has changed; pack the videos again"
            )
        if position == target:
            with _unreadable_is_refused():
                pixels = converter.convert(frame).data
            yield pixels
            if (following := next(wanted, None)) is None:
                return
            target = following
    raise VideoError(f"ends before frame {target}, which is wanted: the file is damaged or has changed; pack it again")


def _open(data: Tensor) -> tuple[Demuxer, VideoStream]:
    """Open a container in memory and follow its best video stream."""
    ensure_ffmpeg()
    from torchcodec.decoders import Demuxer

    if data.numel() == 0:
        raise VideoError("the file is empty")
    try:
        demuxer = Demuxer(data)
    except (RuntimeError, ValueError) as error:
        raise VideoError(f"not a video that FFmpeg can open ({_last_clause(error)})") from error
    return demuxer, cast("VideoStream", demuxer.streams[0])


@contextmanager
def _unreadable_is_refused() -> Iterator[None]:
    """Errors of torchcodec about this video → VideoError; running out of GPU memory is no fault of the video."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise VideoError(f"FFmpeg cannot decode it ({_last_clause(error)}); repair or re-encode the file") from error


def _decode_packets(demuxer: Demuxer, decoder: VideoPacketDecoder) -> Iterator[RawFrame | RuntimeError]:
    """Decode from where the demuxer stands to the end; a damaged packet comes out as the error it caused."""
    try:
        for packet in demuxer:
            try:
                frames = decoder.decode(packet)
            except torch.OutOfMemoryError:
                raise  # no fault of the video
            except RuntimeError as error:
                yield error
            else:
                yield from frames
        yield from decoder.drain()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        yield error


def _frames_from(
    demuxer: Demuxer,
    stream: VideoStream,
    first: int,
    pts: npt.NDArray[np.int64],
    time_base: Fraction,
    device: torch.device,
) -> Iterator[tuple[int, RawFrame]]:
    """Frames with their pts, in order, from key frame number `first` to the end; what does not decode is missing."""
    with _unreadable_is_refused():
        decoder = stream.make_decoder(device)
        if first > 0:
            if _needs_first_packet(stream):
                demuxer.seek(float(pts[0] * time_base))
                decoder.decode(next(demuxer))
            demuxer.seek(float(pts[first] * time_base))
            decoder.reset()
    reached = first == 0
    for frame in _decode_packets(demuxer, decoder):
        if isinstance(frame, RuntimeError):
            continue  # the frame that it cost is missed by its pts
        shown_at = _to_pts(frame, time_base)
        # Before the key frame come the leading frames of an open group, whose references lie before it.
        reached = reached or shown_at >= pts[first]
        if reached:
            yield shown_at, frame


def _needs_first_packet(stream: VideoStream) -> bool:
    """Whether the decoder must see the stream's first packet before it may start elsewhere.

    x264 before build 151 (of 2017) wrote 4:4:4 in a way of its own. It signs with its build in the first packet alone,
    and FFmpeg, which makes up for it where it has seen that, else decodes to wrong pixels. Resetting keeps the build.
    """
    return stream.metadata.codec == "h264" and (stream.metadata.pixel_format or "").startswith("yuv444")


@dataclass(slots=True)
class _Seen:
    """What one pass through a video saw."""

    pts: list[int] = field(default_factory=list)
    checksums: dict[int, int] = field(default_factory=dict)
    """Of the frames that follow a key frame, by pts."""
    failed_after: int | None = None
    """Frames that came before the first error."""
    pixel_format: str = ""
    width: int = 0
    height: int = 0


def _decode_through(
    frames: Iterable[RawFrame | RuntimeError], time_base: Fraction, key_pts: set[int], run: int
) -> _Seen:
    """Note every frame, and the checksums of `run` frames from each key frame on."""
    seen = _Seen()
    due = 0
    for frame in frames:
        if isinstance(frame, RuntimeError):
            seen.failed_after = len(seen.pts) if seen.failed_after is None else seen.failed_after
            continue
        if not seen.pts:
            upside = int(frame.rotation or 0) % 180 != 0
            seen.width, seen.height = (frame.height, frame.width) if upside else (frame.width, frame.height)
            seen.pixel_format = frame.pixel_format
        shown_at = _to_pts(frame, time_base)
        seen.pts.append(shown_at)
        due = run if shown_at in key_pts else due - 1
        if due > 0:
            seen.checksums[shown_at] = _checksum(frame)
    return seen


def _refuse_damage(seen: _Seen, packet_pts: npt.NDArray[np.int64]) -> None:
    """Raise VideoError where nothing decodes, or where frames come after a damaged one."""
    claimed, count = len(packet_pts), len(seen.pts)
    if count == 0:
        raise VideoError(f"none of its {claimed} frames decodes; the file is damaged or its codec is unknown")
    if seen.failed_after in (None, count):
        return
    # A decoder that reorders frames still gives out those before the damage when the damage has been met.
    lost = np.setdiff1d(packet_pts, seen.pts)
    if len(lost) == 0 or lost[0] < max(seen.pts):
        raise VideoError(
            f"damaged at about frame {seen.failed_after}: {count} of {claimed} frames decode, with a gap in the "
            "middle, so labels would slip; repair or re-encode the file"
        )


def _compared_run(num_frames: int, num_key_frames: int) -> int:
    """Frames to compare after each key frame: at most a sixth of the video, but one of each."""
    return max(1, min(COMPARED_FRAMES, num_frames // (6 * max(1, num_key_frames))))


def _trusted(
    data: Tensor,
    key_frames: npt.NDArray[np.int64],
    pts: npt.NDArray[np.int64],
    time_base: Fraction,
    checksums: dict[int, int],
    run: int,
) -> npt.NDArray[np.int64]:
    """The key frames from which decoding gives the same frames as the straight pass gave."""
    kept = [0]
    demuxer, stream = _open(data)
    for first, stop in pairwise([*key_frames.tolist(), len(pts)]):
        if first > 0:
            expected = pts[first : min(stop, first + run)].tolist()
            decoded = _frames_from(demuxer, stream, first, pts, time_base, torch.device("cpu"))
            found = [(shown_at, _checksum(frame)) for shown_at, frame in islice(decoded, len(expected))]
            if found == [(shown_at, checksums[shown_at]) for shown_at in expected]:
                kept.append(first)
    return np.asarray(kept, np.int64)


def _checksum(frame: RawFrame) -> int:
    """CRC-32 of a frame's samples; of its RGB where the format cannot be viewed (palettes)."""
    try:
        planes = frame.planes
    except RuntimeError:
        from torchcodec.decoders import ColorConverter

        planes = (ColorConverter(device="cpu").convert(frame).data,)
    checksum = 0
    for plane in planes:
        checksum = zlib.crc32(plane.contiguous().numpy().data, checksum)
    return checksum


def _to_pts(frame: RawFrame, time_base: Fraction) -> int:
    """When a frame is shown, in units of the time base; the least int64 where the container does not say."""
    return max(round(frame.pts_seconds * time_base.denominator / time_base.numerator), NO_PTS)


def _key_frames(pts: npt.NDArray[np.int64], key_pts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Frame numbers of the key frames that a seek by time can reach; only 0 where times do not increase."""
    if not bool((pts[1:] > pts[:-1]).all()):
        return np.zeros(1, np.int64)
    return np.union1d([0], np.flatnonzero(np.isin(pts, key_pts))).astype(np.int64)


def _last_clause(error: Exception) -> str:
    """The part of a C++ message that speaks of the data: what follows the source line."""
    message = (str(error).strip().splitlines() or ["no reason given"])[0]
    return message.rsplit(".cpp:", 1)[-1].split(", ", 1)[-1].rstrip(". ")
