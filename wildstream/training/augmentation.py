"""A training batch → the same clips, changed at random on their device; validation and evaluation never come here.

Each clip has random parameters of its own, alike for all its frames and patches: a flip turns the whole clip, a crop
does not wander. What depends on the picture itself (contrast is changed around a frame's own mean) still does, frame by
frame. All that is random comes from torch's global generators, which the trainer sets before each batch, so a run
that goes on changes its clips as it would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Beta

from wildstream.config.augment import AugmentConfig, make_transforms
from wildstream.errors import ConfigError
from wildstream.samples import Batch

if TYPE_CHECKING:
    from wildstream.config.augment import Transform

# B batch, T frames, P patches, C channels, H, W pixels, K classes

_TRIALS = 8
"""Times that transforms are tried before training."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Change the clips of a batch at random: transforms first, then mixing.

    Mixing puts together clip i and the one before it, j = i - 1 (the first has the last), and their labels:

        mixup     x = (1 - s) x_i + s x_j,  s ~ Beta(alpha, alpha)                                (Zhang et al. 2018)
        cutmix    x = x_j in a box and x_i around it; s is the box's share of the area. Its sides are H √r and W √r,
                  r ~ Beta(alpha, alpha), its middle is uniform in the frame, what sticks out is cut off
                                                                                                  (Yun et al. 2019)
        labels    y = (1 - s) y_i + s y_j

    Each clip has its own s and box, alike for its frames and patches. Where clip j is padding or did not decode, or one
    of the two is unlabelled, s = 0.
    """

    transforms: Sequence[Transform] = ()
    """From (T × P, C, H, W) uint8 to the same; called once for each clip."""
    mixup: float | None = None
    """alpha; None: no mixup."""
    cutmix: float | None = None
    """alpha; None: no cutmix. With both, each clip has one of the two, both as probable."""
    mix_probability: float = 1.0
    """Probability that a clip is mixed."""

    def __call__(self, batch: Batch) -> Batch:
        """Change a batch.

        Args:
            batch: Frames (B, T, [P,] C, H, W) uint8, on any device; or features, which mixup alone can change.

        Returns:
            The batch with new frames or features of the same shape, type and device (mixup rounds to whole grey
            levels); labels are (B, K) float32 with mixing, else as they were. The given batch stays as it is.

        Raises:
            ConfigError: The frames are not uint8, or there are none and transforms or cutmix need them.
        """
        if (self.transforms or self.cutmix) and batch.frames is None:
            raise ConfigError("the batch has no frames, which transforms and cutmix change. Take mixup alone.")
        if batch.frames is not None and batch.frames.dtype != torch.uint8:
            raise ConfigError(f"frames must be uint8, got {batch.frames.dtype}. Leave the loader's transform out.")
        if batch.frames is not None and self.transforms:
            batch = replace(batch, frames=self._transform(batch.frames))
        return self._mix(batch) if self.mixup or self.cutmix else batch

    def _transform(self, frames: Tensor) -> Tensor:
        """Each clip of (B, T, [P,] C, H, W) through the transforms."""
        changed = torch.empty_like(frames)
        for place, clip in zip(changed, frames, strict=True):
            images = clip.flatten(0, -4)  # T × P, C, H, W
            for transform in self.transforms:
                images = transform(images)
            place.copy_(images.reshape(clip.shape))
        return changed

    def _mix(self, batch: Batch) -> Batch:
        """Mix each clip with the one before it."""
        inputs, count = batch.inputs, len(batch)
        is_mixed = torch.rand(count) < self.mix_probability
        is_cut = torch.rand(count) < (0.5 if self.mixup else 1.0) if self.cutmix else torch.zeros(count).bool()
        shares = Beta(self.mixup, self.mixup).sample((count,)) if self.mixup else torch.zeros(count)
        if self.cutmix:
            boxes, areas = _draw_boxes(Beta(self.cutmix, self.cutmix).sample((count,)), inputs.shape[-2:])
            shares = torch.where(is_cut, areas, shares)
        shares = torch.where(is_mixed, shares, 0).to(inputs.device)
        # Whether clip i may see clip j; asked on the device, which need not be waited for.
        counts = batch.labelled & batch.counts.roll(1)
        mixed = inputs.clone()
        for clip in is_mixed.nonzero().flatten().tolist():
            own, other = inputs[clip], inputs[clip - 1]
            if is_cut[clip]:
                top, left, bottom, right = boxes[clip].tolist()
                box = (..., slice(top, bottom), slice(left, right))
                mixed[clip][box] = torch.where(counts[clip], other[box], own[box])
            else:
                blend = torch.lerp(own.float(), other.float(), shares[clip])
                blend = blend if inputs.is_floating_point() else blend.round()
                mixed[clip] = torch.where(counts[clip], blend.to(inputs.dtype), own)
        share = torch.where(counts, shares, 0).unsqueeze(1)  # B, 1
        labels = (1 - share) * batch.labels.float() + share * batch.labels.float().roll(1, dims=0)
        if batch.features is not None:
            return replace(batch, labels=labels, features=mixed)
        return replace(batch, labels=labels, frames=mixed)


def _draw_boxes(shares: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Boxes in a frame, as CutMix draws them.

    Args:
        shares: (B,) of the frame's area, before what sticks out is cut off.
        size: Height and width of the frame, in pixels.

    Returns:
        (B, 4) int64, top, left, bottom and right (half-open), and (B,) float32, what they have of the area.
    """
    extent = torch.tensor(size)
    half = extent * shares.sqrt().unsqueeze(1) / 2  # B, 2
    middle = extent * torch.rand(len(shares), 2)
    low, high = (middle - half).clamp(min=0).round().long(), (middle + half).minimum(extent).round().long()
    return torch.cat([low, high], dim=1), (high - low).prod(dim=1) / extent.prod()


