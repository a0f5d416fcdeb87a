"""Projects of DeepEthogram: every frame comes back, as behaviour, background or unlabelled; what is wrong is named."""

import csv
import shutil

import numpy as np
import pytest
from conftest import moving_pattern, write_video

import wildstream as ws
from wildstream.errors import FormatError
from wildstream.shards.formats import recognise_format

FRAMES = 30
HEADER = ["", "background", "groom", "rear"]


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deg")
    for seed in range(2):
        write_video(folder / f"m{seed}.mp4", moving_pattern(20 + seed, FRAMES))
    return folder


def truth(seed):
    """(frames, 2) of 0 and 1, and which frames are labelled."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.random((FRAMES // 5, 2)) < 0.4, 5, axis=0)
    known = np.repeat(rng.random(FRAMES // 5) < 0.7, 5)
    rows[~known] = False
    return rows, known


def lines(rows, known):
    """As pandas writes them, the number of the frame first."""
    found = []
    for frame, (row, is_known) in enumerate(zip(rows, known, strict=True)):
        values = [int(not row.any()), *row.astype(int)] if is_known else [-1, -1, -1]
        found.append([frame, *values])
    return found


@pytest.fixture
def project(videos, tmp_path):
    root = tmp_path / "project"
    for seed in range(2):
        folder = root / "DATA" / f"m{seed}"
        folder.mkdir(parents=True)
        shutil.copy(videos / f"m{seed}.mp4", folder)
        write(folder / f"m{seed}_labels.csv", [HEADER, *lines(*truth(seed))])
    (root / "project_config.yaml").write_text("project: {}\n")
    (root / "models").mkdir()
    (root / "models" / "preview.mp4").write_bytes(b"no part of the data")
    return root


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize("below", [".", "DATA"])
def test_every_frame_comes_back(project, tmp_path, below):
    name, reason = recognise_format(project / below)
    assert name == "deepethogram", reason
    report = ws.pack(project / below, tmp_path / "shards", progress=False)
    assert report.packed == {"all": 2}
    assert not report.refused
    index = ws.open_index(tmp_path / "shards" / "all")
    assert (index.categories, index.keys) == (["groom", "rear"], ["m0", "m1"])
    for seed in range(2):
        rows, known = truth(seed)
        assert (~known).any()
        assert (index.track(seed).rows() == rows).all()
        assert (index.track(seed).known() == known).all()


def test_columns_are_taken_by_name(project, tmp_path):
    rows, known = truth(1)
    turned = [[line[0], line[1], line[3], line[2]] for line in lines(rows, known)]
    write(project / "DATA" / "m1" / "m1_labels.csv", [["Unnamed: 0", "background", "rear", "groom"], *turned])
    assert not ws.pack(project, tmp_path / "shards", progress=False).refused
    index = ws.open_index(tmp_path / "shards" / "all")
    assert (index.track(1).rows() == rows).all()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((3, 2), "-1", "line 4: -1, not labelled yet, is of whole rows, not of single cells"),
        ((3, 2), "2", "line 4: '2' is neither 0, 1 nor -1"),
        ((3, slice(1, 4)), ["1", "1", "0"], "line 4: background is 1, and so is a behaviour"),
        ((0, 3), "jump", "has the behaviours groom, jump, not groom, rear"),
        ((30, slice(0, 4)), [], "has 29 rows, but 30 frames of the video decode"),
        ((3, slice(1, 4)), ["0"], "line 4: 2 cells, but the header has 4"),
    ],
)
def test_what_is_wrong_is_refused_by_its_line(project, tmp_path, place, value, message):
    path = project / "DATA" / "m1" / "m1_labels.csv"
    rows = [HEADER, *lines(truth(1)[0], np.ones(FRAMES, np.bool_))]
    rows[place[0]][place[1]] = value
    write(path, rows)
    report = ws.pack(project, tmp_path / "shards", progress=False)
    assert report.packed == {"all": 1}
    (refusal,) = report.refused
    assert refusal.path == "DATA/m1/m1.mp4"
    assert message in refusal.reason


def test_no_labels_no_video_and_no_background(project, tmp_path):
    (project / "DATA" / "m1" / "m1_labels.csv").rename(project / "DATA" / "m1" / "m9_labels.csv")
    report = ws.pack(project, tmp_path / "shards", progress=False)
    assert [(note.path, note.reason) for note in report.refused] == [
        ("m1/m1.mp4", "has no labels: no m1_labels.csv beside it")
    ]
    assert [(note.path, note.reason) for note in report.unused] == [("DATA/m1/m9_labels.csv", "has no video beside it")]
    write(project / "DATA" / "m0" / "m0_labels.csv", [["", "groom"], [0, 0]])
    with pytest.raises(FormatError, match=r"DATA/m0/m0_labels.csv: .*has no column 'background' in its header"):
        ws.pack(project, tmp_path / "more", format="deepethogram", progress=False)
