"""Groups dealt to splits: shares, classes, and what must hold whatever the groups are."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wildstream.shards.grouping import unite
from wildstream.shards.stratify import _Dealing, stratify

SHARES = np.array([0.8, 0.1, 0.1])


def deal(amounts, sizes, shares=SHARES, seed=0):
    ranks = np.random.default_rng(seed).permutation(len(sizes))
    videos = np.ones(len(sizes), np.int64)
    return stratify(np.asarray(amounts, np.int64), np.asarray(sizes, np.int64), videos, np.asarray(shares), ranks)


def unevenness(amounts, sizes, split, shares=SHARES):
    """How far the shares of the classes are from those wanted: the mean over classes and splits."""
    found = np.stack([amounts[split == number].sum(axis=0) for number in range(len(shares))])
    return np.abs(found / amounts.sum(axis=0) - np.asarray(shares)[:, None]).mean()


@st.composite
def groups(draw):
    num_splits = draw(st.integers(1, 4))
    num_groups = draw(st.integers(num_splits, 14))
    num_classes = draw(st.integers(0, 3))
    sizes = np.array(draw(st.lists(st.integers(1, 30), min_size=num_groups, max_size=num_groups)))
    parts = st.lists(st.integers(0, 30), min_size=num_groups * num_classes, max_size=num_groups * num_classes)
    amounts = np.minimum(np.array(draw(parts), np.int64).reshape(num_groups, num_classes), sizes[:, None])
    parts = draw(st.lists(st.integers(1, 5), min_size=num_splits - 1, max_size=num_splits - 1))
    shares = np.array([16 - sum(parts), *parts]) / 16  # of which sums and products have no rounding
    return amounts, sizes, shares, draw(st.integers(0, 5))


@given(groups())
def test_every_split_has_its_share_but_for_one_group(case):
    amounts, sizes, shares, seed = case
    split = deal(amounts, sizes, shares, seed)
    assert split.shape == sizes.shape
    assert sorted(set(split.tolist())) == list(range(len(shares))), "no split is empty, no group is left"
    surplus = np.bincount(split, sizes, len(shares)) - shares * sizes.sum()
    assert surplus.max() <= sizes.max() + 1e-6
    if surplus.min() < -sizes.max() - 1e-6:  # only where nobody can give a group away
        assert (np.bincount(split)[surplus > 1e-6] == 1).all()


@given(groups(), st.booleans())
def test_shares_are_evened_out_whoever_was_chosen(case, last):
    """Of those that have room the first, or the last: what comes then makes up for it."""
    amounts, sizes, shares, seed = case

    def choose(self, group):
        empty = self.count == 0
        able = empty if (self.split < 0).sum() == empty.sum() else self.wanted[:, -1] > 1e-9
        return int(np.flatnonzero(able)[-1 if last else 0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Dealing, "_nearest", choose)
        split = deal(amounts, sizes, shares, seed)
    surplus = np.bincount(split, sizes, len(shares)) - shares * sizes.sum()
    assert surplus.max() <= sizes.max() + 1e-6
    assert surplus.min() >= -sizes.max() - 1e-6 or (np.bincount(split)[surplus > 1e-6] == 1).all()


@given(groups())
def test_the_same_groups_are_dealt_alike(case):
    amounts, sizes, shares, seed = case
    assert deal(amounts, sizes, shares, seed).tolist() == deal(amounts, sizes, shares, seed).tolist()


def test_groups_of_one_class_are_dealt_in_exact_shares():
    """Of 100 and of 20 equal videos of a class 80, 10, 10 and 16, 2, 2."""
    labels = np.repeat(np.eye(2, dtype=np.int64), [100, 20], axis=0)
    split = deal(labels, np.ones(120))
    for number in range(2):
        assert np.bincount(split[labels[:, number] > 0]).tolist() == [[80, 10, 10], [16, 2, 2]][number]


def test_rare_classes_are_in_every_split_where_chance_would_lose_them():
    """Skewed: class c in about 1 of 2 ** c videos, often several, amounts from 1 to 1,000."""
    random = np.random.default_rng(7)
    has = random.random((400, 6)) < 0.5 ** np.arange(1, 7)
    amounts = np.where(has, np.exp(random.uniform(0, np.log(1000), has.shape)).astype(np.int64) + 1, 0)
    sizes = amounts.sum(axis=1) + random.integers(1, 100, 400)
    found = [unevenness(amounts, sizes, deal(amounts, sizes, seed=seed)) for seed in range(5)]
    chance = [unevenness(amounts, sizes, deal(amounts[:, :0], sizes, seed=seed)) for seed in range(20)]
    assert max(found) < min(chance) / 3
    assert len({tuple(deal(amounts, sizes, seed=seed)) for seed in range(5)}) == 5, "seeds differ"
    shares = np.bincount(deal(amounts, sizes), sizes) / sizes.sum()
    assert shares == pytest.approx(SHARES, abs=0.02)


def check_by_hand(amounts, sizes, shares, ranks, found):
    """Follow the algorithm word by word, in exact fractions: is what was found one of the best choices, each time?"""
    shares = [Fraction(share) for share in shares]
    splits, left = range(len(shares)), dict(enumerate(amounts.tolist()))
    columns = [[*row, 1, size] for row, size in zip(amounts.tolist(), sizes.tolist(), strict=True)]
    totals = [max(1, sum(column)) for column in zip(*columns, strict=True)]
    parts = [[Fraction(value, total) for value, total in zip(row, totals, strict=True)] for row in columns]
    has, taken = [[Fraction()] * len(totals) for _ in splits], set()

    def lacking(split, row):
        wants = (shares[split] * (total > 0) for total in (sum(column) for column in zip(*parts, strict=True)))
        return sum((want - there) ** 2 for want, there in zip(wants, row, strict=True)) / shares[split]

    def place(order):
        for group in order:
            empty = [split for split in splits if split not in taken]
            able = empty if len(left) == len(empty) else [s for s in splits if has[s][-1] < shares[s]]
            more = {s: [one + other for one, other in zip(has[s], parts[group], strict=True)] for s in able}
            costs = {s: lacking(s, more[s]) - lacking(s, has[s]) for s in able}
            split = found[group]
            assert split in able
            assert costs[split] - min(costs.values()) < 1e-9
            has[split] = more[split]
            taken.add(split)
            left.pop(group)

    while classes := {n: sum(row[n] > 0 for row in left.values()) for n in range(amounts.shape[1])}:
        if not any(classes.values()):
            break
        rarest = min((n for n in classes if classes[n]), key=lambda n: (classes[n], n))
        having = [group for group, row in left.items() if row[rarest]]
        place(sorted(having, key=lambda group: (-amounts[group][rarest].item().bit_length(), ranks[group])))
    place(sorted(left, key=lambda group: (-sizes[group].item().bit_length(), ranks[group])))


@given(groups())
def test_it_is_what_the_docstring_says(case):
    amounts, sizes, shares, seed = case
    ranks = np.random.default_rng(seed).permutation(len(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Dealing, "even_out", lambda self: None)
        found = deal(amounts, sizes, shares, seed)
    check_by_hand(amounts, sizes, shares, ranks.tolist(), found.tolist())


def test_small_splits_get_no_shorter_videos_than_others():
    random = np.random.default_rng(0)
    sizes = np.exp(random.normal(6, 0.7, 400)).astype(np.int64) + 10
    amounts = (
        (random.random((400, 5)) < [0.7, 0.5, 0.3, 0.15, 0.07]) * random.random((400, 5)) * sizes[:, None]
    ).astype(int)
    assert np.bincount(deal(amounts, sizes)) / 400 == pytest.approx(SHARES, abs=0.02)


def test_it_is_among_the_best_of_all_ways():
    """Against all 3 ** 9 ways to deal 9 groups, of which some have classes, that keep the shares as well."""
    ways = np.stack(np.meshgrid(*[np.arange(3)] * 9), axis=-1).reshape(-1, 9)
    shares, better = np.array([0.5, 0.25, 0.25]), []
    for seed in range(10):
        random = np.random.default_rng(seed)
        amounts = random.integers(1, 10, (9, 2)) * (random.random((9, 2)) < 0.6)
        amounts[:3] += 1
        sizes = amounts.sum(axis=1) + 5
        there = np.stack([(ways == number) @ sizes for number in range(3)], axis=1)
        able = ways[(np.abs(there - shares * sizes.sum()) <= sizes.max()).all(axis=1)]
        found = unevenness(amounts, sizes, deal(amounts, sizes, shares, seed), shares)
        better.append(np.mean([unevenness(amounts, sizes, way, shares) < found for way in able[::20]]))
    assert np.mean(better) < 0.15


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), max_size=12))
def test_united_is_what_is_connected(pairs):
    """Against the closure of the relation by brute force."""
    first, second = ([pair[place] for pair in pairs] for place in (0, 1))
    near = np.array([[a == c or b == d for c, d in pairs] for a, b in pairs], bool).reshape(len(pairs), len(pairs))
    for _ in pairs:
        near = (near.astype(int) @ near.astype(int)) > 0
    assert unite(first, second) == [int(np.flatnonzero(row)[0]) for row in near]
