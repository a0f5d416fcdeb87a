"""What the tests share: the real test videos, and tiny labelled ones whose every frame can be told from the others."""

import gc
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.shards.pack import pack

SHARED_DATA = Path(os.environ.get("WILDSTREAM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
TINY_FRAMES, TINY_GOP = 60, 12
TINY_CATEGORIES = ["left", "right", "never"]
TINY_VIDEOS = {"train": ["v0", "v1", "v2"], "val": ["v3"]}
X264 = {"threads": "1", "x264-params": f"keyint={TINY_GOP}:bframes=2:scenecut=0:mbtree=0"}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test videos."""
    if not (SHARED_DATA / "originals").is_dir():
        pytest.skip(f"no real test videos in {SHARED_DATA}; name their folder in WILDSTREAM_TEST_DATA")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory) -> Path:
    """Labelled videos in the frames layout, 60 frames of 64x48, B-frames, GOP 12: train v0 v1 v2, val v3."""
    root = tmp_path_factory.mktemp("tiny_source")
    (root / "categories.json").write_text(json.dumps(TINY_CATEGORIES))
    for split, names in TINY_VIDEOS.items():
        for name in names:
            seed = int(name[1:])
            video = root / split / name / f"{name}.mp4"
            write_video(video, moving_pattern(seed))
            write_rows(video.with_suffix(".tsv"), tiny_rows(seed))
    return root


@pytest.fixture(scope="session")
def tiny_shards(tiny_source, tmp_path_factory) -> Path:
    """The tiny videos, packed, two videos to a shard; not to be written to."""
    out = tmp_path_factory.mktemp("tiny_shards")
    assert not pack(tiny_source, out, format="frames", shard_bytes=two_videos(tiny_source), progress=False).refused
    return out


def moving_pattern(seed: int, num_frames: int = TINY_FRAMES, height: int = 48, width: int = 64) -> torch.Tensor:
    """(num_frames, 3, height, width) uint8: a blurred texture that moves by a pixel or two per frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator) * 255
    texture = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    frames = [torch.roll(texture, (n * (1 + seed % 2), 2 * n), dims=(1, 2)) for n in range(num_frames)]
    return torch.stack(frames).to(torch.uint8)


def write_video(path: Path, frames: torch.Tensor, *, codec: str = "libx264", options=X264, pixels="yuv420p") -> None:
    """Encode RGB frames; the same bytes each time."""
    ensure_ffmpeg()
    from torchcodec.encoders import VideoEncoder

    path.parent.mkdir(parents=True, exist_ok=True)
    VideoEncoder(frames, frame_rate=25).to_file(path, codec=codec, pixel_format=pixels, extra_options=options)


def tiny_rows(seed: int, num_frames: int = TINY_FRAMES) -> np.ndarray:
    """(num_frames, 3) of 0/1: two classes that come, go and overlap, and one that never happens."""
    rng = np.random.default_rng(seed)
    happens = np.repeat(rng.random((num_frames // 5 + 1, 2)) < 0.5, 5, axis=0)[:num_frames]
    return np.concatenate([happens, np.zeros((num_frames, 1), bool)], axis=1).astype(np.uint8)


def write_rows(path: Path, rows: np.ndarray) -> None:
    """Labels as the frames layout has them."""
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows.tolist()))


def two_videos(source: Path, split: str = "train") -> int:
    """A size of shard that holds exactly the first two videos of a split."""
    first, second, *_ = sorted((source / split).rglob("*.mp4"))
    return first.stat().st_size + second.stat().st_size


def read_tensor(path: Path) -> torch.Tensor:
    """A file as `wildstream.video` takes it."""
    data = path.read_bytes()
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def read_webdataset(*shards: Path) -> list[dict]:
    """The samples that WebDataset itself makes of shards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing its files to the garbage collector
        samples = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False, empty_check=False))
        gc.collect()
    return samples


def snapshot(folder: Path, *, but: Sequence[str] = ()) -> dict[str, tuple[int, int, int]]:
    """Inode, size and modification time of every file below a folder, to see whether one was touched."""
    stats = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats.items() if Path(name).name not in but}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
