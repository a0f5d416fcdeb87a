"""Part of a file instead of all of it: the same frames, pixel by pixel, from less than half of its bytes."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from wildstream import marks
from wildstream.marks import byte_runs
from wildstream.probe import probe
from wildstream.video import FullSize, decode

RUN = 24
"""Frames that are decoded of each video at each place."""


@pytest.fixture(autouse=True)
def _also_small_files(monkeypatch):
    monkeypatch.setattr(marks, "FEWEST_BYTES", 0)


def videos(shared_data) -> Iterator[tuple[str, torch.Tensor]]:
    """Every MP4 of the test data that has enough frames to leave some out."""
    for path in sorted(shared_data.rglob("*.mp4")):
        if path.stat().st_size > 100_000 and "truncated" not in path.name and "corrupt" not in path.name:
            yield path.name, torch.from_numpy(np.fromfile(path, np.uint8))


def pixels(data, table, wanted):
    """Frames by number; errors stay errors."""
    full_size = FullSize(torch.device("cpu"))
    return dict(decode(data, np.asarray(wanted), table, device=torch.device("cpu"), convert=full_size))


def sparse(data, runs):
    """The file with zeros outside of runs."""
    part = torch.zeros_like(data)
    for start, stop in runs:
        part[start:stop] = data[start:stop]
    return part


def test_part_of_a_file_decodes_to_the_same_pixels(shared_data):
    shares, tried = [], 0
    for name, data in videos(shared_data):
        facts = probe(data)
        assert len(facts.marks) == -(-facts.num_frames // marks.PACKETS_PER_MARK), name
        for key_frame in facts.key_frames[:: max(1, len(facts.key_frames) // 3)].tolist():
            wanted = list(range(key_frame, min(key_frame + RUN, facts.num_frames)))
            runs = byte_runs(facts, key_frame, wanted[-1], len(data))
            assert all(stop <= start for (_, stop), (start, _) in pairwise(runs)), name
            shares.append(sum(stop - start for start, stop in runs) / len(data))
            whole, part = pixels(data, facts, wanted), pixels(sparse(data, runs), facts, wanted)
            assert whole.keys() == part.keys() == set(wanted), name
            for number in wanted:
                assert torch.equal(whole[number], part[number]), f"{name}, frame {number}"
            tried += 1
    assert tried > 30
    assert np.median(shares) < 0.5


def test_too_few_bytes_are_noticed(shared_data):
    """The test above can fail: with the bytes of the last mark gone, frames are missing or others."""
    data = torch.from_numpy(np.fromfile(shared_data / "originals" / "cars.mp4", np.uint8))
    facts = probe(data)
    wanted = list(range(RUN))
    runs = byte_runs(facts, 0, wanted[-1], len(data))
    short = [(start, stop) for start, stop in runs[:-1]] + [(runs[-1][0], int(facts.marks[1, 1]))]
    whole, part = pixels(data, facts, wanted), pixels(sparse(data, short), facts, wanted)
    assert any(not isinstance(part[n], torch.Tensor) or not torch.equal(whole[n], part[n]) for n in wanted)


@pytest.mark.parametrize("name", ["originals/mm_test.avi", "edge/vp9.webm"])
def test_other_containers_are_read_whole(shared_data, name):
    path = next(iter(sorted(shared_data.glob(name))), None) or next(iter(sorted(shared_data.rglob("*.avi"))))
    data = torch.from_numpy(np.fromfile(path, np.uint8))
    facts = probe(data)
    assert len(facts.marks) == len(facts.opening) == 0
    assert byte_runs(facts, 0, 3, len(data)) == [(0, len(data))]


def test_small_files_are_read_whole(shared_data, monkeypatch):
    monkeypatch.setattr(marks, "FEWEST_BYTES", 1 << 20)
    data = torch.from_numpy(np.fromfile(shared_data / "originals" / "robot.mp4", np.uint8))
    assert len(probe(data).marks) == 0
