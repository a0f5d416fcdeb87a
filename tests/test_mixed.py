"""Sources mixed by weight: exact shares, no needless repetition, resume, any number of ranks, and training."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from indexes import make_video, write_index
from tiny import frames_shards, history, tiny_config

import wildstream as ws
from wildstream.errors import ConfigError
from wildstream.stream.samplers import Mixed
from wildstream.training.run import train

STYLE = ws.SlidingStyle(window_size=4, samples_per_window=4, step_size=2, tolerance_region=0, padding="none")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """lab has 4 videos of 19 windows, zoo 2 of 9, sea one of 1."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, number, frames in (("lab", 4, 40), ("zoo", 2, 20), ("sea", 1, 4)):
        videos = [make_video(f"v{n}", np.ones((frames, 1))) for n in range(number)]
        write_index(folder / name, videos, categories=["x"])
    ws.merge(folder / "out", {name: folder / name for name in ("lab", "zoo", "sea")})
    return ws.DatasetBuilder(path=folder / "out", style=STYLE, only_labels=True).build()


def draw(sampler, seed=0):
    counts = sampler.counts
    return sampler.draw(int(counts.sum()), lambda: None, np.random.default_rng(seed))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=8),
    st.dictionaries(st.sampled_from("abc"), st.floats(0.01, 10), min_size=3, max_size=3),
    st.integers(1, 200),
)
def test_shares_are_exact_and_windows_come_as_often_as_others(videos, weights, total):
    there = Counter()
    for name, count in videos:
        there[name] += count
    mix = {name: weights[name] for name in there if there[name]}
    videos = [(name, count) for name, count in videos if name in mix]
    if not videos:
        return
    sampler = Mixed(
        origins=[name for name, _ in videos],
        counts=np.array([count for _, count in videos]),
        mix=mix,
        num_windows=total,
    )
    drawn = draw(sampler)
    assert len(drawn) == total == sampler.size(int(sampler.counts.sum()), lambda: None)
    assert (np.diff(drawn) >= 0).all()
    source = np.repeat([name for name, _ in videos], [count for _, count in videos])
    for name, weight in mix.items():
        mine = drawn[source[drawn] == name]
        assert abs(len(mine) - total * weight / sum(mix.values())) < 1 + 1e-6
        times = Counter(mine.tolist())
        every = [times[window] for window in np.flatnonzero(source == name).tolist()]
        assert max(every) - min(every) <= 1


def test_what_is_left_goes_to_the_largest_remainders():
    sampler = Mixed(origins=list("abc"), counts=np.array([9, 9, 9]), mix={"a": 5, "b": 3, "c": 2}, num_windows=7)
    assert np.bincount(draw(sampler) // 9).tolist() == [4, 2, 1]  # of 3.5, 2.1 and 1.4
    sampler = Mixed(origins=list("abc"), counts=np.array([9, 9, 9]), mix={"a": 1, "b": 1, "c": 1}, num_windows=8)
    assert np.bincount(draw(sampler) // 9).tolist() == [3, 3, 2]


def test_an_epoch_has_the_shares_on_any_number_of_ranks(dataset):
    sampler = dataset.mixed({"lab": 1, "zoo": 2, "sea": 1}, num_windows=40)
    orders = []
    for world_size in (1, 2, 3):
        loaders = [
            dataset.loader(batch_size=2, sampler=sampler, seed=4, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        found = []
        for loader in loaders:
            loader.set_epoch(2)
            found.append([
                (key, start)
                for batch in loader
                for key, start, real in zip(batch.keys, batch.starts.tolist(), batch.mask.tolist(), strict=True)
                if real
            ])  # fmt: skip
        orders.append(sorted(address for part in found for address in part))
        assert Counter(key.split("/")[0] for key, _ in orders[-1]) == {"lab": 10, "zoo": 20, "sea": 10}
    assert orders[0] == orders[1] == orders[2]
    of_zoo = Counter(address for address in orders[0] if address[0].startswith("zoo/"))
    assert sorted(of_zoo.values()) == [1] * 16 + [2] * 2  # 18 windows, 20 drawn


def test_the_default_is_in_proportion_to_windows_and_each_comes_once(dataset):
    batches = list(dataset.loader(batch_size=4, sampler=dataset.mixed(), seed=0))
    found = [(key, start) for batch in batches for key, start in zip(batch.keys, batch.starts.tolist(), strict=True)]
    real = [address for address, mask in zip(found, [m for b in batches for m in b.mask.tolist()], strict=True) if mask]
    assert len(real) == len(set(real)) == len(dataset) == 95


def test_an_epoch_that_is_left_goes_on_and_epochs_differ(dataset):
    def loader(**mix):
        return dataset.loader(batch_size=3, sampler=dataset.mixed(mix), seed=1, rank=0, world_size=1)

    mix = {"lab": 1, "zoo": 1, "sea": 1}
    whole = [(batch.keys, batch.starts.tolist()) for batch in loader(**mix)]
    one = loader(**mix)
    begun = iter(one)
    for _ in range(5):
        next(begun)
    other = loader(**mix)
    other.load_state_dict(one.state_dict())
    assert [(batch.keys, batch.starts.tolist()) for batch in other] == whole[5:]
    other.set_epoch(1)
    assert [(batch.keys, batch.starts.tolist()) for batch in other] != whole
    with pytest.raises(ConfigError, match=r"the state is of other data, style, sampler or order"):
        loader(**mix | {"sea": 2}).load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"lab": 1, "zoo": 1, "see": 1}, r"mix: there is no source 'see'; did you mean 'sea'\?"),
        ({"lab": 1, "q": 1}, r"mix: there is no source 'q'; there are lab, sea, zoo\."),
        ({"lab": 1, "zoo": 1}, r"mix has no weight for sea\. Give each source one"),
        ({"lab": 1, "zoo": 0, "sea": 1}, r"mix: zoo=0 must be more than 0"),
        ({"lab": 1, "zoo": float("nan"), "sea": 1}, r"mix: zoo=nan must be more than 0"),
    ],
)
def test_weights_of_other_sources_are_refused(dataset, mix, message):
    with pytest.raises(ConfigError, match=message):
        dataset.mixed(mix)


