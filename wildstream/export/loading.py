"""An exported file → a model that runs from it alone, on the processor.

Files are read as data: a .pt2 that could run code is refused (export/archive.py); of a .onnx ONNX Runtime knows only
its own operators. So a file that somebody sent can give wrong probabilities, but do nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import ConfigError, EnvironmentProblem, ExportError
from wildstream.export.archive import damaged, read_archive, read_archive_document
from wildstream.export.document import DOCUMENT_NAME, ExportDocument, Format, read_document
from wildstream.models.hierarchy import Level
from wildstream.shards.formats import Task
from wildstream.stream.transforms import ResizeBy
from wildstream.stream.windows import SlidingStyle

if TYPE_CHECKING:
    import numpy.typing as npt

FORMATS: dict[str, Format] = {".onnx": "onnx", ".pt2": "pt2"}
"""By the ending of the file's name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportedModel:
    """A model that runs from an exported file alone."""

    path: Path
    """The file."""
    document: ExportDocument
    """What it says of itself."""
    run: Callable[[Tensor], Tensor]
    """The graph: inputs as the document says, to float32 probabilities (B, num_outputs)."""

    @property
    def categories(self) -> list[str]:
        """Class names of the data, in order of class number."""
        return self.document.categories

    @property
    def classes(self) -> list[str]:
        """Names of what `__call__` gives probabilities of: the first level's classes, or the categories."""
        return list(self.levels[0].classes) if self.levels else self.categories

    @property
    def task(self) -> Task:
        """What the labels mean."""
        return self.document.task

    @property
    def style(self) -> SlidingStyle:
        """The style whose windows it was trained on."""
        return SlidingStyle(**self.document.style)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of frames, or of patches."""
        return self.document.size

    @property
    def resize(self) -> ResizeBy:
        """Who resized the frames that it was trained on."""
        return self.document.resize

    @property
    def thresholds(self) -> dict[str, float] | None:
        """For each of `classes` the probability above which it happens, where the training found any."""
        return self.document.thresholds

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels of classes, from the categories' own to the widest; none without a hierarchy."""
        return self.document.hierarchy.levels if self.document.hierarchy else ()

    @property
    def num_outputs(self) -> int:
        """Probabilities of each window, those of all levels."""
        return sum(self.document.level_sizes)

    @property
    def takes_features(self) -> bool:
        """Whether it takes features that were extracted before, and no frames."""
        return self.document.features is not None

    def __call__(self, inputs: Tensor | npt.NDArray[np.generic]) -> Tensor:
        """Probabilities of a batch of windows.

        Args:
            inputs: Frames, uint8 (B, T, C, H, W), with patches (B, T, P, C, H, W); or features of any float type,
                (B, tokens, dim).

        Returns:
            (B, K) float32 on the processor, of `classes`.

        Raises:
            ConfigError: The inputs are of another shape or type than the model takes.
        """
        return self.all_levels(inputs)[:, : self.document.level_sizes[0]]

    def by_level(self, inputs: Tensor | npt.NDArray[np.generic]) -> dict[str, Tensor]:
        """The same for each level by its name: (B, K_level) float32; nothing without a hierarchy."""
        hierarchy = self.document.hierarchy
        return hierarchy.split(self.all_levels(inputs)) if hierarchy else {}

    def all_levels(self, inputs: Tensor | npt.NDArray[np.generic]) -> Tensor:
        """The same, of all levels side by side: (B, num_outputs) float32."""
        tensor = torch.from_numpy(inputs) if isinstance(inputs, np.ndarray) else inputs
        expected = self.document.input
        wanted = getattr(torch, expected.dtype)
        fits = tensor.is_floating_point() if wanted.is_floating_point else tensor.dtype == wanted
        lengths = list(zip(tensor.shape, expected.shape, strict=False))
        if (
            not fits
            or tensor.ndim != len(expected.shape)
            or any(have < 1 or (isinstance(want, int) and have != want) for have, want in lengths)
        ):
            shape = ", ".join(map(str, expected.shape))
            raise ConfigError(
                f"{expected.name} must be {expected.dtype} ({shape}) for {self.path.name}, got "
                f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}. Take windows of its style, resized "
                f"to {list(self.size)}."
            )
        return self.run(tensor.to("cpu", wanted).contiguous())


def load_exported(path: str | Path) -> ExportedModel:
    """Load what `wildstream export` wrote; neither the checkpoint nor the packages of its backbone are needed.

    Raises:
        ConfigError: The name ends neither in .onnx nor in .pt2.
        EnvironmentProblem: The file is .onnx and onnxruntime is not installed.
        ExportError: There is no such file, or it is no exported model, damaged, of another version, or could run code.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path} must end in {' or '.join(FORMATS)}, as `wildstream export` writes them.")
    if not path.is_file():
        raise ExportError(f"{path} is not a file. Write one: wildstream export RUN {path.name}")
    return _load_onnx(path) if FORMATS[path.suffix] == "onnx" else _load_pt2(path)


def _load_onnx(path: Path) -> ExportedModel:
    """Through ONNX Runtime, which knows nothing of torch."""
    runtime = import_export_package("onnxruntime")
    kinds = vars(runtime.capi.onnxruntime_pybind11_state).values()
    own = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))
    raised: tuple[type[Exception], ...] = (RuntimeError, ValueError, *own)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # it warns of its own optimisations
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except raised as error:
        raise damaged(path, error) from error
    text = session.get_modelmeta().custom_metadata_map.get(DOCUMENT_NAME)
    document = read_document(text, path=path, format="onnx")

    def run(inputs: Tensor) -> Tensor:
        (found,) = session.run([document.output.name], {document.input.name: inputs.numpy()})
        return torch.from_numpy(found)

    return ExportedModel(path=path, document=document, run=run)


def _load_pt2(path: Path) -> ExportedModel:
    """Through torch alone."""
    document = read_document(read_archive_document(path), path=path, format="pt2")
    module = read_archive(path).module(check_guards=False)  # `ExportedModel` checks what goes in

    def run(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = module(inputs)
        return found.clone()  # a tensor of inference mode is of little use outside it

    return ExportedModel(path=path, document=document, run=run)


def import_export_package(name: str) -> ModuleType:
    """A package of the extra "export"; EnvironmentProblem where it is missing."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise EnvironmentProblem(
            f"ONNX files need the package {name}, which is not installed ({error}). Install it: "
            "pip install 'wildstream[export]'"
        ) from error
