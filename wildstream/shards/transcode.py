"""One video's bytes → the same frames, re-encoded so that training seeks cheaply and to the right pixels.

    decode straight ──▶ size, 8-bit yuv420p, upright ──▶ encode, key frame every `gop` ──▶ mp4 ──▶ probe and compare

Frame by frame: of pixels, no more than the encoder looks ahead is in memory. Number, order and times of the frames
stay, and so do the tags that say what the samples mean (range, matrix, primaries, transfer), because the samples are
resized and never converted between them. Encoders run on one thread each, since videos are packed in parallel and the
same video must give the same bytes.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import count, islice, pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from wildstream.errors import VideoError
from wildstream.facts import NO_PTS, VideoFacts
from wildstream.probe import probe
from wildstream.shards.cut import Cut
from wildstream.shards.encoders import Transcode, encoder_options, find_encoder
from wildstream.video import decode, name_runs

if TYPE_CHECKING:
    import numpy.typing as npt
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

    _Planes = npt.NDArray[np.uint8]

SAMPLED_RUNS, SAMPLED_FRAMES = 4, 300
"""Of a video whose decoding is timed: runs, and frames of all runs together."""
FULL_RANGE, RGB_MATRIX, BT601_MATRIX = 2, 0, 6
"""Numbers of FFmpeg's AVCOL_RANGE_JPEG, AVCOL_SPC_RGB and AVCOL_SPC_SMPTE170M."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscodeEffect:
    """What re-encoding did to some videos; effects of several add up.

    The speed of decoding is measured on up to 8 videos of a split, up to 300 frames of each, as training reads: in
    4 runs that start at places spread over the video, the first with frame 0, each decoded by `wildstream.video.decode`
    from the key frame before it and converted to RGB. What lies between key frame and run costs time and counts for
    nothing. Time is the CPU time of the thread that decodes, so other work on the machine disturbs it little.
    Before and after are the same frame numbers, each in its own size.
    """

    bytes_before: int = 0
    """Bytes of the source files."""
    bytes_after: int = 0
    """Bytes of the re-encoded files."""
    sampled_videos: int = 0
    """Videos whose decoding was timed."""
    sampled_frames: int = 0
    """Frames that were timed, before and after each."""
    seconds_before: float = 0.0
    """CPU seconds that decoding them took from the source files."""
    seconds_after: float = 0.0
    """CPU seconds that decoding them took from the re-encoded files."""

    @property
    def speed_before(self) -> float | None:
        """Frames per CPU second from the source files; None where nothing was timed."""
        return self.sampled_frames / self.seconds_before if self.seconds_before else None

    @property
    def speed_after(self) -> float | None:
        """Frames per CPU second from the re-encoded files; None where nothing was timed."""
        return self.sampled_frames / self.seconds_after if self.seconds_after else None

    def __add__(self, other: TranscodeEffect) -> TranscodeEffect:
        """The effect on the videos of both."""
        mine, others = asdict(self), asdict(other)
        return TranscodeEffect(**{name: mine[name] + others[name] for name in mine})

    def __str__(self) -> str:
        """One line for people."""
        share = 100 * self.bytes_after / max(1, self.bytes_before)
        size = f"{self.bytes_before / 1e6:,.2f} → {self.bytes_after / 1e6:,.2f} MB ({share:.0f} %)"
        if self.speed_before is None or self.speed_after is None:
            return f"{size}, decoding was not timed"
        gain = f"{self.speed_after / self.speed_before:.1f} times"
        return f"{size}, decoding {self.speed_before:,.0f} → {self.speed_after:,.0f} frames per CPU-second ({gain})"


@dataclass(frozen=True, slots=True)
class _Goal:
    """Which frames of the source the result has, and when they are shown."""

    first: int
    """Frame of the source."""
    times: list[int]
    """Of each frame, in units of the source's time base."""
    region: tuple[int, int, int, int]
    """Left, top, width and height in the upright frames of the source."""
    crops: bool
    """Whether the region is not all of them."""


def transcode(
    data: bytes, facts: VideoFacts, options: Transcode, *, cut: Cut | None = None, measured: bool = False
) -> tuple[bytes, VideoFacts, TranscodeEffect]:
    """Re-encode one video, and make sure that the result has its frames, times and trusted key frames.

    Args:
        data: The file.
        facts: What `probe` says about it.
        options: How to encode.
        cut: The part of it that is wanted; its first frame is shown at 0.
        measured: Time how fast both decode.

    Returns:
        The mp4 file, what `probe` says about it, and what changed.

    Raises:
        VideoError: Frames of it are lost, its times do not increase, it cannot be encoded, or the result is not
            what it should be.
        LabelError: The part does not lie in it.
    """
    import av

    if len(facts.lost):
        lost = f"{name_runs(facts.lost.tolist())} of {facts.num_frames:,} do not decode"
        raise VideoError(f"{lost}, which re-encoding would hide; pack it without transcoding, or repair the file")
    goal = _goal(facts, cut)
    try:
        encoded = _encode(data, facts, goal, options)
    except av.FFmpegError as error:
        encoder = find_encoder(options.codec)
        raise VideoError(f"cannot be re-encoded with {encoder} ({error.strerror}); pack it without transcoding") from (
            error
        )
    result = probe(_tensor(encoded))
    _compare(facts, goal, result, options)
    effect = TranscodeEffect(bytes_before=len(data), bytes_after=len(encoded))
    if measured:
        runs = _sampled_runs(result.num_frames)
        before = [range(run.start + goal.first, run.stop + goal.first) for run in runs]
        seconds = [_decoding_seconds(data, facts, before), _decoding_seconds(encoded, result, runs)]
        if all(seconds):  # else a frame did not decode, and a speed would be made up
            frames = sum(map(len, runs))
            effect += TranscodeEffect(
                sampled_videos=1, sampled_frames=frames, seconds_before=seconds[0], seconds_after=seconds[1]
            )
    return encoded, result, effect


