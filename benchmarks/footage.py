"""What is measured on: real footage, cut to one length and encoded anew into the key frames and size of a case.

The footage is that of the tests (`WILDSTREAM_TEST_DATA`, else `../shared/data`); where it is missing, a fish tank is
drawn. Everything lies below build/benchmarks and is made once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import count
from pathlib import Path

import av
import numpy as np

from wildstream.fishtank import make_fishtank
from wildstream.shards.index import open_index
from wildstream.shards.pack import pack

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "benchmarks"
ORIGINALS = Path(os.environ.get("WILDSTREAM_TEST_DATA", ROOT.parent / "shared" / "data")) / "originals"
NAMES = ("people_one_by_one.mp4", "flies_120s.mp4", "mouse_openfield.mp4", "cars.mp4")
RATE = 30
"""Frames per second that all footage is given."""

Address = tuple[str, int]
"""One window: key of its video, first frame."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting of the comparison, and the data for it."""

    shards: Path
    """A packed split; each video is a shard of its own, so that workers can share them evenly."""
    step: int
    """Frames from one window to the next."""
    gop: int
    """Frames from one key frame to the next."""
    height: int
    """Pixels; the width is 16/9 of it."""
    window: int = 16
    """Frames of a window."""
    size: int = 224
    """Pixels of a side of what is delivered."""
    batch: int = 8
    """Clips per batch."""
    workers: int = 2
    """Threads or processes."""

    @property
    def name(self) -> str:
        """The setting in words, as every figure is given with."""
        return f"step {self.step}, GOP {self.gop}, {self.height}p"

    @cached_property
    def num_frames(self) -> dict[str, int]:
        """Frames of each video, by key."""
        index = open_index(self.shards)
        return dict(zip(index.keys, (int(frames) for frames in index.num_frames), strict=True))

    @property
    def tars(self) -> list[str]:
        """The shards, as `webdataset.WebDataset` takes them."""
        return [str(path) for path in sorted(self.shards.glob("*.tar"))]

    def starts(self, key: str) -> range:
        """First frames of the windows of one video: whole windows only, without padding."""
        return range(0, self.num_frames[key] - self.window + 1, self.step)

    def addresses(self, *, seed: int | None = 0) -> list[Address]:
        """All windows, in an order of their own for each seed; with None from the first to the last."""
        found = [(key, start) for key in sorted(self.num_frames) for start in self.starts(key)]
        order = range(len(found)) if seed is None else np.random.default_rng(seed).permutation(len(found))
        return [found[place] for place in order]


def make_case(*, step: int, gop: int, height: int, frames: int = 600, videos: int = 4, drawn: bool = False) -> Case:
    """The data of one case, encoded and packed where that is not yet done; `drawn` takes the fish tank in any case."""
    real = not drawn and all((ORIGINALS / name).is_file() for name in NAMES)
    origin = "footage" if real else "fishtank"
    folder = CACHE / f"{origin}_{videos}x{frames}_gop{gop}_{height}p"
    if not (folder / "shards" / "train").is_dir():
        sources = [ORIGINALS / name for name in NAMES] if real else _fishtank(videos, frames, height)
        for number in range(videos):
            target = folder / "source" / "train" / f"{number:02d}" / f"{number:02d}.mp4"
            _encode(sources[number % len(sources)], target, frames=frames, gop=gop, height=height)
            labels = np.random.default_rng(number).random((frames // 10 + 1, 2)) < 0.3
            rows = np.repeat(labels, 10, axis=0)[:frames].astype(int).tolist()
            target.with_suffix(".tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
        (folder / "source" / "categories.json").write_text('["first", "second"]')
        report = pack(folder / "source", folder / "shards", format="frames", shard_bytes=1, progress=False)
        if report.refused:
            raise RuntimeError(f"the footage was refused: {report.refused}")
    return Case(shards=folder / "shards" / "train", step=step, gop=gop, height=height)


def is_real(case: Case) -> bool:
    """Whether a case is of real footage."""
    return "footage" in case.shards.parts[-3]


def _fishtank(videos: int, frames: int, height: int) -> list[Path]:
    """Drawn videos, in place of real ones."""
    folder = CACHE / f"fishtank_{videos}x{frames}_{height}p_drawn"
    make_fishtank(folder, videos={"train": videos}, frames=frames, size=(height, _width(height)), fps=float(RATE))
    return sorted(folder.glob("train/*/*.mp4"))


def _width(height: int) -> int:
    """Width of a 16:9 frame; even."""
    return height * 8 // 9 * 2


def _encode(source: Path, target: Path, *, frames: int, gop: int, height: int) -> None:
    """So many frames of a video, filling 16:9, with a key frame every `gop` frames and nowhere else."""
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.mp4")
    options = {"crf": "23", "preset": "medium", "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0"}
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = _width(height), height, "yuv420p"
        for number, frame in zip(range(frames), _endless(source, height), strict=False):
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            frame.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    partial.rename(target)


def _endless(source: Path, height: int) -> Iterator[av.VideoFrame]:
    """The frames of a video, over and over, scaled and cropped to fill 16:9."""
    width = _width(height)
    for _ in count():
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            graph = av.filter.Graph()
            graph.link_nodes(
                graph.add_buffer(template=stream, time_base=stream.time_base),
                graph.add("scale", f"{width}:{height}:force_original_aspect_ratio=increase"),
                graph.add("crop", f"{width}:{height}"),
                graph.add("format", "yuv420p"),
                graph.add("buffersink"),
            ).configure()
            for frame in container.decode(stream):
                graph.vpush(frame)
                yield graph.vpull()
