"""Label tracks: events and rows are the same thing; what is malformed is named with file and line."""

import json
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wildstream.errors import FormatError, LabelError
from wildstream.shards.event_table import read_event_names, read_events
from wildstream.shards.label_files import read_categories, read_clip_class, read_frame_rows
from wildstream.shards.labels import LabelTrack

NAMES = ["walk", "rest"]
ROWS = hnp.arrays(np.bool_, st.tuples(st.integers(0, 40), st.integers(1, 5)))


@given(ROWS)
def test_rows_to_events_to_rows(rows):
    track = LabelTrack.from_rows(rows)
    assert np.array_equal(track.rows(), rows)
    assert track.rows().shape == rows.shape


@given(ROWS)
def test_events_are_the_longest_runs_in_order_of_class_and_time(rows):
    track = LabelTrack.from_rows(rows)
    events = list(zip(track.classes.tolist(), track.first.tolist(), track.stop.tolist(), strict=True))
    assert events == sorted(events)
    for label, first, stop in events:
        assert rows[first:stop, label].all()
        assert first == 0 or not rows[first - 1, label]
        assert stop == len(rows) or not rows[stop, label]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 19), st.integers(1, 20)), max_size=8))
def test_overlapping_events_become_the_union(events):
    events = [(label, first, min(20, first + length)) for label, first, length in events]
    track = LabelTrack(20, 3, *(np.array([event[n] for event in events], np.int32) for n in range(3)))
    again = LabelTrack.from_rows(track.rows())
    assert np.array_equal(again.rows(), track.rows())
    for frame, label in np.argwhere(track.rows()):
        assert any(kind == label and first <= frame < stop for kind, first, stop in events)
    assert track.rows().sum() == len({(k, n) for k, first, stop in events for n in range(first, stop)})


@pytest.mark.parametrize(("event", "complaint"), [((2, 0, 1), "class 2"), ((-1, 0, 1), "class -1")])
def test_events_of_unknown_classes_are_refused(event, complaint):
    with pytest.raises(LabelError, match=complaint):
        LabelTrack(5, 2, *(np.array([value], np.int32) for value in event))


@pytest.mark.parametrize("event", [(0, -1, 2), (0, 3, 3), (0, 4, 2), (0, 4, 6)])
def test_events_outside_the_video_are_refused(event):
    with pytest.raises(LabelError, match=rf"\[{event[1]}, {event[2]}\) does not lie within 5 frames"):
        LabelTrack(5, 2, *(np.array([value], np.int32) for value in event))


def test_a_clip_is_its_class_from_first_to_last_frame():
    rows = LabelTrack.from_class(1, num_frames=4, num_classes=3).rows()
    assert rows.tolist() == [[False, True, False]] * 4


def read(path, text, num_frames=3):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_frame_rows(path, num_frames=num_frames, categories=NAMES).rows().astype(int).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "0\t1\n1\t0\n1\t1\n",
        "0\t1\n1\t0\n1\t1",
        "0\t1\n1\t0\n1\t1\n\n\n",
        "0\t1\r\n1\t0\r\n1\t1\r\n",
        "\ufeff0\t1\n1\t0\n1\t1\n",
    ],
    ids=["plain", "no last line end", "blank lines at the end", "CRLF", "BOM"],
)
def test_rows_as_editors_write_them(tmp_path, text):
    assert read(tmp_path / "a.tsv", text) == [[0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0\t1\n1\t0\n", r"a\.tsv has 2 rows, but 3 frames"),
        ("0\t1\n" * 4, r"a\.tsv has 4 rows, but 3 frames"),
        ("", r"a\.tsv has 0 rows, but 3 frames"),
        ("0\t1\n0\t2\n0\t1\n", r"a\.tsv, line 2: '2' is neither 0 nor 1"),
        ("0\t1\n0\t\n0\t1\n", r"a\.tsv, line 2: '' is neither 0 nor 1"),
        ("walk\trest\n0\t1\n0\t1\n", r"a\.tsv, line 1: 'walk' is neither"),
        ("0\t1\n0\t1\t1\n0\t1\n", r"a\.tsv, line 2: 3 columns, but there are 2 categories"),
        ("0,1\n0,1\n0,1\n", r"a\.tsv, line 1: 1 columns"),
        ("0\t1\n\n0\t1\n", r"a\.tsv, line 2: 1 columns"),
        ("\uff10\t1\n0\t1\n0\t1\n", r"a\.tsv, line 1: '\uff10' is neither"),
        ("0\t1\n".encode("utf-16"), r"a\.tsv is not UTF-8 text \(byte 0"),
        (b"0\t1\n0\t\xe9\n0\t1\n", r"a\.tsv is not UTF-8 text \(byte 6"),
    ],
)
def test_malformed_rows_are_named_with_file_and_line(tmp_path, text, complaint):
    with pytest.raises(LabelError, match=complaint):
        read(tmp_path / "a.tsv", text)


