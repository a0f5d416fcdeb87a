"""On an NVIDIA GPU: NVDEC's frames are those of the CPU, they stay there, and what NVDEC does not take is counted."""

import ctypes
import gc
import json
from pathlib import Path

import pytest
import torch
from conftest import moving_pattern, read_tensor, tiny_rows, write_rows, write_video
from tiny import frames_shards, history, tiny_config

import wildstream as ws
from wildstream.stream import decode as routes
from wildstream.stream.patches import Tile
from wildstream.stream.segments import ReadPlanned
from wildstream.stream.transforms import Resize
from wildstream.training.run import train

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
]

STYLE = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=4)
FRAMES, HEIGHT, WIDTH = 60, 192, 256  # NVDEC takes nothing smaller than 144 pixels of some codecs
MB = 1 << 20


@pytest.fixture(scope="module")
def nvdec():
    """Whether there is NVDEC at all: a container may have a GPU and not the library."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        pytest.skip("libnvcuvid.so.1 is not found; in a container set NVIDIA_DRIVER_CAPABILITIES=all")


def pack_videos(root, pixels, *, harm=None):
    """Shards of a video for each pixel format named; `harm` is done to the file of the first."""
    (root / "in").mkdir()
    (root / "in" / "categories.json").write_text(json.dumps(["left", "right", "never"]))
    for number, name in enumerate(pixels):
        video = root / "in" / "train" / f"v{number}" / f"v{number}.mp4"
        write_video(video, moving_pattern(number, FRAMES, HEIGHT, WIDTH), pixels=name)
        if harm is not None and number == 0:
            video.write_bytes(harm(read_tensor(video)).numpy().tobytes())
        write_rows(video.with_suffix(".tsv"), tiny_rows(number, FRAMES))
    ws.pack(root / "in", root / "out", format="frames", progress=False)
    return root / "out" / "train"


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Three videos as almost all are: H.264, 4:2:0, 8 bits."""
    return pack_videos(tmp_path_factory.mktemp("usual"), ["yuv420p"] * 3)


def make_loader(shards, device="cuda", **options):
    dataset = ws.DatasetBuilder(path=shards, style=STYLE).build()
    defaults = {"batch_size": 4, "segment_frames": 20, "num_workers": 2, "shuffle": True, "lanes": 4}
    return dataset.loader(device=device, **{**defaults, **options})


def assert_near(batches, expected):
    """The same windows, and pixels as near as two ways to make RGB of 4:2:0 are."""
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys == other.keys
        assert torch.equal(batch.starts, other.starts)
        assert torch.equal(batch.mask, other.mask)
        difference = (batch.frames.cpu().to(torch.int16) - other.frames.to(torch.int16)).abs().float()
        assert difference.mean() < 1
        assert (difference <= 3).float().mean() > 0.99


def assert_equal(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys == other.keys
        assert torch.equal(batch.starts, other.starts)
        assert torch.equal(batch.frames.cpu(), other.frames.cpu())


def fallback(path):
    """What torchcodec says of a file."""
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(read_tensor(path), device="cuda").cpu_fallback


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "resize"), [(None, "swscale"), (96, "torchvision"), ((80, 112), "torchvision")])
def test_nvdec_gives_what_the_cpu_gives_and_it_stays_on_the_gpu(nvdec, usual, size, resize):
    loader = make_loader(usual, size=size, resize=resize)
    batches = list(loader)
    assert all(batch.frames.is_cuda and batch.frames.dtype == torch.uint8 for batch in batches)
    assert_near(batches, list(make_loader(usual, "cpu", size=size, resize=resize)))
    assert loader.decoded_by == {"nvdec h264": loader.footprint().num_segments}
    assert loader.ledger.num_skipped == 0


def test_patches_are_cut_and_resized_on_the_gpu(nvdec, usual):
    style = ws.SlidingStyle(
        window_size=8, samples_per_window=4, step_size=4, patch_type="absolute", patch_h=96, patch_w=128
    )
    loaders = [
        ws.DatasetBuilder(path=usual, style=style).build().loader(batch_size=4, size=64, device=device)
        for device in ("cuda", "cpu")
    ]
    batches = list(loaders[0])
    assert all(batch.frames.is_cuda and batch.frames.ndim == 6 for batch in batches)
    assert_near(batches, list(loaders[1]))


def test_torchcodec_does_not_fall_back_for_h264(nvdec, usual):
    status = fallback(usual.parents[1] / "in" / "train" / "v0" / "v0.mp4")
    assert status.status_known
    assert not status


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv420p10le", "yuv422p"])
@pytest.mark.parametrize(("size", "resize"), [(None, "swscale"), (96, "swscale"), (96, "torchvision")])
def test_what_nvdec_does_not_take_goes_the_cpu_way_and_is_counted(nvdec, tmp_path, pixels, size, resize):
    shards = pack_videos(tmp_path, [pixels])
    falls_back = bool(fallback(tmp_path / "in" / "train" / "v0" / "v0.mp4"))
    if pixels == "yuv444p":
        assert falls_back  # no NVDEC decodes H.264 4:4:4; some take 10 bits, or 4:2:2
    loader = make_loader(shards, size=size, resize=resize)
    batches = list(loader)
    expected = list(make_loader(shards, "cpu", size=size, resize=resize))
    assert all(batch.frames.is_cuda for batch in batches)
    number = loader.footprint().num_segments
    if falls_back:
        assert loader.decoded_by == {f"cpu h264 {pixels}": number}
        assert_equal(batches, expected)
    else:
        assert loader.decoded_by == {"nvdec h264": number}


