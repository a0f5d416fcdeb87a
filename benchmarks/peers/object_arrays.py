"""Features on a local disk without any library: a file per video, per window or per frame; or all of them in memory.

    safetensors           a file per video, kept open, a slice per window
    folders_per_window    a .npy per window in a folder per video
    folders_per_frame     a .npy per frame in a folder per video, as WildFins keeps them; a window reads its frames
    memory_copy           rows of one array in memory: the ceiling

`settings.variant` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.feature_data import FRAMES, STYLE, WINDOWS, Array
from benchmarks.peers.feature_batches import Indexed
from benchmarks.peers.object_source import Settings, Source

Read = Callable[[list[int]], Tensor]


class Arrays(Source):
    """Plain files, or memory."""

    packages = ("safetensors", "torch", "numpy")

    def write_features(self, values: Array, out: Path, per_shard: int) -> None:
        """All ways, each in a folder of its name."""
        for name in ("safetensors", "memory_copy"):
            (out / name).mkdir(parents=True)
        np.save(out / "memory_copy" / "all.npy", values.reshape(-1, *values.shape[2:]))
        for video, windows in enumerate(values):
            save_file({"features": torch.from_numpy(windows)}, out / "safetensors" / f"{video:06d}.safetensors")
            folder = out / "folders_per_window" / f"{video:06d}"
            folder.mkdir(parents=True)
            for window, features in enumerate(windows):
                np.save(folder / _window_name(window), features)
            if values.shape[2] == STYLE.window_size:
                _write_frames(out / "folders_per_frame" / f"{video:06d}", windows)

    def features(self, settings: Settings) -> Iterable[Tensor]:
        """Batches of windows in random order."""
        read, count = _OPEN[settings.variant](Path(settings.url) / settings.variant)
        return Indexed(read, count)


def _write_frames(folder: Path, windows: Array) -> None:
    """The frames of a video, each once, as its windows hold them."""
    folder.mkdir(parents=True)
    for frame in range(FRAMES):
        window = min(frame // STYLE.step_size, WINDOWS - 1)
        np.save(folder / _frame_name(frame), windows[window, frame - STYLE.step_size * window])


def _window_name(window: int) -> str:
    return f"train_{window:08d}.npy"


def _frame_name(frame: int) -> str:
    return f"{frame:08d}.npy"


def _safetensors(folder: Path) -> tuple[Read, int]:
    files: list[Any] = [safe_open(path, "pt").get_slice("features") for path in sorted(folder.iterdir())]

    def read(numbers: list[int]) -> Tensor:
        return torch.stack([files[number // WINDOWS][number % WINDOWS] for number in numbers])

    return read, WINDOWS * len(files)


def _folders_per_window(folder: Path) -> tuple[Read, int]:
    videos = sorted(map(str, folder.iterdir()))

    def read(numbers: list[int]) -> Tensor:
        paths = (f"{videos[number // WINDOWS]}/{_window_name(number % WINDOWS)}" for number in numbers)
        return torch.from_numpy(np.stack([np.load(path) for path in paths]))

    return read, WINDOWS * len(videos)


def _folders_per_frame(folder: Path) -> tuple[Read, int]:
    videos = sorted(map(str, folder.iterdir()))

    def read(numbers: list[int]) -> Tensor:
        windows = []
        for number in numbers:
            video, start = videos[number // WINDOWS], STYLE.step_size * (number % WINDOWS)
            frames = range(start, start + STYLE.window_size)
            windows.append(np.stack([np.load(f"{video}/{_frame_name(frame)}") for frame in frames]))
        return torch.from_numpy(np.stack(windows))

    return read, WINDOWS * len(videos)


def _memory_copy(folder: Path) -> tuple[Read, int]:
    values = np.load(folder / "all.npy")

    def read(numbers: list[int]) -> Tensor:
        return torch.from_numpy(values[numbers])

    return read, len(values)


_OPEN: dict[str, Callable[[Path], tuple[Read, int]]] = {
    "safetensors": _safetensors,
    "folders_per_window": _folders_per_window,
    "folders_per_frame": _folders_per_frame,
    "memory_copy": _memory_copy,
}

SOURCE = Arrays()
