r"""The demo's data: a fish tank, drawn and labelled frame by frame, so that training can be tried without a download.

In: a folder and a seed. Out: videos in WildFins' frame-annotated layout.

    root/categories.json                    ["chase", "dart", "spin", "surface"]
    root/<split>/<video_id>/<video_id>.mp4  H.264
    root/<split>/<video_id>/<video_id>.tsv  no header; 0 or 1, a row per frame, a column per category

A behaviour is a pace, never a place: each fish follows one closed path all the time, and its label says only whether it
does so fast. So a single frame tells nothing of the labels, and motion tells everything.

Shape suffixes: T frames (of a sprite: each where it is in that frame), K categories, H rows and W columns of the tank,
Y rows and X columns of a sprite's box, C colours. Colours are in [0, 1]; lengths are in pixels.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from wildstream.errors import ConfigError
from wildstream.ffmpeg import ensure_ffmpeg

CATEGORIES = ("chase", "dart", "spin", "surface")
DEFAULT_VIDEOS: Mapping[str, int] = MappingProxyType({"train": 28, "val": 6, "test": 6})

Array = NDArray[np.floating]  # float32 in all that is drawn
Mask = NDArray[np.bool_]
Jobs = Iterable[Future[None]]

_COLOURS = bytes.fromhex("ff7a18 ffc814 f03232 ff6ea5 3c55f0 9b37d7 78d732 fff0dc")  # what the fish may wear
_CHUNK = 32  # frames drawn at once: they stay in the processor's cache
_STRETCH = 85  # frames that hold one bout of each behaviour
_X264 = {"threads": "1", "x264-params": "mbtree=0"}  # the same bytes each time, which the macroblock tree breaks
_PARTIAL = ".partial"  # folder of what is not finished


def make_fishtank(
    root: Path,
    *,
    seed: int = 0,
    videos: Mapping[str, int] = DEFAULT_VIDEOS,
    frames: int = 256,
    size: tuple[int, int] = (144, 192),
    fps: float = 25.0,
    progress: Callable[[Jobs], Jobs] = iter,
) -> None:
    """Write the videos and labels that are not yet under `root`; where all are there, do nothing.

    `videos` are the numbers of videos per split, `size` is (height, width) in pixels, `progress` wraps the list of
    videos yet to make (as `tqdm` does). A video depends on seed, size, frames and its own name alone, and appears whole
    or not at all. Raises ConfigError for an impossible option, and where `root` was made with others.
    """
    if frames < 2 or min(size) < 32 or size[0] % 2 or size[1] % 2:
        raise ConfigError(f"frames={frames}, size={size}: take at least 2 frames, and even sizes of at least 32.")
    ensure_ffmpeg()
    _claim(root, {"seed": seed, "frames": frames, "size": size, "fps": fps})
    folders = [root / split / f"{split}_{number:02d}" for split, count in videos.items() for number in range(count)]
    missing = [folder for folder in folders if not folder.exists()]
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        for job in progress([pool.submit(_write_video, root, folder, seed, frames, size, fps) for folder in missing]):
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(root / _PARTIAL, ignore_errors=True)


def _claim(root: Path, options: Mapping[str, object]) -> None:
    """Write the options and the categories into `root`, or compare them with those found there."""
    for name, content in ((".fishtank.json", options), ("categories.json", CATEGORIES)):
        path, partial, text = root / name, root / _PARTIAL / name, json.dumps(content)
        if not path.exists():
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text)
            partial.replace(path)
        elif path.read_text() != text:
            raise ConfigError(f"{path} says {path.read_text()}, not {text}. Take those options, or another folder.")


def _write_video(root: Path, folder: Path, seed: int, frames: int, size: tuple[int, int], fps: float) -> None:
    """Draw, encode (on one thread: videos are made side by side) and label a video aside, then move it to its place."""
    from torchcodec.encoders import VideoEncoder  # loads only after ensure_ffmpeg

    rng = np.random.default_rng([seed, *folder.name.encode()])
    active_TK = np.stack([_draw_bouts(rng, frames) for _ in CATEGORIES], axis=1)
    video_TCHW = torch.from_numpy(_draw_video(rng, active_TK, size)).permute(0, 3, 1, 2).contiguous()
    video = root / _PARTIAL / folder.name / f"{folder.name}.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(video.with_suffix(".tsv"), active_TK, fmt="%d", delimiter="\t")
    VideoEncoder(video_TCHW, frame_rate=fps).to_file(
        video, codec="libx264", preset="veryfast", crf=23, pixel_format="yuv420p", extra_options=_X264
    )
    folder.parent.mkdir(exist_ok=True)
    video.parent.rename(folder)


def _draw_bouts(rng: np.random.Generator, frames: int) -> Mask:
    """When one behaviour is shown (T,): a bout of 25 to 42 % somewhere in each stretch of the video."""
    active_T = np.zeros(frames, dtype=np.bool_)
    for first, end in pairwise(np.linspace(0, frames, max(2, frames // _STRETCH) + 1).astype(int)):
        duration = max(1, round(rng.uniform(0.25, 0.42) * (end - first)))
        start = rng.integers(first, end - duration + 1)
        active_T[start : start + duration] = True
    return active_T


def _draw_phase(rng: np.random.Generator, active_T: Mask) -> Array:
    """Radians along the closed path (T,): a round takes 180 to 300 frames at leisure, 20 to 28 in a bout."""
    slow, fast = 2 * np.pi / rng.uniform(180, 300), 2 * np.pi / rng.uniform(20, 28)
    pace_T = np.convolve(np.pad(np.where(active_T, fast, slow), 1, mode="edge"), np.full(3, 1 / 3), mode="valid")
    return (rng.uniform(0, 2 * np.pi) + (2 * rng.integers(2) - 1) * np.cumsum(pace_T)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Fish:
    """One swimmer: the closed path it follows, where on it it is in each frame, and its looks."""

    phase_T: Array
    length: float  # from the middle to the nose, over the tank's height
    girth: float  # of the body, over its length
    centre: tuple[float, float]  # x, y of the path, over the tank's width and height
    reach: tuple[float, float]  # half width and half height of the path, over the tank's width and height
    body_C: Array
    accent_C: Array
    bars: int
    rolls: bool = False  # turns on the spot, instead of looking where it goes


def _cast(rng: np.random.Generator, active_TK: Mask) -> list[_Fish]:
    """The five fish of a video, back to front."""
    chase_T, dart_T, spin_T, surface_T = (_draw_phase(rng, active_T) for active_T in active_TK.T)
    middle = (rng.uniform(0.44, 0.56), rng.uniform(0.45, 0.55))
    side = float(rng.uniform(0.1, 0.3) * rng.choice((-1, 1)))
    lane, spot = (rng.uniform(0.47, 0.53), rng.uniform(0.25, 0.75)), (0.5 + side, rng.uniform(0.3, 0.7))
    colours_FC = rng.permutation(np.frombuffer(_COLOURS, np.uint8).reshape(-1, 3)).astype(np.float32) / 255
    looks = list(zip(colours_FC, colours_FC[::-1], rng.choice((0, 4, 8), len(colours_FC)).tolist(), strict=True))
    size_F = rng.uniform(0.9, 1.1, 5).tolist()
    cast = [
        _Fish(chase_T, 0.13 * size_F[0], 0.42, middle, (0.32, 0.24), *looks[0]),
        _Fish(chase_T + np.float32(0.75), 0.13 * size_F[1], 0.42, middle, (0.32, 0.24), *looks[1]),
        _Fish(dart_T, 0.19 * size_F[2], 0.36, lane, (0.36, 0.02), *looks[2]),
        _Fish(spin_T, 0.15 * size_F[3], 0.80, spot, (0.01, 0.01), *looks[3], rolls=True),
        _Fish(surface_T, 0.15 * size_F[4], 0.70, (0.5 - side, 0.47), (0.02, 0.32), *looks[4]),
    ]
    return [cast[index] for index in rng.permutation(len(cast))]


def _draw_video(rng: np.random.Generator, active_TK: Mask, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The whole video, uint8 RGB (T, H, W, C)."""
    tank_HWC, caustics_HW, cast = _draw_tank(rng, *size), _draw_caustics(rng, *size), _cast(rng, active_TK)
    weeds, bubbles = rng.random((rng.integers(4, 8), 4)).tolist(), rng.random((10, 4)).tolist()
    light, noise = rng.uniform(0.85, 1.1), np.float32(rng.uniform(0.004, 0.014))
    video_THWC = np.empty((len(active_TK), *size, 3), dtype=np.uint8)
    for first in range(0, len(video_THWC), _CHUNK):
        time_T = np.arange(first, min(first + _CHUNK, len(video_THWC)), dtype=np.float32)
        canvas_THWC = tank_HWC * np.stack([_shimmer(caustics_HW, int(time)) for time in time_T])
        for weed in weeds:
            _draw_weed(canvas_THWC, time_T, *weed)
        for fish in cast:
            _draw_fish(canvas_THWC, time_T, fish)
        for bubble in bubbles:
            _draw_bubble(canvas_THWC, time_T, *bubble)
        canvas_THWC += noise * rng.standard_normal((*canvas_THWC.shape[:3], 1), dtype=np.float32)
        video_THWC[first : first + _CHUNK] = np.clip(canvas_THWC * (255 * light), 0, 255)
    return video_THWC


