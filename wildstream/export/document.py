"""What an exported model says of itself: a JSON document inside the file.

.onnx     the entry "wildstream" of metadata_props
.pt2      the file extra/wildstream.json of the archive
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from wildstream.errors import ExportError
from wildstream.models.hierarchy import Hierarchy
from wildstream.shards.feature_info import FeatureInfo
from wildstream.shards.formats import Task
from wildstream.stream.transforms import ResizeBy
from wildstream.stream.windows import SlidingStyle
from wildstream.training.checkpoints import Manifest

EXPORT_SCHEMA_VERSION = 1
DOCUMENT_NAME = "wildstream"
"""Of the entry in metadata_props; with .json, of the file in the archive."""
CHANNELS = 3

Format = Literal["onnx", "pt2"]


class Input(BaseModel):
    """What the graph takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["frames", "features"]
    """Of the graph's input."""
    axes: list[str]
    """What its dimensions are: batch, time, patch, channel, height, width; or batch, token, feature."""
    shape: list[int | str]
    """Its length along each; a name where any will do."""
    dtype: Literal["uint8", "float32"]
    """Its type."""
    color: Literal["RGB"] | None
    """Order of the channels; None for features."""
    range: tuple[int, int] | None
    """Of the values, as they are decoded: the graph itself scales and normalises them; None for features."""


class Output(BaseModel):
    """What the graph gives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["probabilities"] = "probabilities"
    """Of the graph's output."""
    axes: list[str] = ["batch", "class"]
    """What its dimensions are; of a hierarchy the classes of all levels, side by side."""
    shape: list[int | str]
    """Its length along each."""
    dtype: Literal["float32"] = "float32"
    """Its type."""
    activation: Literal["sigmoid", "softmax"]
    """What made the probabilities of scores: of each class by itself, or of one among all (of each level)."""


class ExportDocument(BaseModel):
    """All that is needed to feed an exported model and to read what it says. It names no place and no user."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = EXPORT_SCHEMA_VERSION
    """Version of this document."""
    format: Format
    """Of the file that it lies in."""
    categories: list[str]
    """Class names of the data, in order of class number."""
    task: Task
    """What the labels mean."""
    hierarchy: Hierarchy | None
    """Levels of classes, in the order in which their probabilities lie side by side; None: of the categories alone."""
    thresholds: dict[str, float] | None
    """For each class (with a hierarchy, of the first level) the probability above which it happens; None: 0.5, or the
    likeliest class."""
    style: dict[str, Any]
    """Parameters of the sliding style whose windows it was trained on."""
    size: tuple[int, int]
    """Height and width in pixels of the frames, or of the patches where the style cuts them."""
    resize: ResizeBy
    """Who resized the frames that it was trained on."""
    input: Input
    """What the graph takes."""
    output: Output
    """What the graph gives."""
    features: FeatureInfo | None
    """The features that it takes; None where it takes frames."""
    backbone: str
    """Name of the backbone."""
    epoch: int
    """Epochs of training."""
    metrics: dict[str, float | None]
    """Validation figures after that epoch; null where one is not defined."""
    fingerprint: str
    """Of the index that it was trained on."""
    commit: str | None
    """Git commit of the program that trained it, where that is known."""
    versions: dict[str, str]
    """Of the program that trained it and what that stood on."""

    @model_validator(mode="after")
    def _check(self) -> ExportDocument:
        """Refuse a document that contradicts itself: it may be damaged."""
        SlidingStyle(**self.style)
        if self.hierarchy is not None and list(self.hierarchy.categories) != self.categories:
            raise ValueError("the hierarchy is of other categories")
        if self.output.shape[1:] != [sum(self.level_sizes)]:
            raise ValueError(f"the output has the shape {self.output.shape} for {sum(self.level_sizes)} classes")
        if len(self.input.shape) != len(self.input.axes):
            raise ValueError(f"the input has the shape {self.input.shape} along {self.input.axes}")
        return self

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Classes of each level; of the categories where there is no hierarchy."""
        return self.hierarchy.sizes if self.hierarchy else (len(self.categories),)


def describe_export(manifest: Manifest, *, format: Format) -> ExportDocument:
    """The document of a checkpoint that is exported."""
    hierarchy, features, style = manifest.hierarchy, manifest.features, manifest.sliding_style
    if features is not None:
        given = Input(
            name="features",
            axes=["batch", "token", "feature"],
            shape=["batch", *features.shape],
            dtype="float32",
            color=None,
            range=None,
        )
    else:
        # Of tiles of a fixed size there are as many as the video is large; the model takes any number of them.
        number = "patch" if style.patch_type == "absolute" else style.patch_h * style.patch_w
        patches = {"patch": number} if style.has_patches else {}
        height, width = manifest.size
        lengths = {"batch": "batch", "time": style.samples_per_window, **patches}
        lengths |= {"channel": CHANNELS, "height": height, "width": width}
        given = Input(
            name="frames",
            axes=list(lengths),
            shape=list(lengths.values()),
            dtype="uint8",
            color="RGB",
            range=(0, 255),
        )
    num_outputs = sum(hierarchy.sizes) if hierarchy else len(manifest.categories)
    activation: Literal["sigmoid", "softmax"] = "sigmoid" if manifest.task == "multi_label" else "softmax"
    return ExportDocument(
        format=format,
        categories=manifest.categories,
        task=manifest.task,
        hierarchy=hierarchy,
        thresholds=manifest.thresholds,
        style=manifest.style,
        size=manifest.size,
        resize=manifest.config.data.resize,
        input=given,
        output=Output(shape=["batch", num_outputs], activation=activation),
        features=features,
        backbone=manifest.config.model.backbone,
        epoch=manifest.epoch,
        metrics=manifest.metrics,
        fingerprint=manifest.fingerprint,
        commit=manifest.commit,
        versions=manifest.versions,
    )


def read_document(text: str | None, *, path: object, format: Format) -> ExportDocument:
    """The document of the file `path`; ExportError where there is none, or a damaged one, or one of another version."""
    if text is None:
        raise ExportError(
            f"{path} was not written by `wildstream export`: it does not say what its classes and frames are. Export a "
            "checkpoint: wildstream export RUN OUT"
        )
    try:
        raw = json.loads(text)
        if isinstance(raw, dict) and raw.get("schema_version") != EXPORT_SCHEMA_VERSION:
            raise ExportError(
                f"{path} has schema_version={raw.get('schema_version')!r}, this program reads {EXPORT_SCHEMA_VERSION}. "
                "Take the program that wrote it, or export the checkpoint anew."
            )
        document = ExportDocument.model_validate_json(text)
    except (ValueError, TypeError, RecursionError) as error:  # JSON's and pydantic's errors are ValueErrors
        said = " ".join(str(error).split())
        raise ExportError(f"the document in {path} is damaged: {said:.300}. Export the checkpoint anew.") from error
    if document.format != format:
        raise ExportError(f"{path} says of itself that it is .{document.format}. Give it that ending.")
    return document
