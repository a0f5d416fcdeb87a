"""Re-encoding on the way into shards: the same frames at the same times, cheap to seek in, the same bytes each time."""

import dataclasses
import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_FRAMES, contents, moving_pattern, read_tensor, read_webdataset, tiny_rows, two_videos

from wildstream.cli import main
from wildstream.errors import ConfigError, VideoError
from wildstream.facts import NO_PTS
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.probe import probe
from wildstream.shards import transcode as module
from wildstream.shards.encoders import ENCODERS, Transcode
from wildstream.shards.index import open_index
from wildstream.shards.pack import pack
from wildstream.shards.pack_report import REPORT_NAME
from wildstream.shards.transcode import TranscodeEffect, transcode
from wildstream.shards.verify import verify
from wildstream.video import decode

ensure_ffmpeg()
import av  # noqa: E402  # behind ensure_ffmpeg as in a training; the command line of the kill test has it first

CODECS = ["h264", "hevc", "av1"]


def tensor(data):
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def straight(data, facts, step=1):
    """Every `step`-th frame, decoded from the first one on, without any seek: (3, H, W) float."""
    table = replace(facts, key_frames=np.zeros(1, np.int64))
    numbers = range(0, facts.num_frames, step)
    for _, frame in decode(tensor(data), numbers, table, device=torch.device("cpu")):
        assert isinstance(frame, torch.Tensor), frame
        yield frame.float()


def resized(frame, like):
    return torch.nn.functional.interpolate(frame[None], like.shape[1:], mode="bilinear", antialias=True)[0]


def differences(source, facts, result, after, step=1):
    """Mean absolute difference in grey levels of every `step`-th frame of the result to the source's, resized."""
    pairs = zip(straight(source, facts, step), straight(result, after, step), strict=True)
    return [(resized(old, new) - new).abs().mean().item() for old, new in pairs]


def seconds(facts):
    return [int(pts) * facts.time_base for pts in facts.pts]


def written(frames, pts, time_base, *, format="matroska", codec="libx264", pixels="yuv420p", tags=None):
    """A small lossless video of (H, W, 3) RGB or, as yuv420p, (H * 3 / 2, W) frames."""
    target = io.BytesIO()
    with av.open(target, "w", format=format) as container:
        stream = container.add_stream(codec, 25, {"crf": "0", "threads": "1"}, time_base=time_base)
        planar = frames[0].ndim == 2
        stream.height, stream.width = (len(frames[0]) * 2 // 3 if planar else len(frames[0])), frames[0].shape[1]
        stream.pix_fmt = pixels
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for array, shown_at in zip(frames, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="yuv420p" if planar else "rgb24")
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = shown_at, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


# ---- options ---------------------------------------------------------------------------------------------------------


def test_options_are_read_as_they_are_written():
    assert Transcode.parse("short_side=256, gop=16,codec=hevc,crf=28") == Transcode(
        short_side=256, gop=16, codec="hevc", crf=28
    )
    assert Transcode.parse("gop=8").options() == {"gop": 8, "codec": "h264", "crf": 20}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"'' is not NAME=VALUE\. Write"),
        ("gop", "'gop' is not NAME=VALUE"),
        ("gop=", "'gop=' is not NAME=VALUE"),
        ("gop=1,,crf=3", "'' is not NAME=VALUE"),
        ("size=3", r"size is not an option\. Take some of short_side, gop, codec, crf"),
        ("gop=3,gop=4", "gop is there twice"),
        ("gop=x", "gop='x' must be a whole number"),
        ("crf=2.5", "crf='2.5' must be a whole number"),
        ("gop=-1", "gop='-1' must be a whole number"),
        ("gop=0", "gop=0 must be a whole number from 1 to"),
        ("short_side=8", "short_side=8 must be a whole number from 16 to"),
        ("crf=52", r"crf=52 must be a whole number from 0 to 51 with h264\. Change crf"),
        ("crf=64,codec=av1", "crf=64 must be a whole number from 0 to 63 with av1"),
        ("codec=mpeg4", r"codec='mpeg4' is not known\. Take one of h264, hevc, av1"),
    ],
)
def test_malformed_options_are_refused(text, complaint, capsys):
    with pytest.raises(ConfigError, match=complaint):
        Transcode.parse(text)
    with pytest.raises(SystemExit) as exit:
        main(["pack", "a", "b", "--format", "frames", "--transcode", text])
    assert exit.value.code == 2
    assert "argument --transcode: transcode" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"gop": 2.0}, {"crf": True}, {"short_side": "256"}, {"gop": None}])
