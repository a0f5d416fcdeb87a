"""All options of a training run, and what they must agree on."""

from __future__ import annotations

from pydantic import model_validator

from wildstream.config.augment import AugmentConfig
from wildstream.config.data import DataConfig
from wildstream.config.model import ModelConfig, known_backbone
from wildstream.config.options import Strict
from wildstream.config.trainer import TrainerConfig
from wildstream.errors import ConfigError


class TrainConfig(Strict):
    """All options of a training run."""

    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="after")
    def _check_splits(self) -> TrainConfig:
        if self.data.train_split == self.data.val_split:
            raise ValueError(
                f"data.train_split and data.val_split are both {self.data.train_split!r}: a model must not be "
                "validated on what it was trained on. Take another split."
            )
        return self

    @model_validator(mode="after")
    def _check_temporal_sampler(self) -> TrainConfig:
        if self.augment.temporal_sampler is not None and self.data.precomputed:
            raise ValueError("augment.temporal_sampler picks frames, and data.precomputed=true has none. Leave it out.")
        try:
            self.augment.make_temporal_sampler().check(self.data.sliding_style)
        except ConfigError as error:
            raise ValueError(f"augment.temporal_sampler.{error}") from error
        return self

    @model_validator(mode="after")
    def _check_augment(self) -> TrainConfig:
        if self.data.precomputed and (
            given := [name for name in ("transforms", "cutmix") if getattr(self.augment, name)]
        ):
            raise ValueError(
                f"augment.{given[0]} goes with frames, and data.precomputed=true has none. Leave it out; augment.mixup "
                "goes with features too."
            )
        if self.trainer.batch_size == 1 and (self.augment.mixup or self.augment.cutmix):
            name = "mixup" if self.augment.mixup else "cutmix"
            raise ValueError(
                f"augment.{name}={getattr(self.augment, name)} mixes the clips of a batch, and trainer.batch_size=1 "
                "has one. Take larger batches, or leave it out."
            )
        return self

    @model_validator(mode="after")
    def _check_backbone(self) -> TrainConfig:
        """Features may be of any backbone: those of another one are refused when they are opened."""
        of_backbones = {f"model.{name}": getattr(self.model, name) for name in ("frozen", "unfreezing", "lora")}
        of_backbones |= {f"trainer.{name}": getattr(self.trainer, name) for name in ("backbone_lr", "layer_decay")}
        if self.data.precomputed and (given := [name for name, value in of_backbones.items() if value]):
            raise ValueError(f"{given[0]} goes with a backbone, and data.precomputed=true has none. Leave it out.")
        try:
            if not self.data.precomputed:
                known_backbone(self.model.backbone, self.data.sliding_style.samples_per_window)
        except ConfigError as error:
            raise ValueError(f"model.{error}") from error
        return self
