"""Options of how it is trained."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from wildstream.config.options import Number, Positive, Strict, expand
from wildstream.errors import ConfigError

LossName = Literal["auto", "bce", "ce", "focal", "asymmetric"]
TOP_FIGURES = ("top1", "top1_per_class", "top5", "top5_per_class", "top10", "top10_per_class")
MONITORED = ("loss", "mAP", "mAP_micro", "f1_macro", "f1_micro", *TOP_FIGURES)
"""Figures that a checkpoint may be chosen by; a level's have its name and a slash in front."""
ClassWeights = Literal["none", "inverse", "effective"]


def _check_monitor(name: str) -> str:
    """Refuse a figure that no data have; which those at hand have is known when they are opened."""
    if name.rpartition("/")[2] not in MONITORED:
        raise ConfigError(
            f"monitor={name!r} is not known. Take one of {', '.join(MONITORED)}, or with model.hierarchy that of a "
            "level, such as genus/mAP."
        )
    return name


def _check_optimizer(name: str) -> str:
    """Refuse an optimizer that timm does not have."""
    if name in ("adamw", "sgd"):
        return name
    from timm.optim import list_optimizers  # seconds to import

    known = [str(known) for known in list_optimizers()]
    if name.lower() not in known:
        near = get_close_matches(name.lower(), known) or ["adamw", "sgd"]
        raise ConfigError(
            f"timm.optim has no optimizer of that name (timm.optim.list_optimizers() names them). Did you mean "
            f"{' or '.join(near)}?"
        )
    return name.lower()


def _check_uri(uri: str) -> str:
    """Refuse an address that holds a login, and what MLflow takes no more."""
    scheme, _, rest = uri.partition("://")
    if "@" in rest or "?" in rest:  # an "@" behind a "/" too, which is one of a password that is not escaped
        raise ConfigError(
            f"{scheme}://… holds a login or options, which would be kept with the run. Give it by "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or take the address of an MLflow server that knows "
            "the database."
        )
    if "://" not in uri:
        raise ConfigError("MLflow takes the address of a database or a server, such as sqlite:///mlflow.db")
    return uri


class TrainerConfig(Strict):
    """How it is trained."""

    epochs: Positive = 10
    """Passes over all windows."""
    batch_size: Positive = 8
    """Clips per batch and process."""
    accumulate: Positive = 1
    """Batches that the optimizer takes one step for; the last step of an epoch has those that are left."""
    loss: LossName = "auto"
    """What is minimised: bce, ce, focal, asymmetric (multi_label alone); auto: bce for multi_label, ce for
    single_label. Validation always reports plain bce or ce."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread over the other answers."""
    class_weights: ClassWeights = "none"
    """Weight of the clips of a class: none; inverse to its number of windows; effective number of samples."""
    focal_gamma: Annotated[Number, Field(ge=0)] = 2.0
    """Focusing of loss=focal: 0, or 1 or more; the higher, the less easy clips count."""
    optimizer: Annotated[str, AfterValidator(_check_optimizer)] = "adamw"
    """adamw, sgd, or any other optimizer of timm.optim by name."""
    lr: Annotated[Number, Field(gt=0)] = 3e-4
    """Highest learning rate."""
    backbone_lr: Annotated[Number, Field(gt=0)] | None = None
    """Highest learning rate of the backbone; null: that of the head, lr."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Each layer of the backbone learns by so much less than the one behind it, such as 0.75; networks of timm alone;
    null: all alike."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.05
    """The optimizer's weight decay; biases and norms have none."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Momentum, of optimizers that have one, such as sgd."""
    schedule: Literal["onecycle", "cosine", "linear", "constant", "plateau"] = "onecycle"
    """How the learning rate goes: up and down once; falling as a cosine or a line to 0; as it is; to a tenth where the
    monitored figure stops to get better."""
    warmup_epochs: Annotated[Number, Field(ge=0)] = 0.0
    """Epochs, also parts of one, over which the learning rate rises first; for cosine, linear and constant."""
    plateau_patience: Annotated[int, Field(ge=0, strict=True)] = 3
    """Epochs without a better figure that schedule=plateau waits."""
    patience: Positive | None = None
    """Epochs without a better monitored figure after which training ends; null: never before its time."""
    clip_norm: Annotated[Number, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm; null: never."""
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the weights, such as 0.999, which is then what is validated
    and kept; null: none."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision; no: float32."""
    compile: bool = False
    """Whether torch.compile speeds up the model, after minutes at the start."""
    sync_bn: bool = False
    """Whether batch norm takes its statistics over all processes; on GPUs."""
    deterministic: bool = False
    """Whether only algorithms are used that give the same bits each time, slower on GPUs."""
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    """Decides weights, order and dropout."""
    monitor: Annotated[str, AfterValidator(_check_monitor)] = "mAP"
    """Validation figure that the best checkpoint is chosen by: loss, mAP, mAP_micro, f1_macro, f1_micro; of
    single_label also top1, top5, top10 and top1_per_class, top5_per_class, top10_per_class; with model.hierarchy also
    that of a level, such as genus/mAP."""
    out: Annotated[Path, AfterValidator(expand)] | None = None
    """Run folder; null: runs/<date>-<backbone>-<style>."""
    keep: Annotated[int, Field(ge=0, strict=True)] = 0
    """Checkpoints of so many epochs, the best ones by the monitored figure, are kept in the folder kept of the run."""
    resume: Literal["auto"] | None = None
    """auto: go on, exactly, where the run in trainer.out was left, or begin it; null: refuse a folder with a run."""
    checkpoint_minutes: Annotated[Number, Field(ge=0)] = 30.0
    """A run can go on from where it was so long ago, or at the end of an epoch; 0: after each step."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases; auto: online where logged in, else offline."""
    tensorboard: bool = False
    """Whether figures go to the folder tensorboard of the run too; needs pip install 'wildstream[tensorboard]'."""
    mlflow: Annotated[str, AfterValidator(_check_uri)] | None = None
    """Where MLflow keeps figures, such as sqlite:///mlflow.db or the address of a server; null: nowhere. Needs pip
    install 'wildstream[mlflow]'."""
    project: str = "wildstream"
    """Name of the project in Weights & Biases, and of the experiment in MLflow."""
    progress: bool = True
    """Show progress bars."""

    @model_validator(mode="after")
    def _check_schedule(self) -> TrainerConfig:
        if self.warmup_epochs and self.schedule in ("onecycle", "plateau"):
            raise ValueError(
                f"trainer.warmup_epochs={self.warmup_epochs} goes with trainer.schedule=cosine, linear or constant, "
                f"not {self.schedule}. Leave one of them out."
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"trainer.warmup_epochs={self.warmup_epochs} must not be more than trainer.epochs={self.epochs}."
            )
        return self

    @model_validator(mode="after")
    def _check_focal(self) -> TrainerConfig:
        if 0 < self.focal_gamma < 1:  # the gradient of (1 - p)^gamma has no bound then where p nears 1
            raise ValueError(f"trainer.focal_gamma={self.focal_gamma} must be 0, or 1 or more. Take 2.")
        return self

    @model_validator(mode="after")
    def _check_resume(self) -> TrainerConfig:
        if self.resume and self.out is None:
            raise ValueError("trainer.resume=auto needs trainer.out, the folder of the run that is to go on.")
        return self
