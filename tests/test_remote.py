"""Shards in object storage: the same stream as from local disk, bit by bit; through faults, or not at all."""

import os
import pickle
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from servers import GoogleServer

import wildstream as ws
from wildstream import marks
from wildstream.shards.pack import pack
from wildstream.stream import segments
from wildstream.stream.decode import Decode

STYLE = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=3)


@pytest.fixture(scope="module")
def long_shards(tiny_source, tmp_path_factory):
    """The tiny videos with marks, as if they were long."""
    patch = pytest.MonkeyPatch()
    patch.setattr(marks, "FEWEST_BYTES", 0)
    patch.setattr(marks, "PACKETS_PER_MARK", 2)
    out = tmp_path_factory.mktemp("long_shards")
    assert not pack(tiny_source, out, format="frames", shard_bytes=1, progress=False).refused
    patch.undo()
    return out


def loader_of(path, **options):
    dataset = ws.DatasetBuilder(path=path, style=STYLE, **options).build()
    return dataset.loader(batch_size=4, shuffle=True, seed=3, segment_frames=12, lanes=4, size=(24, 32), num_workers=2)


def assert_same(found, expected):
    """The same batches: pixels, labels, addresses, masks. (Positions count from where an iteration begins.)"""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.starts, other.starts)
        assert torch.equal(one.mask, other.mask)
        assert one.keys == other.keys


@pytest.fixture(scope="module")
def real_shards(shared_data, tmp_path_factory):
    """Two real MP4 files of several megabytes."""
    root = tmp_path_factory.mktemp("real")
    for name in ("cars", "people_one_by_one"):
        shutil.copy(shared_data / "originals" / f"{name}.mp4", root)
        (root / f"{name}.csv").write_text("start,stop,class\n0,1,moving\n")
    (root / "categories.json").write_text('["moving"]')
    assert not pack(root, root / "out", format="events", progress=False).refused
    return root / "out"


def count_parts(monkeypatch):
    """Counts the segments that come with part of their file, and the files that are read whole after all."""
    counted = Counter()
    read_member = segments.read_member

    def read_whole(*arguments):
        counted["read whole"] += 1
        return read_member(*arguments)

    def count(self, segment, device):
        counted["part" if segment.read_whole is not None else "whole"] += 1
        return decode_segment(self, segment, device)

    decode_segment = Decode.decode_segment
    monkeypatch.setattr(segments, "read_member", read_whole)
    monkeypatch.setattr(Decode, "decode_segment", count)
    return counted


def test_of_long_videos_only_the_bytes_of_the_frames_at_hand_are_read(s3, real_shards, monkeypatch):
    url = s3.put_folder(real_shards)
    counted = count_parts(monkeypatch)
    options = {"batch_size": 8, "shuffle": True, "seed": 1, "segment_frames": 64, "size": 32, "num_workers": 2}
    style = ws.SlidingStyle(window_size=8, samples_per_window=8, step_size=8)
    local = ws.DatasetBuilder(path=real_shards / "all", style=style).build()
    remote = ws.DatasetBuilder(path=f"{url}/all", style=style).build()
    expected = list(local.loader(**options))
    counted.clear()
    before = remote.index.storage.objects.traffic["bytes"]
    assert_same(list(remote.loader(**options)), expected)
    came = remote.index.storage.objects.traffic["bytes"] - before
    assert counted["part"] > 0.9 * counted.total()
    assert counted["read whole"] == 0
    sizes = [remote.index.place(video)[2] for video in range(2)]
    assert came < counted.total() * min(sizes) / 2, "whole files would have been more than twice as much"


