"""Figures are scikit-learn's, on any predictions: ties, classes that never occur, a single window."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
    top_k_accuracy_score,
)

from wildstream.training.losses import clip_losses, probabilities
from wildstream.training.metrics import average_precisions, class_figures, compute_metrics


@st.composite
def predictions(draw):
    """Probabilities, many of them equal, and targets, often without some class."""
    windows, classes = draw(st.integers(1, 24)), draw(st.integers(1, 4))
    levels = draw(st.sampled_from([1, 2, 5, 1000]))  # few levels make many ties; 1 makes all equal
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    probabilities = (rng.integers(0, levels + 1, (windows, classes)) / levels).astype(np.float32)
    return probabilities, rng.random((windows, classes)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))


def expected_precisions(probabilities, targets):
    return [
        average_precision_score(truth, scores) if truth.any() else math.nan
        for scores, truth in zip(probabilities.T, targets.T, strict=True)
    ]


@settings(max_examples=150, deadline=None)
@given(predictions())
def test_multi_label_figures_are_those_of_scikit_learn(case):
    probabilities, targets = case
    expected = expected_precisions(probabilities, targets)
    np.testing.assert_allclose(average_precisions(probabilities, targets), expected, rtol=1e-5)
    figures = compute_metrics(probabilities, targets, task="multi_label")
    assert set(figures) == {"mAP", "mAP_micro", "mAP_chance", "f1_macro", "f1_micro"}
    occurs = targets.any(axis=0)
    if occurs.any():
        assert figures["mAP"] == pytest.approx(np.nanmean(expected), rel=1e-5)
        assert figures["mAP_micro"] == pytest.approx(
            average_precision_score(targets, probabilities, average="micro"), rel=1e-5
        )
        assert figures["mAP_chance"] == pytest.approx(targets[:, occurs].mean())
    else:
        assert math.isnan(figures["mAP"])
        assert math.isnan(figures["mAP_chance"])
    predicted = probabilities > 0.5
    if not (targets | predicted).any():
        assert math.isnan(figures["f1_macro"])
        assert math.isnan(figures["f1_micro"])
        return
    per_class = [
        f1_score(truth, found, zero_division=np.nan) for truth, found in zip(targets.T, predicted.T, strict=True)
    ]
    assert figures["f1_macro"] == pytest.approx(np.nanmean(per_class))
    assert figures["f1_micro"] == pytest.approx(f1_score(targets.ravel(), predicted.ravel()))


@settings(max_examples=100, deadline=None)
@given(windows=st.integers(1, 24), classes=st.integers(1, 13), seed=st.integers(0, 2**32))
def test_single_label_figures_are_those_of_scikit_learn(windows, classes, seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), windows).astype(np.float32)
    numbers = rng.integers(0, classes, windows)
    targets = np.eye(classes, dtype=np.bool_)[numbers]
    figures = compute_metrics(probabilities, targets, task="single_label")
    found = probabilities.argmax(axis=1)
    seen = sorted(set(numbers) | set(found))
    assert figures["top1"] == pytest.approx(accuracy_score(numbers, found))
    assert figures["top1_per_class"] == pytest.approx(
        recall_score(numbers, found, average="macro", labels=sorted(set(numbers)))
    )
    assert [k for k in (5, 10) if f"top{k}" in figures] == [k for k in (5, 10) if k < classes]
    for k in (k for k in (5, 10) if k < classes):
        score = top_k_accuracy_score(numbers, probabilities, k=k, labels=range(classes))
        assert figures[f"top{k}"] == pytest.approx(score)
    assert figures["f1_micro"] == pytest.approx(f1_score(numbers, found, average="micro"))
    assert figures["f1_macro"] == pytest.approx(
        f1_score(numbers, found, average="macro", labels=seen, zero_division=0.0), abs=1e-6
    )
    assert figures["mAP"] == pytest.approx(np.nanmean(expected_precisions(probabilities, targets)), rel=1e-5)


def assert_of_scikit_learn(figures, targets, predicted):
    """Precision, recall and F1 of each class."""
    expected = precision_recall_fscore_support(
        targets, predicted, labels=range(targets.shape[1]) if targets.shape[1] > 1 else [1], zero_division=np.nan
    )
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_allclose(figures[name], values, rtol=1e-12, err_msg=name)


@settings(max_examples=100, deadline=None)
@given(predictions(), st.sampled_from(["multi_label", "single_label"]))
def test_figures_of_each_class_are_those_of_scikit_learn(case, task):
    probabilities, targets = case
    if task == "single_label":
        targets = np.eye(targets.shape[1], dtype=np.bool_)[targets.argmax(axis=1)]
        predicted = np.eye(targets.shape[1], dtype=np.bool_)[probabilities.argmax(axis=1)]
    else:
        predicted = probabilities > 0.5
    figures = class_figures(probabilities, targets, task=task)
    assert_of_scikit_learn(figures, targets, predicted)
    np.testing.assert_allclose(figures["average_precision"], expected_precisions(probabilities, targets), rtol=1e-5)
    macro = compute_metrics(probabilities, targets, task=task)["f1_macro"]
    defined = figures["f1"][~np.isnan(figures["f1"])]
    assert (defined.mean() if len(defined) else math.nan) == pytest.approx(macro, nan_ok=True)


def test_constant_predictions_reach_chance():
    targets = np.random.default_rng(0).random((200, 3)) < [0.1, 0.5, 0.0]
    figures = compute_metrics(np.full((200, 3), 0.3, np.float32), targets, task="multi_label")
    assert figures["mAP"] == pytest.approx(figures["mAP_chance"])


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_no_window_leaves_every_figure_undefined(task):
    figures = compute_metrics(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.bool_), task=task)
    assert all(math.isnan(value) for value in figures.values())
    of_classes = class_figures(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.bool_), task=task)
    assert all(np.isnan(values).all() and values.shape == (3,) for values in of_classes.values())


def test_losses_and_probabilities_are_float32_and_of_the_task():
    scores = torch.tensor([[2.0, -1.0]], dtype=torch.bfloat16)
    labels = torch.tensor([[True, False]])
    sigmoid = probabilities(scores, task="multi_label")
    softmax = probabilities(scores, task="single_label")
    assert sigmoid.dtype == softmax.dtype == torch.float32
    assert softmax.sum().item() == pytest.approx(1)
    multi, single = (clip_losses(scores, labels, task=task).item() for task in ("multi_label", "single_label"))
    assert multi == pytest.approx(-(math.log(sigmoid[0, 0]) + math.log(1 - sigmoid[0, 1])) / 2, rel=1e-5)
    assert single == pytest.approx(-math.log(softmax[0, 0]), rel=1e-5)
