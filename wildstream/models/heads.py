"""From tokens to class scores: pooling over tokens, a classifier, an aggregator over patches and frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from wildstream.errors import ConfigError


class MeanPooling(nn.Module):
    """The mean of all tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, tokens, dim) to (N, dim)."""
        return tokens.mean(dim=1)


class MaxPooling(nn.Module):
    """The maximum over all tokens, feature by feature."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, tokens, dim) to (N, dim)."""
        return tokens.amax(dim=1)


class MeanAggregator(nn.Module):
    """The mean of the scores of all patches and frames."""

    def forward(self, scores: Tensor) -> Tensor:
        """(B, members, K) to (B, K)."""
        return scores.mean(dim=1)


class MaxAggregator(nn.Module):
    """The highest score of all patches and frames, class by class."""

    def forward(self, scores: Tensor) -> Tensor:
        """(B, members, K) to (B, K)."""
        return scores.amax(dim=1)


def make_linear(input_dim: int, output_dim: int) -> nn.Module:
    """One linear layer."""
    return nn.Linear(input_dim, output_dim)


def make_mlp(input_dim: int, output_dim: int) -> nn.Module:
    """LayerNorm and two layers with as many hidden features as inputs."""
    return nn.Sequential(
        nn.LayerNorm(input_dim),
        nn.Linear(input_dim, input_dim),
        nn.GELU(),
        nn.Dropout(0.1),
        nn.Linear(input_dim, output_dim),
    )


Entry = TypeVar("Entry")

POOLINGS: dict[str, Callable[[], nn.Module]] = {"mean": MeanPooling, "max": MaxPooling}
CLASSIFIERS: dict[str, Callable[[int, int], nn.Module]] = {"linear": make_linear, "mlp": make_mlp}
AGGREGATORS: dict[str, Callable[[], nn.Module]] = {"mean": MeanAggregator, "max": MaxAggregator}


def choose(what: str, name: str, table: dict[str, Entry]) -> Entry:
    """An entry of one of the tables; ConfigError where there is none."""
    if name not in table:
        raise ConfigError(f"{what}={name!r} is not known. Take one of {', '.join(table)}.")
    return table[name]


class Broadcast(nn.Module):
    """Run a module that takes (N, *sample) over any number of leading dimensions (WildFins' BroadcastableModule)."""

    def __init__(self, module: nn.Module, *, sample_ndim: int, chunk: int) -> None:
        """Hold a module.

        Args:
            module: Takes (N, *sample), gives (N, *result).
            sample_ndim: Dimensions of one sample.
            chunk: Samples that go through at a time: bounds the memory.
        """
        super().__init__()
        if chunk < 1:
            raise ConfigError(f"chunk={chunk} must be at least 1.")
        self.module = module
        self.sample_ndim = sample_ndim
        self.chunk = chunk

    def forward(self, samples: Tensor) -> Tensor:
        """(*leading, *sample) to (*leading, *result)."""
        leading = samples.shape[: samples.ndim - self.sample_ndim]
        flat = samples.reshape(-1, *samples.shape[samples.ndim - self.sample_ndim :])
        results = torch.cat([self.module(part) for part in flat.split(self.chunk)])
        unflattened: Tensor = results.unflatten(0, leading)
        return unflattened
