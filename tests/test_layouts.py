"""Layouts of other people's datasets: every label comes back frame by frame, and what is wrong is named."""

import csv
import json
import shutil
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import moving_pattern, read_tensor, write_video
from PIL import Image

import wildstream as ws
from wildstream.cli import main
from wildstream.errors import ConfigError, FormatError
from wildstream.probe import probe
from wildstream.shards.command import FORMAT_NAMES
from wildstream.shards.formats import FORMATS, get_format, recognise_format
from wildstream.video import decode

FRAMES = 24
STEMS = ["a1", "a2", "b1", "b2", "c1"]
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def footage(tmp_path_factory):
    """Five videos of which every frame differs: a1 a2 b1 b2 c1."""
    folder = tmp_path_factory.mktemp("footage")
    for seed, stem in enumerate(STEMS):
        write_video(folder / f"{stem}.mp4", moving_pattern(seed, FRAMES))
    return folder


def put(footage, root, **places):
    """Copies of the videos: stem → path below root, or paths."""
    for stem, relative in places.items():
        for place in [relative] if isinstance(relative, str) else relative:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(footage / f"{stem}.mp4", root / place)
    return root


def packed(root, tmp_path, **options):
    """The report, and by split the rows (frames × classes) of every video by its key."""
    report = ws.pack(root, tmp_path / "shards", progress=False, **options)
    found = {}
    for split in report.packed:
        if not report.packed[split]:
            continue
        index = ws.open_index(tmp_path / "shards" / split)
        found[split] = {key: (index.track(n).rows(), index.categories) for n, key in enumerate(index.keys)}
        assert not ws.verify(tmp_path / "shards" / split)
    return report, found


def classes(found):
    """By split and key, the name of the class that every frame is of."""
    told = {}
    for split, videos in found.items():
        for key, (rows, categories) in videos.items():
            assert (rows.sum(axis=1) == 1).all()
            assert (rows == rows[0]).all()
            told[split, key] = categories[rows[0].argmax()]
    return told


def pixels(path, shards, split, key):
    """All frames of a file, and all of a packed video, decoded straight: (N, 3, H, W) each."""
    return straight(read_tensor(path)), straight(tensor(member(shards, split, key)))


def member(shards, split, key):
    """The bytes of a packed video."""
    index = ws.open_index(shards / split)
    shard, offset, size = index.place(index.keys.index(key))
    return Path(shard).read_bytes()[offset : offset + size]


def tensor(data):
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def straight(data):
    facts = probe(data)
    table = replace(facts, key_frames=np.zeros(1, np.int64))
    return torch.stack([frame for _, frame in decode(data, range(facts.num_frames), table, device=CPU)])


def reasons(refusals):
    return {refusal.path: refusal.reason for refusal in refusals}


# ---- class folders, UCF-101, HMDB-51 ---------------------------------------------------------------------------------


def test_class_folders_give_the_class(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="train/run/a1.mp4", b1="train/walk/b1.mp4", b2="val/walk/b2.mp4")
    report, found = packed(root, tmp_path)
    assert report.format == "folders"
    assert "3 videos without label files lie in 3 folders" in report.recognised_by
    assert classes(found) == {
        ("train", "run/a1"): "run",
        ("train", "walk/b1"): "walk",
        ("val", "walk/b2"): "walk",
    }
    assert found["val"]["walk/b2"][1] == ["run", "walk"], "a split has the classes of all"


def test_what_lies_in_no_class_folder_or_an_unknown_one_is_refused(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="run/a1.mp4", b1="b1.mp4", c1="swim/c1.mp4")
    (root / "categories.json").write_text('["run", "walk"]')
    report, found = packed(root, tmp_path, format="folders")
    assert classes(found) == {("all", "run/a1"): "run"}
    assert "lies in no class folder" in reasons(report.refused)["b1.mp4"]
    assert "'swim' is not one of the categories run, walk" in reasons(report.refused)["swim/c1.mp4"]


@pytest.mark.parametrize(("fold", "test"), [("1", "a1"), ("2", "a2")])
def test_ucf_101(footage, tmp_path, fold, test):
    root = put(footage, tmp_path / "set", **{s: f"UCF-101/{s[0].upper()}/v_{s}.mp4" for s in STEMS})
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 A\n2 B\n3 C\n")
    for number, held in (("01", "a1"), ("02", "a2")):
        lines = [f"{s[0].upper()}/v_{s}.mp4" for s in STEMS if s != "c1"]
        (lists / f"testlist{number}.txt").write_text("".join(f"{line}\n" for line in lines if held in line))
        train = [f"{line} {1 + 'AB'.index(line[0])}\n" for line in lines if held not in line]
        (lists / f"trainlist{number}.txt").write_text("".join([*train, "B/v_gone.avi 2\n"]))
    report, found = packed(root, tmp_path, format_options={"fold": fold})
    assert report.format == "folders"
    assert "UCF-101" in report.recognised_by
    wanted = {("test" if s == test else "train", f"{s[0].upper()}/v_{s}"): s[0].upper() for s in STEMS if s != "c1"}
    assert classes(found) == wanted
    assert not report.refused
    assert reasons(report.unused)["UCF-101/C/v_c1.mp4"] == "is in no list of this fold"
    (gone,) = [note for note in report.unused if "gone" in note.path]
    assert gone.path == f"ucfTrainTestlist/trainlist0{fold}.txt, line 4: B/v_gone.avi"
    assert gone.reason == "its video v_gone.avi is not there"
    with pytest.raises(FormatError, match=r"fold=3 has no list; there are 1, 2"):
        get_format("folders", {"fold": 3}).scan(root)


