"""Videos annotated with ELAN: annotations of all kinds of tiers become the right frames; what is wrong is named."""

import shutil
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from conftest import moving_pattern, write_video

import wildstream as ws
from wildstream.errors import FormatError
from wildstream.shards.elan import read_elan
from wildstream.shards.formats import recognise_format

FRAMES = 50  # two seconds


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("elan") / "clip.mp4"
    write_video(path, moving_pattern(5, FRAMES))
    return path


def eaf(path, slots, tiers, *, media="file:///C:/data/clip.mp4", origin=""):
    """An .eaf: slots by name in ms (None: nobody placed it); tiers of (id, slot, slot, value) or (id, other, value)."""
    parts = []
    for tier, annotations in tiers.items():
        told = []
        for identity, *places, value in annotations:
            if len(places) == 2:
                kind = "ALIGNABLE"
                refs = f'TIME_SLOT_REF1="{places[0]}" TIME_SLOT_REF2="{places[1]}"'
            else:
                kind, refs = "REF", f'ANNOTATION_REF="{places[0]}"'
            told.append(
                f'<ANNOTATION><{kind}_ANNOTATION ANNOTATION_ID="{identity}" {refs}>'
                f"<ANNOTATION_VALUE>{value}</ANNOTATION_VALUE></{kind}_ANNOTATION></ANNOTATION>"
            )
        parts.append(f"<TIER TIER_ID={quoteattr(tier)} LINGUISTIC_TYPE_REF='x'>{''.join(told)}</TIER>")
    times = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="{name}"' + ("" if time is None else f' TIME_VALUE="{time}"') + "/>"
        for name, time in slots.items()
    )
    offset = f' TIME_ORIGIN="{origin}"' if origin else ""
    described = f'<MEDIA_DESCRIPTOR MEDIA_URL="{media}" MIME_TYPE="video/mp4"{offset}/>' if media else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT FORMAT="3.0" VERSION="3.0">'
        f'<HEADER TIME_UNITS="milliseconds">{described}</HEADER><TIME_ORDER>{times}</TIME_ORDER>'
        f"{''.join(parts)}</ANNOTATION_DOCUMENT>",
        encoding="utf-8",
    )
    ElementTree.parse(path)
    return path


def source(video, root, *names):
    for name in names or ("clip.mp4",):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, root / name)
    return root


def frames_of(root, tmp_path, **options):
    """By class, the frames in which it happens."""
    report = ws.pack(root, tmp_path / "shards", format="elan", progress=False, **options)
    assert not report.refused, report.refused
    index = ws.open_index(tmp_path / "shards" / next(iter(report.packed)))
    rows = index.track(0).rows()
    return {name: np.flatnonzero(rows[:, n]).tolist() for n, name in enumerate(index.categories)}


def span(start_ms, stop_ms):
    """The frames that are shown from then until just before then, by brute force."""
    return [n for n in range(FRAMES) if n * 40 < stop_ms and (n + 1) * 40 > start_ms]


def test_annotations_become_frames(video, tmp_path):
    root = source(video, tmp_path / "set")
    slots = {"t1": 40, "t2": 410, "t3": 600, "t4": 1999}
    eaf(root / "any name.eaf", slots, {"gloss": [("a1", "t1", "t2", "BOOK"), ("a2", "t3", "t4", "  NIGHT\n again ")]})
    assert recognise_format(root)[0] == "elan"
    assert frames_of(root, tmp_path) == {"BOOK": span(40, 410), "NIGHT again": span(600, 1999)}


def test_several_tiers_give_their_name_and_can_be_chosen(video, tmp_path):
    root = source(video, tmp_path / "set")
    tiers = {"left": [("a1", "t1", "t2", "hold")], "right": [("a2", "t3", "t4", "hold"), ("a3", "t1", "t3", "")]}
    eaf(root / "clip.eaf", {"t1": 0, "t2": 400, "t3": 600, "t4": 1000}, tiers)
    everything = {"left: hold": span(0, 400), "right": span(0, 600), "right: hold": span(600, 1000)}
    assert frames_of(root, tmp_path) == everything
    assert frames_of(root, tmp_path, format_options={"tiers": ("left",)}) == {"hold": span(0, 400)}
    with pytest.raises(FormatError, match=r"no \.eaf has the tier 'middle'; there are left, right"):
        ws.pack(root, tmp_path / "x", format="elan", format_options={"tiers": ("middle",)}, progress=False)


def test_annotations_of_annotations_last_as_long_and_parts_that_nobody_placed_are_even(video, tmp_path):
    root = source(video, tmp_path / "set")
    slots = {"t1": 0, "t2": None, "t9": 300, "t3": None, "t4": 1200}  # t9 is of another tier, in between
    tiers = {
        "parts": [("a1", "t1", "t2", "one"), ("a2", "t2", "t3", "two"), ("a3", "t3", "t4", "three")],
        "comment": [("b1", "a2", "about two"), ("b2", "b1", "about that")],
        "other": [("c1", "t1", "t9", "else")],
    }
    eaf(root / "clip.eaf", slots, tiers)
    assert frames_of(root, tmp_path) == {
        "parts: one": span(0, 400),
        "parts: two": span(400, 800),
        "parts: three": span(800, 1200),
        "comment: about two": span(400, 800),
        "comment: about that": span(400, 800),
        "other: else": span(0, 300),
    }


