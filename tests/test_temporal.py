"""Temporal samplers: clips against their definition, frame by frame, and the same however they are loaded."""

import hashlib
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import read_tensor
from hypothesis import given
from hypothesis import strategies as st
from test_windows import styles
from tiny import frames_shards, history, tiny_config, weights

import wildstream as ws
import wildstream.stream.decode as decode_stage
import wildstream.stream.temporal as temporal
from wildstream.config.compose import check_config
from wildstream.evaluation.evaluate import evaluate
from wildstream.stream.plan import Segment
from wildstream.stream.samplers import Random
from wildstream.stream.temporal import TEMPORAL_SAMPLERS, TemporalSampler
from wildstream.stream.windows import SlidingStyle
from wildstream.training.trainer import Trainer
from wildstream.video import decode

STYLE = SlidingStyle(window_size=12, samples_per_window=4, step_size=3, temporal_sample_interval=2)
ALL = TemporalSampler(pick="jitter", speed=(0.3, 0.9), reverse=0.5)
SAMPLERS = {**TEMPORAL_SAMPLERS, "all": ALL}


@st.composite
def samplers(draw):
    low, high = sorted(draw(st.tuples(*[st.floats(0.01, 1)] * 2)))
    return TemporalSampler(
        pick=draw(st.sampled_from(["uniform", "chunk_random", "jitter"])),
        speed=draw(st.sampled_from([(1.0, 1.0), (0.5, 0.5), (low, high)])),
        reverse=draw(st.sampled_from([0.0, 0.5, 1.0])),
    )


def kept_frames(style, num_frames):
    """The source frames that are kept, one after the other: the padded video laid out as a list."""
    padded = list(range(num_frames))
    if style.padding == "edge":
        padded = [0] * ((style.window_size - 1) // 2) + padded + [num_frames - 1] * (style.window_size // 2)
    return padded[:: style.temporal_sample_interval]


def clip_by_definition(sampler, style, window, num_frames, draws):
    """Source frames of a window's clip, when chance says `draws`: of turning, speed, shift, then of each chunk."""
    frames = kept_frames(style, num_frames)[window * style.step_size :][: style.window_size]
    length = style.window_size // style.samples_per_window
    chunks = [range(first, first + length) for first in range(0, style.window_size, length)]
    places = {
        "uniform": [chunk[0] for chunk in chunks],
        "jitter": [chunk[int(draws[2] * length)] for chunk in chunks],
        "chunk_random": [chunk[int(draw * length)] for chunk, draw in zip(chunks, draws[3:], strict=True)],
    }[sampler.pick]
    low, high = sampler.speed
    factor = Fraction(low + (high - low) * draws[1])
    middle = (style.window_size - 1) - style.window_size // 2
    exact = [middle + (place - middle) * factor for place in places]
    nearest = [min(range(style.window_size), key=lambda n, place=place: (abs(n - place), -n)) for place in exact]
    clip = [frames[place] for place in nearest]
    return clip[::-1] if draws[0] < sampler.reverse else clip


def draws_of(style, window, seed, epoch, video):
    """What chance says of one window, asked for alone."""
    return temporal._draw(np.array([window]), 3 + style.samples_per_window, [seed, epoch, 2, video])[0].tolist()


def pick_of(sampler, style=STYLE, **address):
    return temporal.PickFrames(style=style, sampler=sampler, **address)


def segment_of(windows, video=0):
    numbers = np.asarray(windows, np.int64)
    return Segment(video=video, windows=numbers, positions=numbers, real=np.ones(len(numbers), bool))


# --- frames against the definition ------------------------------------------------------------------------------------


@given(styles(), samplers(), st.integers(1, 70), st.tuples(*[st.integers(0, 3)] * 3), st.data())
def test_frames_follow_the_definition(style, sampler, num_frames, address, data):
    count = int(style.num_windows(num_frames))
    if not count:
        return
    seed, epoch, video = address
    windows = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8))
    found = pick_of(sampler, style, seed=seed, epoch=epoch)(segment_of(windows, video), num_frames)
    expected = [
        clip_by_definition(sampler, style, window, num_frames, draws_of(style, window, *address)) for window in windows
    ]
    assert found.tolist() == expected


