"""The loader: exact resume on any number of ranks, samplers, the ledger, memory, worker processes."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import free_port

import wildstream as ws
from wildstream.errors import LedgerError
from wildstream.fishtank import make_fishtank
from wildstream.stream.ledger import Ledger, add_up
from wildstream.stream.samplers import Balanced, Random, Weighted
from wildstream.stream.shuffle import DrawPlanned

STYLE = ws.SlidingStyle(window_size=4, samples_per_window=2, step_size=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("tank")
    make_fishtank(root / "videos", videos={"train": 4}, frames=60, size=(32, 48))
    ws.pack(root / "videos", root / "shards", format="frames", progress=False)
    return root / "shards" / "train"


@pytest.fixture(scope="module")
def dataset(shards):
    return ws.DatasetBuilder(path=shards, style=STYLE).build()


def addresses(batch):
    return list(zip(batch.keys, batch.starts.tolist(), batch.mask.tolist(), strict=True))


def global_batches(dataset, world_size, global_batch, state=None, **options):
    """The batches of all ranks put together as they would be by a training over them, and each rank's loader."""
    loaders = [
        dataset.loader(
            batch_size=global_batch // world_size, rank=r, world_size=world_size, only_labels=True, **options
        )
        for r in range(world_size)
    ]
    for loader in loaders:
        if state is not None:
            loader.load_state_dict(state)
    batches = []
    for ranks in zip(*loaders, strict=True):
        rows = [addresses(batch) for batch in ranks]
        batches.append([rows[p % world_size][p // world_size] for p in range(global_batch)])
    return batches, loaders


@pytest.mark.parametrize("sampler", [None, "balanced", "random"])
def test_the_global_batches_do_not_depend_on_the_number_of_ranks(dataset, sampler):
    one, _ = global_batches(dataset, 1, 24, shuffle=True, seed=3, sampler=sampler)
    for world_size in (2, 3, 4, 6, 8):
        other, _ = global_batches(dataset, world_size, 24, shuffle=True, seed=3, sampler=sampler)
        assert other[:-1] == one[:-1]
        real = [sorted(row for row in batch if row[2]) for batch in (one[-1], other[-1])]
        assert real[0] == real[1]


@pytest.mark.parametrize("tail", ["pad", "drop"])
def test_a_resume_at_every_position_onto_every_split_goes_on_exactly(dataset, tail):
    options = {"shuffle": True, "seed": 1, "tail": tail}
    whole, _ = global_batches(dataset, 2, 12, **options)
    for done in range(len(whole) + 1):
        loader = dataset.loader(batch_size=6, rank=0, world_size=2, only_labels=True, **options)
        iterator = iter(loader)
        for _ in range(done):
            next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
        for world_size in (1, 2, 3, 4, 6, 12):
            rest, loaders = global_batches(dataset, world_size, 12, state, **options)
            assert [[row for row in batch if row[2]] for batch in rest][:-1] == [
                [row for row in batch if row[2]] for batch in whole[done:]
            ][:-1]
            assert sorted(row for batch in rest for row in batch if row[2]) == sorted(
                row for batch in whole[done:] for row in batch if row[2]
            )
            assert {loader.state_dict()["epoch"] for loader in loaders} == {1}


def test_a_resume_gives_the_same_pixels(dataset):
    options = {"batch_size": 5, "shuffle": True, "seed": 2, "size": 16}
    whole = list(dataset.loader(**options))
    first = dataset.loader(**options)
    for number, _ in enumerate(first):
        if number == 3:
            break
    second = dataset.loader(**options)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == len(whole) - 4
    for expected, found in zip(whole[4:], rest, strict=True):
        assert addresses(expected) == addresses(found)
        assert torch.equal(expected.frames, found.frames)
    assert len(list(second)) == len(whole), "the iteration after the resumed one is a whole epoch"


def test_the_state_after_an_epoch_is_the_start_of_the_next(dataset):
    loader = dataset.loader(batch_size=7, shuffle=True, only_labels=True)
    list(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 0)
    other = dataset.loader(batch_size=7, shuffle=True, only_labels=True)
    other.load_state_dict(state)
    loader.set_epoch(1)
    assert [addresses(batch) for batch in other] == [addresses(batch) for batch in loader]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_frames": 30}, "other data, style, sampler or order"),
        ({"lanes": 12}, "other data"),
        ({"sampler": "balanced"}, "other data"),
        ({"shuffle": False}, "other data"),
    ],
)
def test_a_state_of_another_stream_is_refused(dataset, options, message):
    state = dataset.loader(batch_size=4, shuffle=True).state_dict()
    with pytest.raises(ws.ConfigError, match=message):
        dataset.loader(**{"batch_size": 4, "shuffle": True, **options}).load_state_dict(state)


def test_states_that_do_not_fit_are_refused(dataset):
    loader = dataset.loader(batch_size=1, shuffle=True, only_labels=True)
    next(iter(loader))
    with pytest.raises(ws.ConfigError, match="position=1 of the epoch is not a multiple of world_size=2"):
        dataset.loader(batch_size=1, shuffle=True, rank=0, world_size=2).load_state_dict(loader.state_dict())
    with pytest.raises(ws.ConfigError, match="lacks epoch, fingerprint, order, position, seed, world_size"):
        loader.load_state_dict({})
    ordered = dataset.loader(batch_size=2, only_labels=True)
    next(iter(ordered))
    with pytest.raises(ws.ConfigError, match="unshuffled epoch was left in the middle by 1 ranks"):
        dataset.loader(batch_size=2, rank=0, world_size=2).load_state_dict(ordered.state_dict())
    with pytest.raises(ws.ConfigError, match="epoch=-1"):
        loader.set_epoch(-1)


# Samplers


label_tables = st.integers(1, 4).flatmap(
    lambda classes: st.lists(st.lists(st.booleans(), min_size=classes, max_size=classes), min_size=1, max_size=60)
)


@given(label_tables, st.integers(1, 20), st.integers(0, 5))
def test_balanced_draws_as_many_of_each_class_and_of_none(rows, per_class, seed):
    labels = np.array(rows, bool)
    drawn = Balanced(per_class=per_class).draw(len(labels), lambda: labels, np.random.default_rng(seed))
    members = [np.flatnonzero(column) for column in (*labels.T, ~labels.any(axis=1)) if column.any()]
    assert len(drawn) == per_class * len(members) == Balanced(per_class=per_class).size(len(labels), lambda: labels)
    assert (np.diff(drawn) >= 0).all()
    counts = Counter(drawn.tolist())
    for windows in members:
        assert sum(counts[window] for window in windows.tolist()) >= per_class
    exclusive = labels.sum(axis=1) <= 1
    if exclusive.all():
        for windows in members:
            found = [counts[window] for window in windows.tolist()]
            assert sum(found) == per_class
            if len(windows) >= per_class:
                assert max(found) == 1, "repetition where there are enough"


def test_balanced_is_about_as_long_as_a_whole_epoch_by_default(dataset):
    loader = dataset.loader(batch_size=4, sampler="balanced", only_labels=True)
    delivered = sum(int(batch.mask.sum()) for batch in loader)
    assert len(dataset) <= delivered < len(dataset) + 5
    labels = torch.cat([batch.labels[batch.mask] for batch in loader]).numpy()
    positive = [*labels.sum(axis=0), (~labels.any(axis=1)).sum()]
    assert min(positive) >= delivered // 5
    assert len(loader) == -(-delivered // 4)


def test_weighted_draws_in_proportion(dataset):
    weights = np.zeros(len(dataset))
    weights[[3, 50]] = 1, 3
    loader = dataset.loader(batch_size=10, sampler=Weighted(weights=weights, num_windows=4000), only_labels=True)
    counts = Counter(row[:2] for batch in loader for row in addresses(batch) if row[2])
    videos, starts = dataset.addresses()
    names = [(dataset.index.keys[videos[n]], int(starts[n])) for n in (3, 50)]
    assert set(counts) == set(names)
    assert 0.7 < counts[names[1]] / 4000 < 0.8
    for bad in (np.array([1.0, -1]), np.zeros(3), np.array([np.nan]), np.ones((2, 2))):
        with pytest.raises(ws.ConfigError, match="weights must be"):
            Weighted(weights=bad)
    with pytest.raises(ws.ConfigError, match="weights has 3 numbers"):
        len(dataset.loader(batch_size=2, sampler=Weighted(weights=np.ones(3))))


def test_random_with_and_without_replacement(dataset):
    def epoch(sampler):
        loader = dataset.loader(batch_size=4, sampler=sampler, only_labels=True)
        return [row[:2] for batch in loader for row in addresses(batch) if row[2]]

    assert len(set(epoch(Random(num_windows=30)))) == 30
    assert len(set(epoch(Random()))) == len(dataset)
    repeated = epoch(Random(num_windows=1000, replacement=True))
    assert len(repeated) == 1000 > len(set(repeated))
    with pytest.raises(ws.ConfigError, match="num_windows=1000 is more than"):
        epoch(Random(num_windows=1000))
    with pytest.raises(ws.ConfigError, match=r"sampler='equal' is not known. Take one of balanced, random"):
        dataset.loader(batch_size=4, sampler="equal")


def test_only_segments_with_drawn_windows_are_decoded(dataset):
    loader = dataset.loader(batch_size=2, sampler=Random(num_windows=3), segment_frames=8)
    videos, starts = set(), 0
    for segment in loader.plan().segments(loader.share()):
        videos.add(segment.video)
        starts += len(segment.windows)
    cost = loader.decoding_cost()
    assert starts == 4  # three drawn, one to fill up the second batch
    assert cost.needed_frames <= 6
    assert cost.decoded_frames < int(dataset.index.num_frames.sum())


# The ledger


def test_the_ledger_of_ranks_adds_up(dataset):
    ledgers = []
    for rank in range(3):
        loader = dataset.loader(batch_size=7, shuffle=True, rank=rank, world_size=3, size=16)
        list(loader)
        ledgers.append(loader.ledger)
    total = add_up(ledgers)
    assert (total.delivered, total.num_skipped) == (len(dataset), 0)
    assert total.planned == total.delivered + total.padded == 3 * 7 * len(loader)
    assert "planned" in str(total)


class Broken(DrawPlanned):
    """Draw all clips but one, or one of them twice."""

    how = "dropped"

    def __call__(self, segments):
        for number, clip in enumerate(super().__call__(segments)):
            if number != 5 or self.how == "doubled":
                yield clip
            if number == 5 and self.how == "doubled":
                yield clip


@pytest.mark.parametrize("how", ["dropped", "doubled"])
def test_the_loader_notices_a_stage_that_loses_or_doubles_a_window(dataset, monkeypatch, how):
    import wildstream.stream.pipeline as pipeline

    monkeypatch.setattr(Broken, "how", how)
    monkeypatch.setattr(pipeline, "DrawPlanned", Broken)
    with pytest.raises(LedgerError, match="windows were lost or doubled"):
        list(dataset.loader(batch_size=5, shuffle=True, only_labels=True))


def test_a_ledger_that_does_not_add_up_is_an_error():
    with pytest.raises(LedgerError, match=r"9 planned = 5 windows delivered \+ 0 skipped \+ 3 repeated"):
        Ledger(planned=9, delivered=5, padded=3).check()
    ledger = Ledger(planned=100, delivered=97, skipped=Counter({"fish_3: frame 7 does not decode": 3}))
    ledger.check()
    for limit in (3, 0.03, 0.5):
        ledger.check_limit(limit, epoch=100)
    for limit in (0, 2, 0.02):
        with pytest.raises(ws.SampleError, match=r"3 of 100 windows did not decode.*\n.*3 windows  fish_3: frame 7"):
            ledger.check_limit(limit, epoch=100)


# Memory


def test_the_footprint_is_what_the_pool_really_holds(shards, monkeypatch):
    import wildstream.stream.pipeline as pipeline

    held = []

    class Watching(DrawPlanned):
        def __call__(self, segments):
            alive = {}

            def watch():
                for segment in segments:
                    alive[id(segment)] = (segment.frames.numel(), set(segment.windows.positions.tolist()))
                    yield segment

            for clip in super().__call__(watch()):
                held.append(sum(size for size, places in alive.values() if places))
                yield clip
                for _, places in alive.values():
                    places.discard(clip.position)

    monkeypatch.setattr(pipeline, "DrawPlanned", Watching)
    style = ws.SlidingStyle(window_size=8, samples_per_window=8, step_size=1)
    dataset = ws.DatasetBuilder(path=shards, style=style).build()
    loader = dataset.loader(batch_size=4, shuffle=True, lanes=4, pool_segments=2, segment_frames=24, num_workers=1)
    footprint = loader.footprint()
    list(loader)
    assert max(held) == footprint.pool_bytes - 2 * footprint.segment_bytes
    assert footprint.segment_bytes <= 24 * 3 * 32 * 48
    assert f"at most {footprint.pool_segments} open" in repr(loader)
    assert footprint.needed_frames == 4 * 60


def test_overlapping_windows_do_not_take_more_memory_than_the_footprint_says(tmp_path):
    """In a process of its own: peak memory while streaming 16-frame windows of step 1 from 400 large frames."""
    make_fishtank(tmp_path / "videos", videos={"train": 2}, frames=200, size=(240, 320))
    ws.pack(tmp_path / "videos", tmp_path / "shards", format="frames", progress=False)
    code = f"""
        import resource
        import wildstream as ws
        style = ws.SlidingStyle(window_size=16, samples_per_window=16, step_size=1)
        dataset = ws.DatasetBuilder(path={str(tmp_path / "shards" / "train")!r}, style=style).build()
        options = dict(batch_size=2, shuffle=True, lanes=2, pool_segments=1, segment_frames=64, num_workers=1)
        warm = dataset.loader(**{{**options, "segment_frames": 16, "size": 32}})
        next(iter(warm))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        loader = dataset.loader(**options)
        batch_bytes = max(batch.frames.numel() for batch in loader)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        print(grown, loader.footprint().pool_bytes, batch_bytes, len(dataset) * 16 * 3 * 240 * 320)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, promised, batch, every_window = map(int, done.stdout.split())
    assert grown <= promised + 2 * batch + 40e6  # the decoder's own frames and the allocator's slack
    assert promised < every_window / 10


# Worker processes


def halve(frames):
    return frames[..., ::2, ::2]


def die(frames):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(frames):
    raise RuntimeError("no such thing")


@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_give_the_same_batches_as_threads(shards, shuffle):
    dataset = ws.DatasetBuilder(path=shards, style=STYLE, transform=halve).build()
    options = {"batch_size": 5, "shuffle": shuffle, "seed": 4, "segment_frames": 16}
    threads = list(dataset.loader(num_workers=2, **options))
    loader = dataset.loader(num_workers=2, workers="processes", **options)
    found = list(loader)
    assert len(found) == len(threads)
    for one, other in zip(threads, found, strict=True):
        assert addresses(one) == addresses(other)
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.labels, other.labels)
    assert loader.ledger.delivered == len(dataset)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        (die, ws.WildStreamError, r"worker 0 died with exit code -9 \(killed; out of memory\?\)"),
        (fail, ws.WildStreamError, "worker 0 failed: RuntimeError: no such thing"),
        (lambda frames: frames, ws.ConfigError, "needs what can be pickled"),
    ],
)
def test_a_worker_that_dies_or_fails_is_reported(shards, transform, error, message):
    dataset = ws.DatasetBuilder(path=shards, style=STYLE, transform=transform).build()
    loader = dataset.loader(batch_size=4, num_workers=1, workers="processes")
    with pytest.raises(error, match=message):
        list(loader)
    assert multiprocessing.active_children() == []


def test_lanes_that_ranks_do_not_divide_are_refused(dataset):
    with pytest.raises(ws.ConfigError, match="lanes=48 must be a multiple of world_size=5, so that each has whole"):
        dataset.loader(batch_size=4, shuffle=True, rank=0, world_size=5)
    with pytest.raises(ws.ConfigError, match="workers='fibres'"):
        dataset.loader(batch_size=4, workers="fibres")


# Real processes, killed for real

RANK = """
    import json, os, sys, time
    import torch.distributed as dist
    import wildstream as ws

    shards, log, state_file, stop = sys.argv[1:]
    dist.init_process_group("gloo")
    style = ws.SlidingStyle(window_size=4, samples_per_window=2, step_size=2)
    dataset = ws.DatasetBuilder(path=shards, style=style).build()
    loader = dataset.loader(batch_size=24 // dist.get_world_size() // 2, shuffle=True, seed=9, size=16)
    if os.path.exists(state_file):
        loader.load_state_dict(json.load(open(state_file)))
    with open(f"{log}.{dist.get_rank()}", "a") as file:
        for number, batch in enumerate(loader):
            for key, start, real in zip(batch.keys, batch.starts.tolist(), batch.mask.tolist()):
                if real:
                    file.write(json.dumps([key, start]) + "\\n")
            file.flush()
            dist.barrier()
            if dist.get_rank() == 0:
                json.dump(loader.state_dict(), open(state_file + ".tmp", "w"))
                os.replace(state_file + ".tmp", state_file)
            dist.barrier()
            if number + 1 == int(stop):
                open(f"{state_file}.reached", "w").close()
                time.sleep(1000)
"""


@contextlib.contextmanager
def launch(tmp_path, shards, world_size, part, stop):
    """Start the ranks; none outlives the block."""
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent(RANK))
    ranks, port = [], free_port()
    for rank in range(world_size):
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        command = [
            sys.executable,
            str(script),
            str(shards),
            str(tmp_path / f"log{part}"),
            str(tmp_path / "state"),
            str(stop),
        ]
        ranks.append(subprocess.Popen(command, env=environment))
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def delivered(tmp_path, part):
    lines = [line for path in tmp_path.glob(f"log{part}.*") for line in path.read_text().splitlines()]
    return Counter(tuple(json.loads(line)) for line in lines)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 1)])
def test_ranks_killed_in_mid_epoch_go_on_with_another_number(shards, dataset, tmp_path, before, after):
    with launch(tmp_path, shards, before, 1, stop=4) as ranks:
        while not (tmp_path / "state.reached").exists():
            assert all(rank.poll() is None for rank in ranks), "a rank ended by itself"
            time.sleep(0.1)
        for rank in ranks:
            rank.send_signal(signal.SIGKILL)
            assert rank.wait() == -signal.SIGKILL
    first = delivered(tmp_path, 1)
    assert 0 < sum(first.values()) < len(dataset)
    with launch(tmp_path, shards, after, 2, stop=-1) as ranks:
        assert [rank.wait() for rank in ranks] == [0] * after
    videos, starts = dataset.addresses()
    keys = [dataset.index.keys[video] for video in videos]
    assert first + delivered(tmp_path, 2) == Counter(zip(keys, starts.tolist(), strict=True))


@settings(max_examples=10)
@given(st.data())
def test_epochs_differ_and_each_has_every_window_once(dataset, data):
    loader = dataset.loader(batch_size=6, shuffle=True, seed=data.draw(st.integers(0, 9)), only_labels=True)
    orders = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        rows = [row[:2] for batch in loader for row in addresses(batch) if row[2]]
        assert len(set(rows)) == len(rows) == len(dataset)
        orders.append(rows)
    assert orders[0] != orders[1] != orders[2]


# Found by review


def test_a_split_that_is_packed_again_in_the_same_process_gives_its_new_pixels(tmp_path):
    pixels = []
    for seed in (0, 1):
        make_fishtank(tmp_path / f"videos{seed}", videos={"train": 1}, frames=30, size=(32, 48), seed=seed)
        ws.pack(tmp_path / f"videos{seed}", tmp_path / "shards", format="frames", progress=False)
        dataset = ws.DatasetBuilder(path=tmp_path / "shards" / "train", style=STYLE).build()
        pixels.append(torch.cat([batch.frames for batch in dataset.loader(batch_size=4)]))
    assert not torch.equal(*pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_weights_of_any_precision_reach_the_last_window(dtype):
    weights = np.ones(5000, dtype)
    drawn = Weighted(weights=weights).draw(5000, lambda: None, np.random.default_rng(0))
    assert drawn.max() > 4900


def test_a_closed_segment_is_not_kept_by_the_batch_that_was_given(shards):
    import gc
    import weakref

    import wildstream.stream.pipeline as pipeline

    alive = []

    class Watching(DrawPlanned):
        def __call__(self, segments):
            def watch():
                for segment in segments:
                    alive.append(weakref.ref(segment.frames))
                    yield segment

            return super().__call__(watch())

    dataset = ws.DatasetBuilder(path=shards, style=STYLE).build()
    original, pipeline.DrawPlanned = pipeline.DrawPlanned, Watching
    try:
        loader = dataset.loader(batch_size=30, segment_frames=8, num_workers=1, size=16)
        for batch in loader:
            last = batch
            gc.collect()
            held = sum(frames() is not None for frames in alive)
            assert held <= 3, "the segments of a finished batch are still in memory"
    finally:
        pipeline.DrawPlanned = original
    assert len(last) == 30


def test_an_iteration_that_is_left_early_does_not_shorten_the_next(dataset):
    loader = dataset.loader(batch_size=4, shuffle=True, only_labels=True)
    next(iter(loader))
    assert sum(int(batch.mask.sum()) for batch in loader) == len(dataset)
    pairs = list(zip(loader, loader, strict=True))
    assert all(addresses(one) == addresses(other) for one, other in pairs)
    assert len(pairs) == len(loader)


def test_a_state_of_an_order_that_is_planned_otherwise_here_is_refused(dataset):
    first = dataset.loader(batch_size=4, shuffle=True, only_labels=True)
    next(iter(first))
    second = dataset.loader(batch_size=4, shuffle=True, only_labels=True)
    second.load_state_dict(first.state_dict() | {"order": 1})
    with pytest.raises(ws.ConfigError, match="epoch 0 is in another order than when it was left"):
        next(iter(second))


@pytest.mark.parametrize("shuffle", [True, False])
def test_dropping_the_tail_never_pads(dataset, shuffle):
    for world_size in (1, 4, 6):
        loaders = [
            dataset.loader(
                batch_size=5, tail="drop", shuffle=shuffle, rank=rank, world_size=world_size, only_labels=True
            )
            for rank in range(world_size)
        ]
        batches = [list(loader) for loader in loaders]
        assert len({len(part) for part in batches}) == 1
        assert all(batch.mask.all() for part in batches for batch in part)


def needs_grad(frames):
    return frames.float().requires_grad_()


def test_what_processes_send_is_the_parents_own(shards):
    dataset = ws.DatasetBuilder(path=shards, style=STYLE, transform=needs_grad).build()
    loader = dataset.loader(batch_size=1, num_workers=1, workers="processes", size=8)
    kept = list(loader)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    assert len(kept) == len(dataset)
    assert descriptors < 100, "each batch keeps a shared-memory descriptor open"
    assert not any(batch.frames.requires_grad or batch.frames.is_shared() for batch in kept)


def test_the_footprint_of_processes_is_that_of_all_of_them(dataset):
    options = {"batch_size": 4, "shuffle": True, "lanes": 4, "segment_frames": 8, "size": 32}
    threads = dataset.loader(num_workers=1, **options).footprint()
    processes = dataset.loader(num_workers=4, workers="processes", **options).footprint()
    assert processes.pool_bytes > threads.pool_bytes
    assert processes.needed_frames >= threads.needed_frames
