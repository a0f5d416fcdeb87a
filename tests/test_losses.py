"""Losses, class weights, optimizers and schedules, against their definitions."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from timm.loss import AsymmetricLossMultiLabel
from torch import nn

from wildstream.config.trainer import TrainerConfig
from wildstream.errors import ConfigError
from wildstream.training.losses import Criterion, class_weights, clip_losses
from wildstream.training.optimization import make_optimizer, make_schedule, rate


def draw(task, batch=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(batch, classes, generator=generator)
    if task == "multi_label":
        return scores, torch.rand(batch, classes, generator=generator) < 0.4
    return scores, torch.eye(classes, dtype=torch.bool)[torch.randint(0, classes, (batch,), generator=generator)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("loss", ["auto", "bce", "focal", "asymmetric"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.25]])
def test_of_each_class_by_itself_it_is_the_formula(loss, smoothing, weights):
    scores, labels = draw("multi_label")
    criterion = Criterion(
        loss=loss,
        task="multi_label",
        label_smoothing=smoothing,
        weights=None if weights is None else torch.tensor(weights),
    )
    for clip, found in enumerate(criterion(scores, labels).tolist()):
        expected = 0.0
        for number in range(4):
            p, there = sigmoid(scores[clip, number].item()), labels[clip, number].item()
            t = there * (1 - smoothing) + smoothing / 2
            if loss == "asymmetric":
                q = max(p - 0.05, 0)
                term = -t * (1 - p) * math.log(p) - (1 - t) * q**4 * math.log(1 - q)
            else:
                term = -t * math.log(p) - (1 - t) * math.log(1 - p)
            if loss == "focal":
                term *= (1 - (p * t + (1 - p) * (1 - t))) ** 2
            expected += term * (weights[number] if weights and there else 1) / 4
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["auto", "ce", "focal"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.25]])
def test_of_one_among_all_it_is_the_formula(loss, smoothing, weights):
    scores, labels = draw("single_label")
    criterion = Criterion(
        loss=loss,
        task="single_label",
        label_smoothing=smoothing,
        weights=None if weights is None else torch.tensor(weights),
    )
    for clip, found in enumerate(criterion(scores, labels).tolist()):
        p = np.exp(scores[clip].double().numpy())
        p /= p.sum()
        truth = labels[clip].numpy()
        t = truth * (1 - smoothing) + smoothing / 4
        expected = -(t * np.log(p) * (np.asarray(weights) if weights else 1)).sum()
        if loss == "focal":
            expected *= (1 - p[truth][0]) ** 2
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "task"),
    [
        *((loss, "multi_label") for loss in ("bce", "focal", "asymmetric")),
        *((loss, "single_label") for loss in ("ce", "focal", "bce")),
    ],
)
def test_mixed_labels_cost_the_share_of_what_each_costs(loss, task):
    """With weights and smoothing too; for one among all by mixup's definition, for each class by itself also."""
    scores, first = draw(task)
    second = draw(task, seed=1)[1]
    share = torch.linspace(0, 1, 6).unsqueeze(1)
    for weights in (None, torch.tensor([0.5, 1.0, 2.0, 0.25])):
        for smoothing in (0.0, 0.2):
            criterion = Criterion(loss=loss, task=task, label_smoothing=smoothing, weights=weights)
            found = criterion(scores, (1 - share) * first.float() + share * second.float())
            one, two = criterion(scores, first), criterion(scores, second)
            torch.testing.assert_close(found, (1 - share[:, 0]) * one + share[:, 0] * two)


def test_the_asymmetric_loss_is_timms():
    scores, labels = draw("multi_label", batch=50)
    found = Criterion(loss="asymmetric", task="multi_label")(scores, labels).mean() * labels.shape[1]
    assert float(found) == pytest.approx(float(AsymmetricLossMultiLabel()(scores, labels.float())), rel=1e-4)


def test_the_plain_loss_is_that_of_validation():
    for task in ("multi_label", "single_label"):
        scores, labels = draw(task)
        torch.testing.assert_close(
            Criterion(loss="auto", task=task)(scores, labels), clip_losses(scores, labels, task=task)
        )


