"""Decoding: every frame, from every key frame, is the one that straight decoding gives."""

import contextlib
import functools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHARED_DATA, TINY_FRAMES, moving_pattern, read_tensor, write_video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wildstream import probe as probing
from wildstream import video
from wildstream.errors import VideoError
from wildstream.facts import NO_PTS
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.probe import probe
from wildstream.video import decode, scan

CPU = torch.device("cpu")
LONG = 200
"""Frames of a video beyond which none are compared, to be quick."""


def straight(data):
    """Frames by torchcodec's own decoder, strictly one after the other, until it ends or gives up."""
    ensure_ffmpeg()
    from torchcodec.decoders import VideoDecoder

    with contextlib.suppress(RuntimeError):  # at a damaged tail, and where the container promises too much
        yield from VideoDecoder(data, num_ffmpeg_threads=2)


def decode_frames(data, numbers, facts=None, **changes):
    facts = facts or probe(data)
    found = dict(decode(data, numbers, replace(facts, **changes), device=CPU))
    assert list(found) == list(numbers)
    for frame in found.values():
        if isinstance(frame, VideoError):
            raise frame
    return list(found.values())


def assert_same(found, expected):
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(one, other), f"frame number {number} of those asked for differs"


def names(folder, *patterns):
    """Names of real videos, or one that leads to the fixture's skip where they are missing."""
    paths = [path for pattern in patterns for path in sorted((SHARED_DATA / folder).glob(pattern))]
    return [path.relative_to(SHARED_DATA).as_posix() for path in paths] or [f"{folder}/missing"]


REFUSED = {"audio_only.mp4", "corrupted.mp4", "empty.mp4", "not_a_video.mp4", "truncated.mp4"}
EDGE = [name for name in names("edge", "*") if name.split("/")[-1] not in REFUSED]
SIGNS, CLIPS, BEHAVIOUR = names("signs/videos", "*"), names("clips", "test/*/*.avi"), names("behaviour", "val/*/*.avi")
ORIGINALS = names("originals", "*")


