"""On an NVIDIA GPU: how fast videos become batches there, and whether a training step waits for them.

    nvdec_alone_N      torchcodec's VideoDecoder straight through every video, frames of full size, in N threads
    wildstream_cuda    the loader with device="cuda", from shard to shuffled batch of 16 frames at 224
    cpu_uploaded       the loader on all cores of the CPU, its batches copied to the GPU
    training           r3d_18 (random weights, bf16, SGD) on batches of 32 clips of 16 frames at 112: the share of time
                       in which the GPU has finished one step and waits for the clips of the next

All take turns, at least five times after one to warm up. Frames are those of the videos, whatever the step, so that
figures compare. It is not run by default: `python -m benchmarks.run gpu`, on a machine with a GPU; `--short` takes 360p
alone. Footage that was packed before is taken from build/benchmarks; see `find_case`.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

import wildstream
from benchmarks.footage import CACHE, Case, is_real, make_case
from benchmarks.measuring import ratio, spread
from benchmarks.peers.base import read_videos
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.samples import Batch
from wildstream.shards.index import Index, open_index
from wildstream.stream.loader import Loader

ROUNDS = 5
STEPS = (4, 8, 16)
GOP = 30
NVDEC_THREADS = (1, 2, 3, 4)
THREADS = 4
"""Threads of the loader that feed NVDEC."""
REPEATED = 3
"""How often an epoch holds each video: long enough for a loader's start not to matter."""
CHUNK = 32
"""Frames that are asked of a VideoDecoder at a time."""
TRAIN_BATCH, TRAIN_SIZE = 32, 112
WARM_UP, MEASURED = 15, 40
"""Training steps that are not measured at the start of an epoch, while the pool fills, and those that are."""
GOAL = 0.02
"""Share of time that a training step may wait for data."""

Work = Callable[[], int]
"""Something to be measured; gives how many frames of the videos it did."""


def run(*, short: bool) -> dict[str, Any]:
    """Both parts for each size; the short form on short videos of 360p. Ends with a line where there is no GPU."""
    if not torch.cuda.is_available():
        raise SystemExit("gpu: there is no CUDA device on this machine, so there is nothing to measure.")
    rounds, frames, heights = (ROUNDS, 240, (360,)) if short else (ROUNDS, 600, (360, 720))
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads are over segments
    try:
        return {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cores": len(os.sched_getaffinity(0)),
            "rounds": rounds,
            "loader_threads_on_cuda": THREADS,
            "cases": [_case(height, frames, rounds) for height in heights],
        }
    finally:
        torch.set_num_threads(torch_threads)


def find_case(*, height: int, frames: int) -> tuple[Case, str]:
    """The footage, and where it is from: packed before in build/, cut from real footage, or drawn."""
    packed = CACHE / f"footage_4x{frames}_gop{GOP}_{height}p" / "shards" / "train"
    if packed.is_dir():
        return Case(shards=packed, step=STEPS[0], gop=GOP, height=height), f"real footage, packed before in {packed}"
    case = make_case(step=STEPS[0], gop=GOP, height=height, frames=frames)
    if is_real(case):
        return case, "real footage, of WILDSTREAM_TEST_DATA or ../shared/data"
    return case, "a drawn fish tank: no real footage in build/benchmarks, nor in WILDSTREAM_TEST_DATA"


def _case(height: int, frames: int, rounds: int) -> dict[str, Any]:
    """Both parts on videos of one size."""
    case, origin = find_case(height=height, frames=frames)
    print(f"gpu: {height}p: {origin}")
    training = [_training(replace(case, step=step), rounds) for step in STEPS]
    return {"height": height, "gop": GOP, "footage": origin, **_throughput(case, rounds), "training": training}


# --- throughput -------------------------------------------------------------------------------------------------------