@given(styles(), samplers(), st.integers(1, 70), st.integers(0, 3))
def test_frames_lie_within_the_window_and_in_order(style, sampler, num_frames, seed):
    windows = np.arange(int(style.num_windows(num_frames)))
    if not len(windows):
        return
    offsets = sampler.offsets(style, windows, seed=seed, epoch=0, video=0)
    assert offsets.shape == (len(windows), style.samples_per_window)
    assert 0 <= offsets.min() <= offsets.max() < style.window_size
    steps = np.diff(offsets, axis=1)
    assert ((steps >= 0).all(axis=1) | ((steps <= 0).all(axis=1) & (sampler.reverse > 0))).all()
    if sampler.speed == (1.0, 1.0) and sampler.pick != "chunk_random":
        assert (abs(steps) == style.window_size // style.samples_per_window).all()


@pytest.mark.parametrize(
    ("sampler", "draws", "clip"),
    [
        (TemporalSampler(), (), [10, 14, 18, 22]),
        (TemporalSampler(pick="chunk_random"), (0, 0, 0, 0.2, 0.9, 0.5, 0.4), [10, 16, 20, 22]),
        (TemporalSampler(pick="jitter"), (0, 0, 0.7, 0, 0, 0, 0), [12, 16, 20, 24]),
        (TemporalSampler(speed=(0.4, 0.6)), (0, 0.5, 0, 0, 0, 0, 0), [14, 16, 18, 20]),
        (TemporalSampler(reverse=0.5), (0.49, 0, 0, 0, 0, 0, 0), [22, 18, 14, 10]),
        (TemporalSampler(reverse=0.5), (0.5, 0, 0, 0, 0, 0, 0), [10, 14, 18, 22]),
    ],
)
def test_the_picture_of_the_module(monkeypatch, sampler, draws, clip):
    style = SlidingStyle(window_size=8, samples_per_window=4, step_size=5, temporal_sample_interval=2, padding="none")
    monkeypatch.setattr(temporal, "_draw", lambda windows, count, key: np.array([draws] * len(windows), float))
    assert pick_of(sampler, style)(segment_of([1]), 99).tolist() == [clip]
    assert " ".join(map(str, clip)) in temporal.__doc__


def test_a_run_backwards_of_frames_that_are_the_same_both_ways_changes_nothing():
    still = SlidingStyle(window_size=6, samples_per_window=3, padding="edge")
    for reverse in (0.0, 1.0):
        assert pick_of(TemporalSampler(reverse=reverse), still)(segment_of([0]), 1).tolist() == [[0, 0, 0]]
    once, twice = (pick_of(TemporalSampler(reverse=1.0))(segment_of(range(9)), 60)[:, ::way] for way in (1, -1))
    assert (twice == STYLE.frames(range(9), 60)).all()
    assert not (once == twice).all()


# --- chance -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=6), st.integers(0, 900), st.integers(1, 9))
def test_chance_follows_from_the_window_alone(keys, first, count):
    whole = temporal._draw(np.arange(first, first + 30), count, keys)
    assert ((whole >= 0) & (whole < 1)).all()
    some = np.array([17, 3, 3, 29])
    assert (temporal._draw(first + some, count, keys) == whole[some]).all()


def test_chance_differs_by_seed_epoch_video_and_window():
    clips = {
        tuple(
            ALL.offsets(SlidingStyle(window_size=400, samples_per_window=4), np.array([window]), **address)[0].tolist()
        )
        for window in range(3)
        for address in (
            {"seed": seed, "epoch": epoch, "video": video}
            for seed in range(3)
            for epoch in range(3)
            for video in range(3)
        )
    }
    assert len(clips) == 81


def test_chance_is_even():
    """Over many windows each frame of each chunk, each shift, speed and way are as frequent as they should."""
    count, address = 200_000, {"seed": 1, "epoch": 2, "video": 3}
    windows, third = np.arange(count), pytest.approx([count / 3] * 3, rel=0.016)  # 5 standard deviations
    chunks = TemporalSampler(pick="chunk_random").offsets(STYLE, windows, **address)
    places = chunks - np.arange(0, 12, 3)
    for column in places.T:
        assert np.bincount(column).tolist() == third
    assert abs(np.corrcoef(places.T) - np.eye(4)).max() < 0.012, "chunks depend on each other"
    assert abs(np.corrcoef(places[:-1].ravel(), places[1:].ravel())[0, 1]) < 0.006, "neighbours depend on each other"
    shifts = TemporalSampler(pick="jitter").offsets(STYLE, windows, **address)[:, 0]
    assert np.bincount(shifts).tolist() == third
    ways = TemporalSampler(reverse=0.3).offsets(STYLE, windows, **address)[:, 0] > 0
    assert ways.mean() == pytest.approx(0.3, abs=0.005)
    wide = SlidingStyle(window_size=2000, samples_per_window=2)
    spans = np.diff(TemporalSampler(speed=(0.5, 1.0)).offsets(wide, windows, **address), axis=1) / 1000
    assert np.percentile(spans, [0, 25, 50, 75, 100]) == pytest.approx([0.5, 0.625, 0.75, 0.875, 1], abs=0.005)
    independent = np.corrcoef([shifts[:-1], ways[:-1], spans[:-1, 0], ways[1:], places[:-1, 0]])
    assert abs(independent - np.eye(5)).max() < 0.012


def test_chance_is_that_of_every_machine_and_version():
    offsets = TemporalSampler(pick="chunk_random", speed=(0.5, 1.0), reverse=0.5).offsets(
        SlidingStyle(window_size=64, samples_per_window=4), np.array([0, 7]), seed=3, epoch=2, video=1
    )
    assert offsets.tolist() == [[48, 32, 27, 21], [8, 18, 46, 55]]


# --- what is delivered ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tiny_shards):
    return ws.DatasetBuilder(path=tiny_shards / "train", style=STYLE).build()


@pytest.fixture(scope="module")
def videos(dataset, tiny_source):
    """Every frame of every video by its key, decoded straight from the first."""
    frames = {}
    for video, key in enumerate(dataset.index.keys):
        table = replace(dataset.index.frame_table(video), key_frames=np.zeros(1, np.int64))
        data = read_tensor(tiny_source / "train" / key.split("/")[-1] / f"{key.split('/')[-1]}.mp4")
        frames[key] = torch.stack([frame for _, frame in decode(data, range(60), table, device=torch.device("cpu"))])
    return frames


def clips(*loaders):
    """The frames of every clip that counts, by its address; a window that comes twice must come alike."""
    found = {}
    for loader in loaders:
        for batch in loader:
            for row in torch.nonzero(batch.mask).flatten().tolist():
                address = batch.keys[row], int(batch.starts[row])
                assert address not in found or torch.equal(found[address], batch.frames[row])
                found[address] = batch.frames[row].clone()
    return found


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[address], other[address]) for address in one)


