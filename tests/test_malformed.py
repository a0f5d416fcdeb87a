"""Label files that are wrong, in every layout: a message names the file, the rest is packed, nothing half written."""

import json
import shutil

import pytest
from conftest import moving_pattern, write_video
from PIL import Image

import wildstream as ws
from wildstream.errors import FormatError
from wildstream.shards.formats import FORMATS

FRAMES = 12
EAF = (
    '<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds"/><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="0"/>'
    '<TIME_SLOT TIME_SLOT_ID="t2" TIME_VALUE="200"/></TIME_ORDER><TIER TIER_ID="x"><ANNOTATION><ALIGNABLE_ANNOTATION '
    'ANNOTATION_ID="a" TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t2"><ANNOTATION_VALUE>run</ANNOTATION_VALUE>'
    "</ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"
)
BORIS = "Observation id,Media file name,Behavior,Behavior type,Start (s),Stop (s)\no,{stem}.mp4,run,STATE,0,0.2\n"
WLASL = [{"gloss": "run", "instances": [{"video_id": stem, "split": "train"} for stem in ("good", "bad")]}]
ROWS = "background,run\n" + "0,1\n" * FRAMES
LAYOUTS = {
    # format: files of labels for the stems "good" and "bad"; {stem} is replaced; the last is the one that is broken
    "frames": ({"good.tsv": "1\t0\n" * FRAMES, "bad.tsv": "1\t0\n" * FRAMES}, "{stem}.mp4"),
    "videos": ({"run/good.txt": "0", "run/bad.txt": "0"}, "run/{stem}.mp4"),
    "events": ({"good.csv": "start,stop,class\n0,0.2,run\n", "bad.csv": "start,stop,class\n0,0.2,run\n"}, "{stem}.mp4"),
    "boris": ({"good.csv": BORIS.format(stem="good"), "bad.csv": BORIS.format(stem="bad")}, "{stem}.mp4"),
    "elan": ({"good.eaf": EAF, "bad.eaf": EAF}, "{stem}.mp4"),
    "deepethogram": ({"good/good_labels.csv": ROWS, "bad/bad_labels.csv": ROWS}, "{stem}/{stem}.mp4"),
    "wlasl": ({"bad.json": json.dumps(WLASL)}, "{stem}.mp4"),
    "table": ({"good.csv": "path,label\ngood.mp4,run\n", "bad.csv": "path,label\nbad.mp4,run\n"}, "{stem}.mp4"),
    "folders": (
        {"trainlist02.txt": "run/good.mp4\n", "trainlist01.txt": "run/good.mp4\nrun/bad.mp4\n"},
        "run/{stem}.mp4",
    ),
    "frame-folders": ({"good.csv": "path,label\ngood,run\n", "bad.csv": "path,label\nbad,run\n"}, "{stem}"),
    "image-folders": ({}, "run/{stem}.jpg"),
}
BREAKS = {
    "not UTF-8": lambda _: b"\xff\xfe\xfa" * 20,
    "empty": lambda _: b"",
    "cut in the middle": lambda data: data[: len(data) // 2],
    "zero bytes": lambda data: data[:9] + b"\0" * 50 + data[9:],
    "quotes": lambda data: data + b'"' * 3,
    "a long line": lambda data: data + b"x" * (1 << 20),
    "a huge number": lambda data: data.replace(b"0", b"9" * 400).replace(b"1", b"9" * 400),
}


@pytest.fixture(scope="session")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("malformed")
    for seed, stem in enumerate(("good", "bad")):
        write_video(folder / f"{stem}.mp4", moving_pattern(seed, FRAMES))
    return folder


def make(footage, root, name):
    """A source of two samples, and the label file that is to be broken (None: the layout has none)."""
    labels, video = LAYOUTS[name]
    for seed, stem in enumerate(("good", "bad")):
        place = root / video.format(stem=stem)
        place.parent.mkdir(parents=True, exist_ok=True)
        if name == "frame-folders":
            place.mkdir()
            for number in range(3):
                Image.new("RGB", (32, 24), (seed * 40, number * 20, 9)).save(place / f"{number}.png")
        elif name == "image-folders":
            Image.new("RGB", (32, 24), (seed * 40, 20, 9)).save(place)
        else:
            shutil.copy(footage / f"{stem}.mp4", place)
    for path, text in labels.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "categories.json").write_text('["run", "walk"]' if name == "frames" else '["run"]')
    return root / list(labels)[-1] if labels else None


def pack_or_message(tmp_path, name):
    """The report of a packing, or what says that it cannot be."""
    try:
        return ws.pack(tmp_path / "set", tmp_path / "shards", format=name, progress=False), ""
    except FormatError as error:
        return None, str(error)


def test_all_layouts_are_here():
    assert set(LAYOUTS) == set(FORMATS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_right_is_packed(footage, tmp_path, name):
    make(footage, tmp_path / "set", name)
    report = ws.pack(tmp_path / "set", tmp_path / "shards", format=name, progress=False)
    assert not report.refused, report.refused
    assert sum(report.packed.values()) == 2


@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("name", [name for name, (labels, _) in LAYOUTS.items() if labels])
def test_a_broken_label_file_is_named(footage, tmp_path, name, broken):
    path = make(footage, tmp_path / "set", name)
    before = path.read_bytes()
    path.write_bytes(BREAKS[broken](before))
    if path.read_bytes() == before:
        pytest.skip("it holds no number")
    report, message = pack_or_message(tmp_path, name)
    if report is None:
        assert path.name in message or "below" in message, message
        assert not (tmp_path / "shards").exists(), "nothing half written"
        return
    told = " ".join(f"{note.path}: {note.reason}" for note in (*report.refused, *report.unused))
    assert len(told) < 3000
    packed = sum(report.packed.values())
    if packed == 2:  # the damage does no harm: blank lines, a comment
        assert not told or broken in ("quotes", "a long line"), told  # a line more, which is told
        return
    assert packed in (0, 1)
    indexes = [ws.open_index(tmp_path / "shards" / split) for split, count in report.packed.items() if count]
    there = {key.split("/")[-1] for index in indexes for key in index.keys}
    for stem in ("good", "bad"):
        assert stem in there or f"{stem}." in told, f"{stem} is lost in silence: {told}"


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_unknown_class_is_named(footage, tmp_path, name):
    make(footage, tmp_path / "set", name)
    (tmp_path / "set" / "categories.json").write_text('["swim"]')
    if name == "wlasl":
        pytest.skip("its glosses are the classes")
    report, message = pack_or_message(tmp_path, name)
    if report is None:
        assert "categories" in message
        return
    if name == "videos":
        assert sum(report.packed.values()) == 2, "its labels are numbers"
        return
    assert not sum(report.packed.values())
    assert all(
        "swim" in note.reason or "columns" in note.reason or "categories" in note.reason for note in report.refused
    )


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("content", [None, b"", b"no video"])
def test_an_empty_folder_and_videos_that_are_none(footage, tmp_path, name, content):
    root = tmp_path / "set"
    root.mkdir()
    if content is None:
        with pytest.raises(FormatError, match=r"no (video|image|categories\.json)"):
            ws.pack(root, tmp_path / "shards", format=name, progress=False)
        return
    make(footage, root, name)
    video = next(
        path
        for path in sorted(root.rglob("*"))
        if "bad" in str(path.relative_to(root)) and path.suffix in (".mp4", ".jpg", ".png")
    )
    video.write_bytes(content)
    report = ws.pack(root, tmp_path / "shards", format=name, progress=False)
    assert sum(report.packed.values()) == 1
    assert ["bad" in note.path for note in report.refused] == [True], report.refused
