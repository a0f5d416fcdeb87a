"""Models: every backbone learns from clips, with patches and without; weights come from files, and errors say how."""

import socket
from fractions import Fraction

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.v2.functional import normalize

from wildstream.errors import ConfigError, WeightsError
from wildstream.models.backbones import make_backbone
from wildstream.models.classifier import ModelBuilder
from wildstream.models.heads import AGGREGATORS, CLASSIFIERS, POOLINGS, Broadcast

VIDEO_NETWORKS = ["r3d_18", "mc3_18", "r2plus1d_18", "s3d"]  # the others: tests/test_backbones.py
SWIN = "swin_s3_tiny_224"  # channels last
IMAGE_NETWORKS = ["test_vit", "test_byobnet", "test_convnext"]


def frames(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(name: str, *, head: str = "linear", chunk: int = 1024, weights=None, aggregator: str = "mean"):
    torch.manual_seed(0)
    return (
        ModelBuilder()
        .set_backbone(name, chunk=chunk, weights=weights)
        .set_classifier(head, output_dim=3)
        .set_aggregator(aggregator)
        .build()
    )


# --- forward and backward ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*VIDEO_NETWORKS, "tiny3d", *IMAGE_NETWORKS])
def test_a_backbone_learns_from_clips_and_from_patches(name):
    model = build(name)
    side = 32
    plain = model(frames(2, 8, 3, side, side))
    patched = model(frames(1, 8, 2, 3, side, side))
    assert plain.shape == (2, 3)
    assert patched.shape == (1, 3)
    assert plain.dtype == torch.float32
    (plain.square().mean() + patched.square().mean()).backward()
    first = next(parameter for parameter in model.backbone.parameters() if parameter.requires_grad)
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_swins_channels_last_features_become_tokens():
    backbone = make_backbone(SWIN).eval()
    with torch.inference_mode():
        tokens = backbone(torch.zeros(1, 3, 224, 224))
    assert tokens.shape == (1, 49, backbone.spec.dim)


@pytest.mark.parametrize("name", [*VIDEO_NETWORKS, "tiny3d"])
def test_video_networks_give_a_token_per_place(name):
    backbone = make_backbone(name).eval()
    assert backbone.spec.takes == "clip"
    with torch.inference_mode():
        tokens = backbone(torch.zeros(2, 8, 3, 32, 32))
    assert tokens.ndim == 3
    assert tokens.shape[0] == 2
    assert tokens.shape[2] == backbone.spec.dim


def test_an_image_network_on_a_clip_is_the_aggregate_of_its_frames():
    model = build("test_byobnet").eval()
    clip = frames(1, 5, 3, 32, 32)
    with torch.inference_mode():
        whole = model(clip)
        single = torch.stack([model(clip[:, [number]]) for number in range(5)]).mean(dim=0)
    torch.testing.assert_close(whole, single)


def test_patches_are_aggregated_over_their_own_clips():
    model = build("tiny3d", aggregator="max").eval()
    clip = frames(1, 4, 2, 3, 32, 32)
    with torch.inference_mode():
        whole = model(clip)
        single = torch.stack([model(clip[:, :, patch]) for patch in range(2)]).amax(dim=0)
    torch.testing.assert_close(whole, single)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 4, 8, 8), (1, 1, 1, 1, 3, 8, 8)])
def test_frames_of_another_shape_are_refused(shape):
    with pytest.raises(ConfigError, match=r"frames must be \(B, T, C, H, W\).*got \("):
        build("tiny3d")(frames(*shape))


# --- normalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r3d_18", "test_vit"])
def test_normalisation_is_torchvisions_of_floats_in_0_1(name):
    model = build(name).eval()
    seen = []
    model.backbone.module[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    clip = frames(1, 4, 3, 32, 32)
    with torch.inference_mode():
        model(clip)
        model(clip.float())
    spec = model.spec
    expected = normalize(clip[0].float() / 255, list(spec.mean), list(spec.std))
    for samples in seen:
        torch.testing.assert_close(samples.reshape(4, 3, 32, 32), expected, rtol=1e-5, atol=1e-5)


def test_statistics_are_those_of_the_network():
    config = timm.get_pretrained_cfg("test_vit")
    assert make_backbone("test_vit").spec.mean == config.mean
    assert make_backbone("test_vit").spec.size == config.input_size[1:]
    assert "mean" not in build("test_byobnet").state_dict()


# --- Broadcast --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 5, 6, 1000])
def test_broadcast_equals_a_loop_over_the_leading_dimensions(chunk):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(1), nn.Linear(12, 4))
    samples = torch.randn(2, 3, 3, 2, 2)
    found = Broadcast(module, sample_ndim=3, chunk=chunk)(samples)
    expected = torch.stack([torch.stack([module(sample[None])[0] for sample in row]) for row in samples])
    assert found.shape == (2, 3, 4)
    torch.testing.assert_close(found, expected)


def test_the_chunk_bounds_what_goes_through_at_once():
    sizes = []
    module = nn.Identity()
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    Broadcast(module, sample_ndim=1, chunk=4)(torch.zeros(3, 3, 2))
    assert sizes == [4, 4, 1]


