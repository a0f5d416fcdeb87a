"""Options of how it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wildstream.config.options import Number, Positive, Strict, expand


class TrainerConfig(Strict):
    """How it is trained."""

    epochs: Positive = 10
    """Passes over all windows."""
    batch_size: Positive = 8
    """Clips per batch and process."""
    lr: Annotated[Number, Field(gt=0)] = 3e-4
    """Highest learning rate, of AdamW under a one-cycle schedule."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.05
    """AdamW's weight decay."""
    clip_norm: Annotated[Number, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm; null: never."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision; no: float32."""
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    """Decides weights, order and dropout."""
    monitor: Literal["mAP", "f1_macro", "f1_micro", "loss"] = "mAP"
    """Validation figure that the best checkpoint is chosen by."""
    out: Annotated[Path, AfterValidator(expand)] | None = None
    """Run folder; null: runs/<date>-<backbone>-<style>."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases; auto: online where logged in, else offline."""
    project: str = "wildstream"
    """Project name in Weights & Biases."""
    progress: bool = True
    """Show progress bars."""
