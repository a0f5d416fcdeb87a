"""Every backbone keeps the contract: tokens of the promised length, clips and sizes that it takes, weights."""

import sys

import pytest
import timm
import torch
import torchvision.models.video as video_models

from wildstream.config.compose import check_config
from wildstream.errors import ConfigError
from wildstream.models.backbones import SHORT_NAMES, TRANSFORMERS, VIDEO_NETWORKS, check_clips, make_backbone
from wildstream.models.backbones.weights import load_state
from wildstream.models.classifier import ModelBuilder

SMALL = {"r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t"}
ALL = [*VIDEO_NETWORKS, *TRANSFORMERS, *SHORT_NAMES]
NEW_TOKENS = {
    "mvit_v1_b": 1 + 8 * 7 * 7,
    "mvit_v2_s": 1 + 8 * 7 * 7,
    "videomae": 8 * 14 * 14,
    "timesformer": 1 + 8 * 14 * 14,
}


def marked(names):
    """Names as parameters; those of large networks are left out unless asked for."""
    return [
        name if name in SMALL else pytest.param(name, marks=[pytest.mark.big, pytest.mark.timeout(600)])
        for name in names
    ]


def make(name, **options):
    if name in TRANSFORMERS:
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    return make_backbone(name, **options)


def smallest(spec) -> torch.Tensor:
    """The smallest sample that a backbone takes, and that leaves something at its end."""
    side = spec.size[0] if spec.fixed_size else max(spec.multiple, 64 // spec.multiple * spec.multiple)
    shape = (3, side, side) if spec.takes == "frame" else (spec.num_frames or max(2, spec.min_frames), 3, side, side)
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", marked(ALL))
def test_a_backbone_gives_the_tokens_that_it_promises_and_learns(name):
    backbone = make(name)
    spec = backbone.spec
    assert spec.name == name
    assert spec.takes == ("frame" if name in SHORT_NAMES else "clip")
    tokens = backbone(smallest(spec))
    assert tokens.ndim == 3
    assert tokens.shape[::2] == (1, spec.dim)
    assert tokens.shape[1] == NEW_TOKENS.get(name, tokens.shape[1])
    assert tokens.isfinite().all()
    tokens.square().mean().backward()
    first = next(backbone.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("name", VIDEO_NETWORKS)
def test_facts_are_those_of_torchvisions_weights(name):
    weights = getattr(video_models, VIDEO_NETWORKS[name].weights).DEFAULT
    transforms = weights.transforms()
    assert transforms.crop_size == list(VIDEO_NETWORKS[name].size)
    assert tuple(transforms.mean) == VIDEO_NETWORKS[name].mean
    assert tuple(transforms.std) == VIDEO_NETWORKS[name].std
    assert VIDEO_NETWORKS[name].num_frames == (16 if name.startswith("mvit") else None)


@pytest.mark.parametrize("name", marked(["swin3d_t", "mvit_v2_s", "s3d"]))
def test_pooled_tokens_are_what_torchvisions_own_head_sees(name):
    torch.manual_seed(0)
    backbone = make(name).eval()
    facts = VIDEO_NETWORKS[name]
    own = getattr(video_models, name)(weights=None)
    load_state(own, backbone.network.state_dict())
    setattr(own, facts.head[-1], torch.nn.Identity())
    clips = torch.rand(1, 4, 3, 64, 64) if name == "swin3d_t" else torch.rand(1, 16, 3, 224, 224)
    with torch.inference_mode():
        tokens = backbone(clips)
        expected = own.eval()(clips.transpose(1, 2))
    found = tokens[:, 0] if backbone.spec.class_token else tokens.mean(dim=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_short_names_stand_for_pretrained_networks_of_timm(name):
    full = SHORT_NAMES[name].network
    assert full in timm.list_pretrained(f"{full.split('.')[0]}.*")
    assert timm.get_pretrained_cfg(full).hf_hub_id


def test_a_vision_transformer_takes_other_sizes_and_gives_its_own_tokens_at_its_own():
    backbone = make("test_vit").eval()
    own = timm.create_model("test_vit", num_classes=0).eval()
    own.load_state_dict(backbone.network.state_dict())
    with torch.inference_mode():
        frames = torch.rand(1, 3, 160, 160)
        assert torch.equal(backbone(frames), own.forward_features(frames))
        assert backbone(torch.rand(1, 3, 64, 96)).shape == (1, 1 + 4 * 6, 64)
    assert backbone.spec.class_token
    with pytest.raises(ConfigError, match=r"size=\[70, 64\]: test_vit takes .* multiples of 16\. Take \[64, 64\]"):
        backbone(torch.rand(1, 3, 70, 64))


def test_clips_of_another_length_are_refused_as_early_as_can_be():
    message = r"backbone='mvit_v2_s' takes clips of 16 frames, these have 8\. Take .*samples_per_window=16"
    with pytest.raises(ConfigError, match=message):
        check_clips("mvit_v2_s", 8)
    with pytest.raises(ConfigError, match=rf"model\.{message}"):
        check_config(
            {
                "data": {"path": "x", "style": {"window_size": 8, "samples_per_window": 8}},
                "model": {"backbone": "mvit_v2_s"},
            }
        )
    with pytest.raises(ConfigError, match=r"'videomae' takes clips of 16 frames"):
        check_clips("videomae", 32)
    with pytest.raises(ConfigError, match=r"'s3d' takes clips of at least 5 frames, these have 4"):
        make("s3d")(torch.rand(1, 4, 3, 64, 64))
    assert make("s3d")(torch.rand(1, 5, 3, 64, 64)).shape[1] > 0
    for name in ("mvit_v2_s", "videomae"):
        check_clips(name, 16)
    check_clips("dino", 1)


@pytest.mark.big
def test_frames_of_another_size_are_refused_where_positions_are_numbered():
    with pytest.raises(ConfigError, match=r"size=\[112, 112\]: mvit_v2_s takes frames of \[224, 224\] alone"):
        make("mvit_v2_s")(torch.rand(1, 16, 3, 112, 112))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_without_the_package_its_backbones_say_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=rf"backbone='{name}'.*pip install 'wildstream\[transformers\]'"):
        make_backbone(name)


def test_names_of_parameters_on_the_hub_are_understood():
    network = torch.nn.ModuleDict({"attention": torch.nn.ModuleDict({"query": torch.nn.Linear(2, 2)})})
    network.base_model_prefix = "videomae"
    state = {"videomae.attention.query.weight": torch.eye(2), "videomae.attention.q_bias": torch.ones(2)}
    missing, unexpected = load_state(network, {**state, "classifier.weight": torch.zeros(1)})
    assert not missing
    assert list(unexpected) == ["classifier.weight"]
    assert torch.equal(network["attention"]["query"].bias, torch.ones(2))


@pytest.mark.big
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["videomae", "timesformer", "mvit_v1_b", "siglip"])
def test_weights_of_large_networks_come_from_files(tmp_path, name):
    network = make(name).network
    prefix = getattr(network, "base_model_prefix", "")
    state = {f"{prefix}.{key}" if prefix else key: value for key, value in network.state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save({**state, "classifier.weight": torch.zeros(4, 4)}, path)
    loaded = make(name, weights=path).network.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())


def test_the_class_token_is_pooled_where_there_is_one():
    builder = ModelBuilder().set_classifier("linear", output_dim=2).set_pooling("cls")
    assert builder.set_backbone("test_vit").build()(torch.zeros(1, 2, 3, 32, 32)).shape == (1, 2)
    with pytest.raises(ConfigError, match=r"pooling='cls': tiny3d has no class token\. Take pooling=mean"):
        builder.set_backbone("tiny3d").build()
