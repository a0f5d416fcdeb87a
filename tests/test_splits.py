"""Splits of packed videos: what goes where, groups and tables, what is written, and what a kill leaves."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import contents
from hypothesis import given, settings
from hypothesis import strategies as st
from indexes import every_row, make_video, write_index

import wildstream as ws
from wildstream.cli import main
from wildstream.errors import ConfigError, ShardError
from wildstream.shards.grouping import source_names
from wildstream.shards.splits import class_frames

CATEGORIES = ["a", "b", "rare"]


def make_set(folder: Path, number: int = 40, *, order: int | None = None, **info):
    """Videos site0/0 … of ten sites, 5 to 30 frames, with classes that overlap; rows of the file in another order."""
    random = np.random.default_rng(3)
    videos = []
    for video in range(number):
        labels = random.random((int(random.integers(5, 31)), 3)) < random.choice([0.0, 0.5], 3, p=[0.4, 0.6])
        labels[:, 2] &= video % 8 == 0
        videos.append(make_video(f"site{video % 10}/{video}", labels))
    if order is not None:
        videos = [videos[place] for place in np.random.default_rng(order).permutation(number)]
    return write_index(folder, videos, categories=CATEGORIES, **info)


def quietly(shards, out, **options):
    return ws.split(shards, out, **{"frames": False, "progress": False} | options)


def keys_of(out: Path) -> dict[str, list[str]]:
    return {path.parent.name: ws.open_index(path.parent).keys for path in sorted(out.glob("*/dataset.json"))}


def test_every_video_is_in_one_split_and_its_row_is_as_it_was(tmp_path):
    index = make_set(tmp_path / "all")
    report = quietly(tmp_path / "all", tmp_path / "out")
    assert list(report.splits) == ["train", "val", "test"]
    before, after = every_row(index), {}
    for name, share in report.splits.items():
        part = ws.open_index(tmp_path / "out" / name)
        assert not set(after) & set(part.keys)
        after |= every_row(part)
        assert (part.info.split, part.categories, part.info.task) == (name, CATEGORIES, "multi_label")
        assert (share.videos, share.frames) == (len(part), part.num_frames.sum())
        assert list(share.classes.values()) == class_frames(part).sum(axis=0).tolist()
        assert part.keys == sorted(part.keys)
    assert before == after
    assert [share.videos for share in report.splits.values()] == pytest.approx([32, 4, 4], abs=3)
    assert not report.leaks.leaks
    told = json.loads((tmp_path / "out/split-report.json").read_text())
    assert told["options"]["seed"] == 0
    assert told["splits"]["val"]["videos"] == report.splits["val"].videos


def test_class_frames_are_those_of_the_rows(tmp_path):
    index = make_set(tmp_path / "all")
    assert class_frames(index).tolist() == [index.track(n).rows().sum(axis=0).tolist() for n in range(len(index))]


def test_the_order_of_rows_changes_nothing_and_the_seed_does(tmp_path):
    for order in range(3):
        make_set(tmp_path / f"all{order}", order=order)
        quietly(tmp_path / f"all{order}", tmp_path / f"out{order}", seed=5, group_by=r"regex:([02468]?.)$")
        assert keys_of(tmp_path / f"out{order}") == keys_of(tmp_path / "out0")
    quietly(tmp_path / "all0", tmp_path / "other", seed=6, group_by=r"regex:([02468]?.)$")
    assert keys_of(tmp_path / "other") != keys_of(tmp_path / "out0")


def test_the_split_of_a_seed_is_pinned(tmp_path):
    """Numbers of another numpy or machine must not change it."""
    make_set(tmp_path / "all", 12)
    quietly(tmp_path / "all", tmp_path / "out", seed=1, ratio={"train": 50, "val": 50})
    assert keys_of(tmp_path / "out")["val"] == ["site0/0", "site1/11", "site2/2", "site3/3", "site6/6", "site7/7"]


@pytest.mark.parametrize(
    ("group_by", "group_of"),
    [
        ("folder", lambda key: key.partition("/")[0]),
        (r"regex:(\d)$", lambda key: key[-1]),
        ("groups.csv", lambda key: str(int(key.rpartition("/")[2]) % 7)),
    ],
)
def test_no_group_is_in_two_splits(tmp_path, group_by, group_of):
    index = make_set(tmp_path / "all")
    if group_by.endswith("csv"):
        lines = [f"{group_of(key)},{key}\n" for key in reversed(index.keys)]
        (tmp_path / group_by).write_text("group,key\n" + "".join(lines))
        group_by = str(tmp_path / group_by)
    report = quietly(tmp_path / "all", tmp_path / "out", group_by=group_by)
    groups = {name: {group_of(key) for key in keys} for name, keys in keys_of(tmp_path / "out").items()}
    assert sum(map(len, groups.values())) == len(set().union(*groups.values()))
    assert {name: share.groups for name, share in report.splits.items()} == {n: len(g) for n, g in groups.items()}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=12, max_size=12), st.integers(0, 3))
def test_one_source_and_the_same_bytes_stay_together(tmp_path_factory, numbers, seed):
    folder = tmp_path_factory.mktemp("split")
    videos = [
        make_video(f"v{n:02}", np.eye(2)[[n % 2]], source=f"{source}.mp4", sha256=f"{bits:064x}")
        for n, (source, bits) in enumerate(numbers)
    ]
    write_index(folder / "all", videos, categories=["a", "b"])
    try:
        report = quietly(folder / "all", folder / "out", ratio={"x": 0.5, "y": 0.5}, seed=seed)
    except ConfigError as error:
        assert "1 groups of videos cannot fill 2 splits" in str(error)  # noqa: PT017 - it may come or not
        return
    one, other = (ws.open_index(folder / "out" / name) for name in "xy")
    assert not set(source_names(one)) & set(source_names(other))
    assert not set(one.column("sha256")) & set(other.column("sha256"))
    assert not report.leaks.leaks


def test_sources_of_shards_of_others_are_told_by_their_shard(tmp_path):
    """Every shard of others has a sample 0; files of one name, of another time, are others."""
    rows = [make_video(key, [[1]], shard=f"{key}.tar", source=f"{key}.tar/0") for key in "ab"]
    rows += [make_video(key, [[1]], source="0001.mp4") | {"ctime": at} for key, at in (("c", 1.0), ("d", 2.0))]
    index = write_index(tmp_path / "all", rows, categories=["x"])
    assert len(set(source_names(index))) == 4
    assert source_names(index)[0] == f"{tmp_path}/all/a.tar/0"


def test_single_label_videos_are_divided_by_number(tmp_path):
    """One is 100 times as long as the others, which must not count."""
    videos = [make_video(f"{n}", np.ones((1000 if n == 0 else 10, 1)) * [[n % 2, 1 - n % 2]]) for n in range(40)]
    write_index(tmp_path / "all", videos, categories=["a", "b"], task="single_label")
    report = quietly(tmp_path / "all", tmp_path / "out", ratio={"train": 80, "val": 20})
    assert report.unit == "videos"
    assert report.splits["train"].classes == {"a": 16, "b": 16}
    assert report.splits["val"].classes == {"a": 4, "b": 4}


def test_classes_are_divided_better_than_without_regard_to_them(tmp_path):
    make_set(tmp_path / "all", 120)

    def worst(**options):
        report = quietly(tmp_path / "all", tmp_path / "out", ratio={"train": 0.7, "test": 0.3}, **options)
        rare = [share.classes["rare"] for share in report.splits.values()]
        return abs(rare[1] / sum(rare) - 0.3)

    stratified, plain = ([worst(seed=seed, stratified=on) for seed in range(8)] for on in (True, False))
    assert max(stratified) < 0.1 < max(plain)
    assert np.mean(stratified) < np.mean(plain) / 2


def test_several_sources_are_split_as_one(tmp_path):
    whole = make_set(tmp_path / "all")
    rows = list(every_row(whole).values())
    for name, part in (("one", rows[::2]), ("two", rows[1::2])):
        write_index(tmp_path / name, part, categories=CATEGORIES)
    quietly(tmp_path / "all", tmp_path / "out")
    quietly([tmp_path / "two", tmp_path / "one"], tmp_path / "joined")
    assert keys_of(tmp_path / "joined") == keys_of(tmp_path / "out")


def test_by_a_table(tmp_path, capsys):
    index = write_index(tmp_path / "all", [make_video(key, [[1, key == "c"]]) for key in "abcd"], categories=["x", "y"])
    table = tmp_path / "by.csv"
    table.write_text("key,who,split\n" + "".join(f"{key},x,{'ab'[n % 2]}\n" for n, key in enumerate(index.keys)))
    assert main(["split", f"{tmp_path}/all", f"{tmp_path}/out", "--by", str(table), "--no-frames"]) == 0
    assert keys_of(tmp_path / "out") == {"a": index.keys[::2], "b": index.keys[1::2]}
    told = capsys.readouterr()
    assert "no leaks" in told.out
    assert told.err == "b has no y\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,split\na,train\na,train\n", r"by\.csv, line 3: 'a' stands in an earlier line too"),
        ("key,split\nq,train\n", r"by\.csv, line 2: there is no video 'q'"),
        ("key,split\na,train\n", r"by\.csv has no line for 'b' \(1 of 2 videos\)\. Add them"),
        ("key,split\na,train\nb, \n", r"by\.csv, line 3: split ' ' is empty or has blanks"),
        ("key,split\na,train\nb,../x\n", r"'\.\./x' cannot be the name of a split"),
        ("key|split\na|train\n", r"by\.csv, line 1 .*\. Write a header key,split and a line for each"),
        ("key,split\na\n", r"by\.csv, line 2: 1 cells, but the header has 2"),
        ('key,split\n"a,train\n', r"by\.csv, line 2.*Write a header key,split"),
        ("", r"by\.csv.*Write a header key,split"),
    ],
)
def test_tables_that_are_malformed_are_refused(tmp_path, text, message):
    write_index(tmp_path / "all", [make_video(key, [[1]]) for key in "ab"], categories=["x"])
    (tmp_path / "by.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        quietly(tmp_path / "all", tmp_path / "out", by=tmp_path / "by.csv")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"nowhere\.csv cannot be read: No such file"):
        quietly(tmp_path / "all", tmp_path / "out", group_by=f"{tmp_path}/nowhere.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"ratio": {"train": 0.8, "val": 0.1}},
            r"ratio: the shares of train, val add up to 0\.9\. Make that 1, or 100",
        ),
        ({"ratio": {"train": 1.0, "val": 0}}, r"ratio: val=0 must be more than 0"),
        ({"ratio": {"tr/ain": 1.0}}, r"'tr/ain' cannot be the name of a split"),
        ({"ratio": dict.fromkeys("abcd", 25)}, r"3 groups of videos cannot fill 4 splits"),
        ({"group_by": "folder"}, r"group_by=folder: the key 'c' has no folder \(1 of 3\)"),
        ({"group_by": "regex:^x"}, r"has 0 pairs of parentheses, it must have one"),
        ({"group_by": "regex:(["}, r"group_by=regex:\(\[ is no pattern"),
        ({"group_by": "regex:(c)"}, r"does not match 'f/a' \(2 of 3 keys\)"),
        ({"by": "x.csv", "group_by": "folder"}, r"by=x\.csv says where each video goes\. Leave out ratio"),
        ({"near": 64}, r"near=64 must lie within \[0, 64\)"),
        ({"out": "s3://bucket/out"}, r"out=s3://bucket/out must be a local folder"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, options, message):
    write_index(tmp_path / "all", [make_video(key, [[1]]) for key in ("f/a", "f/b", "c")], categories=["x"])
    with pytest.raises(ConfigError, match=message):
        quietly(**{"shards": tmp_path / "all", "out": tmp_path / "out"} | options)


def test_sources_that_differ_are_refused(tmp_path):
    one = [make_video("a", [[1]])]
    write_index(tmp_path / "one", one, categories=["x"])
    write_index(tmp_path / "two", [make_video("b", [[1]])], categories=["y"])
    write_index(tmp_path / "three", one, categories=["x"])
    with pytest.raises(ConfigError, match=r"one and .*two differ in categories: \['x'\] and \['y'\].*wildstream merge"):
        quietly([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"the key 'a' is in .*one and in .*three\. Join them with `wildstream merge`"
    ):
        quietly([tmp_path / "one", tmp_path / "three"], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"holds a login"):
        quietly("https://me:secret@host/shards/train", tmp_path / "out")


def test_what_lies_at_the_place_is_not_lost(tmp_path, tiny_shards):
    make_set(tmp_path / "all")
    packed = contents(tiny_shards)
    for out, message in (
        (tiny_shards, r"holds .*, which is no index of an earlier call and would be lost"),
        (tiny_shards / "train", r"holds .*\.tar, which is no index"),
        (tmp_path / "all", r"lie in each other"),
        (tmp_path, r"lie in each other"),
        (tmp_path / "all" / "out", r"lie in each other"),
        (tmp_path / "file", r"holds a file"),
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match=message):
            quietly(tmp_path / "all", out)
    assert contents(tiny_shards) == packed
    quietly(tmp_path / "all", tmp_path / "out", ratio={"x": 1})
    quietly(tmp_path / "all", tmp_path / "out", ratio={"y": 1})
    assert list(keys_of(tmp_path / "out")) == ["y"], "an earlier one is replaced as a whole"
    (tmp_path / "out" / "y" / "000000.tar").write_text("")
    with pytest.raises(ConfigError, match=r"holds y/000000\.tar, which is no index"):
        quietly(tmp_path / "all", tmp_path / "out")


# ---- killed ----------------------------------------------------------------------------------------------------------

SPLITTER = """
import contextlib, os, signal, sys
with contextlib.suppress(ImportError):
    import pandas  # which pyarrow would import in every child, for seconds
