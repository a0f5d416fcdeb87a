"""The comparison's machinery on tiny drawn videos: what it reports, and that all deliver the same windows."""

import importlib.util
import json

import pytest

from benchmarks import features, footage, windows
from benchmarks.chart import draw_windows
from benchmarks.feature_chart import draw_features
from benchmarks.footage import make_case
from benchmarks.lanes import PEERS_PYTHON, started
from benchmarks.peers.base import Peer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # starts a process for each peer


class Broken(Peer):
    """Cannot even start."""

    family = "broken"

    def start(self, case, wanted):
        raise ValueError("broken on purpose")

    def batches(self, number):
        raise NotImplementedError


class Lacking(Broken):
    """Needs what nobody has."""

    modules = ("a_module_that_nobody_has",)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(footage, "CACHE", tmp_path_factory.mktemp("benchmarks"))
        case = make_case(step=8, gop=12, height=72, frames=48, videos=2, drawn=True)
    names = ("wildstream", "pyav")
    peers = {**{name: windows.PEERS[name] for name in names}, "broken": Broken(), "lacking": Lacking()}
    return windows.run_case(case, rounds=2, seconds=0.05, peers=peers, say=lambda text: None)


def test_every_peer_delivers_the_same_windows_and_the_right_frames(found):
    assert found["windows"] == 10
    assert not found["real_footage"]
    for name in ("wildstream", "pyav"):
        peer = found["peers"][name]
        assert "error" not in peer, peer
        assert peer["delivered_once"]
        assert peer["delivered_all"]
        assert peer["windows_per_pass"] == 10
        assert peer["pixels"]["windows"] == 6
        assert peer["pixels"]["best_shift"] == 0
        assert peer["pixels"]["mean_difference"] < 4


def test_what_fails_or_is_missing_is_named_and_costs_only_itself(found):
    assert "broken on purpose" in found["peers"]["broken"]["error"]
    assert "a_module_that_nobody_has not installed" in found["peers"]["lacking"]["error"]
    assert "windows_per_second" not in found["peers"]["broken"]


def test_the_report_has_rates_ratios_and_ceilings_with_their_spread(found):
    report = json.loads(json.dumps(found))
    assert (report["step"], report["gop"], report["height"], report["rounds"]) == (8, 12, 72, 2)
    for name in ("wildstream", "pyav"):
        for figure in ("windows_per_second", "windows_per_cpu_second"):
            spread = report["peers"][name][figure]
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        assert "peak_bytes_beyond_start" in report["peers"][name]
    assert report["ratios"]["best_per_window_peer"]["peer"] == "pyav"
    assert report["ratios"]["best_per_window_peer"]["median"] > 0
    assert report["ceilings"]["torchcodec_blocks"]["windows_per_second_allowed"]["median"] > 0


def test_the_chart_is_drawn_or_said_to_be_missing(found, tmp_path, capsys):
    path = tmp_path / "windows.png"
    draw_windows({"cores": 2, "cases": [found]}, path)
    if importlib.util.find_spec("matplotlib") is None:
        assert "matplotlib is not installed" in capsys.readouterr().err
    else:
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def feature_rates():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(PEERS_PYTHON, raising=False)
        names = ("wildstream", "webdataset", "mosaicml", "litdata", "arrays")
        with started({name: name for name in names}) as sources:
            return features._compare(16, "16x768", sources, videos=2, rounds=2, per_shard=100)


def test_every_way_to_read_features_delivers_the_same_windows_once(feature_rates):
    assert feature_rates["windows"] == 300
    lacking = {name for name in features.WAYS if name.startswith(("mosaicml", "litdata"))}
    assert set(feature_rates["errors"]) == lacking  # one with wrong or missing windows would be among them
    assert all(PEERS_PYTHON in error for error in feature_rates["errors"].values())
    assert set(feature_rates["windows_per_second"]) == set(features.WAYS) - lacking
    assert set(feature_rates["ratios"]) == set(features.WAYS) - lacking - {"wildstream"}


def test_the_chart_of_features_is_drawn_or_said_to_be_missing(feature_rates, tmp_path, capsys):
    path = tmp_path / "features.png"
    draw_features({"16x768": feature_rates}, path)
    if importlib.util.find_spec("matplotlib") is None:
        assert "matplotlib is not installed" in capsys.readouterr().err
    else:
        assert path.read_bytes().startswith(b"\x89PNG")
