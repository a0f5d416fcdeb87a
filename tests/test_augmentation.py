"""Augmentation: each clip in its own way, all its frames and patches alike, labels as shares, training alone."""

import math
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import clips_shards, frames_shards, history, tiny_config

from wildstream.config.augment import TRANSFORMS, AugmentConfig, make_transforms
from wildstream.config.compose import compose_config, group_names
from wildstream.errors import ConfigError
from wildstream.evaluation.evaluate import evaluate
from wildstream.models.classifier import VideoClassifier
from wildstream.samples import Batch
from wildstream.stream.dataset import DatasetBuilder
from wildstream.training.augmentation import Augment, _draw_boxes, make_augment
from wildstream.training.losses import Criterion
from wildstream.training.run import train
from wildstream.training.trainer import Trainer

SIZE = (24, 32)
LAYOUTS = {"frames": (3,), "patches": (3, 2)}


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return frames_shards(tmp_path_factory)


def make_batch(inputs: torch.Tensor, labels: torch.Tensor | None = None, mask: list[bool] | None = None) -> Batch:
    """A batch of frames (uint8) or features; labels: clip i has class i alone."""
    count = len(inputs)
    return Batch(
        frames=inputs if inputs.dtype == torch.uint8 else None,
        features=None if inputs.dtype == torch.uint8 else inputs,
        labels=torch.eye(count, dtype=torch.bool) if labels is None else labels,
        keys=[f"v{clip}" for clip in range(count)],
        starts=torch.zeros(count, dtype=torch.int64),
        mask=torch.tensor(mask or [True] * count),
        positions=torch.arange(count),
    )


def draw_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth pictures with noise, so that moving, turning and colouring them all show."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.linspace(0, 120, SIZE[0]), torch.linspace(0, 80, SIZE[1]), indexing="ij")
    noise = torch.randint(0, 50, (*shape, 3, *SIZE), generator=generator)
    return (noise + rows + columns).to(torch.uint8)


