"""A checkpoint → one .onnx or .pt2 file, compared with the model before it takes its place."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from wildstream.errors import ConfigError, ExportError
from wildstream.export.archive import write_archive
from wildstream.export.document import DOCUMENT_NAME, ExportDocument, Format, describe_export
from wildstream.export.graph import CANNOT, ProbabilityModel, cannot, open_axes, random_inputs, silenced, trace
from wildstream.export.loading import FORMATS, import_export_package, load_exported
from wildstream.models.lora import merge_lora
from wildstream.storage.urls import is_remote, redact
from wildstream.training.checkpoints import load_checkpoint
from wildstream.training.kept import find_checkpoint

if TYPE_CHECKING:
    from torch.export import ExportedProgram

CHECKED_BATCHES = (1, 3)
"""Batch sizes at which a written file is compared with the model; the graph was made at another one."""
TOLERANCE = 1e-4
"""How far probabilities of the file may be from the model's."""
ONNX_LIMIT = 2_000_000_000
"""Bytes of weights that are put into the .onnx itself: the format's own limit is 2 GiB for all of it."""
DATA_SUFFIX = ".data"
"""Behind the name of a .onnx: the file with its weights, where they are larger than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written."""

    path: Path
    """The file."""
    files: tuple[Path, ...]
    """All files: with weights above 2 GB, a .onnx has them beside it, in NAME.onnx.data."""
    document: ExportDocument
    """What it says of itself."""
    difference: float
    """The largest difference to the model's probabilities, over `batch_sizes`."""
    batch_sizes: tuple[int, ...] = CHECKED_BATCHES
    """Windows at a time with which it was compared."""

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)


def export_model(
    checkpoint: str | Path, out: str | Path, *, to: Format | None = None, force: bool = False
) -> ExportReport:
    """Write a checkpoint's model as a file that runs without it.

    The file takes uint8 frames (or features) of any number of windows and gives probabilities; `ExportDocument` says
    all about both. It is written beside its place, loaded anew, compared with the model on random inputs, and renamed.

    Args:
        checkpoint: A checkpoint, RUN/best or RUN/last, or a run, whose best is taken.
        out: A name that ends in .onnx or .pt2, in a folder that exists.
        to: "onnx" or "pt2"; what `out` ends in by default.
        force: Replace what is there.

    Raises:
        ConfigError: `out` has another ending, is there already, or has no folder.
        ShardError: There is no such checkpoint, or it is damaged.
        EnvironmentProblem: The packages of the extra "export" are not installed; .onnx needs them.
        ExportError: The model cannot be written so, or the file gives other probabilities. Nothing is left then.
    """
    path, kind = _check_out(out, to=to, force=force)
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            import_export_package(package)
    model, manifest = load_checkpoint(find_checkpoint(checkpoint))
    document = describe_export(manifest, format=kind)
    whole = ProbabilityModel(model, task=manifest.task, hierarchy=manifest.hierarchy).eval()
    inputs = [random_inputs(document, size, seed=size, any_length=size + 1) for size in CHECKED_BATCHES]
    with torch.inference_mode():
        expected = [whole(some) for some in inputs]
    merge_lora(whole)  # after the comparison's own probabilities, so that it tells of the merging too
    program = trace(whole, document)
    folder = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        written = folder / path.name
        if kind == "onnx":
            _write_onnx(program, written, document, num_bytes=_size_of(whole))
        else:
            write_archive(program, written, document.model_dump_json())
        exported = load_exported(written)
        differences = [
            float((exported.all_levels(some) - truth).abs().max()) for some, truth in zip(inputs, expected, strict=True)
        ]
        if any(not difference <= TOLERANCE for difference in differences):  # NaN is no small difference
            raise ExportError(
                f"{path.name} gives other probabilities than the model: they differ by {max(differences):.2g} at "
                f"batches of {' and '.join(map(str, CHECKED_BATCHES))}, {TOLERANCE:g} is allowed. Nothing was written. "
                f"Try --to {'pt2' if kind == 'onnx' else 'onnx'}."
            )
        files = sorted(folder.iterdir(), reverse=True)  # the data before what refers to it
        placed = tuple(file.replace(path.with_name(file.name)) for file in files)
        if kind == "onnx" and len(placed) == 1:  # a larger model that was replaced had two
            path.with_name(path.name + DATA_SUFFIX).unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ExportReport(path=path, files=placed, document=document, difference=max(differences))


def _check_out(out: str | Path, *, to: Format | None, force: bool) -> tuple[Path, Format]:
    """Where to write and what; before anything slow is begun."""
    if is_remote(out):
        raise ConfigError(f"{redact(str(out))} must be a local file. Export there, then copy it.")
    path = Path(out)
    known = FORMATS.get(path.suffix)
    if known is None or path.name in FORMATS:
        raise ConfigError(f"{path} must be a file name that ends in {' or '.join(FORMATS)}.")
    if to is not None and to != known:
        raise ConfigError(f"{path} ends in {path.suffix}, but --to is {to}. Leave --to out, or name the file *.{to}.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is not a folder. Make it, or write somewhere else.")
    for file in (path, *((path.with_name(path.name + DATA_SUFFIX),) if known == "onnx" else ())):
        if file.is_dir() or (file.exists() and not force):
            remedy = "." if file.is_dir() else ", or --force (force=True)."
            raise ConfigError(f"{file} is there already. Take another name{remedy}")
    return path, known


def _write_onnx(program: ExportedProgram, path: Path, document: ExportDocument, *, num_bytes: int) -> None:
    """Write a .onnx; its weights in a file beside it, where they are too large for one."""
    try:
        with silenced():
            written = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[document.input.name],
                output_names=[document.output.name],
                dynamic_shapes={document.input.name: open_axes(document)},  # by which its dimensions are named
                verbose=False,
            )
    except CANNOT as error:
        raise cannot(document, error) from error
    assert written is not None
    # Notes about where each step came from name the places of this machine's source files.
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()
    written.model.metadata_props[DOCUMENT_NAME] = document.model_dump_json()
    written.save(path, external_data=num_bytes > ONNX_LIMIT)


def _size_of(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
