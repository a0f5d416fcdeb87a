"""Packets that a decoder is spared: the frames that remain are the same, and a wrong table costs time, not pixels."""

import functools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHARED_DATA, moving_pattern, read_tensor, write_video

from wildstream.packets import Sparing
from wildstream.probe import probe
from wildstream.shards.index import open_index
from wildstream.shards.pack import pack
from wildstream.video import Opened, decode, run_from

CPU = torch.device("cpu")
FRAMES = 60
X265 = "keyint=20:min-keyint=20:bframes=3:scenecut=0:log-level=none:pools=1:frame-threads=1"
X265_RADL = X265.replace("bframes=3", "bframes=4")
ENCODINGS = {
    "h264.mp4": {"options": {"x264-params": "keyint=20:bframes=3:scenecut=0"}},
    "pyramid.mp4": {"options": {"x264-params": "keyint=20:bframes=5:b-pyramid=normal:scenecut=0"}},
    "open.mp4": {"options": {"x264-params": "keyint=20:bframes=3:scenecut=0:open-gop=1"}},
    "late.mkv": {"options": {"x264-params": "keyint=250:bframes=3:scenecut=0"}},
    "h264.avi": {"options": {"x264-params": "keyint=20:bframes=0:scenecut=0"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": f"{X265}:open-gop=0"}},
    "hevc-open.mkv": {"codec": "libx265", "options": {"x265-params": f"{X265}:open-gop=1"}},
    "radl.mp4": {"codec": "libx265", "options": {"x265-params": f"{X265_RADL}:open-gop=0:radl=3"}},
    "layers.mp4": {"codec": "libx265", "options": {"x265-params": f"{X265}:temporal-layers=2:b-adapt=0"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "20"}},
}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """An encoding of the moving pattern, the facts about it and its frames; made once."""

    @functools.cache
    def load(name):
        path = tmp_path_factory.mktemp("encoded") / name
        write_video(path, moving_pattern(0, FRAMES, 96, 128), **ENCODINGS[name])
        data = read_tensor(path)
        facts = probe(data)
        return data, facts, every_frame(data, facts)

    return load


def every_frame(data, facts):
    """All frames, straight through from the first."""
    return dict(decode(data, range(facts.num_frames), replace(facts, key_frames=np.zeros(1, np.int64)), device=CPU))


def count_packets(monkeypatch):
    """Lists to which each packet adds itself: those that could be decoded, and those that were left out."""
    taken, left = [], []
    original = Sparing.leaves_out

    def counted(self):
        out = original(self)
        (left if out else taken).append(1)
        return out

    monkeypatch.setattr(Sparing, "leaves_out", counted)
    return taken, left


def selections(count):
    """Frames that windows may ask for: every n-th, from anywhere; some at random; one."""
    for step in (2, 3, 4, 7):
        for start in (0, 1, 5, count // 2, count - 9):
            yield list(range(max(0, start), count, step))
    draw = random.Random(0)
    for size in (1, 2, 5, 12):
        for _ in range(4):
            yield sorted(draw.sample(range(count), min(size, count)))


@pytest.mark.parametrize("name", ENCODINGS)
def test_frames_are_those_of_straight_decoding(load, name):
    data, facts, expected = load(name)
    for numbers in selections(FRAMES):
        found = dict(decode(data, numbers, facts, device=CPU))
        assert list(found) == numbers
        for number, frame in found.items():
            assert torch.equal(frame, expected[number]), f"frame {number} of {numbers}"


@pytest.mark.parametrize(
    ("name", "share"),
    [
        *(("h264.mp4", 0.3), ("pyramid.mp4", 0.3), ("open.mp4", 0.3), ("late.mkv", 0.3), ("hevc.mp4", 0.2)),
        *(("hevc-open.mkv", 0.2), ("h264.avi", 0), ("vp9.webm", 0)),
    ],
)
def test_packets_are_left_out(load, monkeypatch, name, share):
    data, facts, _ = load(name)
    _, left = count_packets(monkeypatch)
    list(decode(data, range(0, FRAMES, 4), facts, device=CPU))
    assert len(left) >= share * FRAMES
    assert (len(left) > 0) == (share > 0)
    left.clear()
    list(decode(data, range(FRAMES), facts, device=CPU))
    assert not left, "where all frames are wanted all packets are decoded"


def test_packets_before_a_run_that_begins_between_key_frames_are_left_out(load, monkeypatch):
    data, facts, expected = load("late.mkv")
    _, left = count_packets(monkeypatch)
    found = dict(decode(data, range(40, 60), facts, device=CPU))
    assert all(torch.equal(frame, expected[number]) for number, frame in found.items())
    assert len(left) >= 15


@pytest.mark.parametrize("name", ["h264.mp4", "open.mp4", "hevc.mp4"])
def test_a_table_that_is_wrong_costs_no_pixel(load, name):
    """Packets that are not in the order that the table says, as another FFmpeg might find them."""
    data, facts, expected = load(name)
    wrong = [
        replace(facts, packets=np.roll(facts.packets, 1)),
        replace(facts, packets=facts.packets[::-1].copy()),
        replace(facts, packets=facts.packets[:7]),
    ]
    for table in wrong:
        for numbers in selections(FRAMES):
            found = dict(decode(data, numbers, table, device=CPU))
            for number, frame in found.items():
                assert isinstance(frame, torch.Tensor), f"frame {number}: {frame}"
                assert torch.equal(frame, expected[number]), f"frame {number} of {numbers}"


def test_what_comes_out_of_a_run_says_its_number(load):
    data, facts, _ = load("h264.mp4")
    needed = np.zeros(FRAMES, np.bool_)
    needed[::4] = True
    numbers = [number for number, _ in run_from(Opened(data), 0, facts, CPU, needed)]
    assert set(range(0, FRAMES, 4)) <= set(numbers)
    assert set(range(FRAMES)) - set(numbers) <= set(facts.unreferenced.tolist())
    assert numbers == sorted(numbers)


REAL = sorted(
    path.relative_to(SHARED_DATA).as_posix()
    for folder in ("originals", "edge", "behaviour/val", "signs/videos", "clips/test")
    for path in (SHARED_DATA / folder).rglob("*")
    if path.suffix in {".mp4", ".avi", ".mkv", ".mov", ".webm"}
    and path.name not in {"audio_only.mp4", "empty.mp4", "not_a_video.mp4", "truncated.mp4", "corrupted.mp4"}
) or ["originals/missing"]


@pytest.mark.parametrize("name", REAL)
def test_real_videos(shared_data, name):
    data = read_tensor(shared_data / name)
    facts = probe(data)
    count = min(facts.num_frames, 150)
    straight = replace(facts, key_frames=np.zeros(1, np.int64))
    asked = [list(range(start, count, step)) for start, step in ((0, 4), (3, 5), (count // 2, 8)) if start < count]
    wanted = sorted({number for numbers in asked for number in numbers})
    expected = {
        number: frame for number, frame in decode(data, range(wanted[-1] + 1), straight, device=CPU) if number in wanted
    }
    for numbers in asked:
        for number, frame in decode(data, numbers, facts, device=CPU):
            assert isinstance(frame, torch.Tensor), f"frame {number}: {frame}"
            assert torch.equal(frame, expected[number]), f"frame {number}"


def test_the_index_keeps_it(tmp_path):
    path = tmp_path / "source/v.mp4"
    write_video(path, moving_pattern(0, FRAMES, 96, 128), **ENCODINGS["h264.mp4"])
    (tmp_path / "source/categories.json").write_text('["a"]')
    path.with_suffix(".tsv").write_text("0\n" * FRAMES)
    pack(tmp_path / "source", tmp_path / "shards", format="frames", progress=False)
    table, facts = open_index(tmp_path / "shards/all").frame_table(0), probe(read_tensor(path))
    assert len(facts.unreferenced) > 10
    assert table.packets.tolist() == facts.packets.tolist()
    assert table.unreferenced.tolist() == facts.unreferenced.tolist()