def _goal(facts: VideoFacts, cut: Cut | None) -> _Goal:
    """What the result is made of."""
    times, whole = _complete_times(facts.pts), (0, 0, facts.width, facts.height)
    if cut is None:
        return _Goal(0, times, whole, crops=False)
    (first, stop), region = cut.run(facts), cut.region(facts)
    return _Goal(first, [time - times[first] for time in times[first:stop]], region, crops=region != whole)


def _encode(data: bytes, facts: VideoFacts, goal: _Goal, options: Transcode) -> bytes:
    """Decode straight through and encode each wanted frame, shown at the time that the goal says; the mp4 file."""
    import av

    encoder = find_encoder(options.codec)
    times = goal.times
    width, height = options.frame_size(*goal.region[2:])
    target = io.BytesIO()
    muxing = {"movflags": "faststart", "movie_timescale": str(facts.time_base.denominator)}  # a start that is exact
    with (
        av.open(io.BytesIO(data), "r") as source,
        # In the end the muxer moves the frames back to make room at the front: it reads what it wrote until then.
        av.open(target, "w", format="mp4", options=muxing, io_open=lambda *_: io.BytesIO(target.getvalue())) as result,
    ):
        rate = Fraction(min(240.0, max(1.0, facts.fps or 25.0))).limit_denominator(1001)  # for the encoder's sums alone
        settings = encoder_options(encoder, options, len(times))
        stream = cast("VideoStream", result.add_stream(encoder, rate, settings, time_base=facts.time_base))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frames = islice(_frames(source, facts), goal.first, None)
        for shown_at, frame, number in zip(times, frames, count(), strict=False):
            upright = _prepare(frame if not goal.crops else _crop(frame, facts, goal), width, height)
            if number == 0:
                for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
                    setattr(stream.codec_context, tag, getattr(upright, tag))
            upright.pts, upright.time_base = shown_at, facts.time_base
            result.mux(stream.encode(upright))
        if goal.first + len(times) == facts.num_frames and next(frames, None) is not None:
            raise VideoError(
                f"more than the {facts.num_frames} frames that were probed decode; pack it without transcoding"
            )
        result.mux(stream.encode(None))
    return target.getvalue()


def _frames(source: InputContainer, facts: VideoFacts) -> Iterator[VideoFrame]:
    """The frames of the best video stream, in order of output; what is damaged is passed over, as `probe` does it."""
    import av

    stream = cast("VideoStream", source.streams.best("video"))
    stream.codec_context.thread_count = 1
    # AVI has no presentation times, and the decoder's guesses are not those that `probe` saw.
    timed = source.format.name != "avi"
    number = 0
    for packet in source.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue  # the frame that it cost is missed by its number
        for frame in frames:
            probed = facts.pts[number] if number < facts.num_frames else NO_PTS
            if timed and probed != NO_PTS and frame.pts not in (probed, None):
                raise VideoError(f"frame {number} decodes with pts {frame.pts}, when it was probed with {probed}")
            yield frame
            number += 1


def _prepare(frame: VideoFrame, width: int, height: int) -> VideoFrame:
    """A frame as it is encoded: of this upright size, 8-bit yuv420p, its samples meaning what they meant.

    A new frame, because the old one brings along what the encoder would heed: its type, its rotation, its captions.
    """
    from av import VideoFrame
    from av.video.reformatter import Interpolation

    turns = round(frame.rotation / 90) % 4  # counterclockwise
    layout = frame.format.name
    if frame.format.is_rgb:
        tags: dict[str, Any] = {"src_color_range": "JPEG", "dst_color_range": "MPEG", "dst_colorspace": "ITU601"}
    elif frame.color_range == FULL_RANGE or layout.startswith(("yuvj", "gray")):
        tags = {"src_color_range": "JPEG", "dst_color_range": "JPEG"}
    else:
        tags = {}
    scaled = frame.reformat(
        *((height, width) if turns % 2 else (width, height)),
        "yuv420p",
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
        threads=1,
        **tags,
    )
    prepared = VideoFrame.from_ndarray(
        _turn(cast("_Planes", scaled.to_ndarray()), turns, width, height), format="yuv420p"
    )
    prepared.color_range = scaled.color_range
    prepared.colorspace = BT601_MATRIX if frame.colorspace == RGB_MATRIX else frame.colorspace
    prepared.color_primaries, prepared.color_trc = frame.color_primaries, frame.color_trc
    return prepared


