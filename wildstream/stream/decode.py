"""Bytes → frames: each frame that the windows of a segment need is decoded once, in one forward pass.

Segments are decoded in threads (the decoder lets go of the interpreter's lock), a few ahead of the one that is wanted,
and come out in order. Frames become what they will be (tiles, resized) one at a time, while they are in the processor's
cache; full-size frames are never held. A frame that does not decode costs the windows that need it and no others.

On CUDA, threads of this process hand compressed bytes to NVDEC, and everything after that stays on the GPU:

    NVDEC takes the video     bytes ──NVDEC──▶ frame ──tile, resize──▶ segment, all on the GPU
    NVDEC does not, or fails  bytes ──FFmpeg──▶ segment at its final size, on the CPU ──upload──▶ segment on the GPU

Which of the two a video goes is decided before it is decoded, and counted: torchcodec by itself would take the second
without a word, and upload frames of full size.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import ConfigError, VideoError
from wildstream.nvdec import nvdec_takes, warn_once
from wildstream.samples import DecodedSegment, EncodedSegment
from wildstream.scaling import ScaleFrames, ScaleRun
from wildstream.stream.buffers import frame_memory
from wildstream.stream.transforms import Resize, Size, parse_size
from wildstream.video import FullSize, decode

if TYPE_CHECKING:
    import numpy.typing as npt
    from torchcodec.decoders import RawFrame

AHEAD = 2
"""Segments for each thread that are decoded before they are wanted, so that no thread waits while a batch is made."""
CPU = torch.device("cpu")

_idle_streams: dict[torch.device, list[torch.cuda.Stream]] = {}


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Decode segments in threads, in order."""

    size: Size | None = None
    """Pixels, a square of so many or (height, width), to which frames are scaled: those that are decoded on the CPU by
    libswscale, before they become RGB, and those of NVDEC by torchvision, on the GPU."""
    per_frame: tuple[Callable[[Tensor], Tensor], ...] = ()
    """Applied in turn to each frame of full size, (1, C, H, W) uint8 at first: tiling, resizing. Not beside `size`."""
    threads: int = 1
    """Segments that are decoded at the same time, each by one FFmpeg thread."""
    device: str = "cpu"
    """Where to decode, and where the frames will be; what NVDEC does not take is decoded on the CPU and uploaded."""
    decoded_by: Counter[str] = field(default_factory=Counter, repr=False, compare=False)
    """Counts segments as they come out, by who decoded them, and what: see `Loader.decoded_by`."""
    scale: ScaleFrames | None = field(init=False, repr=False, compare=False)
    """What scales to `size` on the CPU, where there is one."""

    def __post_init__(self) -> None:
        """Refuse values that are out of range (ConfigError)."""
        if self.threads < 1:
            raise ConfigError(f"threads={self.threads} must be at least 1.")
        if self.size is not None and self.per_frame:
            raise ConfigError(f"size={self.size} does not go with per_frame. Add Resize to per_frame instead.")
        object.__setattr__(self, "scale", None if self.size is None else ScaleFrames(*parse_size(self.size)))

    def __call__(self, segments: Iterable[EncodedSegment]) -> Iterator[DecodedSegment]:
        """Decode a stream of segments.

        Frames that do not decode are black, and the windows that need them say so. Where nothing of a segment decodes
        and the size of its frames is not known, that is a VideoError that names the video. Where there is no such
        device, it is a ConfigError.
        """
        source = iter(segments)
        pending: deque[Future[DecodedSegment]] = deque()
        device = _numbered(self.device)
        with ThreadPoolExecutor(self.threads, "decode") as executor:
            try:
                for segment in source:
                    pending.append(executor.submit(self.decode_segment, segment, device))
                    if len(pending) > AHEAD * self.threads:
                        yield self._count(pending.popleft().result())
                while pending:
                    yield self._count(pending.popleft().result())
            finally:
                for future in pending:  # whoever stops early does not wait for what nobody wants
                    future.cancel()

    def _count(self, segment: DecodedSegment) -> DecodedSegment:
        """Count a segment; in the thread that takes them, so that nothing is counted by two threads at a time."""
        self.decoded_by[segment.decoded_by] += 1
        return segment

    def decode_segment(self, segment: EncodedSegment, device: torch.device = CPU) -> DecodedSegment:
        """Decode the frames that one segment's windows need; `device` is where they will be, a GPU with its number.

        Where only part of the file was read, and that was not enough, all of it is.
        """
        if segment.read_whole is None:
            return self._decode_whole(segment, device)
        try:
            decoded = self._decode_whole(segment, device)
        except VideoError:
            return self._decode_whole(replace(segment, data=segment.read_whole()), device)
        if not decoded.problems:
            return decoded
        return self._decode_whole(replace(segment, data=segment.read_whole()), device)

    def _decode_whole(self, segment: EncodedSegment, device: torch.device) -> DecodedSegment:
        """Decode a segment where it can be decoded."""
        codec, pixel_format = segment.coding
        if device.type == "cpu":
            return self._decode_on(device, segment, f"cpu {codec}")[0]
        kind = (codec, pixel_format, *segment.frame_size) if codec and segment.frame_size else None
        by = f"cpu {codec} {pixel_format}"
        if nvdec_takes(segment.data, device, kind):
            if (decoded := self._decode_by_nvdec(device, segment)) is not None:
                return decoded
            by = f"cpu {codec} after nvdec"
        decoded, _ = self._decode_on(CPU, segment, by)
        with _own_stream(device):
            frames = None if decoded.frames is None else decoded.frames.to(device)
            return replace(decoded, frames=frames, places=decoded.places.to(device))

    def _decode_by_nvdec(self, device: torch.device, segment: EncodedSegment) -> DecodedSegment | None:
        """Decode a segment on the GPU; None where frames are missing that were not known to be lost.

        NVDEC is not as exact as FFmpeg about what is damaged, and some files' timestamps come out of it otherwise than
        they are in the index. So of such segments the CPU, by which the index was made, has the last word.
        """
        codec, _ = segment.coding
        with _own_stream(device):
            try:
                decoded, missing = self._decode_on(device, segment, f"nvdec {codec}")
            except VideoError as error:
                warn_once(f"decoded on the CPU instead of by NVDEC: {error}")
                return None
        if missing <= _lost_frames(segment):
            return decoded
        warn_once(f"decoded on the CPU instead of by NVDEC: {next(iter(decoded.problems.values()))}")
        return None

    def _decode_on(self, device: torch.device, segment: EncodedSegment, by: str) -> tuple[DecodedSegment, set[int]]:
        """Decode a segment on a device; beside it the numbers of the frames that could not be had."""
        wanted, places = np.unique(segment.windows.frames, return_inverse=True)
        places = places.reshape(segment.windows.frames.shape)
        gathered = _Gathered(self, device, wanted, set(segment.table.key_frames.tolist()))
        decoded = decode(segment.data, wanted, segment.table, device=device, convert=gathered.put_frame)
        errors = {number: result for number, result in decoded if isinstance(result, VideoError)}
        frames = gathered.frames
        if frames is None:  # one black frame stands for all
            frames, places = self._black(device, segment, errors), np.zeros_like(places)
        elif errors:
            frames[[gathered.places[number] for number in errors]] = 0
        result = DecodedSegment(
            windows=segment.windows,
            frames=frames,
            places=torch.from_numpy(places).to(device),
            problems=_problems(segment, errors),
            decoded_by=" ".join(by.split()),  # of a stream that does not know its codecs, there is one word
        )
        return result, set(errors)

    def _black(self, device: torch.device, segment: EncodedSegment, errors: dict[int, VideoError]) -> Tensor:
        """One black frame, (1, [P,] C, H, W), for a segment of which nothing decodes; the error if no size is known."""
        if segment.frame_size is None:
            raise VideoError(f"{segment.windows.key}: {next(iter(errors.values()))}")
        black = torch.zeros((1, 3, *segment.frame_size), dtype=torch.uint8, device=device)
        return self.apply_per_frame(black)

    def apply_per_frame(self, frame: Tensor) -> Tensor:
        """What is done to each frame of full size: (1, C, H, W) to (1, [P,] C, H, W) uint8, on its device."""
        if self.scale is not None:
            return Resize(height=self.scale.height, width=self.scale.width)(frame)
        for function in self.per_frame:
            frame = function(frame)
        return frame