def test_a_label_file_that_is_gone_is_a_label_error(tmp_path):
    with pytest.raises(LabelError, match=r"gone\.tsv cannot be read"):
        read_frame_rows(tmp_path / "gone.tsv", num_frames=1, categories=NAMES)


@pytest.mark.parametrize(("text", "label"), [("0", 0), ("12\n", 12), (" 3 \r\n\n", 3), ("\ufeff4", 4)])
def test_clip_class(tmp_path, text, label):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert read_clip_class(tmp_path / "a.txt") == label


@pytest.mark.parametrize("text", ["", "dance", "-1", "1.0", "1 2", "1\n2", "\u0663", "9" * 5000])
def test_malformed_clip_class_is_named_with_its_file(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(LabelError, match=r"a\.txt must hold one class number"):
        read_clip_class(tmp_path / "a.txt")


def test_categories(tmp_path):
    path = tmp_path / "categories.json"
    path.write_text("\ufeff" + json.dumps(["wälzen", "rest"]), encoding="utf-8")
    assert read_categories(path) == ["wälzen", "rest"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot be read as JSON"),
        ('["a", "b"', "cannot be read as JSON"),
        ("[]", "must hold a list of class names"),
        ('{"a": 0}', "must hold a list of class names"),
        ('["a", 1]', "must hold a list of class names"),
        ('["a", " "]', "must hold a list of class names"),
        ('["a", "b", "a"]', "'a' more than once"),
    ],
)
def test_malformed_categories_are_named_with_their_file(tmp_path, text, complaint):
    path = tmp_path / "categories.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=complaint) as caught:
        read_categories(path)
    assert str(path) in str(caught.value)


# ---- tables of events ------------------------------------------------------------------------------------------------


def read_table(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    events = read_events(path, categories=["walk", "rest, long"])
    return [(event.label, event.start, event.stop, event.origin.rpartition(" ")[2]) for event in events]


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.csv", 'start,stop,class\n0.5,1,walk\n2,3.25,"rest, long"\n', "23"),
        ("a.csv", 'start,stop,class\n0.5,1,walk\n2,3.25,"rest, long"', "23"),
        ("a.csv", '\ufeffstart,stop,class\r\n0.5,1,walk\r\n2,3.25,"rest, long"\r\n', "23"),
        ("a.csv", 'class,who,stop,start\nwalk,,1,+.5\n"rest, long","a\nb",3.25,2.\n\n', "23"),
        ("a.csv", '\nstart,stop,class,note\n\n5e-1, 1 ,walk,"a\n\nb"\n,,,\n0.02E+2,3250e-3,"rest, long",', "48"),
        ("a.tsv", "start\tstop\tclass\n0.5\t1\twalk\n2\t3.25\trest, long\n", "23"),
        ("a.TSV", "start\tstop\tclass\tnote\n0.5\t1\twalk\t\n2\t3.25\trest, long\t\n", "23"),
    ],
    ids=["plain", "no last line end", "BOM, CRLF", "order, others", "blank lines, quoted lines", "tsv", "empty cells"],
)
def test_tables_as_programs_write_them(tmp_path, name, text, lines):
    half, quarter = Fraction(1, 2), Fraction(13, 4)
    assert read_table(tmp_path / name, text) == [(0, half, 1, lines[0]), (1, 2, quarter, lines[1])]


@pytest.mark.parametrize("text", ["start,stop,class\n", "start,stop,class", "class,x,start,stop\n\n\n"])
def test_a_header_alone_says_that_nothing_happens(tmp_path, text):
    assert read_table(tmp_path / "a.csv", text) == []
    assert read_event_names(tmp_path / "a.csv") == set()


def test_times_are_what_is_written(tmp_path):
    """0.1 is a tenth, not the float beside it; digits that no float has count too."""
    found = read_table(tmp_path / "a.csv", "start,stop,class\n0.1,0.30000000000000000001,walk\n")
    assert found[0][1:3] == (Fraction(1, 10), Fraction(30000000000000000001, 10**20))