def _crop(frame: VideoFrame, facts: VideoFacts, goal: _Goal) -> VideoFrame:
    """The wanted rectangle of a frame, upright, 8-bit yuv420p."""
    from av import VideoFrame

    width, height = facts.width - facts.width % 2, facts.height - facts.height % 2
    upright = _prepare(frame, width, height)
    samples = cast("_Planes", upright.to_ndarray()).reshape(-1)
    left, top, wide, high = goal.region
    start, parts = 0, []
    for shrunk in (1, 2, 2):
        plane = samples[start : start + width * height // shrunk**2].reshape(height // shrunk, width // shrunk)
        start += plane.size
        rows, columns = (slice(low // shrunk, (low + size) // shrunk) for low, size in ((top, high), (left, wide)))
        parts.append(plane[rows, columns].reshape(-1))
    planes = np.concatenate(parts).reshape(high * 3 // 2, wide)
    cropped = VideoFrame.from_ndarray(planes, format="yuv420p")
    for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
        setattr(cropped, tag, getattr(upright, tag))
    return cropped


def _turn(planes: _Planes, turns: int, width: int, height: int) -> _Planes:
    """(height * 3 / 2, width) planes of yuv420p, turned counterclockwise by that many quarters to this size."""
    if turns == 0:
        return planes
    samples, start, turned = planes.reshape(-1), 0, []
    for wide, high in ((width, height), (width // 2, height // 2), (width // 2, height // 2)):
        shape = (wide, high) if turns % 2 else (high, wide)
        turned.append(np.rot90(samples[start : start + wide * high].reshape(shape), turns).reshape(-1))
        start += wide * high
    return np.concatenate(turned).reshape(height * 3 // 2, width)


def _complete_times(pts: npt.NDArray[np.int64]) -> list[int]:
    """Times to encode with: those of the source; last frames without one follow at the step before them.

    Raises:
        VideoError: Other frames have no time, or one is not after the frame before it.
    """
    times: list[int] = pts.tolist()
    timed = len(times)
    while timed > 2 and times[timed - 1] == NO_PTS:
        timed -= 1
    for n in range(timed, len(times)):
        times[n] = 2 * times[n - 1] - times[n - 2]
    for n, (earlier, later) in enumerate(pairwise([NO_PTS, *times])):
        if later <= earlier:
            fault = "has no time" if later == NO_PTS else "is not shown after the frame before it"
            raise VideoError(f"frame {n} {fault}, so that it has no place in an mp4; pack it without transcoding")
    return times


def _compare(before: VideoFacts, goal: _Goal, after: VideoFacts, options: Transcode) -> None:
    """Raise VideoError where the re-encoded video is not the wanted frames of the source at their times."""
    num_frames = len(goal.times)
    expected: dict[str, tuple[object, object]] = {
        "frames": (num_frames, after.num_frames),
        "size": (options.frame_size(*goal.region[2:]), (after.width, after.height)),
        "key frames": (list(range(0, num_frames, options.gop)), after.key_frames.tolist()),
    }
    for name, (wanted, found) in expected.items():
        if wanted != found:
            raise VideoError(f"re-encoding gave other {name}: {found}, not {wanted}; pack it without transcoding")
    for n, (old, new) in enumerate(zip(goal.times, after.pts.tolist(), strict=True)):
        if abs(new * after.time_base - old * before.time_base) > after.time_base:
            wanted, found = float(old * before.time_base), float(new * after.time_base)
            raise VideoError(f"re-encoding moved frame {n} from {wanted} s to {found} s; pack it without transcoding")


def _sampled_runs(num_frames: int) -> list[range]:
    """Frame numbers whose decoding is timed: runs spread from the first frame to the last; all of a short video."""
    length = min(SAMPLED_FRAMES, num_frames) // SAMPLED_RUNS
    if length == 0:
        return [range(num_frames)]
    starts = np.linspace(0, num_frames - length, SAMPLED_RUNS).astype(int).tolist()
    return [range(start, start + length) for start in starts]


def _decoding_seconds(data: bytes, facts: VideoFacts, runs: list[range]) -> float:
    """CPU seconds of this thread for decoding runs of frames; 0 where one does not decode."""
    tensor, cpu = _tensor(data), torch.device("cpu")
    started: float | None = None
    for run in (range(1), *runs):  # the first frame alone warms up
        frames = decode(tensor, run, facts, device=cpu)
        if any(isinstance(frame, VideoError) for _, frame in frames):
            return 0.0
        started = time.thread_time() if started is None else started
    return time.thread_time() - (started or 0.0)


def _tensor(data: bytes) -> torch.Tensor:
    """A file as `wildstream.video` takes it."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