class _Gathered:
    """The frames of a segment, put one by one where they belong.

    A full-size frame arrives with its colours side by side in memory, which resizing is fastest on; stacking such
    frames first would undo that, and take them out of the processor's cache.
    """

    def __init__(
        self, stage: Decode, device: torch.device, wanted: npt.NDArray[np.int64], key_frames: set[int]
    ) -> None:
        self.frames: Tensor | None = None
        """(F, [P,] C, H, W) uint8; None before the first frame comes."""
        self.places = {number: place for place, number in enumerate(wanted.tolist())}
        """Where each frame belongs, by its number."""
        self._stage = stage
        self._device = device
        self._key_frames = key_frames
        self._full_size = FullSize(device)
        self._scale: ScaleRun | None = None
        self._last = -1

    def put_frame(self, number: int, frame: RawFrame) -> Tensor:
        """Convert a frame and put it in its place among the frames."""
        stage = self._stage
        if stage.scale is None or self._device.type != "cpu":
            result = stage.apply_per_frame(self._full_size(number, frame).unsqueeze(0))[0]
            frames = self._have_frames(result.shape)
            if frames.shape[1:] != result.shape:
                raise VideoError(
                    f"frame {number} is {result.shape[-2]} × {result.shape[-1]} pixels, others of it "
                    f"{frames.shape[-2]} × {frames.shape[-1]}; give a size, such as size=224"
                )
            frames[self.places[number]] = result
            return frames
        frames = self._have_frames((3, stage.scale.height, stage.scale.width))
        if self._scale is None:
            self._scale = ScaleRun(stage.scale, frames)
        # A stream's colours can change at a key frame: this one, or one that was not wanted and came before.
        may_differ = number in self._key_frames or number != self._last + 1
        self._last = number
        self._scale(frame, self.places[number], may_differ=may_differ)
        return frames

    def _have_frames(self, shape: Sequence[int]) -> Tensor:
        """The memory of all frames of this shape."""
        if self.frames is None:
            self.frames = frame_memory.take((len(self.places), *shape), self._device)
        return self.frames


