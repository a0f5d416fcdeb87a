"""Videos coded with BORIS: every label comes back, frame by frame, from each of its files; what is wrong is named."""

import csv
import json
import re
import shutil
from fractions import Fraction

import numpy as np
import pytest

import wildstream as ws
from wildstream.errors import FormatError, LabelError
from wildstream.fishtank import make_fishtank
from wildstream.shards.boris import boris_events, read_boris
from wildstream.shards.labels import LabelTrack, TimedEvent

OFFSET = Fraction("2.5")
KINDS = ("project", "aggregated", "tabular")


@pytest.fixture(scope="module")
def tank(tmp_path_factory):
    """Labelled videos, and their shards."""
    root = tmp_path_factory.mktemp("tank")
    make_fishtank(root / "videos", videos={"train": 2, "val": 1}, frames=50, size=(32, 48))
    assert not ws.pack(root / "videos", root / "shards", format="frames", progress=False).refused
    return root


def coded(tank):
    """(media file as another computer knew it, start, stop, behaviour, subject) of every event, by video."""
    found = {}
    for split in ("train", "val"):
        index = ws.open_index(tank / "shards" / split)
        for video, key in enumerate(index.keys):
            table, track = index.frame_table(video), index.track(video)
            seconds = [Fraction(int(pts - table.pts[0])) * table.time_base for pts in table.pts]
            found[f"C:\\lab\\{split}\\{key}.mp4"] = [
                (seconds[first], seconds[stop - 1], index.categories[label], f"fish {label}")
                for label, first, stop in zip(track.classes, track.first.tolist(), track.stop.tolist(), strict=True)
            ]
    return found


def decimal(seconds):
    return f"{float(seconds + OFFSET):.6f}"


def write_boris(path, observations, kind, *, behaviors=()):
    """The files of BORIS 8.27 with these events."""
    if kind == "project":
        names = behaviors or sorted({event[2] for events in observations.values() for event in events})
        content = {
            name: {
                "file": {"1": [media], "2": []},
                "type": "MEDIA",
                "time offset": float(OFFSET),
                "events": sorted(
                    [float(decimal(at)), subject, behavior, "", ""]
                    for start, stop, behavior, subject in events
                    for at in ((start,) if start == stop and behavior.startswith("point") else (start, stop))
                ),
            }
            for name, (media, events) in enumerate(observations.items())
        }
        kinds = {name: "Point event" if name.startswith("point") else "State event" for name in names}
        ethogram = {str(n): {"code": name, "type": kinds[name]} for n, name in enumerate(names)}
        path.write_text(json.dumps({"observations": content, "behaviors_conf": ethogram, "project_name": "lab"}))
        return
    times = ("Start (s)", "Stop (s)") if kind == "aggregated" else ("Time",)
    header = ["Observation id", "Description", "Time offset (s)", "Subject", "Behavior", "Modifier #1", "Behavior type"]
    rows = []
    for name, (media, events) in enumerate(observations.items()):
        for start, stop, behavior, subject in events:
            facts = [f"obs {name}", "", str(float(OFFSET)), subject, behavior, ""]
            if kind == "aggregated":
                rows.append([*facts, "STATE" if stop > start else "POINT", decimal(start), decimal(stop), media])
            else:
                marks = (("START", start), ("STOP", stop)) if stop > start else (("POINT", start),)
                rows += [[*facts, word, decimal(at), media] for word, at in marks]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(
            [[*header, *times, "Media file name"], *rows]
        )


def videos_of(tank, out):
    """The videos alone."""
    for video in (tank / "videos").rglob("*.mp4"):
        place = out / video.relative_to(tank / "videos")
        place.parent.mkdir(parents=True)
        shutil.copy(video, place)
    return out


@pytest.mark.parametrize(("kind", "name"), [*zip(KINDS, ("p.boris", "a.csv", "t.tsv"), strict=True)])
def test_every_label_comes_back_frame_by_frame(tank, tmp_path, kind, name):
    root = videos_of(tank, tmp_path / "lab")
    write_boris(root / name, coded(tank), kind)
    shutil.copy(tank / "videos" / "categories.json", root)
    report = ws.pack(root, tmp_path / "shards", format="boris", progress=False)
    assert report.packed == {"train": 2, "val": 1}
    assert (report.refused, report.unused) == ([], [])
    for split in ("train", "val"):
        before, after = ws.open_index(tank / "shards" / split), ws.open_index(tmp_path / "shards" / split)
        assert after.categories == before.categories
        assert [key.split("/")[-1] for key in after.keys] == before.keys
        for video in range(len(before)):
            assert (after.track(video).rows() == before.track(video).rows()).all()
            assert before.track(video).rows().any()


def test_a_state_covers_its_last_frame_and_a_point_the_one_that_is_shown():
    pts = np.arange(10) * 40

    def rows(*events):
        timed = [TimedEvent(0, Fraction(start), Fraction(stop)) for start, stop in events]
        track = LabelTrack.from_seconds(timed, pts=pts, time_base=Fraction(1, 1000), num_classes=1, closed=True)
        return np.flatnonzero(track.rows()[:, 0]).tolist()

    assert rows(("0.04", "0.12")) == [1, 2, 3]
    assert rows(("0.05", "0.1199")) == [1, 2]
    assert rows(("0.1", "0.1")) == [2]
    assert rows(("0.36", "0.40")) == [9]
    with pytest.raises(LabelError, match="does not stop after it starts"):
        rows(("0.2", "0.1"))
    with pytest.raises(LabelError, match="starts when the video is over"):
        rows(("0.5", "0.5"))


