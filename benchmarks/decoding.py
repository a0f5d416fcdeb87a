"""How near WildStream's decoding comes to decoding alone, and what its parts cost; always as ratios, round by round.

    resized            frames per CPU-second through `stream.decode.Decode` (one thread, every frame, at 224) against
                       torchcodec's blocks that decode alone, without conversion; and how far pixels are from
                       torchvision's antialiased resize
    end_to_end         loader, from shard to shuffled batch, against decoding and resizing alone on as many threads:
                       of the same segments, and straight through the videos, each frame once
    threads            the loader on two threads against one
    sparse             4 of 16 frames against decoding every frame and then taking those 4, at step 16 and 4
    memory             whole videos, decoded once and then sliced, against WildStream; videos of 100 s at 360p

What takes part in one ratio is measured in turns, at least five times; the ratio is that of each round. Figures are of
wall time and of the process's CPU time. Every figure states step, GOP and size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

import wildstream
from benchmarks.ceilings import decode_bare
from benchmarks.footage import Case, make_case
from benchmarks.measuring import on_cores, ratio, spread
from benchmarks.peers.base import Peer, read_videos
from benchmarks.peers.stream import WildStream
from benchmarks.peers.torchcodec_windows import TorchcodecReader, resized
from benchmarks.peers.whole_video import WholeVideo
from benchmarks.runner import PeerError, Runner
from wildstream.samples import EncodedSegment
from wildstream.stream.loader import Loader
from wildstream.stream.pipeline import make_decode
from wildstream.stream.segments import ReadPlanned

ROUNDS = 5
CORES = 2
WHOLE = 1 << 20
"""Frames of a segment that holds any video whole."""

Work = Callable[[], int]
"""Something to be measured; gives how many frames or windows it did."""


def run(*, short: bool) -> dict[str, Any]:
    """All five; the short form at 360p, on short videos, in two rounds."""
    rounds, frames = (2, 240) if short else (ROUNDS, 600)
    heights, gops = ((360,), (30,)) if short else ((360, 720), (30, 250))
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads are over segments
    try:
        with on_cores(CORES):
            cases = [make_case(step=8, gop=gop, height=height, frames=frames) for height in heights for gop in gops]
            return {
                "cores": CORES,
                "rounds": rounds,
                "resized": [_resized(case, rounds) for case in cases],
                "end_to_end": [_end_to_end(case, rounds) for case in cases],
                "threads": [_threads(case, rounds) for case in cases],
                "sparse": [
                    _sparse(make_case(step=step, gop=case.gop, height=case.height, frames=frames), rounds)
                    for case in cases
                    for step in (16, 4)
                ],
                "memory": [_memory(make_case(step=8, gop=30, height=360, frames=240 if short else 3000))],
            }
    finally:
        torch.set_num_threads(torch_threads)


def _resized(case: Case, rounds: int) -> dict[str, Any]:
    """One thread, every frame."""
    loader = _loader(case, case.step, shuffle=False, segment_frames=WHOLE, num_workers=1)
    segments = _segments(loader)
    videos = {key: torch.frombuffer(bytearray(data), dtype=torch.uint8) for key, data in read_videos(case).items()}

    def bare() -> int:
        for data in videos.values():
            decode_bare(data)
        return sum(case.num_frames.values())

    result = _in_turns({"resized": lambda: _decode(segments, loader, 1), "decoding_alone": bare}, rounds)
    return {**_setting(case), "unit": "frames", **result, "mean_difference": _difference(case, segments[0], loader)}


def _end_to_end(case: Case, rounds: int) -> dict[str, Any]:
    """From shard to batch; windows are counted as the frames that they add, `step` each."""
    loader = _loader(case, case.step)
    planned = _segments(loader)
    straight_loader = _loader(case, case.step, shuffle=False, segment_frames=WHOLE)
    straight = _segments(straight_loader)
    frames = sum(case.num_frames.values())

    def whole_epoch() -> int:
        _epoch(loader)
        return frames

    def same_segments() -> int:
        _decode(planned, loader, CORES)
        return frames

    result = _in_turns(
        {
            "end_to_end": whole_epoch,
            "same_segments": same_segments,
            "straight": lambda: _decode(straight, straight_loader, CORES),
        },
        rounds,
    )
    cost = {"frames_in_segments": sum(len(np.unique(segment.windows.frames)) for segment in planned), "frames": frames}
    return {**_setting(case), "unit": "frames of the videos", **result, **cost}


def _threads(case: Case, rounds: int) -> dict[str, Any]:
    """Two against one."""
    two, one = _loader(case, case.step, num_workers=2), _loader(case, case.step, num_workers=1)
    return {
        **_setting(case),
        "unit": "windows",
        **_in_turns({"two_threads": lambda: _epoch(two), "one_thread": lambda: _epoch(one)}, rounds),
    }


def _sparse(case: Case, rounds: int) -> dict[str, Any]:
    """The same clips of 4 frames: once only those are converted, once all 16 are and 4 are taken."""
    sparse = _loader(case, case.step, samples=4)
    every = _loader(case, case.step, transform=lambda clip: clip[::4])
    return {
        **_setting(case),
        "unit": "windows",
        "samples_per_window": 4,
        "window_size": case.window,
        **_in_turns({"sparse": lambda: _epoch(sparse), "every_frame": lambda: _epoch(every)}, rounds),
    }


def _memory(case: Case) -> dict[str, Any]:
    """Peak of each in a process of its own, beyond what it had before it began (PSS of the process and its workers)."""
    peers: dict[str, Peer] = {
        "wildstream": WildStream(),
        "whole_video": WholeVideo(),
        "whole_video_at_full_size": WholeVideo(chunk=None),
    }
    peaks: dict[str, Any] = {}
    for name, peer in peers.items():
        try:
            runner = Runner(peer, case, [])
            try:
                peaks[name] = runner.warm_up(None)["peak_bytes"]
            finally:
                runner.close()
        except PeerError as error:
            peaks[name] = f"error: {error}"
    ours = peaks["wildstream"]
    over = {
        f"{name} / wildstream": peak / ours
        for name, peak in peaks.items()
        if name != "wildstream" and isinstance(peak, int) and isinstance(ours, int)
    }
    seconds = next(iter(case.num_frames.values())) / 30
    return {**_setting(case), "seconds_per_video": seconds, "peak_bytes_beyond_start": peaks, "ratios": over}


def _loader(case: Case, step: int, *, samples: int | None = None, **options: Any) -> Loader:  # noqa: ANN401
    """A loader as `windows` has it, but for what is given."""
    style = wildstream.SlidingStyle(
        window_size=case.window, samples_per_window=samples or case.window, step_size=step, padding="none"
    )
    dataset = wildstream.DatasetBuilder(path=case.shards, style=style).build()
    defaults = {"shuffle": True, "seed": 0, "size": case.size, "num_workers": CORES}
    return dataset.loader(batch_size=case.batch, **{**defaults, **options})


def _segments(loader: Loader) -> list[EncodedSegment]:
    """All segments of a loader's epoch, read."""
    return list(ReadPlanned(loader.index, loader.style)(loader.plan().segments(loader.share())))


