"""How well orders are shuffled, how much memory that takes, and how many frames it costs to decode.

The defaults of lanes, pool_segments and segment_frames were chosen by this table; ARCHITECTURE.md says how.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from wildstream.stream.footprint import measure
from wildstream.stream.plan import Order, Plan, Share, make_plan
from wildstream.stream.quality import buffered_order, neighbour_distance, videos_per_batch
from wildstream.stream.temporal import PickFrames
from wildstream.stream.windows import SlidingStyle, get_style

BATCH = 32
FRAME_BYTES = 3 * 224 * 224
GOPS = (30, 250)
CHOICES = [
    (lanes, pool, frames)
    for lanes in (12, 24, 48)
    for pool in (1, 2, 4, 8)
    for frames in (32, 64, 128, 256)
    if lanes * pool * frames <= 24 * 8 * 128
]


@dataclass(frozen=True)
class Videos:
    """Only the lengths of videos: all that a plan needs to know."""

    num_frames: np.ndarray

    def __len__(self) -> int:
        return len(self.num_frames)


def run(*, short: bool) -> dict[str, object]:
    """A row for each choice, and for buffer shuffles of the same memory; clips of 16 frames at 224, batches of 32."""
    videos = Videos(np.random.default_rng(0).integers(200, 3000, 100 if short else 300))
    style = get_style("sliding_window_w_temp")
    choices = [(24, 2, 128)] if short else CHOICES
    rows = [_row(videos, style, *choice) for choice in choices]
    total = int(style.num_windows(videos.num_frames).sum())
    random = np.random.default_rng(0).permutation(total)
    first_window = np.concatenate([[0], np.cumsum(style.num_windows(videos.num_frames))])
    return {
        "videos": len(videos),
        "windows": total,
        "batch": BATCH,
        "rows": rows,
        "full_permutation": {
            "videos_per_batch": videos_per_batch(random, first_window, BATCH),
            "neighbour_distance": neighbour_distance(random, first_window),
        },
    }


def _row(videos: Videos, style: SlidingStyle, lanes: int, pool: int, segment_frames: int) -> dict[str, object]:
    """Figures of one choice, for each distance of key frames."""
    order = Order(lanes=lanes, pool_segments=pool, segment_frames=segment_frames)
    return {
        "lanes": lanes,
        "pool_segments": pool,
        "segment_frames": segment_frames,
        **{f"gop_{gop}": _figures(videos, style, order, gop) for gop in GOPS},
    }


def _figures(videos: Videos, style: SlidingStyle, order: Order, gop: int) -> dict[str, object]:
    """Figures of one choice, with a key frame every `gop` frames."""
    plan = make_plan(videos.num_frames, style, order, key_frames=_key_frames(videos, gop))
    share = Share(batch_size=BATCH)
    frame_bytes = np.full(len(videos), FRAME_BYTES)
    pick = PickFrames(style=style)
    footprint = measure(plan.segments(share), videos, pick, frame_bytes=frame_bytes, batch_size=BATCH, ahead=4)  # type: ignore[arg-type]
    clips = footprint.pool_bytes // (FRAME_BYTES * style.samples_per_window)
    buffer = buffered_order(np.arange(len(plan)), plan.first_window, clips, seed=0)
    return {
        "footprint": asdict(footprint),
        "planned": _quality(plan.order, plan),
        "buffer_of_same_memory": {"clips": clips, **_quality(buffer, plan)},
        "decoded_per_frame": _decoded(plan, videos, style, gop),
    }


def _key_frames(videos: Videos, gop: int) -> np.ndarray:
    """Numbers of video and frame of all key frames."""
    pairs = [(video, frame) for video, length in enumerate(videos.num_frames) for frame in range(0, int(length), gop)]
    return np.array(pairs, np.int32)


def _quality(order: np.ndarray, plan: Plan) -> dict[str, float]:
    """Both figures of one order."""
    return {
        "videos_per_batch": videos_per_batch(order, plan.first_window, BATCH),
        "neighbour_distance": neighbour_distance(order, plan.first_window),
    }


def _decoded(plan: Plan, videos: Videos, style: SlidingStyle, gop: int) -> float:
    """Frames that pass through the decoder for each frame that there is, with a key frame every `gop` frames."""
    decoded = 0
    for segment in plan.segments(Share(batch_size=BATCH)):
        frames = style.frames(segment.windows[[0, -1]], int(videos.num_frames[segment.video]))
        decoded += int(frames.max() - frames.min() // gop * gop + 1)
    return decoded / int(videos.num_frames.sum())
