"""What learns: schedules, statistics of what is frozen, learning rates of groups, and LoRA."""

import sys
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wildstream.config.compose import check_config
from wildstream.errors import ConfigError
from wildstream.models.backbones import make_backbone
from wildstream.models.classifier import FeatureClassifier, ModelBuilder
from wildstream.models.heads import AGGREGATORS, CLASSIFIERS, POOLINGS
from wildstream.models.lora import LoraOptions, apply_lora
from wildstream.models.unfreezing import Unfreezing, freeze, parameter_groups
from wildstream.training.checkpoints import build_model


def build(name="tiny3d", *, pooling="attention", **options):
    torch.manual_seed(0)
    builder = ModelBuilder().set_backbone(name).set_pooling(pooling).set_classifier("linear", output_dim=2)
    return builder.set_lora(options.get("lora")).set_frozen(options.get("frozen", False)).build()


def learning(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def head_of(model) -> nn.ModuleList:
    return nn.ModuleList([model.backbone.module[1], model.classifier, model.aggregator])


CLIPS = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)

# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (Unfreezing(start_epoch=2, duration=4), [0, 0, "1/4", "1/2", "3/4", 1, 1]),
        (Unfreezing(start_epoch=1, duration=2, fraction=0.5), [0, "1/4", "1/2", "1/2", "1/2"]),
        (Unfreezing(start_epoch=3), [0, 0, 0, 1, 1]),
        (Unfreezing(fraction=0), [0, 0]),
        (Unfreezing(), [1, 1]),
    ],
)
def test_the_share_that_learns_is_a_line(schedule, shares):
    assert [schedule.trainable_share(epoch) for epoch in range(len(shares))] == [Fraction(share) for share in shares]


@pytest.mark.parametrize("name", ["tiny3d", "test_vit"])
@pytest.mark.parametrize("duration", [1, 3, 5])
def test_the_last_parameters_learn_first_and_the_head_always(name, duration):
    model = build(name)
    schedule = Unfreezing(start_epoch=1, duration=duration)
    names = [name for name, _ in model.encoder.named_parameters()]
    for epoch in [*range(duration + 3), 0, 2]:  # also backwards, as in another run
        count = schedule.apply(model, epoch)
        begun = min(max(epoch, 0), duration)
        assert count == -(-len(names) * begun // duration)  # rounded up
        assert learning(model.encoder) == names[len(names) - count :]
        assert len(learning(head_of(model))) == len(list(head_of(model).parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_epoch": -1}, r"freeze\.start_epoch=-1 must be at least 0"),
        ({"duration": 0}, r"freeze\.duration=0 must be at least 1 epoch"),
        ({"fraction": 1.5}, r"freeze\.fraction=1\.5 must be from 0 to 1"),
    ],
)
def test_schedules_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Unfreezing(**options)


def test_a_head_alone_has_nothing_to_freeze():
    head = FeatureClassifier(POOLINGS["mean"](4), CLASSIFIERS["mlp"](4, 2), AGGREGATORS["mean"](4), members=1)
    for call in (lambda: Unfreezing().apply(head, 0), lambda: freeze(head)):
        with pytest.raises(ConfigError, match="a FeatureClassifier has no backbone that could be frozen"):
            call()


# --- statistics -------------------------------------------------------------------------------------------------------


def statistics(model) -> list[torch.Tensor]:
    return [buffer.clone() for name, buffer in model.encoder.named_buffers() if "running" in name]


def train_a_step(model) -> None:
    model.train()
    optimizer = torch.optim.SGD((value for value in model.parameters() if value.requires_grad), lr=0.1)
    model(CLIPS).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_what_is_frozen_keeps_weights_and_statistics_through_training():
    model = build()
    freeze(model)
    before = [value.clone() for value in model.encoder.state_dict().values()]
    head = [value.clone() for value in head_of(model).parameters()]
    train_a_step(model)
    assert all(map(torch.equal, before, model.encoder.state_dict().values()))
    assert not all(map(torch.equal, head, head_of(model).parameters()))
    assert model.training
    assert not model.encoder.network.training


def test_batch_norms_of_what_is_frozen_alone_keep_their_statistics():
    model = build()
    norms = [module for module in model.encoder.modules() if isinstance(module, nn.BatchNorm3d)]
    Unfreezing(duration=2).apply(model, 0)  # 6 of 12 tensors: the last two blocks, each a convolution and a norm
    before = statistics(model)
    train_a_step(model)
    changed = [not torch.equal(old, new) for old, new in zip(before, statistics(model), strict=True)]
    assert changed == [False] * 4 + [True] * 4
    assert [norm.training for norm in norms] == [False, False, True, True]
    Unfreezing().apply(model, 0)  # while it trains
    assert all(norm.training for norm in norms)
    model.eval()
    assert not any(module.training for module in model.modules())
    Unfreezing().apply(model, 0)
    assert not any(norm.training for norm in norms)


def test_a_frozen_backbone_is_an_option():
    model = build(frozen=True)
    assert not learning(model.encoder)
    assert learning(head_of(model))
    options = {"data": {"path": "x"}, "model": {"backbone": "tiny3d", "frozen": True}}
    assert check_config(options).model.frozen
    with pytest.raises(ConfigError, match=r"data\.precomputed=true has none"):
        check_config({**options, "data": {"path": "x", "precomputed": True}})
    with pytest.raises(ConfigError, match="contradict each other"):
        check_config({**options, "model": {"backbone": "tiny3d", "frozen": True, "lora": {"r": 4}}})


# --- learning rates ---------------------------------------------------------------------------------------------------


def by_name(model, groups) -> dict[str, dict]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(value)]: group for group in groups for value in group["params"]}


