"""Heads: poolings and aggregators against plain computations, classes that are added, and levels of classes."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wildstream.errors import ConfigError
from wildstream.models.classifier import FeatureClassifier, ModelBuilder
from wildstream.models.heads import (
    AGGREGATORS,
    CLASSIFIERS,
    POOLINGS,
    AttentionAggregator,
    AttentionPooling,
    ExtensibleLinear,
    LogSumExpAggregator,
)
from wildstream.models.hierarchy import HierarchicalClassifier, level_weights, make_hierarchy

# --- pooling and aggregators ------------------------------------------------------------------------------------------


def test_attention_pooling_is_what_it_says():
    torch.manual_seed(0)
    pooling = AttentionPooling(12).double()
    torch.nn.init.normal_(pooling.attention.in_proj_bias)
    tokens = torch.randn(3, 5, 12, dtype=torch.float64)
    normed = torch.nn.functional.layer_norm(tokens, (12,), pooling.norm.weight, pooling.norm.bias)
    q, k, v = (
        inputs @ weight.T + bias
        for inputs, weight, bias in zip(
            (pooling.query.expand(3, -1, -1), normed, normed),
            pooling.attention.in_proj_weight.chunk(3),
            pooling.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    assert pooling.attention.num_heads == 4
    heads = []
    for head in range(4):
        part = slice(3 * head, 3 * head + 3)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(3), dim=-1)
        heads.append(weights @ v[..., part])
    out = pooling.attention.out_proj
    expected = (torch.cat(heads, dim=-1) @ out.weight.T + out.bias).squeeze(1)
    torch.testing.assert_close(pooling(tokens), expected)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_gives_a_vector_for_each_sample_by_itself(name):
    torch.manual_seed(0)
    pooling = POOLINGS[name](10)
    tokens = torch.randn(4, 7, 10)
    whole = pooling(tokens)
    assert whole.shape == (4, 10)
    torch.testing.assert_close(whole, torch.cat([pooling(one[None]) for one in tokens]))
    if name == "cls":
        assert torch.equal(whole, tokens[:, 0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9), st.floats(0.1, 20))
def test_log_sum_exp_is_numpys(values, temperature):
    scores = np.array(values)
    expected = np.log(np.mean(np.exp(temperature * (scores - scores.max())))) / temperature + scores.max()
    found = LogSumExpAggregator(temperature)(torch.tensor(values).view(1, -1, 1), torch.empty(0)).item()
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_log_sum_exp_does_not_overflow_and_lies_between_mean_and_maximum(dtype):
    top = torch.finfo(dtype).max
    scores = torch.tensor([[[top], [-top], [0.0]], [[-top], [-top], [-top]], [[top], [top], [top]]], dtype=dtype)
    wide = scores.float().requires_grad_()
    found = LogSumExpAggregator()(wide, torch.empty(0))
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert (found <= scores.float().amax(dim=1)).all()
    assert found[1].item() == -top
    assert found[2].item() == top
    found.sum().backward()
    torch.testing.assert_close(wide.grad[:, :, 0], torch.tensor([[1, 0, 0], [1 / 3] * 3, [1 / 3] * 3]))


def test_log_sum_exp_goes_from_mean_to_maximum():
    scores, nothing = torch.tensor([[[1.0], [2.0], [6.0]]]), torch.empty(0)
    assert LogSumExpAggregator(1e-3)(scores, nothing).item() == pytest.approx(3, abs=1e-2)
    assert LogSumExpAggregator(1e3)(scores, nothing).item() == pytest.approx(6, abs=1e-2)
    for wrong in (0, -1, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"temperature=.* must be above 0 and finite"):
            LogSumExpAggregator(wrong)


def test_gated_attention_is_a_weighted_mean_of_the_members():
    torch.manual_seed(0)
    aggregator = AttentionAggregator(6, hidden=4)
    scores, features = torch.randn(2, 5, 3), torch.randn(2, 5, 6)
    found = aggregator(scores, features)
    aggregator.requires_grad_(False)
    for window in range(2):
        raw = [
            float(aggregator.weight(torch.tanh(aggregator.content(h)) * torch.sigmoid(aggregator.gate(h))))
            for h in features[window]
        ]
        weights = np.exp(raw) / np.exp(raw).sum()
        expected = sum(weight * score for weight, score in zip(weights, scores[window].numpy(), strict=True))
        np.testing.assert_allclose(found[window].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_head_on_features_gives_the_scores_of_the_whole_model(pooling, aggregator):
    torch.manual_seed(0)
    model = (
        ModelBuilder()
        .set_backbone("test_vit")
        .set_pooling(pooling)
        .set_classifier("linear", output_dim=3)
        .set_aggregator(aggregator)
        .build()
        .eval()
    )
    head = FeatureClassifier(model.backbone.module[1], model.classifier, model.aggregator, members=4).eval()
    frames = torch.randint(0, 256, (2, 2, 2, 3, 32, 32), dtype=torch.uint8)  # B, T, P
    with torch.inference_mode():
        samples = (frames.float() - model.mean) / model.std
        tokens = model.encoder(samples.flatten(0, 2)).unflatten(0, (2, 4)).flatten(1, 2)
        torch.testing.assert_close(head(tokens), model(frames))


# --- classes that are added -------------------------------------------------------------------------------------------


def test_rows_stay_with_their_classes():
    torch.manual_seed(0)
    before, after = ExtensibleLinear(4, 2), ExtensibleLinear(4, 4)
    fresh = after.weight.detach().clone()
    after.load_rows(before.state_dict(), old=["walk", "rest"], new=["eat", "rest", "walk", "fly"])
    assert torch.equal(after.weight[[2, 1]], before.weight)
    assert torch.equal(after.bias[[2, 1]], before.bias)
    assert torch.equal(after.weight[[0, 3]], fresh[[0, 3]])
    features = torch.randn(5, 4)
    torch.testing.assert_close(after(features)[:, [2, 1]], before(features))
    assert isinstance(CLASSIFIERS["extensible"](4, 2), ExtensibleLinear)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (["walk", "rest"], ["eat", "rest", "fly", "swim"], "lacks walk, which the layer knows"),
        (["walk"], ["eat", "rest", "walk", "fly"], r"old=\['walk'\] must name each of the 2 rows once"),
        (["walk", "rest"], ["rest", "rest", "walk", "fly"], "must name each of the 4 rows once"),
    ],
)
def test_classes_that_do_not_fit_are_refused(old, new, message):
    with pytest.raises(ConfigError, match=message):
        ExtensibleLinear(4, 4).load_rows(ExtensibleLinear(4, 2).state_dict(), old=old, new=new)


def test_rows_of_other_features_are_refused():
    with pytest.raises(ConfigError, match="the rows have 3 features, here are 4"):
        ExtensibleLinear(4, 2).load_rows(ExtensibleLinear(3, 1).state_dict(), old=["a"], new=["a", "b"])


# --- hierarchies ------------------------------------------------------------------------------------------------------

LEVELS = ("species", "genus", "family")
PARENTS = {
    "parus major": ("parus", "paridae"),
    "corvus corax": ("corvus", "corvidae"),
    "parus ater": ("parus", "paridae"),
    "poecile montanus": ("poecile", "paridae"),
}
BIRDS = make_hierarchy(list(PARENTS), LEVELS, PARENTS)


def test_levels_have_their_classes_in_order():
    assert [level.name for level in BIRDS.levels] == list(LEVELS)
    assert [level.classes for level in BIRDS.levels] == [
        tuple(PARENTS),
        ("parus", "corvus", "poecile"),
        ("paridae", "corvidae"),
    ]
    assert BIRDS.sizes == (4, 3, 2)


def test_a_class_of_a_level_is_there_where_one_of_its_categories_is():
    labels = torch.tensor(list(itertools.product([False, True], repeat=4)))  # every combination
    found = BIRDS.level_labels(labels)
    for depth, level in enumerate(BIRDS.levels):
        assert found[level.name].dtype == torch.bool
        for row, truth in zip(labels.tolist(), found[level.name].tolist(), strict=True):
            names = {(name, *PARENTS[name])[depth] for name, there in zip(PARENTS, row, strict=True) if there}
            assert {level.classes[number] for number, there in enumerate(truth) if there} == names


def test_rare_classes_become_other_level_by_level():
    labels = np.zeros((10, 4), np.uint8)
    labels[:6, 0] = labels[6:8, 2] = labels[8, 1] = labels[9, 3] = 1  # 6 major, 1 corax, 2 ater, 1 montanus
    merged = BIRDS.merge_rare(labels, min_samples=3)
    assert [level.classes for level in merged.levels] == [
        ("parus major", "other"),
        ("parus", "other"),
        ("paridae", "other"),
    ]
    truth = merged.level_labels(torch.from_numpy(labels).bool())
    assert truth["species"].sum(dim=0).tolist() == [6, 4]
    assert truth["genus"].sum(dim=0).tolist() == [8, 2]
    assert truth["family"].sum(dim=0).tolist() == [9, 1]
    assert BIRDS.merge_rare(labels, min_samples=1) == BIRDS
    everything = BIRDS.merge_rare(np.zeros((0, 4), bool), min_samples=1)
    assert everything.sizes == (1, 1, 1)
    with pytest.raises(ConfigError, match=r"labels must be \(N, 4\)"):
        BIRDS.merge_rare(labels[:, :3], min_samples=1)


def test_a_class_that_is_called_other_takes_the_rare_ones():
    hierarchy = make_hierarchy(["other", "a", "b"], ["level"], {"other": (), "a": (), "b": ()})
    merged = hierarchy.merge_rare(np.eye(3)[[0, 0, 1, 1, 2]], min_samples=2)
    assert merged.levels[0].classes == ("a", "other")
    assert merged.levels[0].of_category == (1, 0, 1)


@pytest.mark.parametrize(
    ("levels", "parents", "message"),
    [
        (("s", "g"), {"x": ("g1",)}, "the hierarchy and the categories differ in y"),
        (("s", "g"), {"x": ("g1",), "y": ()}, r"'y' has the parents \[\], but the levels above its own are \['g'\]"),
        (("s", "g", "f"), {"x": ("g1", "f1"), "y": ("g1", "f2")}, "'g1' lies in f 'f1' and 'f2'"),
        (("s", "s"), {"x": ("g1",), "y": ("g1",)}, r"levels=\['s', 's'\] must be different names"),
    ],
)
def test_what_is_no_hierarchy_is_refused(levels, parents, message):
    with pytest.raises(ConfigError, match=message):
        make_hierarchy(["x", "y"], levels, parents)


def test_weights_of_levels_sum_to_their_number():
    assert level_weights(BIRDS) == dict.fromkeys(LEVELS, 1.0)
    weights = level_weights(BIRDS, {"species": 2, "genus": 1, "family": 0})
    assert weights == {"species": 2.0, "genus": 1.0, "family": 0.0}
    assert sum(level_weights(BIRDS, {"species": 5, "genus": 0.1, "family": 3}).values()) == pytest.approx(3)
    for wrong in ({"species": 1}, dict.fromkeys(LEVELS, 0), dict.fromkeys(LEVELS, math.nan), {**weights, "genus": -1}):
        with pytest.raises(ConfigError, match="loss_weights="):
            level_weights(BIRDS, wrong)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_model_gives_the_scores_of_all_levels(kind):
    torch.manual_seed(0)
    builder = ModelBuilder().set_backbone("tiny3d").set_hierarchy(BIRDS)
    model = builder.set_classifier(kind, output_dim=4).build().eval()
    scores = model(torch.zeros(2, 4, 3, 16, 16))
    assert scores.shape == (2, 9)
    parts = BIRDS.split(scores)
    assert [part.shape for part in parts.values()] == [(2, 4), (2, 3), (2, 2)]
    assert torch.equal(torch.cat(list(parts.values()), dim=1), scores)
    assert isinstance(model.classifier, HierarchicalClassifier)
    features = torch.randn(3, 64)
    for level, part in zip(model.classifier.levels, BIRDS.split(model.classifier(features)).values(), strict=True):
        assert torch.equal(level(features), part)
    with pytest.raises(ConfigError, match="output_dim=3 must be 4"):
        builder.set_classifier(kind, output_dim=3).build()
    with pytest.raises(ConfigError, match=r"scores must be \(\.\.\., 9\)"):
        BIRDS.split(scores[:, :8])