OPTIONS = {"batch_size": 5, "shuffle": True, "seed": 4, "segment_frames": 24}


@pytest.mark.parametrize("padding", ["edge", "none"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_clips_are_the_frames_that_are_named(tiny_shards, videos, name, padding):
    style = replace(STYLE, padding=padding)
    dataset = ws.DatasetBuilder(path=tiny_shards / "train", style=style).build()
    loader = dataset.loader(temporal_sampler=name if name in TEMPORAL_SAMPLERS else ALL, **OPTIONS)
    loader.set_epoch(2)
    found = clips(loader)
    assert len(found) == len(dataset) > 20
    for (key, start), frames in found.items():
        window = (start + style.pad_front) // (style.step_size * style.temporal_sample_interval)
        draws = draws_of(style, window, 4, 2, dataset.index.keys.index(key))
        expected = clip_by_definition(SAMPLERS[name], style, window, 60, draws)
        assert torch.equal(frames, videos[key][expected])


@pytest.mark.parametrize("sampler", [*SAMPLERS.values()], ids=[*SAMPLERS])
def test_only_the_frames_that_are_picked_are_decoded_and_each_once(dataset, monkeypatch, sampler):
    decoded = []

    def watched(data, wanted, *arguments, **options):
        decoded.append(wanted.tolist())
        return decode(data, wanted, *arguments, **options)

    monkeypatch.setattr(decode_stage, "decode", watched)
    loader = dataset.loader(temporal_sampler=sampler, num_workers=1, **OPTIONS)
    loader.set_epoch(1)
    list(loader)
    expected = []
    for segment in loader.plan().segments(loader.share()):
        draws = [draws_of(STYLE, window, 4, 1, segment.video) for window in segment.windows.tolist()]
        picked = zip(segment.windows.tolist(), draws, strict=True)
        expected.append(
            sorted({frame for window, draw in picked for frame in clip_by_definition(sampler, STYLE, window, 60, draw)})
        )
    assert decoded == expected
    footprint, cost = loader.footprint(), loader.decoding_cost()
    assert footprint.converted_frames == sum(map(len, expected))
    assert footprint.segment_bytes == max(map(len, expected)) * 3 * 48 * 64
    assert footprint.needed_frames == cost.needed_frames <= footprint.converted_frames <= cost.decoded_frames


def test_clips_are_the_same_for_every_number_of_ranks_and_workers(dataset):
    options = {"temporal_sampler": ALL, **OPTIONS}
    one = clips(dataset.loader(num_workers=1, **options))
    assert len(one) == len(dataset)
    assert same(one, clips(*(dataset.loader(rank=rank, world_size=2, **options) for rank in range(2))))
    assert same(one, clips(dataset.loader(num_workers=3, **options)))
    # nor on how windows are grouped, drawn or ordered
    assert same(one, clips(dataset.loader(**options | {"segment_frames": 90, "lanes": 4, "shuffle": False})))
    some = clips(dataset.loader(sampler=Random(num_windows=9), **options))
    assert same(some, {address: one[address] for address in some})


def test_processes_give_the_same_clips_as_threads(dataset):
    options = {"temporal_sampler": ALL, **OPTIONS}
    threads, processes = (dataset.loader(num_workers=2, workers=how, **options) for how in ("threads", "processes"))
    assert same(clips(threads), clips(processes))


def test_a_window_that_is_drawn_twice_has_the_same_frames_both_times(dataset):
    sampler = Random(num_windows=4 * len(dataset), replacement=True)
    loader = dataset.loader(sampler=sampler, temporal_sampler=ALL, **OPTIONS)
    assert 0 < len(clips(loader)) <= len(dataset)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resume_in_mid_epoch_is_exact(dataset, world_size):
    def loaders():
        spread = {"world_size": world_size, "temporal_sampler": ALL, **OPTIONS}
        return [dataset.loader(rank=rank, **spread) for rank in range(world_size)]

    calm, left, again = loaders(), loaders(), loaders()
    for loader in (*calm, *left):
        loader.set_epoch(3)
    whole = [list(loader) for loader in calm]
    for rank, loader in enumerate(left):
        iterator = iter(loader)
        next(iterator), next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
        again[rank].load_state_dict(state)
        rest = list(again[rank])
        assert len(rest) == len(whole[rank]) - 2 > 0
        for expected, found in zip(whole[rank][2:], rest, strict=True):
            assert (expected.keys, expected.starts.tolist()) == (found.keys, found.starts.tolist())
            assert torch.equal(expected.frames, found.frames)


def test_epochs_and_seeds_differ_and_come_again(dataset):
    def epoch(number, **options):
        loader = dataset.loader(temporal_sampler="chunk_random", **OPTIONS | options)
        loader.set_epoch(number)
        return clips(loader)

    first = epoch(0)
    assert same(first, epoch(0))
    for other in (epoch(1), epoch(0, seed=5)):
        assert first.keys() == other.keys()
        changed = [not torch.equal(first[address], other[address]) for address in first]
        assert sum(changed) > 0.8 * len(changed)


def test_uniform_is_what_there_is_without(dataset):
    plain = dataset.loader(**OPTIONS)
    uniform = dataset.loader(temporal_sampler=TemporalSampler(speed=(1, 1), reverse=0), **OPTIONS)
    assert same(clips(plain), clips(uniform))
    assert plain.footprint() == uniform.footprint()
    order = (True, plain.lanes, plain.pool_segments, 24, "None")
    facts = json.dumps([dataset.index.fingerprint, STYLE.as_dict(), order])  # as before there were temporal samplers
    expected = hashlib.sha256(facts.encode()).hexdigest()[:16]
    assert plain.fingerprint == uniform.fingerprint == expected
    assert "clips by" not in repr(plain)


def test_a_state_of_another_temporal_sampler_is_refused(dataset):
    prints = set()
    for sampler in (*SAMPLERS.values(), replace(ALL, reverse=0.4), replace(ALL, speed=(0.3, 0.8))):
        loader = dataset.loader(temporal_sampler=sampler, **OPTIONS)
        prints.add(loader.fingerprint)
        with pytest.raises(ws.ConfigError, match="the state is of other data, style, sampler or order"):
            loader.load_state_dict(dataset.loader(temporal_sampler=replace(ALL, reverse=0.1), **OPTIONS).state_dict())
    assert len(prints) == len(SAMPLERS) + 2
    assert "clips by TemporalSampler(pick='jitter', speed=(0.3, 0.8), reverse=0.5)" in repr(loader)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"pick": "middle"}, r"pick='middle' must be one of 'uniform', 'chunk_random', 'jitter'"),
        ({"speed": (0.5, 1.5)}, r"speed=\(0.5, 1.5\) must be the lowest and the highest, 0 < lowest <= highest <= 1"),
        ({"speed": (0, 1)}, r"speed=\(0, 1\) must be"),
        ({"speed": (1, 0.5)}, r"speed=\(1, 0.5\) must be"),
        ({"speed": (0.5,)}, r"speed=\(0.5,\) must be"),
        ({"speed": 0.5}, r"speed=0.5 must be"),
        ({"speed": (float("nan"), 1)}, r"speed=\(nan, 1\) must be"),
        ({"reverse": 1.1}, r"reverse=1.1 must be a probability, within \[0, 1\]"),
        ({"reverse": float("nan")}, r"reverse=nan must be"),
    ],
)
def test_values_out_of_range_are_refused(parameters, message):
    with pytest.raises(ws.ConfigError, match=message):
        TemporalSampler(**parameters)


