"""Windows per second that WildStream delivers, against what users could take instead.

Delivered are clips of 16 frames at 224x224, uint8, in batches of 8 as one tensor (of whatever order in memory), on two
cores. Each peer runs in a process of its own with two workers or threads, and takes its turn in each of at least five
rounds. A round is a pass over all windows in random order, from asking for the first batch until the last has come;
processes and their workers were started, and warmed up by a pass, before. What reads each window by itself passes over
a random sample of them, of fixed seed, that takes some seconds: its rate does not depend on their number.

    decord, PyAV, torchcodec, SPDL    each window by itself; each worker keeps the videos and open decoders in memory
    whole video, then sliced          decoded once, without WildStream; memory grows with the length of videos
    saved as .npy beforehand          WildFins' own way
    ceilings                          decoding alone, without conversion, each frame once, on as many threads

Peers that go through videos in order, which saves them seeks where windows do not overlap, mix only what a buffer of
100 clips holds; they are marked `full_order: false`. The pixels of some windows of each peer are compared with a
sequential decode and torchvision's antialiased resize; `best_shift` is 0 where the frames are the right ones.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from benchmarks.ceilings import ceilings
from benchmarks.footage import Case, is_real, make_case
from benchmarks.measuring import on_cores, ratio, spread
from benchmarks.peers.base import Peer, PerWindow
from benchmarks.peers.decord_windows import DecordReader
from benchmarks.peers.pyav_clips import PyavReader
from benchmarks.peers.saved_clips import SavedClips
from benchmarks.peers.spdl_windows import Spdl
from benchmarks.peers.stream import WildStream
from benchmarks.peers.torchcodec_windows import TorchcodecReader
from benchmarks.peers.whole_video import WholeVideo
from benchmarks.reference import compare, reference_clips
from benchmarks.runner import PeerError, Runner

ROUNDS = 5
CORES = 2
SECONDS = 3.0
"""What one pass of a peer that may take a sample of the windows is to take."""
FIRST_SAMPLE = 32
"""Windows from which that sample's size is estimated."""
STEPS, GOPS, HEIGHTS = (4, 8, 16), (30, 250), (360, 720)

_DECORD, _PYAV, _TORCHCODEC = "decord per window", "PyAV per clip", "torchcodec per window"
_WHOLE = "whole video, then sliced"
PEERS: dict[str, Peer] = {
    "wildstream": WildStream(),
    "torchcodec_exact": PerWindow(_TORCHCODEC, TorchcodecReader(seek_mode="exact")),
    "torchcodec_approximate": PerWindow(_TORCHCODEC, TorchcodecReader(seek_mode="approximate")),
    "torchcodec_decoder_resize": PerWindow(_TORCHCODEC, TorchcodecReader(resize_in_decoder=True)),
    "torchcodec_in_order": PerWindow(_TORCHCODEC, TorchcodecReader(), order="in_order"),
    "torchcodec_decoder_resize_in_order": PerWindow(
        _TORCHCODEC, TorchcodecReader(resize_in_decoder=True), order="in_order"
    ),
    "decord": PerWindow(_DECORD, DecordReader(), modules=("decord",)),
    "decord_in_order": PerWindow(_DECORD, DecordReader(), modules=("decord",), order="in_order"),
    "pyav": PerWindow(_PYAV, PyavReader()),
    "pyav_in_order": PerWindow(_PYAV, PyavReader(), order="in_order"),
    "whole_video": WholeVideo(_WHOLE),
    "whole_video_at_full_size": WholeVideo(_WHOLE, chunk=None),
    "spdl": Spdl(),
    "saved_clips": SavedClips(),
}
PER_WINDOW = ("torchcodec", "decord", "pyav", "spdl")
"""How the names of peers begin that read each window by itself."""


def run(*, short: bool, only: str | None = None) -> dict[str, Any]:
    """Every case, or those whose name ("step 8, GOP 30, 360p") holds the text `only`; draws the chart in full form.

    The short form measures one small case in two rounds.
    """
    settings = [(8, 30, 360)] if short else list(product(STEPS, GOPS, HEIGHTS))
    cases = []
    for step, gop, height in settings:
        if only is None or only in f"step {step}, GOP {gop}, {height}p":
            case = make_case(step=step, gop=gop, height=height, frames=240 if short else 600)
            cases.append(run_case(case, rounds=2 if short else ROUNDS, seconds=1.0 if short else SECONDS))
    return {
        "what": "windows per second; clips of 16 frames at 224x224, uint8, in batches of 8",
        "cores": CORES,
        "clock": "from asking for a pass's first batch until its last has come; workers started and warmed up before",
        "cases": cases,
    }


def draw(result: dict[str, Any], path: Any) -> None:  # noqa: ANN401 - a path
    """The chart of what `run` gave."""
    from benchmarks.chart import draw_windows

    draw_windows(result, path)