def _throughput(case: Case, rounds: int) -> dict[str, Any]:
    """Frames per second of all ways, and windows per second of those that give windows."""
    videos = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in read_videos(case).values()] * REPEATED
    frames = sum(case.num_frames.values()) * REPEATED
    works: dict[str, Work] = {
        f"nvdec_alone_{threads}": functools.partial(_nvdec_alone, videos, frames, threads) for threads in NVDEC_THREADS
    }
    windows: dict[str, int] = {}
    loaders: dict[str, Loader] = {}
    for step in STEPS:
        for name, device, threads in (("wildstream_cuda", "cuda", THREADS), ("cpu_uploaded", "cpu", None)):
            loader = _loader(replace(case, step=step), times=REPEATED, device=device, num_workers=threads)
            loaders[f"{name}_step_{step}"] = loader
            windows[f"{name}_step_{step}"] = loader._num_windows
            works[f"{name}_step_{step}"] = functools.partial(_epoch, loader, frames)
    rates = _in_turns(works, rounds)
    best = max((f"nvdec_alone_{threads}" for threads in NVDEC_THREADS), key=lambda name: float(np.median(rates[name])))
    return {
        "frames_per_epoch": frames,
        "frames_per_second": {name: spread(rate) for name, rate in rates.items()},
        "windows_per_second": {
            name: spread([rate * count / frames for rate in rates[name]]) for name, count in windows.items()
        },
        "nvdec_alone_best": best,
        "ratios": {
            f"step {step}": {
                "wildstream_cuda / nvdec_alone_best": ratio(rates[f"wildstream_cuda_step_{step}"], rates[best]),
                "wildstream_cuda / cpu_uploaded": ratio(
                    rates[f"wildstream_cuda_step_{step}"], rates[f"cpu_uploaded_step_{step}"]
                ),
            }
            for step in STEPS
        },
        "decoded_by": {name: dict(loader.decoded_by) for name, loader in loaders.items()},
    }


def _nvdec_alone(videos: list[Tensor], frames: int, threads: int) -> int:
    """All videos straight through, frames dropped."""
    ensure_ffmpeg()
    from torchcodec.decoders import VideoDecoder

    def decode(data: Tensor) -> None:
        decoder = VideoDecoder(data, device="cuda", seek_mode="approximate")
        if decoder.cpu_fallback:
            raise SystemExit(f"gpu: NVDEC does not decode the footage: {decoder.cpu_fallback}")
        for first in range(0, len(decoder), CHUNK):
            decoder.get_frames_in_range(first, min(first + CHUNK, len(decoder)))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, videos))
    return frames


def _epoch(loader: Loader, frames: int) -> int:
    """All batches of an epoch, on the GPU at the end."""
    loader.set_epoch(loader.epoch + 1)
    for batch in loader:
        batch.to("cuda")
    return frames


