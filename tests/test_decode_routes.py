"""Who decodes a segment: asked once for each kind of video, never in silence, counted. Without a GPU: "meta" is one."""

import contextlib
import json
import logging
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import moving_pattern, read_webdataset, tiny_rows, write_rows, write_video

import wildstream as ws
from wildstream import nvdec
from wildstream.errors import ConfigError
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.nvdec import nvdec_takes
from wildstream.samples import DecodedSegment
from wildstream.shards.index import open_index
from wildstream.stream import decode as routes
from wildstream.stream.decode import Decode
from wildstream.stream.pipeline import make_decode
from wildstream.stream.segments import ReadPlanned
from wildstream.video import FullSize, decode

ensure_ffmpeg()
from torchcodec import decoders  # noqa: E402 - after FFmpeg is there
from torchcodec.decoders._video_decoder import CpuFallbackStatus  # noqa: E402

STYLE = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=4)
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
META = torch.device("meta")
KIND = ("h264", "yuv420p", 48, 64)
FILE = torch.zeros(9, dtype=torch.uint8)


class StandIn:
    """torchcodec's VideoDecoder, as far as it is asked here; tells what it was asked, and says what it is told to."""

    asked: list[dict]
    says: dict[str, bool]

    def __init__(self, data, **options):
        self.asked.append(options)
        if self.says.get("broken"):
            raise RuntimeError("[x.cpp:1, cannot be opened.")
        self.cpu_fallback = CpuFallbackStatus(status_known=not self.says.get("late"))
        self.cpu_fallback._is_fallback = self.says.get("fallback", False)
        self.cpu_fallback._nvcuvid_unavailable = self.says.get("no_library", False)
        self.cpu_fallback._video_not_supported = True

    def get_frame_at(self, number):
        self.cpu_fallback.status_known = True


@pytest.fixture
def stand_in(monkeypatch):
    """A fresh memory, and the stand-in: its class, to be told what to say."""
    monkeypatch.setattr(nvdec, "_taken", {})
    nvdec.warn_once.cache_clear()
    monkeypatch.setattr(StandIn, "asked", [], raising=False)
    monkeypatch.setattr(StandIn, "says", {}, raising=False)
    monkeypatch.setattr(decoders, "VideoDecoder", StandIn)
    yield StandIn
    nvdec.warn_once.cache_clear()


@pytest.mark.parametrize("fallback", [False, True])
def test_torchcodec_is_asked_once_for_each_kind_and_gpu(stand_in, fallback, caplog):
    stand_in.says = {"fallback": fallback}
    for _ in range(3):
        assert nvdec_takes(FILE, GPU, KIND) is not fallback
    assert len(stand_in.asked) == 1
    nvdec_takes(FILE, GPU, ("hevc", *KIND[1:]))
    nvdec_takes(FILE, GPU, ("h264", "yuv420p", 48, 66))
    nvdec_takes(FILE, torch.device("cuda", 1), KIND)
    assert [options["device"] for options in stand_in.asked] == ["cuda:0", "cuda:0", "cuda:0", "cuda:1"]
    assert not caplog.records  # that NVDEC does not take a kind is counted, not a reason for alarm


def test_the_status_is_known_before_it_is_believed(stand_in):
    stand_in.says = {"late": True, "fallback": True}
    assert not nvdec_takes(FILE, GPU, KIND)
    stand_in.says = {"late": True}
    assert nvdec_takes(FILE, GPU, ("vp9", *KIND[1:]))


@pytest.mark.parametrize(
    ("pixel_format", "dtype"),
    [("yuv420p", "uint8"), ("nv12", "uint8"), ("yuv444p", "uint8"), ("yuv420p10le", "float32"), ("p016le", "float32")],
)
def test_torchcodec_is_asked_for_the_surface_that_the_building_blocks_take(stand_in, pixel_format, dtype):
    nvdec_takes(FILE, GPU, ("hevc", pixel_format, 48, 64))
    assert stand_in.asked[0]["output_dtype"] == getattr(torch, dtype)


def test_a_kind_that_is_not_known_is_asked_for_each_time(stand_in):
    assert nvdec_takes(FILE, GPU, None)
    assert nvdec_takes(FILE, GPU, None)
    assert len(stand_in.asked) == 2


