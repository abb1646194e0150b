"""Heads against torch's own formulae."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pgn_edge.errors import BundleError
from pgn_edge.heads import Head

RNG = np.random.default_rng(0)
EMBEDDING = RNG.standard_normal((5, 8)).astype(np.float32)
WEIGHT = RNG.standard_normal((3, 8)).astype(np.float32)
UNIT = F.normalize(torch.from_numpy(WEIGHT), dim=-1).numpy()
BIAS = np.array([0.5, -1.0, 2.0], np.float32)
LABELS = ("cat", "dog", "fox")
EMPTY, NO_INDEX = np.zeros(0, np.float32), np.zeros(0, np.int64)

HEADS = {
    "text": Head.text(UNIT, LABELS, 100.0),
    "linear": Head.linear(WEIGHT, BIAS, LABELS),
    "mapping": Head.mapping(np.array([6, 0, 2]), LABELS),
}


def torch_logits(kind: str) -> torch.Tensor:
    embedding = torch.from_numpy(EMBEDDING)
    if kind == "text":
        return 100.0 * F.normalize(embedding, dim=-1) @ torch.from_numpy(UNIT).T
    if kind == "linear":
        return F.linear(embedding, torch.from_numpy(WEIGHT), torch.from_numpy(BIAS))
    return embedding[:, [6, 0, 2]]


@pytest.mark.parametrize("kind", HEADS)
def test_logits_equal_torch(kind: str):
    logits = HEADS[kind].logits(EMBEDDING)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, torch_logits(kind).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_scores_equal_torchs_softmax(kind: str):
    scores = HEADS[kind].scores(EMBEDDING)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, torch_logits(kind).softmax(-1).numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_large_logits_do_not_overflow():
    scores = Head.linear(1e4 * WEIGHT, BIAS, LABELS).scores(EMBEDDING)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_a_zero_embedding_has_no_direction_but_an_answer():
    assert (HEADS["text"].logits(np.zeros((1, 8), np.float32)) == 0).all()


def test_text_ignores_the_length_of_the_embedding():
    np.testing.assert_allclose(HEADS["text"].logits(7 * EMBEDDING), HEADS["text"].logits(EMBEDDING), atol=1e-4)


@pytest.mark.parametrize("kind", HEADS)
def test_survives_arrays(kind: str):
    head = HEADS[kind]
    copy = Head.from_arrays(head.to_arrays(), head.labels)
    assert (copy.kind, copy.labels, copy.scale) == (head.kind, head.labels, head.scale)
    assert copy.logits(EMBEDDING).tobytes() == head.logits(EMBEDDING).tobytes()


@pytest.mark.parametrize(
    ("kind", "width"),
    [("text", 7), ("text", 9), ("linear", 7), ("linear", 9), ("mapping", 6)],
    ids=["text, narrow", "text, wide", "linear, narrow", "linear, wide", "mapping, too few outputs"],
)
def test_embeddings_of_another_width_are_refused(kind: str, width: int):
    with pytest.raises(BundleError, match=f"got {width}"):
        HEADS[kind].logits(np.zeros((1, width), np.float32))


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(("text", LABELS, UNIT[:2], EMPTY, 1.0, NO_INDEX), id="fewer rows than labels"),
        pytest.param(("text", (), UNIT[:0], EMPTY, 1.0, NO_INDEX), id="no labels"),
        pytest.param(("linear", LABELS, WEIGHT, BIAS[:2], 1.0, NO_INDEX), id="short bias"),
        pytest.param(("linear", LABELS, WEIGHT, np.float32(1), 1.0, NO_INDEX), id="bias without an axis"),
        pytest.param(("linear", LABELS, WEIGHT, WEIGHT, 1.0, NO_INDEX), id="bias with two axes"),
        pytest.param(("linear", LABELS, WEIGHT[0], BIAS, 1.0, NO_INDEX), id="weight with one axis"),
        pytest.param(("mapping", LABELS, EMPTY, EMPTY, 1.0, np.arange(2)), id="short index"),
        pytest.param(("mapping", LABELS, EMPTY, EMPTY, 1.0, np.array([0, 1, -1])), id="index counts from the end"),
        pytest.param(("mapping", LABELS, EMPTY, EMPTY, 1.0, np.array([0.0, 1.0, 2.0])), id="index not whole"),
        pytest.param(("cosine", LABELS, UNIT, EMPTY, 1.0, NO_INDEX), id="unknown kind"),
        pytest.param(("text", LABELS, np.full_like(UNIT, np.nan), EMPTY, 1.0, NO_INDEX), id="NaN weight"),
        pytest.param(("linear", LABELS, WEIGHT, np.full_like(BIAS, np.inf), 1.0, NO_INDEX), id="infinite bias"),
        pytest.param(("text", LABELS, UNIT, EMPTY, float("nan"), NO_INDEX), id="NaN scale"),
    ],
)
def test_fields_that_do_not_agree_are_refused(fields: tuple[Any, ...]):
    with pytest.raises(BundleError):
        Head(*fields)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"weight": None}, id="weight is missing"),
        pytest.param({"scale": np.float32(1)}, id="scale without an axis"),
        pytest.param({"scale": np.zeros(0, np.float32)}, id="empty scale"),
        pytest.param({"weight": np.array(["a"] * 3)[:, None]}, id="words for weights"),
        pytest.param({"kind": np.array([1, 2])}, id="kind is a list"),
        pytest.param({"bias": np.array("x")}, id="a word for the bias"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(change: dict[str, Any]):
    arrays = {k: v for k, v in {**HEADS["linear"].to_arrays(), **change}.items() if v is not None}
    with pytest.raises(BundleError):
        Head.from_arrays(arrays, LABELS)
