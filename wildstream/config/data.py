"""Options of what is streamed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from wildstream.config.options import Positive, Strict, expand
from wildstream.errors import ConfigError
from wildstream.sizes import parse_bytes
from wildstream.storage import urls
from wildstream.storage.access import CACHE_BYTES, Storage
from wildstream.stream.dataset import WindowDataset
from wildstream.stream.plan import LANES, POOL_SEGMENTS, SEGMENT_FRAMES
from wildstream.stream.samplers import Balanced, Random, Sampler
from wildstream.stream.transforms import ResizeBy, parse_size
from wildstream.stream.windows import SlidingStyle, get_style


def _check_style(style: object) -> object:
    """Refuse a style that does not exist or contradicts itself."""
    if not isinstance(style, dict):
        get_style(str(style))
        return style
    if unknown := sorted(set(style) - {field.name for field in fields(SlidingStyle)}):
        raise ConfigError(f"{', '.join(map(str, unknown))} is no parameter of a sliding style")
    return SlidingStyle(**style).as_dict()


def _check_size(size: object) -> object:
    """Refuse a size that is none."""
    return None if size is None else parse_size(list(size) if isinstance(size, tuple) else size)


def _expand_any(path: Path | None) -> Path | None:
    """The same for a path that may be missing; absolute."""
    return None if path is None else expand(path).absolute()


def _check_location(location: object) -> str:
    """A URL as it is, without login; a path absolute, with ~ as the home folder."""
    if not isinstance(location, (str, Path)):
        raise ConfigError("must be a path or a URL")
    if not urls.is_remote(location):
        return str(urls.local_path(location).expanduser().absolute())
    if urls.has_login(str(location)):
        raise ConfigError(
            f"{urls.redact(str(location))} holds a login, which would be kept with the run. {_KEYS_GO_TO}"
        )
    return urls.normal(location)


def _check_storage_options(options: object) -> object:
    """Refuse what is secret: the configuration is kept with each run and shown by W&B."""
    if not isinstance(options, dict):
        raise ConfigError("must be options by name, such as {region: eu-west-1}")
    secret = [str(name) for name, value in options.items() if urls.is_secret(str(name)) or urls.has_login(str(value))]
    if secret:
        raise ConfigError(f"{', '.join(sorted(secret))} would be kept with the run. {_KEYS_GO_TO}")
    return options


def _check_bytes(size: object) -> object:
    """A size in bytes, also written as 100GiB."""
    return parse_bytes(size) if isinstance(size, str) else size


Option = str | int | float | bool

_KEYS_GO_TO = "Give keys, tokens and passwords by the environment (AWS_…, GOOGLE_…, AZURE_…) or a profile."


class ClassMapConfig(Strict):
    """Other classes than the shards have; nothing is packed anew."""

    rename: dict[str, str] = {}  # noqa: RUF012
    """New names by old ones, such as {walk: moving, run: moving}; classes with one name are united."""
    drop: tuple[str, ...] = ()
    """Classes to leave out, by their names in the shards; videos of single-label shards go with theirs."""
    min_samples: Annotated[int, Field(ge=0, strict=True)] = 0
    """Classes with fewer windows in the training split become one, called other; 0: none."""


class DataConfig(Strict):
    """What is streamed."""

    path: Annotated[str, BeforeValidator(_check_location)]
    """Path or URL (s3://, gs://, az://, https://) of packed shards, with a folder per split; a path is kept absolute,
    so that a run can be used from anywhere."""
    precomputed: bool = False
    """Whether the path holds features that `wildstream extract` made with model.backbone, to train a head on."""
    # pydantic copies the default
    storage_options: Annotated[dict[str, Option], BeforeValidator(_check_storage_options)] = {}  # noqa: RUF012
    """Options of object stores that are not secret, such as endpoint, region, skip_signature, read_timeout."""
    cache_dir: Annotated[Path | None, AfterValidator(_expand_any)] = None
    """Folder that keeps what was read from object storage; null keeps nothing."""
    cache_bytes: Annotated[Positive, BeforeValidator(_check_bytes)] = CACHE_BYTES
    """What that folder may hold: bytes, or a size such as 100GiB."""
    style: Annotated[str | dict[str, Any], BeforeValidator(_check_style)] = "sliding_window"
    """How windows slide: a name from configs/sliding, or its parameters."""
    class_map: ClassMapConfig | None = None
    """Renames, unites or leaves out classes: {rename: {run: moving}, drop: [unclear], min_samples: 20}, or some of
    these; null: classes are those of the shards."""
    size: Annotated[int | tuple[int, int] | None, BeforeValidator(_check_size)] = None
    """Frames or patches are resized to a square of so many pixels, or to [height, width]; null: the backbone's own."""
    resize: ResizeBy = "swscale"
    """Who resizes: swscale, before frames become RGB, is quicker; torchvision is antialiased bilinear, afterwards."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to validate on after each epoch."""
    num_workers: Positive | None = None
    """Threads per process that decode; null: one per core."""
    sampler: Literal["shuffle", "balanced", "random", "mixed"] = "shuffle"
    """Which windows a training epoch has: shuffle: each once; balanced: as many of every class and of none; random;
    mixed: those of the sources of a merged index, in shares."""
    per_class: Positive | None = None
    """Windows of each class, for sampler=balanced; null: as many as make the epoch as long as with shuffle."""
    num_windows: Positive | None = None
    """Windows of an epoch, for sampler=random or mixed; null: as many as there are."""
    replacement: bool = False
    """Whether a window can come twice in an epoch, for sampler=random."""
    mix: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    """Weight of each source by its name, for sampler=mixed, such as {lab: 3, zoo: 1}; null: in proportion to its
    windows."""
    max_skipped: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of an epoch's windows that may fail to decode; they are masked, counted and named."""
    lanes: Positive = LANES
    """Pieces that a shuffled epoch is cut into; the number of processes must divide it."""
    pool_segments: Positive = POOL_SEGMENTS
    """Open segments per lane: the reach of the shuffle, and its memory."""
    segment_frames: Positive = SEGMENT_FRAMES
    """Kept frames that one segment spans, at most."""

    @model_validator(mode="after")
    def _check_sampler(self) -> DataConfig:
        for option, *samplers in (
            ("per_class", "balanced"),
            ("num_windows", "random", "mixed"),
            ("replacement", "random"),
            ("mix", "mixed"),
        ):
            if getattr(self, option) and self.sampler not in samplers:
                raise ValueError(
                    f"data.{option}={getattr(self, option)} goes with data.sampler={' or '.join(samplers)}, not "
                    f"{self.sampler}. Leave one of them out."
                )
        return self

    def make_storage(self) -> Storage:
        """What reads the shards."""
        return Storage(options=self.storage_options, cache_dir=self.cache_dir, cache_bytes=self.cache_bytes)

    def make_sampler(self, dataset: WindowDataset) -> Sampler | None:
        """The sampler of training epochs of a dataset; None where each window comes once.

        Raises:
            ConfigError: `mix` does not go with the sources of the dataset.
        """
        if self.sampler == "mixed":
            return dataset.mixed(self.mix, num_windows=self.num_windows)
        if self.sampler == "balanced":
            return Balanced(per_class=self.per_class)
        if self.sampler == "random":
            return Random(num_windows=self.num_windows, replacement=self.replacement)
        return None

    @property
    def sliding_style(self) -> SlidingStyle:
        """The style that `style` names or spells out."""
        return get_style(self.style) if isinstance(self.style, str) else SlidingStyle(**self.style)
