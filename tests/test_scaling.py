"""Frames scaled by libswscale: near torchvision's antialiased resize, of every kind and size, within their memory."""

import ctypes
import pickle
import threading
from itertools import islice

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import resize

from wildstream import scaling
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.scaling import FrameKind, ScaleFrames, Scaler, ScaleRun

ensure_ffmpeg()
import av  # noqa: E402
from torchcodec.decoders import ColorConverter, Demuxer  # noqa: E402 - once FFmpeg is there

REAL = (
    *("armwrestle.mp4", "cars.mp4", "dance.mp4", "flies_120s.mp4", "flies_pair.mp4", "mm_test.avi", "mm_test.mp4"),
    *("mouse_openfield.mp4", "nasa.mp4", "people_one_by_one.mp4", "robot.mp4"),
)


def raw_frames(path, count, *, every=1):
    """Frames as the decoder gives them."""
    demuxer = Demuxer(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8))
    decoder = demuxer.streams[0].make_decoder("cpu")
    frames = (frame for packet in demuxer for frame in decoder.decode(packet))
    return list(islice(frames, 0, count * every, every))


def reference(frame, height, width):
    """Full-size RGB, then antialiased bilinear resize."""
    return resize(ColorConverter(device="cpu").convert(frame).data, [height, width], antialias=True)


def scaled(frame, height, width):
    out = torch.full((3, height, width), 77, dtype=torch.uint8)
    ScaleFrames(height, width)(frame, out)
    return out


def difference(frame, height, width):
    """Mean absolute difference in grey levels."""
    return float((scaled(frame, height, width).float() - reference(frame, height, width).float()).abs().mean())


@pytest.mark.parametrize("name", REAL)
def test_real_footage_is_within_one_and_a_half_grey_levels(shared_data, name):
    frames = raw_frames(shared_data / "originals" / name, 5, every=12)
    assert sum(difference(frame, 224, 224) for frame in frames) / len(frames) < 1.5
    assert sum(difference(frame, 112, 112) for frame in frames) / len(frames) < 2.0


@pytest.mark.parametrize(
    "name",
    ["bt709_full_range.mp4", "rotated_90.mov", "rotated_180.mov", "odd_size.mp4", "h265.mp4", "vp9.webm", "av1.mkv"],
)
def test_colours_and_orientation(shared_data, name):
    """Test patterns have sharp, saturated edges, where chroma of half the size shows; their areas must be right."""
    frame = raw_frames(shared_data / "edge" / name, 1)[0]
    height, width = (48, 64) if "90" not in name else (64, 48)
    ours, theirs = scaled(frame, height, width).float(), reference(frame, height, width).float()
    # Averaged over tiles of 8 × 8, which no edge of half-size chroma survives.
    tiles = torch.nn.functional.avg_pool2d(ours - theirs, 8).abs()
    assert float(tiles.mean()) < 3.0
    for wrong in (theirs.flip(1), theirs.flip(2), theirs.flip(0)):
        if float((wrong - theirs).abs().mean()) > 5:
            assert float((ours - wrong).abs().mean()) > float((ours - theirs).abs().mean())


@pytest.mark.parametrize("high_depth", ["h264_10bits.mp4", "h265_10bits.mp4"])
def test_ten_bits(shared_data, high_depth):
    frame = raw_frames(shared_data / "edge" / high_depth, 1)[0]
    assert frame.bit_depth == 10
    ours, theirs = scaled(frame, 96, 96).float(), reference(frame, 96, 96).float()
    assert float(torch.nn.functional.avg_pool2d(ours - theirs, 8).abs().mean()) < 3.0


@pytest.mark.parametrize("height", [1, 2, 31, 112, 225, 300])
@pytest.mark.parametrize("width", [1, 7, 16, 33, 144, 150, 223, 400])
def test_every_size_to_its_last_column_and_row(shared_data, height, width):
    frame = raw_frames(shared_data / "originals/nasa.mp4", 1)[0]
    ours, theirs = scaled(frame, height, width).float(), reference(frame, height, width).float()
    difference = (ours - theirs).abs()
    limit = 12 + 3 * float(difference.mean())
    assert float(difference.mean((0, 1)).max()) < limit, "a column is wrong"
    assert float(difference.mean((0, 2)).max()) < limit, "a row is wrong"


