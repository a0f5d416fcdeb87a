"""Classes renamed, united and left out on the index: by hand, against dense rows, and through a training."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import history, tiny_config

import wildstream as ws
from wildstream.errors import ConfigError
from wildstream.evaluation.evaluate import evaluate
from wildstream.fishtank import make_fishtank
from wildstream.shards.class_map import make_class_map, map_events, merge_rare, new_categories
from wildstream.shards.index import Index
from wildstream.shards.labels import LabelTrack
from wildstream.training.run import train

NAMES = ["walk", "run", "unclear", "yawn"]


def events_of(tracks):
    """The events of all videos as an index holds them."""
    columns = [
        np.concatenate([getattr(track, name) for track in tracks]).astype(np.int32)
        for name in ("classes", "first", "stop")
    ]
    return tuple(columns), np.cumsum([len(track.classes) for track in tracks])


def test_the_map_names_what_becomes_of_every_class():
    found = make_class_map(NAMES, rename={"run": "moving", "walk": "moving"}, drop=["unclear"])
    assert found == {"walk": "moving", "run": "moving", "unclear": None, "yawn": "yawn"}
    assert new_categories(found) == ["moving", "yawn"]
    assert make_class_map(NAMES, rename={"walk": "run", "run": "walk"}, drop=[])["walk"] == "run"


def test_rare_classes_become_other_which_is_the_last():
    found = merge_rare({"a": "other", "b": "x", "c": "y", "d": None}, {"other": 1, "x": 9, "y": 2}, min_samples=3)
    assert found == {"a": "other", "b": "x", "c": "other", "d": None}
    assert new_categories(found) == ["x", "other"]
    assert merge_rare(found, {"x": 9, "other": 3}, min_samples=3) == found
    with pytest.raises(ConfigError, match=r"min_samples=10 leaves no class: the most frequent has 9 windows\."):
        merge_rare(found, {"x": 9, "other": 3}, min_samples=10)


@pytest.mark.parametrize(
    ("rename", "drop", "message"),
    [
        ({"wolk": "x"}, [], r"rename: the shards have no class 'wolk'; did you mean 'walk'\?"),
        ({}, ["qqq"], r"drop: the shards have no class 'qqq'; there are walk, run, unclear, yawn\."),
        ({"walk": "x"}, ["walk"], r"'walk' is in rename and in drop\. Leave it out of one"),
        ({"walk": " x"}, [], r"rename: 'walk' becomes ' x', which is empty or has blanks"),
        ({"walk": ""}, [], r"rename: 'walk' becomes '', which is empty"),
        ({}, NAMES, r"drop names every class\. Leave one"),
    ],
)
def test_maps_that_cannot_be_are_refused(rename, drop, message):
    with pytest.raises(ConfigError, match=message):
        make_class_map(NAMES, rename=rename, drop=drop)


@given(st.data())
def test_events_are_those_of_the_united_rows(data):
    """Against dense rows: a new class is there in every frame that has one of its old ones."""
    num_classes = data.draw(st.integers(1, 4))
    numbers = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=num_classes, max_size=num_classes)), np.int32)
    tracks = []
    for _ in range(data.draw(st.integers(0, 4))):
        shape = data.draw(st.integers(1, 9)), num_classes
        bits = data.draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
        tracks.append(LabelTrack.from_rows(np.array(bits, np.bool_).reshape(shape)))
    empty = LabelTrack.from_rows(np.zeros((1, num_classes), np.bool_))
    events, ends = events_of([*tracks, empty])
    (classes, first, stop), found = map_events(events, ends, numbers)
    assert len(found) == len(ends)
    for number, track in enumerate([*tracks, empty]):
        mine = slice(0 if number == 0 else found[number - 1], found[number])
        expected = np.zeros((track.num_frames, 3), np.bool_)
        for old, new in enumerate(numbers.tolist()):
            if new >= 0:
                expected[:, new] |= track.rows()[:, old]
        again = LabelTrack.from_rows(expected)  # by class and time, none that touch
        assert classes[mine].tolist() == again.classes.tolist()
        assert first[mine].tolist() == again.first.tolist()
        assert stop[mine].tolist() == again.stop.tolist()


@pytest.fixture(scope="module")
def fish(tmp_path_factory):
    """Frame by frame: bottom and surface, which overlap here, feeding in some."""
    root = tmp_path_factory.mktemp("fish")
    make_fishtank(root / "videos", videos={"train": 3, "val": 1, "test": 1}, frames=40, size=(32, 48))
    assert not ws.pack(root / "videos", root / "shards", format="frames", progress=False).refused
    return root / "shards"


def test_a_dataset_has_the_new_classes_and_the_same_windows(fish):
    style = ws.SlidingStyle(window_size=4, samples_per_window=2, step_size=2)
    before = ws.DatasetBuilder(path=fish / "train", style=style).build()
    first, second, *others = before.categories
    class_map = {first: "water", second: "water"} | dict.fromkeys(others)
    after = ws.DatasetBuilder(path=fish / "train", style=style, class_map=class_map).build()
    assert after.categories == ["water"]
    assert (after.labels()[:, 0] == before.labels()[:, :2].any(axis=1)).all()
    assert after.labels().any()
    assert after.index.fingerprint != before.index.fingerprint
    assert len(after) == len(before)
    some, other = (next(iter(dataset.loader(batch_size=8))) for dataset in (before, after))
    assert some.frames.equal(other.frames)
    assert (other.labels[:, 0] == some.labels[:, :2].amax(dim=1)).all()
    with pytest.raises(ConfigError, match=r"the class map is of nothing, .*train has "):
        ws.DatasetBuilder(path=fish / "train", style=style, class_map={"nothing": None}).build()


def test_a_model_learns_and_is_evaluated_with_the_new_classes_alone(fish, tmp_path):
    first, second, *others = json.loads((fish / "train" / "dataset.json").read_text())["categories"]
    options = (f"data.class_map={{rename: {{{first}: water, {second}: water}}}}",)
    run = train(tiny_config(fish, tmp_path / "run", *options))
    manifest = json.loads((run / "best" / "manifest.json").read_text())
    assert manifest["categories"] == ["water", *others]
    assert manifest["class_map"] == {first: "water", second: "water"} | {name: name for name in others}
    found = evaluate(run, split="val", progress=False)
    assert found.metrics["loss"] == pytest.approx(history(run)[0]["val"]["loss"], abs=1e-5)
    assert list(found.content["classes"]) == ["water", *others]


def test_what_is_rare_is_counted_in_the_training_split(fish, tmp_path, capsys):
    style = ws.SlidingStyle(window_size=4, samples_per_window=2, step_size=2)
    dataset = ws.DatasetBuilder(path=fish / "train", style=style).build()
    counts = dict(zip(dataset.categories, dataset.labels().sum(axis=0).tolist(), strict=True))
    rarest = min(counts, key=counts.get)
    assert counts[rarest] < sorted(counts.values())[1]
    options = (
        f"data.class_map.min_samples={counts[rarest] + 1}",
        "data.style={window_size: 4, samples_per_window: 2, step_size: 2}",
    )
    run = train(tiny_config(fish, tmp_path / "run", *options))
    manifest = json.loads((run / "best" / "manifest.json").read_text())
    assert manifest["categories"] == [name for name in counts if name != rarest] + ["other"]
    assert f"classes: 1 of {len(counts)} are other: {rarest}\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"data\.class_map: min_samples=\d+ leaves no class"):
        train(tiny_config(fish, tmp_path / "none", "data.class_map.min_samples=100000"))
    with pytest.raises(ConfigError, match=r"data\.class_map: drop: the shards have no class 'x'"):
        train(tiny_config(fish, tmp_path / "none", "data.class_map.drop=[x]"))


def test_single_label_videos_go_with_their_class(tmp_path):
    """Of clips of one class each those of a class that is left out; half a video is refused."""
    make_fishtank(tmp_path / "videos", videos={"train": 4}, frames=20, size=(32, 48))
    videos = sorted((tmp_path / "videos").rglob("*.mp4"))
    for number, video in enumerate(videos):
        folder = tmp_path / "clips" / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        video.rename(folder / f"{number}.mp4")
        (folder / f"{number}.txt").write_text(str(number % 2))
    assert not ws.pack(tmp_path / "clips", tmp_path / "shards", format="videos", progress=False).refused
    index = ws.open_index(tmp_path / "shards" / "train")
    assert index.keys == ["a/0", "a/2", "b/1", "b/3"]
    found = index.with_classes({"a": None, "b": "beta"})
    assert (found.keys, found.categories) == (["b/1", "b/3"], ["beta"])
    assert [found.track(video).classes.tolist() for video in range(2)] == [[0], [0]]
    assert found.frame_table(1).pts.tolist() == index.frame_table(3).pts.tolist()
    assert index.with_classes({"a": "x", "b": "x"}).keys == index.keys


def test_a_single_label_video_is_left_out_as_a_whole_or_not_at_all(fish):
    index = ws.open_index(fish / "train")
    single = Index(index._file, index.info.model_copy(update={"task": "single_label"}), index._table, index._rows)
    first, *others = index.categories
    with pytest.raises(ConfigError, match=r"would be of a class in \d+ of its \d+ frames, and .*Rename the class"):
        single.with_classes({first: None} | {name: name for name in others})
