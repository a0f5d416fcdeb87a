"""From tokens to class scores: pooling over tokens, a classifier, an aggregator over patches and frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from wildstream.errors import ConfigError

# N samples, B batch, D features, K classes; members: what of a window goes through the backbone by itself


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


class ClsPooling(nn.Module):
    """The first token, which is the class token of backbones that have one."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, tokens, dim) to (N, dim)."""
        return tokens[:, 0]


class AttentionPooling(nn.Module):
    """What a learned query gathers from the normed tokens, by multi-head attention.

    LayerNorm, then softmax(q Kᵀ / √(dim / heads)) V for each head, and a linear layer (Vaswani et al. 2017).
    """

    def __init__(self, dim: int) -> None:
        """Start with a small random query; 8 heads, or the most that divide both 8 and `dim`."""
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, math.gcd(dim, 8), batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, tokens, dim) to (N, dim)."""
        normed = self.norm(tokens)
        query = self.query.expand(tokens.shape[0], -1, -1)  # len() would tie an exported graph to one batch size
        gathered: Tensor = self.attention(query, normed, normed, need_weights=False)[0]
        return gathered.squeeze(1)


class MeanAggregator(nn.Module):
    """The mean of the scores of all members."""

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """(B, members, K) scores and (B, members, dim) features to (B, K) scores."""
        return scores.mean(dim=1)


class MaxAggregator(nn.Module):
    """The highest score of all members, class by class."""

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """(B, members, K) scores and (B, members, dim) features to (B, K) scores."""
        return scores.amax(dim=1)


class LogSumExpAggregator(nn.Module):
    """A smooth maximum of the scores of all members, class by class.

        (1 / r) log(mean over members of exp(r score))

    which tends to the mean for small r and to the maximum for large r (Pinheiro & Collobert 2015).
    """

    def __init__(self, temperature: float = 5.0) -> None:
        """Choose r."""
        super().__init__()
        if not temperature > 0 or math.isinf(temperature):
            raise ConfigError(f"temperature={temperature} must be above 0 and finite. Take 5.")
        self.temperature = temperature

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """(B, members, K) scores and (B, members, dim) features to (B, K) float32 scores."""
        wide = scores.float()
        highest = wide.detach().amax(dim=1)  # taken out of the exponent, so that nothing overflows
        spread = torch.logsumexp(self.temperature * (wide - highest.unsqueeze(1)), dim=1)
        members = wide.new_full((), wide.shape[1])  # in an exported graph their number may be open
        return highest + (spread - members.log()) / self.temperature


class AttentionAggregator(nn.Module):
    """The mean of the scores of all members, weighted by how telling their features are.

        weight of a member = softmax over members of w · (tanh(V h) ⊙ sigmoid(U h)), h its features

    (gated attention of Ilse et al. 2018, equation 9; with a linear classifier, weighting scores is weighting features)
    """

    def __init__(self, dim: int, hidden: int = 128) -> None:
        """Start from random weights."""
        super().__init__()
        self.content = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden)
        self.weight = nn.Linear(hidden, 1)

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """(B, members, K) scores and (B, members, dim) features to (B, K) scores."""
        gated = torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features))
        return (torch.softmax(self.weight(gated), dim=1) * scores).sum(dim=1)


class ExtensibleLinear(nn.Linear):
    """One linear layer, whose rows stay with their classes where others come to them."""

    def load_rows(self, state: Mapping[str, Tensor], *, old: Sequence[str], new: Sequence[str]) -> None:
        """Take over the rows of a layer of fewer classes; rows of classes that are new stay as they are.

        Args:
            state: That layer's `weight`, (len(old), dim), and `bias`, (len(old),).
            old: Its classes, in order of its rows.
            new: This layer's classes, in order of its rows; all of `old` are among them.

        Raises:
            ConfigError: A class is lost or there twice, or the rows are of another number or length.
        """
        for what, names, rows in (("old", old, len(state["weight"])), ("new", new, self.out_features)):
            if len(set(names)) != len(names) or len(names) != rows:
                raise ConfigError(f"{what}={list(names)} must name each of the {rows} rows once.")
        if lost := [name for name in old if name not in new]:
            raise ConfigError(
                f"new={list(new)} lacks {', '.join(lost)}, which the layer knows. Classes are only added."
            )
        if state["weight"].shape[1] != self.in_features:
            raise ConfigError(
                f"the rows have {state['weight'].shape[1]} features, here are {self.in_features}. Take the same "
                "backbone."
            )
        places = [new.index(name) for name in old]
        with torch.no_grad():
            self.weight[places] = state["weight"].to(self.weight)
            self.bias[places] = state["bias"].to(self.bias)


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

POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    "mean": lambda _: MeanPooling(),
    "max": lambda _: MaxPooling(),
    "attention": AttentionPooling,
    "cls": lambda _: ClsPooling(),
}
"""By name: the length of a token → a module."""
CLASSIFIERS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": make_linear,
    "mlp": make_mlp,
    "extensible": ExtensibleLinear,
}
"""By name: features and classes → a module."""
AGGREGATORS: dict[str, Callable[[int], nn.Module]] = {
    "mean": lambda _: MeanAggregator(),
    "max": lambda _: MaxAggregator(),
    "attention": AttentionAggregator,
    "lse": lambda _: LogSumExpAggregator(),
}
"""By name: the number of features → a module."""


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
        # A loop over chunks has as many turns as the batch asks for: an exported graph, whose batch is open, has none.
        parts = (flat,) if torch.compiler.is_exporting() else flat.split(self.chunk)
        results = torch.cat([self.module(part) for part in parts])
        unflattened: Tensor = results.unflatten(0, leading)
        return unflattened
