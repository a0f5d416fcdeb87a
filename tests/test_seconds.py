"""Label times in seconds meet frames by pts: exactly, with any frame rate, and what does not fit is refused."""

import math
import re
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from conftest import X264, moving_pattern, write_video
from hypothesis import assume, given
from hypothesis import strategies as st

from wildstream.errors import LabelError
from wildstream.facts import NO_PTS
from wildstream.shards.index import open_index
from wildstream.shards.labels import END_TOLERANCE, LabelTrack, TimedEvent, frame_at
from wildstream.shards.pack import pack

NTSC = [(Fraction(1, 30000), 1001), (Fraction(1, 90000), 3003), (Fraction(1001, 30000), 1)]
"""Time bases in which videos of 29.97 frames per second count, and the pts between two frames."""


def track_of(*events, pts, time_base=Fraction(1, 10), num_classes=2):
    timed = [TimedEvent(label, Fraction(start), Fraction(stop), "a.csv, line 2") for label, start, stop in events]
    return LabelTrack.from_seconds(timed, pts=np.array(pts, np.int64), time_base=time_base, num_classes=num_classes)


def events_of(track):
    return list(zip(track.classes.tolist(), track.first.tolist(), track.stop.tolist(), strict=True))


def covered(pts, time_base, start, stop):
    """Frames that are shown during [start, stop), one by one: every frame's time against the event's."""
    times = [(value - pts[0]) * time_base for value in pts]
    ends = [*times[1:], math.inf]
    return [begun < stop and start < ended for begun, ended in zip(times, ends, strict=True)]


# ---- arithmetic ------------------------------------------------------------------------------------------------------


@st.composite
def timed_videos(draw):
    """Frame times that increase by anything, from anywhere, in time bases that occur and others."""
    gaps = draw(st.lists(st.integers(1, 60), max_size=30))
    begin = draw(st.sampled_from([0, 1, -512, 90_000, 2**40, -(2**62)]))
    known = st.sampled_from(
        [Fraction(1, 25), Fraction(1, 1000), Fraction(1, 14336), Fraction(1001, 30000), Fraction(2)]
    )
    time_base = draw(known | st.builds(Fraction, st.integers(1, 2000), st.integers(1, 100_000)))
    return np.cumsum([begin, *gaps]).tolist(), time_base