def test_options_of_another_type_are_refused(options):
    with pytest.raises(ConfigError, match="must be a whole number"):
        Transcode(**options)


def test_a_codec_that_this_machine_cannot_encode_is_refused(monkeypatch):
    monkeypatch.setitem(ENCODERS, "av1", ("libnone",))
    with pytest.raises(
        ConfigError, match=r"codec='av1': this machine's PyAV .* has no libnone\. Take one of h264, hevc"
    ):
        Transcode(codec="av1")


@pytest.mark.parametrize(
    ("short_side", "size", "expected"),
    [
        (256, (1280, 720), (456, 256)),
        (256, (720, 1280), (256, 456)),
        (256, (300, 300), (256, 256)),
        (255, (1280, 720), (454, 254)),
        (256, (340, 256), (340, 256)),
        (256, (161, 121), (160, 120)),
        (None, (1921, 1081), (1920, 1080)),
        (None, (1, 1), (2, 2)),
    ],
)
def test_sizes_are_even_and_never_larger(short_side, size, expected):
    assert Transcode(short_side=short_side).frame_size(*size) == expected


# ---- frames and times ------------------------------------------------------------------------------------------------


EDGE = {  # options, and grey levels by which a frame may differ in the mean; another way of resizing is up to 3 of them
    "edge/av1.mkv": ("short_side=240,crf=12", 2.5),
    "edge/bt709_full_range.mp4": ("crf=8", 0.2),
    "edge/h264_10bits.mp4": ("crf=8", 2.5),
    "edge/h265_10bits.mp4": ("crf=8", 2.5),
    "edge/nonzero_start.mp4": ("short_side=96,crf=12", 4),
    "edge/odd_size.mp4": ("crf=8", 4),  # a pixel less in each direction: every edge moves by parts of one
    "edge/one_frame.mp4": ("crf=8", 2),
    "edge/open_gop.mp4": ("crf=12", 2.5),
    "edge/rotated_90.mov": ("short_side=160,crf=12", 2.5),
    "edge/rotated_180.mov": ("short_side=160,crf=12", 2.5),
    "edge/vfr.mp4": ("crf=12", 2.5),
    "edge/vp9.webm": ("crf=12", 2.5),
    "originals/mm_test.avi": ("short_side=96,crf=12", 4),
    "originals/nasa.mp4": ("short_side=96,crf=12", 4),
}


