"""The ledger of an epoch: planned = delivered + skipped + padded, or it is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wildstream.errors import LedgerError, SampleError

if TYPE_CHECKING:
    from wildstream.samples import Batch


@dataclass(slots=True)
class Ledger:
    """What became of the windows that were planned, of one rank or of several."""

    planned: int
    """Places in batches: windows, and what fills up the last batch."""
    delivered: int = 0
    """Windows that were given to the model and count."""
    padded: int = 0
    """Places that only fill up a batch."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Windows that did not decode, by reason; the reason names the video."""

    def add(self, batch: Batch) -> None:
        """Count one batch."""
        delivered = int(batch.mask.sum())
        self.delivered += delivered
        self.padded += len(batch) - delivered - len(batch.problems)
        if batch.problems:
            self.skipped.update(batch.problems.values())

    @property
    def num_skipped(self) -> int:
        """Windows that did not decode."""
        return sum(self.skipped.values())

    def check(self) -> None:
        """Refuse an epoch that does not add up (LedgerError)."""
        if self.planned != self.delivered + self.num_skipped + self.padded:
            raise LedgerError(
                f"windows were lost or doubled: {self}. Please report this; the epoch is not to be trusted."
            )

    def check_limit(self, max_skipped: float, *, epoch: int) -> None:
        """Refuse more skipped windows than a count (int) or a share (float) of the `epoch` windows (SampleError)."""
        limit = max_skipped if isinstance(max_skipped, int) else max_skipped * epoch
        if self.num_skipped > limit:
            raise SampleError(
                f"{self.num_skipped} of {epoch} windows did not decode, more than max_skipped={max_skipped}:\n"
                f"{self.reasons()}\nRepair the videos and pack them again, or raise max_skipped."
            )

    def reasons(self) -> str:
        """Skipped windows by reason, a line each."""
        return "\n".join(f"  {count} windows  {reason}" for reason, count in self.skipped.most_common())

    def as_dict(self) -> dict[str, int]:
        """The figures, for logs."""
        return {
            "planned": self.planned,
            "delivered": self.delivered,
            "padded": self.padded,
            "skipped": self.num_skipped,
        }

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.planned:,} planned = {self.delivered:,} windows delivered + {self.num_skipped:,} skipped "
            f"+ {self.padded:,} repeated to fill the last batch"
        )


def add_up(ledgers: Iterable[Ledger]) -> Ledger:
    """The ledger of several ranks together."""
    total = Ledger(0)
    for ledger in ledgers:
        total.planned += ledger.planned
        total.delivered += ledger.delivered
        total.padded += ledger.padded
        total.skipped += ledger.skipped
    return total
