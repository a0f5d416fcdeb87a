"""Verification finds what differs between shards and index, and nothing where nothing does."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import frames_shards

import wildstream as ws
from wildstream.cli import main


@pytest.fixture
def shards(tmp_path, tmp_path_factory):
    return shutil.copytree(frames_shards(tmp_path_factory) / "train", tmp_path / "train")


def edit_index(folder, video, column, change):
    """Change one cell of the index."""
    table = pq.read_table(folder / "index.parquet", partitioning=None)
    rows = table.to_pylist()
    rows[video][column] = change(rows[video][column])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / "index.parquet")


def test_intact_shards_have_no_fault(shards, capsys):
    assert ws.verify(shards, progress=False) == []
    assert main(["verify", str(shards)]) == 0
    assert "all videos are what the index says" in capsys.readouterr().out


def test_every_flipped_bit_of_a_video_is_found(shards, capsys):
    index = ws.open_index(shards)
    shard, offset, size = index.place(1)
    shard = Path(shard)
    original = shard.read_bytes()
    for place in (0, size // 3, size - 1):
        data = bytearray(original)
        data[offset + place] ^= 1
        shard.write_bytes(data)
        (fault,) = ws.verify(shards, progress=False)
        assert (fault.key, fault.shard) == (index.keys[1], shard.name)
        assert "its bytes are not those that were packed" in fault.reason
    assert main(["verify", str(shards), "--workers", "1"]) == 1
    assert f"{index.keys[1]}: its bytes" in capsys.readouterr().out


def test_a_shard_that_is_cut_or_missing_is_found(shards):
    index = ws.open_index(shards)
    shard, offset, _ = index.place(2)
    shard = Path(shard)
    shard.write_bytes(shard.read_bytes()[: offset + 10])
    faults = ws.verify(shards, progress=False)
    assert index.keys[2] in {fault.key for fault in faults}
    assert all("ends before byte" in fault.reason for fault in faults)
    shard.unlink()
    assert len(ws.verify(shards, progress=False)) == len(index)


def test_an_index_of_other_frames_is_found(shards):
    edit_index(shards, 0, "pts", lambda pts: [*pts[:-1], pts[-1] + 1])
    (fault,) = ws.verify(shards, progress=False)
    assert "20 frames decode, the index has 20, or others" in fault.reason


def test_a_key_frame_that_is_none_is_found(shards):
    edit_index(shards, 0, "key_frames", lambda frames: [*frames, 7])
    (fault,) = ws.verify(shards, progress=False)
    assert "decoding from key frame 7 gives other pixels" in fault.reason


def test_what_is_no_shard_is_refused(tmp_path, capsys):
    with pytest.raises(ws.ShardError, match=r"no dataset.json"):
        ws.verify(tmp_path)
    assert main(["verify", str(tmp_path)]) == 1
    assert "no dataset.json" in capsys.readouterr().err