def random_planes(height, width, seed=0):
    """Planes of a 4:2:0 frame, of noise."""
    generator = torch.Generator().manual_seed(seed)
    half = ((height + 1) // 2, (width + 1) // 2)
    return [
        torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for size in ((height, width), half, half)
    ]


@pytest.mark.parametrize(
    ("source", "size"),
    [((90, 160), (h, w)) for h in (15, 16, 31, 64, 112) for w in (16, 17, 31, 48, 80, 97, 112, 144, 240)]
    + [((720, 1280), (224, 224)), ((33, 47), (224, 208)), ((200, 200), (200, 200))],
)
def test_nothing_is_written_beside_the_target(source, size):
    kind = FrameKind(source[1], source[0], "yuv420p", "bt709", full_range=False)
    scaler = Scaler(kind, *size)
    guarded = []
    for number, plane in enumerate(scaler._small):
        around = torch.full((plane.numel() + 512,), 99, dtype=torch.uint8)
        guarded.append(around)
        scaler._small[number] = around[256:-256].view(plane.shape).zero_()
    scaler._between = scaling._Places(scaler._small)
    count = 3 * size[0] * size[1]
    around = torch.full((count + 512,), 99, dtype=torch.uint8)
    guarded.append(around)
    # As the frames of a segment lie: sixteen bytes apart from round addresses at most.
    scaler(random_planes(*source), around[256:-256].view(3, *size))
    for memory in guarded:
        assert memory[:256].eq(99).all()
        assert memory[-256:].eq(99).all()


def test_matrix_and_range_follow_the_frame():
    """One colour in YUV is three colours in RGB, by what the frame says of itself; figures of BT.601 and BT.709."""
    planes = [
        torch.full((32, 32), 120, dtype=torch.uint8),
        torch.full((16, 16), 90, dtype=torch.uint8),
        torch.full((16, 16), 200, dtype=torch.uint8),
    ]

    def colour(color_space, full_range, size=(16, 16)):
        out = torch.empty((3, *size), dtype=torch.uint8)
        Scaler(FrameKind(32, 32, "yuv420p", color_space, full_range), *size)(planes, out)
        assert out.flatten(1).float().std(1).max() == 0
        return out[:, 0, 0].tolist()

    def expected(red_weight, blue_weight, full_range):
        luma = 120 if full_range else (120 - 16) * 255 / 219
        scale = 1 if full_range else 255 / 224
        red = luma + 2 * (1 - red_weight) * (200 - 128) * scale
        blue = luma + 2 * (1 - blue_weight) * (90 - 128) * scale
        green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
        return [red, green, blue]

    for color_space, weights in (
        ("bt709", (0.2126, 0.0722)),
        ("smpte170m", (0.299, 0.114)),
        ("unknown", (0.299, 0.114)),
    ):
        for full_range in (False, True):
            for size in ((16, 16), (15, 15), (4, 4)):
                found = colour(color_space, full_range, size)
                assert found == pytest.approx(expected(*weights, full_range), abs=2.5), (color_space, full_range)


def test_threads_scale_for_themselves(shared_data):
    frames = raw_frames(shared_data / "originals/dance.mp4", 8)
    scale = ScaleFrames(96, 128)
    alone = [scaled(frame, 96, 128) for frame in frames]
    wrong = []

    def work():
        for _ in range(20):
            for frame, expected in zip(frames, alone, strict=True):
                out = torch.empty((3, 96, 128), dtype=torch.uint8)
                scale(frame, out)
                if not torch.equal(out, expected):
                    wrong.append(frame.pts_seconds)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_many_kinds_of_frames(shared_data):
    """More kinds than a thread keeps scalers for."""
    scale = ScaleFrames(48, 48)
    frames = [raw_frames(path, 1)[0] for path in sorted((shared_data / "originals").glob("*.mp4"))]
    for _ in range(2):
        for frame in frames:
            out = torch.empty((3, 48, 48), dtype=torch.uint8)
            scale(frame, out)
            assert torch.equal(out, scaled(frame, 48, 48))


def test_a_scaler_crosses_processes_without_its_contexts():
    copy = pickle.loads(pickle.dumps(ScaleFrames(5, 6)))  # noqa: S301 - as worker processes do
    assert (copy.height, copy.width) == (5, 6)


def long_way(frame, height, width):
    """As `scaled`, but known not to take the short cut."""
    out = torch.empty((3, height, width), dtype=torch.uint8)
    ScaleFrames(height, width)(frame, out)
    return out


@pytest.mark.parametrize("size", [(96, 128), (224, 224), (50, 70), (33, 31)])
def test_a_run_scales_as_each_frame_by_itself(shared_data, size):
    """Also where the video changes in the middle, and where its size or format cannot take the short cut."""
    frames = [
        *raw_frames(shared_data / "originals/dance.mp4", 5),
        *raw_frames(shared_data / "originals/nasa.mp4", 3),
        *raw_frames(shared_data / "originals/mouse_openfield.mp4", 3),
        *raw_frames(shared_data / "edge/h264_10bits.mp4", 2),
        *raw_frames(shared_data / "edge/rotated_90.mov", 2),
        *raw_frames(shared_data / "originals/dance.mp4", 2),
    ]
    out = torch.zeros((len(frames), 3, *size), dtype=torch.uint8)
    run = ScaleRun(ScaleFrames(*size), out)
    for row, frame in enumerate(frames):
        run(frame, row, may_differ=False)
    for row, frame in enumerate(frames):
        assert torch.equal(out[row], long_way(frame, *size)), row


def test_the_short_cut_is_taken(shared_data, monkeypatch):
    frames = raw_frames(shared_data / "originals/dance.mp4", 4)
    run = ScaleRun(ScaleFrames(96, 128), torch.zeros((4, 3, 96, 128), dtype=torch.uint8))
    run(frames[0], 0, may_differ=True)
    monkeypatch.setattr(ScaleFrames, "__call__", lambda *_: pytest.fail("the long way"))
    run(frames[1], 1, may_differ=False)
    with pytest.raises(pytest.fail.Exception, match="the long way"):
        run(frames[2], 2, may_differ=True)


def test_a_frame_that_lies_elsewhere_goes_the_long_way(shared_data, monkeypatch):
    """As if torchcodec's handle did not point to FFmpeg's frame any more."""
    frames = raw_frames(shared_data / "originals/dance.mp4", 4)
    monkeypatch.setattr(scaling, "_AVFrame", _Elsewhere)
    out = torch.zeros((4, 3, 96, 128), dtype=torch.uint8)
    run = ScaleRun(ScaleFrames(96, 128), out)
    for row, frame in enumerate(frames):
        run(frame, row, may_differ=False)
        assert torch.equal(out[row], long_way(frame, 96, 128))
    assert run._scaler is None


class _Elsewhere(ctypes.Structure):
    """An AVFrame that begins with its size."""

    _fields_ = (
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("data", ctypes.c_void_p * 8),
        ("linesize", ctypes.c_int * 8),
        ("format", ctypes.c_int),
    )


@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "bgr0"), ("ffv1", "gray"), ("ffv1", "yuv410p")])
def test_other_formats_are_converted_first(tmp_path, codec, pixels):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        pixels_of = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels_of, "rgb24").reformat(format=pixels)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    (frame,) = raw_frames(path, 1)
    assert torch.equal(scaled(frame, 24, 40), reference(frame, 24, 40))


def test_frames_of_the_right_size_are_not_touched(shared_data):
    for name in ("originals/nasa.mp4", "edge/rotated_90.mov", "edge/odd_size.mp4"):
        frame = raw_frames(shared_data / name, 1)[0]
        full = ColorConverter(device="cpu").convert(frame).data
        assert torch.equal(scaled(frame, *full.shape[-2:]), full)