@pytest.mark.parametrize("name", EDGE)
def test_real_files_keep_frames_times_and_colours(shared_data, name):
    text, limit = EDGE[name]
    options = Transcode.parse(f"gop=24,{text}")
    source = (shared_data / name).read_bytes()
    facts = probe(tensor(source))
    result, after, _ = transcode(source, facts, options)
    assert after.num_frames == facts.num_frames
    timed = facts.pts != NO_PTS
    assert [n for n, keep in zip(seconds(after), timed, strict=True) if keep] == [
        n for n, keep in zip(seconds(facts), timed, strict=True) if keep
    ]
    assert after.key_frames.tolist() == list(range(0, facts.num_frames, 24))
    assert (after.width, after.height) == options.frame_size(facts.width, facts.height)
    assert after.codec == "h264"
    assert result.find(b"moov") < result.find(b"mdat")
    assert max(differences(source, facts, result, after, 17)) < limit
    with av.open(io.BytesIO(result)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        first = next(container.decode(video=0))
        assert first.rotation == 0
        assert first.format.name == ("yuvj420p" if "full_range" in name else "yuv420p")


@pytest.mark.parametrize("name", ["edge/vfr.mp4", "edge/odd_size.mp4"])
def test_real_files_give_the_same_bytes_each_time(shared_data, name):
    """Where libx264 with mbtree does not."""
    source = (shared_data / name).read_bytes()
    facts = probe(tensor(source))
    assert len({transcode(source, facts, Transcode(short_side=96))[0] for _ in range(3)}) == 1


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_keeps_every_frame_at_its_place(tiny_source, codec):
    """Each frame of a moving texture is nearest to the frame of the same number."""
    source = (tiny_source / "train/v0/v0.mp4").read_bytes()
    facts = probe(tensor(source))
    options = Transcode(gop=7, codec=codec, crf=8)
    result, after, _ = transcode(source, facts, options)
    assert after.codec == codec
    assert after.key_frames.tolist() == list(range(0, TINY_FRAMES, 7))
    assert seconds(after) == seconds(facts)
    old, new = list(straight(source, facts)), list(straight(result, after))
    for n, frame in enumerate(new):
        distances = {m: (old[m] - frame).abs().mean().item() for m in range(max(0, n - 1), min(TINY_FRAMES, n + 2))}
        assert min(distances, key=distances.get) == n
        assert distances[n] < 2.5
    assert transcode(source, facts, options)[0] == result


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_videos(codec, count):
    frames = [np.full((48, 64, 3), 60 * n, np.uint8) for n in range(count)]
    source = written(frames, range(0, 40 * count, 40), Fraction(1, 1000))
    after = transcode(source, probe(tensor(source)), Transcode(codec=codec, gop=2))[1]
    assert after.num_frames == count


@pytest.mark.parametrize("format", ["matroska", "mp4"])
def test_a_late_start_and_uneven_steps(format):
    pts = [1237, 1238, 1301, 1303, 2000, 2001, 2777, 60_001, 3_600_000, 3_600_017]
    frames = list(moving_pattern(0, len(pts)).permute(0, 2, 3, 1).numpy())
    source = written(frames, pts, Fraction(1, 1000), format=format)
    facts = probe(tensor(source))
    after = transcode(source, facts, Transcode(gop=3))[1]
    assert seconds(after) == seconds(facts) == [Fraction(n, 1000) for n in pts]


def test_no_key_frame_comes_of_a_cut():
    """Scenes that change at every frame make no key frames."""
    rng = np.random.default_rng(0)
    frames = [np.kron(rng.integers(0, 255, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(20)]
    source = written(frames, range(20), Fraction(1, 25))
    assert transcode(source, probe(tensor(source)), Transcode(gop=9))[1].key_frames.tolist() == [0, 9, 18]


def ramp(low, high, chroma=128):
    """A yuv420p frame of 64x48 whose luma goes from low to high."""
    luma = np.tile(np.linspace(low, high, 64).round().astype(np.uint8), (48, 1))
    return np.concatenate([luma, np.full((24, 64), chroma, np.uint8)])


@pytest.mark.parametrize("short_side", [None, 24])
@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("colorspace", [1, 6])
def test_range_and_matrix_shift_no_colour(color_range, colorspace, short_side):
    tags = {"color_range": color_range, "colorspace": colorspace}
    frame = ramp(0, 255, 90) if color_range == 2 else ramp(16, 235, 90)
    source = written([frame] * 3, range(3), Fraction(1, 25), tags=tags)
    facts = probe(tensor(source))
    result, after, _ = transcode(source, facts, Transcode(short_side=short_side, crf=1))
    old, new = next(straight(source, facts)), next(straight(result, after))
    assert (resized(old, new) - new).mean((1, 2)).abs().max() < 0.5
    assert (resized(old, new) - new).abs().max() < 6  # of a wrong range: 16 at the ends
    with av.open(io.BytesIO(result)) as container:
        first = next(container.decode(video=0))
        assert (first.color_range, first.colorspace) == (color_range, colorspace)


@pytest.mark.parametrize(("codec", "pixels"), [("libx264rgb", "bgr24"), ("ffv1", "bgr0"), ("ffv1", "gray")])
def test_sources_that_are_rgb_or_grey(codec, pixels):
    frames = [np.kron(np.linspace(0, 255, 48).reshape(4, 4, 3), np.ones((16, 16, 1))).astype(np.uint8)] * 3
    source = written(frames, range(3), Fraction(1, 25), codec=codec, pixels=pixels)
    facts = probe(tensor(source))
    result, after, _ = transcode(source, facts, Transcode(crf=1))
    assert max(differences(source, facts, result, after)) < 3
    assert after.pixel_format in ("yuv420p", "yuvj420p")


def test_a_video_with_untrustworthy_seeks_becomes_one_that_can_be_trusted(shared_data):
    """Of mouse_openfield.mp4, seeks give wrong pixels; of what it becomes, every key frame gives the right ones."""
    source = io.BytesIO()
    with av.open(str(shared_data / "originals/mouse_openfield.mp4")) as old, av.open(source, "w", format="mp4") as cut:
        stream = cut.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(old.streams.video[0])):
            if number == 400:
                break
            packet.stream = stream
            cut.mux(packet)
    facts = probe(tensor(source.getvalue()))
    result, after, _ = transcode(source.getvalue(), facts, Transcode(short_side=128))
    assert after.key_frames.tolist() == list(range(0, facts.num_frames, 32))
    assert wrong_seeks(source.getvalue(), [182, 366])
    assert wrong_seeks(result, after.key_frames.tolist()) == []
    assert max(differences(source.getvalue(), facts, result, after, 13)) < 4


def wrong_seeks(data, key_frames):
    """Key frames from which FFmpeg, told to seek and nothing else, decodes other pixels than from the start."""
    with av.open(io.BytesIO(data)) as container:
        frames = [(frame.pts, hash(frame.to_ndarray().tobytes())) for frame in container.decode(video=0)]
    wrong = []
    for first in key_frames:
        with av.open(io.BytesIO(data)) as container:
            container.seek(frames[first][0], stream=container.streams.video[0])
            expected = frames[first : first + 8]
            decoded = zip(container.decode(video=0), range(16), strict=False)
            found = {frame.pts: hash(frame.to_ndarray().tobytes()) for frame, _ in decoded}
            if any(found.get(pts) != pixels for pts, pixels in expected):
                wrong.append(first)
    return wrong


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tiny_source):
    data = (tiny_source / "train/v0/v0.mp4").read_bytes()
    return data, probe(tensor(data))


def edited(facts, **changes):
    """The facts with some frames' pts changed."""
    pts = facts.pts.copy()
    for place, value in changes.pop("pts").items():
        pts[place] = value
    return dataclasses.replace(facts, pts=pts, **changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"pts": {5: NO_PTS}}, "frame 5 has no time"),
        ({"pts": {0: NO_PTS}}, "frame 0 has no time"),
        ({"pts": {5: 0}}, "frame 5 is not shown after the frame before it"),
        ({"pts": {}, "lost": np.array([[3, 6]])}, r"frames 3 to 5 of 60 do not decode, which re-encoding would hide"),
        ({"pts": {7: 3585}}, "frame 7 decodes with pts 3584, when it was probed with 3585"),
    ],
)
def test_videos_that_cannot_be_kept_whole_are_refused(tiny, changes, complaint):
    data, facts = tiny
    with pytest.raises(VideoError, match=complaint):
        transcode(data, edited(facts, **changes), Transcode())