@pytest.mark.parametrize("name", ["tiny3d", "test_vit"])
def test_groups_have_every_parameter_once_and_decay_matrices_alone(name):
    model = build(name)
    groups = parameter_groups(model, lr=1e-3, weight_decay=0.1, backbone_lr=1e-4)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    found = by_name(model, groups)
    spared = ("pos_embed", "cls_token")
    for parameter_name, parameter in model.named_parameters():
        group = found[parameter_name]
        inside = ".module.0." in parameter_name
        assert group["lr"] == (1e-4 if inside else 1e-3)
        assert group["part"] == ("backbone" if inside else "head")
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 and not parameter_name.endswith(spared) else 0)
    torch.optim.AdamW(groups)


def test_layers_learn_the_less_the_farther_in_front_they_are():
    model = build("test_vit")
    found = by_name(model, parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5))
    inside = "backbone.module.0.network."
    depth = len(model.encoder.network.blocks)
    rates = [found[f"{inside}blocks.{block}.attn.qkv.weight"]["lr"] for block in range(depth)]
    assert all(behind == 2 * front for front, behind in pairwise(rates))
    assert found[f"{inside}patch_embed.proj.weight"]["lr"] == rates[0] / 2
    assert found[f"{inside}norm.weight"]["lr"] <= 1
    assert found["classifier.weight"]["lr"] == 1


def test_rates_that_do_not_fit_are_refused():
    model = build()
    with pytest.raises(ConfigError, match=r"layer_decay=0\.5: a Tiny3D does not tell its layers"):
        parameter_groups(model, lr=1.0, weight_decay=0, layer_decay=0.5)
    with pytest.raises(ConfigError, match=r"layer_decay=1\.5 must be above 0 and at most 1"):
        parameter_groups(build("test_vit"), lr=1.0, weight_decay=0, layer_decay=1.5)
    for options, message in (
        ({"lr": 0}, "lr=0 must be above 0"),
        ({"backbone_lr": 0}, "backbone_lr=0 must be above 0"),
        ({"weight_decay": -1}, "weight_decay=-1 must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            parameter_groups(model, **{"lr": 1.0, "weight_decay": 0} | options)


def test_a_head_on_features_has_groups_too():
    head = FeatureClassifier(POOLINGS["attention"](4), CLASSIFIERS["mlp"](4, 2), AGGREGATORS["mean"](4), members=1)
    groups = parameter_groups(head, lr=1.0, weight_decay=0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(head.parameters()))
    with pytest.raises(ConfigError, match="has no backbone"):
        parameter_groups(head, lr=1.0, weight_decay=0.1, backbone_lr=0.1)


# --- LoRA -------------------------------------------------------------------------------------------------------------


def test_without_peft_lora_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"lora needs the package peft.*pip install 'wildstream\[peft\]'"):
        build("test_vit", lora=LoraOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, r"lora\.r=0 must be at least 1"),
        ({"alpha": 0}, r"lora\.alpha=0 must be above 0"),
        ({"dropout": 1}, r"lora\.dropout=1 must be at least 0 and below 1"),
        ({"targets": ()}, r"lora\.targets=\[\] names no layers"),
    ],
)
def test_lora_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        LoraOptions(**options)


