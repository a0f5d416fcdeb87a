"""The demo's fish tank: what is written is complete, labelled frame by frame, and the same each time."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from wildstream.errors import ConfigError
from wildstream.ffmpeg import ensure_ffmpeg
from wildstream.fishtank import CATEGORIES, Jobs, make_fishtank

VIDEOS = {"train": 2, "val": 1, "test": 1}


def make(root: Path, *, seed: int = 3, videos: Mapping[str, int] = VIDEOS, frames: int = 60) -> None:
    make_fishtank(root, seed=seed, videos=videos, frames=frames, size=(48, 64))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def labels(tsv: Path) -> np.ndarray:
    return np.loadtxt(tsv, dtype=int, delimiter="\t", ndmin=2)


@pytest.fixture(scope="module")
def tank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fishtank")
    make(root)
    return root


def test_layout_is_the_frame_annotated_one(tank: Path) -> None:
    ids = ("train/train_00", "train/train_01", "val/val_00", "test/test_00")
    videos = {f"{at}/{Path(at).name}{suffix}" for at in ids for suffix in (".mp4", ".tsv")}
    assert set(contents(tank)) == videos | {"categories.json", ".fishtank.json"}
    assert json.loads((tank / "categories.json").read_text()) == list(CATEGORIES)


def test_a_row_per_decoded_frame_and_a_column_per_category(tank: Path) -> None:
    ensure_ffmpeg()
    from torchcodec.decoders import VideoDecoder

    for video in tank.rglob("*.mp4"):
        frames_TCHW = VideoDecoder(video)[:]
        rows_TK = labels(video.with_suffix(".tsv"))
        assert tuple(frames_TCHW.shape) == (60, 3, 48, 64)
        assert rows_TK.shape == (60, len(CATEGORIES))
        assert set(np.unique(rows_TK)) == {0, 1}


def test_every_category_comes_and_goes_in_every_video(tank: Path) -> None:
    for tsv in tank.rglob("*.tsv"):
        rows_TK = labels(tsv)
        assert np.all(np.diff(rows_TK, axis=0, prepend=0).clip(0).sum(axis=0) >= 1)
        assert np.all((rows_TK.mean(axis=0) >= 0.15) & (rows_TK.mean(axis=0) <= 0.45))


def test_categories_overlap_in_some_frames_and_none_is_shown_in_others(tank: Path) -> None:
    shown_T = np.concatenate([labels(tsv).sum(axis=1) for tsv in tank.rglob("*.tsv")])
    assert {0, 1, 2} <= set(shown_T.tolist())


def test_the_seed_settles_every_byte(tank: Path, tmp_path: Path) -> None:
    make(tmp_path / "same")
    assert contents(tmp_path / "same") == contents(tank)
    make(tmp_path / "other", seed=4)
    other, mine = contents(tmp_path / "other"), contents(tank)
    assert all(other[name] != mine[name] for name in mine if name.endswith((".mp4", ".tsv")))


def test_a_second_call_touches_nothing(tank: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [tank, *tank.rglob("*")]}
    make(tank)
    assert {path: path.stat().st_mtime_ns for path in [tank, *tank.rglob("*")]} == before


def test_more_videos_leave_those_that_are_there(tank: Path, tmp_path: Path) -> None:
    make(tmp_path, videos={"train": 1})
    first = tmp_path / "train/train_00/train_00.mp4"
    made = first.stat().st_mtime_ns
    make(tmp_path)
    assert first.stat().st_mtime_ns == made
    assert contents(tmp_path) == contents(tank)


def test_a_killed_call_is_completed_by_the_next(tank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(video: Path, *_: object, **__: object) -> None:
        (video.parent / f"{video.name}.mp4").write_bytes(b"half a video")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wildstream.fishtank.shutil.rmtree", lambda *_, **__: None)  # what is killed does not tidy up
        patch.setattr("pathlib.Path.rename", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
    assert not list(tmp_path.glob("train/*"))
    make(tmp_path)
    assert contents(tmp_path) == contents(tank)


def test_progress_sees_the_videos_to_make(tmp_path: Path) -> None:
    seen: list[int] = []

    def count(jobs: Jobs) -> Jobs:
        jobs = list(jobs)
        seen.append(len(jobs))
        return jobs

    for videos in ({"train": 1}, {"train": 2, "val": 1}):
        make_fishtank(tmp_path, videos=videos, frames=8, size=(32, 32), progress=count)
    assert seen == [1, 2]


@pytest.mark.parametrize(("frames", "size"), [(1, (48, 64)), (60, (47, 64)), (60, (48, 30))])
def test_impossible_options_are_refused_before_anything_is_written(
    tmp_path: Path, frames: int, size: tuple[int, int]
) -> None:
    with pytest.raises(ConfigError, match=f"frames={frames}"):
        make_fishtank(tmp_path / "tank", frames=frames, size=size)
    assert not (tmp_path / "tank").exists()


def test_another_recipe_in_the_same_folder_is_refused(tank: Path) -> None:
    before = contents(tank)
    with pytest.raises(ConfigError, match="Take those options, or another folder"):
        make(tank, seed=5)
    assert contents(tank) == before
