"""One video's bytes → facts about it: decoded once, straight through, its key frames tried, its damage found.

Not every key frame that a container names is one to start from: some videos then decode to wrong pixels, without an
error. So `probe` seeks to each and compares the first frames with those of the straight pass; only key frames that
agree are kept. (One cause is known and cured: see `video._needs_first_packet`.)

Where a packet raises, the straight pass goes on, but what comes out of it is not believed until a key frame: there a
seek, which has seen nothing of the damage, must give what the straight pass gives. Where they disagree the loss extends
to the next key frame at which they do not. So that frame numbers, and labels with them, do not slip, a damaged video's
frames are those that its packets promise; a container that does not say when each packet is shown promises nothing, and
its video is refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import VideoError
from wildstream.facts import NO_PTS, FrameTable, Ints, VideoFacts
from wildstream.marks import find_marks
from wildstream.packets import find_unreferenced
from wildstream.video import (
    BrokenRun,
    Opened,
    key_frames_of,
    run_from,
    to_pts,
    unreadable_is_refused,
)

if TYPE_CHECKING:
    from torchcodec.decoders import Demuxer, RawFrame, VideoPacketDecoder

COMPARED_FRAMES = 8
"""Frames after each key frame, at most, that are compared between a seek and the straight pass."""
CPU = torch.device("cpu")


def probe(data: Tensor, *, by_packets: bool = False) -> VideoFacts:
    """Decode a whole video once, try its key frames, and report what came out and what is lost.

    Args:
        data: (num_bytes,) uint8, CPU: the file.
        by_packets: Count a frame for every packet even where none raised: frames that do not come out, and those after
            them up to the next key frame, are then lost. Some codecs drop damaged frames in silence (HEVC). But others
            have packets without a frame of their own, so this takes somebody who knows how many frames there are.

    Raises:
        VideoError: There is no video stream, nothing decodes, or a packet in the middle is damaged and the container
            does not say when its packets are shown. (A damaged tail only shortens the video: `num_frames` stays below
            `claimed_frames`.)
    """
    with unreadable_is_refused():
        return _probe(data, by_packets)


def probe_for(data: Tensor, num_frames: int) -> VideoFacts:
    """`probe`, by packets where somebody knows of more frames than come out; VideoError as there."""
    facts = probe(data)
    if facts.num_frames < num_frames <= facts.claimed_frames:
        return probe(data, by_packets=True)
    return facts


def _probe(data: Tensor, by_packets: bool) -> VideoFacts:
    """What `probe` does; torchcodec's errors come out as they are."""
    opened = Opened(data)
    packets = opened.stream.scan()
    packet_pts = packets._pts.numpy()
    key_pts = packet_pts[packets.is_key_frame.numpy()]
    time_base = Fraction(packets._time_base_num, packets._time_base_den)
    run = _compared_run(len(packet_pts), len(key_pts))
    frames = _decode_packets(opened.demuxer, opened.stream.make_decoder("cpu"))
    seen = _decode_through(frames, time_base, set(key_pts.tolist()), run)
    damaged = _is_damaged(seen, packet_pts, by_packets)
    # The packets that come after the last frame that decodes are a damaged tail.
    pts = packet_pts[packet_pts <= max(seen.pts)] if damaged else np.asarray(seen.pts, np.int64)
    table = FrameTable(pts=pts, key_frames=key_frames_of(pts, key_pts), time_base=time_base)
    key_frames = _trusted(data, table, seen, run)
    lost = _find_lost(data, replace(table, key_frames=key_frames)) if damaged else np.zeros((0, 2), np.int64)
    if int((lost[:, 1] - lost[:, 0]).sum()) == len(pts):
        raise VideoError(f"none of its {len(packet_pts)} frames decodes as it should; repair or re-encode the file")
    order, unreferenced = (table.packets, table.unreferenced) if damaged else find_unreferenced(data, table)
    marks, opening = (table.marks, table.opening) if damaged else find_marks(data, table)
    within = ((key_frames[:, None] >= lost[:, 0]) & (key_frames[:, None] < lost[:, 1])).any(axis=1)
    return VideoFacts(
        codec=opened.stream.metadata.codec or "unknown",
        pixel_format=seen.pixel_format,
        width=seen.width,
        height=seen.height,
        num_frames=len(pts),
        claimed_frames=len(packet_pts),
        time_base=time_base,
        pts=pts,
        key_frames=key_frames[~within | (key_frames == 0)],
        lost=lost,
        packets=order,
        unreferenced=unreferenced,
        marks=marks,
        opening=opening,
    )


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
        shown_at = to_pts(frame, time_base)
        seen.pts.append(shown_at)
        due = run if shown_at in key_pts else due - 1
        if due > 0:
            seen.checksums[shown_at] = _checksum(frame)
    return seen


