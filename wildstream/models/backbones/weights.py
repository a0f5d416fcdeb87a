"""Pretrained weights: fetched by the library that has them, or read from a file; tensors only, no code is ever run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from wildstream.errors import ConfigError, WeightsError

Fetched = TypeVar("Fetched")

_NO_STATE = (OSError, EOFError, RuntimeError, ValueError, AttributeError, TypeError, UnpicklingError, SafetensorError)
"""What torch, pickle and safetensors raise at a file that holds something else."""


def fetch(name: str, source: str, get: Callable[[], Fetched]) -> Fetched:
    """Call what may fetch weights; explain where that fails.

    Args:
        name: The backbone's name.
        source: The file that is fetched, as somebody would look for it.
        get: Fetches it, or finds it in the library's cache.

    Raises:
        WeightsError: It is neither on this machine nor within reach.
    """
    try:
        return get()
    except (OSError, RuntimeError) as error:  # hub and URL errors are OSErrors; some arrive wrapped in RuntimeError
        said = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"weights='DEFAULT': the pretrained weights of {name} cannot be had: {type(error).__name__}: {said:.200} "
            f"They are {source}. On a machine without a network, copy the file here and give its path as weights, or "
            "take weights=null."
        ) from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict from a file; what the network has no place for, such as a classification layer, is left out.

    Raises:
        ConfigError: The file is not a state dict of this network.
        WeightsError: There is no such file.
    """
    if not path.is_file():
        raise WeightsError(f"weights={str(path)!r} is not a file. Give DEFAULT, the path of a state dict, or null.")
    try:
        missing, unexpected = load_state(network, _read_state(path))
    except _NO_STATE as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"weights={str(path)!r} is not a state dict of this backbone: {said} Save one with "
            "torch.save(network.state_dict(), path), or as .safetensors."
        ) from error
    if missing:
        raise ConfigError(
            f"weights={str(path)!r} lacks {len(missing)} parameters of this backbone, such as {missing[0]!r}, "
            f"and has {len(unexpected)} of something else. Take weights of the same network."
        )


def load_state(network: nn.Module, state: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Load a state dict; the names that it lacks, and those that the network has no place for.

    The files on transformers' hub hold a network with a head, whose parameters are called `vjepa2.encoder…` by it, and
    VideoMAE's call two biases by older names.
    """
    if prefix := getattr(network, "base_model_prefix", None):
        known = network.state_dict().keys()
        bare = {name.removeprefix(f"{prefix}."): value for name, value in state.items()}
        state = {name if name in known else _rename(name): value for name, value in bare.items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    return missing, unexpected


def _rename(name: str) -> str:
    """A parameter's name today, by transformers' own mapping of names."""
    return name.replace("attention.q_bias", "attention.query.bias").replace("attention.v_bias", "attention.value.bias")


def _read_state(path: Path) -> dict[str, Any]:
    """The tensors in a .safetensors file, or in one of torch.save."""
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
