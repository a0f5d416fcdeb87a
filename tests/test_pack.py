"""Packing: nothing is lost in silence, nothing is half-done, nothing is done twice."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    TINY_CATEGORIES,
    TINY_FRAMES,
    contents,
    moving_pattern,
    read_webdataset,
    snapshot,
    tiny_rows,
    two_videos,
    write_rows,
    write_video,
)

from wildstream.cli import main
from wildstream.commands import REFUSED
from wildstream.errors import ConfigError, FormatError, LabelError, SampleError, ShardError, VideoError
from wildstream.shards.index import open_index
from wildstream.shards.index_schema import DATASET_NAME
from wildstream.shards.pack import pack
from wildstream.shards.pack_report import REPORT_NAME


def quietly(source, out, **options):
    return pack(source, out, **{"format": "frames", "progress": False, **options})


@pytest.fixture
def source(tiny_source, tmp_path):
    """A copy of the tiny videos that may be changed; times and all, so that it packs to the same bytes."""
    return shutil.copytree(tiny_source, tmp_path / "source")


@pytest.fixture
def size(tiny_source):
    """A size of shard that holds v0 and v1, so that v2 is in a second shard."""
    return two_videos(tiny_source)


def add_video(source, name, *, split="train", seed=9, frames=TINY_FRAMES, rows=None):
    video = source / split / name / f"{name}.mp4"
    write_video(video, moving_pattern(seed, frames))
    write_rows(video.with_suffix(".tsv"), tiny_rows(seed, frames) if rows is None else rows)
    return video


def add_broken(source):
    """Four videos of which none can be packed, each for a reason of its own."""
    add_video(source, "short_rows", rows=tiny_rows(0, TINY_FRAMES - 1))
    add_video(source, "garbage").write_bytes(b"no video" * 100)
    add_video(source, "bare").with_suffix(".tsv").unlink()
    add_video(source, "empty").write_bytes(b"")


REASONS = {
    "train/short_rows/short_rows.mp4": "short_rows.tsv has 59 rows, but 60 frames of the video decode",
    "train/garbage/garbage.mp4": "not a video that FFmpeg can open",
    "train/bare/bare.mp4": "has no labels: no bare.tsv or bare.txt beside it",
    "train/empty/empty.mp4": "the file is empty",
}


def assert_reasons(refused):
    assert set(refused) == set(REASONS)
    for path, reason in REASONS.items():
        assert reason in refused[path]


# ---- what is in the shards -------------------------------------------------------------------------------------------


def test_shards_are_plain_webdataset(tiny_source, tiny_shards):
    samples = read_webdataset(*sorted((tiny_shards / "train").glob("*.tar")))
    assert [sample["__key__"] for sample in samples] == ["v0", "v1", "v2"]
    for seed, sample in enumerate(samples):
        assert {name for name in sample if not name.startswith("__")} == {"mp4", "json", "labels.npy"}
        assert sample["mp4"] == (tiny_source / f"train/v{seed}/v{seed}.mp4").read_bytes()
        labels = np.load(io.BytesIO(sample["labels.npy"]), allow_pickle=False)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, tiny_rows(seed))
        metadata = json.loads(sample["json"])
        assert metadata["categories"] == TINY_CATEGORIES
        assert metadata["source"] == f"train/v{seed}/v{seed}.mp4"
        assert (metadata["num_frames"], metadata["fps"], metadata["codec"]) == (TINY_FRAMES, 25.0, "h264")
        assert (metadata["width"], metadata["height"]) == (64, 48)


def test_clips_carry_their_class(tmp_path):
    for number, (folder, name) in enumerate([("walk", "a"), ("rest", "b.1"), ("walk", "c")]):
        write_video(tmp_path / f"source/{folder}/{name}.mp4", moving_pattern(number, 10))
        (tmp_path / f"source/{folder}/{name}.txt").write_text("1" if folder == "walk" else "0")
    quietly(tmp_path / "source", tmp_path / "out", format="videos")
    samples = {s["__key__"]: s for s in read_webdataset(*(tmp_path / "out/all").glob("*.tar"))}
    assert {key: sample["cls"] for key, sample in samples.items()} == {"rest/b_1": b"0", "walk/a": b"1", "walk/c": b"1"}
    index = open_index(tmp_path / "out/all")
    assert index.categories == ["rest", "walk"]
    assert index.info.task == "single_label"
    assert index.keys == ["rest/b_1", "walk/a", "walk/c"]
    assert [index.track(n).rows().tolist() for n in range(3)] == [[[n == 0, n > 0]] * 10 for n in range(3)]


def test_the_bytes_at_the_offset_are_the_video(tiny_source, tiny_shards):
    for split in ("train", "val"):
        index = open_index(tiny_shards / split)
        digests = index._table["sha256"].to_pylist()
        for video, key in enumerate(index.keys):
            shard, offset, size = index.place(video)
            shard = Path(shard)
            data = shard.read_bytes()[offset : offset + size]
            assert data == (tiny_source / split / key / f"{key}.mp4").read_bytes()
            assert hashlib.sha256(data).hexdigest() == digests[video]


@pytest.mark.parametrize("key", ["x" * 180, "grün 日本", "a b"])
def test_offsets_behind_long_and_foreign_names(tmp_path, key):
    root = tmp_path / "source"
    (root / "").mkdir()
    (root / "categories.json").write_text(json.dumps(TINY_CATEGORIES))
    write_video(root / f"{key}.mp4", moving_pattern(0, 5))
    write_rows(root / f"{key}.tsv", tiny_rows(0, 5))
    quietly(root, tmp_path / "out")
    index = open_index(tmp_path / "out/all")
    shard, offset, size = index.place(0)
    shard = Path(shard)
    assert index.keys == [key]
    assert shard.read_bytes()[offset : offset + size] == (root / f"{key}.mp4").read_bytes()
    assert [sample["__key__"] for sample in read_webdataset(shard)] == [key]


def test_no_video_and_no_event_is_lost(source, tmp_path):
    """Every video of the source is in the index, with all its events, or in the report."""
    add_broken(source)
    report = quietly(source, tmp_path / "out", shard_bytes=1)
    refused = {refusal.path for refusal in report.refused}
    indices = {split: open_index(tmp_path / "out" / split) for split in ("train", "val")}
    packed = {f"{split}/{key}/{key}.mp4" for split, index in indices.items() for key in index.keys}
    everything = {path.relative_to(source).as_posix() for path in source.rglob("*.mp4")}
    assert packed | refused == everything
    assert not packed & refused
    for index in indices.values():
        for video, key in enumerate(index.keys):
            assert np.array_equal(index.track(video).rows(), tiny_rows(int(key[1:])))
    assert sum(report.packed.values()) + len(report.refused) == len(everything) == 8


# ---- which shard -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shard_bytes", "expected"), [(1, [1, 1, 1]), (None, [2, 1]), (1 << 30, [3])])
def test_shards_are_filled_up_to_their_size(tiny_source, tmp_path, size, shard_bytes, expected):
    quietly(tiny_source, tmp_path, shard_bytes=shard_bytes or size)
    index = open_index(tmp_path / "train")
    shards = sorted((tmp_path / "train").glob("*.tar"))
    assert index.info.shards == [path.name for path in shards]
    assert [len(read_webdataset(path)) for path in shards] == expected
    assert len(index) == 3


def test_bytes_do_not_depend_on_the_number_of_threads(tiny_source, tmp_path, size):
    for workers in (1, 4):
        quietly(tiny_source, tmp_path / str(workers), workers=workers, shard_bytes=size)
    assert contents(tmp_path / "1") == contents(tmp_path / "4")


# ---- a second call ---------------------------------------------------------------------------------------------------


def test_a_second_call_touches_nothing(tiny_source, tmp_path, size):
    first = quietly(tiny_source, tmp_path, shard_bytes=size)
    before = snapshot(tmp_path, but=[REPORT_NAME])
    second = quietly(tiny_source, tmp_path, shard_bytes=size)
    assert snapshot(tmp_path, but=[REPORT_NAME]) == before
    assert second.packed == second.reused == first.packed == {"train": 3, "val": 1}
    assert first.reused == {}


def change_labels(source):
    write_rows(source / "train/v2/v2.tsv", tiny_rows(7))


def change_video(source):
    write_video(source / "train/v2/v2.mp4", moving_pattern(7))


def remove_video(source):
    shutil.rmtree(source / "train/v2")
    add_video(source, "v3", seed=3)


def append_video(source):
    add_video(source, "v4", frames=10)


@pytest.mark.parametrize("change", [change_labels, change_video, remove_video, append_video])
def test_a_change_repacks_its_shard_alone(source, tmp_path, size, change):
    quietly(source, tmp_path / "out", shard_bytes=size)
    before = snapshot(tmp_path / "out")
    change(source)
    report = quietly(source, tmp_path / "out", shard_bytes=size)
    after = snapshot(tmp_path / "out")
    assert after["train/000000.tar"] == before["train/000000.tar"]
    assert after["train/000001.tar"] != before["train/000001.tar"]
    assert {name: at for name, at in after.items() if "val" in name} == {n: a for n, a in before.items() if "val" in n}
    assert report.reused == {"train": 2, "val": 1}
    assert_equals_fresh(source, tmp_path, size)


def assert_equals_fresh(source, tmp_path, size):
    fresh = tmp_path / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    quietly(source, fresh, shard_bytes=size)
    for split in ("train", "val"):
        assert contents(tmp_path / "out" / split) == contents(fresh / split)


def test_a_shorter_source_leaves_no_shard_behind(source, tmp_path, size):
    quietly(source, tmp_path / "out", shard_bytes=size)
    shutil.rmtree(source / "train/v2")
    quietly(source, tmp_path / "out", shard_bytes=size)
    assert_equals_fresh(source, tmp_path, size)
    assert open_index(tmp_path / "out/train").keys == ["v0", "v1"]


def test_other_categories_repack_everything(source, tmp_path, size):
    quietly(source, tmp_path / "out", shard_bytes=size)
    (source / "categories.json").write_text('["a", "b", "c"]')
    assert quietly(source, tmp_path / "out", shard_bytes=size).reused == {}
    assert_equals_fresh(source, tmp_path, size)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("name", ["000000.tar", "000001.tar", "index.parquet", DATASET_NAME])
@pytest.mark.parametrize("harm", [Path.unlink, cut])
def test_damaged_shards_are_packed_again(source, tmp_path, size, name, harm):
    quietly(source, tmp_path / "out", shard_bytes=size)
    (tmp_path / "out/train" / name).chmod(0o644)
    harm(tmp_path / "out/train" / name)
    quietly(source, tmp_path / "out", shard_bytes=size)
    assert_equals_fresh(source, tmp_path, size)


def test_without_hard_links_shards_are_copied(source, tmp_path, size, monkeypatch):
    def no_link(*_):
        raise PermissionError(1, "this file system knows no hard links")

    quietly(source, tmp_path / "out", shard_bytes=size)
    change_labels(source)
    monkeypatch.setattr(os, "link", no_link)
    assert quietly(source, tmp_path / "out", shard_bytes=size).reused == {"train": 2, "val": 1}
    assert_equals_fresh(source, tmp_path, size)


# ---- killed, or two at once ------------------------------------------------------------------------------------------

PACKER = """
import json, os, signal, sys, threading
from pathlib import Path
from wildstream.ffmpeg import ensure_ffmpeg
ensure_ffmpeg()
import torchcodec.decoders
from wildstream.shards.pack import pack

