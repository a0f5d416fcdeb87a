"""Real files that loaders stumble over: each is packed whole, or refused with a reason that its owner understands."""

import json

import numpy as np
import pytest
import torch
from conftest import read_tensor, tiny_rows, write_rows

from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.shards.index import open_index
from wildstream.shards.pack import pack
from wildstream.video import decode

FRAMES = {
    "av1.mkv": 125,
    "bt709_full_range.mp4": 30,
    "corrupted.mp4": 50,
    "h264_10bits.mp4": 30,
    "h265.mp4": 10,
    "h265_10bits.mp4": 30,
    "nonzero_start.mp4": 280,
    "odd_size.mp4": 60,
    "one_frame.mp4": 1,
    "open_gop.mp4": 280,
    "rotated_180.mov": 3,
    "rotated_90.mov": 3,
    "truncated_tail.mp4": 417,
    "unordered_pts.mov": 4,
    "vfr.mp4": 120,
    "vp9.webm": 90,
}
REASONS = {
    "audio_only.mp4": "not a video that FFmpeg can open (No valid video stream found in input file)",
    "empty.mp4": "the file is empty",
    "not_a_video.mp4": "not a video that FFmpeg can open",
    "truncated.mp4": "not a video that FFmpeg can open",
}
SIZES = {"rotated_90.mov": (568, 320), "rotated_180.mov": (320, 568), "odd_size.mp4": (121, 161)}
"""Height and width of upright frames."""
LOST = {"corrupted.mp4": range(30, 50)}
"""Frames that a damaged packet costs: it is the 31st, and there is no key frame after it."""


def count_straight(path):
    """Frames that come out of torchcodec's own decoder, one after the other, until it ends or gives up."""
    ensure_ffmpeg()
    from torchcodec.decoders import VideoDecoder

    count = 0
    try:
        for _ in VideoDecoder(path, seek_mode="approximate"):
            count += 1
    except (RuntimeError, ValueError):
        pass
    return count


@pytest.fixture(scope="module")
def packed(shared_data, tmp_path_factory):
    """All edge files with a row for each frame that straight decoding gives: source, report and index."""
    root, out = tmp_path_factory.mktemp("edge"), tmp_path_factory.mktemp("edge_shards")
    (root / "categories.json").write_text(json.dumps(["a", "b", "never"]))
    for path in sorted((shared_data / "edge").iterdir()):
        folder = root / "train" / path.stem
        folder.mkdir(parents=True)
        (folder / path.name).symlink_to(path)
        write_rows(folder / f"{path.stem}.tsv", tiny_rows(0, FRAMES.get(path.name) or max(1, count_straight(path))))
    report = pack(root, out, format="frames", shard_bytes=500_000, progress=False)
    return root, report, open_index(out / "train")


def test_every_file_is_packed_or_refused(packed, shared_data):
    _, report, index = packed
    refused = {refusal.path.split("/")[-1] for refusal in report.refused}
    assert refused == set(REASONS)
    assert index.keys == sorted(name.split(".")[0] for name in FRAMES)
    assert {path.name for path in (shared_data / "edge").iterdir()} == refused | set(FRAMES)


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_understood(packed, name):
    reason = next(refusal.reason for refusal in packed[1].refused if refusal.path.endswith(f"/{name}"))
    assert REASONS[name] in reason
    assert "torchcodec" not in reason
    assert ".cpp" not in reason


@pytest.mark.parametrize("name", FRAMES)
def test_number_size_and_labels_of_the_frames(packed, name):
    root, _, index = packed
    key = name.split(".")[0]
    video = index.keys.index(key)
    assert index.num_frames[video] == FRAMES[name]
    assert np.array_equal(index.track(video).rows(), tiny_rows(0, FRAMES[name]))
    table, data = index.frame_table(video), read_tensor(root / "train" / key / name)
    numbers = [0, FRAMES[name] - 1] if FRAMES[name] > 1 else [0]
    wanted = [n for n in numbers if n not in LOST.get(name, ())]
    frames = list(dict(decode(data, wanted, table, device=torch.device("cpu"))).values())
    assert len(frames) == len(numbers) - (name in LOST)
    height, width = index.frame_size(video)
    assert all(frame.shape == (3, height, width) for frame in frames)
    assert SIZES.get(name, (height, width)) == (height, width)


@pytest.mark.parametrize("name", [name for name in FRAMES if name not in {"corrupted.mp4", "truncated_tail.mp4"}])
def test_the_number_of_frames_is_that_of_straight_decoding(shared_data, name):
    assert count_straight(shared_data / "edge" / name) == FRAMES[name]


def test_rows_for_the_promised_frames_are_refused_with_the_promise(shared_data, tmp_path):
    """A container that promises a frame more than decodes: whoever counted by the container is told so."""
    (tmp_path / "categories.json").write_text('["a", "b", "never"]')
    (tmp_path / "a.mp4").symlink_to(shared_data / "edge/truncated_tail.mp4")
    write_rows(tmp_path / "a.tsv", tiny_rows(0, 418))
    report = pack(tmp_path, tmp_path / "out", format="frames", progress=False)
    assert "has 418 rows, but 417 frames of the video decode" in report.refused[0].reason
    assert "(its container promises 418 frames)" in report.refused[0].reason