def test_an_index_that_was_not_merged_has_nothing_to_mix(tiny_shards):
    with pytest.raises(ConfigError, match=r"sampler=mixed wants to know the source of each video"):
        ws.DatasetBuilder(path=tiny_shards / "train", style=STYLE).build().mixed()


def test_a_source_without_windows_is_named(dataset):
    style = ws.SlidingStyle(window_size=8, samples_per_window=4, step_size=2, padding="none")
    short = ws.DatasetBuilder(path=dataset.index.folder, style=style).build()
    with pytest.raises(ConfigError, match=r"mix: sea has no window of this style; its videos are too short"):
        short.mixed({"lab": 1, "zoo": 1, "sea": 1})
    with pytest.raises(ConfigError, match=r"the mix is of 95 windows, but there are \d+"):
        len(short.loader(batch_size=2, sampler=dataset.mixed()))


def test_training_takes_the_mix(tmp_path, tmp_path_factory, monkeypatch):
    shards = frames_shards(tmp_path_factory)
    ws.merge(tmp_path / "both", {"lab": shards, "zoo": shards})
    seen = Counter()
    from wildstream.training.trainer import Trainer

    options = ("data.sampler=mixed", "data.num_windows=24")
    with pytest.raises(ConfigError, match=r"mix: there is no source 'laab'; did you mean 'lab'\?"):
        train(tiny_config(tmp_path / "both", tmp_path / "no", *options, "data.mix={laab: 1}"))
    with pytest.raises(ConfigError, match=r"data\.mix=.* goes with data\.sampler=mixed, not shuffle"):
        tiny_config(tmp_path / "both", tmp_path / "no", "data.mix={lab: 1, zoo: 1}")
    with pytest.raises(ConfigError, match=r"mix"):
        tiny_config(tmp_path / "both", tmp_path / "no", *options, "data.mix={lab: 0, zoo: 1}")
    original = Trainer.__init__

    def spy(self, *arguments, **named):
        original(self, *arguments, **named)
        loader = next(value for value in [*arguments, *named.values()] if getattr(value, "sampler", None))
        for batch in loader.__class__(**{**vars_of(loader), "only_labels": True}):
            seen.update(key.split("/")[0] for key, real in zip(batch.keys, batch.mask.tolist(), strict=True) if real)

    monkeypatch.setattr(Trainer, "__init__", spy)
    run = train(tiny_config(tmp_path / "both", tmp_path / "run", *options, "data.mix={lab: 3, zoo: 1}"))
    assert seen == {"lab": 18, "zoo": 6}
    assert len(history(run)) == 1
    assert json.loads((run / "last" / "manifest.json").read_text())


def vars_of(loader):
    from dataclasses import fields

    return {field.name: getattr(loader, field.name) for field in fields(loader) if field.init}
