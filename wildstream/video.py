"""One video's bytes → facts about it, or its frames in presentation order.

The only module that talks to a decoder. It uses torchcodec's building blocks (demuxer, packet decoder, colour
converter) rather than its `VideoDecoder`: they decode straight through, tell every frame's timestamp, and convert only
the frames that are asked for.

A frame's number is its place in the decoder's output when the video is decoded from its first packet, which is
presentation order. Facts found that way (`probe`) are kept in the index; `decode` starts at a key frame named there and
checks the timestamp of every frame it passes, so that a frame is either the right one or an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import VideoError
from wildstream.ffmpeg import ensure_ffmpeg

if TYPE_CHECKING:
    import numpy.typing as npt
    from torchcodec.decoders import Demuxer, RawFrame, VideoStream

VIDEO_EXTENSIONS = ("mp4", "avi", "mkv", "mov", "webm")


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
    """(num_frames,) presentation times in units of `time_base`, in order of output."""
    key_frames: npt.NDArray[np.int64]
    """(num_key_frames,) frame numbers where decoding may start; always holds 0."""

    @property
    def fps(self) -> float:
        """Mean frames per second; 0.0 where one frame or equal times leave it undefined."""
        span = int(self.pts[-1] - self.pts[0]) * self.time_base
        return float((self.num_frames - 1) / span) if span > 0 else 0.0


def probe(data: Tensor) -> VideoFacts:
    """Decode a whole video once and report what came out.

    Args:
        data: (num_bytes,) uint8, CPU: the file.

    Raises:
        VideoError: There is no video stream, nothing decodes, or a packet in the middle is damaged (a damaged tail
            only shortens the video: `num_frames` stays below `claimed_frames`).
    """
    demuxer, stream = _open(data)
    scan = stream.scan()
    first: RawFrame | None = None
    seconds: list[float] = []
    failed_after: int | None = None
    for frame_or_error in _decode_packets(demuxer, stream, torch.device("cpu")):
        if isinstance(frame_or_error, RuntimeError):
            failed_after = len(seconds) if failed_after is None else failed_after
            continue
        first = first or frame_or_error
        seconds.append(frame_or_error.pts_seconds)
    claimed = len(scan)
    if first is None:
        raise VideoError(f"none of its {claimed} frames decodes; the file is damaged or its codec is unknown")
    if failed_after is not None and failed_after < len(seconds):
        raise VideoError(
            f"damaged at frame {failed_after}: {len(seconds)} of {claimed} frames decode, with a gap in the middle; "
            "repair or re-encode the file"
        )
    time_base = Fraction(scan._time_base_num, scan._time_base_den)
    pts = np.rint(np.asarray(seconds) * time_base.denominator / time_base.numerator).astype(np.int64)
    upside = int(first.rotation or 0) % 180 != 0
    width, height = (first.height, first.width) if upside else (first.width, first.height)
    return VideoFacts(
        codec=stream.metadata.codec or "unknown",
        pixel_format=first.pixel_format,
        width=width,
        height=height,
        num_frames=len(seconds),
        claimed_frames=claimed,
        time_base=time_base,
        pts=pts,
        key_frames=_key_frames(pts, scan._pts[scan.key_frame_indices].numpy()),
    )


def scan(data: Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Fraction]:
    """What the packets of a video promise, without decoding it: pts, key_frames and time_base as in `VideoFacts`.

    Args:
        data: (num_bytes,) uint8, CPU: the file.

    Raises:
        VideoError: There is no video stream.
    """
    _, stream = _open(data)
    packets = stream.scan()
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
    from torchcodec.decoders import ColorConverter

    demuxer, stream = _open(data)
    position = int(key_frames[np.searchsorted(key_frames, frames[0], side="right") - 1])
    seconds = pts * time_base.numerator / time_base.denominator
    # Two float paths to one time differ by rounding alone; half a unit of pts tells neighbours apart.
    tolerance = 0.5 * float(time_base)
    if position > 0:
        demuxer.seek(float(seconds[position]))
    converter = ColorConverter(device=device)
    wanted = iter(frames)
    target = next(wanted)
    leading = position > 0
    for frame in _decode_packets(demuxer, stream, device):
        if isinstance(frame, RuntimeError):
            raise VideoError(f"frame {position} does not decode ({frame}); the file is damaged") from frame
        if leading and frame.pts_seconds < seconds[position] - tolerance:
            continue  # an open group's leading frames, whose references lie before the key frame
        leading = False
        if abs(frame.pts_seconds - seconds[position]) > tolerance:
            raise VideoError(
                f"frame {position} should be shown at {seconds[position]:.6f} s, "
                f"the decoder gave one for {frame.pts_seconds:.6f} s; pack the video again"
            )
        if position == target:
            yield converter.convert(frame).data
            if (following := next(wanted, None)) is None:
                return
            target = following
        position += 1
    raise VideoError(f"ends at frame {position}, but frame {target} is wanted; pack the video again")


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
    return demuxer, demuxer.streams[0]


def _decode_packets(demuxer: Demuxer, stream: VideoStream, device: torch.device) -> Iterator[RawFrame | RuntimeError]:
    """Decode from where the demuxer stands to the end; a damaged packet comes out as the error it caused."""
    decoder = stream.make_decoder(device)
    try:
        for packet in demuxer:
            try:
                yield from decoder.decode(packet)
            except RuntimeError as error:
                yield error
        yield from decoder.drain()
    except RuntimeError as error:
        yield error


def _key_frames(pts: npt.NDArray[np.int64], key_pts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Frame numbers of the key frames that a seek by time can reach; only 0 where times do not increase."""
    if not bool((np.diff(pts) > 0).all()):
        return np.zeros(1, np.int64)
    return np.union1d([0], np.flatnonzero(np.isin(pts, key_pts))).astype(np.int64)


def _last_clause(error: Exception) -> str:
    """The part of a C++ message that speaks of the data: what follows the source line."""
    return str(error).strip().splitlines()[0].rsplit(".cpp:", 1)[-1].split(", ", 1)[-1]
