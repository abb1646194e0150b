"""Corruptions, and the table of accuracies under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from pgn_edge.heads import Head
from pgn_edge.nn.checkpoint import spread
from pgn_edge.progress import silent
from pgn_edge.train.analysis.features import Features
from pgn_edge.train.analysis.robustness import CORRUPTIONS, predict, robustness, spoil
from pgn_edge.train.analysis.trained import Trained
from pgn_edge.train.baselines.probe import linear_probe
from pgn_edge.train.data.dataset import LabelSpace
from pgn_edge.train.data.samples import Subset
from pgn_edge.train.model import HeadModule, PromptedViT


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Coloured squares on a slope: edges, colours and something to turn."""
    slope = np.linspace(0, 120, 48)[None, :, None] + np.linspace(0, 60, 32)[:, None, None]
    images = np.repeat(np.broadcast_to(slope, (32, 48, 3))[None], 4, axis=0).copy()
    images[:, 8:20, 10:24] = (220, 60, 140)
    return images.astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_spoils_more_than_the_one_before(images: np.ndarray, name: str):
    kept = images.copy()
    gaps = []
    for strength in CORRUPTIONS[name].strengths:
        spoilt = spoil(images, name, strength)
        assert (spoilt.shape, spoilt.dtype) == (images.shape, np.uint8)
        assert (spoilt == spoil(images, name, strength)).all()
        gaps.append(float(np.abs(spoilt.astype(float) - images).mean()))
    assert 0 < gaps[0] < gaps[1] < gaps[2]
    assert (images == kept).all()


def test_the_numbers_are_what_they_say(images: np.ndarray):
    grey = np.full((1, 100, 100, 3), 128, np.uint8)
    assert spoil(grey, "noise", 0.1).std() == pytest.approx(25.5, rel=0.05)
    assert spoil(grey, "darker", 0.5).mean() == 64
    assert spoil(images, "contrast", 0.5).std() == pytest.approx(images.std() / 2, rel=0.1)
    black = np.zeros((1, 100, 100, 3), np.uint8)
    assert (spoil(black, "occlusion", 0.3) == 127).sum() == 30 * 30 * 3


def test_occlusion_and_turns_are_another_for_each_image(images: np.ndarray):
    covered = (spoil(np.zeros_like(images), "occlusion", 0.35) == 127).all(axis=3)
    assert len({mask.tobytes() for mask in covered}) > 1


def test_the_table_holds_every_corruption_and_both_models(trained: Trained, features: Features):
    section = robustness(trained, features, 0, silent)
    assert section.table is not None
    header, rows = section.table
    assert header == ("corruption", "strength", "PGN + ViT", "frozen ViT")
    assert len(rows) == 1 + 3 * len(CORRUPTIONS)
    assert [picture.name for picture in section.pictures] == ["robustness_0", "corruptions_0"]
    with torch.no_grad():
        logits = trained.checkpoint.head.logits(features.prompted)[:, :2]
    expected = float((logits.argmax(axis=1) == features.labels).mean())
    assert section.facts["clean"]["PGN + ViT"] == pytest.approx(expected)
    frozen = trained.backbone.zero_shot.head(("0", "1"), "{}").logits(features.frozen).argmax(axis=1)
    assert section.facts["clean"]["frozen ViT"] == pytest.approx(float((frozen == features.labels).mean()))


class Divider:
    """A frozen model's own head that says `bare` without prompts and `prompted` with them."""

    def __init__(self, features: Features) -> None:
        way = (features.prompted - features.frozen).mean(axis=0)
        highest, lowest = (features.frozen @ way).max(), (features.prompted @ way).min()
        assert highest < lowest, "one direction tells prompted embeddings from frozen ones"
        self.rows = {"bare": -way, "prompted": way}
        self.bias = {"bare": (highest + lowest) / 2, "prompted": -(highest + lowest) / 2}

    def head(self, labels: Sequence[str], template: str = "{}") -> Head:
        rows = np.stack([self.rows[label] for label in labels])
        return Head.linear(rows, np.array([self.bias[label] for label in labels]), tuple(labels))


def test_each_column_is_computed_by_its_own_model_in_the_class_order_of_the_data(trained: Trained, features: Features):
    """The frozen column would be 100 % with prompts, and the PGN's 0 % in the class order of its checkpoint."""
    divider = Divider(features)
    checkpoint = replace(trained.checkpoint, head=divider.head(("prompted", "bare")))
    model = PromptedViT(
        trained.model.vit, trained.model.pgn, HeadModule(checkpoint.head), checkpoint.geometry, checkpoint.transport
    )
    backbone = replace(trained.backbone, zero_shot=divider)
    divided = replace(trained, checkpoint=checkpoint, model=model.eval(), backbone=backbone)
    data = replace(features.data, spaces=(LabelSpace(("bare", "prompted"), "{}"),))
    all_prompted = replace(features, data=data, labels=np.ones(24, np.int64))
    assert robustness(divided, all_prompted, 0, silent).facts["clean"] == {"PGN + ViT": 1, "frozen ViT": 0}


def test_a_linear_probe_stands_beside_the_pgn_as_in_the_papers_table(trained: Trained, features: Features):
    section = robustness(trained, features, 0, silent, probe_images=20)
    assert section.table is not None
    assert section.table[0][2:] == ("PGN + ViT", "frozen ViT", "linear probe")
    some = replace(features.data, train=Subset(features.data.train, spread(24, 20)))
    head = linear_probe(trained.model.vit, some, trained.checkpoint.preprocess)
    expected = (head.logits(features.frozen).argmax(axis=1) == features.labels).mean()
    assert section.facts["clean"]["linear probe"] == pytest.approx(expected)


def test_data_without_training_images_have_no_linear_probe(trained: Trained, features: Features):
    data = replace(features.data, train=Subset(features.data.train, np.zeros(0, np.int64)))
    section = robustness(trained, replace(features, data=data), 0, silent, probe_images=20)
    assert section.table is not None
    assert section.table[0][2:] == ("PGN + ViT", "frozen ViT")
    assert any(note.startswith("The linear probe is left out") for note in section.notes)


def test_classes_that_the_frozen_model_cannot_name(trained: Trained, features: Features):
    labels = ("left", "right")
    head = Head.linear(np.zeros((2, 128)), np.array([0, 1]), labels)
    named = replace(trained, checkpoint=replace(trained.checkpoint, head=head))
    data = replace(features.data, spaces=(LabelSpace(labels, "{}"),))
    section = robustness(named, replace(features, data=data), 0, silent)
    assert section.table is not None
    assert section.table[0][2:] == ("PGN + ViT",)
    assert any("frozen ViT alone is left out" in note for note in section.notes)


def test_data_of_other_classes_are_left_out(trained: Trained, features: Features):
    data = replace(features.data, spaces=(LabelSpace(("cat", "dog"), "{}"),))
    section = robustness(trained, replace(features, data=data), 0, silent)
    assert section.table is None
    assert "was not trained for the classes" in section.notes[0]


def test_answers_are_among_the_classes_of_the_data(trained: Trained, features: Features):
    order = np.array([4, 2])
    logits = trained.checkpoint.head.logits(features.prompted)[:, order]
    found = predict(trained.model, features.images, trained.checkpoint.preprocess, order)
    assert (found == logits.argmax(axis=1)).all()