def run_case(
    case: Case,
    *,
    rounds: int,
    seconds: float,
    peers: dict[str, Peer] = PEERS,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> dict[str, Any]:
    """One case: every peer's rate, pixels and memory, and WildStream's ratios to them."""
    say(f"{case.name}: {len(case.addresses())} windows of {len(case.num_frames)} videos")
    wanted = case.addresses(seed=1)[:6]
    with on_cores(CORES):
        clips = reference_clips(case, wanted)
        races = {name: _Race(peer, case, wanted) for name, peer in peers.items() if peer.fits(case)}
        for name, race in races.items():
            race.prepare(seconds, clips)
            say(f"  {name}: {race.told()}")
        bounds = ceilings(case)
        for _ in range(rounds):
            for race in races.values():
                race.turn()
            for bound in bounds.values():
                bound.turn()
        for race in races.values():
            race.end()
    report = {name: race.report() for name, race in races.items()}
    return {
        "name": case.name,
        "step": case.step,
        "gop": case.gop,
        "height": case.height,
        "rounds": rounds,
        "windows": len(case.addresses()),
        "videos": len(case.num_frames),
        "frames": sum(case.num_frames.values()),
        "real_footage": is_real(case),
        "peers": report,
        "ceilings": {name: bound.report() for name, bound in bounds.items()},
        "ratios": _ratios({name: race.rates for name, race in races.items() if race.rates}, report),
    }


class _Race:
    """One peer in one case; what goes wrong becomes its `error`, and it runs no more."""

    def __init__(self, peer: Peer, case: Case, wanted: list[tuple[str, int]]) -> None:
        self._peer, self._case, self._wanted = peer, case, wanted
        self._runner: Runner | None = None
        self._number: int | None = None
        self._passes: list[dict[str, Any]] = []
        self._found: dict[str, Any] = {"family": peer.family, "full_order": peer.full_order}

    @property
    def rates(self) -> list[float]:
        """Windows per second of each round; none after an error."""
        return [] if "error" in self._found else [one["windows"] / one["seconds"] for one in self._passes]

    def prepare(self, seconds: float, clips: dict[tuple[str, int], np.ndarray]) -> None:
        """Start, warm up, look at what comes, and settle how many windows a pass has."""
        if reason := self._peer.missing():
            self._found["error"] = reason
            return
        everything = self._case.addresses()
        try:
            self._runner = Runner(self._peer, self._case, self._wanted)
            self._found |= self._runner.facts
            self._number = FIRST_SAMPLE if self._peer.bounded else None
            first = self._runner.warm_up(self._number)
            if self._peer.bounded:
                again = self._runner.measure(self._number)
                self._number = max(FIRST_SAMPLE, round(again["windows"] / again["seconds"] * seconds))
        except PeerError as error:
            self._fail(error)
            return
        delivered = first.pop("addresses")
        self._found |= {
            "delivered_once": len(set(delivered)) == len(delivered) and set(delivered) <= set(everything),
            "delivered_all": set(delivered) == set(everything),
            "pixels": compare(first.pop("clips"), clips),
            "peak_bytes_beyond_start": first["peak_bytes"],
        }

    def turn(self) -> None:
        """One pass."""
        if self._runner is not None:
            try:
                self._passes.append(self._runner.measure(self._number))
            except PeerError as error:
                self._fail(error)

    def end(self) -> None:
        """End the process."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def told(self) -> str:
        """How the preparation went, in a few words."""
        return str(self._found.get("error") or f"difference {self._found['pixels']['mean_difference']:.2f}")

    def report(self) -> dict[str, Any]:
        """All that was found."""
        if not self.rates:
            return self._found
        per_cpu = [one["windows"] / one["cpu_seconds"] for one in self._passes]
        return {
            **self._found,
            "windows_per_pass": self._passes[-1]["windows"],
            "windows_per_second": spread(self.rates),
            "windows_per_cpu_second": spread(per_cpu),
        }

    def _fail(self, error: PeerError) -> None:
        """Keep the reason and end."""
        self._found["error"] = str(error)
        self.end()


def _ratios(rates: dict[str, list[float]], report: dict[str, Any]) -> dict[str, Any]:
    """WildStream's rates over others', round by round; "best" is the highest median of a group."""
    ours = rates.get("wildstream")
    if not ours:
        return {}
    random = [name for name in rates if report[name]["full_order"]]
    groups = {
        "best_per_window_peer": [name for name in rates if name.startswith(PER_WINDOW)],
        "best_per_window_peer_in_random_order": [name for name in random if name.startswith(PER_WINDOW)],
        "fastest_of_decord_pyav_torchcodec": [name for name in rates if name.startswith(PER_WINDOW[:3])],
        "whole_video": [name for name in rates if name.startswith("whole_video")],
        "saved_clips": [name for name in rates if name == "saved_clips"],
    }
    ratios: dict[str, Any] = {}
    for group, names in groups.items():
        if names:
            best = max(names, key=lambda name: float(np.median(rates[name])))
            ratios[group] = {"peer": best, **ratio(ours, rates[best])}
    memory = "peak_bytes_beyond_start"
    ratios["memory_of_whole_video"] = {
        name: report[name][memory] / report["wildstream"][memory] for name in groups["whole_video"]
    }
    return ratios
