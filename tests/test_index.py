"""The index: it tells what was packed, and says what is wrong with it when it cannot."""

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import (
    TINY_CATEGORIES,
    TINY_FRAMES,
    moving_pattern,
    read_tensor,
    tiny_rows,
    write_rows,
    write_video,
)
from tiny import frames_shards

from wildstream.errors import ShardError
from wildstream.probe import probe
from wildstream.shards.index import open_index
from wildstream.shards.index_schema import (
    DATASET_NAME,
    INDEX_NAME,
    ROWS_PER_GROUP,
    SCHEMA,
    DatasetInfo,
    make_table,
    write_info,
    write_table,
)
from wildstream.shards.pack import pack


@pytest.fixture
def copy(tiny_shards, tmp_path):
    """A packed split that may be written to."""
    return shutil.copytree(tiny_shards / "train", tmp_path / "train")


def test_the_index_says_what_was_packed(tiny_source, tiny_shards):
    index = open_index(tiny_shards / "train")
    assert index.keys == ["v0", "v1", "v2"]
    assert len(index) == 3
    assert index.categories == TINY_CATEGORIES
    assert index.num_frames.tolist() == [TINY_FRAMES] * 3
    assert index.info.model_dump(exclude={"packed_by"}) == {
        "schema_version": 1,
        "categories": TINY_CATEGORIES,
        "task": "multi_label",
        "split": "train",
        "format": "frames",
        "num_videos": 3,
        "num_frames": 3 * TINY_FRAMES,
        "shards": ["000000.tar", "000001.tar"],
        "transcode": None,
        "index": "index.parquet",
        "features": None,
    }
    for video, key in enumerate(index.keys):
        source = tiny_source / "train" / key / f"{key}.mp4"
        facts, table = probe(read_tensor(source)), index.frame_table(video)
        assert np.array_equal(index.track(video).rows(), tiny_rows(video))
        assert index.frame_size(video) == (48, 64)
        assert table.pts.tolist() == facts.pts.tolist()
        assert table.key_frames.tolist() == facts.key_frames.tolist() == [0, 12, 24, 36, 48]
        assert table.time_base == facts.time_base
        shard, offset, size = index.place(video)
        shard = Path(shard)
        assert shard.read_bytes()[offset : offset + size] == source.read_bytes()


def test_an_index_without_videos(copy):
    info = open_index(copy).info.model_copy(update={"num_videos": 0, "num_frames": 0, "shards": []})
    write_table(copy / INDEX_NAME, make_table([]))
    write_info(copy, info)
    index = open_index(copy)
    assert len(index) == 0
    assert index.keys == []
    assert index.fingerprint
    assert "0 videos, 0 frames" in repr(index)


def many_rows(count):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        frames = int(rng.integers(1, 50))
        starts = sorted(rng.choice(frames, size=min(frames, int(rng.integers(0, 5))), replace=False).tolist())
        rows.append(
            {
                **dict.fromkeys(("shard", "extension", "sha256", "codec", "pixel_format", "source"), f"s{number}"),
                **dict.fromkeys(("offset", "size", "width", "height"), number),
                "key": f"{number:05d}",
                "num_frames": frames,
                "time_base_numerator": 1,
                "time_base_denominator": number + 1,
                "ctime": float(number),
                "events": [{"class": n % 2, "first": n, "stop": n + 1} for n in starts],
                "pts": np.arange(frames) * (number + 1),
                "key_frames": [0, *range(5, frames, 7)],
            }
        )
    return rows


@pytest.fixture
def many(tmp_path):
    """An index of several row groups, and its rows."""
    rows = many_rows(3 * ROWS_PER_GROUP + 5)
    fields = {"categories": ["a", "b"], "task": "multi_label", "split": "train", "format": "frames"}
    frames = sum(row["num_frames"] for row in rows)
    write_table(tmp_path / INDEX_NAME, make_table(rows[::-1]))
    write_info(tmp_path, DatasetInfo(**fields, num_videos=len(rows), num_frames=frames, shards=[], packed_by="test"))
    return open_index(tmp_path), rows


def assert_same_videos(index, rows):
    assert index.keys == [row["key"] for row in rows]
    assert index.num_frames.tolist() == [row["num_frames"] for row in rows]
    for video, row in enumerate(rows):
        track, table = index.track(video), index.frame_table(video)
        columns = zip(track.classes.tolist(), track.first.tolist(), track.stop.tolist(), strict=True)
        assert [dict(zip(("class", "first", "stop"), event, strict=True)) for event in columns] == row["events"]
        assert table.pts.tolist() == row["pts"].tolist()
        assert table.key_frames.tolist() == row["key_frames"]
        assert table.time_base == Fraction(1, row["time_base_denominator"])
        assert index.place(video)[1:] == (row["offset"], row["size"])


def test_every_video_of_several_row_groups(many):
    assert_same_videos(*many)


@pytest.mark.parametrize("oldest", [0, 1, 64, 100.5, 196, 1000])
def test_newer_than_keeps_labels_and_frame_tables_with_their_videos(many, oldest):
    index, rows = many
    assert_same_videos(index.newer_than(oldest), [row for row in rows if row["ctime"] >= oldest])


