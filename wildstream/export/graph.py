"""A checkpoint's model → one graph: frames in, probabilities out, for any number of windows at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from wildstream.errors import ExportError
from wildstream.export.document import ExportDocument
from wildstream.models.hierarchy import Hierarchy
from wildstream.shards.formats import Task
from wildstream.training.losses import probabilities

CANNOT = (RuntimeError, ValueError, TypeError, AssertionError, KeyError, AttributeError)
"""What the tracers of torch raise of models that they do not understand."""


class ProbabilityModel(nn.Module):
    """A model whose scores are made probabilities, level by level, in float32."""

    def __init__(self, model: nn.Module, *, task: Task, hierarchy: Hierarchy | None) -> None:
        """Hold a model."""
        super().__init__()
        self.model = model
        self.task: Task = task
        self.sizes = hierarchy.sizes if hierarchy else None

    def forward(self, inputs: Tensor) -> Tensor:
        """As the model takes them, to (B, K) float32; of a hierarchy the classes of all levels, side by side."""
        scores: Tensor = self.model(inputs)
        parts = scores.split(self.sizes, dim=1) if self.sizes else (scores,)
        return torch.cat([probabilities(part, task=self.task) for part in parts], dim=1)


def random_inputs(document: ExportDocument, batch_size: int, *, seed: int, any_length: int = 3) -> Tensor:
    """Inputs of the right shape and type; `any_length` where another dimension than the batch is open."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [any_length if isinstance(length, str) else length for length in document.input.shape[1:]]
    if document.input.dtype == "uint8":
        return torch.randint(0, 256, (batch_size, *lengths), dtype=torch.uint8, generator=generator)
    return torch.randn(batch_size, *lengths, generator=generator)


def open_axes(document: ExportDocument) -> dict[int, Dim]:
    """The input's dimensions that take any length from 1 on."""
    return {axis: Dim(length, min=1) for axis, length in enumerate(document.input.shape) if isinstance(length, str)}


def trace(model: ProbabilityModel, document: ExportDocument) -> ExportedProgram:
    """The model as a graph, by running it once; ExportError where that cannot be.

    Nothing of it says where the program lies: the places in the source that each step came from are left out.
    """
    try:
        with silenced(), torch.no_grad():
            program = torch.export.export(
                model,
                (random_inputs(document, 2, seed=0),),  # 1 would be taken for a fixed length
                dynamic_shapes={"inputs": open_axes(document)},
            )
    except CANNOT as error:
        raise cannot(document, error) from error
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    # torch.export.load(...).module() wants an example; of this one a single number is stored.
    example = random_inputs(document, 2, seed=0)
    program.example_inputs = ((example.new_zeros(()).expand_as(example),), {})
    return program


def cannot(document: ExportDocument, error: Exception) -> ExportError:
    """What to say of a model that torch cannot write down."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    other = "pt2" if document.format == "onnx" else "onnx"
    return ExportError(
        f"a model with backbone={document.backbone!r} cannot be written as {document.format}: {said:.300} "
        f"Try --to {other}, or another backbone."
    )


@contextmanager
def silenced() -> Iterator[None]:
    """Leave out what torch warns of its own ways."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