def test_additions_learn_in_place_of_the_backbone():
    pytest.importorskip("peft")
    plain, model = build("test_vit").eval(), build("test_vit", lora=LoraOptions(r=4)).eval()
    assert not any("lora" in name for name in learning(plain))
    names = learning(model.encoder)
    assert names
    assert all(".attn." in name and "lora_" in name for name in names)
    assert len(names) == 2 * 2 * len(plain.encoder.network.blocks)  # A and B of qkv and proj
    frames = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        tokens = [one.encoder(frames[0].float()) for one in (plain, model)]
    torch.testing.assert_close(*tokens)  # B starts at 0
    model.train()
    model(frames).square().mean().backward()
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)
    assert parameter_groups(model, lr=1e-3, weight_decay=0)[0]["part"] == "backbone"


def test_a_checkpoint_keeps_the_additions(tmp_path):
    pytest.importorskip("peft")
    config = check_config(
        {"data": {"path": "x"}, "model": {"backbone": "test_vit", "lora": {"r": 2, "targets": ["qkv"]}}}
    )
    models = [build_model(config.model, num_classes=3).eval() for _ in range(2)]
    for parameter in models[0].parameters():
        nn.init.normal_(parameter.data, std=0.1)
    save_file(models[0].state_dict(), tmp_path / "model.safetensors")
    models[1].load_state_dict(load_file(tmp_path / "model.safetensors"))
    frames = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(*(model(frames) for model in models))
    with pytest.raises(ConfigError, match=r"model\.lora\.r=0"):
        check_config({"data": {"path": "x"}, "model": {"backbone": "test_vit", "lora": {"r": 0}}})


def test_layers_are_named_by_their_ends():
    pytest.importorskip("peft")
    assert apply_lora(make_backbone("test_vit"), LoraOptions(targets=("fc1", "blocks.0.attn.qkv")))[:2] == [
        "blocks.0.attn.qkv",
        "blocks.0.mlp.fc1",
    ]
    with pytest.raises(
        ConfigError, match=r"test_vit has no linear layer called 'query'\. Its linear layers end in fc1"
    ):
        apply_lora(make_backbone("test_vit"), LoraOptions(targets=("query",)))
    with pytest.raises(ConfigError, match=r"tiny3d has no linear layer called 'fc'\. It has no linear layers at all"):
        apply_lora(make_backbone("tiny3d"), LoraOptions(targets=("fc",)))
    with pytest.raises(ConfigError, match="r3d_18 has no linear layers of attention"):
        apply_lora(make_backbone("r3d_18"), LoraOptions())


def test_layers_whose_weights_are_used_past_them_are_refused():
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match=r"swin3d_t uses the weights of 'features\.0\.0\.attn\.qkv' without calling"):
        apply_lora(make_backbone("swin3d_t"), LoraOptions(targets=("qkv",)))


@pytest.mark.big
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("dino", {"qkv", "proj"}),
        ("dinov3", {"qkv", "proj"}),
        ("swinv2", {"proj", "0", "2"}),
        ("mvit_v2_s", {"qkv", "0"}),
        ("videomae", {"query", "key", "value", "dense"}),
        ("timesformer", {"qkv", "dense"}),
    ],
)
def test_attention_is_found_in_all_kinds_of_networks(name, ends):
    pytest.importorskip("peft")
    if name in ("videomae", "timesformer"):
        pytest.importorskip("transformers")
    backbone = make_backbone(name)
    targets = apply_lora(backbone, LoraOptions(r=2))
    assert {target.rsplit(".", 1)[-1] for target in targets} == ends
    spec = backbone.spec
    sample = torch.rand(1, *((spec.num_frames or 2,) if spec.takes == "clip" else ()), 3, *spec.size)
    backbone(sample).square().mean().backward()
    assert all(value.grad is not None for value in backbone.parameters() if value.requires_grad)