FULL = SlidingStyle(window_size=4, samples_per_window=4)
SINGLE = SlidingStyle(window_size=4, samples_per_window=1)


@pytest.mark.parametrize(
    ("style", "sampler", "message"),
    [
        (FULL, "chunk_random", "pick='chunk_random' takes window_size > samples_per_window, but both are 4"),
        (FULL, "jitter", "pick='jitter' takes window_size > samples_per_window"),
        (FULL, "speed", None),
        (FULL, "reverse", None),
        (SINGLE, "chunk_random", None),
        (SINGLE, "jitter", None),
        (SINGLE, "speed", r"speed=\(0.5, 1.0\) takes samples_per_window > 1"),
        (SINGLE, "reverse", "reverse=0.5 takes samples_per_window > 1"),
        (STYLE, "fast", "temporal_sampler='fast' is not known. Take one of uniform, chunk_random, jitter, speed, rev"),
        (STYLE, ["jitter", "reverse"], r"temporal_sampler=\['jitter', 'reverse'\] is not known"),
    ],
)
def test_what_can_do_nothing_is_refused(tiny_shards, style, sampler, message):
    dataset = ws.DatasetBuilder(path=tiny_shards / "train", style=style).build()
    if message is None:
        assert dataset.loader(batch_size=2, temporal_sampler=sampler)
        return
    with pytest.raises(ws.ConfigError, match=message):
        dataset.loader(batch_size=2, temporal_sampler=sampler)


