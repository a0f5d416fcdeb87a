"""A damaged packet costs the frames up to the next trusted key frame, and nothing else: whenever it was damaged."""

import functools
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY_CATEGORIES, moving_pattern, read_tensor, read_webdataset, tiny_rows, write_rows, write_video

import wildstream as ws
from wildstream.cli import main
from wildstream.errors import SampleError, VideoError
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.probe import probe
from wildstream.shards.index import open_index
from wildstream.shards.index_schema import INDEX_NAME, write_table
from wildstream.video import MAX_REORDER, decode

CPU = torch.device("cpu")
FRAMES, GOP = 60, 12
X265 = "keyint=12:min-keyint=12:bframes=3:scenecut=0:log-level=none:pools=1:frame-threads=1"
ENCODINGS = {
    "h264.mp4": {"options": {"x264-params": "keyint=12:bframes=3:scenecut=0"}},
    "h264-open.mp4": {"options": {"x264-params": "keyint=12:bframes=3:scenecut=0:open-gop=1"}},
    "h264.mkv": {"options": {"x264-params": "keyint=12:bframes=2:scenecut=0"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": f"{X265}:open-gop=0"}},
    "hevc-open.mp4": {"codec": "libx265", "options": {"x265-params": f"{X265}:open-gop=1"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "sc_threshold": "1000000000"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2", "sc_threshold": "1000000000"}},
}
PACKETS = {"first": 0, "second": 1, "in the middle": 18, "B-frame": 15, "key or leading": 24, "last of a group": 35}


def packets_of(data):
    """(pts, place of the first byte, size, whether a key frame) of each packet, in order of decoding."""
    import av

    raw, found, place = data.numpy().tobytes(), [], 0
    with av.open(io.BytesIO(raw)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                place = raw.index(bytes(packet), packet.pos)
                found.append((packet.pts, place, packet.size, packet.is_keyframe))
    return found


def damage(data, number):
    """The file with every byte of one packet, by its number in order of decoding, 255: no codec takes that."""
    _, place, size, _ = packets_of(data)[number]
    data = data.clone()
    data[place : place + size] = 255
    return data


def lost_by(data, number):
    """The frames that one damaged packet costs, from what the packets of the undamaged file say."""
    packets = packets_of(data)
    shown = sorted(pts for pts, *_ in packets)
    keys = [*sorted(shown.index(pts) for pts, _, _, key in packets if key), len(shown)]
    following = next((n for n in range(number + 1, len(packets)) if packets[n][3]), len(packets))
    lost = set()
    for pts, *_ in packets[number:following]:
        first = shown.index(pts)
        lost |= set(range(first, next(key for key in keys if key > first)))
    return lost


def is_unreferenced(facts, packet):
    """Whether the frame of a packet is one that no other is predicted from."""
    return len(facts.packets) > 0 and facts.packets[packet] in facts.unreferenced


def frames_in(runs):
    return {number for first, stop in runs.tolist() for number in range(first, stop)}


def straight(data):
    """Frames by torchcodec's own decoder, strictly one after the other."""
    ensure_ffmpeg()
    from torchcodec.decoders import VideoDecoder

    return [frame.clone() for frame in VideoDecoder(data)]


def ask(data, numbers, facts, **changes):
    return dict(decode(data, numbers, replace(facts, **changes), device=CPU))


def assert_right(found, expected, lost):
    """Each frame is as in the undamaged file, or an error if and only if it is lost."""
    for number, frame in found.items():
        assert isinstance(frame, VideoError) == (number in lost), f"frame {number}: {frame}"
        if number not in lost:
            assert torch.equal(frame, expected[number]), f"frame {number} has other pixels"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """An encoding of the moving pattern, the facts about it and its frames; made once."""

    @functools.cache
    def load(name):
        path = tmp_path_factory.mktemp("encoded") / name
        write_video(path, moving_pattern(0, FRAMES, 96, 128), **ENCODINGS[name])
        data = read_tensor(path)
        facts = probe(data)
        assert len(facts.lost) == 0
        return data, facts, straight(data)

    return load


@pytest.fixture(params=ENCODINGS)
def encoded(request, load):
    return load(request.param)


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)
def test_the_loss_is_found_before_packing(encoded, packet):
    data, whole, expected = encoded
    harmed, lost = damage(data, packet), lost_by(data, packet)
    facts = probe(harmed)
    assert facts.pts.tolist() == whole.pts.tolist()  # labels do not slip
    assert facts.num_frames == facts.claimed_frames == FRAMES
    assert frames_in(facts.lost) == lost
    assert (facts.lost[1:, 0] > facts.lost[:-1, 1]).all()
    assert set(facts.key_frames.tolist()) == {0, *whole.key_frames.tolist()} - (lost - {0})
    found = ask(harmed, range(FRAMES), facts)
    assert list(found) == list(range(FRAMES))
    assert_right(found, expected, lost)


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)
def test_the_loss_is_found_after_packing(encoded, packet):
    """Damage that the index does not know of: all frames, from every frame on, and some."""
    data, facts, expected = encoded
    harmed, lost = damage(data, packet), lost_by(data, packet)
    found = ask(harmed, range(FRAMES), facts)
    assert_right(found, expected, lost)
    words = {number: str(frame) for number, frame in found.items() if number in lost}
    asked = [range(first, FRAMES) for first in range(0, FRAMES, 5)]
    asked += [sorted(random.Random(seed).sample(range(FRAMES), 9)) for seed in range(9)]
    for numbers in asked:
        some = ask(harmed, numbers, facts)
        assert list(some) == list(numbers)
        failed = {number for number, frame in some.items() if isinstance(frame, VideoError)}
        assert failed <= lost  # a damaged frame that nobody wants and no other needs is not even looked at
        assert failed == lost & set(numbers) or is_unreferenced(facts, packet)
        assert_right(some, expected, failed)
        assert all(str(some[number]) == words[number] for number in failed)  # to be counted together


def test_the_words_name_the_frames(load):
    data, facts, _ = load("h264.mp4")
    assert lost_by(data, 18) == set(range(17, 24))
    harmed = damage(data, 18)
    unknown, known = ask(harmed, [20], facts)[20], ask(harmed, [20], probe(harmed))[20]
    assert str(unknown) == "frames 17 to 23 do not decode (FFmpeg found invalid data)"
    assert str(known) == "frames 17 to 23 do not decode (the file is damaged there)"
    found = ask(damage(data, 23), range(20, 24), facts)
    assert "frames 22 to 23 do not decode" in str(found[22])
    assert found[22] is found[23]


def test_lost_frames_are_not_decoded(load, monkeypatch):
    from wildstream import video

    data, _, _ = load("h264.mp4")
    harmed = damage(data, 18)
    facts = probe(harmed)
    starts = []
    original = video.run_from
    monkeypatch.setattr(
        video, "run_from", lambda opened, first, *rest: (starts.append(first), original(opened, first, *rest))[1]
    )
    ask(harmed, range(18, 23), facts)
    assert starts == []
    ask(harmed, [13, 20, 21, 30], facts)
    assert starts == [12, 24]


def test_several_damaged_packets(load):
    data, whole, expected = load("h264.mp4")
    harmed, lost = data, set()
    for packet in (5, 8, 30, 37):
        harmed, lost = damage_of(harmed, data, packet), lost | lost_by(data, packet)
    facts = probe(harmed)
    assert frames_in(facts.lost) == lost
    assert facts.pts.tolist() == whole.pts.tolist()
    for known in (facts, whole):
        assert_right(ask(harmed, range(FRAMES), known), expected, lost)


def damage_of(harmed, data, number):
    """Damage one more packet of a file that is harmed already."""
    _, place, size, _ = packets_of(data)[number]
    harmed = harmed.clone()
    harmed[place : place + size] = 255
    return harmed


def test_a_key_frame_that_disagrees_after_the_damage_is_passed_over(tmp_path):
    """Intra refresh: the container's key frames are none, so the loss goes on to the end."""
    path = tmp_path / "a.mp4"
    write_video(path, moving_pattern(0, 100, 96, 128), options={"x264-params": "intra-refresh=1:bframes=0:keyint=24"})
    data = read_tensor(path)
    facts = probe(damage(data, 70))
    assert facts.lost.tolist() == [[70, 100]]
    assert facts.key_frames.tolist() == [0]


def test_frames_dropped_in_silence_take_back_what_may_have_needed_them(load):
    """A packet that the container does not show any more: frames before it that came out may be wrong."""
    data, facts, expected = load("h264.mkv")
    harmed = data.clone()
    pts, place, *_ = packets_of(data)[18]  # its block's header, before its bytes
    harmed[place - 8 : place] = 0
    found = ask(harmed, range(FRAMES), facts)
    lost = {number for number, frame in found.items() if isinstance(frame, VideoError)}
    first = facts.pts.tolist().index(pts)
    assert {*range(max(GOP, first + 1 - MAX_REORDER), 2 * GOP)} <= lost <= {*range(first - MAX_REORDER, 4 * GOP)}
    assert_right(found, expected, lost)


def test_a_file_that_does_not_open_costs_every_frame(load):
    facts = load("h264.mp4")[1]
    found = ask(torch.zeros(5000, dtype=torch.uint8), [3, 40], facts)
    assert [str(error) for error in found.values()] == [str(found[3])] * 2
    assert "not a video that FFmpeg can open" in str(found[3])


def test_a_damaged_tail_only_shortens(load):
    data, _, expected = load("hevc.mp4")
    last = packets_of(data)[-3:]
    harmed = data.clone()
    for _, place, size, _ in last:
        harmed[place : place + size] = 255
    facts = probe(harmed)
    assert (facts.num_frames, facts.claimed_frames) == (57, 60)
    assert len(facts.lost) == 0
    assert_right(ask(harmed, range(57), facts), expected, set())


def test_a_container_without_times_is_refused(shared_data):
    data = read_tensor(shared_data / "originals" / "mm_test.avi")
    with pytest.raises(VideoError, match=r"damaged at about frame \d+: .* does not say when each is shown"):
        probe(damage_by_size(data))


def damage_by_size(data):
    """The largest of the first 80 packets, which are in an AVI in order."""
    packets = packets_of(data)
    return damage(data, max(range(40, 80), key=lambda number: packets[number][2]))


REAL = ["edge/open_gop.mp4", "edge/nonzero_start.mp4", "originals/cars.mp4", "behaviour"]


@pytest.mark.parametrize("name", REAL)
def test_real_videos(shared_data, name):
    path = shared_data / name if name != "behaviour" else sorted((shared_data / name).glob("val/*/*.avi"))[0]
    data = read_tensor(path)
    whole = probe(data)
    packets = packets_of(data)
    for packet in random.Random(3).sample(range(1, len(packets)), 2):
        harmed, lost = damage(data, packet), lost_by(data, packet)
        facts = probe(harmed)
        if len(packets) - facts.num_frames > 0:  # a tail
            lost -= set(range(facts.num_frames, len(packets)))
        assert frames_in(facts.lost) == lost
        assert facts.pts.tolist() == whole.pts[: facts.num_frames].tolist()
        near = {n + d for run in facts.lost.tolist() for n in run for d in range(-4, 4)}
        numbers = sorted({0, facts.num_frames - 1, *near} & {*range(facts.num_frames)})
        expected = ask(data, numbers, whole)
        assert_right(ask(harmed, numbers, facts), expected, lost)
        assert_right(ask(harmed, numbers, whole), expected, lost)


STYLE = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=3, tolerance_region=1)


def make_source(root, videos):
    """Labelled videos in the frames layout, from bytes."""
    (root / "train").mkdir(parents=True)
    (root / "categories.json").write_text(json.dumps(TINY_CATEGORIES))
    for name, data in videos.items():
        path = root / "train" / name
        path.write_bytes(data.numpy().tobytes())
        write_rows(path.with_suffix(".tsv"), tiny_rows(0, FRAMES))
    return root


def assert_stream(loader, expected, lost, key):
    """Delivered are all windows but those that touch a lost frame of `key`, right in pixels and label."""
    windows = np.arange(int(STYLE.num_windows(FRAMES)))
    labels = [tiny_rows(0, FRAMES)[used].any(0) for used in STYLE.label_frames(windows, FRAMES)]
    touched = {
        (key, int(start))
        for start, used in zip(STYLE.starts(windows), STYLE.frames(windows, FRAMES), strict=True)
        if lost & {*used.tolist()}
    }
    assert touched
    delivered = set()
    for batch in loader:
        for row in range(len(batch)):
            address = batch.keys[row], int(batch.starts[row])
            if not batch.mask[row]:
                assert address in touched or row not in batch.problems
                continue
            assert address not in delivered
            delivered.add(address)
            window = int(np.flatnonzero(STYLE.starts(windows) == address[1])[0])
            used = STYLE.frames(windows[window : window + 1], FRAMES)[0]
            assert torch.equal(batch.frames[row], torch.stack([expected[address[0]][n] for n in used])), address
            assert (batch.labels[row].numpy() == labels[window].astype(bool)).all()
    everything = {(name, int(start)) for name in expected for start in STYLE.starts(windows)}
    assert delivered == everything - touched
    return touched


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["h264.mp4", "hevc-open.mp4", "vp9.webm", "mpeg4.avi", "h264.mkv"])
def test_the_stream_delivers_the_rest(load, tmp_path, name, when, shuffle):
    data, facts, frames = load(name)
    other, _, other_frames = load("mpeg4.mp4")
    packet = next(number for number in range(18, FRAMES) if not is_unreferenced(facts, number))
    harmed, lost = damage(data, packet), lost_by(data, packet)
    root = make_source(
        tmp_path / "source", {f"a.{name.split('.')[1]}": harmed if when == "before" else data, "b.mp4": other}
    )
    report = ws.pack(root, tmp_path / "out", format="frames", progress=False)
    assert not report.refused
    index = open_index(tmp_path / "out" / "train")
    if when == "after":
        shard, offset, size = index.place(0)
        shard = Path(shard)
        raw = bytearray(shard.read_bytes())
        assert raw[offset : offset + size] == data.numpy().tobytes()
        raw[offset : offset + size] = harmed.numpy().tobytes()
        shard.write_bytes(raw)
    dataset = ws.DatasetBuilder(path=tmp_path / "out" / "train", style=STYLE).build()
    loader = dataset.loader(batch_size=4, shuffle=shuffle, segment_frames=20, max_skipped=0.9)
    touched = assert_stream(loader, {"a": frames, "b": other_frames}, lost, "a")
    assert loader.ledger.num_skipped == len(touched)
    assert len(loader.ledger.skipped) == (1 if len(frames_runs(lost)) == 1 else 2)
    assert all(reason.startswith("a: frames ") for reason in loader.ledger.skipped)


def frames_runs(lost):
    return [n for n in lost if n - 1 not in lost]


# webdataset leaves closing a shard to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("known", [True, False])
def test_a_plain_webdataset_delivers_the_rest(load, tmp_path, known):
    data, _, frames = load("h264.mp4")
    root = make_source(tmp_path / "source", {"a.mp4": damage(data, 18)})
    ws.pack(root, tmp_path / "out", format="frames", progress=False)
    samples = read_webdataset(tmp_path / "out" / "train" / "000000.tar")
    if not known:
        del samples[0]["json"]
    stages = ws.ParseSamples(style=STYLE, num_classes=3, segment_frames=20), ws.Decode(), ws.Windows()
    stream = samples
    for stage in (*stages, ws.Batches(size=4)):
        stream = stage(stream)
    assert_stream(stream, {"a": frames}, lost_by(data, 18), "a")


def test_lost_frames_are_black_in_their_segment(load):
    data, _, frames = load("h264.mp4")
    sample = {"__key__": "x", "mp4": damage(data, 18).numpy().tobytes(), "cls": b"0"}
    (segment,) = ws.Decode()(ws.ParseSamples(style=STYLE, num_classes=3)([sample]))
    for number, place in zip(segment.windows.frames.ravel(), segment.places.ravel(), strict=True):
        assert torch.equal(segment.frames[place], frames[number] * (number not in range(17, 24)))


def test_a_segment_of_unknown_size_of_which_nothing_decodes_is_an_error(load):
    data, *_ = load("h264.mp4")
    harmed = data.clone()
    for packet in packets_of(data):
        harmed[packet[1] : packet[1] + packet[2]] = 255
    stream = ws.Decode()(
        ws.ParseSamples(style=STYLE, num_classes=3)([{"__key__": "x", "mp4": harmed.numpy().tobytes(), "cls": b"0"}])
    )
    with pytest.raises(VideoError, match=r"x: frames 0 to \d+ do not decode \(FFmpeg found invalid data\)"):
        next(stream)


def test_frames_that_hevc_drops_in_silence_are_lost_where_labels_tell_of_them(load, tmp_path):
    data, whole, frames = load("hevc.mp4")
    _, place, size, _ = packets_of(data)[18]
    harmed = data.clone()
    harmed[place + size // 2 : place + size] = 0
    assert (probe(harmed).num_frames, len(probe(harmed).lost)) == (54, 0)  # no packet raised
    ws.pack(make_source(tmp_path / "source", {"a.mp4": harmed}), tmp_path / "out", format="frames", progress=False)
    index = open_index(tmp_path / "out" / "train")
    table = index.frame_table(0)
    assert table.pts.tolist() == whole.pts.tolist()
    assert table.lost.tolist() == [[12, 24]]  # 17 is missing; what came out of the group before it is not trusted
    facts = probe(harmed, by_packets=True)
    assert_right(ask(harmed, range(FRAMES), facts), frames, set(range(12, 24)))
    assert ws.verify(tmp_path / "out" / "train", progress=False) == []


@pytest.mark.parametrize("layout", ["events", "videos"])
def test_frames_dropped_in_silence_are_lost_whatever_the_labels(load, tmp_path, layout):
    """Labels that do not count the frames tell of no gap; the packets do."""
    data, whole, _ = load("hevc.mp4")
    _, place, size, _ = packets_of(data)[18]
    harmed = data.clone()
    harmed[place + size // 2 : place + size] = 0
    folder = tmp_path / "source/train/c"
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_bytes(harmed.numpy().tobytes())
    (folder / "a.txt").write_text("0")
    (folder / "a.csv").write_text("start,stop,class\n1.0,1.4,c\n")
    report = ws.pack(tmp_path / "source", tmp_path / "out", format=layout, progress=False)
    index = open_index(tmp_path / "out" / "train")
    assert index.frame_table(0).pts.tolist() == whole.pts.tolist()
    assert index.frame_table(0).lost.tolist() == [[12, 24]]
    assert [entry.reason.split(" do ")[0] for entry in report.damaged] == ["frames 12 to 23 of 60"]
    if layout == "events":
        assert (index.track(0).first.tolist(), index.track(0).stop.tolist()) == ([25], [35])
    assert ws.verify(tmp_path / "out" / "train", progress=False) == []


def test_a_missing_end_is_named_each_time(load, tmp_path, capsys):
    data, _, _ = load("hevc.mp4")
    harmed = data.clone()
    for _, place, size, _ in packets_of(data)[-3:]:
        harmed[place : place + size] = 255
    folder = tmp_path / "source/train/c"
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_bytes(harmed.numpy().tobytes())
    (folder / "a.txt").write_text("0")
    reason = "its container promises 60 frames, the first 57 are packed"
    for _ in range(2):
        report = ws.pack(tmp_path / "source", tmp_path / "out", format="videos", progress=False)
        assert [entry.reason for entry in report.shortened] == [reason]
    assert main(["pack", str(tmp_path / "source"), str(tmp_path / "out"), "--format", "videos"]) == 0
    assert f"shorter  train/c/a.mp4: {reason}" in capsys.readouterr().out


def test_packing_names_the_damage_each_time(load, tmp_path, capsys):
    root = make_source(tmp_path / "source", {"a.mp4": damage(load("h264.mp4")[0], 18)})
    reason = "frames 17 to 23 of 60 do not decode; their windows will be skipped and counted"
    for reused in (0, 1):
        report = ws.pack(root, tmp_path / "out", format="frames", progress=False)
        assert [(entry.split, entry.path, entry.reason) for entry in report.damaged] == [
            ("train", "train/a.mp4", reason)
        ]
        assert report.reused.get("train", 0) == reused
        assert not report.refused
    assert json.loads((tmp_path / "out" / "pack-report.json").read_text())["damaged"][0]["reason"] == reason
    assert main(["pack", str(root), str(tmp_path / "out"), "--format", "frames"]) == 0
    assert f"damaged  train/a.mp4: {reason}" in capsys.readouterr().out
    for out in ("out", "new"):  # taken over, and packed
        with pytest.raises(SampleError, match=r"train/a\.mp4: frames 17 to 23 of 60"):
            ws.pack(root, tmp_path / out, format="frames", progress=False, on_error="fail")


def test_too_much_damage_is_refused(load, tmp_path):
    data, *_ = load("h264.mp4")
    harmed = data
    for packet in (0, 12, 24):
        harmed = damage_of(harmed, data, packet)
    report = ws.pack(
        make_source(tmp_path / "source", {"a.mp4": harmed}), tmp_path / "out", format="frames", progress=False
    )
    assert "frames 0 to 35 of 60 do not decode, which is more than half of them" in report.refused[0].reason


def test_verify_names_new_damage(load, tmp_path):
    data, *_ = load("h264.mp4")
    ws.pack(make_source(tmp_path / "source", {"a.mp4": data}), tmp_path / "out", format="frames", progress=False)
    folder = tmp_path / "out" / "train"
    shard, offset, size = open_index(folder).place(0)
    shard = Path(shard)
    raw = bytearray(shard.read_bytes())
    raw[offset : offset + size] = damage(data, 18).numpy().tobytes()
    shard.write_bytes(raw)
    (fault,) = ws.verify(folder, progress=False)
    assert "not those that were packed (checksum; frames 17 to 23 do not decode any more)" in fault.reason


def test_verify_compares_the_lost_frames(load, tmp_path):
    data, *_ = load("h264.mp4")
    root = make_source(tmp_path / "source", {"a.mp4": damage(data, 18)})
    ws.pack(root, tmp_path / "out", format="frames", progress=False)
    folder = tmp_path / "out" / "train"
    assert ws.verify(folder, progress=False) == []
    table = pq.read_table(folder / INDEX_NAME, partitioning=None)
    write_table(folder / INDEX_NAME, table.drop_columns(["lost"]))
    (fault,) = ws.verify(folder, progress=False)
    assert "frames 17 to 23 do not decode, by the index none" in fault.reason


def test_an_index_without_the_column_opens_and_streams(load, tmp_path):
    data, *_ = load("h264.mp4")
    ws.pack(make_source(tmp_path / "source", {"a.mp4": data}), tmp_path / "out", format="frames", progress=False)
    folder = tmp_path / "out" / "train"
    new = open_index(folder)
    table = pq.read_table(folder / INDEX_NAME, partitioning=None)
    write_table(folder / INDEX_NAME, table.drop_columns(["lost"]))
    old = open_index(folder)
    assert old.fingerprint == new.fingerprint
    assert old.frame_table(0).lost.shape == (0, 2)
    loader = ws.DatasetBuilder(path=folder, style=STYLE).build().loader(batch_size=4)
    assert sum(int(batch.mask.sum()) for batch in loader) == int(STYLE.num_windows(FRAMES))