def test_hmdb_51(footage, tmp_path):
    root = put(footage, tmp_path / "set", **{s: f"hmdb51/{s[0]}/{s}.mp4" for s in STEMS})
    lists = root / "testTrainMulti_7030_splits"
    lists.mkdir()
    (lists / "a_test_split1.txt").write_text("a1.avi 1 \na2.avi 2 \n")
    (lists / "b_test_split1.txt").write_text("b1.avi 1 \nb2.avi 0 \n")
    (lists / "c_test_split1.txt").write_text("c1.avi 7 \n")
    report, found = packed(root, tmp_path)
    assert classes(found) == {("train", "a/a1"): "a", ("test", "a/a2"): "a", ("train", "b/b1"): "b"}
    assert {note.reason for note in report.unused} == {"is in neither split there"}
    refused = reasons(report.refused)
    assert "must be a file and 0, 1 (train) or 2 (test)" in refused.pop(
        "testTrainMulti_7030_splits/c_test_split1.txt, line 1: c/c1.avi"
    )
    assert not refused


# ---- tables ----------------------------------------------------------------------------------------------------------


def write_table(path, rows, separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("t.csv", [["path", "label", "split"], ["a1.mp4", "run", "train"], ["b1.mp4", "walk", "validate"]]),
        ("t.tsv", [["Subset", "Class", "Video"], ["training", "run", "C:\\x\\a1.avi"], ["valid", "walk", "x/b1"]]),
    ],
)
def test_tables_by_the_usual_names_of_columns(footage, tmp_path, name, rows):
    root = put(footage, tmp_path / "set", a1="v/a1.mp4", b1="v/b1.mp4", c1="v/c1.mp4")
    write_table(root / name, rows, "\t" if name.endswith("tsv") else ",")
    report, found = packed(root, tmp_path)
    assert report.format == "table"
    assert classes(found) == {("train", "run/a1"): "run", ("val", "walk/b1"): "walk"}
    assert (report.refused, reasons(report.unused)) == ([], {"v/c1.mp4": "is in none of the lists"})