def test_a_mixture_goes_both_ways(nvdec, tmp_path):
    loader = make_loader(pack_videos(tmp_path, ["yuv420p", "yuv444p", "yuv420p"]), size=96)
    assert all(batch.frames.is_cuda for batch in loader)
    assert set(loader.decoded_by) == {"nvdec h264", "cpu h264 yuv444p"}
    assert loader.decoded_by.total() == loader.footprint().num_segments


def test_a_gpu_without_nvdec_is_fed_by_the_cpu(usual, monkeypatch):
    monkeypatch.setattr(routes, "nvdec_takes", lambda data, device, kind: False)
    loader = make_loader(usual, size=96)
    batches = list(loader)
    assert all(batch.frames.is_cuda for batch in batches)
    assert_equal(batches, list(make_loader(usual, "cpu", size=96)))
    assert loader.decoded_by == {"cpu h264 yuv420p": loader.footprint().num_segments}


# --- threads and streams ----------------------------------------------------------------------------------------------


def test_one_thread_and_three_give_the_same(usual):
    one, three = (list(make_loader(usual, size=96, num_workers=threads)) for threads in (1, 3))
    assert_equal(one, three)


@pytest.mark.parametrize("own_stream", [False, True])
def test_frames_are_whole_on_whatever_stream_they_are_gathered_however_busy_it_is(usual, own_stream):
    expected = [batch.to("cpu") for batch in make_loader(usual, size=96)]
    stream = torch.cuda.Stream() if own_stream else torch.cuda.current_stream()
    for _ in range(3):  # in the later ones memory is used again
        found = []
        with torch.cuda.stream(stream):
            batches = iter(make_loader(usual, size=96))
            for _ in expected:
                torch.cuda._sleep(20_000_000)  # ten milliseconds, behind which the gathering stands
                found.append(next(batches))
            batches.close()
        torch.cuda.synchronize()
        assert_equal(found, expected)


def test_the_device_is_the_one_that_is_current_where_the_loader_is_read(usual):
    last = torch.cuda.device_count() - 1
    with torch.cuda.device(last):
        assert {batch.frames.device for batch in make_loader(usual, size=96)} == {torch.device("cuda", last)}


def test_nothing_waits_for_the_gpu_or_copies_to_the_host_in_resizing_tiling_and_gathering(usual):
    frames = torch.randint(0, 256, (8, 3, HEIGHT, WIDTH), dtype=torch.uint8, device="cuda")
    loader = make_loader(usual, size=96)
    stage = routes.Decode(size=(96, 96), device="cuda")
    source = ReadPlanned(loader.index, loader.style)
    decoded = list(stage(source(loader.plan().segments(loader.share()))))
    clips = [segment.clip(0) for segment in decoded]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        small = Resize(height=96, width=112)(frames)
        tiles = Tile(patch_type="absolute", patch_h=96, patch_w=128)(frames)
        batches = list(ws.Batches(size=2)(clips))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert small.is_cuda
    assert tiles.is_cuda
    assert all(batch.frames.is_cuda for batch in batches)


# --- damage and memory ------------------------------------------------------------------------------------------------


def test_damage_known_since_packing_is_skipped_and_counted(nvdec, tmp_path):
    from test_damage import damage

    shards = pack_videos(tmp_path, ["yuv420p"] * 2, harm=lambda data: damage(data, 14))
    ours, cpu = make_loader(shards, max_skipped=1.0), make_loader(shards, "cpu", max_skipped=1.0)
    assert_near(list(ours), list(cpu))
    assert ours.ledger.num_skipped == cpu.ledger.num_skipped > 0
    assert ours.ledger.skipped == cpu.ledger.skipped
    assert set(ours.decoded_by) == {"nvdec h264"}  # the seek goes around it


def test_damage_since_packing_is_skipped_and_counted_as_on_the_cpu(nvdec, tmp_path):
    from test_damage import damage

    shards = pack_videos(tmp_path, ["yuv420p"] * 2)
    loader = make_loader(shards, max_skipped=1.0)
    path, offset, size = loader.index.place(0)
    path = Path(path)
    whole = bytearray(path.read_bytes())
    harmed = damage(torch.frombuffer(whole[offset : offset + size], dtype=torch.uint8), 14)
    whole[offset : offset + size] = harmed.numpy().tobytes()
    path.write_bytes(whole)
    cpu = make_loader(shards, "cpu", max_skipped=1.0)
    assert_near(list(loader), list(cpu))
    assert loader.ledger.skipped == cpu.ledger.skipped
    assert loader.ledger.num_skipped > 0
    assert loader.decoded_by["cpu h264 after nvdec"] > 0
    assert loader.decoded_by["nvdec h264"] > 0


def test_memory_does_not_grow_over_epochs(usual):
    loader = make_loader(usual, size=96, num_workers=3)

    def epochs(number):
        for _ in range(number):
            loader.set_epoch(loader.epoch + 1)
            for batch in loader:
                del batch
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    gc.collect()
    torch.cuda.empty_cache()
    epochs(10)
    allocated, reserved = epochs(1)
    more_allocated, more_reserved = epochs(30)
    assert more_allocated <= allocated + MB
    assert more_reserved <= 1.25 * reserved + 4 * MB


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_training_on_the_gpu_goes_on_where_it_was_left(tmp_path_factory, tmp_path, precision):
    shards = frames_shards(tmp_path_factory)
    options = ("trainer.epochs=3", f"trainer.precision={precision}", "trainer.sync_bn=true", "augment=strong")
    run = train(tiny_config(shards, tmp_path / "run", *options))
    assert all(line["train"]["gpu_memory_bytes"] > 0 for line in history(run))
    again = train(tiny_config(shards, tmp_path / "run", *options, "trainer.resume=auto"))
    assert history(again) == history(run)
