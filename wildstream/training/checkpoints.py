"""A trained model as a folder: weights, and a manifest that says all that is needed to use them.

checkpoint/
  model.safetensors   the weights; tensors, never code
  manifest.json       configuration, categories, hierarchy, task, style, size, index fingerprint, figures, thresholds,
                      versions, commit
  state.pt            of the last one: what training needs to go on (training/state.py); read without running code
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wildstream.config.model import ModelConfig
from wildstream.config.train import TrainConfig
from wildstream.errors import ShardError
from wildstream.models.classifier import FeatureClassifier, ModelBuilder, VideoClassifier
from wildstream.models.heads import AGGREGATORS, POOLINGS
from wildstream.models.hierarchy import Hierarchy, make_classifier
from wildstream.models.lora import LoraOptions
from wildstream.shards.feature_info import FeatureInfo
from wildstream.shards.formats import Task
from wildstream.stream.windows import SlidingStyle

SCHEMA_VERSION = 1
WEIGHTS_NAME = "model.safetensors"
MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.pt"


class Manifest(BaseModel):
    """What a checkpoint's weights are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    """Version of this file."""
    config: TrainConfig
    """The options of the run."""
    categories: list[str]
    """Class names of the data, in order of class number; where `class_map` is given, the new ones."""
    class_map: dict[str, str | None] | None = None
    """What each category of the shards became, null where it was left out; None: they are as they were."""
    hierarchy: Hierarchy | None = None
    """Levels of classes that the model gives scores of, side by side, rare classes merged; None: of the categories."""
    task: Task
    """What the labels mean."""
    style: dict[str, Any]
    """Parameters of the sliding style."""
    size: tuple[int, int]
    """Height and width in pixels of the frames that the model was trained on."""
    fingerprint: str
    """Of the index that it was trained on."""
    val_fingerprint: str | None = None
    """Of the index that `metrics` are of."""
    features: FeatureInfo | None = None
    """The features that it takes; None where it takes frames."""
    epoch: int
    """Epochs that were finished."""
    metrics: dict[str, float | None]
    """Validation figures; null where one is not defined."""
    thresholds: dict[str, float] | None = None
    """For multi_label, of each category (of a hierarchy, of each class of its first level) the probability above which
    F1 on the validation set is highest."""
    commit: str | None
    """Git commit of the program, where it runs from a checkout."""
    versions: dict[str, str]
    """Of the program and what it stands on."""

    @model_validator(mode="after")
    def _check_hierarchy(self) -> Manifest:
        if self.hierarchy is not None and list(self.hierarchy.categories) != self.categories:
            raise ValueError("the hierarchy is of other categories")
        return self

    @property
    def sliding_style(self) -> SlidingStyle:
        """The style that the model was trained on."""
        return SlidingStyle(**self.style)


def build_model(
    config: ModelConfig,
    *,
    num_classes: int,
    features: FeatureInfo | None = None,
    hierarchy: Hierarchy | None = None,
) -> VideoClassifier | FeatureClassifier:
    """The model that a configuration describes; its head alone where it takes features."""
    if features is not None:
        return FeatureClassifier(
            POOLINGS[config.pooling](features.dim),
            make_classifier(config.classifier, features.dim, num_classes, hierarchy),
            AGGREGATORS[config.aggregator](features.dim),
            members=features.members,
        )
    return (
        ModelBuilder()
        .set_backbone(config.backbone, weights=config.weights, chunk=config.chunk)
        .set_pooling(config.pooling)
        .set_classifier(config.classifier, output_dim=num_classes)
        .set_aggregator(config.aggregator)
        .set_hierarchy(hierarchy)
        .set_frozen(config.frozen)
        .set_lora(LoraOptions(**config.lora.model_dump()) if config.lora else None)
        .build()
    )


def save_checkpoint(
    folder: Path, model: nn.Module, manifest: Manifest, training_state: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint, complete or not at all: built beside its place, then renamed.

    Args:
        folder: The checkpoint.
        model: Its weights, without what Accelerate or torch.compile put around it.
        manifest: What they are.
        training_state: What training needs to go on: tensors, numbers, strings, and containers of them.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, temporary / WEIGHTS_NAME)
    (temporary / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if training_state is not None:
        torch.save(training_state, temporary / STATE_NAME)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def restore_checkpoint(folder: Path) -> None:
    """Put a checkpoint back that was being replaced when the process was killed."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists() and old.exists():
        old.rename(folder)


def load_checkpoint(folder: Path) -> tuple[VideoClassifier | FeatureClassifier, Manifest]:
    """Build the model of a checkpoint and load its weights.

    Raises:
        ShardError: The folder holds no checkpoint, or a damaged one.
    """
    state, manifest = read_checkpoint(folder)
    # Pretrained weights would be overwritten anyway, and may be out of reach where the checkpoint is used.
    options = manifest.config.model.model_copy(update={"weights": None})
    num_classes = len(manifest.categories)
    model = build_model(options, num_classes=num_classes, features=manifest.features, hierarchy=manifest.hierarchy)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise _damaged(folder, error) from error
    return model, manifest


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], Manifest]:
    """The weights of a checkpoint by name, on the CPU, and what they are; raises as `load_checkpoint` does."""
    try:
        manifest = read_manifest(folder / MANIFEST_NAME)
        return load_file(folder / WEIGHTS_NAME), manifest
    except FileNotFoundError as error:
        lacking = Path(str(error.filename or folder / WEIGHTS_NAME)).name
        raise ShardError(
            f"{folder} is not a checkpoint: {lacking} is missing. Give the run folder that train.py printed."
        ) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> ShardError:
    """What to say of weights that cannot be read or used."""
    return ShardError(
        f"{folder / WEIGHTS_NAME} does not fit {MANIFEST_NAME}, or is damaged: {str(error).splitlines()[0]}. "
        "Copy the checkpoint again, or take the other one."
    )


def load_training_state(folder: Path) -> tuple[dict[str, Any], Manifest]:
    """What `save_checkpoint` wrote for training to go on, on the CPU, and the manifest (ShardError without them)."""
    path = folder / STATE_NAME
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state, read_manifest(folder / MANIFEST_NAME)
    except FileNotFoundError as error:
        raise ShardError(
            f"{folder} has no {Path(str(error.filename)).name}, so its training cannot go on. "
            "Choose another trainer.out."
        ) from error
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ShardError(
            f"{path} is damaged: {(str(error).splitlines() or [''])[0]:.200} Choose another trainer.out."
        ) from error


def read_manifest(path: Path) -> Manifest:
    """Read manifest.json; ShardError where it is damaged or of another version."""
    text = path.read_bytes()
    try:
        raw = json.loads(text)
        if isinstance(raw, dict) and raw.get("schema_version") != SCHEMA_VERSION:
            raise ShardError(
                f"{path} has schema_version={raw.get('schema_version')!r}, this program reads {SCHEMA_VERSION}. "
                "Take the program that wrote it."
            )
        return Manifest.model_validate_json(text)
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ShardError(f"{path} is damaged: {said:.300}. Copy the checkpoint again.") from error


def used_versions() -> dict[str, str]:
    """Versions of the program and what it stands on."""
    packages = ("wildstream", "torch", "torchvision", "torchcodec", "webdataset", "timm", "accelerate", "numpy")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def current_commit() -> str | None:
    """Git commit of the checkout that the program runs from, or None."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed, perhaps below somebody's repository
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