def test_columns_can_be_named(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4", b1="b1.mp4")
    write_table(root / "t.csv", [["path", "what", "label"], ["a1", "dog", "x"], ["b1", "cat", "x"]])
    _, found = packed(root, tmp_path, format="table", format_options={"label": "what"})
    assert classes(found) == {("all", "dog/a1"): "dog", ("all", "cat/b1"): "cat"}


@pytest.mark.parametrize("separator", [" ", ","])
def test_lists_without_a_header_and_numbers_with_names(footage, tmp_path, separator):
    root = put(footage, tmp_path / "set", a1="v/a1.mp4", b1="v/b 1.mp4", b2="v/b2.mp4")
    (root / "kinetics_train_list_videos.txt").write_text(f"v/a1.mp4{separator}0\nv/b 1.mp4{separator}1\n")
    (root / "kinetics_val_list_videos.txt").write_text(f"v/b2.mp4{separator}1\n")
    (root / "categories.json").write_text('["run", "walk"]')
    report, found = packed(root, tmp_path)
    assert "lists a video and a class in each line" in report.recognised_by
    assert classes(found) == {("train", "run/a1"): "run", ("train", "walk/b 1"): "walk", ("val", "walk/b2"): "walk"}


def test_numbers_without_names_are_ordered_as_numbers(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4", b1="b1.mp4", c1="c1.mp4")
    write_table(root / "t.csv", [["path", "label"], ["a1", "10"], ["b1", "9"], ["c1", "0"]])
    _, found = packed(root, tmp_path)
    assert found["all"]["10/a1"][1] == ["0", "9", "10"]


def test_kinetics_csv_finds_clips_that_are_cut_already(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="train/run/-aB_000003_000013.mp4", b1="train/run/-Ab_000003_000013.mp4")
    header = ["label", "youtube_id", "time_start", "time_end", "split", "is_cc"]
    rows = [["run", "-aB", "3", "13", "train", "0"], ["walk", "-Ab", "3", "13", "train", "0"]]
    write_table(root / "train.csv", [header, *rows, ["walk", "gone", "1", "11", "train", "0"]])
    report, found = packed(root, tmp_path)
    assert classes(found) == {("train", "run/-aB_000003_000013"): "run", ("train", "walk/-Ab_000003_000013"): "walk"}
    assert [note.reason for note in report.unused] == ["its video gone is not there"]
    before, after = pixels(footage / "a1.mp4", tmp_path / "shards", "train", "run/-aB_000003_000013")
    assert torch.equal(before, after), "not re-encoded"


@pytest.mark.parametrize(
    "content",
    [
        {"a1": "run", "b1": "walk"},
        {"a1": {"label": "run", "subset": "training"}, "b1": {"label": "walk", "subset": "validation"}},
        {
            "database": {
                "a1": {"annotations": {"label": "run", "segment": [0, 9]}},
                "b1": {"annotations": {"label": "walk"}},
            }
        },
        [{"video": "a1.mp4", "category": "run", "split": "train"}, {"video": "b1.mp4", "category": "walk"}],
        {"annotations": [{"file_name": "a1.mp4", "class": "run"}, {"file_name": "b1.mp4", "class": "walk"}]},
    ],
)
def test_json_lists(footage, tmp_path, content):
    root = put(footage, tmp_path / "set", a1="v/a1.mp4", b1="v/b1.mp4")
    (root / "annotations.json").write_text(json.dumps(content))
    report, found = packed(root, tmp_path, format_options={"cut": "no"})
    assert report.format == "table"
    assert {key: name for (_, key), name in classes(found).items()} == {"run/a1": "run", "walk/b1": "walk"}
    if "subset" in str(content):
        assert set(found) == {"train", "val"}


def test_parts_of_a_video_are_cut_out_to_the_frame(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4")
    step = Fraction(1, 25)
    rows = [[float(5 * step), float(9 * step), "x"], [float(9 * step), float(24 * step), "y"], [0, 0.2, "x"]]
    write_table(root / "t.csv", [["path", "start", "stop", "label"], *(["a1", *row] for row in rows)])
    report, found = packed(root, tmp_path, transcode=ws.Transcode(crf=1))
    assert not report.refused
    assert classes(found) == {
        ("all", "x/a1_0_2-0_36"): "x",
        ("all", "y/a1_0_36-0_96"): "y",
        ("all", "x/a1_0-0_2"): "x",
    }
    for key, first, stop in (("x/a1_0_2-0_36", 5, 9), ("y/a1_0_36-0_96", 9, 24), ("x/a1_0-0_2", 0, 5)):
        before, after = pixels(footage / "a1.mp4", tmp_path / "shards", "all", key)
        assert len(after) == stop - first == len(found["all"][key][0])
        distances = [[(one.float() - other.float()).abs().mean().item() for other in before] for one in after]
        assert np.argmin(distances, axis=1).tolist() == list(range(first, stop))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a1", "0.5", "0.1", "x"], "starts at 0.5 s and stops at 0.1 s"),
        (["a1", "-1", "0.1", "x"], "starts at -1 s and stops at 0.1 s"),
        (["a1", "0.1", "", "x"], "has a start alone; write both"),
        (["a1", "soon", "0.2", "x"], "'soon' is no time in seconds"),
        (["a1", "0.5", "9", "x"], "stops more than 0.1 s after the video"),
        (["a1", "0.1", "0.2", ""], "its class is empty"),
    ],
)
def test_a_line_that_is_wrong_is_refused_by_its_number(footage, tmp_path, row, message):
    root = put(footage, tmp_path / "set", a1="a1.mp4", b1="b1.mp4")
    write_table(root / "t.csv", [["path", "start", "stop", "label"], ["b1", "0", "0.4", "x"], row])
    report, found = packed(root, tmp_path)
    assert list(classes(found)) == [("all", "x/b1")]
    (told,) = [f"{note.path}: {note.reason}" for note in report.refused]
    assert not report.unused, "what is refused is not said to be in no list"
    assert message in told
    assert "line 3" in told


def test_two_classes_or_splits_of_one_clip_are_refused(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4", b1="b1.mp4", c1="c1.mp4")
    rows = [["a1", "x", "train"], ["a1", "y", "train"], ["b1", "x", "train"], ["b1", "x", "val"], ["c1", "x", "train"]]
    write_table(root / "t.csv", [["path", "label", "split"], *rows, ["c1", "x", "train"]])
    report, found = packed(root, tmp_path)
    assert list(classes(found)) == [("train", "x/c1")], "what is named twice alike is packed once"
    told = reasons(report.refused)
    assert "is of two classes, 'x' here and 'y' in t.csv, line 3" in told["t.csv, line 2: a1"]
    assert "is of two splits, 'train' here and 'val' in t.csv, line 5" in told["t.csv, line 4: b1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"path,label\na1,\xff\n", "t.csv is not UTF-8 text"),
        ("t.csv", b"path,label\na1\n", "line 2: 1 cells, but the header has 2"),
        ("t.csv", b"", "lists clips; its header must name the columns path and label"),
        ("t.csv", b"path,colour\na1,x\n", "lists clips; its header must name the columns path and label"),
        ("t.json", b'{"a1": ', "t.json is no JSON that can be read"),
        ("t.csv", b"path,label\ngone,\n", "has a line that can be used"),
    ],
)
def test_a_table_that_is_none_is_named(footage, tmp_path, name, content, message):
    root = put(footage, tmp_path / "set", a1="a1.mp4")
    (root / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        ws.pack(root, tmp_path / "shards", format="table", progress=False)
    assert not (tmp_path / "shards").exists(), "nothing half written"


# ---- WLASL -----------------------------------------------------------------------------------------------------------


def wlasl(root, *instances, name="WLASL.json"):
    """A WLASL JSON of (gloss, instance) pairs."""
    glosses = {}
    for gloss, instance in instances:
        told = {"instance_id": len(glosses.get(gloss, [])), "split": "train", "frame_start": 1, "frame_end": -1}
        glosses.setdefault(gloss, []).append(told | instance)
    content = [{"gloss": gloss, "instances": found} for gloss, found in glosses.items()]
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))