def test_it_is_computed_in_float32_and_stays_finite_at_extreme_scores():
    labels = torch.tensor([[True, False], [False, True]])
    for scores in (torch.tensor([[1e4, -1e4], [1e4, -1e4]]), torch.tensor([[-1e4, 1e4], [-1e4, 1e4]])):
        for loss in ("bce", "focal", "asymmetric"):
            low = scores.bfloat16().requires_grad_()
            losses = Criterion(loss=loss, task="multi_label")(low, labels)
            assert losses.dtype == torch.float32
            losses.sum().backward()
            assert losses.isfinite().all()
            assert low.grad.isfinite().all(), loss


def test_class_weights_by_definition():
    counts = np.array([1000, 10, 0, 100])
    inverse = class_weights(counts, "inverse").numpy()
    assert inverse[2] == 1
    np.testing.assert_allclose(inverse[1] / inverse[0], 100, rtol=1e-5)
    np.testing.assert_allclose(inverse[[0, 1, 3]].mean(), 1, rtol=1e-5)
    effective = class_weights(counts, "effective").numpy()
    ratio = (1 - 0.999**1000) / (1 - 0.999**10)
    np.testing.assert_allclose(effective[1] / effective[0], ratio, rtol=1e-5)
    assert class_weights(counts, "none") is None
    assert class_weights(np.zeros(3, np.int64), "inverse").tolist() == [1, 1, 1]


@pytest.mark.parametrize(("loss", "task"), [("ce", "multi_label"), ("asymmetric", "single_label")])
def test_a_loss_of_another_task_is_refused(loss, task):
    with pytest.raises(ConfigError, match=rf"trainer\.loss={loss} is not for the task {task}.*Take auto"):
        Criterion(loss=loss, task=task)


# --- optimizers and schedules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion", "adafactor", "nadamw", "rmsprop"])
def test_optimizers_by_name_learn(name):
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 1), torch.randn(64, 4)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
    config = TrainerConfig(optimizer=name, lr=0.02, weight_decay=0.0)
    optimizer = make_optimizer([{"params": list(model.parameters())}], config)
    first = (model(inputs) - targets).square().mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * first


def test_an_unknown_optimizer_is_refused_with_its_like():
    with pytest.raises(ValidationError, match=r"no optimizer of that name .*Did you mean .*adamw"):
        TrainerConfig(optimizer="adamww")


def rates(config, steps_per_epoch):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule, found = make_schedule(optimizer, config, steps_per_epoch=steps_per_epoch), []
    for _ in range(config.epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_schedules_rise_and_fall_as_they_say():
    cosine = rates(TrainerConfig(schedule="cosine", lr=1.0, epochs=4, warmup_epochs=0.5), 10)
    np.testing.assert_allclose(cosine[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(cosine[5:], [(1 + math.cos(math.pi * k / 35)) / 2 for k in range(35)])
    linear = rates(TrainerConfig(schedule="linear", lr=2.0, epochs=2), 10)
    np.testing.assert_allclose(linear, [2 * (1 - k / 20) for k in range(20)])
    assert rates(TrainerConfig(schedule="constant", lr=0.5, epochs=1), 3) == [0.5] * 3
    once = rates(TrainerConfig(schedule="onecycle", lr=1.0, epochs=2), 50)
    assert 25 < int(np.argmax(once)) < 35
    assert max(once) == pytest.approx(1.0, rel=1e-2)
    assert once[-1] < 1e-3
    assert rate("cosine", 100, warmup=0, total=10) == 0


def test_plateau_falls_where_nothing_gets_better():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    config = TrainerConfig(schedule="plateau", monitor="loss", plateau_patience=1)
    schedule, found = make_schedule(optimizer, config, steps_per_epoch=5), []
    for loss in (3.0, 2.0, 2.0, 2.0, 1.0):
        optimizer.step()
        schedule.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(found, [1, 1, 1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "onecycle", "warmup_epochs": 1}, "goes with trainer.schedule=cosine, linear or constant"),
        ({"schedule": "cosine", "epochs": 1, "warmup_epochs": 2}, "must not be more than trainer.epochs=1"),
        ({"resume": "auto"}, "needs trainer.out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        TrainerConfig(**options)
