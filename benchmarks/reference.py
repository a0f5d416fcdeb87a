"""What windows should look like: decoded from the first frame on, resized by torchvision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.footage import Address, Case
from benchmarks.peers.base import read_videos
from benchmarks.peers.torchcodec_windows import TorchcodecReader, resized

SHIFTS = (-2, -1, 0, 1, 2)


def reference_clips(case: Case, wanted: list[Address]) -> dict[Address, np.ndarray]:
    """(16 + 4, C, H, W) uint8 for each window: its frames, and two on either side (repeated at the video's ends)."""
    videos = read_videos(case)
    clips = {}
    for key in {key for key, _ in wanted}:
        starts = [start for other, start in wanted if other == key]
        decoder = TorchcodecReader(seek_mode="exact").open(videos[key])
        spans = {start: np.arange(start + SHIFTS[0], start + case.window + SHIFTS[-1]) for start in starts}
        spans = {start: np.clip(span, 0, len(decoder) - 1) for start, span in spans.items()}
        needed = set(np.concatenate(list(spans.values())).tolist())
        frames = {}
        for number in range(max(needed) + 1):
            frame = decoder[number]
            if number in needed:
                frames[number] = resized(frame, case.size)
        for start, span in spans.items():
            clips[key, start] = torch.stack([frames[number] for number in span.tolist()]).numpy()
    return clips


def compare(delivered: dict[Address, np.ndarray], clips: dict[Address, np.ndarray]) -> dict[str, Any]:
    """Mean absolute difference in grey levels, and whether other frames than the right ones would fit better."""
    by_shift = {shift: [] for shift in SHIFTS}  # type: dict[int, list[float]]
    for address, clip in delivered.items():
        for shift in SHIFTS:
            first = shift - SHIFTS[0]
            right = clips[address][first : first + len(clip)].astype(np.int16)
            by_shift[shift].append(float(np.abs(clip.astype(np.int16) - right).mean()))
    if not delivered:
        return {"windows": 0, "mean_difference": float("nan"), "best_shift": None}
    best = min(SHIFTS, key=lambda shift: float(np.mean(by_shift[shift])))
    return {
        "windows": len(delivered),
        "mean_difference": float(np.mean(by_shift[0])),
        "largest_difference_of_a_window": max(by_shift[0]),
        "best_shift": best,
    }
