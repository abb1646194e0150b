"""Data sets: splits that share nothing, labels that exist, classes that can be learned; and the unreadable, counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pgn_edge.errors import DataError
from pgn_edge.left_out import LeftOut, Reason
from pgn_edge.train.data import Arrays, DataSet, LabelSpace, Parts, Samples, Subset
from pgn_edge.train.data.dataset import assemble, cut, unite

AB = LabelSpace(("a", "b"), "a photo of a {}", "letters")


def labelled(*labels: int, title: str = "x") -> Arrays:
    """Images of one pixel that holds their place."""
    places = np.arange(len(labels), dtype=np.uint8)
    return Arrays(np.tile(places[:, None, None, None], (1, 1, 1, 3)), np.array(labels, np.int64), title)


def places(samples: Samples) -> list[int]:
    return [int(samples.read(index)[0, 0, 0]) for index in range(len(samples))]


# Cutting.


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_a_cut_takes_its_share_of_each_class_and_at_least_one(share: float):
    labels = np.repeat(np.arange(4), [2, 10, 41, 100])
    stays, cut_off = cut(labelled(*np.random.default_rng(0).permutation(labels)), share)
    counts = np.bincount(cut_off.labels)
    assert counts.tolist() == [max(1, round(share * n)) for n in (2, 10, 41, 100)]
    assert sorted(places(stays) + places(cut_off)) == list(range(153))
    assert places(stays) == sorted(places(stays))


def test_a_cut_is_the_same_for_ever():
    _, cut_off = cut(labelled(*[0] * 30, *[1] * 30), 0.1)
    assert places(cut_off) == [1, 12, 25, 42, 54, 58]


# What a reader gave is checked.


def test_validation_is_cut_from_the_training_images():
    parts = Parts(("a", "b"), labelled(*[0, 1] * 10), labelled(0, 1, title="test"))
    data = assemble(AB, parts, {"source": "here"})
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 2)
    assert sorted(places(data.train) + places(data.validation)) == list(range(20))
    assert data.validation.name(0).startswith("x[")
    assert data.test is parts.test
    assert data.facts == {
        "source": "here",
        "sizes": {"classes": 2, "train": 18, "validation": 2, "test": 2},
    }


def test_validation_of_the_usual_split_is_kept():
    parts = Parts(("a", "b"), labelled(0, 1), labelled(0, 1), labelled(0, 1, 1))
    data = assemble(AB, parts, {})
    assert data.train is parts.train
    assert data.validation is parts.validation


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        pytest.param(
            Parts(("a", "b"), labelled(0, 1, 2, 0, 1), labelled(0, 1)),
            "letters: x[2]: expected a label from 0 to 1, got 2",
            id="label beyond the last class",
        ),
        pytest.param(
            Parts(("a", "b"), labelled(0, 1, 0, 1), labelled(0, -1, title="test")),
            "letters: test[1]: expected a label from 0 to 1, got -1",
            id="negative label",
        ),
        pytest.param(
            Parts(("a", "b"), labelled(0, 1), labelled(0, 1), labelled(5, title="v")),
            "letters: v[0]: expected a label from 0 to 1, got 5",
            id="label of the validation split",
        ),
        pytest.param(
            Parts(("a", "b"), labelled(0, 0, 1), labelled(0, 1)),
            "at least 2 training images of each class, got 1 of 'b'",
            id="one image cannot be in training and in validation",
        ),
        pytest.param(
            Parts(("a", "b"), labelled(0, 0), labelled(0, 1), labelled(0, 1)),
            "at least 1 training images of each class, got 0 of 'b'",
            id="class that is never learned",
        ),
        pytest.param(
            Parts(("a", "b"), labelled(0, 0, 1, 1), labelled(1)),
            "at least 1 test images of each class, got 0 of 'a'",
            id="class that is never tested",
        ),
    ],
)
def test_parts_that_are_refused(parts: Parts, says: str):
    with pytest.raises(DataError) as caught:
        assemble(AB, parts, {})
    assert says in str(caught.value)


def test_a_set_of_test_images_alone_can_be_loaded_and_not_trained():
    data = assemble(AB, Parts(("a", "b"), labelled(), labelled(0, 1)), {})
    assert (len(data.train), len(data.validation), len(data.test)) == (0, 0, 2)
    with pytest.raises(DataError, match="got test images alone of 'a'"):
        data.require_training()
    trained = unite([assemble(LabelSpace(("c", "d"), "{}", "more"), both(), {}), data])
    with pytest.raises(DataError, match="got test images alone of 'letters/a'"):
        trained.require_training()


def test_a_set_with_training_images_can_be_trained():
    assemble(AB, both(), {}).require_training()


# Unions.


def both() -> Parts:
    return Parts(("a", "b"), labelled(0, 1, 0, 1), labelled(1, 0), labelled(0, 1))


def named(name: str) -> DataSet:
    return assemble(LabelSpace(("a", "b"), f"a {name} {{}}", name), both(), {"source": name})


def test_a_union_has_the_classes_of_all():
    data = unite([named("red"), named("blue"), named("green")])
    assert data.name == "red,blue,green"
    assert data.labels == ("red/a", "red/b", "blue/a", "blue/b", "green/a", "green/b")
    assert [space.template for space in data.spaces] == ["a red {}", "a blue {}", "a green {}"]
    assert data.train.labels.tolist() == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5]
    assert data.validation.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.test.labels.tolist() == [1, 0, 3, 2, 5, 4]
    assert data.facts["sets"]["blue"]["source"] == "blue"


def test_labels_of_one_space_stand_alone():
    assert named("red").labels == ("a", "b")


def test_a_union_names_each_set_once():
    with pytest.raises(DataError, match="expected data sets of different names, got 'red' twice"):
        unite([named("red"), named("blue"), named("red")])


# What cannot be read.


def reason(name: str) -> DataError:
    return DataError(name, expected="an image", got="none", do="look")


def test_unreadable_images_are_counted_once_each_from_any_thread():
    left_out = LeftOut()
    assert (len(left_out), left_out.first()) == (0, "")
    with ThreadPoolExecutor(8) as threads:
        for index in reversed(range(400)):
            name = f"{index % 50:02}"
            threads.submit(left_out.add, name, Reason.UNREADABLE, reason(name))
    assert len(left_out) == 50
    assert left_out.first() == "00: none"


def test_an_empty_record_is_still_a_record():
    assert LeftOut(), "`given or LeftOut()` must not put another one in its place"


def test_strict_raises_at_the_first():
    error = reason("7")
    left_out = LeftOut(strict=True)
    with pytest.raises(DataError) as caught:
        left_out.add("7", Reason.UNREADABLE, error)
    assert caught.value is error
    assert len(left_out) == 0


def test_samples_are_told_apart_by_what_they_are():
    one, other = labelled(0, 1), labelled(0, 1)
    assert len({one, other, Subset(one, np.array([0])), Subset(one, np.array([0]))}) == 4