def _draw_tank(rng: np.random.Generator, height: int, width: int) -> Array:
    """Still water, darker with depth, above pebbles (H, W, C)."""
    bright_H11 = np.linspace(1, 0, height)[:, None, None] ** 1.4
    shallow_C, deep_C = np.array([[0.52, 0.86, 0.90], [0.05, 0.26, 0.44]]) + rng.uniform(-0.06, 0.06, (2, 3))
    tank_HWC = np.repeat(bright_H11 * shallow_C + (1 - bright_H11) * deep_C, width, axis=1).astype(np.float32)
    x_T, y_T = rng.uniform(0, width, 3 * width), np.sort(rng.uniform(0.92, 1, 3 * width)) * height
    corner_2T, dx_T1X, dy_TY1 = _box(tank_HWC, x_T, y_T, 0.04 * height, 0.04 * height)
    radius_T11 = rng.uniform(0.012, 0.03, (len(x_T), 1, 1)) * height
    colour_T11C = rng.uniform(0.3, 0.75, (len(x_T), 1, 1, 1)) * rng.uniform((0.9, 0.75, 0.55), (1.1, 0.95, 0.75))
    colour_TY1C = colour_T11C * (1 - 0.35 * dy_TY1 / radius_T11)[..., None]
    _paste([tank_HWC] * len(x_T), corner_2T, colour_TY1C, _cover(radius_T11 - np.hypot(0.75 * dx_T1X, dy_TY1)))
    return tank_HWC