def test_a_last_frame_without_a_time_follows_the_one_before(tiny):
    data, facts = tiny
    after = transcode(data, edited(facts, pts={-1: NO_PTS}), Transcode())[1]
    assert seconds(after) == seconds(facts)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_frames": 59}, "gave other frames: 59, not 60"),
        ({"key_frames": np.array([0, 32, 40])}, r"gave other key frames: \[0, 32, 40\], not \[0, 32\]"),
        ({"width": 32}, r"gave other size: \(32, 48\), not \(64, 48\)"),
        ({"time_base": Fraction(1, 12900)}, "re-encoding moved frame 1 "),
    ],
)
def test_a_result_that_is_not_the_source_is_refused(tiny, monkeypatch, change, complaint):
    data, facts = tiny
    monkeypatch.setattr(module, "probe", lambda encoded: dataclasses.replace(probe(encoded), **change))
    with pytest.raises(VideoError, match=complaint):
        transcode(data, facts, Transcode())


def test_a_video_that_the_encoder_refuses_names_it(tiny, monkeypatch):
    monkeypatch.setattr(module, "encoder_options", lambda *_: {"x264-params": "nonsense=1", "preset": "nonsense"})
    with pytest.raises(VideoError, match="cannot be re-encoded with libx264"):
        transcode(*tiny, Transcode())