def strike_at(number, strike, out):
    lock, left = threading.Lock(), number
    def hook(event, arguments):
        nonlocal left
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"):
            return
        if event == "open" and arguments[1] in ("r", "rb") or not str(arguments[0]).startswith(out):
            return
        with lock:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), strike)
    sys.addaudithook(hook)
    return lambda: number - left

for line in sys.stdin:
    source, out, shard_bytes, number, strike = json.loads(line)
    if (child := os.fork()) == 0:
        print(os.getpid(), flush=True)
        count = strike_at(number, strike, out)
        pack(source, out, format="frames", shard_bytes=shard_bytes, workers=2, progress=False)
        Path(out + ".steps").write_text(str(count()))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
NEVER = 1 << 30


class Packer:
    """A process that packs in children of its own, which can be struck by a signal at any of their steps."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", PACKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, source, out, size, step=NEVER, strike=signal.SIGKILL):
        """Begin to pack; before the child's file-system call of that number it is struck. Its process id."""
        self._process.stdin.write(json.dumps([str(source), str(out), size, step, int(strike)]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self):
        """Exit status of the child; minus the signal that killed it."""
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def packer():
    packer = Packer()
    yield packer
    packer.close()


def count_steps(packer, source, out, size):
    """File-system calls that change something, in one undisturbed packing."""
    packer.start(source, out, size)
    assert packer.wait() == 0
    return int(Path(f"{out}.steps").read_text())


def assert_whole_or_absent(folder, *whole):
    """No readable half: either the index cannot be opened for want of a dataset.json, or all is there."""
    if (folder / DATASET_NAME).is_file():
        assert contents(folder) in whole
    else:
        assert not folder.exists() or contents(folder) in whole


def test_killed_at_every_step_of_a_first_packing(packer, source, tmp_path, size):
    """SIGKILL before each file-system call in turn: no half is ever readable, and the next call completes it."""
    shutil.rmtree(source / "val")
    steps = count_steps(packer, source, tmp_path / "new", size)
    assert steps > 20
    for step in range(1, steps + 1):
        out = tmp_path / "out"
        packer.start(source, out, size, step)
        assert packer.wait() == -signal.SIGKILL
        assert_whole_or_absent(out / "train", contents(tmp_path / "new/train"))
        quietly(source, out, shard_bytes=size)
        assert_same_shards(out, tmp_path / "new")
        shutil.rmtree(out)


def test_killed_at_every_step_of_a_second_packing(packer, source, tmp_path, size):
    count_steps(packer, source, tmp_path / "old", size)
    change_labels(source)
    count_steps(packer, source, tmp_path / "new", size)
    shutil.copytree(tmp_path / "old", tmp_path / "out")
    steps = count_steps(packer, source, tmp_path / "out", size)
    for step in range(1, steps + 1):
        shutil.rmtree(tmp_path / "out")
        out = shutil.copytree(tmp_path / "old", tmp_path / "out")
        packer.start(source, out, size, step)
        assert packer.wait() == -signal.SIGKILL
        for split in ("train", "val"):
            assert_whole_or_absent(out / split, *(contents(tmp_path / age / split) for age in ("old", "new")))
        quietly(source, out, shard_bytes=size)
        assert_same_shards(out, tmp_path / "new")


def test_killed_at_any_time(packer, source, tmp_path):
    started = time.monotonic()
    count_steps(packer, source, tmp_path / "new", 1)
    duration = time.monotonic() - started
    for delay in np.linspace(0, 1.1, 8) * duration:
        out = tmp_path / f"out_{delay:.4f}"
        child = packer.start(source, out, 1)
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.kill(child, signal.SIGKILL)
        packer.wait()
        for split in ("train", "val"):
            assert_whole_or_absent(out / split, contents(tmp_path / "new" / split))
        quietly(source, out, shard_bytes=1)
        assert_same_shards(out, tmp_path / "new")


def assert_same_shards(out, expected):
    """Equal folders, and nothing beside them."""
    assert {path.name for path in out.iterdir()} == {path.name for path in expected.iterdir()}
    for split in (path.name for path in expected.iterdir() if path.is_dir()):
        assert contents(out / split) == contents(expected / split)


def test_a_killed_packing_is_not_begun_anew(packer, source, tmp_path):
    steps = count_steps(packer, source, tmp_path / "new", 1)
    packer.start(source, tmp_path / "out", 1, steps // 2)
    assert packer.wait() == -signal.SIGKILL
    assert not (tmp_path / "out/train").exists()
    assert quietly(source, tmp_path / "out", shard_bytes=1).reused["train"] > 0


def test_two_processes_at_once(packer, source, tmp_path):
    steps = count_steps(packer, source, tmp_path / "new", 1)
    child = packer.start(source, tmp_path / "out", 1, steps // 3, signal.SIGSTOP)
    while not list((tmp_path / "out").glob(".train.packing/*.tar")):
        time.sleep(0.01)
    while "T (stopped)" not in Path(f"/proc/{child}/status").read_text():
        time.sleep(0.01)
    with pytest.raises(ShardError, match=r"another process is packing into .*train; wait for it"):
        quietly(source, tmp_path / "out", shard_bytes=1)
    os.kill(child, signal.SIGCONT)
    assert packer.wait() == 0
    assert_same_shards(tmp_path / "out", tmp_path / "new")


# ---- what is refused -------------------------------------------------------------------------------------------------


def read_report(out):
    report = json.loads((out / REPORT_NAME).read_text())
    return report, {refusal["path"]: refusal["reason"] for refusal in report["refused"]}


def test_refused_videos_are_named_on_every_call(source, tmp_path, size):
    add_broken(source)
    add_video(source, "lonely").unlink()
    out = tmp_path / "out"
    for reused in ({}, {"train": 3, "val": 1}):
        quietly(source, out, shard_bytes=size)
        report, refused = read_report(out)
        assert_reasons(refused)
        assert [entry["path"] for entry in report["unused"]] == ["train/lonely/lonely.tsv"]
        assert report["packed"] == {"train": 3, "val": 1}
        assert report["reused"] == reused
    assert open_index(out / "train").keys == ["v0", "v1", "v2"]


def test_the_command_says_what_it_refused(source, tmp_path):
    add_broken(source)
    command = [sys.executable, "-m", "wildstream.cli", "pack", str(source), str(tmp_path / "out"), "--format", "frames"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == REFUSED == 3
    assert "train: 3 videos" in done.stdout
    assert all(f"refused  {path}: " in done.stdout for path in REASONS)
    assert "4 videos were refused; see" in done.stderr
    assert_reasons(read_report(tmp_path / "out")[1])


def test_exit_statuses(source, tmp_path, capsys):
    command = ["pack", str(source), str(tmp_path / "out"), "--format", "frames"]
    assert main(command) == 0
    assert main([*command, "--split", "nowhere"]) == 1
    assert "FormatError: split nowhere is not in the source; it has train, val" in capsys.readouterr().err
    add_broken(source)
    assert main(command) == REFUSED
    assert main(command) == REFUSED
    assert main([*command, "--on-error", "fail"]) == 1


@pytest.mark.parametrize(
    ("name", "error"), [("garbage", VideoError), ("short_rows", LabelError), ("bare", SampleError)]
)
def test_on_error_fail_raises_and_leaves_the_old_shards(source, tmp_path, size, name, error):
    out = tmp_path / "out"
    quietly(source, out, shard_bytes=size)
    before = contents(out)
    add_broken(source)
    for path in REASONS:
        if name not in path:
            shutil.rmtree((source / path).parent)
    with pytest.raises(error, match=f"train/{name}/{name}.mp4: {REASONS[f'train/{name}/{name}.mp4'][:20]}"):
        quietly(source, out, shard_bytes=size, on_error="fail")
    assert {path: data for path, data in contents(out).items() if "/." not in f"/{path}"} == before


def test_on_error_fail_does_not_overlook_what_was_refused_before(source, tmp_path):
    add_video(source, "short_rows", rows=tiny_rows(0, 3))
    quietly(source, tmp_path / "out")
    with pytest.raises(SampleError, match=r"short_rows\.tsv has 3 rows"):
        quietly(source, tmp_path / "out", on_error="fail")


def test_a_mended_video_is_packed(source, tmp_path, size):
    video = add_video(source, "short_rows", rows=tiny_rows(9, 3))
    quietly(source, tmp_path / "out", shard_bytes=size)
    write_rows(video.with_suffix(".tsv"), tiny_rows(9))
    assert quietly(source, tmp_path / "out", shard_bytes=size).refused == []
    assert_equals_fresh(source, tmp_path, size)


def test_a_split_of_which_nothing_can_be_packed(source, tmp_path):
    (source / "val/v3/v3.mp4").write_bytes(b"nothing")
    report = quietly(source, tmp_path / "out")
    assert report.packed == {"train": 3, "val": 0}
    assert [refusal.path for refusal in report.refused] == ["val/v3/v3.mp4"]
    assert not (tmp_path / "out/val").exists()


# ---- options ---------------------------------------------------------------------------------------------------------


def test_one_split_alone(source, tmp_path):
    add_broken(source)
    report = quietly(source, tmp_path / "out", splits=["val"])
    assert report.packed == {"val": 1}
    assert report.refused == []
    assert not (tmp_path / "out/train").exists()
    quietly(source, tmp_path / "out", splits=["train"])
    assert open_index(tmp_path / "out/val").keys == ["v3"]
    assert open_index(tmp_path / "out/train").keys == ["v0", "v1", "v2"]


def test_a_source_without_splits_is_named_by_the_option(source, tmp_path):
    shutil.copy(source / "categories.json", source / "train/categories.json")
    assert quietly(source / "train", tmp_path / "out", splits=["test"]).packed == {"test": 3}
    assert open_index(tmp_path / "out/test").info.split == "test"
    assert quietly(source / "train", tmp_path / "out").packed == {"all": 3}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"shard_bytes": 0}, "shard_bytes=0 must be positive"),
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"on_error": "ignore"}, r"on_error='ignore' is not known\. Take one of skip, fail"),
        ({"format": "nope"}, "format='nope' is not known"),
        ({"format_options": {"fold": 1}}, "format='frames' has no option 'fold'"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(tiny_source, tmp_path, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        quietly(tiny_source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_no_source(tmp_path):
    with pytest.raises(FormatError):
        quietly(tmp_path / "gone", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_refused_altogether_is_not_written(source, tmp_path):
    """Nor does it replace one that was there."""
    out = tmp_path / "out"
    quietly(source, out)
    before = contents(out / "train")
    wrong = tmp_path / "wrong"
    for name in ("a", "b"):
        (wrong / "train").mkdir(parents=True, exist_ok=True)
        (wrong / "train" / f"{name}.mp4").write_text("not a video")
        (wrong / "train" / f"{name}.tsv").write_text("1\t0\n")
    (wrong / "categories.json").write_text('["x", "y"]')
    for place in (out, tmp_path / "new"):
        report = quietly(wrong, place)
        assert report.packed == {"train": 0}
        assert len(report.refused) == 2
    assert contents(out / "train") == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["pack-report.json"]
