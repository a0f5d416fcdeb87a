"""Layouts on disk: what is paired, what is refused and why, and keys that WebDataset reads back whole."""

import io
import re
import tarfile
from fractions import Fraction

import numpy as np
import pytest
from conftest import read_webdataset
from hypothesis import given
from hypothesis import strategies as st

from wildstream.errors import ConfigError, FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.formats import get_format, safe_name, select_splits


def make(root, *names, categories='["a", "b"]'):
    """A source folder of empty files; `scan` opens no video."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0" if path.suffix == ".txt" else "")
    if categories:
        (root / "categories.json").write_text(categories)
    return root


def found(scan):
    return sorted((source.split, source.key) for source in scan.sources)


def named(refusals):
    return {refusal.path: refusal.reason for refusal in refusals}


@pytest.mark.parametrize("extension", ["tsv", "txt"])
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("", ("all", "fish")),
        ("fish/", ("all", "fish")),
        ("train/", ("train", "fish")),
        ("train/fish/", ("train", "fish")),
        ("train/day_1/fish/", ("train", "day_1/fish")),
        ("train/day_1/", ("train", "day_1/fish")),
    ],
)
def test_frames_layouts(tmp_path, folder, expected, extension):
    root = make(tmp_path, f"{folder}fish.mp4", f"{folder}fish.{extension}")
    scan = get_format("frames").scan(root)
    assert found(scan) == [expected]
    assert scan.categories == ["a", "b"]
    assert scan.sources[0].video == root / folder / "fish.mp4"
    assert scan.sources[0].labels == root / folder / f"fish.{extension}"
    assert not scan.refused
    assert not scan.unused


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("a/", ("all", "a/clip")),
        ("train/a/", ("train", "a/clip")),
        ("train/a/day_1/", ("train", "a/day_1/clip")),
        ("", ("all", "clip")),
    ],
)
def test_videos_layouts(tmp_path, folder, expected):
    scan = get_format("videos").scan(make(tmp_path, f"{folder}clip.avi", f"{folder}clip.txt"))
    assert found(scan) == [expected]


@pytest.mark.parametrize("extension", ["mp4", "avi", "mkv", "mov", "webm", "MP4"])
def test_every_video_extension(tmp_path, extension):
    assert found(get_format("frames").scan(make(tmp_path, f"fish.{extension}", "fish.tsv"))) == [("all", "fish")]


@pytest.mark.parametrize("name", ["frames", "videos"])
def test_categories_in_the_folder_above(tmp_path, name):
    make(tmp_path, categories='["x", "y"]')
    root = make(tmp_path / "set", "train/c/a.mp4", "train/c/a.txt", categories=None)
    assert get_format(name).scan(root).categories == ["x", "y"]


def test_frames_without_categories_are_refused(tmp_path):
    root = make(tmp_path / "above" / "set", "a.mp4", "a.tsv", categories=None)
    with pytest.raises(FormatError, match=r"no categories\.json in .*set or the folder above"):
        get_format("frames").scan(root)


def write_classes(root, numbers):
    for folder, number in numbers.items():
        for split in ("train", "val"):
            make(root, f"{split}/{folder}/{split}_{folder}.avi", categories=None)
            (root / split / folder / f"{split}_{folder}.txt").write_text(str(number))
    return root


def test_class_names_from_folders(tmp_path):
    root = write_classes(tmp_path / "above" / "set", {"dance": 1, "robot": 0, "nasa": 2})
    assert get_format("videos").scan(root).categories == ["robot", "dance", "nasa"]


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [({"dance": 0, "robot": 0}, "several folders use"), ({"dance": 0, "robot": 2}, r"are \[0, 2\], not 0 to 1")],
)
def test_class_names_that_folders_cannot_give(tmp_path, numbers, complaint):
    root = write_classes(tmp_path / "above" / "set", numbers)
    with pytest.raises(FormatError, match=complaint):
        get_format("videos").scan(root)


@pytest.mark.parametrize("extension", ["csv", "tsv"])
@pytest.mark.parametrize("folder", ["train/", "train/fish/"])
def test_events_layouts(tmp_path, folder, extension):
    root = make(tmp_path, f"{folder}fish.mp4", f"{folder}fish.{extension}", "train/bare.mp4", "val/lonely.csv")
    scan = get_format("events").scan(root)
    assert found(scan) == [("train", "fish")]
    assert scan.categories == ["a", "b"]
    assert scan.sources[0].labels == root / folder / f"fish.{extension}"
    assert named(scan.refused) == {"train/bare.mp4": "has no labels: no bare.csv or bare.tsv beside it"}
    assert named(scan.unused) == {"val/lonely.csv": "has no video beside it"}


def write_tables(root, **events):
    """Videos and their tables in the events layout; a class for each letter."""
    for name, classes in events.items():
        make(root, f"{name}/a.mp4", categories=None)
        (root / name / "a.csv").write_text("start,stop,class\n" + "".join(f"0,1,{label}\n" for label in classes))
    return root


def test_class_names_from_the_tables_of_all_splits(tmp_path):
    scan = get_format("events").scan(write_tables(tmp_path / "above" / "set", train="dbd", val="", test="ca"))
    assert scan.categories == ["a", "b", "c", "d"]
    assert select_splits(scan, ["val"]).categories == ["a", "b", "c", "d"]
    make(tmp_path / "above", categories='["d", "c"]')
    assert get_format("events").scan(tmp_path / "above" / "set").categories == ["d", "c"]


def test_class_names_that_the_tables_cannot_give(tmp_path):
    root = write_tables(tmp_path / "above" / "set", train="ab", val="a")
    (root / "val/a.csv").write_text("start,stop\n0,1\n")
    complaint = r"^a\.csv, line 1 .* one column 'class', but has 0: .* \(in folder val\).* or add a categories\.json"
    with pytest.raises(FormatError, match=complaint):
        get_format("events").scan(root)
    with pytest.raises(FormatError, match=r"no table of events below .* has an event.* add a categories\.json"):
        get_format("events").scan(write_tables(tmp_path / "empty" / "set", train="", val=""))
    bare = make(tmp_path / "bare" / "set", "a.mp4", categories=None)
    assert set(named(get_format("events").scan(bare).refused)) == {"a.mp4"}, (
        "what is refused says why nothing has a name"
    )


def test_events_follow_the_times_of_the_frames(tmp_path):
    root = make(tmp_path, "a.mp4", "b.mp4", "b.csv")
    (root / "a.csv").write_text("start,stop,class\n0.04,0.12,b\n0.08,0.2,b\n")
    good, empty = get_format("events").scan(root).sources
    track = get_format("events").read(good, facts=facts_of(10), categories=["a", "b"])
    assert (track.num_frames, track.num_classes) == (10, 2)
    assert [track.classes.tolist(), track.first.tolist(), track.stop.tolist()] == [[1], [1], [5]]
    with pytest.raises(LabelError, match=r"a\.csv, line 3: .* when the video is over; the video lasts 0\.08 s"):
        get_format("events").read(good, facts=facts_of(2), categories=["a", "b"])
    with pytest.raises(LabelError, match=r"b\.csv is empty"):
        get_format("events").read(empty, facts=facts_of(2), categories=["a", "b"])


def facts_of(num_frames):
    return VideoFacts(
        codec="h264",
        pixel_format="yuv420p",
        width=64,
        height=64,
        num_frames=num_frames,
        claimed_frames=num_frames,
        time_base=Fraction(1, 25),
        pts=np.arange(num_frames),
        key_frames=np.zeros(1, np.int64),
        lost=np.zeros((0, 2), np.int64),
    )


def test_class_beyond_the_categories(tmp_path):
    scan = get_format("videos").scan(make(tmp_path, "c/a.avi", "c/a.txt"))
    (tmp_path / "c/a.txt").write_text("2")
    with pytest.raises(LabelError, match=r"a\.txt says class 2, but there are 2 categories"):
        get_format("videos").read(scan.sources[0], facts=facts_of(3), categories=scan.categories)


def test_no_file_is_passed_over_in_silence(tmp_path):
    root = make(
        tmp_path,
        *("train/good.mp4", "train/good.tsv", "train/bare.mp4", "train/two.mp4", "train/two.tsv", "train/two.txt"),
        *("train/a.b.mp4", "train/a.b.tsv", "train/a_b.mp4", "train/a_b.tsv", "val/lonely.tsv"),
    )
    scan = get_format("frames").scan(root)
    assert found(scan) == [("train", "a_b"), ("train", "good")]
    assert named(scan.refused) == {
        "train/bare.mp4": "has no labels: no bare.tsv or bare.txt beside it",
        "train/two.mp4": "has two label files, two.tsv and two.txt; remove one",
        "train/a_b.mp4": "its key 'a_b' is taken by train/a.b.mp4; rename one of them",
    }
    assert named(scan.unused) == {"val/lonely.tsv": "has no video beside it"}
    videos = {str(path.relative_to(root)) for path in root.rglob("*.mp4")}
    assert videos == set(named(scan.refused)) | {str(source.video.relative_to(root)) for source in scan.sources}


def test_the_same_name_with_two_extensions_is_one_key(tmp_path):
    scan = get_format("frames").scan(make(tmp_path, "a.avi", "a.mp4", "a.tsv"))
    assert found(scan) == [("all", "a")]
    assert named(scan.refused) == {"a.mp4": "its key 'a' is taken by a.avi; rename one of them"}


def test_the_same_name_in_two_splits_is_no_collision(tmp_path):
    scan = get_format("frames").scan(make(tmp_path, "train/a.mp4", "train/a.tsv", "val/a.mp4", "val/a.tsv"))
    assert found(scan) == [("train", "a"), ("val", "a")]


def test_hidden_files_and_folders_are_no_data(tmp_path):
    hidden = ("._a.mp4", ".trash/a.mp4", ".trash/a.tsv", ".a.tsv")
    scan = get_format("frames").scan(make(tmp_path, "a.mp4", "a.tsv", *hidden))
    assert found(scan) == [("all", "a")]
    assert not scan.refused
    assert not scan.unused


def test_nothing_to_scan(tmp_path):
    with pytest.raises(FormatError, match="no video"):
        get_format("frames").scan(make(tmp_path, "a.tsv"))
    with pytest.raises(FormatError, match="is not a folder"):
        get_format("videos").scan(tmp_path / "gone")


def test_unknown_format():
    with pytest.raises(ConfigError, match=r"format='nonsense' is not known\. Take one of frames, videos, events.*auto"):
        get_format("nonsense")
    with pytest.raises(ConfigError, match="Did you mean 'wlasl'"):
        get_format("wlsal")


def test_select_splits(tmp_path):
    names = [f"{split}/{name}" for split in ("train", "val") for name in ("a.mp4", "a.tsv", "b.mp4", "c.tsv")]
    scan = get_format("frames").scan(make(tmp_path, *names))
    kept = select_splits(scan, ["val"])
    assert found(kept) == [("val", "a")]
    assert set(named(kept.refused)) == {"val/b.mp4"}
    assert set(named(kept.unused)) == {"val/c.tsv"}
    with pytest.raises(FormatError, match="split test is not in the source; it has train, val"):
        select_splits(scan, ["val", "test"])


def test_a_source_without_splits_takes_the_name_that_is_asked_for(tmp_path):
    scan = select_splits(get_format("frames").scan(make(tmp_path, "a.mp4", "a.tsv", "b.mp4", "c.tsv")), ["val"])
    assert found(scan) == [("val", "a")]
    assert [entry.split for entry in (*scan.refused, *scan.unused)] == ["val", "val"]


def keys_webdataset_reads(path, keys):
    """Pack one text member and one json member for each key; the keys and members that WebDataset makes of them."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key in keys:
            for extension in ("mp4", "labels.npy", "json"):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = 2
                tar.addfile(member, io.BytesIO(b"{}"))
    samples = read_webdataset(path)
    return [(sample["__key__"], {name for name in sample if not name.startswith("__")}) for sample in samples]