def test_wlasl_on_real_signs(shared_data, tmp_path):
    """Every instance of the JSON comes back: its frames, its split, its gloss."""
    glosses = json.loads((shared_data / "signs" / "WLASL_v0.3.json").read_text())[:3]
    root = tmp_path / "signs"
    (root / "videos").mkdir(parents=True)
    (root / "WLASL_v0.3.json").write_text(json.dumps(glosses))
    for gloss in glosses:
        shutil.copy(shared_data / "signs" / "videos" / f"{gloss['gloss']}.mkv", root / "videos")
    report, found = packed(root, tmp_path)
    assert report.format == "wlasl"
    assert not report.refused
    told = classes(found)
    for gloss in glosses:
        for instance in gloss["instances"]:
            key = f"{gloss['gloss']}/{instance['video_id']}_{instance['instance_id']}"
            assert told.pop((instance["split"], key)) == gloss["gloss"]
            path = root / "videos" / f"{instance['video_id']}.mkv"
            stop = probe(read_tensor(path)).num_frames if instance["frame_end"] == -1 else instance["frame_end"]
            assert len(found[instance["split"]][key][0]) == stop - (instance["frame_start"] - 1)
    assert not told
    instance = glosses[0]["instances"][2]
    before, after = pixels(
        path := root / "videos" / f"{instance['video_id']}.mkv", tmp_path / "shards", "val", key_of(glosses[0], 2)
    )
    wanted = before[instance["frame_start"] - 1 : instance["frame_end"]]
    assert path.exists()
    assert (wanted.float() - after.float()).abs().mean() < 3


def key_of(gloss, place):
    instance = gloss["instances"][place]
    return f"{gloss['gloss']}/{instance['video_id']}_{instance['instance_id']}"


def test_wlasl_crops_to_the_signer(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="v/a1.mp4", b1="v/b1.mp4")
    wlasl(
        root, ("x", {"video_id": "a1", "bbox": [11, 7, 50, 40]}), ("y", {"video_id": "b1", "bbox": [-5, 0, 900, 900]})
    )
    _, found = packed(root, tmp_path, format_options={"crop": True}, transcode=ws.Transcode(crf=1))
    before, after = pixels(footage / "a1.mp4", tmp_path / "shards", "train", "x/a1")
    assert after.shape == (FRAMES, 3, 34, 40)  # from even pixels on, to even sizes
    assert (before[..., 6:40, 10:50].float() - after.float()).abs().mean() < 6
    assert (before[..., 6:40, 14:54].float() - after.float()).abs().mean() > 12, "not shifted"
    assert classes(found)["train", "y/b1"] == "y"
    before, after = pixels(footage / "b1.mp4", tmp_path / "shards", "train", "y/b1")
    assert before.shape == after.shape


def test_wlasl_subsets_are_the_most_frequent_glosses(tmp_path):
    layout = get_format("wlasl", {"subset": "asl100"})
    counts = [2] * 60 + [5] * 50 + [1] * 20
    root = tmp_path / "set"
    instances = [(f"g{n:03d}", {"video_id": f"{n}_{k}"}) for n, count in enumerate(counts) for k in range(count)]
    wlasl(root, *instances)
    for name in ("0_0", "60_0", "120_0", "foreign"):
        (root / f"{name}.mp4").write_bytes(b"")
    scan = layout.scan(root)
    assert scan.categories == [f"g{n:03d}" for n in range(110) if n < 50 or n >= 60]
    assert [source.key for source in scan.sources] == ["g000/0_0", "g060/60_0"]
    told = {path: reason for path, reason in reasons(scan.unused).items() if "no instance" in reason}
    assert list(told) == ["foreign.mp4"], "videos of other glosses are not missed"
    with pytest.raises(ConfigError, match=r"format option subset='asl5': Input should be 'all', 'asl100'"):
        get_format("wlasl", {"subset": "asl5"})