def _numbered(name: str) -> torch.device:
    """The device of a name, a GPU with its number: threads do not know which one the thread that starts them is on.

    Raises:
        ConfigError: It is neither a CPU nor CUDA, or there is no such device here.
    """
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ConfigError(
            f"device={name!r} cannot decode here. Take device='cpu'; `wildstream doctor` tells about CUDA."
        )
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Run a segment's work on the GPU in a stream that no other thread uses meanwhile, and wait until it is done.

    In the default stream, decoding would stand in line with the training step, and the step with decoding. In one of
    its own, what it wrote would be read by another stream before it is there; so this thread, which has nothing else to
    do, waits for the end of the segment, and whoever is handed the frames finds them complete on any stream. They are
    not to be used again too early: see `DecodedSegment.clip`.

    Streams are used again, in the next epoch too: PyTorch keeps freed memory for the stream that it was taken in.
    """
    idle = _idle_streams.setdefault(device, [])
    try:
        stream = idle.pop()
    except IndexError:
        stream = torch.cuda.Stream(device)
    try:
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()
    finally:
        idle.append(stream)


def _lost_frames(segment: EncodedSegment) -> set[int]:
    """Numbers of the frames that were known to be lost when the video was packed."""
    return {number for first, stop in segment.table.lost.tolist() for number in range(first, stop)}


def _problems(segment: EncodedSegment, errors: dict[int, VideoError]) -> dict[int, str]:
    """Windows of a segment that need frames which do not decode: the first such frame's error, and the video's name."""
    lost = np.isin(segment.windows.frames, list(errors))
    return {
        window: f"{segment.windows.key}: {errors[int(frames[hit.argmax()])]}"
        for window, (frames, hit) in enumerate(zip(segment.windows.frames, lost, strict=True))
        if hit.any()
    }
