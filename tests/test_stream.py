"""The stream as a whole: frames, labels and addresses of real videos against a sequential decode of the whole file."""

import io
import json
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from torchvision.transforms.v2.functional import resize

import wildstream as ws
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.fishtank import make_fishtank
from wildstream.scaling import ScaleFrames
from wildstream.stream.decode import Decode

ensure_ffmpeg()
from torchcodec.decoders import VideoDecoder  # noqa: E402 - after FFmpeg is there

CLIP = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=3, tolerance_region=2, temporal_sample_interval=2)


@pytest.fixture(scope="module")
def tank(tmp_path_factory):
    """A few small videos with labels, packed: the folder of videos, and the folder of shards."""
    root = tmp_path_factory.mktemp("tank")
    make_fishtank(root / "videos", videos={"train": 3, "val": 1}, frames=90, size=(48, 64))
    ws.pack(root / "videos", root / "shards", format="frames", shard_bytes=20_000, progress=False)
    return root / "videos", root / "shards"


def sequential_frames(path: Path) -> torch.Tensor:
    """All frames of a video, decoded from the first to the last: (N, C, H, W) uint8."""
    decoder = VideoDecoder(str(path))
    return torch.stack([decoder[n] for n in range(len(decoder))])


def expected_windows(source: Path, index: ws.Index, style: ws.SlidingStyle):
    """(key, start) → frames and label of every window, from the source files alone."""
    expected = {}
    for video, key in enumerate(index.keys):
        path = next(source.rglob(f"{key}.[ma][pv][4i]"))
        frames = sequential_frames(path)
        rows = np.loadtxt(path.with_suffix(".tsv"), delimiter="\t", dtype=int, ndmin=2).astype(bool)
        windows = np.arange(int(style.num_windows(len(frames))))
        for start, used, counted in zip(
            style.starts(windows).tolist(),
            style.frames(windows, len(frames)),
            style.label_frames(windows, len(frames)),
            strict=True,
        ):
            expected[index.keys[video], start] = (frames[used], rows[counted].any(axis=0))
    return expected


def collect(batches):
    """(key, start) → frames and label, of all batches; a window twice is an error."""
    found = {}
    for batch in batches:
        assert batch.labels.dtype == torch.bool
        assert batch.starts.dtype == torch.int64
        for n, (key, start) in enumerate(zip(batch.keys, batch.starts.tolist(), strict=True)):
            if not batch.mask[n]:
                continue
            assert (key, start) not in found, "a window came twice"
            found[key, start] = (None if batch.frames is None else batch.frames[n], batch.labels[n].numpy())
    return found


def assert_same(found, expected):
    assert set(found) == set(expected)
    for address, (frames, label) in expected.items():
        assert torch.equal(found[address][0], frames), f"other pixels in {address}"
        assert (found[address][1] == label).all(), f"other label in {address}"


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("style", [CLIP, "frames", "sliding_window_w_temp", "test_sliding_window"])
def test_every_window_of_real_files_equals_a_sequential_decode(tank, style, shuffle):
    source, shards = tank
    dataset = ws.DatasetBuilder(path=shards / "train", style=style).build()
    loader = dataset.loader(batch_size=7, shuffle=shuffle, seed=1, segment_frames=20, lanes=6)
    found = collect(loader)
    assert len(found) == len(dataset)
    assert_same(found, expected_windows(source / "train", dataset.index, dataset.style))


def test_windows_of_shared_behaviour_videos_equal_a_sequential_decode(shared_data, tmp_path):
    ws.pack(shared_data / "behaviour", tmp_path, format="frames", splits=["val"], progress=False)
    dataset = ws.DatasetBuilder(path=tmp_path / "val", style="sliding_window").build()
    found = collect(dataset.loader(batch_size=4, shuffle=True, size=None) if one_size(dataset) else [])
    if not found:  # videos of several sizes: one by one
        found = collect(dataset.loader(batch_size=1, shuffle=True))
    assert_same(found, expected_windows(shared_data / "behaviour" / "val", dataset.index, dataset.style))


def one_size(dataset) -> bool:
    return len({dataset.index.frame_size(video) for video in range(len(dataset.index))}) == 1