@pytest.mark.parametrize("name", ["tiny3d", "test_byobnet"])
def test_scores_do_not_depend_on_the_chunk(name):
    clips = frames(3, 4, 3, 32, 32)
    with torch.inference_mode():
        first, second = (build(name, chunk=chunk).eval()(clips) for chunk in (1, 1024))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny3d", "r3d_18", "test_byobnet"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_come_from_a_file(tmp_path, name, suffix):
    network = make_backbone(name).network
    path = tmp_path / f"weights.{suffix}"
    state = {**network.state_dict(), "fc.weight": torch.zeros(4, 4)}  # a classification layer is left out
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    loaded = make_backbone(name, weights=path).network.state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in network.state_dict().items())


def test_files_that_are_no_weights_of_the_backbone_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"weights='.*nowhere.pth' is not a file\. Give DEFAULT"):
        make_backbone("tiny3d", weights=tmp_path / "nowhere.pth")
    other = tmp_path / "other.pth"
    torch.save(make_backbone("test_byobnet").network.state_dict(), other)
    with pytest.raises(ConfigError, match=r"lacks \d+ parameters of this backbone, such as 'blocks"):
        make_backbone("tiny3d", weights=other)
    shaped = tmp_path / "shaped.pth"
    state = make_backbone("tiny3d").network.state_dict()
    torch.save({name: tensor[:1] if tensor.ndim else tensor for name, tensor in state.items()}, shaped)
    with pytest.raises(ConfigError, match=r"is not a state dict of this backbone"):
        make_backbone("tiny3d", weights=shaped)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_junk_and_code_are_refused(tmp_path, suffix):
    junk = tmp_path / f"junk.{suffix}"
    junk.write_bytes(b"not weights at all")
    with pytest.raises(ConfigError, match="is not a state dict of this backbone"):
        make_backbone("tiny3d", weights=junk)
    torch.save({"blocks": Fraction(1, 2)}, tmp_path / "code.pth")  # an object: loading it would run code
    with pytest.raises(ConfigError, match="is not a state dict of this backbone"):
        make_backbone("tiny3d", weights=tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="is not a state dict of this backbone"):
        make_backbone("tiny3d", weights=tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("r3d_18", "https://download.pytorch.org/models/r3d_18-b3b3357e.pth"),
        ("test_vit", "model.safetensors of https://huggingface.co/timm/test_vit.r160_in1k"),
    ],
)
def test_without_a_network_pretrained_weights_are_an_error_with_a_remedy(name, file, monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(
        WeightsError, match=rf"weights of {name} cannot be had: .*{file}.*copy the file here.*weights=null"
    ):
        make_backbone(name, weights="DEFAULT")


def test_tiny3d_has_no_pretrained_weights():
    with pytest.raises(WeightsError, match=r"tiny3d has no pretrained weights\. Take weights=null"):
        make_backbone("tiny3d", weights="DEFAULT")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [("r3d18", "r3d_18"), ("swin_tiny", "swin_tiny_patch4_window7_224"), ("test_vit.nope", "test_vit.r160_in1k")],
)
def test_an_unknown_backbone_is_refused_with_what_looks_like_it(name, near):
    with pytest.raises(ConfigError, match=rf"backbone='{name}' is not known.*Did you mean .*{near}"):
        make_backbone(name)


def test_a_backbone_like_no_other_is_refused_with_where_to_look():
    with pytest.raises(ConfigError, match=r"is not known.*r3d_18.*timm\.list_models\(\)"):
        make_backbone("zzzqqq")


def test_the_builder_refuses_what_it_does_not_know_and_what_is_not_complete():
    builder = ModelBuilder()
    with pytest.raises(ConfigError, match=r"call set_backbone\(name\) before build\(\)"):
        builder.build()
    with pytest.raises(ConfigError, match=r"call set_classifier"):
        builder.set_backbone("tiny3d").build()
    with pytest.raises(ConfigError, match=r"pooling='avg' is not known\. Take one of mean, max"):
        builder.set_pooling("avg")
    with pytest.raises(ConfigError, match=r"classifier='mpl' is not known\. Take one of linear, mlp"):
        builder.set_classifier("mpl", output_dim=3)
    with pytest.raises(ConfigError, match=r"output_dim=0 must be at least 1"):
        builder.set_classifier("mlp", output_dim=0)
    with pytest.raises(ConfigError, match=r"aggregator='sum' is not known"):
        builder.set_aggregator("sum")
    with pytest.raises(ConfigError, match=r"chunk=0 must be at least 1"):
        builder.set_backbone("tiny3d", chunk=0).set_classifier("mlp", output_dim=3).build()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_every_head_gives_a_score_per_class(pooling, classifier, aggregator):
    model = (
        ModelBuilder()
        .set_backbone("test_vit")
        .set_pooling(pooling)
        .set_classifier(classifier, output_dim=7)
        .set_aggregator(aggregator)
        .build()
    )
    assert model(frames(2, 4, 3, 16, 16)).shape == (2, 7)