def test_the_origin_of_the_medium_comes_to_the_times(video, tmp_path):
    root = source(video, tmp_path / "set")
    eaf(root / "clip.eaf", {"t1": 0, "t2": 400}, {"x": [("a1", "t1", "t2", "BOOK")]}, origin="1000")
    assert frames_of(root, tmp_path) == {"BOOK": span(1000, 1400)}


def test_a_file_without_media_is_of_the_video_with_its_name(video, tmp_path):
    root = source(video, tmp_path / "set", "train/clip.mp4")
    eaf(root / "notes" / "clip.eaf", {"t1": 0, "t2": 400}, {"x": [("a1", "t1", "t2", "BOOK")]}, media="")
    assert frames_of(root, tmp_path) == {"BOOK": span(0, 400)}


def test_what_has_no_video_or_two_files_is_named(video, tmp_path):
    root = source(video, tmp_path / "set", "clip.mp4", "other.mp4", "double.mp4")
    one = {"x": [("a1", "t1", "t2", "BOOK")]}
    eaf(root / "clip.eaf", {"t1": 0, "t2": 400}, one)
    eaf(root / "gone.eaf", {"t1": 0, "t2": 400}, one, media="file:///gone.mp4")
    for name in ("d1", "d2"):
        eaf(root / f"{name}.eaf", {"t1": 0, "t2": 400}, one, media="file:///x/double.mp4")
    report = ws.pack(root, tmp_path / "shards", format="elan", progress=False)
    assert report.packed == {"all": 1}
    told = {note.path: note.reason for note in (*report.refused, *report.unused)}
    assert told["other.mp4"] == "has no labels: no .eaf names it as its medium"
    assert "has 2 labels" in told["double.mp4"]
    assert told["gone.eaf"] == "its video gone.mp4 is not there"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('TIME_VALUE="400"', 'TIME_VALUE="x"'), "time slot t2: 'x' is no time in ms"),
        (lambda text: text.replace('TIME_VALUE="400"', ""), "annotation a1 has no time: its time slots have none"),
        (lambda text: text.replace('REF2="t2"', 'REF2="t7"'), "annotation a1 has no time"),
        (lambda text: text.replace('ANNOTATION_REF="a1"', 'ANNOTATION_REF="b1"'), "is of the annotation 'b1'"),
        (lambda text: text.replace("milliseconds", "NTSC-frames"), "counts time in NTSC-frames"),
        (lambda text: text.replace("ANNOTATION_DOCUMENT", "html"), "it begins with 'html', not ANNOTATION_DOCUMENT"),
        (lambda text: text[:200], "is no XML that can be read"),
        (lambda _: "", "is no XML that can be read"),
        (lambda text: text.replace("UTF-8", "no-such-code"), "is no XML that can be read"),
    ],
)
def test_a_file_that_is_wrong_is_named(video, tmp_path, change, message):
    root = source(video, tmp_path / "set")
    tiers = {"x": [("a1", "t1", "t2", "BOOK")], "y": [("b1", "a1", "note")]}
    path = eaf(root / "clip.eaf", {"t1": 0, "t2": 400}, tiers)
    path.write_text(change(path.read_text()))
    with pytest.raises(FormatError, match=r"clip\.eaf.*") as refused:
        ws.pack(root, tmp_path / "shards", format="elan", progress=False)
    assert message in str(refused.value)
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"t1": 400, "t2": 0}, "does not stop after it starts"),
        ({"t1": 0, "t2": 9000}, "stops more than 0.1 s after the video"),
        ({"t1": 3000, "t2": 9000}, "starts when the video is over"),
    ],
)
def test_times_outside_the_video_are_refused_by_annotation(video, tmp_path, slots, message):
    root = source(video, tmp_path / "set")
    eaf(root / "clip.eaf", slots, {"x": [("a1", "t1", "t2", "BOOK")]})
    report = ws.pack(root, tmp_path / "shards", format="elan", progress=False)
    (refusal,) = report.refused
    assert "clip.eaf, tier 'x', annotation a1" in refusal.reason
    assert message in refusal.reason


def test_an_xml_that_would_blow_up_is_refused(tmp_path):
    bomb = '<!DOCTYPE d [<!ENTITY a "' + "x" * 1000 + '">'
    bomb += "".join(f'<!ENTITY {b} "{f"&{a};" * 30}">' for a, b in zip("abcdef", "bcdefg", strict=True))
    path = tmp_path / "bomb.eaf"
    path.write_text(f'<?xml version="1.0"?>{bomb}]><ANNOTATION_DOCUMENT>&g;</ANNOTATION_DOCUMENT>')
    with pytest.raises(ws.LabelError, match="is no XML that can be read"):
        read_elan(path)