@given(timed_videos(), st.data())
def test_an_event_covers_the_frames_that_are_shown_during_it(video, data):
    pts, time_base = video
    gaps = sorted(np.diff(pts).tolist())
    length = (pts[-1] - pts[0] + (gaps[len(gaps) // 2] if gaps else 0)) * time_base
    boundaries = [(value - pts[0]) * time_base for value in pts]
    times = st.sampled_from(boundaries) | st.fractions(0, length + END_TOLERANCE, max_denominator=10**6)
    events = []
    for label in data.draw(st.lists(st.integers(0, 2), max_size=6)):
        start, stop = sorted((data.draw(times), data.draw(times)))
        assume(start < stop and (start < length or start == 0))
        events.append((label, start, stop))
    expected = np.zeros((len(pts), 3), bool)
    for label, start, stop in events:
        expected[:, label] |= covered(pts, time_base, start, stop)
    track = track_of(*events, pts=pts, time_base=time_base, num_classes=3)
    assert np.array_equal(track.rows(), expected)
    # overlapping and touching events have become one: the longest runs, in order of class and time
    assert events_of(track) == events_of(LabelTrack.from_rows(expected))
    assert all(expected[:, label].any() for label, *_ in events), "an event covers one frame at least"


@pytest.mark.parametrize(("time_base", "gap"), NTSC)
@pytest.mark.parametrize("begin", [0, 12_012])
def test_every_boundary_of_an_hour_at_30000_1001(time_base, gap, begin):
    """Each boundary as it is, and as people write it: rounded up it is this frame, cut off it is the one before."""
    num_frames = 3600 * 30000 // 1001
    pts = begin + np.arange(num_frames, dtype=np.int64) * gap
    listed = pts.tolist()
    digits = 10**6
    for frame in range(num_frames):
        boundary = Fraction(1001 * frame, 30000)
        assert frame_at(boundary, pts=listed, time_base=time_base) == frame
        cut = Fraction(math.floor(boundary * digits), digits)
        assert frame_at(cut, pts=listed, time_base=time_base) == frame - (cut < boundary)
        rounded_up = Fraction(math.ceil(boundary * digits), digits)
        assert frame_at(rounded_up, pts=listed, time_base=time_base) == frame


@pytest.mark.parametrize(("time_base", "gap"), NTSC)
def test_events_from_boundary_to_boundary_at_30000_1001_cover_their_one_frame(time_base, gap):
    num_frames = 3600 * 30000 // 1001
    events = [(n % 2, Fraction(1001 * n, 30000), Fraction(1001 * (n + 1), 30000)) for n in range(num_frames)]
    track = track_of(*events, pts=np.arange(num_frames) * gap, time_base=time_base)
    rows = track.rows()
    assert np.array_equal(rows[:, 0], np.arange(num_frames) % 2 == 0)
    assert np.array_equal(rows[:, 1], np.arange(num_frames) % 2 == 1)


@pytest.mark.parametrize("kind", [list, lambda values: np.array(values, np.int64)])
def test_the_frame_at_a_time(kind):
    pts = kind([50, 51, 53, 54])  # 0, .1, .3, .4 seconds
    shown = {"0": 0, "0.0999": 0, "0.1": 1, "0.2": 1, "0.29999999999999999": 1, "0.3": 2, "0.4": 3, "9e9": 3}
    for text, frame in shown.items():
        assert frame_at(Fraction(text), pts=pts, time_base=Fraction(1, 10)) == frame
    with pytest.raises(LabelError, match=r"no frame is shown at -0\.001 s; times count from the first frame"):
        frame_at(Fraction("-0.001"), pts=pts, time_base=Fraction(1, 10))


def test_the_picture_in_the_docstring():
    track = track_of((0, ".04", ".16"), (1, ".3", ".4"), (2, ".42", ".48"), pts=[0, 1, 3, 4], num_classes=3)
    assert events_of(track) == [(0, 0, 2), (1, 2, 3), (2, 3, 4)]


def test_overlapping_and_touching_events_of_a_class_become_one():
    events = [(0, "0.5", "0.9"), (0, "0", "0.2"), (1, "0.1", "0.6"), (0, "0.2", "0.3"), (0, "0.6", "0.7")]
    assert events_of(track_of(*events, pts=range(10))) == [(0, 0, 3), (0, 5, 9), (1, 1, 6)]


def test_no_event_needs_no_times():
    for pts in (range(4), [NO_PTS] * 4, [3, 2, 1, 0]):
        track = track_of(pts=pts)
        assert events_of(track) == []
        assert track.rows().shape == (4, 2)


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (("0.5", "0.5"), "from 0.5 s to 0.5 s does not stop after it starts"),
        (("0.5", "0.2"), "from 0.5 s to 0.2 s does not stop after it starts"),
        (("-0.001", "0.2"), "from -0.001 s to 0.2 s starts before the video does, at 0 s"),
        (("1", "1.05"), "from 1 s to 1.05 s starts when the video is over"),
        (("0.5", "1.100001"), "from 0.5 s to 1.100001 s stops more than 0.1 s after the video"),
        (("0.5", "1e99"), "from 0.5 s to 1e+99 s stops more than"),
    ],
)
def test_events_that_do_not_lie_within_the_video_are_refused(event, complaint):
    with pytest.raises(LabelError, match=re.escape(f"a.csv, line 2: the event of class 1 {complaint}")) as caught:
        track_of((1, *event), pts=range(7, 17))
    assert "; the video lasts 1 s. " in str(caught.value)


def test_the_tolerance_at_the_end():
    """Ten frames of 0.1 s: the event may stop 0.1 s late, but must begin while the last frame is shown."""
    assert events_of(track_of((0, "0.95", "1.1"), pts=range(10))) == [(0, 9, 10)]
    assert events_of(track_of((0, "0.999999", "1"), pts=range(10))) == [(0, 9, 10)]


def test_how_long_the_last_frame_is_shown_is_the_median_of_the_others():
    pts = [0, 1, 2, 3, 13, 23, 33]  # gaps 1 1 1 10 10 10: of the two in the middle the longer
    assert events_of(track_of((0, "4", "4.4"), pts=pts)) == [(0, 6, 7)]
    with pytest.raises(LabelError, match=r"the video lasts 4\.3 s"):
        track_of((0, "4", "4.41"), pts=pts)


def test_one_frame_is_shown_at_0_and_for_an_unknown_time():
    assert events_of(track_of((1, "0", "0.1"), pts=[77])) == [(1, 0, 1)]
    for start, stop in (("0", "0.11"), ("0.01", "0.1")):
        with pytest.raises(LabelError, match="the video lasts 0 s"):
            track_of((1, start, stop), pts=[77])


@pytest.mark.parametrize(
    ("pts", "complaint"),
    [
        ([NO_PTS], "has frames without a time"),
        ([NO_PTS, 0, 1], "has frames without a time"),
        ([0, 1, NO_PTS], "has frames without a time"),
        ([0, 2, 1], "has frames whose times do not increase"),
        ([0, 1, 1], "has frames whose times do not increase"),
    ],
)
def test_videos_whose_frames_have_no_times_are_refused_with_the_remedy(pts, complaint):
    with pytest.raises(LabelError, match=f"the video {complaint}.*--format frames.*convert the file to mp4"):
        track_of((0, "0", "0.1"), pts=pts)


def test_unknown_classes_are_refused():
    with pytest.raises(LabelError, match="class 2"):
        track_of((2, "0", "0.1"), pts=range(3))


# ---- real videos -----------------------------------------------------------------------------------------------------


def times_by_pyav(path):
    """The pts of all frames in seconds, as PyAV decodes them: another way than the one that packs."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.pts * stream.time_base for frame in container.decode(stream)]


def delayed(source, target, seconds):
    """A copy of a video whose frames are all shown later; nothing is encoded anew."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.dts is not None:
                packet.pts += round(seconds / packet.time_base)
                packet.dts += round(seconds / packet.time_base)
                packet.stream = copy
                writer.mux(packet)
    return target


def check_packed(video, folder):
    """Pack a video with events at, before, after and between its frames' times; the index against PyAV's times."""
    times = times_by_pyav(video)
    since = [time - times[0] for time in times]
    rng = np.random.default_rng(0)
    digits = 10**12  # cut off there, a boundary that has more lies in the frame before
    events = []
    for label in range(3):
        for _ in range(12):
            a, b = sorted(rng.integers(0, len(times), 2).tolist())
            shift = int(rng.integers(-20_000, 20_000)) if rng.random() < 0.5 else 0
            start, stop = (math.floor(since[n] * digits) + shift * 10**6 for n in (a, b))
            if 0 <= start < stop:
                events.append((label, Fraction(start, digits), Fraction(stop, digits)))
    assert len(events) > 20
    lines = [f"c{label},{float(start):.0f},{decimal(start)},{decimal(stop)}\n" for label, start, stop in events]
    video.with_suffix(".csv").write_text("class,about,start,stop\n" + "".join(lines))
    report = pack(folder, folder.parent / "out", format="events", progress=False)
    assert not report.refused
    index = open_index(folder.parent / "out" / "all")
    assert index.categories == ["c0", "c1", "c2"]
    assert index.info.task == "multi_label"
    assert index.info.format == "events"
    rows = np.zeros((len(times), 3), bool)
    for label, start, stop in events:
        for frame, (begun, ended) in enumerate(zip(since, [*since[1:], math.inf], strict=True)):
            rows[frame, label] |= begun < stop and start < ended
    assert np.array_equal(index.track(0).rows(), rows)
    assert events_of(index.track(0)) == events_of(LabelTrack.from_rows(rows))
    return times


def decimal(time):
    """A fraction of 10**12 as a decimal number, without a float on the way."""
    whole, part = divmod(time.numerator * (10**12 // time.denominator), 10**12)
    return f"{whole}.{part:012}"


@pytest.mark.parametrize("name", ["vfr.mp4", "nonzero_start.mp4", "vp9.webm", "open_gop.mp4"])
def test_real_videos(shared_data, tmp_path, name):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / name).symlink_to(shared_data / "edge" / name)
    check_packed(folder / name, folder)


def test_the_real_video_of_variable_frame_rate_is_one(shared_data):
    times = times_by_pyav(shared_data / "edge/vfr.mp4")
    assert len({later - earlier for earlier, later in pairwise(times)}) > 1


@pytest.mark.parametrize("extension", ["mp4", "mkv", "mov"])
def test_videos_that_do_not_start_at_zero(shared_data, tmp_path, extension):
    folder = tmp_path / "videos"
    folder.mkdir()
    video = delayed(shared_data / "edge/vfr.mp4", folder / f"late.{extension}", Fraction(3, 2))
    assert check_packed(video, folder)[0] == Fraction(3, 2)


def test_a_video_of_its_own_without_the_shared_data(tmp_path):
    """25 frames per second, cut from a later place: the events count from the first frame."""
    folder = tmp_path / "videos"
    write_video(tmp_path / "early.mp4", moving_pattern(0, 20), options=X264)
    folder.mkdir()
    video = delayed(tmp_path / "early.mp4", folder / "late.mkv", Fraction(7))
    video.with_suffix(".tsv").write_text("start\tstop\tclass\n0\t0.04\tb\n0.1\t0.12\ta\n0.79\t0.8\tb\n")
    pack(folder, tmp_path / "out", format="events", progress=False)
    index = open_index(tmp_path / "out/all")
    assert index.frame_table(0).pts[0] * index.frame_table(0).time_base == 7
    assert events_of(index.track(0)) == [(0, 2, 3), (1, 0, 1), (1, 19, 20)]
    assert index.categories == ["a", "b"]


def test_times_past_the_end_refuse_the_video_with_file_line_and_length(tmp_path):
    write_video(tmp_path / "videos/a.mp4", moving_pattern(0, 20))
    (tmp_path / "videos/a.csv").write_text("start,stop,class\n0,0.4,x\n0.5,0.95,x\n")
    report = pack(tmp_path / "videos", tmp_path / "out", format="events", progress=False)
    assert (
        "a.csv, line 3: the event of class 0 from 0.5 s to 0.95 s stops more than 0.1 s after"
        in report.refused[0].reason
    )
    assert "the video lasts 0.8 s" in report.refused[0].reason
