"""Several sources as one index: keys, classes, events and origins, and what does not go together."""

import json

import numpy as np
import pytest
from conftest import contents
from hypothesis import given, settings
from hypothesis import strategies as st
from indexes import every_row, make_video, write_index
from test_splits import make_set

import wildstream as ws
from wildstream.cli import main
from wildstream.errors import ConfigError, ShardError
from wildstream.shards.feature_info import FeatureInfo

FEATURES = FeatureInfo(
    backbone="b", weights="w", style={}, size=(1, 1), resize="", tokens="pooled", dtype="fp16", members=1, num_tokens=1,
    dim=4, source="one",
)  # fmt: skip
NAMES = ("lab", "zoo")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_labels_are_those_of_the_sources_by_name(tmp_path_factory, data):
    """Against dense rows: the column of each class is that of the class of its name, or empty."""
    folder = tmp_path_factory.mktemp("merge")
    single = data.draw(st.booleans())
    sources = {}
    for name in NAMES:
        categories = data.draw(st.lists(st.sampled_from("pqrst"), min_size=1, max_size=4, unique=True))
        rows = []
        for video in range(data.draw(st.integers(1, 3))):
            frames = data.draw(st.integers(1, 6))
            if single:
                labels = np.eye(len(categories))[[data.draw(st.integers(0, len(categories) - 1))] * frames]
            else:
                bits = st.lists(st.booleans(), min_size=frames * len(categories), max_size=frames * len(categories))
                labels = np.array(data.draw(bits)).reshape(frames, -1)
            rows.append(make_video(f"v{video}", labels))
        task = "single_label" if single else "multi_label"
        sources[name] = write_index(folder / name, rows, categories=categories, task=task)
    report = ws.merge(folder / "out", {name: folder / name for name in NAMES}, negatives=True)
    merged = ws.open_index(folder / "out")
    lab, zoo = (sources[name].categories for name in NAMES)
    assert merged.categories == report.categories == [*lab, *(name for name in zoo if name not in lab)]
    assert merged.keys == [f"{name}/{key}" for name in NAMES for key in sources[name].keys]
    assert merged.origins == [name for name in NAMES for _ in sources[name].keys]
    number = 0
    for index in sources.values():
        for video in range(len(index)):
            there, rows = index.track(video).rows(), merged.track(number).rows()
            for place, category in enumerate(merged.categories):
                known = category in index.categories
                expected = there[:, index.categories.index(category)] if known else np.zeros(len(there), bool)
                assert (rows[:, place] == expected).all()
            number += 1


def test_all_else_of_a_row_stays_as_it_is(tmp_path):
    sources = {name: make_set(tmp_path / name, 5) for name in NAMES}
    before = contents(tmp_path / "lab")
    ws.merge(tmp_path / "out", {name: tmp_path / name for name in NAMES})
    merged = ws.open_index(tmp_path / "out")
    after = every_row(merged)
    for name, index in sources.items():
        for key, row in every_row(index).items():
            assert after[f"{name}/{key}"] == row | {"key": f"{name}/{key}", "origin": name}
    assert (merged.info.split, merged.info.num_videos, merged.info.format) == ("out", 10, "frames")
    assert merged.info.shards == [f"{tmp_path}/{name}/000000.tar" for name in NAMES]
    assert contents(tmp_path / "lab") == before
    report = json.loads((tmp_path / "out/merge-report.json").read_text())
    assert report["splits"] == {"": {"lab": 5, "zoo": 5}}
    ws.merge(tmp_path / "out", {"x": tmp_path / "lab", "y": tmp_path / "zoo"})  # in its place
    assert set(ws.open_index(tmp_path / "out").origins) == {"x", "y"}


def test_classes_that_nobody_looked_for_are_not_absent_unasked(tmp_path):
    write_index(tmp_path / "lab", [make_video("v", [[1, 0]])], categories=["walk", "run"])
    write_index(tmp_path / "zoo", [make_video("v", [[1]])], categories=["run"])
    sources = {name: tmp_path / name for name in NAMES}
    with pytest.raises(ConfigError, match=r"zoo has no class walk, which may happen .*negatives \(--negatives\) takes"):
        ws.merge(tmp_path / "out", sources)
    assert main(["merge", f"{tmp_path}/out", *(f"{name}={path}" for name, path in sources.items())]) == 1
    assert not (tmp_path / "out").exists()
    ws.merge(tmp_path / "out", sources, negatives=True)
    write_index(tmp_path / "lab", [make_video("v", [[1, 0]])], categories=["run", "walk"])
    write_index(tmp_path / "zoo", [make_video("v", [[1, 0]])], categories=["walk", "run"])
    ws.merge(tmp_path / "out", sources)  # the same classes in another order
    tracks = [ws.open_index(tmp_path / "out").track(video).rows().tolist() for video in range(2)]
    assert tracks == [[[True, False]], [[False, True]]]


def test_folders_of_splits_become_all_splits_that_any_has(tmp_path, capsys):
    for name, splits in (("lab", ("train", "val")), ("zoo", ("train", "test"))):
        for split in splits:
            make_set(tmp_path / name / split, 3)
    assert main(["merge", f"{tmp_path}/out", f"lab={tmp_path}/lab", f"zoo={tmp_path}/zoo"]) == 0
    told = capsys.readouterr().out
    assert f"train: 6 videos = 3 lab + 3 zoo   {tmp_path}/out/train\n" in told
    origins = {name: sorted(set(ws.open_index(tmp_path / "out" / name).origins)) for name in ("train", "val", "test")}
    assert origins == {"train": ["lab", "zoo"], "val": ["lab"], "test": ["zoo"]}
    assert ws.open_index(tmp_path / "out/val").info.split == "val"
    with pytest.raises(ConfigError, match=r"zoo is one packed split, lab a folder of splits\. Give one split of each"):
        ws.merge(tmp_path / "other", {"lab": tmp_path / "lab", "zoo": tmp_path / "zoo/train"})