def test_newer_than_twice(many):
    index, rows = many
    assert_same_videos(index.newer_than(70).newer_than(130), rows[130:])


def test_a_rewritten_index_is_not_read_from_the_cache(copy):
    before = open_index(copy).frame_table(0)
    table = pq.read_table(copy / INDEX_NAME)
    place = table.schema.get_field_index("key_frames")
    shorter = pa.array([[0]] * table.num_rows, SCHEMA.field("key_frames").type)
    write_table(copy / INDEX_NAME, table.set_column(place, SCHEMA.field("key_frames"), shorter))
    os.utime(copy / INDEX_NAME, ns=(1, 1))
    assert len(before.key_frames) == 5
    assert open_index(copy).frame_table(0).key_frames.tolist() == [0]


def pack_one(root, out, *, rows, categories=TINY_CATEGORIES, seed=0, name="v"):
    root.mkdir()
    (root / "categories.json").write_text(json.dumps(categories))
    write_video(root / f"{name}.mp4", moving_pattern(seed, len(rows)))
    write_rows(root / f"{name}.tsv", rows)
    pack(root, out, format="frames", progress=False)
    return open_index(out / "all").fingerprint


def test_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path, copy, tiny_shards):
    assert open_index(copy).fingerprint == open_index(tiny_shards / "train").fingerprint
    rows = tiny_rows(0, 20)
    moved = rows.copy()
    moved[3, 2] = 1
    first = pack_one(tmp_path / "a", tmp_path / "A", rows=rows)
    assert pack_one(tmp_path / "b", tmp_path / "B", rows=rows) == first
    others = [
        pack_one(tmp_path / "c", tmp_path / "C", rows=moved),
        pack_one(tmp_path / "d", tmp_path / "D", rows=rows, categories=["x", "y", "z"]),
        pack_one(tmp_path / "e", tmp_path / "E", rows=rows, seed=1),
        pack_one(tmp_path / "f", tmp_path / "F", rows=rows, name="w"),
    ]
    assert len({first, *others}) == 5
    assert open_index(tiny_shards / "train").newer_than(1e12).fingerprint not in {first, *others}


def damage_json(folder):
    path = folder / DATASET_NAME
    path.write_bytes(path.read_bytes()[:40])


def damage_index(folder):
    path = folder / INDEX_NAME
    path.write_bytes(path.read_bytes()[:-9])


def age(folder):
    info = json.loads((folder / DATASET_NAME).read_text())
    (folder / DATASET_NAME).write_text(json.dumps({**info, "schema_version": 0}))


def add_a_field(folder):
    info = json.loads((folder / DATASET_NAME).read_text())
    (folder / DATASET_NAME).write_text(json.dumps({**info, "colour": "red"}))


def drop_a_video(folder):
    write_table(folder / INDEX_NAME, pq.read_table(folder / INDEX_NAME).slice(1))


def drop_a_column(folder):
    write_table(folder / INDEX_NAME, pq.read_table(folder / INDEX_NAME).drop_columns(["events"]))


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda folder: (folder / DATASET_NAME).unlink(), "Make shards with `wildstream pack SOURCE OUT`"),
        (lambda folder: (folder / INDEX_NAME).unlink(), r"index\.parquet cannot be read: .*Pack the videos again"),
        (lambda folder: (folder / DATASET_NAME).write_text("[1]"), "is damaged"),
        (damage_json, r"dataset\.json is damaged: .*Pack the videos again"),
        (damage_index, r"index\.parquet cannot be read: .*Pack the videos again"),
        (age, "schema_version=0, this program reads 1 and 2. Pack the videos again, or take the program"),
        (add_a_field, "is damaged: .*colour"),
        (drop_a_video, r"has 2 rows, dataset\.json says 3; .*Pack the videos again"),
        (drop_a_column, r"index\.parquet cannot be read: .*\(events\)[^\n]*Pack the videos again"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(copy, harm, complaint):
    harm(copy)
    with pytest.raises(ShardError, match=f"(?s){complaint}"):
        open_index(copy)


def test_a_folder_of_splits_is_no_split(tiny_shards):
    with pytest.raises(ShardError, match=r"It holds the splits train, val: open .*train"):
        open_index(tiny_shards)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ShardError, match="holds no packed split"):
        open_index(tmp_path / "gone")


def test_an_index_that_goes_away_later(copy):
    index = open_index(copy)
    (copy / INDEX_NAME).unlink()
    with pytest.raises(ShardError, match="Pack the videos again"):
        index.frame_table(0)


def test_a_folder_whose_name_looks_like_a_partition(copy, tmp_path):
    moved = copy.rename(tmp_path / "key=3")
    assert open_index(moved).keys == ["v0", "v1", "v2"]


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tmp_path_factory):
    shards = frames_shards(tmp_path_factory)
    with pytest.raises(ShardError, match=r"holds the splits test, train, val: open .*test"):
        open_index(shards)
    with pytest.raises(ShardError, match=r"There is no folder .*gone: check the path"):
        open_index(shards / "gone" / "train")
    with pytest.raises(ShardError, match=r"holds the splits test, train, val: choose one of them"):
        open_index(shards / "tset")
    with pytest.raises(ShardError, match=r"train is itself a packed split: give the folder above it"):
        open_index(shards / "train" / "train")
