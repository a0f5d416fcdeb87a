"""Groups of videos → splits of given shares that have each class in these shares too; numpy alone, no videos.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas: "On the stratification of multi-label data", ECML PKDD 2011)
over groups in place of single examples, and amounts of each class in place of 0 and 1:

    while groups with a class are left    take the class that the fewest of them have
      for each of its groups              the split that it brings nearest to what it should have
    groups without any class              likewise

There "nearest" is the split that still wants most of that class. Here it is the least sum of squares, over all classes
of the group, its size and its number of videos, of what splits lack, each as a part of the whole and by the share of
the split: a(a - 2w) / s, for an amount a of which w is wanted. And the large groups of a class come before the small
ones, which then even out what those left. In 20 generated sets of 100 videos with 5 classes (0.8, 0.1, 0.1), shares of
classes differ by 0.013 in the mean from those wanted, with the paper's rule by 0.034, by chance by 0.079. With its rule
and the large ones first it is 0.011, but the small splits get the short videos, 29 % of all in place of 20 %.

Besides, a split that has its share of the whole gets nothing more, and no split stays empty. What a split has differs
from its share by one group, the largest, at most; by more only where all splits that have too much have one group each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Numbers = npt.NDArray[np.float64]

_ROUNDING = 1e-9
"""What counts as nothing, as a part of the whole."""


def stratify(amounts: Ints, sizes: Ints, videos: Ints, shares: Numbers, ranks: Ints) -> Ints:
    """Deal groups to splits.

    Args:
        amounts: (num_groups, num_classes) how much of each class a group has, such as frames; not negative.
        sizes: (num_groups,) how large each group is, such as all its frames; positive. Of these, splits get their
            shares.
        videos: (num_groups,) videos of each; positive.
        shares: (num_splits,) of the whole that each split should have; positive, their sum is 1. There are at least
            as many groups as splits.
        ranks: (num_groups,) each number once, at random: which of two groups that are about as large comes first.

    Returns:
        (num_groups,) number of the split of each group.
    """
    columns = np.column_stack([amounts, videos, sizes]).astype(np.float64)
    parts = columns / np.maximum(columns.sum(axis=0), 1)
    dealing = _Dealing(
        parts=parts,
        shares=shares,
        ranks=ranks,
        split=np.full(len(sizes), -1, np.int64),
        wanted=np.repeat(shares[:, np.newaxis], parts.shape[1], axis=1),
        count=np.zeros(len(shares), np.int64),
    )
    dealing.deal(amounts, sizes)
    dealing.even_out()
    return dealing.split


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Dealing:
    """Who has what so far, and who wants what."""

    parts: Numbers
    """(num_groups, num_classes + 2) what each group has of each class, the videos and the sizes; that of all is 1."""
    shares: Numbers
    ranks: Ints
    split: Ints
    """(num_groups,) -1 where a group is not dealt yet."""
    wanted: Numbers
    """(num_splits, num_classes + 2) what each split still wants of the same; negative where it has too much."""
    count: Ints
    """(num_splits,) groups that it has."""

    def deal(self, amounts: Ints, sizes: Ints) -> None:
        """Deal all groups, those of the rarest class first."""
        has = amounts > 0
        left = has.sum(axis=0)
        while left.any():
            rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
            for group in self._in_order(np.flatnonzero((self.split < 0) & has[:, rarest]), amounts[:, rarest]):
                self._give(group, self._nearest(group))
                left -= has[group]
        for group in self._in_order(np.flatnonzero(self.split < 0), sizes):
            self._give(group, self._nearest(group))

    def even_out(self) -> None:
        """Move groups from splits with too much to those that lack more than the largest group.

        Each move lessens the sum of what splits have too much or too little, so there is an end.
        """
        room, largest = self.wanted[:, -1], self.parts[:, -1].max()
        while True:
            needy = int(np.argmax(room))
            donors = np.flatnonzero((room < -_ROUNDING) & (self.count > 1))
            if room[needy] <= largest + _ROUNDING or not len(donors):
                return
            donor = int(donors[np.argmin(room[donors])])
            groups = np.flatnonzero(self.split == donor)
            parts = self.parts[groups]
            cost = (parts * (parts - 2 * self.wanted[needy])).sum(axis=1) / self.shares[needy]
            cost += (parts * (parts + 2 * self.wanted[donor])).sum(axis=1) / self.shares[donor]
            self._give(int(groups[np.lexsort((self.ranks[groups], cost))[0]]), needy)

    def _in_order(self, groups: Ints, amount: Ints) -> list[int]:
        """Groups from large to small, those within a power of two of each other at random, so that seeds differ."""
        magnitude = np.frexp(amount[groups].astype(np.float64))[1]
        ordered: list[int] = groups[np.lexsort((self.ranks[groups], -magnitude))].tolist()
        return ordered

    def _nearest(self, group: int) -> int:
        """The split that the group brings nearest to what it should have."""
        room = self.wanted[:, -1]
        able = self.count == 0
        if len(self.split) - self.count.sum() > np.count_nonzero(able):  # else each of the empty ones needs one
            able = room > _ROUNDING
            if not able.any():
                able = room == room.max()
        splits = np.flatnonzero(able)
        part = self.parts[group]
        cost = ((part - 2 * self.wanted[splits]) @ part) / self.shares[splits]
        return int(splits[np.argmin(cost)])

    def _give(self, group: int, split: int) -> None:
        """Give a group to a split, be it from another one."""
        before = int(self.split[group])
        for who, sign in ((before, 1), (split, -1)):
            if who >= 0:
                self.wanted[who] += sign * self.parts[group]
                self.count[who] -= sign
        self.split[group] = split