def test_a_merged_index_is_merged_split_and_opened_as_any(tmp_path):
    make_set(tmp_path / "lab", 6)
    make_set(tmp_path / "zoo", 6)
    ws.merge(tmp_path / "both", {name: tmp_path / name for name in NAMES})
    report = ws.split(tmp_path / "both", tmp_path / "out", ratio={"a": 0.5, "b": 0.5}, frames=False)
    for name in report.splits:  # the same bytes of lab/x and zoo/x stay together
        index = ws.open_index(tmp_path / "out" / name)
        assert index.origins == [key.split("/")[0] for key in index.keys]
        assert index.origins.count("lab") == index.origins.count("zoo")
    ws.merge(tmp_path / "more", {"old": tmp_path / "both", "lab": tmp_path / "lab"})
    assert set(ws.open_index(tmp_path / "more").keys) > {"old/lab/site0/0", "old/zoo/site0/0", "lab/site0/0"}
    assert set(ws.open_index(tmp_path / "more").origins) == {"old", "lab"}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"task": "single_label"}, r"lab is multi_label, .*zoo single_label\. Merge sources of one task"),
        ({"features": FEATURES}, r"lab holds videos, .*zoo features of b: backbone is None and 'b'"),
    ],
)
def test_sources_of_other_kinds_are_refused(tmp_path, second, message):
    make_set(tmp_path / "lab", 2)
    make_set(tmp_path / "zoo", 2, **second)
    with pytest.raises(ConfigError, match=message):
        ws.merge(tmp_path / "out", {name: tmp_path / name for name in NAMES})


def test_features_are_merged_that_were_made_alike(tmp_path):
    make_set(tmp_path / "lab", 2, features=FEATURES)
    make_set(tmp_path / "zoo", 2, features=FEATURES.model_copy(update={"source": "two"}))
    sources = {name: tmp_path / name for name in NAMES}
    ws.merge(tmp_path / "out", sources)
    found = ws.open_index(tmp_path / "out").info.features
    assert found.source not in ("one", "two")
    assert found.model_copy(update={"source": "one"}) == FEATURES
    make_set(tmp_path / "zoo", 2, features=FEATURES.model_copy(update={"weights": "v"}))
    with pytest.raises(ConfigError, match=r"weights is 'w' and 'v'\. Merge videos, or features that were made alike"):
        ws.merge(tmp_path / "out", sources)


def test_what_cannot_be_merged_is_refused(tmp_path, capsys):
    make_set(tmp_path / "lab", 2)
    make_set(tmp_path / "zoo", 2)
    lab, zoo = tmp_path / "lab", tmp_path / "zoo"
    for out, sources, message in (
        ("out", {"lab": lab}, r"there are 1 sources to merge\. Give two or more"),
        ("out", {"la/b": lab, "zoo": zoo}, r"'la/b' cannot be the name of a source"),
        ("out", {"lab": lab, "web": "https://me:word@host/train"}, r"https://\*\*\*@host/train' holds a login"),
        ("lab", {"lab": lab, "zoo": zoo}, r"lie in each other"),
        (".", {"lab": lab, "zoo": zoo}, r"lie in each other"),
    ):
        with pytest.raises(ConfigError, match=message):
            ws.merge(tmp_path / out, sources)
    with pytest.raises(ShardError, match=r"no dataset\.json in .*nothing"):
        ws.merge(tmp_path / "out", {"lab": lab, "zoo": tmp_path / "nothing"})
    assert main(["merge", "out", "lab"]) == 1
    assert "'lab' must be NAME=SHARDS" in capsys.readouterr().err
    assert main(["merge", "out", f"a={lab}", f"a={zoo}"]) == 1
    assert "the name 'a' stands for " in capsys.readouterr().err


def test_an_index_of_before_has_no_origins_and_is_packed_on(tiny_source, tmp_path):
    """The column is new: indexes without it open, and pack takes their shards over."""
    import pyarrow.parquet as pq

    ws.pack(tiny_source, tmp_path / "out", format="frames", progress=False)
    for path in (tmp_path / "out").glob("*/index.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["origin"]), path, row_group_size=64)
    index = ws.open_index(tmp_path / "out/train")
    assert index.origins == ["", "", ""]
    assert index.table()["origin"].null_count == 3
    assert ws.pack(tiny_source, tmp_path / "out", format="frames", progress=False).reused == {"train": 3, "val": 1}


def test_merged_videos_stream_from_both_places(tiny_shards, s3, tmp_path):
    s3.put_folder(tiny_shards / "train", "train")
    ws.merge(tmp_path / "out", {"here": tiny_shards / "train", "there": f"{s3.url}/train"})
    style = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=4)
    dataset = ws.DatasetBuilder(path=tmp_path / "out", style=style).build()
    clips = {}
    for batch in dataset.loader(batch_size=4, shuffle=True, size=16):
        for row, key in enumerate(batch.keys):
            if batch.mask[row]:
                clips[key, int(batch.starts[row])] = batch.frames[row]
    assert len(clips) == len(dataset)
    for (key, start), frames in clips.items():
        origin, _, name = key.partition("/")
        assert frames.equal(clips[f"{'there' if origin == 'here' else 'here'}/{name}", start])
    assert ws.verify(tmp_path / "out", progress=False) == []