def test_batches_have_the_promised_shapes(tank):
    dataset = ws.DatasetBuilder(path=tank[1] / "train", style=CLIP).build()
    loader = dataset.loader(batch_size=8, size=(32, 40))
    batches = list(loader)
    assert len(batches) == len(loader) == -(-len(dataset) // 8)
    for batch in batches:
        assert batch.frames.shape == (8, 4, 3, 32, 40)
        assert batch.frames.dtype == torch.uint8
        assert batch.labels.shape == (8, len(dataset.categories))
        assert len(batch) == len(batch.keys) == len(batch.starts) == len(batch.mask) == 8
    assert sum(int(batch.mask.sum()) for batch in batches) == len(dataset)
    assert all(batch.mask.all() for batch in batches[:-1])


def test_unshuffled_windows_come_in_order_of_key_and_start(tank):
    dataset = ws.DatasetBuilder(path=tank[1] / "train", style=CLIP).build()
    addresses = [
        (key, start)
        for batch in dataset.loader(batch_size=5, size=16)
        for key, start, real in zip(batch.keys, batch.starts.tolist(), batch.mask.tolist(), strict=True)
        if real
    ]
    assert addresses == sorted(addresses)
    videos, starts = dataset.addresses()
    assert addresses == [(dataset.index.keys[v], s) for v, s in zip(videos.tolist(), starts.tolist(), strict=True)]


def test_labels_of_the_dataset_are_those_of_the_batches_and_need_no_shard(tank, tmp_path):
    dataset = ws.DatasetBuilder(path=tank[1] / "train", style=CLIP).build()
    labels = dataset.labels()
    assert labels.shape == (len(dataset), len(dataset.categories))
    assert (torch.cat([batch.labels[batch.mask] for batch in dataset.loader(batch_size=5)]).numpy() == labels).all()
    for name in ("index.parquet", "dataset.json"):
        (tmp_path / name).write_bytes((tank[1] / "train" / name).read_bytes())
    bare = ws.DatasetBuilder(path=tmp_path, style=CLIP, only_labels=True).build()
    batches = list(bare.loader(batch_size=5, shuffle=True))
    assert all(batch.frames is None for batch in batches)
    found = {address: label.tolist() for address, (_, label) in collect(batches).items()}
    videos, starts = bare.addresses()
    keys = [bare.index.keys[video] for video in videos]
    assert found == {(k, s): row for k, s, row in zip(keys, starts.tolist(), labels.tolist(), strict=True)}


def test_ranks_share_the_windows_and_get_equally_many_batches(tank):
    dataset = ws.DatasetBuilder(path=tank[1] / "train", style=CLIP).build()
    parts, lengths = {}, set()
    for rank in range(3):
        batches = list(dataset.loader(batch_size=4, shuffle=True, size=16, rank=rank, world_size=3))
        lengths.add(len(batches))
        part = collect(batches)
        assert not set(parts) & set(part)
        parts |= part
    assert len(parts) == len(dataset)
    assert len(lengths) == 1


def test_the_same_seed_gives_the_same_batches_and_another_epoch_other_ones(tank):
    dataset = ws.DatasetBuilder(path=tank[1] / "train", style=CLIP).build()

    def order(epoch, threads):
        loader = dataset.loader(batch_size=4, shuffle=True, seed=5, size=16, num_workers=threads)
        loader.set_epoch(epoch)
        return [(batch.keys, batch.starts.tolist(), batch.frames.sum().item()) for batch in loader]

    assert order(0, 1) == order(0, 4)
    assert order(0, 1) != order(1, 1)


def test_each_needed_frame_of_a_segment_is_decoded_once(tank, monkeypatch):
    import wildstream.stream.decode as stage

    decoded = []
    original = stage.decode

    def counting(data, frames, *rest, **options):
        decoded.append(len(frames))
        return original(data, frames, *rest, **options)

    monkeypatch.setattr(stage, "decode", counting)
    style = ws.SlidingStyle(window_size=16, samples_per_window=16, step_size=1)
    dataset = ws.DatasetBuilder(path=tank[1] / "train", style=style).build()
    list(dataset.loader(batch_size=8, segment_frames=1000, size=16))
    assert decoded == [90, 90, 90]  # not 90 windows of 16


def test_leaving_early_ends_the_threads(tank):
    import threading

    dataset = ws.DatasetBuilder(path=tank[1] / "train", style=CLIP).build()
    before = threading.active_count()
    iterator = iter(dataset.loader(batch_size=2, shuffle=True, num_workers=2))
    next(iterator)
    del iterator
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == before


def test_patches_are_tiles_of_the_frame(tank):
    style = ws.SlidingStyle(
        window_size=2, samples_per_window=2, step_size=20, padding="none", patch_type="absolute", patch_h=32, patch_w=32
    )
    dataset = ws.DatasetBuilder(path=tank[1] / "val", style=style).build()
    whole = ws.DatasetBuilder(
        path=tank[1] / "val",
        style=ws.SlidingStyle(window_size=2, samples_per_window=2, step_size=20, padding="none"),
    ).build()
    for tiled, frames in zip(dataset.loader(batch_size=3), whole.loader(batch_size=3), strict=True):
        assert tiled.frames.shape == (3, 2, 4, 3, 32, 32)
        padded = torch.nn.functional.pad(frames.frames, (0, 0, 0, 16))
        for row in range(2):
            for column in range(2):
                tile = padded[..., 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
                assert torch.equal(tiled.frames[:, :, 2 * row + column], tile)
    resized = next(iter(dataset.loader(batch_size=1, size=8)))
    assert resized.frames.shape == (1, 2, 4, 3, 8, 8)


@pytest.mark.parametrize(("patch_h", "patch_w", "height", "width"), [(2, 3, 50, 64), (1, 2, 7, 9), (4, 4, 16, 16)])
def test_a_grid_has_as_many_tiles_as_it_says(patch_h, patch_w, height, width):
    frames = torch.randint(0, 256, (5, 3, height, width), dtype=torch.uint8)
    tiles = ws.Tile(patch_type="relative", patch_h=patch_h, patch_w=patch_w)(frames)
    h, w = -(-height // patch_h), -(-width // patch_w)
    assert tiles.shape == (5, patch_h * patch_w, 3, h, w)
    rows = [torch.cat([tiles[:, r * patch_w + c] for c in range(patch_w)], dim=-1) for r in range(patch_h)]
    whole = torch.cat(rows, dim=-2)
    assert torch.equal(whole[..., :height, :width], frames)
    assert not whole[..., height:, :].any()
    assert not whole[..., width:].any()


def test_resizing_is_the_antialiased_resize_of_the_whole_frame(tank):
    source, shards = tank
    dataset = ws.DatasetBuilder(path=shards / "val", style="frames_w_temp").build()
    batch = next(iter(dataset.loader(batch_size=4, size=(24, 30), resize="torchvision")))
    frames = sequential_frames(next((source / "val").rglob("*.mp4")))[:4]
    assert torch.equal(batch.frames[:, 0], resize(frames, [24, 30], antialias=True))


def test_scaling_is_that_of_each_frame_by_itself(tank):
    """By default libswscale scales; how near that is to torchvision's, tests/test_scaling.py has for real footage."""
    from torchcodec.decoders import Demuxer

    source, shards = tank
    dataset = ws.DatasetBuilder(path=shards / "val", style="frames_w_temp").build()
    path = next((source / "val").rglob("*.mp4"))
    demuxer = Demuxer(path)
    decoder = demuxer.streams[0].make_decoder("cpu")
    raw = [frame for packet in demuxer for frame in decoder.decode(packet)][:40]
    for size in ((24, 30), (33, 47)):
        rows = [
            batch.frames[row, 0]
            for batch in dataset.loader(batch_size=4, size=size, segment_frames=7)
            for row in range(len(batch))
            if batch.keys[row] == path.stem
        ]
        assert len(rows) >= len(raw) > 30
        for frame, row in zip(raw, rows, strict=False):
            out = torch.empty((3, *size), dtype=torch.uint8)
            ScaleFrames(*size)(frame, out)
            assert torch.equal(row, out)


def test_frames_that_have_the_size_already_are_exact(tank):
    source, shards = tank
    dataset = ws.DatasetBuilder(path=shards / "val", style="frames_w_temp").build()
    frames = sequential_frames(next((source / "val").rglob("*.mp4")))[:4]
    batch = next(iter(dataset.loader(batch_size=4, size=tuple(frames.shape[-2:]))))
    assert torch.equal(batch.frames[:, 0], frames)


def test_a_transform_sees_each_clip(tank):
    shapes = []

    def to_mean(frames):
        shapes.append((frames.shape, frames.dtype))
        return frames.float().mean(dim=(-2, -1))

    dataset = ws.DatasetBuilder(path=tank[1] / "val", style=CLIP, transform=to_mean).build()
    batch = next(iter(dataset.loader(batch_size=3)))
    assert batch.frames.shape == (3, 4, 3)
    assert shapes == [((4, 3, 48, 64), torch.uint8)] * 3


def test_videos_older_than_min_ctime_are_left_out(tank):
    source, shards = tank
    times = sorted(path.stat().st_ctime for path in (source / "train").rglob("*.mp4"))
    for limit in (0, *times, times[-1] + 1):
        keep = sum(time >= limit for time in times)
        dataset = ws.DatasetBuilder(path=shards / "train", style=CLIP, min_ctime=limit).build()
        assert len(dataset.index) == keep
        assert len(collect(dataset.loader(batch_size=4, size=16))) == len(dataset) == len(dataset.labels())


def test_frames_of_several_sizes_need_a_size(tmp_path):
    for n, size in enumerate([(48, 64), (64, 64)]):
        make_fishtank(tmp_path / str(n), videos={f"s{n}": 1}, frames=20, size=size)
        (tmp_path / str(n) / f"s{n}").rename(tmp_path / str(n) / "train")
    merged = tmp_path / "both"
    (merged / "train").mkdir(parents=True)
    (merged / "categories.json").write_text((tmp_path / "0" / "categories.json").read_text())
    for n in range(2):
        next((tmp_path / str(n) / "train").iterdir()).rename(merged / "train" / f"s{n}_00")
    ws.pack(merged, tmp_path / "shards", format="frames", progress=False)
    dataset = ws.DatasetBuilder(path=tmp_path / "shards" / "train", style="frames").build()
    with pytest.raises(ws.ShardError, match=r"3×48×64.*3×64×64.*Set size="):
        list(dataset.loader(batch_size=20))
    assert len(collect(dataset.loader(batch_size=20, size=32))) == len(dataset)


# webdataset leaves closing a shard to the garbage collector.
closes_late = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@closes_late
def test_every_stage_works_in_a_plain_webdataset(tank):
    source, shards = tank
    dataset = ws.DatasetBuilder(path=shards / "train", style=CLIP).build()
    urls = sorted(str(path) for path in (shards / "train").glob("*.tar"))
    assert len(urls) > 1
    plain = webdataset.WebDataset(urls, shardshuffle=False).compose(
        ws.ParseSamples(style=CLIP, num_classes=len(dataset.categories), segment_frames=20),
        ws.Decode(threads=2),
        ws.Windows(),
        ws.BufferShuffle(size=30, seed=0),
        ws.Batches(size=4),
    )
    batches = list(plain)
    assert_same(collect(batches), expected_windows(source / "train", dataset.index, CLIP))
    assert [batch.keys for batch in batches] != [batch.keys for batch in dataset.loader(batch_size=4)]


@closes_late
def test_a_plain_stream_of_clips_with_one_class(tmp_path, tank):
    video = next((tank[0] / "val").rglob("*.mp4")).read_bytes()
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "one", "mp4": video, "cls": b"2"})
    stream = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).compose(
        ws.ParseSamples(style=CLIP, num_classes=4), ws.Decode(), ws.Windows(), ws.Batches(size=100)
    )
    (batch,) = list(stream)
    assert len(batch) == int(CLIP.num_windows(90))
    assert batch.labels.tolist() == [[False, False, True, False]] * len(batch)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"txt": b"no video"}, "one: no video among its members"),
        ({"mp4": b"not a video", "cls": b"0"}, "one: not a video that FFmpeg can open"),
        ({"mp4": None}, "one: neither labels.npy nor cls"),
        (
            {"mp4": None, "labels.npy": np.zeros((3, 3))},
            r"one: labels.npy has the shape \(3, 3\), but 90 frames and num_classes=4 make \(90, 4\)",
        ),
        ({"mp4": None, "labels.npy": np.array([{}], object)}, "one: labels.npy is not a plain array"),
    ],
)
def test_plain_samples_that_do_not_fit_are_named(tank, members, message):
    video = next((tank[0] / "val").rglob("*.mp4")).read_bytes()
    sample = {"__key__": "one"}
    for name, value in members.items():
        if isinstance(value, np.ndarray):
            buffer = io.BytesIO()
            np.save(buffer, value, allow_pickle=True)
            value = buffer.getvalue()
        sample[name] = video if value is None else value
    with pytest.raises(ws.SampleError, match=message):
        list(ws.ParseSamples(style=CLIP, num_classes=4)([sample]))