def _is_damaged(seen: _Seen, packet_pts: Ints, by_packets: bool) -> bool:
    """Whether frames may be lost, and the packets tell which; VideoError where they do not tell, or nothing decodes."""
    claimed, count = len(packet_pts), len(seen.pts)
    if count == 0:
        raise VideoError(f"none of its {claimed} frames decodes; the file is damaged or its codec is unknown")
    whole = count if seen.failed_after is None else seen.failed_after
    timed = bool((packet_pts[1:] > packet_pts[:-1]).all()) and packet_pts[0] != NO_PTS
    told = timed and bool(np.isin(seen.pts, packet_pts).all())
    if by_packets and seen.failed_after is None:
        return told
    if told and seen.pts[:whole] == packet_pts[:whole].tolist():
        return seen.failed_after is not None
    # A decoder that reorders frames still gives out those before the damage when the damage has been met.
    lost = np.setdiff1d(packet_pts, seen.pts)
    if whole < count and (len(lost) == 0 or lost[0] < max(seen.pts)):
        raise VideoError(
            f"damaged at about frame {whole}: {count} of {claimed} frames decode, with a gap in the middle, and its "
            "container does not say when each is shown, so labels would slip; repair or re-encode the file"
        )
    return False


def _compared_run(num_frames: int, num_key_frames: int) -> int:
    """Frames to compare after each key frame: at most a sixth of the video, but one of each."""
    return max(1, min(COMPARED_FRAMES, num_frames // (6 * max(1, num_key_frames))))


def _trusted(data: Tensor, table: FrameTable, seen: _Seen, run: int) -> Ints:
    """The key frames from which decoding gives the same frames as the straight pass gave."""
    kept = [0]
    opened, pts = Opened(data), table.pts
    for first, stop in pairwise([*table.key_frames.tolist(), len(pts)]):
        if first > 0:
            expected = [seen.checksums.get(shown_at) for shown_at in pts[first : min(stop, first + run)].tolist()]
            found: list[int | None] = []
            try:
                decoded = run_from(opened, first, table, CPU)
                found.extend(_checksum(frame) for _, frame in islice(decoded, len(expected)))
            except BrokenRun:  # of frames before more damage the first few must do
                if seen.failed_after is not None:
                    expected = expected[: max(1, len(found))]
            if found == expected:
                kept.append(first)
    return np.asarray(kept, np.int64)


def _find_lost(data: Tensor, table: FrameTable) -> Ints:
    """Runs of frames that `video.decode` could not give, (n, 2), by going through the video as it does."""
    lost: list[tuple[int, int]] = []
    start = 0
    while start < len(table.pts):
        try:
            for number, _ in run_from(Opened(data), start, table, CPU):
                start = number + 1
        except BrokenRun as broken:
            first, stop = broken.damage(table.key_frames, len(table.pts))
            if lost and lost[-1][1] == first:
                first = lost.pop()[0]
            if stop > first:  # damage that is met just before a key frame may cost nothing more
                lost.append((first, stop))
            start = stop
    return np.asarray(lost, np.int64).reshape(-1, 2)


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