def _in_turns(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Frames per second of each work in each round, until the GPU has done all of it."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            frames = work()
            torch.cuda.synchronize()
            if turn > 0:  # the first warms up
                rates[name].append(frames / (time.perf_counter() - started))
    return rates


# --- training ---------------------------------------------------------------------------------------------------------


def _training(case: Case, rounds: int) -> dict[str, Any]:
    """Steps fed by the loader on CUDA and by the one on the CPU, and steps on one batch that is there already."""
    per_batch = TRAIN_BATCH * case.step  # frames of the videos
    times = -(-(WARM_UP + MEASURED + 1) * per_batch // sum(case.num_frames.values()))
    options = {"size": TRAIN_SIZE, "batch_size": TRAIN_BATCH, "times": times}
    on_cuda = _loader(case, device="cuda", num_workers=THREADS, **options)
    on_cpu = _loader(case, device="cpu", num_workers=None, **options)
    step = TrainingStep(classes=len(on_cuda.index.categories))
    there = next(iter(on_cuda)).to("cuda")
    feeds: dict[str, Callable[[], Iterator[Batch]]] = {
        "wildstream_cuda": lambda: _moved(on_cuda),
        "cpu_uploaded": lambda: _moved(on_cpu),
        "batch_already_there": lambda: iter([there] * (WARM_UP + MEASURED)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in feeds}
    waiting: dict[str, list[float]] = {name: [] for name in feeds}
    for turn in range(rounds + 1):
        for name, feed in feeds.items():
            of_step, share = _measure_steps(step, feed())
            if turn > 0:
                seconds[name].append(of_step)
                waiting[name].append(share)
    shares = {name: spread(values) for name, values in waiting.items()}
    return {
        "step": case.step,
        "batch": [TRAIN_BATCH, case.window, TRAIN_SIZE, TRAIN_SIZE],
        "frames_per_second_needed": per_batch / float(np.median(seconds["batch_already_there"])),
        "seconds_per_training_step": {name: spread(values) for name, values in seconds.items()},
        "share_of_time_waiting": shares,
        "goal": GOAL,
        "goal_met": shares["wildstream_cuda"]["median"] < GOAL,
        "ratios": {
            f"{name} / batch_already_there": ratio(seconds[name], seconds["batch_already_there"])
            for name in ("wildstream_cuda", "cpu_uploaded")
        },
        "decoded_by": dict(on_cuda.decoded_by),
    }


def _moved(loader: Loader) -> Iterator[Batch]:
    """As many batches of a new epoch as are wanted, on the GPU."""
    loader.set_epoch(loader.epoch + 1)
    for number, batch in enumerate(loader):
        if number == WARM_UP + MEASURED:
            return
        yield batch.to("cuda")


def _measure_steps(step: TrainingStep, batches: Iterator[Batch]) -> tuple[float, float]:
    """Seconds per training step, and the share of time in which the GPU had finished one and not begun the next.

    The GPU itself takes the times, in the order of its stream: the end of a step, then whatever the loader does there,
    then the beginning of the next. Nothing waits for the GPU meanwhile, so the host runs ahead of it where it can.
    """
    begun: list[torch.cuda.Event] = []
    ended: list[torch.cuda.Event] = []
    for number, batch in enumerate(batches):
        if number >= WARM_UP:
            begun.append(_now())
        step(batch)
        if number >= WARM_UP - 1:
            ended.append(_now())
    torch.cuda.synchronize()
    total = ended[0].elapsed_time(ended[-1]) / 1000
    gaps = sum(end.elapsed_time(begin) for end, begin in zip(ended[:-1], begun, strict=True)) / 1000
    return total / len(begun), gaps / total


def _now() -> torch.cuda.Event:
    """An event that the GPU marks when it comes to it."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class TrainingStep:
    """One step of SGD: normalise on the GPU, forward and backward in bf16."""

    def __init__(self, *, classes: int) -> None:
        """Random weights, on the GPU."""
        from torchvision.models.video import r3d_18

        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self._model = r3d_18(weights=None, num_classes=classes).cuda().train()
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=1e-3, momentum=0.9)
        self._loss = nn.BCEWithLogitsLoss()
        mean, deviation = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # what r3d_18 was made for
        self._mean, self._deviation = (
            torch.tensor(values, device="cuda").view(1, 3, 1, 1, 1) for values in (mean, deviation)
        )

    def __call__(self, batch: Batch) -> None:
        """Train on a batch; nothing is read back."""
        assert batch.frames is not None
        clips_BCTHW = batch.frames.transpose(1, 2).float().div_(255).sub_(self._mean).div_(self._deviation)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = self._loss(self._model(clips_BCTHW), batch.labels.float())
        loss.backward()
        self._optimizer.step()


# --- loaders ----------------------------------------------------------------------------------------------------------


def _loader(case: Case, *, times: int, **options: Any) -> Loader:  # noqa: ANN401
    """A shuffled loader over the videos of a case, each so many times."""
    index = open_index(case.shards)
    longer = Index(index._file, index.info, pa.concat_tables([index._table] * times), np.tile(index._rows, times))
    style = wildstream.SlidingStyle(
        window_size=case.window, samples_per_window=case.window, step_size=case.step, padding="none"
    )
    defaults = {"batch_size": case.batch, "size": case.size, "shuffle": True, "seed": 0}
    return Loader(index=longer, style=style, **{**defaults, **options})
