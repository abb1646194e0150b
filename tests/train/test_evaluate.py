"""Metrics against hand-computed cases, scikit-learn and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from pgn_edge.errors import DataError
from pgn_edge.train.evaluate import (
    Answers,
    class_order,
    compare,
    confusion,
    measure,
    named_by_set,
    of_classes,
    reliability,
    route,
    wilson,
)


def answers(scores: object, unread: tuple[int, ...] = (), degraded: tuple[int, ...] = ()) -> Answers:
    array = np.asarray(scores, np.float32)
    read, without = np.ones(len(array), bool), np.zeros(len(array), bool)
    read[list(unread)], without[list(degraded)] = False, True
    return Answers(array, read, without, 2.0)


@pytest.fixture
def many() -> tuple[Answers, np.ndarray]:
    """300 random answers for seven classes, right more often than not."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(7), rng.integers(0, 7, 293)])
    logits = rng.normal(size=(300, 7)) + 1.5 * np.eye(7)[labels]
    power = np.exp(logits)
    return answers(power / power.sum(axis=1, keepdims=True)), labels


def test_metrics_are_those_of_scikit_learn(many: tuple[Answers, np.ndarray]):
    given_answers, labels = many
    metrics, scores = measure(given_answers, labels), given_answers.scores.astype(np.float64)
    assert metrics.top1 == pytest.approx(top_k_accuracy_score(labels, scores, k=1))
    assert metrics.top5 == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    assert metrics.mean_class == pytest.approx(balanced_accuracy_score(labels, scores.argmax(axis=1)))
    normed = scores / scores.sum(axis=1, keepdims=True)
    assert metrics.log_likelihood == pytest.approx(log_loss(labels, normed), rel=1e-5)
    assert (confusion(given_answers, labels) == confusion_matrix(labels, scores.argmax(axis=1))).all()
    assert metrics.images_per_s == 150
    assert metrics.class_counts.sum() == 300


def test_unreadable_images_are_left_out_and_degraded_ones_are_wrong():
    scores = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]
    metrics = measure(answers(scores, unread=(1,), degraded=(3,)), np.array([0, 1, 1, 0]))
    assert (metrics.images, metrics.unreadable, metrics.degraded) == (3, 1, 1)
    assert metrics.top1 == pytest.approx(2 / 3)
    assert metrics.top5 is None
    assert metrics.class_accuracy.tolist() == [0.5, 1.0]
    assert metrics.log_likelihood == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2, rel=1e-6)
    assert metrics.reliability.count.sum() == 2
    assert confusion(answers(scores, (1,), (3,)), np.array([0, 1, 1, 0])).tolist() == [[1, 0], [0, 1]]


def test_a_class_without_images_counts_for_nothing():
    metrics = measure(answers([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]), np.array([0, 0]))
    assert metrics.mean_class == 0.5
    assert np.isnan(metrics.class_accuracy[1:]).all()
    assert metrics.worst(3) == [0]


def test_the_worst_classes_come_first_and_of_equals_the_larger():
    right = np.eye(4)
    scores = [right[0], right[1], right[0], right[0], right[0], right[0], right[0]]
    labels = np.array([0, 1, 1, 2, 2, 2, 3])  # class 3 is as wrong as class 2, and smaller
    assert measure(answers(scores), labels).worst(4) == [2, 3, 1, 0]


def test_equal_scores_are_ranked_as_the_answer_is():
    even = np.full((7, 7), 1 / 7)
    metrics = measure(answers(even), np.arange(7))
    assert metrics.top1 == pytest.approx(1 / 7)
    assert metrics.top5 == pytest.approx(5 / 7)


def test_calibration_by_hand():
    # 0.9 twice, right once: a gap of 0.4 in one bin. 0.62 twice, right: 0.38 in another. 1.0 right: none.
    scores = [[0.9, 0.1], [0.9, 0.1], [0.62, 0.38], [0.38, 0.62], [1.0, 0.0]]
    bins = reliability(answers(scores), np.array([0, 1, 0, 1, 0]))
    assert bins.count.tolist() == [0] * 9 + [2, 0, 0, 0, 2, 1]
    assert bins.confidence[[9, 13, 14]] == pytest.approx([0.62, 0.9, 1.0])
    assert bins.accuracy[[9, 13, 14]].tolist() == [1.0, 0.5, 1.0]
    assert bins.error == pytest.approx((2 * 0.4 + 2 * 0.38 + 0) / 5)


def test_a_score_of_zero_for_the_right_class_is_finite():
    assert 80 < measure(answers([[1.0, 0.0]]), np.array([1])).log_likelihood < 90


def test_nothing_answered_is_no_number_and_all_wrong():
    metrics = measure(answers([[0.0, 0.0]], degraded=(0,)), np.array([0]))
    assert metrics.top1 == 0
    assert math.isnan(metrics.reliability.error)
    assert math.isnan(metrics.log_likelihood)


