"""WildFins' folders of precomputed features → which files are the samples of which video, and its labels.

    categories.json                             or in the folder above
    [VIDEO/]MODEL_features/VIDEO_00000000.npy   sample 0 of a video; the folder may be `inputs` or `frames`, too
    [VIDEO/]labels/VIDEO.tsv                    row i: the labels of sample i, 0/1 for each class, or a class number

WildFins writes the folders of each video (it says "subset") below one of the split; all videos in one pair of folders,
and folders in between, do as well. The name of a file up to its last underscore names the video: that is how WildFins
itself finds the labels, and all that it records of where a video begins and ends.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from wildstream.errors import ConfigError, FormatError, LabelError
from wildstream.shards.formats import Task, check_folder, safe_name
from wildstream.shards.label_files import has_one_column, read_class_column, read_rows

if TYPE_CHECKING:
    import numpy.typing as npt

SAMPLE = re.compile(r"(.+)_([0-9]+)\.npy")
LABELS, CLIPS, FRAMES, FEATURES = "labels", "inputs", "frames", "_features"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedVideo:
    """The samples of one video as WildFins saved them."""

    key: str
    """Its name: unique, safe as a path and as the name of a tar sample."""
    folder: str
    """The folder of the samples, relative to the root."""
    samples: list[Path]
    """One .npy per sample, in order of their numbers from 0."""
    labels: npt.NDArray[np.bool_]
    """(num_samples, num_classes)."""
    label_file: Path
    """Where these were read from."""

    def fingerprint(self) -> str:
        """Hash of the labels, and of the samples as the file system knows them."""
        digest = hashlib.sha256(self.labels.tobytes())
        for path in self.samples:
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSplit:
    """What WildFins saved of one split."""

    model: str
    """The model that the features are of."""
    are_frames: bool
    """Whether a sample is a frame; it is a window otherwise."""
    task: Task
    """What the labels mean."""
    videos: list[SavedVideo]
    """In order of their keys."""


class _Tree:
    """The files below a root that may count, by home: the folder that MODEL_features and labels share."""

    def __init__(self, root: Path, other_styles: Sequence[str]) -> None:
        """Look at the names of all files; hidden folders, and those of other styles, are left out."""
        check_folder(root)
        self.root = root
        self.samples: dict[str, dict[Path, list[Path]]] = defaultdict(lambda: defaultdict(list))
        """.npy files by name of their folder and by home."""
        self.labels: dict[Path, list[Path]] = defaultdict(list)
        """.tsv files by home."""
        for folder, below, files in os.walk(root, onerror=_raise):
            below[:] = sorted(name for name in below if not name.startswith("."))
            parts = Path(folder).relative_to(root).parts
            places = [n for n, part in enumerate(parts) if part in (LABELS, CLIPS, FRAMES) or part.endswith(FEATURES)]
            if not places or set(parts[: places[-1]]) & set(other_styles):
                continue
            home, kind = root.joinpath(*parts[: places[-1]]), parts[places[-1]]
            found, ending = (self.labels[home], ".tsv") if kind == LABELS else (self.samples[kind][home], ".npy")
            found += [Path(folder, name) for name in files if name.endswith(ending) and not name.startswith(".")]

    def choose(self, model: str | None) -> tuple[str, str]:
        """The name of the folders that count, and of the model."""
        there = sorted(kind for kind, homes in self.samples.items() if any(homes.values()))
        models = [kind.removesuffix(FEATURES) for kind in there if kind.endswith(FEATURES)]
        if not there:
            raise FormatError(
                f"no .npy below {self.root} in a folder MODEL_features, {CLIPS} or {FRAMES}; give the folder of one "
                "split that WildFins saved features of"
            )
        if model is None and len(models) == 1:
            return f"{models[0]}{FEATURES}", models[0]
        if models and model not in models:
            raise ConfigError(f"model={model!r}: {self.root} has features of {', '.join(models)}. Take one of them.")
        if model is None:
            raise ConfigError(
                f"model=None: {self.root} has {' and '.join(there)}, which does not tell the model. Give its name."
            )
        if not models and len(there) > 1:
            raise ConfigError(f"{self.root} has both {CLIPS} and {FRAMES}. Move one of them elsewhere.")
        return (f"{model}{FEATURES}", model) if models else (there[0], model)


def find_saved(
    root: Path,
    *,
    categories: Sequence[str],
    model: str | None = None,
    subset: Sequence[str] | None = None,
    task: Task | None = None,
    other_styles: Sequence[str] = (),
) -> SavedSplit:
    """Find the saved samples of one split and read their labels; no sample is opened.

    Args:
        root: Folder of the split.
        categories: Class names.
        model: Whose features; those of the only model that there is by default. It names the features in `inputs` and
            `frames`, which do not say.
        subset: Names of the videos that are taken; all by default.
        task: What the labels mean; by default "single_label" where rows are class numbers, else "multi_label".
        other_styles: Folders of these names are left out with all below them.

    Raises:
        ConfigError: There is no such model or video, or several models and none was chosen.
        FormatError: Nothing there is in this layout, or samples are missing or there twice.
        LabelError: Labels are missing, malformed, or more or fewer than the samples.
    """
    tree = _Tree(root, other_styles)
    kind, name = tree.choose(model)
    found = _by_video(tree, kind)
    label_files = _label_files(tree)
    if subset is not None:
        if unknown := sorted(set(subset) - {video for _, video in (*found, *label_files)}):
            there = ", ".join(sorted({video for _, video in found}))
            raise ConfigError(f"subset={unknown[0]!r} is not in {root}. It has {there:.300}.")
        found = {place: files for place, files in found.items() if place[1] in subset}
        label_files = {place: file for place, file in label_files.items() if place[1] in subset}
    rows, task = _read_labels(label_files, categories, task)
    for (home, video), labels in rows.items():
        if (home, video) not in found and len(labels):
            raise FormatError(
                f"{label_files[home, video]} has {len(labels)} rows, but {home / kind} has no {video}_*.npy; "
                "save them, or leave this video out (subset)"
            )
    videos: dict[str, SavedVideo] = {}
    for (home, video), numbered in sorted(found.items()):
        samples = _in_order(numbered, video)
        if (home, video) not in rows:
            raise LabelError(f"{samples[0]} has no labels; there is no {home / LABELS / video}.tsv. Add it.")
        labels = rows[home, video]
        if len(labels) != len(samples):
            raise LabelError(
                f"{label_files[home, video]} has {len(labels)} rows, but there are {len(samples)} samples "
                f"{video}_*.npy in {samples[0].parent}; row i is the label of sample i. Save both anew from one video"
            )
        key, folder = safe_name(video), samples[0].parent.relative_to(root).as_posix()
        if key in videos:
            raise FormatError(
                f"{video!r} is in {folder} and in {videos[key].folder}; a split has a video once. Rename one, or give "
                "a root that holds one of them"
            )
        videos[key] = SavedVideo(
            key=key, folder=folder, samples=samples, labels=labels, label_file=label_files[home, video]
        )
    if not videos:
        raise FormatError(f"{root} has no samples of {', '.join(subset or ['any video'])}; save them")
    return SavedSplit(model=name, are_frames=kind == FRAMES, task=task, videos=[videos[key] for key in sorted(videos)])


def _by_video(tree: _Tree, kind: str) -> dict[tuple[Path, str], dict[int, Path]]:
    """Files by home and video, and by number."""
    found: dict[tuple[Path, str], dict[int, Path]] = defaultdict(dict)
    for home, files in tree.samples[kind].items():
        for path in files:
            match = SAMPLE.fullmatch(path.name)
            if match is None:
                raise FormatError(f"{path} is not named VIDEO_NUMBER.npy, as vid1_00000000.npy; rename or remove it")
            numbered, number = found[home, match[1]], int(match[2])
            if number in numbered:
                raise FormatError(f"{path} and {numbered[number]} are both sample {number}; remove one")
            numbered[number] = path
    return dict(found)


def _in_order(numbered: dict[int, Path], video: str) -> list[Path]:
    """The files of a video in order of their numbers, which have no gap."""
    for number in range(len(numbered)):
        if number not in numbered:
            some = next(iter(numbered.values()))
            raise FormatError(
                f"{video}_{number:08d}.npy is missing in {some.parent}: it has {len(numbered)} samples up to number "
                f"{max(numbered)}, and they count from 0 without a gap. Save the video's samples anew"
            )
    return [numbered[number] for number in range(len(numbered))]


def _label_files(tree: _Tree) -> dict[tuple[Path, str], Path]:
    """Files of labels by home and video."""
    found: dict[tuple[Path, str], Path] = {}
    for home, files in tree.labels.items():
        for path in files:
            if other := found.get((home, path.stem)):
                raise FormatError(f"{path} and {other} are both the labels of {path.stem!r}; remove one")
            found[home, path.stem] = path
    return found


def _read_labels(
    files: dict[tuple[Path, str], Path], categories: Sequence[str], task: Task | None
) -> tuple[dict[tuple[Path, str], npt.NDArray[np.bool_]], Task]:
    """The rows of all files, and what they mean; a single column, with several classes, is one of class numbers."""
    found: dict[tuple[Path, str], npt.NDArray[np.bool_]] = {}
    numbers: set[bool] = set()
    for place, path in files.items():
        try:
            is_number = len(categories) > 1 and has_one_column(path)
            found[place] = (read_class_column if is_number else _read_known_rows)(path, categories=categories)
        except LabelError as error:
            raise LabelError(
                f"{error} (in folder {path.parent}). Correct it, or take the categories that it is of"
            ) from error
        if len(found[place]):
            numbers.add(is_number)
    if len(numbers) > 1:
        raise LabelError(f"some files in {path.parent} and beside it hold class numbers and others 0/1; take one form")
    if task is None:
        task = "single_label" if numbers == {True} else "multi_label"
    for place, rows in found.items() if task == "single_label" else ():
        several = rows.sum(axis=1) != 1
        if several.any():
            row = int(several.argmax())
            raise LabelError(
                f"{files[place]}, line {row + 1}: {int(rows[row].sum())} classes, but task='single_label' means one. "
                "Take task='multi_label', or correct it"
            )
    return found, task


def _read_known_rows(path: Path, *, categories: Sequence[str]) -> npt.NDArray[np.bool_]:
    """`read_rows` where no row may be unlabelled (LabelError): WildFins has no such rows."""
    rows, known = read_rows(path, categories=categories)
    if not known.all():
        raise LabelError(f"{path.name}, line {int(known.argmin()) + 1}: '-1' is neither 0 nor 1")
    return rows


def load_sample(path: Path) -> npt.NDArray[Any]:
    """The features of a sample, (dim,) or (tokens, dim); FormatError where they cannot be read, or are none."""
    try:
        with path.open("rb") as file:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    # The last four are what numpy's reader may stumble over in a damaged header.
    except (OSError, ValueError, EOFError, MemoryError, OverflowError, SyntaxError, TypeError, TokenError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise FormatError(f"{path} cannot be read as .npy: {reason}. Save it anew") from error
    if array.dtype not in (np.float16, np.float32) or array.ndim not in (1, 2) or not array.size:
        raise FormatError(
            f"{path} is {array.dtype} {array.shape}; the features of a sample are float16 or float32, (dim,) or "
            "(tokens, dim). Clips are no features: pack the videos and extract them"
        )
    return array


def _raise(error: OSError) -> None:
    """What cannot be looked into is not passed over."""
    raise error