def test_features_have_no_frames_to_pick(tiny_shards, tmp_path):
    from wildstream.features.extract import extract

    extract(tiny_shards / "val", tmp_path, backbone="test_byobnet", style=STYLE, size=32, progress=False, device="cpu")
    dataset = ws.DatasetBuilder(path=tmp_path / "val", style=STYLE, precomputed=True).build()
    assert dataset.loader(batch_size=2, temporal_sampler="uniform")
    with pytest.raises(ws.ConfigError, match="picks frames, and features have none"):
        dataset.loader(batch_size=2, temporal_sampler="jitter")


# --- a training -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


WIDE = "data.style={window_size: 8, samples_per_window: 4, step_size: 2, tolerance_region: 0}"


def test_a_training_picks_frames_and_its_validation_does_not(tmp_path_factory, tmp_path, monkeypatch, fresh_accelerate):
    shards, loaders = frames_shards(tmp_path_factory), []
    learn = Trainer.train

    def watched(self):
        loaders.append((self.train_loader, self.val_loader))
        learn(self)

    monkeypatch.setattr(Trainer, "train", watched)
    runs = {}
    for name, overrides in {
        "plain": (),
        "uniform": ("augment.temporal_sampler=uniform",),
        "joined": ("augment.temporal_sampler={pick: jitter, reverse: 0.5}", "augment.temporal_sampler.speed=[0.5,1]"),
    }.items():
        runs[name] = ws.train(tiny_config(shards, tmp_path / name, WIDE, *overrides))
        AcceleratorState._reset_state(reset_partial_state=True)
    assert [train.temporal_sampler for train, _ in loaders] == [
        TemporalSampler(),
        TemporalSampler(),
        TemporalSampler(pick="jitter", speed=(0.5, 1.0), reverse=0.5),
    ]
    assert all(val.temporal_sampler == TemporalSampler() for _, val in loaders)
    plain, uniform, joined = (weights(run) for run in runs.values())
    assert all(torch.equal(plain[name], uniform[name]) for name in plain)
    assert not all(torch.equal(plain[name], joined[name]) for name in plain)
    assert history(runs["joined"])[0]["train"]["delivered"] == history(runs["plain"])[0]["train"]["delivered"]
    found = evaluate(runs["joined"], split="val", progress=False).metrics
    assert found["mAP"] == pytest.approx(history(runs["joined"])[-1]["val"]["mAP"], abs=1e-6)
    other = tiny_config(shards, runs["joined"], WIDE, "augment.temporal_sampler=jitter", "trainer.resume=auto")
    with pytest.raises(ws.ConfigError, match=r"holds a run with augment.temporal_sampler={'pick': 'jitter', 'speed'"):
        ws.train(other)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["augment.temporal_sampler=fast"], "augment.temporal_sampler='fast' is not known. Take one of uniform, chunk"),
        (["augment.temporal_sampler=jitter", WIDE.replace("8", "4")], "augment.temporal_sampler.pick='jitter' takes"),
        (["augment.temporal_sampler.pick=fast"], "augment.temporal_sampler.pick='fast' must be 'uniform', 'chunk_ra"),
        (["augment.temporal_sampler.speed=[0.5,2]"], "augment.temporal_sampler.speed=(0.5, 2.0) must be the lowest"),
        (["augment.temporal_sampler.speed=[0.5]"], "augment.temporal_sampler.speed=(0.5,) must be the lowest"),
        (["augment.temporal_sampler.reverse=2"], "augment.temporal_sampler.reverse=2 must be less than or equal to 1"),
        (["augment.temporal_sampler.backwards=1"], "augment.temporal_sampler.backwards is not an option."),
        (["augment.temporal_sampler=reverse", "data.precomputed=true"], "augment.temporal_sampler picks frames, and"),
    ],
)
def test_wrong_options_are_refused(tmp_path, overrides, message):
    with pytest.raises(ws.ConfigError) as caught:
        tiny_config(tmp_path, tmp_path, WIDE, *overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", TEMPORAL_SAMPLERS)
def test_the_options_of_a_run_are_read_back_as_they_were(tmp_path, name):
    config = tiny_config(tmp_path, tmp_path, WIDE, f"augment.temporal_sampler={name}")
    assert config.augment.make_temporal_sampler() == TEMPORAL_SAMPLERS[name]
    again = check_config(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again.augment.make_temporal_sampler() == TEMPORAL_SAMPLERS[name]
    assert tiny_config(tmp_path, tmp_path, WIDE).augment.make_temporal_sampler() == TemporalSampler()