def test_nothing_read_is_refused():
    with pytest.raises(DataError, match="at least one that can be read"):
        measure(answers([[0.5, 0.5]], unread=(0,)), np.array([0]))


@given(st.integers(1, 500).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_the_interval_is_wilsons(case: tuple[int, int]):
    right, count = case
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_flips_are_counted_by_what_they_do():
    first = answers([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    second = answers([[0.8, 0.2], [0.2, 0.8], [0.3, 0.7], [0.9, 0.1], [0.0, 0.0]], unread=(3,), degraded=(4,))
    flips = compare(first, second, np.array([0, 0, 1, 0, 0]))
    assert (flips.images, flips.count, flips.broken, flips.mended) == (4, 3, 2, 1)
    assert flips.max_abs == pytest.approx(0.7)
    assert compare(first, first, np.array([0, 0, 1, 0, 0])).max_abs == 0


def test_no_answer_in_common_has_no_difference():
    first, second = answers([[0.9, 0.1]]), answers([[0.0, 0.0]], degraded=(0,))
    assert math.isnan(compare(first, second, np.array([1])).max_abs)


# Classes by name.


@pytest.mark.parametrize(
    ("own", "wanted", "order"),
    [
        pytest.param("abc", "abc", [0, 1, 2], id="the same"),
        pytest.param("abc", "cab", [2, 0, 1], id="another order"),
        pytest.param("abcd", "db", [3, 1], id="some of them"),
        pytest.param("aa", "aa", [0, 1], id="names twice in the same places"),
        pytest.param("aabc", "cb", [3, 2], id="a name twice that the data do not have"),
    ],
)
def test_classes_are_found_by_name(own: str, wanted: str, order: list[int]):
    assert class_order("x.pt", tuple(own), tuple(wanted)).tolist() == order


@pytest.mark.parametrize(
    ("own", "wanted", "says"),
    [
        pytest.param("abc", "axb", "'x'", id="a class that it lacks"),
        pytest.param("aab", "ab", "one name for two", id="a name for two of its classes"),
        pytest.param("abc", "aab", "one name for two", id="a name for two of the data's"),
    ],
)
def test_classes_that_do_not_fit(own: str, wanted: str, says: str):
    with pytest.raises(DataError, match=says):
        class_order("x.pt", tuple(own), tuple(wanted))


MULTI = ("red/a", "red/b", "blue/a", "blue/c", "blue/d")


def test_one_data_set_of_a_pgn_for_several_is_found_by_its_name():
    assert named_by_set(MULTI, ("a", "b"), "red") == ("red/a", "red/b")
    assert named_by_set(MULTI, ("a", "b"), "green") == ("a", "b")
    assert named_by_set(("a", "b", "c"), ("a", "b"), "red") == ("a", "b")


def test_images_of_one_data_set_are_counted_by_the_set_that_they_were_taken_for():
    """The answers among the set's own classes are all right; among all five, one image goes to the other set."""
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]], np.float32)
    read = np.array([True, True, True, False])
    answers = Answers(scores, read, np.zeros(4, bool), 1.0, first=np.array([0, 1, 3, 0]))
    found = route(answers, np.array([0, 1, 0, 0]), MULTI, ("red/a", "red/b"))
    assert found is not None
    assert (found.asked, found.sets) == (("red",), ("red", "blue"))
    assert found.counts.tolist() == [[2, 1]]
    assert found.share == pytest.approx(2 / 3)
    assert found.top1 == pytest.approx(2 / 3)


def test_images_of_a_union_are_counted_set_by_set():
    scores = np.eye(5, dtype=np.float32)[[0, 2, 4, 1]]
    answers = Answers(scores, np.ones(4, bool), np.zeros(4, bool), 1.0)
    found = route(answers, np.array([0, 0, 4, 2]), MULTI, MULTI)
    assert found is not None
    assert found.counts.tolist() == [[1, 1], [1, 1]]
    assert (found.share, found.top1) == (0.5, 0.5)


def test_a_subject_of_one_data_set_routes_nothing():
    answers = Answers(np.eye(2, dtype=np.float32), np.ones(2, bool), np.zeros(2, bool), 1.0)
    assert route(answers, np.array([0, 1]), ("a", "b"), ("a", "b")) is None
    assert route(answers, np.array([0, 1]), ("black/white", "red"), ("black/white", "red")) is None


def test_scores_of_some_classes_sum_to_one_again():
    scores = np.array([[0.5, 0.3, 0.2]], np.float32)
    assert of_classes(scores, np.array([2, 0, 1])).tolist() == scores[:, [2, 0, 1]].tolist()
    assert of_classes(scores, np.array([2, 1])) == pytest.approx(np.array([[0.4, 0.6]]))
