"""Decoded segments → features of their windows, through a backbone.

    image backbone    each frame that windows need goes through once, however much windows and segments overlap
    clip backbone     each window's clip goes through by itself

Samples go through in batches of one size, over the borders of segments and videos; the last of a group is filled up
with black. So a sample's features do not depend on what else is extracted, in what order, or by how many ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from wildstream.errors import ConfigError
from wildstream.models.backbones import Backbone
from wildstream.samples import DecodedSegment
from wildstream.shards.feature_info import TORCH, Precision, Tokens

BLACK = -1
"""In the place of the numbers of all frames of a segment of which nothing decodes."""
GROUP_BATCHES = 4
"""Batches whose samples are collected before they go through, at least: the last one may be filled up."""


@dataclass(kw_only=True, eq=False)
class EncodeWindows:
    """A stage: decoded segments, in order of their videos and windows, to the features of their windows."""

    backbone: Backbone
    """On its device, in evaluation mode."""
    tokens: Tokens
    """Which of its tokens are kept."""
    dtype: Precision
    """What features are kept as."""
    batch_size: int
    """Frames, patches or clips that go through at a time."""
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    """Features of the frames of the last video that its next windows may need again, by number."""
    _kept_key: str = field(default="", init=False, repr=False)

    def __call__(self, segments: Iterable[DecodedSegment]) -> Iterator[tuple[DecodedSegment, Tensor]]:
        """Each segment with its windows' features, (n, members × tokens, dim) on the CPU."""
        group: list[DecodedSegment] = []
        waiting = 0
        for segment in segments:
            group.append(segment)
            assert segment.frames is not None
            count = len(segment.frames) if self.backbone.spec.takes == "frame" else len(segment.places)
            waiting += count * (segment.frames.shape[1] if segment.frames.ndim == 5 else 1)
            if waiting >= GROUP_BATCHES * self.batch_size:
                yield from self._encode(group)
                group, waiting = [], 0
        yield from self._encode(group)

    def shape(self, sample: Tensor) -> tuple[int, int]:
        """Tokens and length of a token that one sample, (C, H, W) or (T, C, H, W) uint8, becomes."""
        found = self._run([sample.unsqueeze(0)])
        return found.shape[1], found.shape[2]

    def _encode(self, group: list[DecodedSegment]) -> Iterator[tuple[DecodedSegment, Tensor]]:
        """The features of a group of segments."""
        if not group:
            return
        if self.backbone.spec.takes == "clip":
            yield from self._encode_clips(group)
            return
        new = self._new_frames(group)
        samples = [_by_patch(segment.frames)[places] for segment, (places, _) in zip(group, new, strict=True)]
        features = self._run([part.flatten(0, 1) for part in samples])
        for segment, part, (_, frames) in zip(group, samples, new, strict=True):
            own, features = features[: part.shape[0] * part.shape[1]], features[part.shape[0] * part.shape[1] :]
            by_frame = dict(zip(frames, own.unflatten(0, part.shape[:2]), strict=True))
            yield segment, self._put_together(segment, by_frame)

    def _new_frames(self, group: list[DecodedSegment]) -> list[tuple[Tensor, list[int]]]:
        """For each segment the places and numbers of its frames that did not go through with an earlier one."""
        found = []
        key, known = self._kept_key, set(self._kept)
        for segment in group:
            numbers = np.unique(segment.windows.frames)
            if segment.windows.key != key:
                key, known = segment.windows.key, set()
            if segment.frames is not None and len(segment.frames) != len(numbers):  # black: one frame stands for all
                found.append((torch.zeros(1, dtype=torch.int64), [BLACK]))
            else:
                places = [place for place, number in enumerate(numbers.tolist()) if number not in known]
                found.append((torch.tensor(places, dtype=torch.int64), numbers[places].tolist()))
            known = _still_needed({*known, *numbers.tolist()}, segment)
        return found

    def _put_together(self, segment: DecodedSegment, new: dict[int, Tensor]) -> Tensor:
        """Features of a segment's windows from those of its frames, new ones and those of earlier segments."""
        numbers = np.unique(segment.windows.frames).tolist()
        frames = {**(self._kept if self._kept_key == segment.windows.key else {}), **new}
        if BLACK in new:
            frames = dict.fromkeys(numbers, new[BLACK])
        stacked = torch.stack([frames[number] for number in numbers])  # F, P, tokens, dim
        self._kept_key = segment.windows.key
        self._kept = {number: frames[number] for number in _still_needed(set(frames), segment)}
        places = torch.from_numpy(np.searchsorted(numbers, segment.windows.frames))
        return stacked[places].flatten(1, 3)  # n, T × P × tokens, dim

    def _encode_clips(self, group: list[DecodedSegment]) -> Iterator[tuple[DecodedSegment, Tensor]]:
        """The features of the clips of segments."""
        clips = [_by_patch(segment.frames)[segment.places].transpose(1, 2) for segment in group]  # n, P, T, C, H, W
        features = self._run([part.flatten(0, 1) for part in clips])
        for segment, part in zip(group, clips, strict=True):
            own, features = features[: part.shape[0] * part.shape[1]], features[part.shape[0] * part.shape[1] :]
            yield segment, own.unflatten(0, part.shape[:2]).flatten(1, 2)

    @torch.inference_mode()
    def _run(self, parts: list[Tensor]) -> Tensor:
        """Samples through the backbone, (N, tokens, dim) in the kept precision, on the CPU."""
        spec = self.backbone.spec
        device = next(chain(self.backbone.parameters(), [torch.zeros(0)])).device
        mean, std = (255 * torch.tensor(values, device=device).view(-1, 1, 1) for values in (spec.mean, spec.std))
        samples = torch.cat(parts)
        results = []
        for batch in samples.split(self.batch_size):
            filled = torch.zeros((self.batch_size, *batch.shape[1:]), dtype=torch.uint8, device=device)
            filled[: len(batch)] = batch
            found = self.backbone((filled.float() - mean) / std)[: len(batch)]
            results.append(self._choose(found).to(TORCH[self.dtype]).cpu())
        return torch.cat(results)

    def _choose(self, tokens: Tensor) -> Tensor:
        """The tokens that are kept, of (N, tokens, dim)."""
        if self.tokens == "pooled":
            return tokens.mean(dim=1, keepdim=True)
        return tokens[:, :1] if self.tokens == "cls" else tokens


def check_tokens(backbone: Backbone, tokens: Tokens) -> None:
    """Refuse the class token of a backbone that has none (ConfigError)."""
    if tokens == "cls" and not backbone.spec.class_token:
        raise ConfigError(f"tokens='cls': {backbone.spec.name} has no class token. Take 'pooled' or 'all'.")


def hash_weights(backbone: Backbone) -> str:
    """Hash of a backbone's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _still_needed(numbers: set[int], segment: DecodedSegment) -> set[int]:
    """Those of the frames known after a segment that later windows may need: windows never begin before it."""
    if segment.problems:  # what did not decode is black here, and may decode in the next segment
        return set()
    first = int(segment.windows.frames.min())
    return {number for number in numbers if number >= first}


def _by_patch(frames: Tensor | None) -> Tensor:
    """(F, P, C, H, W) of frames with or without patches."""
    assert frames is not None
    return frames if frames.ndim == 5 else frames.unsqueeze(1)