def test_without_categories_the_ethogram_gives_them_in_its_order(tank, tmp_path):
    root = videos_of(tank, tmp_path / "lab")
    events = coded(tank)
    names = sorted({event[2] for one in events.values() for event in one}, reverse=True)
    write_boris(root / "p.boris", events, "project", behaviors=["zzz", *names])
    assert not ws.pack(root, tmp_path / "shards", format="boris", progress=False).refused
    assert ws.open_index(tmp_path / "shards" / "train").categories == ["zzz", *names]


def test_what_cannot_be_paired_is_named(tank, tmp_path):
    root = videos_of(tank, tmp_path / "lab")
    events = coded(tank)
    first, second, *_ = events
    write_boris(root / "a.csv", {first: events[first], "gone.mp4": events[second]}, "aggregated")
    write_boris(root / "b.csv", {first: events[first]}, "tabular")
    (root / "other.csv").write_text("x,y\n1,2\n")
    report = ws.pack(root, tmp_path / "shards", format="boris", progress=False)
    reasons = {refusal.path.rsplit("/", 1)[1]: refusal.reason for refusal in report.refused}
    assert "has 2 labels, obs 0 of a.csv and obs 0 of b.csv; keep one" in reasons.values()
    assert sum("no observation of BORIS names it" in reason for reason in reasons.values()) == 2
    unused = {refusal.path: refusal.reason for refusal in report.unused}
    assert unused["a.csv, observation obs 1"] == "its video gone.mp4 is not there"
    assert "is no export of BORIS" in unused["other.csv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].__setitem__(7, "soon"), r"a\.tsv, line 2, column 'Time': 'soon' is no time in seconds"),
        (lambda rows: rows.pop(2), r"a\.tsv, line \d+: '\w+' start.*Correct it in BORIS"),
        (lambda rows: rows.pop(1), r"a\.tsv, line 2: '\w+' stops and has not started"),
        (lambda rows: rows[1].__setitem__(6, "PAUSE"), r"line 2: '\w+' is of type 'PAUSE', which is none of START"),
        (lambda rows: rows[1].__setitem__(4, ""), r"line 2: the behavior is empty"),
        (lambda rows: [row.__setitem__(7, "9e3") for row in rows[2:3]], r"stops more than 0\.1 s after the video"),
        (
            lambda rows: [row.__setitem__(4, "flies") for row in rows[1:3]],
            r"behavior 'flies' is not one of the categories",
        ),
    ],
)
def test_a_wrong_observation_is_named_by_its_line_and_the_others_are_packed(tank, tmp_path, change, message):
    root = videos_of(tank, tmp_path / "lab")
    write_boris(root / "a.tsv", coded(tank), "tabular")
    shutil.copy(tank / "videos" / "categories.json", root)
    rows = list(csv.reader((root / "a.tsv").read_text().splitlines(), delimiter="\t"))
    change(rows)
    with (root / "a.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    report = ws.pack(root, tmp_path / "shards", format="boris", progress=False)
    (refusal,) = report.refused
    assert re.search(message, refusal.reason), refusal.reason
    assert sum(report.packed.values()) == 2


def test_projects_that_are_none_are_refused_whole(tank, tmp_path):
    root = videos_of(tank, tmp_path / "lab")
    for content, message in (
        (b"{", "p.boris is no JSON that can be read"),
        (b"[]", "is no BORIS project"),
        (b"\xff\xfe", "p.boris is not UTF-8 text"),
        (b'{"observations": {}, "behaviors_conf": {}}', "has a behavior; is it another layout"),
    ):
        (root / "p.boris").write_bytes(content)
        with pytest.raises(FormatError, match=message):
            ws.pack(root, tmp_path / "shards", format="boris", progress=False)
        assert not (tmp_path / "shards").exists()


def test_subjects_and_modifiers_tell_events_apart_and_what_is_unknown_is_named(tmp_path):
    events = [
        [1.0, "a", "chase", "", ""],
        [1.5, "b", "chase", "", ""],
        [1.75, "b", "chase", "fast", ""],
        [2.0, "a", "chase", "", ""],
        [2.25, "b", "chase", "fast", ""],
        [3.0, "b", "chase", "", ""],
        [3.5, "", "bite", "", ""],
    ]
    ethogram = {"0": {"code": "chase", "type": "State event"}, "1": {"code": "bite", "type": "Point event"}}
    whole = {"file": {"1": ["a.mp4"]}, "events": events}
    wrong = {"file": {"1": ["b.mp4"]}, "events": [[1.0, "", "swim", "", ""]]}
    odd = {"file": {"1": ["c.mp4"]}, "events": [[1.0, ""]]}
    path = tmp_path / "p.boris"
    path.write_text(json.dumps({"observations": {"x": whole, "y": wrong, "z": odd}, "behaviors_conf": ethogram}))
    found = boris_events(path, "x", categories=["bite", "chase"])
    assert sorted((event.label, float(event.start), float(event.stop)) for event in found) == [
        (0, 3.5, 3.5),
        (1, 1.0, 2.0),
        (1, 1.5, 3.0),
        (1, 1.75, 2.25),
    ]
    with pytest.raises(LabelError, match=r"p\.boris, observation 'y', event 1: 'swim' is not in the ethogram"):
        boris_events(path, "y", categories=["bite", "chase"])
    with pytest.raises(LabelError, match=r"observation 'z' is not as BORIS writes it"):
        boris_events(path, "z", categories=["bite", "chase"])
    assert read_boris(path).observations["z"].media == ["c.mp4"]
