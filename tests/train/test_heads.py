"""Heads as training begins: each against a few lines of numpy."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from pgn_edge.errors import DataError
from pgn_edge.heads import Head
from pgn_edge.nn.timm_vit import timm_backbone
from pgn_edge.nn.vit import Backbone, ZeroShot
from pgn_edge.train.data.dataset import LabelSpace
from pgn_edge.train.heads import make_head
from tests.nn.test_dino import dino_backbone

DIGITS = (LabelSpace(tuple("0123456789"), "the number {}", "digits"),)
TWO = (LabelSpace(("cat", "dog"), "a {}", "pets"), LabelSpace(("cat", "lynx", "wolf"), "a wild {}", "beasts"))
EMBEDDINGS = torch.randn(6, 128, generator=torch.Generator().manual_seed(0))


class Words(ZeroShot):
    """A text tower: the row of a class follows from its sentence."""

    def head(self, labels: tuple[str, ...], template: str) -> Head:
        rows = np.stack([self.row(template.format(label)) for label in labels])
        return Head.text(rows, labels, 7.0)

    @staticmethod
    def row(sentence: str) -> np.ndarray:
        row = np.random.default_rng(list(sentence.encode())).standard_normal(128)
        return row / np.linalg.norm(row)


@pytest.fixture
def words(tiny_backbone: Backbone) -> Backbone:
    return dataclasses.replace(tiny_backbone, zero_shot=Words())


@pytest.fixture(scope="module")
def supervised() -> Backbone:
    torch.manual_seed(0)
    return timm_backbone(timm.create_model("test_vit", num_classes=12).eval(), "timm:test_vit")


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return dino_backbone(tmp_path_factory.mktemp("dino"))


def rows_of(backbone: Backbone) -> np.ndarray:
    return backbone.zero_shot.classifier.weight.detach().numpy()  # type: ignore[attr-defined]


@pytest.mark.parametrize("choice", ["zero-shot", "tuned"])
def test_the_frozen_models_own_head(tiny_backbone: Backbone, choice: str):
    own = tiny_backbone.zero_shot.head(DIGITS[0].labels, "{}")
    head = make_head(choice, tiny_backbone, DIGITS, 0)
    np.testing.assert_allclose(head(EMBEDDINGS).detach().numpy(), own.logits(EMBEDDINGS.numpy()), rtol=0, atol=1e-5)
    assert [name for name, p in head.named_parameters() if p.requires_grad] == (["weight"] if choice == "tuned" else [])
    assert head.to_head().labels == DIGITS[0].labels


def test_a_linear_head_begins_at_zero_and_learns(tiny_backbone: Backbone):
    head = make_head("linear", tiny_backbone, DIGITS, 0)
    assert torch.equal(head(EMBEDDINGS), torch.zeros(6, 10))
    assert [name for name, p in head.named_parameters() if p.requires_grad] == ["weight", "bias"]


@pytest.mark.parametrize("choice", ["zero-shot", "identity"])
def test_of_a_supervised_model_class_i_is_output_i(supervised: Backbone, choice: str):
    head = make_head(choice, supervised, DIGITS, 0)
    embedding = torch.randn(4, rows_of(supervised).shape[1])
    with torch.no_grad():
        outputs = supervised.zero_shot.classifier(embedding)  # type: ignore[attr-defined]
        torch.testing.assert_close(head(embedding), outputs[:, :10])
    assert not any(p.requires_grad for p in head.parameters())


def test_the_identity_of_builtin_takes_its_characters_in_order(tiny_backbone: Backbone):
    spaces = (LabelSpace(("left", "right", "up"), "{}"),)
    head = make_head("identity", tiny_backbone, spaces, 0).to_head()
    expected = tiny_backbone.zero_shot.head(("0", "1", "2"), "{}")
    assert (head.kind, head.scale, head.labels) == ("text", expected.scale, ("left", "right", "up"))
    np.testing.assert_array_equal(head.weight, expected.weight)


@pytest.mark.parametrize(("choice", "mapping"), [("frequency", "once"), ("iterative", "each epoch")])
def test_mappings_begin_as_the_identity(supervised: Backbone, choice: str, mapping: str):
    head = make_head(choice, supervised, DIGITS, 0)
    assert (head.mapping, head.index.tolist()) == (mapping, list(range(10)))
    np.testing.assert_array_equal(head.to_head().weight, rows_of(supervised)[:10])
    assert head.to_head().labels == DIGITS[0].labels


def test_prototypes_are_rows_of_the_projection_head(dino: Backbone):
    first, again, other = (make_head("prototypes", dino, TWO, seed).to_head().weight for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    known = [row.tobytes() for row in rows_of(dino)]
    drawn = [known.index(row.tobytes()) for row in first]
    assert len(set(drawn)) == 5
    assert not any(p.requires_grad for p in make_head("prototypes", dino, TWO, 0).parameters())


# Several data sets at once.


@pytest.mark.parametrize("choice", ["zero-shot", "tuned"])
def test_each_space_has_its_own_sentences(words: Backbone, choice: str):
    head = make_head(choice, words, TWO, 0).to_head()
    sentences = ("a cat", "a dog", "a wild cat", "a wild lynx", "a wild wolf")
    np.testing.assert_allclose(head.weight, np.stack([Words.row(s) for s in sentences]), rtol=0, atol=1e-6)
    assert head.labels == ("pets/cat", "pets/dog", "beasts/cat", "beasts/lynx", "beasts/wolf")
    assert head.scale == 7.0


def test_class_names_that_two_data_sets_share_are_told_apart_by_the_name_of_the_set(words: Backbone):
    same = (TWO[0], dataclasses.replace(TWO[1], template="a {}"))
    sentences = ("a cat (pets)", "a dog", "a cat (beasts)", "a lynx", "a wolf")
    for choice in ("zero-shot", "tuned"):
        head = make_head(choice, words, same, 0).to_head()
        np.testing.assert_allclose(head.weight, np.stack([Words.row(s) for s in sentences]), rtol=0, atol=1e-6)
        assert head.labels == ("pets/cat", "pets/dog", "beasts/cat", "beasts/lynx", "beasts/wolf")


def test_a_model_that_cannot_tell_shared_names_apart_lets_only_a_learning_head_share_them(tiny_backbone: Backbone):
    same = (LabelSpace(("0", "1"), "{}", "left"), LabelSpace(("1", "2"), "{}", "right"))
    with pytest.raises(DataError, match=r"a row of its own for each class.*--head tuned"):
        make_head("zero-shot", tiny_backbone, same, 0)
    assert make_head("tuned", tiny_backbone, same, 0).to_head().weight.shape == (4, 128)


def test_two_classes_of_one_name_have_labels_of_their_own_and_one_text(words: Backbone):
    labels = ("missile (n03773504)", "tabby cat", "missile (n04008634)")
    space = LabelSpace(labels, "a {}", "imagenet", texts=("missile", "tabby cat", "missile"))
    head = make_head("zero-shot", words, (space,), 0).to_head()
    assert head.labels == labels
    rows = np.stack([Words.row(f"a {text}") for text in space.texts])
    np.testing.assert_allclose(head.weight, rows, rtol=0, atol=1e-6)


def test_a_classifier_of_imagenets_1000_classes_answers_its_test_sets_with_their_own_outputs():
    """ImageNet-A has 200 of the classes; the first 200 outputs would be other ones."""
    torch.manual_seed(0)
    model = timm_backbone(timm.create_model("test_vit", num_classes=1000).eval(), "timm:test_vit")
    space = LabelSpace(("stingray", "goldfinch"), "{}", "imagenet-a", imagenet=(6, 11))
    head = make_head("zero-shot", model, (space,), 0).to_head()
    np.testing.assert_array_equal(head.weight, rows_of(model)[[6, 11]])
    assert head.labels == space.labels


def test_outputs_are_counted_through_all_spaces(supervised: Backbone):
    head = make_head("zero-shot", supervised, TWO, 0).to_head()
    np.testing.assert_array_equal(head.weight, rows_of(supervised)[:5])


# What cannot be had.

MANY = (LabelSpace(tuple(f"class {i}" for i in range(13)), "{}"),)
REFUSED = {
    "more classes than outputs": ("identity", "supervised", MANY, "at most 12 classes"),
    "more classes than outputs to choose from": ("frequency", "supervised", MANY, "at most 12 classes"),
    "more classes than prototypes": ("prototypes", "dino", MANY * 2, "at most 20 classes"),
    "prototypes of no DINO": ("prototypes", "supervised", DIGITS, "expected a DINO model with its projection head"),
    "names for prototypes": ("zero-shot", "dino", DIGITS, "got prototypes; choose --head prototypes"),
    "an unknown choice": ("svm", "supervised", DIGITS, "zero-shot or tuned or linear"),
    "names that the model lacks": ("tuned", "tiny_backbone", MANY, "named by one character"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, request: pytest.FixtureRequest):
    choice, backbone, spaces, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        make_head(choice, request.getfixturevalue(backbone), spaces, 0)


def test_a_model_without_outputs_of_its_own(tmp_path: Path):
    model = timm.create_model("test_vit", num_classes=0).eval()
    for choice in ("identity", "frequency", "iterative"):
        with pytest.raises(DataError, match="a model with a classifier of its own, got none"):
            make_head(choice, timm_backbone(model, "timm:test_vit"), DIGITS, 0)


def test_clip_has_texts_and_no_outputs():
    from pgn_edge.nn.clip import TextHead

    with pytest.raises(DataError, match="got one that compares images with texts"):
        TextHead(types.SimpleNamespace(), None).outputs()