def _draw_caustics(rng: np.random.Generator, height: int, width: int) -> Array:
    """Wavy lines of light, 0 to 1, whose borders join (H, W)."""
    waves_H1, waves_W = np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width) * width
    band_HW = np.exp(-(((np.hypot(2 * waves_H1, waves_W) - 5) / 2) ** 2))
    surface_HW = np.fft.ifft2(np.fft.fft2(rng.standard_normal((height, width))) * band_HW).real
    return np.asarray(np.exp(-3 * np.abs(surface_HW / surface_HW.std())), np.float32)


def _shimmer(caustics_HW: Array, time: int) -> Array:
    """How bright the water is at one time (H, W, 1): two sheets of lines that drift apart."""
    near_HW, far_HW = np.roll(caustics_HW, time // 4, 1), np.roll(caustics_HW[::-1], (time // 5, -time // 3), (0, 1))
    return np.float32(0.94) + np.float32(0.25) * np.minimum(near_HW, far_HW)[..., None]


def _draw_weed(canvas_THWC: Array, time_T: Array, x: float, size: float, tint: float, pace: float) -> None:
    """A blade that sways; all its traits are in [0, 1)."""
    height, width = canvas_THWC.shape[1:3]
    half, x_T = (0.12 + 0.14 * size) * height, np.full_like(time_T, x * width)
    corner_2T, dx_T1X, dy_TY1 = _box(canvas_THWC, x_T, 0 * x_T + 0.97 * height - half, 0.08 * height, half)
    up_TY1 = np.clip(0.5 - dy_TY1 / (2 * half), 0, 1)
    swing_TY1 = 0.14 * half * up_TY1 * np.sin((0.03 + 0.03 * pace) * time_T[:, None, None] + 40 * x - 4 * up_TY1)
    blade_TY1 = 0.026 * height * np.sqrt(1 - up_TY1) * (up_TY1 > 0)
    colour_TY1C = np.array([0.10 + 0.25 * tint, 0.42, 0.20], np.float32) * (0.6 + 0.7 * up_TY1)[..., None]
    _paste(canvas_THWC, corner_2T, colour_TY1C, 0.9 * _cover(blade_TY1 - np.abs(dx_T1X - swing_TY1) - 0.3))


def _draw_bubble(canvas_THWC: Array, time_T: Array, x: float, size: float, pace: float, start: float) -> None:
    """A bubble that rises again and again; all its traits are in [0, 1)."""
    height, width = canvas_THWC.shape[1:3]
    radius, rise_T = (0.008 + 0.018 * size) * height, (start + (0.004 + 0.006 * pace) * time_T) % 1
    x_T, y_T = x * width + 0.012 * height * np.sin(20 * rise_T), (1.1 - 1.2 * rise_T) * height
    corner_2T, dx_T1X, dy_TY1 = _box(canvas_THWC, x_T, y_T, radius + 1, radius + 1)
    distance_TYX = np.hypot(dx_T1X, dy_TY1)
    glint_TYX = _cover(0.3 * radius - np.hypot(dx_T1X + 0.35 * radius, dy_TY1 + 0.35 * radius))
    rim_TYX = np.maximum(glint_TYX, _cover(0.5 - np.abs(distance_TYX - radius + 0.5)))
    _paste(canvas_THWC, corner_2T, np.ones(3, np.float32), np.maximum(0.6 * rim_TYX, 0.12 * (distance_TYX < radius)))


def _draw_fish(canvas_THWC: Array, time_T: Array, fish: _Fish) -> None:
    """One fish in each frame: placed on its path, turned, and undulating."""
    height, width = canvas_THWC.shape[1:3]
    length, phase_T = fish.length * height, fish.phase_T[time_T.astype(int)]
    x_T = (fish.centre[0] + fish.reach[0] * np.cos(phase_T)) * width
    y_T = (fish.centre[1] + fish.reach[1] * np.sin(phase_T)) * height
    corner_2T, dx_T1X, dy_TY1 = _box(canvas_THWC, x_T, y_T, 1.1 * length, 1.1 * length)
    along_TYX, across_TYX = _turn(fish, phase_T[:, None, None], dx_T1X / length, dy_TY1 / length)
    beat_T11 = (0.35 * time_T + 5 * np.abs(phase_T - fish.phase_T[0]))[:, None, None]
    across_TYX += 0.11 * (0.5 - 0.5 * along_TYX) ** 2 * np.sin(beat_T11 + 3 * along_TYX)
    _paste(canvas_THWC, corner_2T, *_sprite(fish, length, along_TYX, across_TYX))


def _turn(fish: _Fish, phase_T11: Array, dx_T1X: Array, dy_TY1: Array) -> tuple[Array, Array]:
    """Picture's axes to the fish's: along (nose 1, tail -1) and across (belly positive); narrow where it turns back."""
    facing_T11 = np.ones_like(phase_T11) if fish.rolls else -np.sin(phase_T11)
    pitch_T11 = phase_T11 if fish.rolls else 0.9 * fish.reach[1] / sum(fish.reach) * np.cos(phase_T11)
    dx_T1X = dx_T1X * np.copysign(1, facing_T11)
    cosine_T11, sine_T11 = np.cos(pitch_T11), np.sin(pitch_T11)
    along_TYX = (dx_T1X * cosine_T11 + dy_TY1 * sine_T11) / np.sqrt(0.15 + 0.85 * facing_T11**2)
    return along_TYX, dy_TY1 * cosine_T11 - dx_T1X * sine_T11


def _sprite(fish: _Fish, length: float, along_TYX: Array, across_TYX: Array) -> tuple[Array, Array]:
    """Colour (T, Y, X, C) and coverage (T, Y, X) of a fish with body, tail, fins and eye."""
    from_tail_TYX = np.clip((along_TYX + 0.62) / 1.62, 0, 1)
    depth_TYX = 2 * fish.girth * from_tail_TYX**0.8 * np.sqrt(1 - from_tail_TYX) - 0.04 - np.abs(across_TYX)
    crest_TYX = (0.32 - 0.08 * np.sign(across_TYX)) * fish.girth * np.clip(1 - 4 * along_TYX**2, 0, 1)
    fork_TYX = along_TYX + 0.75 + np.minimum(0.25, 0.7 * np.abs(across_TYX))
    tail_TYX = np.minimum(np.minimum(-0.28 - 0.75 * along_TYX, 1 + along_TYX) - np.abs(across_TYX), fork_TYX)
    skin_TYX = _cover(depth_TYX * length)
    fins_TYX = _cover(np.maximum(depth_TYX + crest_TYX, tail_TYX) * length)
    colour_TYXC = fish.accent_C * (0.8 + 0.12 * np.sin(40 * across_TYX + 14 * along_TYX))[..., None]
    _blend(colour_TYXC, _scales(fish, along_TYX, across_TYX, depth_TYX * length), skin_TYX)
    eye_TYX = np.hypot(along_TYX - 0.6, across_TYX + 0.2 * fish.girth)
    for radius, grey in ((0.13, 1.0), (0.08, 0.05)):
        _blend(colour_TYXC, grey, _cover((radius - eye_TYX) * length))
    return colour_TYXC, np.maximum(skin_TYX, 0.85 * fins_TYX)


def _scales(fish: _Fish, along_TYX: Array, across_TYX: Array, depth_TYX: Array) -> Array:
    """Colour of the skin (T, Y, X, C): bars behind the head, a pale belly, a dark outline."""
    skin_TYXC = np.broadcast_to(fish.body_C, (*along_TYX.shape, 3)).copy()
    _blend(skin_TYXC, fish.accent_C, _cover(2 * np.sin(fish.bars * (along_TYX + 0.2)) - 1.1) * (along_TYX < 0.42))
    _blend(skin_TYXC, 1 + 0.4 * skin_TYXC, np.clip(across_TYX / fish.girth, -0.35, 0.6))
    return skin_TYXC * np.clip(0.55 + depth_TYX / 4, 0, 1)[..., None]


def _box(canvas: Array, x_T: Array, y_T: Array, half_x: float, half_y: float) -> tuple[NDArray[np.int64], Array, Array]:
    """Boxes about points, within the canvas: left and top (2, T); pixels from the point (T, 1, X), (T, Y, 1)."""
    height, width = canvas.shape[-3:-1]
    x_X, y_Y1 = np.arange(min(width, 2 * half_x + 2) // 1), np.arange(min(height, 2 * half_y + 2) // 1)[:, None]
    left_T, top_T = np.clip(x_T - half_x, 0, width - len(x_X)) // 1, np.clip(y_T - half_y, 0, height - len(y_Y1)) // 1
    dx_T1X, dy_TY1 = (left_T - x_T)[:, None, None] + x_X, (top_T - y_T)[:, None, None] + y_Y1
    return np.stack([left_T, top_T]).astype(np.int64), dx_T1X.astype(np.float32), dy_TY1.astype(np.float32)


def _paste(canvases: Iterable[Array], corner_2T: NDArray[np.int64], colour_TYXC: Array, cover_TYX: Array) -> None:
    """Blend a box into each canvas (H, W, C), in place."""
    colours = np.broadcast_to(colour_TYXC, (*cover_TYX.shape, 3))
    for canvas, left, top, colour, cover in zip(canvases, *corner_2T, colours, cover_TYX, strict=True):
        _blend(canvas[top : top + len(cover), left : left + cover.shape[1]], colour, cover)


def _blend(canvas: Array, colour: Array | float, cover: Array) -> None:
    canvas += cover[..., None] * (colour - canvas)


def _cover(inside: Array) -> Array:
    """How much of a pixel is covered, from how far inside an edge it lies."""
    return np.asarray(np.clip(inside + 0.5, 0, 1))