def make_augment(config: AugmentConfig, size: int | tuple[int, int]) -> Augment | None:
    """What the options say.

    Args:
        config: The options.
        size: Of the frames or patches, in pixels: one number for a square, or height and width.

    Returns:
        None where nothing is to be changed.

    Raises:
        ConfigError: A transform fails, gives something else than frames of that size, or does not change all frames of
            a clip alike.
    """
    if not (config.transforms or config.mixup or config.cutmix):
        return None
    height, width = (size, size) if isinstance(size, int) else size
    transforms = make_transforms(config.transforms, (height, width))
    with torch.random.fork_rng(devices=[]):  # trying leaves no trace
        for _ in range(_TRIALS):
            _try(transforms, torch.randint(256, (1, 3, height, width), dtype=torch.uint8).repeat(2, 1, 1, 1))
    return Augment(
        transforms=transforms,
        mixup=config.mixup,
        cutmix=config.cutmix,
        mix_probability=config.mix_probability,
    )


def _try(transforms: Sequence[Transform], still: Tensor) -> None:
    """Refuse transforms that do not make such a clip of the same frame again and again; (T, C, H, W) uint8."""
    images: object = still
    for transform in transforms:
        name = f"augment.transforms: {type(transform).__name__}"
        try:
            images = transform(images)  # type: ignore[arg-type]  # checked below
        except Exception as error:
            raise ConfigError(f"{name} fails: {error}. Give it other parameters, or leave it out.") from error
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.shape[:2] != still.shape[:2]:
            raise ConfigError(f"{name} gives something else than RGB frames in uint8. Leave it out.")
        if not torch.equal(images[0], images[1]):
            raise ConfigError(f"{name} changes each frame of a clip in another way. Leave it out.")
    if isinstance(images, Tensor) and images.shape != still.shape:
        sizes = " and ".join("×".join(map(str, tensor.shape[-2:])) for tensor in (still, images))
        raise ConfigError(
            f"augment.transforms change the size of frames, {sizes}. Give them size={list(still.shape[-2:])}."
        )