HEADER = "start,stop,class\n"
NO_TIME = "is no time in seconds; write a decimal number such as 12.48"
MALFORMED_TABLES = {
    "": "a.csv is empty; its first line must name the columns start, stop, class",
    "\n \n": "a.csv is empty; its first line must name",
    "0,1,walk\n": "a.csv, line 1 (separated by commas): the header must have one column 'start', but has 0: ['0', ",
    "start,stop\n0,1\n": "a.csv, line 1 (separated by commas): the header must have one column 'class', but has 0",
    "start,end,class\n": "the header must have one column 'stop', but has 0: ['start', 'end', 'class']",
    "Start,stop,class\n": "the header must have one column 'start', but has 0",
    "start, stop, class\n": "the header must have one column 'stop', but has 0: ['start', ' stop', ' class']",
    "start,stop,class,start\n": "the header must have one column 'start', but has 2",
    f"{HEADER}0,1\n": "a.csv, line 2: 2 cells, but the header has 3, separated by commas",
    f"{HEADER}0,1,walk\n0,1,walk,\n": "a.csv, line 3: 4 cells, but the header has 3, separated by commas",
    f"{HEADER}0,1,rest, long\n": "a.csv, line 2: 4 cells",
    f'{HEADER}0,1,"walk\n0,1,walk\n': "a.csv, line 3 cannot be read: unexpected end of data; mind its quotes",
    f'{HEADER}0,1,"walk"s\n': "a.csv, line 2 cannot be read: ',' expected after '\"'; mind its quotes",
    f"{HEADER}0,1,{'x' * 200_000}\n": "a.csv, line 2 cannot be read: field larger than field limit",
}
MALFORMED_EVENTS = {
    f"{HEADER}0,1,swim\n": "a.csv, line 2: class 'swim' is not one of the categories walk, rest, long",
    f"{HEADER}0,1, walk\n": "a.csv, line 2: class ' walk' is not one of",
    f"{HEADER}0,1,Walk\n": "a.csv, line 2: class 'Walk' is not one of",
    f"{HEADER}0,1,\n": "a.csv, line 2: class '' is not one of",
    f"{HEADER}zero,1,walk\n": f"a.csv, line 2, column 'start': 'zero' {NO_TIME}",
    f"{HEADER}0,1,walk\n0,,walk\n": "a.csv, line 3: stop is empty. Write a time",
    f'{HEADER}"1,5",2,walk\n': f"a.csv, line 2, column 'start': '1,5' {NO_TIME}",
    f"{HEADER}0,00:01,walk\n": f"a.csv, line 2, column 'stop': '00:01' {NO_TIME}",
    f"{HEADER}0,1/2,walk\n": f"a.csv, line 2, column 'stop': '1/2' {NO_TIME}",
    f"{HEADER}0,1_0,walk\n": f"a.csv, line 2, column 'stop': '1_0' {NO_TIME}",
    f"{HEADER}0,0x1,walk\n": f"a.csv, line 2, column 'stop': '0x1' {NO_TIME}",
    f"{HEADER}nan,1,walk\n": f"a.csv, line 2, column 'start': 'nan' {NO_TIME}",
    f"{HEADER}0,inf,walk\n": f"a.csv, line 2, column 'stop': 'inf' {NO_TIME}",
    f"{HEADER}0,Infinity,walk\n": f"a.csv, line 2, column 'stop': 'Infinity' {NO_TIME}",
    f"{HEADER}0,\u0663,walk\n": f"a.csv, line 2, column 'stop': '\u0663' {NO_TIME}",
    f"{HEADER}0,1e999999999,walk\n": f"a.csv, line 2, column 'stop': '1e999999999' {NO_TIME}",
    f"{HEADER}0,{'9' * 5000},walk\n": f"a.csv, line 2, column 'stop': '{'9' * 39} {NO_TIME}",
}


@pytest.mark.parametrize("text", [*MALFORMED_TABLES, *MALFORMED_EVENTS], ids=lambda text: repr(text)[:40])
def test_malformed_tables_are_named_with_file_and_line(tmp_path, text):
    with pytest.raises(LabelError) as caught:
        read_table(tmp_path / "a.csv", text)
    assert str(caught.value).startswith((MALFORMED_TABLES | MALFORMED_EVENTS)[text].partition("the header")[0])
    assert (MALFORMED_TABLES | MALFORMED_EVENTS)[text] in str(caught.value)


@pytest.mark.parametrize("text", MALFORMED_TABLES, ids=lambda text: repr(text)[:40])
def test_names_are_not_read_from_malformed_tables(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(LabelError, match=re.escape(MALFORMED_TABLES[text])):
        read_event_names(tmp_path / "a.csv")


def test_tables_that_are_no_text(tmp_path):
    for text in (HEADER.encode("utf-16"), HEADER.encode() + b"0,1,w\xe4lzen\n"):
        with pytest.raises(LabelError, match=r"a\.csv is not UTF-8 text \(byte"):
            read_table(tmp_path / "a.csv", text)
    with pytest.raises(LabelError, match=r"gone\.csv cannot be read: No such file"):
        read_events(tmp_path / "gone.csv", categories=["walk"])


@pytest.mark.parametrize("name", ["", " walk", "walk "])
def test_names_that_are_probably_slips_name_no_class(tmp_path, name):
    (tmp_path / "a.csv").write_text(f"{HEADER}0,1,walk\n0,1,{name}\n")
    with pytest.raises(LabelError, match=r"a\.csv, line 3: class .* is empty or has blanks around it"):
        read_event_names(tmp_path / "a.csv")


def test_semicolons_of_spreadsheets_lie_between_cells(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('start;stop;class\n0.5;1;"walk, then run"\n')
    (event,) = read_events(path, categories=["walk, then run"])
    assert (event.label, float(event.start), float(event.stop)) == (0, 0.5, 1.0)
    path.write_text("start;stop;class\n0,5;1;walk\n")
    with pytest.raises(LabelError, match=r"a\.csv, line 2, column 'start': '0,5' is no time in seconds"):
        read_events(path, categories=["walk"])
