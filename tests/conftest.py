"""What the tests share: the real test videos, and tiny labelled ones whose every frame can be told from the others."""

import gc
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from servers import Bucket, FaultProxy, FaultyBucket, FolderServer, S3Server, isolate, moto_process

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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[S3Server]:
    """moto's S3 server, one process for the whole session."""
    with moto_process(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path) -> Iterator[Bucket]:
    """An empty bucket of a real S3 server: `s3.url`, `s3.put(key, data)`, `s3.put_folder`, `s3.get`, `s3.list`.

    Until the test ends, the environment holds the credentials and the endpoint, and nothing of the user's own.
    """
    yield from _bucket(s3_server, monkeypatch, tmp_path)


@pytest.fixture
def faulty_s3(s3, monkeypatch) -> Iterator[FaultyBucket]:
    """As `s3`, behind a proxy that does nothing until told: `faulty_s3.proxy.inject({"slow_down": 0.1}, seed=0)`.

    `proxy.injected`, `proxy.forwarded` and `proxy.requests` tell what happened; servers.FAULTS says what there is.
    """
    with FaultProxy(s3.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield FaultyBucket(s3.server, s3.name, proxy=proxy)


@pytest.fixture
def radosgw(monkeypatch, tmp_path) -> Iterator[Bucket]:
    """As `s3`, in Ceph's radosgw, where one is running.

    WILDSTREAM_TEST_RADOSGW is its endpoint, such as http://127.0.0.1:7480; WILDSTREAM_TEST_RADOSGW_KEY and
    WILDSTREAM_TEST_RADOSGW_SECRET are the keys of a user who may make buckets.
    """
    endpoint = os.environ.get("WILDSTREAM_TEST_RADOSGW")
    if not endpoint:
        pytest.skip("no radosgw; name its endpoint in WILDSTREAM_TEST_RADOSGW, and its keys in …_KEY and …_SECRET")
    key, secret = (os.environ[f"WILDSTREAM_TEST_RADOSGW_{name}"] for name in ("KEY", "SECRET"))
    yield from _bucket(S3Server(endpoint, key, secret), monkeypatch, tmp_path)


def _bucket(server: S3Server, monkeypatch, tmp_path) -> Iterator[Bucket]:
    isolate(monkeypatch, tmp_path)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = server.make_bucket()
    yield bucket
    bucket.remove()


@pytest.fixture
def http_folder(monkeypatch, tmp_path) -> Iterator[FolderServer]:
    """A folder, `http_folder.root`, that a server gives at `http_folder.url`, with ranges and ETags."""
    isolate(monkeypatch, tmp_path)
    root = tmp_path / "http"
    root.mkdir()
    with FolderServer(root) as server:
        yield server


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