def test_wlasl_that_is_wrong_is_named(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4", b1="b1.mp4", c1="c1.mp4")
    wlasl(
        root,
        ("x", {"video_id": "a1", "frame_start": 3, "frame_end": 99}),
        ("x", {"video_id": "b1", "frame_start": 0}),
        ("x", {"video_id": "c1", "bbox": [9, 9, 3, 3]}),
        ("y", {"video_id": "c1", "frame_start": 9, "frame_end": 8}),
        ("y", {"video_id": "c1", "frame_start": 2, "frame_end": 24}),
        ("y", {"video_id": "missing"}),
    )
    report, found = packed(root, tmp_path)
    assert list(classes(found)) == [("train", "y/c1_1")]
    told = " ".join(f"{note.path}: {note.reason}" for note in report.refused)
    for message in (
        "instance 0: the frames from 2 up to 99 (without it, counted from 0) are not within the video, which has 24",
        "instance 1: b1: its frames 0 to -1 are none",
        "instance 2: c1: its bbox [9.0, 9.0, 3.0, 3.0] is none",
        "instance 0: c1: its frames 9 to 8 are none",
    ):
        assert message in told, told
    assert [note.reason for note in report.unused] == ["its video missing is not there"]
    (root / "WLASL.json").write_text('[{"gloss": "x", "instances": [{"split": 3}]}]')
    with pytest.raises(FormatError, match=r"WLASL.json, at 0 → instances → 0 → video_id: Field required"):
        ws.pack(root, tmp_path / "more", format="wlasl", progress=False)


# ---- points ----------------------------------------------------------------------------------------------------------


def test_points_have_a_radius(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4")
    write_table(
        root / "a1.csv", [["start", "stop", "class"], ["0.4", "", "peck"], ["0.92", "0.92", "peck"], ["0", "", "hop"]]
    )
    report, found = packed(root, tmp_path, format="events", format_options={"radius": "0.1"})
    assert not report.refused
    rows, categories = found["all"]["a1"]
    assert np.flatnonzero(rows[:, categories.index("peck")]).tolist() == [7, 8, 9, 10, 11, 12, 20, 21, 22, 23]
    assert np.flatnonzero(rows[:, categories.index("hop")]).tolist() == [0, 1, 2]
    report = ws.pack(root, tmp_path / "none", format="events", progress=False)
    assert "line 2: stop is empty. Write a time; or" in report.refused[0].reason
    with pytest.raises(ConfigError, match=r"format option radius='-1': Input should be greater than or equal to 0"):
        get_format("events", {"radius": "-1"})
    assert get_format("boris", {"radius": 2}).radius == Decimal(2)


# ---- images ----------------------------------------------------------------------------------------------------------


def images(folder, count, *, extension="jpg", seed=0, size=(40, 30), first=1):
    """A folder of frames, of which each has a colour of its own."""
    folder.mkdir(parents=True)
    options = {"quality": 95, "subsampling": 0} if extension == "jpg" else {}
    rng = np.random.default_rng(seed)
    for number in range(first, first + count):
        colours = rng.integers(0, 255, (3, 4, 3), np.uint8)
        Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(
            folder / f"{number}.{extension}", **options
        )
    return folder


def shown(path):
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp"])
def test_folders_of_frames_are_packed_as_they_are(tmp_path, extension):
    root = tmp_path / "set"
    first = images(root / "frames" / "clip_1", 12, extension=extension)
    images(root / "frames" / "clip_2", 3, extension=extension, seed=1)
    write_table(
        root / "labels.csv", [["video", "label", "split"], ["clip_1", "run", "train"], ["clip_2", "walk", "val"]]
    )
    report, found = packed(root, tmp_path, format_options={"fps": "10"})
    assert report.format == "frame-folders"
    assert classes(found) == {("train", "run/clip_1"): "run", ("val", "walk/clip_2"): "walk"}
    index = ws.open_index(tmp_path / "shards" / "train")
    table = index.frame_table(0)
    assert [float(int(pts) * table.time_base) for pts in table.pts] == pytest.approx([n / 10 for n in range(12)])
    assert table.key_frames.tolist() == list(range(12)), "each can be decoded by itself"
    data = member(tmp_path / "shards", "train", "run/clip_1")
    if extension != "bmp":
        assert all((first / f"{n}.{extension}").read_bytes() in data for n in range(1, 13)), "byte by byte"
    frames = straight(tensor(data))
    for n in range(12):  # 10.jpg is the tenth, not the second
        difference = (frames[n].float() - shown(first / f"{n + 1}.{extension}").float()).abs()
        assert difference.mean() < (1 if extension == "jpg" else 1e-6)


def test_folders_of_frames_below_class_folders_and_encoded(tmp_path):
    root = tmp_path / "set"
    for number, place in enumerate(("train/run/c1", "train/walk/c2", "val/run/c3")):
        images(root / place, 5, seed=number)
    with pytest.raises(FormatError, match=r"looks like 2 layouts \(frame-folders: .*; image-folders: "):
        recognise_format(root)  # train/run could be a place, and c1 a species
    _, found = packed(root, tmp_path, format="frame-folders", transcode=ws.Transcode(crf=1, gop=2))
    assert classes(found) == {("train", "run/c1"): "run", ("train", "walk/c2"): "walk", ("val", "run/c3"): "run"}
    index = ws.open_index(tmp_path / "shards" / "train")
    assert index.coding(0)[0] == "h264"


def test_frames_that_make_no_video_are_refused(tmp_path):
    root = tmp_path / "set"
    images(root / "run" / "good", 3)
    images(root / "run" / "sizes", 2)
    Image.new("RGB", (8, 8)).save(root / "run" / "sizes" / "3.jpg")
    images(root / "run" / "broken", 2)
    (root / "run" / "broken" / "2.jpg").write_bytes(b"no image")
    images(root / "run" / "cut", 3)
    whole = (root / "run" / "cut" / "2.jpg").read_bytes()
    (root / "run" / "cut" / "2.jpg").write_bytes(whole[: len(whole) // 3])
    report, found = packed(root, tmp_path, format="frame-folders")
    told = {path.rpartition("/")[2]: reason for path, reason in reasons(report.refused).items()}
    assert "3.jpg has 8 × 8 pixels, 1.jpg 40 × 30" in told["sizes"]
    assert "2.jpg is no image that can be read" in told["broken"]
    assert "run/good" in found["all"]
    assert "cut" in told or [note.path for note in report.damaged] == ["run/cut"], "a cut file is not passed over"


def test_image_folders_of_several_sources_and_a_hierarchy(tmp_path):
    root = tmp_path / "set"
    images(root / "site_a" / "parus major", 2)
    images(root / "site_b" / "parus major", 2, seed=1, extension="png")
    images(root / "site_b" / "corvus corax", 1, seed=2)
    turned = Image.open(root / "site_a" / "parus major" / "1.jpg")
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright
    turned.save(root / "site_a" / "parus major" / "1.jpg", exif=exif)
    report, found = packed(root, tmp_path)
    assert report.format == "image-folders"
    assert classes(found) == {
        ("all", "site_a/parus major/1"): "parus major",
        ("all", "site_a/parus major/2"): "parus major",
        ("all", "site_b/parus major/1"): "parus major",
        ("all", "site_b/parus major/2"): "parus major",
        ("all", "site_b/corvus corax/1"): "corvus corax",
    }
    index = ws.open_index(tmp_path / "shards" / "all")
    assert index.frame_size(index.keys.index("site_a/parus major/1")) == (40, 30), "upright"
    assert set(index.num_frames.tolist()) == {1}
    before = shown(root / "site_b" / "parus major" / "2.png")
    assert torch.equal(straight(tensor(member(tmp_path / "shards", "all", "site_b/parus major/2")))[0], before)


def test_splits_of_image_folders_are_known_by_their_names(tmp_path):
    root = tmp_path / "set"
    images(root / "train" / "x", 1)
    images(root / "val" / "x", 1, seed=3)
    images(root / "elsewhere" / "x", 1, seed=4)
    scan = get_format("image-folders").scan(root)
    assert {(source.split, source.key) for source in scan.sources} == {
        ("train", "x/1"),
        ("val", "x/1"),
        ("all", "elsewhere/x/1"),
    }


@pytest.mark.parametrize(
    ("places", "classes_of"),
    [
        (["train/cat", "train/dog", "val/cat", "val/dog"], {"cat", "dog"}),
        (["cat", "dog"], {"cat", "dog"}),
        (["train/tirol/cat", "val/tirol/cat", "train/tirol/dog"], {"cat", "dog"}),
    ],
)
def test_numbered_photos_are_not_taken_for_frames(tmp_path, places, classes_of):
    root = tmp_path / "set"
    for number, place in enumerate(places):
        images(root / place, 3, seed=number)
    report, found = packed(root, tmp_path)
    assert report.format == "image-folders"
    assert set(classes(found).values()) == classes_of
    assert set(found) == ({"train", "val"} if "/" in places[0] else {"all"})


def test_a_list_of_images_and_lists_of_rawframes(tmp_path):
    root = images(tmp_path / "photos" / "images", 3).parent
    write_table(root / "labels.csv", [["filename", "label"], ["1.jpg", "x"], ["2.jpg", "y"]])
    report, found = packed(root, tmp_path)
    assert (report.format, classes(found)) == ("image-folders", {("all", "x/1"): "x", ("all", "y/2"): "y"})
    root = tmp_path / "raw"
    for number, place in enumerate(("v1", "v2")):
        folder = images(root / "rawframes" / place, 3, seed=number)
        for path in list(folder.iterdir()):
            shutil.copy(path, folder / f"flow_x_{path.name}")
            path.rename(folder / f"img_{path.name}")
    (root / "train_rawframes.txt").write_text("v1 3 4\n")
    (root / "val_rawframes.txt").write_text("v2 3 7\n")
    report = ws.pack(root, tmp_path / "none", progress=False)
    assert all("holds images of 2 kinds, flow_x_, img_; say which" in note.reason for note in report.refused)
    shutil.rmtree(tmp_path / "shards")
    report, found = packed(root, tmp_path, format_options={"prefix": "img_"})
    assert classes(found) == {("train", "4/v1"): "4", ("val", "7/v2"): "7"}
    assert all(len(rows) == 3 for videos in found.values() for rows, _ in videos.values())


def test_images_that_are_cut_strange_or_hostile_are_refused(tmp_path):
    root = tmp_path / "set" / "x"
    images(root, 4)
    whole = (root / "1.jpg").read_bytes()
    (root / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "2.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    Image.new("RGB", (9, 9)).save(root / "5.tif", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    (root / "6.gif").write_bytes(b"GIF89a")
    (root / "7.jpg").symlink_to(tmp_path / "nowhere")
    report, found = packed(root.parent, tmp_path, format="image-folders")
    assert set(found["all"]) == {"x/3", "x/4"}
    told = reasons([*report.refused, *report.unused])
    assert "1.jpg is no image that can be read" in told["x/1.jpg"]
    assert "2.jpg is no image that can be read" in told["x/2.jpg"]
    assert "holds 2 images" in told["x/5.tif"]
    assert "is not read" in told["x/6.gif"]
    assert "is a link to a file that is not there" in told["x/7.jpg"]


@pytest.mark.parametrize(
    ("fps", "wanted"), [("30000/1001", "30000/1001"), ("29.97002997", "30000/1001"), ("0.5", "1/2")]
)
def test_frames_per_second_are_a_fraction(fps, wanted):
    assert get_format("frame-folders", {"fps": fps}).fps == Fraction(wanted)
    with pytest.raises(ConfigError, match="format option fps='nan'"):
        get_format("frame-folders", {"fps": "nan"})


# ---- what lists mean -------------------------------------------------------------------------------------------------


def test_a_missing_file_is_not_taken_for_one_of_its_name_elsewhere(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="run/001.mp4", a2="run/002.mp4", b1="dance/002.mp4")
    (root / "list.txt").write_text("run/002.mp4,run\ndance/002.mp4,dance\ndance/001.mp4,dance\n")
    report, found = packed(root, tmp_path)
    assert classes(found) == {("all", "run/002"): "run", ("all", "dance/002"): "dance"}
    assert "its video 001.mp4 is not there" in {note.reason for note in report.unused}


def test_other_texts_and_jsons_are_no_lists_and_name_no_class(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4", b1="b1.mp4")
    write_table(root / "train.csv", [["path", "label"], ["a1", "run"], ["b1", "jump up"]])
    (root / "info.json").write_text('{"author": "Ann", "version": "2"}')
    (root / "README.txt").write_text("Release 2\n")
    report, found = packed(root, tmp_path)
    assert found["train"]["run/a1"][1] == ["jump up", "run"]
    assert {note.path for note in report.unused} == {"info.json", "README.txt"}
    (root / "train.csv").unlink()
    (root / "list.txt").write_text("a1.mp4 jump up\nb1.mp4 run\n")
    assert get_format("table").scan(root).categories == ["jump up", "run"]


def test_a_column_that_is_not_there_is_not_replaced_by_another(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4")
    write_table(root / "t.csv", [["path", "label", "species"], ["a1", "x", "cat"]])
    with pytest.raises(FormatError, match=r"has the column 'specie' .*t\.csv has path, label, species"):
        ws.pack(root, tmp_path / "out", format="table", format_options={"label": "specie"}, progress=False)


def test_names_that_cannot_be_written_and_keys_that_meet(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="run/a.b.mp4", a2="run/a_b-2.mp4", b1="run/a_b.mp4", b2="walk/c.mp4")
    (root / "walk" / "c.mp4").rename(root / "walk" / "caf\udce9.mp4")
    write_table(root / "t.csv", [["path", "label"], ["a.b.mp4", "x"], ["a_b-2.mp4", "x"], ["a_b.mp4", "x"]])
    report, found = packed(root, tmp_path)
    assert len(found["all"]) == 3
    (root / "t.csv").unlink()
    report = ws.pack(root, tmp_path / "folders", format="folders", progress=False)
    assert [note.reason for note in report.refused if "caf" in note.path] == [
        "its name, or that of its class, is not UTF-8; rename it"
    ]


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_copies_are_left_out_and_named(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1=["train/run/a1.mp4", "train/run/again.mp4", "val/run/a1.mp4"])
    put(footage, root, b1=["train/run/b1.mp4", "train/walk/b1.mp4"], c1="train/walk/c1.mp4")
    before = sorted(root.rglob("*"))
    report, found = packed(root, tmp_path)
    assert list(classes(found)) == [("train", "run/a1"), ("train", "walk/c1"), ("val", "run/a1")]
    told = reasons(report.refused)
    assert told["train/run/again.mp4"] == "is a copy of train/run/a1.mp4, with the same labels; delete one"
    assert told["train/run/b1.mp4"] == "is the same video as train/walk/b1.mp4, with other labels; keep the right one"
    assert told["train/walk/b1.mp4"] == "is the same video as train/run/b1.mp4, with other labels; keep the right one"
    assert reasons(report.leaks) == {"val/run/a1.mp4": "is in split train too, as train/run/a1.mp4"}
    assert sorted(root.rglob("*")) == before, "the user's files are not touched"


def test_parts_of_one_video_in_two_splits_are_told(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4", b1="b1.mp4")
    parts = [["a1", 0, 0.2, "train"], ["a1", 0.2, 0.4, "val"], ["a1", 0.4, 0.6, "val"], ["b1", 0, 0.2, "val"]]
    write_table(root / "t.csv", [["path", "start", "stop", "split", "label"], *([*part, "x"] for part in parts)])
    report, found = packed(root, tmp_path)
    assert {split: len(videos) for split, videos in found.items()} == {"train": 1, "val": 3}
    assert [(note.split, note.path, note.reason) for note in report.leaks] == [
        ("val", "a1.mp4", "has parts in the splits train, val")
    ]


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_every_format_has_a_tree_in_its_documentation():
    for name, layout in FORMATS.items():
        assert layout.name == name
        assert name in FORMAT_NAMES
        assert "    " in layout.__doc__, name
        assert hasattr(layout, "__dataclass_fields__")


def test_looking_says_what_it_saw(footage, tmp_path, capsys):
    root = put(footage, tmp_path / "set", a1="run/a1.mp4", b1="walk/b1.mp4", b2="walk/b2.mp4")
    assert main(["pack", str(root), str(tmp_path / "shards")]) == 0
    assert "format: folders (3 videos without label files lie in 2 folders)" in capsys.readouterr().out


def test_looking_does_not_guess(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4", b1="b1.mp4")
    with pytest.raises(FormatError, match=r"looks like no layout that is known: 2 videos, 0 images and 0 other files"):
        recognise_format(root)
    write_table(root / "a1.csv", [["start", "stop", "class"], ["0", "1", "x"]])
    assert recognise_format(root)[0] == "events"
    write_table(root / "list.csv", [["path", "label"], ["a1", "x"]])
    with pytest.raises(FormatError, match=r"looks like 2 layouts \(events: .*; table: .*\)\. Say which, by --format"):
        recognise_format(root)


@pytest.mark.parametrize("name", ["behaviour", "clips", "signs"])
def test_real_data_is_recognised(shared_data, name):
    wanted = {"behaviour": "frames", "clips": "videos", "signs": "wlasl"}
    assert recognise_format(shared_data / name)[0] == wanted[name]


def test_options_of_formats_are_checked(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"format='wlasl' has no option 'sub'\. It has subset, crop, cut"):
        get_format("wlasl", {"sub": "x"})
    with pytest.raises(ConfigError, match=r"format='frames' has no option 'x'\. It has none"):
        get_format("frames", {"x": "y"})
    with pytest.raises(SystemExit):
        main(["pack", str(tmp_path), str(tmp_path / "out"), "--format-option", "crop"])
    assert "'crop' is not NAME=VALUE" in capsys.readouterr().err
    assert get_format("elan", {"tiers": ("a", "b")}).tiers == ("a", "b")


def test_another_option_packs_anew(footage, tmp_path):
    root = put(footage, tmp_path / "set", a1="a1.mp4")
    write_table(root / "a1.csv", [["start", "stop", "class"], ["0.4", "0.4", "peck"]])
    for radius, frames in (("0.1", 6), ("0.2", 10), ("0.2", 10)):
        report, found = packed(root, tmp_path, format="events", format_options={"radius": radius})
        assert found["all"]["a1"][0].sum() == frames
    assert report.reused == {"all": 1}


def test_links_to_folders_are_followed_and_loops_are_not(footage, tmp_path):
    put(footage, tmp_path / "disk", a1="run/a1.mp4", b1="walk/b1.mp4")
    root = tmp_path / "set"
    (root / "more" / "walk").mkdir(parents=True)
    (root / "train").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "walk" / "loop").symlink_to(tmp_path / "disk")
    shutil.copy(footage / "c1.mp4", root / "more" / "walk")
    scan = get_format("folders").scan(root)
    assert sorted((source.split, source.key) for source in scan.sources) == [
        ("all", "more/walk/c1"),
        ("train", "run/a1"),
        ("train", "walk/b1"),
    ]


# ---- WildFins' layouts, on real videos -------------------------------------------------------------------------------


def test_rows_of_real_behaviour_come_back_frame_by_frame(shared_data, tmp_path):
    root = shared_data / "behaviour"
    report = ws.pack(root, tmp_path / "shards", splits=["val"], progress=False)
    assert report.format == "frames"
    index = ws.open_index(tmp_path / "shards" / "val")
    assert index.categories == json.loads((root / "categories.json").read_text())
    tables = {path.stem: np.loadtxt(path, dtype=int, delimiter="\t", ndmin=2) for path in (root / "val").rglob("*.tsv")}
    assert set(tables) == set(index.keys)
    for video, key in enumerate(index.keys):
        assert (index.track(video).rows() == (tables[key] == 1)).all()


def test_classes_of_real_clips_come_back(shared_data, tmp_path):
    root = shared_data / "clips"
    report = ws.pack(root, tmp_path / "shards", splits=["val"], progress=False)
    assert report.format == "videos"
    index = ws.open_index(tmp_path / "shards" / "val")
    numbers = {f"{path.parent.name}/{path.stem}": int(path.read_text()) for path in (root / "val").rglob("*.txt")}
    assert set(numbers) == set(index.keys)
    for video, key in enumerate(index.keys):
        rows = index.track(video).rows()
        assert (rows == (np.arange(len(index.categories)) == numbers[key])).all()
        assert index.categories[numbers[key]] == key.split("/")[0]
