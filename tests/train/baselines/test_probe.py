"""Linear probe and CNN alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pgn_edge.nn.vit import Backbone
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.baselines import PROBE_STRENGTHS, cnn_alone, embed, linear_probe
from pgn_edge.train.config import Schedule
from pgn_edge.train.data.dataset import DataSet, LabelSpace
from pgn_edge.train.data.samples import Arrays
from pgn_edge.train.loop import Listeners


def tinted(count: int, classes: int, seed: int) -> Arrays:
    """64 x 64 noise, each class of another tint: even a random ViT keeps them apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 100, (count, 64, 64, 3))
    images[np.arange(count), :, :, labels] += 60
    return Arrays(images.astype(np.uint8), labels, "tints")


def make(classes: int) -> DataSet:
    space = LabelSpace(tuple("012"[:classes]), "{}", "tints")
    return DataSet("tints", (space,), tinted(24, classes, 0), tinted(12, classes, 1), tinted(18, classes, 2), {})


@pytest.mark.parametrize("classes", [2, 3], ids=["two classes, one row in sklearn", "three classes"])
def test_the_probe_tells_apart_what_is_apart(tiny_backbone: Backbone, classes: int):
    data, vit = make(classes), tiny_backbone.vit
    head = linear_probe(vit, data, vit.spec.preprocess)
    assert head.labels == data.labels
    answers = head.logits(embed(vit, data.test, vit.spec.preprocess)).argmax(axis=1)
    assert (answers == data.test.labels).mean() >= 0.9


def test_the_folded_standardisation_is_sklearns_own_answer(tiny_backbone: Backbone):
    data, vit = make(3), tiny_backbone.vit
    train, validation, test = (
        embed(vit, split, vit.spec.preprocess) for split in (data.train, data.validation, data.test)
    )
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    fits = [
        LogisticRegression(C=c, max_iter=2000).fit((train - mean) / std, data.train.labels) for c in PROBE_STRENGTHS
    ]
    scores = [fit.score((validation - mean) / std, data.validation.labels) for fit in fits]
    best = fits[int(np.argmax(scores))]
    logits = linear_probe(vit, data, vit.spec.preprocess).logits(test)
    wanted = best.decision_function((test - mean) / std)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())
    assert logits.argmax(axis=1).tolist() == best.predict((test - mean) / std).tolist()


def faint(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of two hardly different tints (n, 64, 64, 3) uint8, and the classes."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % 2
    images = rng.integers(0, 100, (count, 64, 64, 3))
    images[np.arange(count), :, :, labels] += 25
    return images.astype(np.uint8), labels


def test_the_probe_takes_the_strength_that_validation_prefers(tiny_backbone: Backbone):
    """A third of the training labels are wrong: a weakly regularised fit learns them by heart."""
    (images, right), (other_images, other_labels), vit = faint(24, 2), faint(40, 12), tiny_backbone.vit
    labels = np.where(np.random.default_rng(2).random(24) < 0.35, 1 - right, right)
    validation = Arrays(other_images, other_labels, "validation")
    data = replace(make(2), train=Arrays(images, labels, "noisy"), validation=validation)
    train, held_out = (embed(vit, split, vit.spec.preprocess) for split in (data.train, validation))
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    scores = []
    for strength in PROBE_STRENGTHS:
        fitted = LogisticRegression(C=strength, max_iter=2000).fit((train - mean) / std, labels)
        scores.append(fitted.score((held_out - mean) / std, other_labels))
    assert max(scores) > sorted(scores)[-2] + 0.1, "one strength is clearly the best"
    answers = linear_probe(vit, data, vit.spec.preprocess).logits(held_out).argmax(axis=1)
    assert (answers == other_labels).mean() == pytest.approx(max(scores), abs=0.03)


def test_embeddings_do_not_depend_on_the_batch(tiny_backbone: Backbone):
    vit, split = tiny_backbone.vit, tinted(5, 2, 3)
    together, two_by_two = (embed(vit, split, vit.spec.preprocess, batch=batch) for batch in (128, 2))
    np.testing.assert_allclose(together, two_by_two, rtol=0, atol=1e-5)


def test_the_cnn_alone_gets_the_epochs_of_both(bar_data: DataSet, bar_preprocess: Preprocess):
    told: list[tuple[int, int]] = []
    schedule = Schedule(epochs=2, warm_start=3, batch=12)
    listeners = Listeners(lambda step, done, total, note="": told.append((done, total)))
    model = cnn_alone(bar_data, bar_preprocess, schedule, listeners)
    assert told[-1] == (10, 10)
    assert len(told) == 10, "five epochs of two steps"
    assert model.head.out_features == 2
    assert not model.training
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 2)
