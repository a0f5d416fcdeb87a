"""WildStream: labelled video → shards → windows → batches, each frame decoded once, each window exactly once.

    pack(source, out, format="frames")          videos and labels → WebDataset tar shards and their index
    index_shards("s3://bucket/train")           the index of tar shards that others made, where they lie
    split("shards/all", "splits")               train, val and test of the same shards, without leaks
    merge("both", {"lab": ..., "zoo": ...})     several sources as one, where they lie
    import_features(root, out, style=...)       features that WildFins saved → feature shards
    open_index("shards/train")                  labels, lengths, counts; no video is opened
    DatasetBuilder(path=..., style=...).build() all windows of a split; `.loader(...)` gives batches
    ModelBuilder().set_backbone(...)...build()  a model for them
    train(config), evaluate(run)                what train.py and `wildstream evaluate` do
    predict_videos(run, "new_videos", "out")    what happens when in videos without labels
    export_model(run, "model.onnx")             a file that runs without this program; `load_exported` runs it

The stages of the stream (`ParseSamples`, `Decode`, `Windows`, `BufferShuffle`, `Batches`) work in anybody's
`webdataset.WebDataset(...).compose(...)`, which then opens s3://, gs://, az:// and https:// too. Names are imported
when they are first used, so that `import wildstream` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from wildstream.storage.schemes import register as _register_schemes

if TYPE_CHECKING:
    from wildstream.config.compose import compose_config
    from wildstream.config.train import TrainConfig
    from wildstream.errors import (
        ConfigError,
        ExportError,
        FFmpegError,
        FormatError,
        LabelError,
        SampleError,
        ShardError,
        StorageError,
        VideoError,
        WildStreamError,
    )
    from wildstream.evaluation.describe import Analyses
    from wildstream.evaluation.evaluate import Evaluation, evaluate
    from wildstream.evaluation.predictions_file import read_predictions
    from wildstream.export import ExportedModel, ExportReport, export_model, load_exported
    from wildstream.features.wildfins import ImportReport, import_features
    from wildstream.models.classifier import ModelBuilder, VideoClassifier
    from wildstream.prediction.predict import PredictionReport, predict_videos
    from wildstream.samples import Batch, Clip
    from wildstream.shards.adopt import IndexReport, index_shards
    from wildstream.shards.encoders import Transcode
    from wildstream.shards.index import Index, open_index
    from wildstream.shards.leaks import Leak, LeakReport, find_leaks
    from wildstream.shards.merge import MergeReport, merge
    from wildstream.shards.pack import pack
    from wildstream.shards.pack_report import PackReport
    from wildstream.shards.splits import SplitReport, split
    from wildstream.shards.verify import Fault, verify
    from wildstream.storage.access import Storage
    from wildstream.stream.batches import Batches
    from wildstream.stream.dataset import DatasetBuilder, WindowDataset
    from wildstream.stream.decode import Decode
    from wildstream.stream.loader import Loader
    from wildstream.stream.patches import Tile
    from wildstream.stream.plain import open_shards
    from wildstream.stream.segments import ParseSamples
    from wildstream.stream.shuffle import BufferShuffle, Windows
    from wildstream.stream.temporal import TemporalSampler
    from wildstream.stream.transforms import Resize
    from wildstream.stream.windows import SlidingStyle, get_style, style_names
    from wildstream.training.run import train

__version__ = version("wildstream")

_PLACES = {
    "wildstream.config.compose": ("compose_config",),
    "wildstream.config.train": ("TrainConfig",),
    "wildstream.errors": (
        "ConfigError",
        "ExportError",
        "FFmpegError",
        "FormatError",
        "LabelError",
        "SampleError",
        "ShardError",
        "StorageError",
        "VideoError",
        "WildStreamError",
    ),
    "wildstream.evaluation.describe": ("Analyses",),
    "wildstream.evaluation.evaluate": ("Evaluation", "evaluate"),
    "wildstream.evaluation.predictions_file": ("read_predictions",),
    "wildstream.export": ("ExportReport", "ExportedModel", "export_model", "load_exported"),
    "wildstream.features.wildfins": ("ImportReport", "import_features"),
    "wildstream.models.classifier": ("ModelBuilder", "VideoClassifier"),
    "wildstream.prediction.predict": ("PredictionReport", "predict_videos"),
    "wildstream.samples": ("Batch", "Clip"),
    "wildstream.shards.adopt": ("IndexReport", "index_shards"),
    "wildstream.shards.index": ("Index", "open_index"),
    "wildstream.shards.pack": ("pack",),
    "wildstream.shards.pack_report": ("PackReport",),
    "wildstream.shards.encoders": ("Transcode",),
    "wildstream.shards.leaks": ("Leak", "LeakReport", "find_leaks"),
    "wildstream.shards.merge": ("MergeReport", "merge"),
    "wildstream.shards.splits": ("SplitReport", "split"),
    "wildstream.shards.verify": ("Fault", "verify"),
    "wildstream.storage.access": ("Storage",),
    "wildstream.stream.batches": ("Batches",),
    "wildstream.stream.dataset": ("DatasetBuilder", "WindowDataset"),
    "wildstream.stream.decode": ("Decode",),
    "wildstream.stream.loader": ("Loader",),
    "wildstream.stream.patches": ("Tile",),
    "wildstream.stream.plain": ("open_shards",),
    "wildstream.stream.segments": ("ParseSamples",),
    "wildstream.stream.shuffle": ("BufferShuffle", "Windows"),
    "wildstream.stream.temporal": ("TemporalSampler",),
    "wildstream.stream.transforms": ("Resize",),
    "wildstream.stream.windows": ("SlidingStyle", "get_style", "style_names"),
    "wildstream.training.run": ("train",),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "Analyses",
    "Batch",
    "Batches",
    "BufferShuffle",
    "Clip",
    "ConfigError",
    "DatasetBuilder",
    "Decode",
    "Evaluation",
    "ExportError",
    "ExportReport",
    "ExportedModel",
    "FFmpegError",
    "Fault",
    "FormatError",
    "ImportReport",
    "Index",
    "IndexReport",
    "LabelError",
    "Leak",
    "LeakReport",
    "Loader",
    "MergeReport",
    "ModelBuilder",
    "PackReport",
    "ParseSamples",
    "PredictionReport",
    "Resize",
    "SampleError",
    "ShardError",
    "SlidingStyle",
    "SplitReport",
    "Storage",
    "StorageError",
    "TemporalSampler",
    "Tile",
    "TrainConfig",
    "Transcode",
    "VideoClassifier",
    "VideoError",
    "WildStreamError",
    "WindowDataset",
    "Windows",
    "__version__",
    "compose_config",
    "evaluate",
    "export_model",
    "find_leaks",
    "get_style",
    "import_features",
    "index_shards",
    "load_exported",
    "merge",
    "open_index",
    "open_shards",
    "pack",
    "predict_videos",
    "read_predictions",
    "split",
    "style_names",
    "train",
    "verify",
]


_register_schemes()


def __getattr__(name: str) -> object:
    """Import a public name from its module when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'wildstream' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
