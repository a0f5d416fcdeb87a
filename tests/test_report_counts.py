"""What the pictures of a report count: by hand, and against scikit-learn."""

import numpy as np
from sklearn.metrics import precision_recall_curve

from wildstream.evaluation.confusion import NOTHING, OTHERS, confuse
from wildstream.evaluation.report_pictures import precision_recall
from wildstream.evaluation.report_sections import shown
from wildstream.pictures.timelines import runs


def test_the_confusion_of_many_labels_by_hand():
    targets = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]], np.bool_)
    found = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], np.float32)
    confusion = confuse(found, targets, ["a", "b", "c"], task="multi_label", most=30)
    assert confusion.rows == confusion.columns == ["a", "b", "c", NOTHING]
    assert confusion.counts.tolist() == [[2, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert confusion.windows.tolist() == [3, 1, 1, 1]
    few = confuse(found, targets, ["a", "b", "c"], task="multi_label", most=1)
    assert (few.rows, few.columns) == (["b", NOTHING], ["b", OTHERS, NOTHING])
    assert few.counts.tolist() == [[1, 0, 0], [1, 0, 0]]


def test_a_class_that_is_not_there_has_no_shares():
    confusion = confuse(
        np.ones((2, 2), np.float32), np.array([[1, 0], [1, 0]], bool), ["a", "b"], task="multi_label", most=9
    )
    assert np.isnan(confusion.shares[1]).all()


def test_precision_and_recall_are_scikit_learns():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 20, 300).astype(np.float32) / 20, rng.random(300) < 0.3
    recall, precision = precision_recall(scores, truth)
    expected = precision_recall_curve(truth, scores)
    np.testing.assert_allclose(recall, expected[1][-2::-1])
    np.testing.assert_allclose(precision, expected[0][-2::-1])


def test_runs_end_at_gaps():
    spans = np.array([[0, 1], [1, 2], [2, 3], [5, 6], [6, 7]], float)
    assert runs(spans, np.array([True, True, False, True, True])) == [(0, 2), (5, 2)]
    assert runs(spans, np.array([False, False, True, True, False])) == [(2, 1), (5, 1)]
    assert runs(spans, np.zeros(5, bool)) == []


def test_figures_that_are_not_defined_are_dashes():
    assert [shown(value) for value in (None, 0.5, 3, True, [1, None], "x")] == ["–", "0.500", "3", "yes", "1, –", "x"]
