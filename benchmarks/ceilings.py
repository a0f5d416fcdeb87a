"""What decoding alone would allow: every frame once, nothing converted, on as many threads as there are workers."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.footage import Case
from benchmarks.measuring import spread
from benchmarks.peers.base import read_videos
from wildstream.ffmpeg import ensure_ffmpeg


class Ceiling:
    """One way to decode everything; what goes wrong becomes its `error`."""

    def __init__(self, case: Case, decode: Callable[[str], None] | str) -> None:
        self._case = case
        self._decode = decode
        self._rates: list[float] = []
        self._error = decode if isinstance(decode, str) else None

    def turn(self) -> None:
        """Decode all videos, one to a thread."""
        if self._error is not None or isinstance(self._decode, str):
            return
        started = time.perf_counter()
        try:
            with ThreadPoolExecutor(self._case.workers) as pool:
                list(pool.map(self._decode, sorted(self._case.num_frames)))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            self._error = f"{type(error).__name__}: {str(error)[:200]}"
            return
        self._rates.append(sum(self._case.num_frames.values()) / (time.perf_counter() - started))

    def report(self) -> dict[str, Any]:
        """Frames per second, and windows per second if that were all there is to do."""
        if self._error is not None:
            return {"error": self._error}
        return {
            "frames_per_second": spread(self._rates),
            "windows_per_second_allowed": spread([rate / self._case.step for rate in self._rates]),
        }


def ceilings(case: Case) -> dict[str, Ceiling]:
    """The building blocks of torchcodec, and the ffmpeg program where there is one."""
    videos = read_videos(case)
    tensors = {key: torch.frombuffer(bytearray(data), dtype=torch.uint8) for key, data in videos.items()}
    return {
        "torchcodec_blocks": Ceiling(case, lambda key: decode_bare(tensors[key])),
        "ffmpeg": Ceiling(case, _ffmpeg(videos)),
    }


def decode_bare(data: torch.Tensor) -> None:
    """Decode a video in the cheapest way: packets in, frames dropped, one thread."""
    ensure_ffmpeg()
    from torchcodec.decoders import Demuxer

    demuxer = Demuxer(data)
    decoder = demuxer.streams[0].make_decoder("cpu")
    for packet in demuxer:
        decoder.decode(packet)
    decoder.drain()


def _ffmpeg(videos: dict[str, bytes]) -> Callable[[str], None] | str:
    """`ffmpeg -f null` on files, or why it cannot be measured."""
    program = shutil.which("ffmpeg")
    if program is None:
        return "there is no ffmpeg program on this machine"
    folder = Path(tempfile.mkdtemp(prefix="ceiling_"))

    def decode(key: str) -> None:
        path = folder / f"{key}.mp4"
        if not path.exists():
            path.write_bytes(videos[key])
        options = [
            "-v",
            "error",
            "-threads",
            "1",
            "-i",
            str(path),
            "-an",
            "-fps_mode",
            "passthrough",
            "-f",
            "null",
            "-",
        ]
        subprocess.run([program, *options], check=True, stdin=subprocess.DEVNULL)

    return decode