def changed(augment: Augment, frames: torch.Tensor, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return augment(make_batch(frames)).frames


# --- transforms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_still_clip_stays_still_and_clips_differ(name, layout):
    augment = make_augment(AugmentConfig(transforms=(name,)), SIZE)
    picture = draw_frames(1, *(1 for _ in LAYOUTS[layout]))
    frames = picture.expand(4, *LAYOUTS[layout], 3, *SIZE).contiguous()
    before, was_changed, differ = frames.clone(), False, False
    for seed in range(6):
        found = changed(augment, frames, seed)
        assert found.shape == frames.shape
        assert found.dtype == torch.uint8
        for clip in found.flatten(1, -4):  # B, T × P, C, H, W
            assert all(torch.equal(image, clip[0]) for image in clip)
        was_changed |= not torch.equal(found, frames)
        differ |= any(not torch.equal(clip, found[0]) for clip in found)
    assert was_changed
    assert differ
    assert torch.equal(frames, before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_moving_clip_has_one_transform_for_all_its_frames(name, layout):
    """That of its first frame by itself, from the same seed; the second clip's is drawn after the first's."""
    (transform,) = make_transforms([name], SIZE)
    frames = draw_frames(2, *LAYOUTS[layout])
    for seed in range(4):
        found = changed(Augment(transforms=[transform]), frames, seed).flatten(1, -4)
        torch.manual_seed(seed)
        for clip, given in zip(found, frames.flatten(1, -4), strict=True):
            state = torch.get_rng_state()
            for image, source in zip(clip, given, strict=True):
                torch.set_rng_state(state)
                torch.testing.assert_close(image, transform(source.unsqueeze(0))[0], rtol=0, atol=1)


def test_transforms_come_in_their_order_and_crops_keep_the_size():
    invert, solarize = (
        {"_target_": "torchvision.transforms.v2.RandomInvert", "p": 1},
        {"_target_": "torchvision.transforms.v2.RandomSolarize", "p": 1, "threshold": 128},
    )
    frames = torch.full((1, 2, 3, *SIZE), 200, dtype=torch.uint8)
    assert changed(make_augment(AugmentConfig(transforms=(invert, solarize)), SIZE), frames, 0).unique() == 55
    assert changed(make_augment(AugmentConfig(transforms=(solarize, invert)), SIZE), frames, 0).unique() == 200
    zoom = make_augment(AugmentConfig(transforms=({"name": "crop", "scale": [0.1, 0.1], "ratio": [1, 1]},)), SIZE)
    ramp = torch.arange(SIZE[1], dtype=torch.uint8).expand(1, 2, 3, *SIZE).contiguous()
    found = changed(zoom, ramp, 0)
    assert found.shape == ramp.shape
    side = math.sqrt(0.1 * SIZE[0] * SIZE[1])  # a square of a tenth of the area, stretched to the whole frame
    assert float(found.amax() - found.amin()) == pytest.approx(side, abs=2)


def test_it_follows_from_the_seed_alone():
    config = AugmentConfig(transforms=("crop", "color", "rand_augment", "erasing"), mixup=0.8, cutmix=1.0)
    augment, frames = make_augment(config, SIZE), draw_frames(4, 3)
    first = changed(augment, frames, 7)
    changed(augment, draw_frames(2, 3, seed=1), 8)
    assert torch.equal(changed(augment, frames, 7), first)
    assert torch.equal(changed(make_augment(config, SIZE), frames, 7), first)
    assert not torch.equal(changed(augment, frames, 8), first)


def test_trying_transforms_leaves_no_trace():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    make_augment(AugmentConfig(transforms=("rand_augment", "erasing")), SIZE)
    assert torch.equal(torch.rand(4), expected)


def test_nothing_configured_is_nothing():
    assert make_augment(AugmentConfig(), SIZE) is None


@pytest.mark.parametrize("name", group_names()["augment"])
def test_every_file_makes_clips_that_a_model_takes(name):
    augment = make_augment(compose_config(["data.path=x", f"augment={name}"]).augment, 32)
    assert (augment is None) == (name == "none")
    frames = torch.randint(256, (3, 2, 3, 32, 32), dtype=torch.uint8)
    found = frames if augment is None else changed(augment, frames, 0)
    assert (found.shape, found.dtype) == (frames.shape, torch.uint8)


# --- mixing -----------------------------------------------------------------------------------------------------------


def mixed(augment: Augment, batch: Batch, seed: int) -> Batch:
    torch.manual_seed(seed)
    return augment(batch)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixup_is_its_formula(layout):
    batch, shares = make_batch(draw_frames(4, *LAYOUTS[layout])), []
    given = batch.frames.double()
    for seed in range(3):
        found = mixed(Augment(mixup=0.8), batch, seed)
        assert (found.frames.dtype, found.labels.dtype) == (torch.uint8, torch.float32)
        for clip in range(4):
            before = (clip - 1) % 4
            share = float(found.labels[clip, before])
            expected = torch.zeros(4)
            expected[clip], expected[before] = 1 - share, share
            torch.testing.assert_close(found.labels[clip], expected)
            blend = (1 - share) * given[clip] + share * given[before]
            assert (found.frames[clip].double() - blend).abs().max() < 0.501
            shares.append(share)
    assert len(set(shares)) == 12
    assert batch.labels.dtype == torch.bool


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cutmix_is_a_box_alike_in_all_frames_and_its_area_is_the_share(layout):
    frames = (torch.arange(4, dtype=torch.uint8) * 50).view(4, *(1 for _ in LAYOUTS[layout]), 1, 1, 1)
    batch, areas = make_batch(frames.expand(4, *LAYOUTS[layout], 3, *SIZE).contiguous()), []
    for seed in range(8):
        found = mixed(Augment(cutmix=1.0), batch, seed)
        for clip in range(4):
            before = (clip - 1) % 4
            images = found.frames[clip].flatten(0, -4)  # T × P, C, H, W
            assert all(torch.equal(image, images[0]) for image in images)
            inside = images[0, 0] == before * 50
            assert torch.equal(~inside, images[0, 0] == clip * 50)
            rows, columns = inside.any(dim=1), inside.any(dim=0)
            assert torch.equal(inside, rows[:, None] & columns)
            for side in (rows, columns):
                assert int(side.diff().sum()) <= 2, "one run of rows and columns"
            area = int(inside.sum()) / (SIZE[0] * SIZE[1])
            expected = torch.zeros(4)
            expected[clip], expected[before] = 1 - area, area
            torch.testing.assert_close(found.labels[clip], expected)
            areas.append(area)
    assert len(set(areas)) > 20


def test_boxes_have_the_share_that_was_drawn_unless_they_stick_out():
    torch.manual_seed(0)
    shares = torch.linspace(0, 1, 2000)
    boxes, areas = _draw_boxes(shares, (60, 100))
    top, left, bottom, right = boxes.T
    inside = (top > 0) & (left > 0) & (bottom < 60) & (right < 100)
    assert int(inside.sum()) == pytest.approx(2000 / 6, abs=60)  # the integral of (1 - √r)²
    torch.testing.assert_close((bottom - top)[inside].float(), 60 * shares[inside].sqrt(), rtol=0, atol=1.01)
    torch.testing.assert_close((right - left)[inside].float(), 100 * shares[inside].sqrt(), rtol=0, atol=1.01)
    torch.testing.assert_close(areas, (bottom - top) * (right - left) / 6000)
    assert (boxes >= 0).all()
    assert (bottom <= 60).all()
    assert (right <= 100).all()
    assert float(((top + bottom) / 2)[inside].mean()) == pytest.approx(30, abs=2)
    assert float(((left + right) / 2)[inside].mean()) == pytest.approx(50, abs=3)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_come_from_beta(alpha):
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1))."""
    batch = make_batch(torch.zeros(3000, 1, 1), labels=torch.arange(3000).unsqueeze(1) % 2 == 0)
    labels = mixed(Augment(mixup=alpha), batch, 0).labels[:, 0]
    shares = torch.where(batch.labels[:, 0], 1 - labels, labels)
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.07)


def test_clips_are_mixed_as_often_as_said_and_by_either_way():
    frames = (torch.arange(400) % 2 * 200).to(torch.uint8).view(400, 1, 1, 1, 1).expand(400, 2, 3, 16, 16).contiguous()
    batch = make_batch(frames, labels=torch.arange(400).unsqueeze(1) % 2 == 0)
    found = mixed(Augment(mixup=1.0, cutmix=1.0, mix_probability=0.6), batch, 0)
    blended = ((found.frames > 0) & (found.frames < 200)).flatten(1).any(dim=1)
    unchanged = (found.frames == frames).flatten(1).all(dim=1)
    assert int(unchanged.sum()) / 400 == pytest.approx(0.4, abs=0.08)
    assert int(blended.sum()) / 400 == pytest.approx(0.3, abs=0.08)
    level = torch.where(batch.labels[:, 0], 1 - found.labels[:, 0], found.labels[:, 0])  # share of the other clip
    bright = found.frames.float().flatten(1).mean(dim=1) / 200
    torch.testing.assert_close(torch.where(batch.labels[:, 0], bright, 1 - bright), level, rtol=0, atol=0.003)


@pytest.mark.parametrize("options", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_what_does_not_count_is_never_mixed_into_what_does(options):
    mask = [True, False, True, True, False, False, True, False]
    frames = torch.full((8, 2, 3, *SIZE), 10, dtype=torch.uint8)
    frames[3] = 20
    frames[~torch.tensor(mask)] = 255
    batch = make_batch(frames, mask=mask)
    for seed in range(5):
        found = mixed(Augment(**options), batch, seed)
        assert found.frames[batch.mask].max() <= 20
        for clip in (0, 2, 6):  # after padding
            assert torch.equal(found.frames[clip], frames[clip])
            assert torch.equal(found.labels[clip], batch.labels[clip].float())
        assert not torch.equal(found.labels[3], batch.labels[3].float())
        assert torch.equal(found.mask, batch.mask)


def test_features_are_mixed_and_broken_padding_stays_outside():
    features = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(0)).half()
    features[2] = math.nan
    batch = make_batch(features, mask=[True, True, False, True])
    found = mixed(Augment(mixup=1.0), batch, 0)
    assert found.features.dtype == torch.float16
    share = found.labels[1, 0]
    blend = (1 - share) * features[1].float() + share * features[0].float()
    torch.testing.assert_close(found.features[1].float(), blend, rtol=0, atol=2e-3)
    assert torch.equal(found.features[3], features[3])
    for options in ({"cutmix": 1.0}, {"transforms": [lambda frames: frames]}):
        with pytest.raises(ConfigError, match=r"no frames.* Take mixup alone"):
            Augment(**options)(batch)


def test_frames_that_a_transform_made_floats_are_refused():
    batch = make_batch(draw_frames(2, 3))
    with pytest.raises(ConfigError, match=r"frames must be uint8, got torch\.float32"):
        Augment(mixup=1.0)(Batch(**{**{name: getattr(batch, name) for name in NAMES}, "frames": batch.frames.float()}))


NAMES = ("labels", "keys", "starts", "mask", "positions")


# --- refusals ---------------------------------------------------------------------------------------------------------

V2 = "torchvision.transforms.v2"
REFUSALS = [
    ("transforms=flip", "augment.transforms='flip': must be a list, such as [flip, {name: crop"),
    ("transforms=[flp]", "'flp' is not known. Did you mean flip? Take one of crop, flip"),
    ("transforms=[ColorJitter]", f"'ColorJitter' is not known. Did you mean {{_target_: {V2}.ColorJitter}}?"),
    ("transforms=[3]", "3 must be a short name, or have either name or _target_. Write [flip, {name: crop"),
    ("transforms=[{p: 1}]", "must be a short name, or have either name or _target_"),
    (f"transforms=[{{name: flip, _target_: {V2}.RandomInvert}}]", "or have either name or _target_"),
    ("transforms=[{name: [flip]}]", "['flip'] is not known"),
    ("transforms=[{name: crop, scales: 1}]", "crop has no parameter 'scales'. Did you mean scale?"),
    ("transforms=[{name: flip, zzz: 1}]", "flip has no parameter 'zzz'. It has p."),
    ("transforms=[{name: crop, scale: 1}]", "crop does not take these parameters: Scale should be a sequence"),
    ("transforms=[{name: crop, scale: [1, 0.5]}]", "Scale and ratio should be of kind (min, max)"),
    ("transforms=[{name: flip, p: 2}]", "flip does not take these parameters: `p` should be"),
    ("transforms=[{name: affine, interpolation: cubic}]", "'cubic' is not a valid InterpolationMode"),
    ("transforms=[{_target_: os.system, command: ls}]", f"os.system is not a transform of {V2}, and options must not"),
    (f"transforms=[{{_target_: {V2}.ColorJiter}}]", f"Did you mean {V2}.ColorJitter?"),
    (f"transforms=[{{_target_: {V2}.functional.hflip}}]", "options must not run anything else"),
    (f"transforms=[{{_target_: {V2}.GaussianBlur}}]", "GaussianBlur needs kernel_size. Add it as kernel_size: …"),
    (f"transforms=[{{_target_: {V2}.MixUp}}]", f"{V2}.MixUp is not for clips: it needs labels. Take augment.mixup"),
    (f"transforms=[{{_target_: {V2}.GaussianNoise}}]", "it changes each frame of a clip in another way"),
    (f"transforms=[{{_target_: {V2}.RandomApply, transforms: [flp]}}]", "'flp' is not known. Did you mean flip?"),
    (f"transforms=[{{_target_: {V2}.RandomApply, transforms: [{{_target_: {V2}.AugMix}}]}}]", "Take rand_augment"),
    ("transform=[flip]", "augment.transform is not an option. Did you mean augment.transforms?"),
    ("mixup=0", "augment.mixup=0 must be greater than or equal to 0.01"),
    ("cutmix=-1", "augment.cutmix=-1 must be greater"),
    ("mix_probability=0.5", "augment.mix_probability=0.5 goes with augment.mixup or augment.cutmix."),
]


@pytest.mark.parametrize(("override", "message"), REFUSALS, ids=[override for override, _ in REFUSALS])
def test_what_cannot_be_is_refused_before_anything_is_read(override, message):
    with pytest.raises(ConfigError) as caught:
        compose_config(["data.path=/does/not/exist", f"augment.{override}"])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.precomputed=true", "augment.transforms=[flip]"],
            "augment.transforms goes with frames, and data.precom",
        ),
        (["data.precomputed=true", "augment.cutmix=1"], "augment.cutmix goes with frames"),
        (["trainer.batch_size=1", "augment.mixup=0.8"], "augment.mixup=0.8 mixes the clips of a batch, and trainer.ba"),
        (["trainer.batch_size=1", "augment.cutmix=1"], "augment.cutmix=1.0 mixes the clips of a batch"),
    ],
)
def test_options_that_contradict_augmentation_are_refused(overrides, message):
    with pytest.raises(ConfigError) as caught:
        compose_config(["data.path=/does/not/exist", *overrides])
    assert message in str(caught.value)
    assert compose_config(["data.path=x", "data.precomputed=true", "augment.mixup=0.8"]).augment.mixup == 0.8


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"_target_": f"{V2}.CenterCrop", "size": 8}, r"change the size of frames, 24×32 and 8×8\. .*size=\[24, 32\]"),
        ({"_target_": f"{V2}.Normalize", "mean": [0.5], "std": [0.5]}, "Normalize fails: .*float tensor"),
        ({"_target_": f"{V2}.FiveCrop", "size": [24, 32]}, "FiveCrop gives something else than RGB frames in uint8"),
        ({"_target_": f"{V2}.UniformTemporalSubsample", "num_samples": 1}, "UniformTemporalSubsample gives something"),
        ({"_target_": f"{V2}.Lambda", "lambd": "print"}, "Lambda fails"),
        ({"name": "rand_augment", "magnitude": 50}, "RandAugment fails"),
    ],
)
def test_transforms_that_do_not_do_are_refused_before_training(entry, message):
    with pytest.raises(ConfigError, match=rf"augment\.transforms.* {message}"):
        make_augment(AugmentConfig(transforms=(entry,)), SIZE)


def test_what_changes_frames_differently_is_found_out(monkeypatch):
    monkeypatch.setattr("wildstream.config.augment._UNFIT", {})
    for name in ("GaussianNoise", "AugMix"):
        with pytest.raises(ConfigError, match=f"{name} changes each frame of a clip in another way"):
            make_augment(AugmentConfig(transforms=({"_target_": f"{V2}.{name}"},)), SIZE)


def test_any_transform_of_torchvision_can_be_named_also_within_others():
    entries = f"[{{_target_: {V2}.RandomChoice, transforms: [blur, {{_target_: {V2}.ElasticTransform}}]}}]"
    config = compose_config(["data.path=x", f"augment.transforms={entries}"]).augment
    frames = draw_frames(2, 1).expand(2, 3, 3, *SIZE).contiguous()
    found = changed(make_augment(config, SIZE), frames, 0)
    assert not torch.equal(found, frames)
    assert torch.equal(found[:, 0], found[:, 2])


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_sees_changed_clips_and_validation_and_evaluation_do_not(shards, tmp_path, monkeypatch):
    """Each pixel inverted."""
    forward, learn, raw, seen = VideoClassifier.forward, Trainer._learn, [], {True: [], False: []}

    def forward_and_note(self, frames):
        seen[self.training].append(frames)
        return forward(self, frames)

    def learn_and_note(self, batch, **options):
        raw.append(batch.frames.clone())
        return learn(self, batch, **options)

    monkeypatch.setattr(VideoClassifier, "forward", forward_and_note)
    monkeypatch.setattr(Trainer, "_learn", learn_and_note)
    invert = f"augment.transforms=[{{_target_: {V2}.RandomInvert, p: 1}}]"
    config = tiny_config(shards, tmp_path / "run", invert)
    run = train(config)
    assert len(seen[True]) == len(raw) > 2
    for found, given in zip(seen[True], raw, strict=True):
        assert torch.equal(found, 255 - given)
    dataset = DatasetBuilder(path=str(shards / "val"), style=config.data.sliding_style).build()
    expected = torch.cat([batch.frames for batch in dataset.loader(batch_size=8, size=32)])
    assert torch.equal(torch.cat(seen[False])[: len(expected)], expected)
    seen[False].clear()
    AcceleratorState._reset_state(reset_partial_state=True)
    evaluate(run, split="val", progress=False)
    assert torch.equal(torch.cat(seen[False])[: len(expected)], expected)


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_mixed_labels_reach_the_loss(task, tmp_path, tmp_path_factory, monkeypatch):
    criterion, seen = Criterion.__call__, []

    def call_and_note(self, scores, labels):
        seen.append(labels)
        return criterion(self, scores, labels)

    monkeypatch.setattr(Criterion, "__call__", call_and_note)
    shards = frames_shards(tmp_path_factory) if task == "multi_label" else clips_shards(tmp_path_factory)
    run = train(tiny_config(shards, tmp_path / "run", "augment=mixup", "trainer.batch_size=4"))
    labels = torch.cat(seen)
    assert labels.dtype == torch.float32
    assert ((labels > 0.01) & (labels < 0.99)).any()
    if task == "single_label":
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(len(labels)))
    assert math.isfinite(history(run)[0]["train"]["loss"])


def test_a_transform_that_does_not_do_leaves_no_run_behind(shards, tmp_path):
    with pytest.raises(ConfigError, match="change the size of frames, 32×32 and 8×8"):
        train(tiny_config(shards, tmp_path / "run", f"augment.transforms=[{{_target_: {V2}.CenterCrop, size: 8}}]"))
    assert not (tmp_path / "run").exists()
