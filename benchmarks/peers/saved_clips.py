"""WildFins' own way: every window saved beforehand as an array of full-size frames, then read and resized.

Only as many windows are saved as `MOST_BYTES` holds, and they are read from memory where the system still has them
there, which favours this way: all windows of a real data set would not fit. Reading is np.load and torchvision's
resize in the workers of a DataLoader; colours are saved side by side, which resizing is fastest on.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.footage import CACHE, Address, Case
from benchmarks.peers.base import Clip, Delivered, Peer, _Windows, as_frames, gather, read_videos
from benchmarks.peers.torchcodec_windows import TorchcodecReader, resized

MOST_BYTES = 2 << 30


class SavedClips(Peer):
    """Files in a folder of their own, which is deleted at the end."""

    family = "saved as .npy beforehand"

    def start(self, case: Case, wanted: list[Address]) -> dict[str, Any]:
        """Save the windows; what that costs is told."""
        self._folder = Path(tempfile.mkdtemp(prefix="saved_", dir=CACHE))
        started = time.perf_counter()
        rest = set(wanted)
        everything = wanted + [address for address in case.addresses() if address not in rest]
        videos, saved, written = read_videos(case), [], 0
        decoders = {key: TorchcodecReader(seek_mode="exact").open(data) for key, data in videos.items()}
        for key, start in everything:
            frames = decoders[key].get_frames_in_range(start, start + case.window).data
            if saved and written + frames.nbytes > MOST_BYTES:
                break
            array = frames.permute(0, 2, 3, 1).contiguous().numpy()  # colours side by side: resizing is fastest so
            np.save(self._folder / f"{key}_{start}.npy", array)
            saved.append((key, start))
            written += frames.nbytes
        taken = time.perf_counter() - started
        os.sync()  # so that others are not measured while this is written
        self._windows = _Windows(case, saved)
        self._loader = torch.utils.data.DataLoader(
            _Saved(case, self._folder),
            batch_sampler=self._windows,  # type: ignore[arg-type]
            collate_fn=gather,
            num_workers=case.workers,
            persistent_workers=True,
        )
        share = len(saved) / len(everything)
        return {
            "order": "random",
            "windows_saved": len(saved),
            "bytes_of_all_windows": round(written / share),
            "bytes_of_the_videos": sum(map(len, videos.values())),
            "preparation_seconds_of_all_windows": taken / share,
        }

    def batches(self, number: int | None) -> Iterator[Delivered]:
        """One pass of the workers, which live on."""
        self._windows.number = number
        yield from self._loader

    def stop(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass
class _Saved(torch.utils.data.Dataset[Clip]):
    """Files by their addresses."""

    case: Case
    folder: Path

    def __getitem__(self, address: Address) -> Clip:
        key, start = address
        array = np.load(self.folder / f"{key}_{start}.npy")
        return resized(as_frames(array), self.case.size), key, start