def compared_numbers(facts):
    """All frames of a short video; of a longer one some at the key frames, at the end and anywhere."""
    count = min(facts.num_frames, LONG)
    if count <= 40:
        return list(range(count))
    keys = [key for key in facts.key_frames.tolist() if key < count]
    some = random.Random(0).sample(range(count), 8)
    chosen = {*some, count - 2, count - 1, *(key + n for key in keys[:: len(keys) // 8 + 1] for n in range(-1, 3))}
    return sorted(number for number in chosen if 0 <= number < count)


@pytest.fixture(scope="module")
def load(shared_data):
    """A real video and the facts about it; probed once."""

    @functools.cache
    def load(name):
        data = read_tensor(shared_data / name)
        return data, probe(data)

    return load


@pytest.fixture(scope="module")
def checked(load):
    """Facts of a real video and some of its frames as straight decoding gives them."""

    def check(name):
        data, facts = load(name)
        wanted = set(compared_numbers(facts))
        numbered = zip(range(max(wanted) + 1), straight(data), strict=False)
        kept = {number: frame.clone() for number, frame in numbered if number in wanted}
        assert len(kept) >= len(wanted) - 2  # where straight decoding gives up before the last frames
        return data, facts, kept

    return check


@pytest.mark.parametrize("name", [*EDGE, *SIGNS, *CLIPS, *BEHAVIOUR, *ORIGINALS])
def test_real_videos_equal_straight_decoding(checked, name):
    """All kept frames in one pass, then subsets that begin at each kept key frame, before it and behind it."""
    data, facts, expected = checked(name)
    numbers = list(expected)
    assert_same(decode_frames(data, numbers, facts), [expected[number] for number in numbers])
    for key in sorted({*facts.key_frames.tolist()} & {*numbers}):
        run = [number for number in numbers if number >= key][:5]
        assert_same(decode_frames(data, run, facts), [expected[number] for number in run])
    some = sorted(random.Random(1).sample(numbers, min(3, len(numbers))))
    assert_same(decode_frames(data, some, facts), [expected[number] for number in some])


@pytest.mark.parametrize("name", [*EDGE, *ORIGINALS])
def test_good_videos_keep_all_their_key_frames(load, name):
    data, facts = load(name)
    table = scan(data)
    pts, claimed, time_base = table.pts, table.key_frames, table.time_base
    assert time_base == facts.time_base
    # a time, since numbers may differ where a frame at the beginning does not decode
    increasing = bool((np.diff(facts.pts) > 0).all())
    expected = sorted({facts.pts[0], *pts[claimed]} & {*facts.pts}) if increasing else [facts.pts[0]]
    assert facts.pts[facts.key_frames].tolist() == expected


SEEKS_BADLY = "originals/mouse_openfield.mp4"


@pytest.fixture
def without_first_packet(monkeypatch):
    """A decoder that starts in the middle of a 4:4:4 video as if nothing were special about it."""
    monkeypatch.setattr(video, "_needs_first_packet", lambda stream: False)


def test_key_frames_that_silently_give_wrong_pixels_are_found(shared_data, without_first_packet):
    """The danger is real on this file, `probe` finds it, and what is decoded is right all the same."""
    data = read_tensor(shared_data / SEEKS_BADLY)
    claimed = scan(data).key_frames
    facts = probe(data)
    assert len(claimed) == 12
    assert facts.key_frames.tolist() == [0]
    numbers = sorted({int(key) + n for key in claimed[1:3] for n in range(3)})
    right = {n: frame for n, frame in zip(range(numbers[-1] + 1), straight(data), strict=False) if n in numbers}
    for key in claimed[1:3].tolist():
        wrong = decode_frames(data, range(key, key + 3), facts, key_frames=np.array([0, key]))
        assert not any(torch.equal(frame, right[key + n]) for n, frame in enumerate(wrong))
    assert_same(decode_frames(data, numbers, facts), list(right.values()))


def test_wrong_pixels_of_which_the_cause_is_known_are_cured(load):
    """With the stream's first packet seen, all twelve key frames of the same file are good."""
    assert len(load(SEEKS_BADLY)[1].key_frames) == 12


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Encode the moving pattern; the file."""

    def encode(name, frames=TINY_FRAMES, **options):
        path = tmp_path_factory.mktemp("encoded") / name
        write_video(path, moving_pattern(0, frames, 96, 128), **options)
        return read_tensor(path)

    return encode


def test_key_frames_that_refresh_bit_by_bit_are_not_trusted(make):
    """Periodic intra refresh: the container names key frames from which decoding does not begin at once."""
    data = make("a.mp4", 100, options={"x264-params": "intra-refresh=1:bframes=0:keyint=24"})
    assert scan(data).key_frames.tolist() == [0, 24, 48, 72, 96]
    facts = probe(data)
    assert facts.key_frames.tolist() == [0]
    expected = [frame.clone() for frame in straight(data)]
    for first in (1, 24, 50, 97):
        assert_same(decode_frames(data, range(first, 100), facts), expected[first:])


ENCODINGS = {
    "b-frames.mp4": {"options": {"x264-params": "keyint=12:bframes=3:scenecut=0"}},
    "open-gop.mp4": {"options": {"x264-params": "keyint=12:bframes=3:scenecut=0:open-gop=1"}},
    "b-frames.mkv": {"options": {"x264-params": "keyint=12:bframes=2:scenecut=0"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "sc_threshold": "1000000000"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12"}},
}


@pytest.fixture(scope="module", params=ENCODINGS)
def encoded(request, make):
    data = make(request.param, **ENCODINGS[request.param])
    return data, probe(data), [frame.clone() for frame in straight(data)]


def test_encodings_keep_every_key_frame(encoded):
    data, facts, expected = encoded
    assert facts.num_frames == facts.claimed_frames == len(expected) == TINY_FRAMES
    assert facts.key_frames.tolist() == [0, 12, 24, 36, 48]
    assert (facts.width, facts.height, facts.fps) == (128, 96, pytest.approx(25, rel=0.01))
    assert scan(data).key_frames.tolist() == facts.key_frames.tolist()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.sets(st.integers(0, TINY_FRAMES - 1), max_size=12))
def test_any_subset_of_frames(encoded, numbers):
    data, facts, expected = encoded
    numbers = sorted(numbers)
    assert_same(decode_frames(data, numbers, facts), [expected[number] for number in numbers])


def test_from_every_frame_to_the_end(encoded):
    data, facts, expected = encoded
    for first in range(TINY_FRAMES - 1):
        assert_same(decode_frames(data, [first, TINY_FRAMES - 1], facts), [expected[first], expected[-1]])


def test_every_frame_a_key_frame(make):
    data = make("intra.avi", codec="mjpeg", options={}, pixels="yuvj420p")
    facts = probe(data)
    assert facts.key_frames.tolist() == list(range(TINY_FRAMES))
    expected = [frame.clone() for frame in straight(data)]
    assert_same([decode_frames(data, [number], facts)[0] for number in range(TINY_FRAMES)], expected)


def test_frames_are_memory_of_their_own(make):
    one, other = decode_frames(make("a.mp4"), [3, 4])
    before = other.clone()
    one.zero_()
    assert torch.equal(other, before)
    assert one.shape == (3, 96, 128)
    assert one.dtype == torch.uint8


def test_another_file_than_the_index_speaks_of(make):
    facts, other = probe(make("a.mp4")), make("b.mp4", 30)
    with pytest.raises(VideoError, match=r"frames 36 to 47 do not decode \(the video ends before frame 36"):
        decode_frames(other, [2, 40], facts)
    with pytest.raises(VideoError, match=r"frame 1 should be shown at 0\.\d+ s, the decoder gave one for 0\.040000 s"):
        decode_frames(other, [2], facts, pts=facts.pts * 2)


@pytest.mark.parametrize("seed", range(36))
def test_harmed_bytes_are_decoded_or_refused(make, seed):
    """Whatever is in a file, `probe` gives facts or a VideoError: one bad file must not stop a packing."""
    rng = np.random.default_rng(seed)
    data = make(*[("a.mp4",), ("a.mkv",), ("a.avi",)][seed % 3]).clone()
    kind = seed % 4
    if kind == 0:
        data = data[: int(rng.integers(1, len(data)))]
    places = rng.integers(0, len(data) if kind < 3 else min(2000, len(data)), size=(0, 3, 50, 20)[kind])
    data[torch.from_numpy(places)] = torch.from_numpy(rng.integers(0, 256, len(places), np.uint8))
    try:
        facts = probe(data)
    except VideoError as error:
        message = str(error)
    else:
        message = "fine"
        assert facts.num_frames == len(facts.pts) > 0
        assert facts.key_frames[0] == 0
    assert message
    assert ".cpp" not in message


@pytest.mark.parametrize(("frames", "keys", "run"), [(3000, 12, 8), (1394, 140, 1), (60, 60, 1), (1, 1, 1), (0, 0, 1)])
def test_frames_compared_per_key_frame(frames, keys, run):
    assert probing._compared_run(frames, keys) == run


def test_frames_without_a_time_are_told_apart_and_decode_all_the_same(shared_data):
    data = torch.frombuffer(bytearray((shared_data / "originals" / "mm_test.avi").read_bytes()), dtype=torch.uint8)
    facts = probe(data)
    assert facts.pts[-1] == NO_PTS
    assert facts.key_frames.tolist() == [0]
    assert 20 < facts.fps < 30
    last = dict(decode(data, [0, facts.num_frames - 1], facts, device=torch.device("cpu")))
    assert all(isinstance(frame, torch.Tensor) for frame in last.values())
    assert len(last) == 2