def test_a_shard_that_is_missing_or_cut_is_named(tank, tmp_path):
    for path in (tank[1] / "train").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    dataset = ws.DatasetBuilder(path=tmp_path, style=CLIP).build()
    shard = tmp_path / json.loads((tmp_path / "dataset.json").read_text())["shards"][0]
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(ws.ShardError, match=r"000000.tar has 2,000 bytes, the index says that a video ends at"):
        list(dataset.loader(batch_size=4))
    shard.unlink()
    (tmp_path / "elsewhere").mkdir()
    for path in tmp_path.glob("*.*"):
        path.rename(tmp_path / "elsewhere" / path.name)
    moved = ws.DatasetBuilder(path=tmp_path / "elsewhere", style=CLIP).build()
    with pytest.raises(ws.ShardError, match=r"000000.tar cannot be opened.*No such file"):
        list(moved.loader(batch_size=4))


def test_bytes_that_are_not_those_of_the_index_cost_their_windows_and_are_never_other_pixels(tank, tmp_path):
    for path in (tank[1] / "train").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = ws.open_index(tmp_path)
    shard, offset, size = index.place(0)
    shard = Path(shard)
    data = bytearray(shard.read_bytes())
    data[offset + size // 3 : offset + size] = bytes(size - size // 3)
    shard.write_bytes(data)
    dataset = ws.DatasetBuilder(path=tmp_path, style=CLIP).build()
    with pytest.raises(
        ws.SampleError, match=rf"windows did not decode, more than max_skipped=0.01:\n.*{index.keys[0]}"
    ):
        list(dataset.loader(batch_size=4))
    loader = dataset.loader(batch_size=4, max_skipped=0.9, shuffle=True)
    found = collect(loader)
    expected = expected_windows(tank[0] / "train", index, CLIP)
    assert_same(found, {address: window for address, window in expected.items() if address[0] != index.keys[0]})
    assert loader.ledger.num_skipped == len(expected) - len(found) > 0
    assert loader.ledger.planned == len(loader) * 4
    assert all(reason.startswith(index.keys[0]) for reason in loader.ledger.skipped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"size": 0}, "size=0 must be"),
        ({"size": (1, 2, 3)}, "size="),
        ({"tail": "keep"}, "tail='keep'"),
        ({"num_workers": 0}, "num_workers=0"),
        ({"rank": 2, "world_size": 2}, r"rank=2 must lie within \[0, world_size=2\)"),
        ({"shuffle": True, "world_size": 5, "rank": 0}, "lanes=48 must be a multiple of world_size=5"),
        ({"shuffle": True, "lanes": 0}, "lanes=0"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(tank, options, message):
    dataset = ws.DatasetBuilder(path=tank[1] / "train", style=CLIP).build()
    with pytest.raises(ws.ConfigError, match=message):
        dataset.loader(**{"batch_size": 4, **options})


def test_stages_refuse_what_makes_no_sense():
    with pytest.raises(ws.ConfigError, match="threads=0"):
        Decode(threads=0)
    with pytest.raises(ws.ConfigError, match="size=0"):
        ws.BufferShuffle(size=0, seed=0)
    with pytest.raises(TypeError, match="seed"):
        ws.BufferShuffle(size=3)


def write_two_colour_spaces(path):
    """One grey-free colour for 24 frames, in YUV always the same: BT.709 for twelve of them, then BT.601."""
    import av

    planes = np.concatenate([np.full(n, v, np.uint8) for n, v in ((48 * 64, 120), (24 * 32, 90), (24 * 32, 200))])
    frame = av.VideoFrame.from_ndarray(planes.reshape(72, 64), "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for part, matrix in enumerate(("bt709", "smpte170m")):
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuv420p", Fraction(1, 25)
            encoder.options = {"x264-params": f"keyint=12:bframes=0:scenecut=0:colormatrix={matrix}", "crf": "1"}
            packets = []
            for number in range(12):
                frame.pts, frame.time_base = number, Fraction(1, 25)
                packets += encoder.encode(frame)
            for number, packet in enumerate([*packets, *encoder.encode(None)]):
                packet.pts = packet.dts = 12 * part + number
                packet.time_base, packet.stream = Fraction(1, 25), stream
                container.mux(packet)


@pytest.mark.parametrize("numbers", [[0, 10, 14, 20], [14, 20], [0, 10, 12, 14, 20], list(range(24))])
def test_colours_that_change_at_a_key_frame_that_nobody_wants(tmp_path, numbers):
    from wildstream.probe import probe
    from wildstream.samples import EncodedSegment, SegmentWindows

    write_two_colour_spaces(tmp_path / "v.avi")
    data = torch.frombuffer(bytearray((tmp_path / "v.avi").read_bytes()), dtype=torch.uint8)
    count = len(numbers)
    windows = SegmentWindows(
        key="v",
        starts=np.array(numbers[:1]),
        frames=np.array([numbers]),
        labels=np.zeros((1, 1), np.bool_),
        positions=np.zeros(1, np.int64),
        real=np.ones(1, np.bool_),
        labelled=np.ones(1, np.bool_),
    )
    decoded = ws.Decode(size=(24, 32)).decode_segment(EncodedSegment(windows=windows, data=data, table=probe(data)))
    assert not decoded.problems
    colours = decoded.frames[decoded.places[0]].float().mean((2, 3))
    assert colours.shape == (count, 3)
    early, late = (colours[[bool(n >= 12) == part for n in numbers]] for part in (False, True))
    assert (early - torch.tensor([250.0, 90.0, 40.0])).abs().max() < 6 if len(early) else True
    assert (late - torch.tensor([235.0, 76.0, 44.0])).abs().max() < 6


def test_what_decode_refuses():
    assert ws.Decode(size=224).scale.width == 224
    for size in (0, (0, 16), (16, -1), "big"):
        with pytest.raises(ws.ConfigError, match=r"size=.* must be a positive number of pixels"):
            ws.Decode(size=size)
    with pytest.raises(ws.ConfigError, match="does not go with per_frame"):
        ws.Decode(size=224, per_frame=(ws.Resize(height=2, width=2),))


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"cls": b"dog"}, "x: cls must be the number of a class"),
        ({"cls": b"9"}, "class 9"),
        ({"labels.npy": b""}, "x: labels.npy is not a plain array"),
        ({"labels.npy": b"\x93NUMPY"}, "x: labels.npy is not a plain array"),
        ({}, "x: neither labels.npy nor cls"),
    ],
)
def test_samples_of_others_with_malformed_labels(tank, members, complaint):
    video = next((tank[0] / "val").rglob("*.mp4")).read_bytes()
    with pytest.raises(ws.LabelError, match=complaint):
        next(ws.ParseSamples(style=CLIP, num_classes=4)([{"__key__": "x", "mp4": video, **members}]))


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[1]",
        b"null",
        b'{"num_frames": null}',
        b'{"lost": true, "height": "tall"}',
        {"fps": 25},
        '{"num_frames": 0}',
    ],
)
def test_samples_of_others_with_a_json_of_their_own(tank, content):
    path = next((tank[0] / "val").rglob("*.mp4"))
    sample = {"__key__": "x", "mp4": path.read_bytes(), "cls": b"1", "json": content}
    segment = next(ws.ParseSamples(style=CLIP, num_classes=4)([sample]))
    assert len(segment.table.pts) == len(sequential_frames(path))
    assert segment.frame_size is None