from wildstream.shards.splits import split

shards, out, share, number = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
left = number

def hook(event, arguments):
    global left
    if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        return
    if event == "open" and arguments[1] in ("r", "rb") or not str(arguments[0]).startswith(os.path.dirname(out)):
        return
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

while True:  # a child for every step, until one is not struck
    if (child := os.fork()) == 0:
        sys.addaudithook(hook)
        split(shards, out, ratio={"train": share, "val": 1 - share}, frames=False, progress=False)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    if sys.stdin.readline() != "next\\n":
        break
    number += 1
    left = number
"""


@pytest.mark.parametrize("first", [True, False])
def test_killed_at_every_step(tmp_path, first):
    """Before each change of the file system in turn: the old splits, the new ones, or none, never some of each."""
    make_set(tmp_path / "all", 6)
    (tmp_path / "there").mkdir()
    out = tmp_path / "there" / "out"
    quietly(tmp_path / "all", out, ratio={"train": 0.75, "val": 0.25})
    new = contents(out)
    old = {}
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    out.rmdir()
    if not first:
        quietly(tmp_path / "all", out, ratio={"train": 0.5, "val": 0.5})
        old = contents(out)
        assert set(old) == set(new)
        assert old != new
    command = [sys.executable, "-c", SPLITTER, str(tmp_path / "all"), str(out), "0.75", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        steps, seen = 0, []
        while int(process.stdout.readline()) == -signal.SIGKILL:
            steps += 1
            there = contents(out) if out.exists() else {}
            report = there.pop("split-report.json", None)
            expected = [
                {name: data for name, data in splits.items() if name.endswith(("json", "parquet"))}
                for splits in (old, new)
            ]
            for splits in expected:
                splits.pop("split-report.json", None)
            there = {name: data for name, data in there.items() if not name.startswith(".")}
            assert there in [{}, *expected]
            assert (report is not None) == bool(there)
            seen.append(expected.index(there) if there in expected else None)
            process.stdin.write("next\n")
            process.stdin.flush()
        process.stdin.close()
    assert steps > 10
    assert {0, 1} <= set(seen)
    assert contents(out) == new, "the last call completes it"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_a_killed_call_left_is_not_taken_along(tmp_path):
    make_set(tmp_path / "all", 6)
    make_set(tmp_path / ".out.packing" / "other")
    quietly(tmp_path / "all", tmp_path / "out", ratio={"train": 1})
    assert list(keys_of(tmp_path / "out")) == ["train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "out"]


def test_two_at_once(tmp_path):
    from wildstream.shards.staging import locked

    make_set(tmp_path / "all", 6)
    with locked(tmp_path / "out"), pytest.raises(ShardError, match=r"another process is packing into .*out; wait"):
        quietly(tmp_path / "all", tmp_path / "out")


# ---- real videos -----------------------------------------------------------------------------------------------------


def test_clips_split_by_recording_stream_verify_and_describe(shared_data, tmp_path, capsys):
    """Real clips: without groups pieces of one recording leak, with them nothing does."""
    ws.pack(shared_data / "clips", tmp_path / "clips", format="videos", progress=False)
    shards = [f"{tmp_path}/clips/{name}" for name in ("train", "val", "test")]
    packed = contents(tmp_path / "clips")
    assert main(["split", *shards, f"{tmp_path}/plain", "--ratio", "train=60,val=20,test=20"]) == 3
    plain = capsys.readouterr().out
    assert "of 64 bits differ) train: " in plain
    assert re.search(r"robot +5 +60.0% +20.0% +20.0%\n", plain)
    pattern = r"regex:/([a-z_0-9]+)_\d$"
    assert main(["split", *shards, f"{tmp_path}/out", "--ratio", "train=60,val=40", "--group-by", pattern]) == 0
    told = capsys.readouterr()
    assert "no leaks, first frames of 30 videos compared" in told.out
    assert "train has no " in told.err
    assert contents(tmp_path / "clips") == packed
    for name in ("train", "val"):
        assert main(["verify", f"{tmp_path}/out/{name}"]) == 0
        assert main(["inspect", f"{tmp_path}/out/{name}"]) == 0
    dataset = ws.DatasetBuilder(
        path=tmp_path / "out/val", style=ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=8)
    ).build()
    batches = list(dataset.loader(batch_size=8, shuffle=True, size=32))
    assert sum(int(batch.mask.sum()) for batch in batches) == len(dataset) > 20
    assert main(["leaks", f"{tmp_path}/out"]) == 0
    assert main(["leaks", f"{tmp_path}/clips", "--out", f"{tmp_path}/leaks.json"]) == 3
    told = capsys.readouterr().out
    assert len(json.loads((tmp_path / "leaks.json").read_text())["leaks"]) == told.count("begins like") > 5


def test_training_features_and_evaluation_work_on_a_split(tmp_path, tmp_path_factory):
    from tiny import STYLE, frames_shards, tiny_config

    from wildstream.evaluation.evaluate import evaluate
    from wildstream.features.extract import extract
    from wildstream.training.run import train

    shards = frames_shards(tmp_path_factory)
    videos = {name: f"{shards}/{name}" for name in ("train", "val", "test")}
    merged = ws.merge(tmp_path / "one", videos)
    assert merged.splits == {"": {"train": 3, "val": 2, "test": 2}}
    report = quietly(tmp_path / "one", tmp_path / "out", ratio={"train": 0.6, "val": 0.2, "test": 0.2})
    assert sum(share.videos for share in report.splits.values()) == 7
    run = train(tiny_config(tmp_path / "out", tmp_path / "run"))
    found = evaluate(run, split="test", progress=False)
    assert list(found.content["classes"]) == ["bright", "red", "never"]
    style = {"window_size": 4, "samples_per_window": 4, "step_size": 2, "tolerance_region": 0}
    assert str(style).replace("'", "") in STYLE
    extract(
        tmp_path / "out/train",
        tmp_path / "features",
        backbone="test_byobnet",
        style=ws.SlidingStyle(**style),
        size=32,
        device="cpu",
        progress=False,
    )
    features = ws.open_index(tmp_path / "features/train")
    assert features.origins == ws.open_index(tmp_path / "out/train").origins
    parts = quietly(tmp_path / "features/train", tmp_path / "parts", ratio={"a": 0.5, "b": 0.5}, frames=True)
    assert not parts.leaks.leaks
    assert not parts.leaks.compared
    dataset = ws.DatasetBuilder(path=tmp_path / "parts/a", style=ws.SlidingStyle(**style), precomputed=True).build()
    assert sum(int(batch.mask.sum()) for batch in dataset.loader(batch_size=4)) == len(dataset) > 0


def test_shards_in_object_storage_are_split_from_here(s3, tiny_shards, tmp_path):
    s3.put_folder(tiny_shards / "train", "train")
    report = ws.split(f"{s3.url}/train", tmp_path / "out", ratio={"x": 0.5, "y": 0.5}, progress=False)
    assert sum(share.videos for share in report.splits.values()) == 3
    assert report.leaks.compared == 3
    for name in "xy":
        index = ws.open_index(tmp_path / "out" / name)
        assert index.place(0)[0].startswith(f"{s3.url}/train/")
        assert ws.verify(tmp_path / "out" / name, progress=False) == []
    assert sorted(ws.find_leaks({n: ws.open_index(f"{s3.url}/train") for n in "ab"}, frames=False).leaks, key=str)