# ---- packing ---------------------------------------------------------------------------------------------------------


SMALL = Transcode(short_side=32, gop=8)


def quietly(source, out, **options):
    return pack(source, out, **{"format": "frames", "progress": False, "transcode": SMALL, **options})


def tars(out):
    return {name: data for name, data in contents(out).items() if name.endswith((".tar", "dataset.json"))}


def test_the_index_says_what_is_in_the_shards(tiny_source, tmp_path):
    report = quietly(tiny_source, tmp_path)
    assert report.packed == {"train": 3, "val": 1}
    assert report.refused == []
    index = open_index(tmp_path / "train")
    assert index.info.transcode == SMALL.options()
    samples = {sample["__key__"]: sample for sample in read_webdataset(tmp_path / "train/000000.tar")}
    for video, key in enumerate(index.keys):
        sample, metadata = samples[key], json.loads(samples[key]["json"])
        facts = probe(tensor(sample["mp4"]))
        shard, offset, size = index.place(video)
        shard = Path(shard)
        assert shard.read_bytes()[offset : offset + size] == sample["mp4"]
        assert hashlib.sha256(sample["mp4"]).hexdigest() == index.checksum(video) == metadata["sha256"]
        assert metadata["source"] == f"train/{key}/{key}.mp4"
        assert metadata["extension"] == "mp4"
        assert (metadata["height"], metadata["width"]) == index.frame_size(video) == (32, 42)
        assert facts.key_frames.tolist() == index.frame_table(video).key_frames.tolist() == list(range(0, 60, 8))
        assert facts.pts.tolist() == index.frame_table(video).pts.tolist()
        assert np.array_equal(index.track(video).rows(), tiny_rows(int(key[1:])))
    assert verify(tmp_path / "train") == []


def test_bytes_do_not_depend_on_the_number_of_threads(tiny_source, tmp_path):
    for workers in (1, 3):
        quietly(tiny_source, tmp_path / str(workers), workers=workers, shard_bytes=two_videos(tiny_source))
    assert tars(tmp_path / "1") == tars(tmp_path / "3")


def test_the_same_setting_is_reused_and_another_packs_anew(tiny_source, tmp_path):
    first = quietly(tiny_source, tmp_path)
    before = contents(tmp_path / "train")
    second = quietly(tiny_source, tmp_path)
    assert second.reused == second.packed == first.packed
    assert contents(tmp_path / "train") == before
    assert second.transcoded == first.transcoded  # as they were measured, not measured again
    for other in (Transcode(short_side=32, gop=9), None):
        third = quietly(tiny_source, tmp_path, transcode=other)
        assert third.reused == {}
        assert open_index(tmp_path / "train").info.transcode == (other and other.options())
    assert third.transcoded == {}