@pytest.mark.parametrize(
    "stem", ["a.b.c", "__init__", "_x", "__", "..", "a b", " a ", "fisch_ä", "日本", "a/..", "x" * 200, "a\\b", "a:b*?"]
)
def test_keys_are_safe_and_webdataset_reads_them_whole(tmp_path, stem):
    key = safe_name(stem)
    assert key == safe_name(key)
    assert not re.search(r"[./\\:*?]", key)
    members = {"mp4", "labels.npy", "json"}
    keys = [key, f"{key}/{key}"]
    assert keys_webdataset_reads(tmp_path / "a.tar", keys) == [(name, members) for name in keys]


@given(st.text(min_size=1, max_size=30))
def test_any_name_becomes_one_path_component(name):
    key = safe_name(name)
    assert key
    assert not set(key) & set("./\\\0\n\t:*?\"<>|'")
    assert not key.startswith("__")
    assert key == key.strip() == safe_name(key)


def test_a_class_folder_with_two_numbers_is_refused_where_nothing_names_the_classes(tmp_path):
    for folder, name, number in (("dance", "a", 0), ("dance", "b", 2), ("rest", "c", 1)):
        path = tmp_path / "train" / folder / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
        path.with_suffix(".txt").write_text(f"{number}\n")
    with pytest.raises(FormatError, match=r"several class numbers: \{'dance': \[0, 2\]\}; a class folder has one"):
        get_format("videos").scan(tmp_path)
