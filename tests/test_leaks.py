"""Leaks: hashes of pictures, the nearest of them, and what splits share, on made and on real videos."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import moving_pattern, write_rows, write_video
from hypothesis import given
from hypothesis import strategies as st
from indexes import make_video, write_index

import wildstream as ws
from wildstream.cli import main
from wildstream.errors import ConfigError
from wildstream.shards.perceptual import NEAR, hash_frame, nearest


def picture(seed: int, height: int = 48, width: int = 64) -> torch.Tensor:
    return moving_pattern(seed, 1, height, width)[0]


def test_the_hash_is_that_of_the_definition():
    """By means of whole blocks: 80 × 90 pixels are 8 × 9 of 10 × 10."""
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 80, 90), np.uint8))
    grey = np.tensordot([0.299, 0.587, 0.114], frame.numpy().astype(float), axes=1)
    blocks = grey.reshape(8, 10, 9, 10).mean(axis=(1, 3))
    bits = "".join(str(int(blocks[row, n] < blocks[row, n + 1])) for row in range(8) for n in range(8))
    assert blocks.std() > 4
    assert hash_frame(frame) == int(bits, 2)


def test_alike_pictures_have_near_hashes_and_others_have_not():
    first = hash_frame(picture(0))
    smaller = torch.nn.functional.interpolate(picture(0)[None].float(), size=(25, 31), mode="area")[0]
    assert (first ^ hash_frame(smaller.to(torch.uint8))).bit_count() <= 2
    assert (first ^ hash_frame((picture(0) * 0.8).to(torch.uint8))).bit_count() <= 2
    assert (first ^ hash_frame(picture(1))).bit_count() > 3 * NEAR


@pytest.mark.parametrize("level", [0, 16, 255])
def test_flat_pictures_have_none(level):
    noise = torch.from_numpy(np.random.default_rng(0).integers(-6, 7, (3, 48, 64)))
    assert hash_frame((noise + level).clamp(0, 255).to(torch.uint8)) is None


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 63), st.integers(0, 99))
def test_the_nearest_is_that_of_brute_force(num_queries, num_others, near, seed):
    random = np.random.default_rng(seed)
    base = random.integers(0, 2**64, 3, np.uint64)  # near each other, or far

    def some(number):
        flips = random.integers(0, 2**64, (number, 4), np.uint64)
        return random.choice(base, number) ^ np.bitwise_and.reduce(flips, axis=1)

    queries, others = some(num_queries), some(num_others)
    place, bits, count = nearest(queries, others, near=near)
    for number, query in enumerate(queries.tolist()):
        distances = [(query ^ other).bit_count() for other in others.tolist()]
        is_near = bool(distances) and min(distances) <= near
        assert place[number] == (distances.index(min(distances)) if is_near else -1)
        assert bits[number] == (min(distances) if is_near else 0)
        assert count[number] == sum(distance <= near for distance in distances)


def test_the_nearest_of_many_is_found_block_by_block(monkeypatch):
    random = np.random.default_rng(0)
    queries, others = random.integers(0, 2**64, 1000, np.uint64), random.integers(0, 2**64, 777, np.uint64)
    whole = nearest(queries, others, near=20)
    assert (whole[0] >= 0).any()
    monkeypatch.setattr("wildstream.shards.perceptual._BLOCK", 777 * 7)
    for one, other in zip(whole, nearest(queries, others, near=20), strict=True):
        assert (one == other).all()


def leaks_of(report):
    return [(leak.kind, leak.split, leak.key, leak.other_split, leak.other_key, leak.more) for leak in report.leaks]


def test_sources_and_checksums_are_told_once_for_each_pair_of_splits(tmp_path):
    """The gravest reason alone, the first video there, and how many more there are."""
    bits = "ab" * 32
    rows = {
        "train": [make_video("t1", [[1]], sha256=bits), make_video("t2", [[1]], sha256=bits, source="s.mp4")],
        "val": [make_video("v1", [[1]], sha256=bits, source="s.mp4"), make_video("v2", [[1]])],
        "test": [make_video("e1", [[1]], source="s.mp4"), make_video("e2", [[1]], source="v2.mp4")],
    }
    indexes = {name: write_index(tmp_path / name, videos, categories=["x"]) for name, videos in rows.items()}
    found = ws.find_leaks(indexes, frames=False)
    assert leaks_of(found) == [
        ("checksum", "val", "v1", "train", "t1", 1),
        ("source", "test", "e1", "train", "t2", 0),
        ("source", "test", "e1", "val", "v1", 0),
        ("source", "test", "e2", "val", "v2", 0),
    ]
    assert found.compared == 0
    with pytest.raises(ConfigError, match=r"leaks are between splits, got train\. Give two or more"):
        ws.find_leaks({"train": indexes["train"]})
    for options, message in (({"near": -1}, "near=-1 must lie"), ({"workers": 0}, "workers=0 must be at least 1")):
        with pytest.raises(ConfigError, match=message):
            ws.find_leaks(indexes, frames=False, **options)


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> Path:
    """Packed: val has a train video in other quality and size, one after black frames, one all black, and one of its
    own; others are not alike."""
    root = tmp_path_factory.mktemp("copies")
    (root / "categories.json").write_text('["x"]')
    black = torch.zeros(30, 3, 48, 64, dtype=torch.uint8)
    videos = {
        "train/a": moving_pattern(1),
        "train/b": moving_pattern(2),
        "val/copy": torch.nn.functional.interpolate(moving_pattern(1).float(), size=(96, 128)).to(torch.uint8),
        "val/late": torch.cat([black, moving_pattern(2)[25:]]),
        "val/black": black,
        "val/own": moving_pattern(3),
    }
    for name, frames in videos.items():
        write_video(root / f"{name}.mp4", frames, options={"crf": "33", "threads": "1"})
        write_rows(root / f"{name}.tsv", np.ones((len(frames), 1), np.uint8))
    assert not ws.pack(root, root / "shards", format="frames", progress=False).refused
    return root / "shards"


def test_copies_are_found_by_their_first_frames_that_show_something(copies, capsys):
    indexes = {name: ws.open_index(copies / name) for name in ("train", "val")}
    found = ws.find_leaks(indexes, progress=False)
    assert leaks_of(found) == [("frames", "val", "copy", "train", "a", 0)]
    assert found.flat == ["val: black"]
    assert (found.compared, found.unreadable) == (5, {})
    # 25 frames in one second: frame 25 of the late one is black, frame 50 shows frame 45 of b.
    assert not [leak for leak in found.leaks if leak.key == "late"]
    assert main(["leaks", str(copies), "--near", "0"]) in (0, 3)
    assert main(["leaks", str(copies), "--no-frames"]) == 0
    assert main(["leaks", str(copies)]) == 3
    told = capsys.readouterr().out
    assert "val: copy begins like (" in told
    assert "not compared: 1 videos that begin with flat pictures, such as val: black" in told
    assert "1 leaks, first frames of 5 videos compared" in told


def test_a_video_without_frames_is_named(copies, tmp_path):
    shutil.copytree(copies, tmp_path / "shards")
    shard = tmp_path / "shards/val/000000.tar"
    index = ws.open_index(tmp_path / "shards/val")
    place = index.place(index.keys.index("own"))
    data = bytearray(shard.read_bytes())
    data[place[1] : place[1] + place[2]] = bytes(place[2])
    shard.write_bytes(data)
    found = ws.find_leaks(
        {name: ws.open_index(tmp_path / "shards" / name) for name in ("train", "val")}, progress=False
    )
    assert list(found.unreadable) == ["val: own"]
    assert leaks_of(found) == [("frames", "val", "copy", "train", "a", 0)]


def test_splits_of_one_name_are_told_by_their_places(copies, tmp_path, capsys):
    shutil.copytree(copies / "train", tmp_path / "train")
    assert main(["leaks", f"{copies}/train", f"{tmp_path}/train", "--no-frames", "--out", f"{tmp_path}/all.json"]) == 3
    assert f"checksum  {tmp_path}/train: a has the same bytes as {copies}/train: a\n" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "all.json").read_text())["leaks"]) == 2
    assert main(["leaks", f"{copies}/train"]) == 1
    assert "leaks are between splits, got train" in capsys.readouterr().err
    assert main(["leaks", f"{tmp_path}/nothing"]) == 1
    assert "no dataset.json in" in capsys.readouterr().err


def test_only_the_bytes_of_the_first_frames_are_read(shared_data, tmp_path, s3):
    """Of a long file in object storage, by its marks; and the hash is that of the whole file."""
    source = tmp_path / "source" / "all"
    source.mkdir(parents=True)
    shutil.copy(shared_data / "originals/flies_120s.mp4", source / "f.mp4")
    (source / "f.csv").write_text("start,stop,class\n0,1,x\n")
    assert not ws.pack(source.parent, tmp_path / "shards", format="events", progress=False).refused
    s3.put_folder(tmp_path / "shards/all", "all")
    local, remote = ws.open_index(tmp_path / "shards/all"), ws.open_index(f"{s3.url}/all")
    size = local.place(0)[2]
    before = remote.storage.objects.traffic["bytes"]
    found = ws.find_leaks({"here": local, "there": remote}, progress=False)
    assert found.compared == 2
    assert remote.storage.objects.traffic["bytes"] - before < size / 2


def test_clips_of_one_recording_leak_and_different_recordings_do_not(shared_data, tmp_path):
    """Cameras that stand still, and re-encoded copies, by the measured threshold."""
    ws.pack(shared_data / "clips", tmp_path / "clips", format="videos", progress=False)
    ws.pack(
        shared_data / "clips",
        tmp_path / "small",
        format="videos",
        splits=["train"],
        transcode=ws.Transcode(short_side=120, crf=35),
        progress=False,
    )
    indexes = {name: ws.open_index(tmp_path / "clips" / name) for name in ("train", "val", "test")}
    found = ws.find_leaks(indexes, progress=False)
    for leak in found.leaks:
        assert leak.key.split("/")[0] == leak.other_key.split("/")[0]
    assert {"robot/robot_3", "flies_120s/flies_120s_3"} <= {leak.key for leak in found.leaks}
    copies = {"train": indexes["train"], "small": ws.open_index(tmp_path / "small/train")}
    found = ws.find_leaks(copies, progress=False)
    assert {(leak.kind, leak.key) for leak in found.leaks} == {("source", key) for key in indexes["train"].keys}
    by_frames = write_source_anew(copies, tmp_path)
    assert {leak.key for leak in ws.find_leaks(by_frames, progress=False).leaks} == set(indexes["train"].keys)


def write_source_anew(indexes, folder):
    """The same with other source files, as if packed on another machine: pictures alone tell."""
    for name, index in indexes.items():
        rows = [row | {"ctime": row["ctime"] + len(name)} for row in index.table().to_pylist()]
        for number, row in enumerate(rows):
            row["shard"] = index.place(number)[0]
        write_index(folder / "anew" / name, rows, categories=index.categories, task="single_label")
    return {name: ws.open_index(folder / "anew" / name) for name in indexes}