def test_a_missing_library_is_one_warning_with_its_remedy(stand_in, caplog):
    stand_in.says = {"fallback": True, "no_library": True}
    for width in range(64, 74, 2):
        assert not nvdec_takes(FILE, GPU, (*KIND[:3], width))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name.startswith("wildstream")
    assert "libnvcuvid.so.1" in record.message
    assert "NVIDIA_DRIVER_CAPABILITIES" in record.message


def test_what_cannot_be_opened_is_not_held_against_its_kind(stand_in, caplog):
    stand_in.says = {"broken": True}
    assert not nvdec_takes(FILE, GPU, KIND)
    assert not nvdec_takes(FILE, GPU, KIND)
    assert [record.message.split(": ")[-1] for record in caplog.records] == ["cannot be opened"]
    stand_in.says = {}
    assert nvdec_takes(FILE, GPU, KIND)


def test_running_out_of_memory_is_no_fault_of_the_video(stand_in, monkeypatch):
    def full(self, data, **options):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(StandIn, "__init__", full)
    with pytest.raises(torch.OutOfMemoryError):
        nvdec_takes(FILE, GPU, KIND)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "meta"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ConfigError, match=f"device='{device}'.*device='cpu'"):
        next(Decode(device=device)([]), None)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three small videos: two of the usual kind, one 4:4:4."""
    root = tmp_path_factory.mktemp("routes")
    (root / "in" / "categories.json").parent.mkdir()
    (root / "in" / "categories.json").write_text(json.dumps(["left", "right", "never"]))
    for number, pixels in enumerate(("yuv420p", "yuv420p", "yuv444p")):
        video = root / "in" / "train" / f"v{number}" / f"v{number}.mp4"
        write_video(video, moving_pattern(number, 40), pixels=pixels)
        write_rows(video.with_suffix(".tsv"), tiny_rows(number, 40))
    assert not ws.pack(root / "in", root / "out", format="frames", progress=False).refused
    return root / "out" / "train"


def make_loader(shards, **options):
    dataset = ws.DatasetBuilder(path=shards, style=STYLE).build()
    return dataset.loader(batch_size=4, size=(24, 32), segment_frames=16, num_workers=2, **options)


def test_the_index_knows_codec_and_pixel_format(shards):
    index = open_index(shards)
    assert [index.coding(video) for video in range(3)] == [("h264", "yuv420p")] * 2 + [("h264", "yuv444p")]


def test_a_loader_counts_its_segments_anew_in_each_epoch(shards):
    loader = make_loader(shards, shuffle=True, lanes=4)
    assert loader.decoded_by == {}
    for epoch in range(2):
        loader.set_epoch(epoch)
        for _ in loader:
            pass
        assert loader.decoded_by == {"cpu h264": loader.footprint().num_segments}


def test_labels_alone_decode_nothing_and_processes_count_for_themselves(shards):
    loader = make_loader(shards, only_labels=True)
    assert list(loader)
    assert loader.decoded_by == {}


def test_a_plain_stream_is_counted_by_what_it_says_or_the_container_does(shards):
    samples = read_webdataset(*shards.glob("*.tar"))
    bare = [{name: value for name, value in sample.items() if name != "json"} for sample in samples]
    for stream in (samples, bare):
        segments = list(ws.ParseSamples(style=STYLE, num_classes=3)(stream))
        assert [segment.coding[1] for segment in segments] == ["yuv420p", "yuv420p", "yuv444p"]
        stage = Decode(size=(24, 32))
        assert len(list(stage(segments))) == stage.decoded_by["cpu h264"] == 3


def test_what_knows_nothing_of_itself_is_counted_by_who_decodes_it(shards):
    (segment, *_) = segments_of(make_loader(shards))
    object.__setattr__(segment, "coding", ("", ""))
    stage = Decode()
    assert len(list(stage([segment]))) == stage.decoded_by["cpu"] == 1


# --- routes on a GPU that is none -------------------------------------------------------------------------------------


def segments_of(loader):
    return list(ReadPlanned(loader.index, loader.style)(loader.plan().segments(loader.share())))


@pytest.fixture
def gpu(monkeypatch):
    """A "GPU" that holds shapes and no pixels; NVDEC takes 4:2:0, and loses what `lose` names. Gives who decoded."""
    decoded = []

    def as_nvdec(data, frames, table, *, device, convert):
        decoded.append(device)
        for number, result in decode(data, frames, table, device=CPU, convert=convert):
            yield number, gpu_lost if device == META and number in gpu_lost else result

    gpu_lost = Lost()
    monkeypatch.setattr(routes, "decode", as_nvdec)
    monkeypatch.setattr(routes, "FullSize", lambda device: FullSize(CPU))
    monkeypatch.setattr(routes, "_own_stream", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(routes, "_numbered", lambda name: META)
    monkeypatch.setattr(routes, "nvdec_takes", lambda data, device, kind: kind[1] == "yuv420p")
    nvdec.warn_once.cache_clear()
    yield decoded, gpu_lost
    nvdec.warn_once.cache_clear()


class Lost(ws.VideoError):
    """The error of frames that the "GPU" loses."""

    def __init__(self):
        super().__init__("lost on purpose")
        self.numbers = set()

    def __contains__(self, number):
        return number in self.numbers


def test_each_video_goes_its_way_and_is_counted(shards, gpu):
    loader = make_loader(shards)
    segments = segments_of(loader)
    counts = Counter()
    stage = make_decode(STYLE, (24, 32), resize="swscale", threads=2, device="cuda", decoded_by=counts)
    for encoded, decoded in zip(segments, stage(segments), strict=True):
        assert decoded.frames.device == decoded.places.device == META
        assert decoded.frames.shape[1:] == (3, 24, 32)
        assert decoded.places.shape == encoded.windows.frames.shape
        assert not decoded.problems
    number = Counter(segment.coding[1] for segment in segments)
    assert counts == {"nvdec h264": number["yuv420p"], "cpu h264 yuv444p": number["yuv444p"]}
    assert Counter(gpu[0]) == {META: number["yuv420p"], CPU: number["yuv444p"]}


@pytest.mark.parametrize("resize", ["swscale", "torchvision"])
def test_what_goes_the_cpu_way_is_scaled_before_it_is_uploaded(shards, gpu, monkeypatch, resize):
    loader = make_loader(shards, resize=resize)
    segment = next(segment for segment in segments_of(loader) if segment.coding[1] == "yuv444p")
    right = make_decode(STYLE, (24, 32), resize=resize, threads=1, device="cpu").decode_segment(segment)
    uploaded = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: uploaded.append(tensor) or tensor)
    stage = make_decode(STYLE, (24, 32), resize=resize, threads=1, device="cuda")
    decoded = stage.decode_segment(segment, META)
    assert torch.equal(decoded.frames, right.frames)
    assert sum(tensor.dtype == torch.uint8 for tensor in uploaded) == 1


def test_what_nvdec_loses_is_decoded_on_the_cpu_and_said(shards, gpu, caplog):
    decoded, lost = gpu
    loader = make_loader(shards)
    segment = segments_of(loader)[0]
    lost.numbers = {int(segment.windows.frames[0, 0])}
    stage = make_decode(STYLE, (24, 32), resize="swscale", threads=1, device="cuda")
    (result,) = stage([segment])
    assert decoded == [META, CPU]
    assert stage.decoded_by == {"cpu h264 after nvdec": 1}
    assert not result.problems
    (record,) = caplog.records
    assert segment.windows.key in record.message
    assert "lost on purpose" in record.message


def test_what_is_known_to_be_lost_is_not_looked_for_on_the_cpu(shards, gpu):
    decoded, _ = gpu
    segment = segments_of(make_loader(shards))[0]
    first = int(segment.windows.frames[0, 0])

    object.__setattr__(segment.table, "lost", np.asarray([[first, first + 1]]))
    stage = make_decode(STYLE, (24, 32), resize="swscale", threads=1, device="cuda")
    (result,) = stage([segment])
    assert decoded == [META]
    assert stage.decoded_by == {"nvdec h264": 1}
    assert 0 in result.problems


def test_a_clip_of_the_cpu_asks_nothing_of_cuda(shards):
    (segment, *_) = make_decode(STYLE, None, resize="swscale", threads=1, device="cpu")(
        segments_of(make_loader(shards))
    )
    assert isinstance(segment, DecodedSegment)
    assert segment.clip(0).frames.shape == (4, 3, 48, 64)
