"""The limits that hold everywhere, at their boundaries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pgn_edge.agreement import Agreement, compare, limits
from pgn_edge.contract import Precision
from pgn_edge.heads import Head

NAN = math.nan


@pytest.mark.parametrize(
    ("precision", "agreement", "inside"),
    [
        pytest.param("fp32", Agreement(0.0, 1.0, 0, 10), True, id="fp32, equal"),
        pytest.param("fp32", Agreement(1e-4, 1.0, 0, 10), True, id="fp32, at the limit"),
        pytest.param("fp32", Agreement(1.001e-4, 1.0, 0, 10), False, id="fp32, just outside"),
        pytest.param("fp32", Agreement(NAN, NAN, 0, 10), False, id="fp32, NaN"),
        pytest.param("fp16", Agreement(0.1, 0.999, 0, 100), True, id="fp16, cosine at the limit"),
        pytest.param("fp16", Agreement(0.1, 0.99899, 0, 100), False, id="fp16, cosine just outside"),
        pytest.param("fp16", Agreement(0.1, 1.0, 1, 100), True, id="fp16, 99 % agree"),
        pytest.param("fp16", Agreement(0.1, 1.0, 2, 100), False, id="fp16, 98 % agree"),
        pytest.param("fp16", Agreement(0.1, 1.0, 1, 99), False, id="fp16, one of 99 is more than 1 %"),
        pytest.param("fp16", Agreement(NAN, NAN, 0, 100), False, id="fp16, NaN"),
    ],
)
def test_within(precision: Precision, agreement: Agreement, inside: bool):
    assert agreement.within(precision) is inside


HEAD = Head.linear(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), ("a", "b", "c"))
REFERENCE = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 3], [0.6, 0.8, 0]], np.float32)


def test_the_same_embeddings_agree():
    agreement = compare(REFERENCE, REFERENCE.copy(), HEAD)
    assert (agreement.max_abs, agreement.top1_flips, agreement.frames) == (0.0, 0, 4)
    assert agreement.cosine == pytest.approx(1.0)


def test_length_is_normalised_away():
    assert compare(REFERENCE, 5 * REFERENCE, HEAD).max_abs < 1e-7


def test_the_worst_frame_counts():
    other = REFERENCE.copy()
    other[3] = [0.8, 0.6, 0]
    agreement = compare(REFERENCE, other, HEAD)
    assert agreement.max_abs == pytest.approx(0.2)
    assert agreement.cosine == pytest.approx(0.96)
    assert agreement.top1_flips == 1


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf], ids=["NaN", "Inf", "-Inf"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_bad_value_is_outside(bad: float, precision: Precision):
    other = REFERENCE.copy()
    other[1, 1] = bad
    assert not compare(REFERENCE, other, HEAD).within(precision)


@pytest.mark.parametrize(("precision", "says"), [("fp32", "0.0001"), ("fp16", "0.999")])
def test_limits_in_words(precision: Precision, says: str):
    assert says in limits(precision)


def test_reads_as_one_line():
    assert str(Agreement(1.5e-5, 0.99999, 1, 100)) == "max abs 1.5e-05, cosine 0.999990, 1 of 100 top-1 flips"
