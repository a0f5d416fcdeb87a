"""A checkpoint, a run or an exported file → what predicts: frames in, probabilities out, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wildstream.errors import ConfigError
from wildstream.training.checkpoints import Manifest, load_checkpoint
from wildstream.training.kept import find_checkpoint, refuse_name
from wildstream.training.losses import probabilities

if TYPE_CHECKING:
    from wildstream.shards.formats import Task
    from wildstream.stream.transforms import ResizeBy
    from wildstream.stream.windows import SlidingStyle

EXPORTED = (".onnx", ".pt2")
"""Extensions of exported models."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A trained model that is ready to predict."""

    source: str
    """The checkpoint or file."""
    levels: dict[str, tuple[str, ...]]
    """Names of the classes of each level, by name of the level, from the first on; without a hierarchy one, ""."""
    task: Task
    """What its probabilities mean."""
    style: SlidingStyle
    """How windows slid in training."""
    size: tuple[int, int]
    """Height and width in pixels of the frames that it takes."""
    resize: ResizeBy
    """Who resized in training."""
    thresholds: dict[str, float] | None
    """For each class of the first level the probability above which it happens, where the model brings them."""
    epoch: int | None
    """Epochs of training, where that is known."""
    score: Callable[[Tensor], Tensor]
    """(B, T, [P,] C, H, W) uint8 on any device to (B, classes of all levels) float32 on the CPU."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the first level, which events are of."""
        return next(iter(self.levels.values()))


def open_model(path: str | Path, *, checkpoint: str | None = None, device: str | None = None) -> LoadedModel:
    """Load a model.

    Args:
        path: Run folder of train.py, a checkpoint in it, or a file of `wildstream export` (.onnx, .pt2).
        checkpoint: Of a run: best (None), last, or epoch_NNN of those that trainer.keep kept.
        device: Where it runs; a GPU by default, where there is one.

    Raises:
        ConfigError: An option is not known, or the model takes features instead of frames.
        ShardError: There is no model, or a damaged one.
    """
    place = Path(path)
    if place.suffix in EXPORTED:
        refuse_name(checkpoint, path)
        return _open_exported(place, device)
    return _open_checkpoint(find_checkpoint(place, checkpoint), device)


def _open_checkpoint(folder: Path, device: str | None) -> LoadedModel:
    """Load a checkpoint."""
    network, manifest = load_checkpoint(folder)
    if manifest.features is not None:
        raise ConfigError(
            f"{folder} takes features of {manifest.features.backbone}, not videos. Give a model that was trained on "
            "videos."
        )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.eval().to(torch.device(device or found))
    where = next(network.parameters()).device

    def score(frames: Tensor) -> Tensor:
        with torch.inference_mode():
            scores = network(frames.to(where))
            return _of_levels(scores, manifest).cpu()

    levels = {"": tuple(manifest.categories)}
    if manifest.hierarchy is not None:
        levels = {level.name: level.classes for level in manifest.hierarchy.levels}
    return LoadedModel(
        source=str(folder),
        levels=levels,
        task=manifest.task,
        style=manifest.sliding_style,
        size=manifest.size,
        resize=manifest.config.data.resize,
        thresholds=manifest.thresholds,
        epoch=manifest.epoch,
        score=score,
    )


def _of_levels(scores: Tensor, manifest: Manifest) -> Tensor:
    """Scores (B, classes of all levels) as float32 probabilities, level by level."""
    parts = manifest.hierarchy.split(scores).values() if manifest.hierarchy else [scores]
    return torch.cat([probabilities(part, task=manifest.task) for part in parts], dim=1)


def _open_exported(path: Path, device: str | None) -> LoadedModel:
    """Load what `wildstream export` wrote, which runs on the processor."""
    from wildstream.export import load_exported

    if torch.device(device or "cpu").type != "cpu":
        raise ConfigError(f"device={device!r}: an exported model runs on the processor here. Leave device out.")
    exported = load_exported(path)
    if exported.takes_features:
        raise ConfigError(f"{path} takes features, not videos. Give a model that was trained on videos.")
    levels = {level.name: level.classes for level in exported.levels}
    return LoadedModel(
        source=str(path),
        levels=levels or {"": tuple(exported.classes)},
        task=exported.task,
        style=exported.style,
        size=exported.size,
        resize=exported.resize,
        thresholds=exported.thresholds,
        epoch=exported.document.epoch,
        score=exported.all_levels,
    )