def test_marks_that_promise_too_much_cost_time_and_no_frame(s3, real_shards, monkeypatch):
    url = s3.put_folder(real_shards)
    counted = count_parts(monkeypatch)
    byte_runs = marks.byte_runs

    def too_little(table, first, last, size):
        return [(start, start + (stop - start) // 2) for start, stop in byte_runs(table, first, last, size)]

    monkeypatch.setattr(segments, "byte_runs", too_little)
    style = ws.SlidingStyle(window_size=8, samples_per_window=8, step_size=64)
    options = {"batch_size": 8, "size": 32, "num_workers": 2}
    expected = list(ws.DatasetBuilder(path=real_shards / "all", style=style).build().loader(**options))
    counted.clear()
    loader = ws.DatasetBuilder(path=f"{url}/all", style=style).build().loader(**options)
    assert_same(list(loader), expected)
    assert loader.ledger.num_skipped == 0
    assert counted["read whole"] > 0


@pytest.mark.parametrize("place", ["s3", "radosgw", "http"])
def test_the_same_batches_as_from_local_disk(place, request, long_shards):
    if place != "http":
        url = request.getfixturevalue(place).put_folder(long_shards, "some/where")
    else:
        http_folder = request.getfixturevalue("http_folder")
        shutil.copytree(long_shards, http_folder.root / "data")
        url = f"{http_folder.url}/data"
    local, remote = loader_of(long_shards / "train"), loader_of(f"{url}/train")
    expected = list(local)
    assert remote.fingerprint == local.fingerprint
    assert_same(list(remote), expected)
    remote.set_epoch(1)
    local.set_epoch(1)
    assert_same(list(remote), list(local))
    # Left in the middle, and taken up elsewhere.
    first, rest = loader_of(f"{url}/train"), loader_of(f"{url}/train")
    taken = iter(first)
    begun = [next(taken) for _ in range(3)]
    rest.load_state_dict(first.state_dict())
    assert_same(begun + list(rest), expected)


def test_labels_take_the_index_alone(s3, long_shards):
    url = s3.put_folder(long_shards)
    dataset = ws.DatasetBuilder(path=f"{url}/train", style=STYLE).build()
    storage = dataset.index.storage
    dataset.labels()
    opened = storage.objects.traffic["requests"]
    assert opened <= 4, "labels take dataset.json and the index alone"
    list(ws.DatasetBuilder(path=f"{url}/train", style=STYLE, only_labels=True).build().loader(batch_size=4))
    assert storage.objects.traffic["requests"] == opened


def test_part_of_the_shards_by_a_pattern(s3, long_shards):
    url = s3.put_folder(long_shards)
    whole = ws.open_index(f"{url}/train")
    part = ws.open_index(f"{url}/train/{{000001..000002}}.tar")
    assert part.keys == whole.keys[1:]
    assert ws.open_index(long_shards / "train" / "{000001..000002}.tar").keys == part.keys
    with pytest.raises(ws.ConfigError, match=r"has no shard 000007\.tar"):
        ws.open_index(f"{url}/train/{{000007..000008}}.tar")


def test_a_shard_that_changes_in_mid_epoch_is_an_error(s3, long_shards):
    url = s3.put_folder(long_shards)
    loader = loader_of(f"{url}/train")
    batches = iter(loader)
    next(batches)
    for name in ("000000.tar", "000001.tar", "000002.tar"):
        s3.put(f"train/{name}", (long_shards / "train" / name).read_bytes() + bytes(512))
    loader.set_epoch(1)
    with pytest.raises(ws.StorageError, match="was changed while it was being read"):
        list(loader)


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_shard_that_is_not_whole_is_named(s3, long_shards, harm):
    url = s3.put_folder(long_shards)
    if harm == "missing":
        s3.delete("train/000001.tar")
    else:
        s3.put("train/000001.tar", (long_shards / "train" / "000001.tar").read_bytes()[:3000])
    with pytest.raises(ws.StorageError, match=r"000001\.tar"):
        list(loader_of(f"{url}/train"))


def test_processes_stream_from_object_storage_too(s3, long_shards):
    url = s3.put_folder(long_shards)
    options = {"batch_size": 4, "shuffle": True, "seed": 3, "lanes": 4, "size": 16, "num_workers": 2}
    local = ws.DatasetBuilder(path=long_shards / "train", style=STYLE).build().loader(**options)
    remote = ws.DatasetBuilder(path=f"{url}/train", style=STYLE).build().loader(workers="processes", **options)
    assert_same(list(remote), list(local))


def test_the_second_epoch_touches_no_network(faulty_s3, long_shards, tmp_path):
    url = faulty_s3.put_folder(long_shards)
    loader = loader_of(f"{url}/train", cache_dir=tmp_path / "cache")
    first = list(loader)
    faulty_s3.proxy.inject({"slow_down": 1.0}, seed=0)  # from now on nothing is answered
    assert_same(list(loader), first)
    assert not faulty_s3.proxy.injected


FAULTS = ["slow_down", "too_many", "reset", "reset_midway", "stall", "truncated", "short", "slow_first_byte"]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
def test_every_epoch_delivers_its_plan_through_faults(faulty_s3, long_shards, monkeypatch, rate):
    monkeypatch.setattr("wildstream.storage.objects.FIRST_PAUSE_SECONDS", 0.01)
    url = faulty_s3.put_folder(long_shards)
    expected = list(loader_of(long_shards / "train"))
    faulty_s3.proxy.inject({name: rate / len(FAULTS) for name in FAULTS}, seed=1)
    loader = loader_of(f"{url}/train", storage_options={"read_timeout": 0.5})
    for _ in range(3):
        assert_same(list(loader), expected)
        assert loader.ledger.num_skipped == 0
    assert rate < 0.1 or faulty_s3.proxy.injected


def test_faults_that_do_not_pass_end_the_epoch_with_their_cause(faulty_s3, long_shards, monkeypatch):
    monkeypatch.setattr("wildstream.storage.objects.FIRST_PAUSE_SECONDS", 0.001)
    url = faulty_s3.put_folder(long_shards)
    loader = loader_of(f"{url}/train")
    faulty_s3.proxy.inject({"slow_down": 1.0}, seed=1)
    with pytest.raises(ws.StorageError, match=r"\.tar cannot be read.*status 503"):
        list(loader)


def test_an_index_crosses_into_processes_without_connections(s3, long_shards):
    url = s3.put_folder(long_shards)
    index = ws.open_index(f"{url}/train")
    index.frame_table(0)
    again = pickle.loads(pickle.dumps(index))  # noqa: S301 - its own
    assert again.storage.objects.traffic == Counter()
    assert again.fingerprint == index.fingerprint
    assert np.array_equal(again.frame_table(1).pts, index.frame_table(1).pts)


def test_azure_packs_streams_and_goes_on_alike(tiny_source, tmp_path, monkeypatch):
    """Against Azurite or a real account: WILDSTREAM_TEST_AZURE, its endpoint, and …_NAME, …_KEY, …_CONTAINER."""
    endpoint = os.environ.get("WILDSTREAM_TEST_AZURE")
    if not endpoint:
        pytest.skip("no Azure; name its endpoint in WILDSTREAM_TEST_AZURE, and …_NAME, …_KEY and …_CONTAINER")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", os.environ["WILDSTREAM_TEST_AZURE_NAME"])
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", os.environ["WILDSTREAM_TEST_AZURE_KEY"])
    url = f"az://{os.environ['WILDSTREAM_TEST_AZURE_CONTAINER']}/{tmp_path.name}"
    check_packs_streams_and_goes_on(url, {"endpoint": endpoint, "allow_http": "true"}, tiny_source, tmp_path)


def check_packs_streams_and_goes_on(url, options, source, tmp_path):
    """What a place gives equals what local disk gives: packed twice, verified, streamed, left and taken up again."""
    storage = ws.Storage(options=options)
    for reused in ({}, {"train": 3, "val": 1}):
        report = ws.pack(source, url, format="frames", progress=False, storage=storage)
        assert report.packed == {"train": 3, "val": 1}
        assert report.reused == reused
    assert ws.verify(f"{url}/train", progress=False, storage=storage) == []
    ws.pack(source, tmp_path / "local", format="frames", progress=False)
    style = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=4)
    local = ws.DatasetBuilder(path=tmp_path / "local/train", style=style).build()
    remote = ws.DatasetBuilder(path=f"{url}/train", style=style, storage_options=options).build()
    expected = list(local.loader(batch_size=4, shuffle=True))
    loader = remote.loader(batch_size=4, shuffle=True)
    assert_same(list(loader), expected)
    rest = remote.loader(batch_size=4, shuffle=True)
    taken = iter(loader)
    begun = [next(taken) for _ in range(2)]
    rest.load_state_dict(loader.state_dict())
    assert_same(begun + list(rest), expected)


def test_gcs_packs_streams_and_goes_on_alike(s3, tiny_source, tmp_path):
    with GoogleServer(s3.server.endpoint) as google:
        check_packs_streams_and_goes_on(f"gs://{s3.name}/fish", google.options, tiny_source, tmp_path)
        assert {method for method, _ in google.requests} >= {"GET", "PUT"}


def test_gcs_through_faults_gives_the_same_or_says_why(s3, tiny_source, tiny_shards):
    s3.put_folder(tiny_shards, "fish")
    expected = list(loader_of(tiny_shards / "train"))
    with GoogleServer(s3.server.endpoint) as google:
        google.inject({"slow_down": 0.1, "reset": 0.1, "short": 0.1}, seed=1)
        assert_same(list(loader_of(f"gs://{s3.name}/fish/train", storage_options=google.options)), expected)
        assert sum(google.injected.values()) > 0
        loader = loader_of(f"gs://{s3.name}/fish/train", storage_options=google.options)
        assert_same(list(loader), expected)
        google.inject({"etag": 1.0}, keys=r"\.tar$")
        with pytest.raises(ws.StorageError, match=r"gs://.*changed"):
            list(loader)