def test_figures_are_measured_and_kept(tiny_source, tmp_path, capsys):
    arguments = ["pack", str(tiny_source), str(tmp_path), "--format", "frames", "--transcode", "short_side=32,gop=8"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.count("re-encoded: ") == 2
    assert "frames per CPU-second" in said
    report = json.loads((tmp_path / REPORT_NAME).read_text())["transcoded"]
    videos = sorted((tiny_source / "train").rglob("*.mp4"))
    assert report["train"]["bytes_before"] == sum(path.stat().st_size for path in videos)
    assert report["train"]["bytes_after"] == sum(len(s["mp4"]) for s in read_webdataset(tmp_path / "train/000000.tar"))
    assert (report["train"]["sampled_videos"], report["train"]["sampled_frames"]) == (3, 180)
    for age in ("before", "after"):
        figures = report["train"]
        assert figures[f"speed_{age}"] == pytest.approx(180 / figures[f"seconds_{age}"])
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert [line for line in again.splitlines() if "re-encoded" in line] == [
        line for line in said.splitlines() if "re-encoded" in line
    ]
    assert json.loads((tmp_path / REPORT_NAME).read_text())["transcoded"] == report


def test_effects_add_up_and_are_not_invented():
    nothing = TranscodeEffect(bytes_before=10, bytes_after=4)
    assert (nothing.speed_before, nothing.speed_after) == (None, None)
    assert "decoding was not timed" in str(nothing)
    some = TranscodeEffect(sampled_videos=1, sampled_frames=100, seconds_before=2.0, seconds_after=0.5)
    both = nothing + some
    assert (both.bytes_after, both.speed_before, both.speed_after) == (4, 50.0, 200.0)
    assert "decoding 50 → 200 frames per CPU-second (4.0 times)" in str(both)


@pytest.mark.parametrize(("num_frames", "frames"), [(1, 1), (3, 3), (60, 60), (299, 296), (100_000, 300)])
def test_timed_runs_lie_within_the_video(num_frames, frames):
    runs = module._sampled_runs(num_frames)
    numbers = [n for run in runs for n in run]
    assert len(numbers) == len(set(numbers)) == frames
    assert (numbers[0], numbers[-1]) == (0, num_frames - 1)


def test_at_most_eight_videos_of_a_split_are_timed(tiny_source, tmp_path, monkeypatch):
    root = tmp_path / "source"
    root.mkdir()
    shutil.copy(tiny_source / "categories.json", root)
    for n in range(19):
        shutil.copy(tiny_source / "train/v0/v0.tsv", root / f"{n:02d}.tsv")
        spare = b"\0\0\0\x09free" + bytes([n])  # a box that nobody reads, so that they are no copies
        (root / f"{n:02d}.mp4").write_bytes((tiny_source / "train/v0/v0.mp4").read_bytes() + spare)
    result = transcode((root / "00.mp4").read_bytes(), probe(read_tensor(root / "00.mp4")), SMALL)
    timed = []
    monkeypatch.setattr(
        "wildstream.shards.ingest.transcode", lambda *_, measured, **__: timed.append(measured) or result
    )
    quietly(root, tmp_path / "out", shard_bytes=1)
    assert len(timed) == 19
    assert 6 <= sum(timed) <= 8


def test_labels_are_read_against_the_source_and_refusals_name_it(tiny_source, tmp_path):
    source = shutil.copytree(tiny_source, tmp_path / "source")
    labels = source / "train/v1/v1.tsv"
    labels.write_text(labels.read_text().split("\n", 1)[1])
    report = quietly(source, tmp_path / "out")
    assert [refusal.path for refusal in report.refused] == ["train/v1/v1.mp4"]
    assert "has 59 rows, but 60 frames" in report.refused[0].reason
    sizes = [path.stat().st_size for path in (source / "train").rglob("*.mp4") if path.stem != "v1"]
    assert report.transcoded["train"].bytes_before == sum(sizes)


def test_a_killed_packing_goes_on_to_the_same_shards(tiny_source, tmp_path):
    command = [sys.executable, "-m", "wildstream.cli", "pack", str(tiny_source), str(tmp_path / "out")]
    options = ["--format", "frames", "--split", "train", "--shard-bytes", "1", "--workers", "1"]
    for _ in range(10):  # a machine busy with other work may see the first table only when all is packed
        packing = subprocess.Popen(
            [*command, *options, "--transcode", "short_side=32,gop=8"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while packing.poll() is None and not list((tmp_path / "out").glob(".train.packing/*.parquet")):
            time.sleep(0.001)
        packing.send_signal(signal.SIGKILL)
        if packing.wait() == -signal.SIGKILL and not (tmp_path / "out/train").exists():
            break
        shutil.rmtree(tmp_path / "out")
    assert not (tmp_path / "out/train").exists()
    report = quietly(tiny_source, tmp_path / "out", splits=["train"], shard_bytes=1)
    assert report.reused["train"] >= 1
    assert report.transcoded["train"].sampled_videos == 3
    quietly(tiny_source, tmp_path / "fresh", splits=["train"], shard_bytes=1)
    assert tars(tmp_path / "out") == tars(tmp_path / "fresh")
    tables = [open_index(tmp_path / name / "train") for name in ("out", "fresh")]
    assert tables[0].fingerprint == tables[1].fingerprint
    assert {path.name for path in Path(tmp_path / "out/train").iterdir()} == {
        path.name for path in Path(tmp_path / "fresh/train").iterdir()
    }