def _decode(segments: Iterable[EncodedSegment], loader: Loader, threads: int) -> int:
    """Decode and resize as the loader's stage does, and drop the frames; gives their number."""
    stage = make_decode(loader.style, loader.size, resize=loader.resize, threads=threads, device="cpu")
    return sum(len(decoded.frames) for decoded in stage(segments) if decoded.frames is not None)


def _epoch(loader: Loader) -> int:
    """All batches of an epoch; gives the number of windows."""
    loader.set_epoch(loader.epoch + 1)
    return sum(int(batch.mask.sum()) for batch in loader)


def _difference(case: Case, segment: EncodedSegment, loader: Loader) -> float:
    """Mean absolute difference, in grey levels, of the first 60 frames to torchvision's antialiased resize."""
    stage = make_decode(loader.style, loader.size, resize=loader.resize, threads=1, device="cpu")
    frames = next(iter(stage([segment]))).frames
    if frames is None:
        return float("nan")
    decoder = TorchcodecReader(seek_mode="exact").open(segment.data.numpy().tobytes())
    count = min(60, len(frames))
    right = resized(decoder.get_frames_in_range(0, count).data, case.size)
    return float((frames[:count].to(torch.int16) - right.to(torch.int16)).abs().float().mean())


def _in_turns(works: dict[str, Work], rounds: int) -> dict[str, Any]:
    """Rates of each, per second and per CPU-second, and the ratios of the first to the others."""
    wall: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            seconds, used = time.perf_counter(), time.process_time()
            done = work()
            seconds, used = time.perf_counter() - seconds, time.process_time() - used
            if turn > 0:  # the first warms up
                wall[name].append(done / seconds)
                cpu[name].append(done / used)
    first, *others = works
    return {
        "per_second": {name: spread(rates) for name, rates in wall.items()},
        "per_cpu_second": {name: spread(rates) for name, rates in cpu.items()},
        "ratios": {
            f"{first} / {name}": {"wall": ratio(wall[first], wall[name]), "cpu": ratio(cpu[first], cpu[name])}
            for name in others
        },
    }


def _setting(case: Case) -> dict[str, Any]:
    """What every figure is given with."""
    return {"name": case.name, "step": case.step, "gop": case.gop, "height": case.height, "cores": os.cpu_count()}
