"""The trained model and its head: against numpy, and through the state that a resumed run reads."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgn_edge.errors import DataError
from pgn_edge.heads import Head
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.vit import Backbone
from pgn_edge.train.model import HeadModule, PromptedViT

RNG = np.random.default_rng(0)
LABELS = ("a", "b", "c")
EMBEDDINGS = torch.from_numpy(RNG.standard_normal((5, 8)).astype(np.float32))


def rows(count: int, *, unit: bool) -> np.ndarray:
    weight = np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)
    return weight / np.linalg.norm(weight, axis=1, keepdims=True) if unit else weight


HEADS = {
    "text": Head.text(rows(3, unit=True), LABELS, 5.0),
    "linear": Head.linear(rows(3, unit=False), np.array([1.0, -2.0, 0.5]), LABELS),
    "mapping": Head.mapping(np.array([4, 0, 7]), LABELS),
}


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("kind", HEADS)
def test_torch_and_numpy_agree(kind: str, learns: bool):
    module = HeadModule(HEADS[kind], learns)
    expected = HEADS[kind].logits(EMBEDDINGS.numpy())
    np.testing.assert_allclose(module(EMBEDDINGS).detach().numpy(), expected, rtol=0, atol=1e-5)
    again = module.to_head()
    assert (again.kind, again.labels) == (kind, LABELS)
    np.testing.assert_allclose(again.logits(EMBEDDINGS.numpy()), expected, rtol=0, atol=1e-5)


def test_rows_of_a_text_head_that_learns_stay_unit_rows():
    module = HeadModule(HEADS["text"], learns=True)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=5.0)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(EMBEDDINGS), torch.tensor([0, 1, 2, 0, 1])).backward()
        optimizer.step()
    head = module.to_head()
    np.testing.assert_allclose(np.linalg.norm(head.weight, axis=1), 1, rtol=0, atol=1e-6)
    assert np.abs(head.weight - HEADS["text"].weight).max() > 0.1
    assert head.scale == 5.0
    np.testing.assert_allclose(head.logits(EMBEDDINGS.numpy()), module(EMBEDDINGS).detach().numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_that_does_not_learn_has_nothing_to_learn(kind: str):
    assert not any(parameter.requires_grad for parameter in HeadModule(HEADS[kind]).parameters())


def test_the_state_of_a_head_is_read_back():
    first, second = (HeadModule(head, learns=True) for head in (HEADS["linear"], HEADS["linear"]))
    with torch.no_grad():
        first.weight.mul_(3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(EMBEDDINGS), first(EMBEDDINGS))


# Label mapping.

OUTPUTS = Head.linear(rows(9, unit=False), np.zeros(9), tuple(map(str, range(9))))


def mapping(classes: int = 3, kind: str = "linear") -> HeadModule:
    head = OUTPUTS if kind == "linear" else Head.text(rows(9, unit=True), OUTPUTS.labels, 4.0)
    return HeadModule(head, mapping="each epoch", labels=tuple("abcdefghij"[:classes]))


def answers_like(outputs: list[int]) -> torch.Tensor:
    """Embeddings on which the frozen model answers these outputs: far along each one's own direction."""
    inverse = np.linalg.pinv(OUTPUTS.weight[:8]).T  # the ninth output follows from the others
    return torch.from_numpy(np.stack([inverse[output] for output in outputs])).float()


def frequencies(table: list[tuple[int, int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings and labels from rows of class, output, how often."""
    flat = [(label, output) for label, output, count in table for _ in range(count)]
    return answers_like([output for _, output in flat]), torch.tensor([label for label, _ in flat])


def outputs_of(module: HeadModule) -> list[int]:
    assert module.index is not None
    return module.index.tolist()


@pytest.fixture(autouse=True)
def _answers_are_as_meant():
    weight, embeddings = OUTPUTS.weight, answers_like(list(range(8))).numpy()
    assert (embeddings @ weight.T).argmax(axis=1).tolist() == list(range(8)), "the ninth output would answer instead"


MAPPINGS = {
    "each its most frequent": ([(0, 5, 3), (0, 1, 2), (1, 2, 4), (2, 7, 1)], [5, 2, 7]),
    "the more frequent pair wins": ([(0, 5, 3), (0, 1, 2), (1, 5, 4), (2, 7, 1)], [1, 5, 7]),
    "of equals the smaller class": ([(0, 6, 2), (1, 6, 2), (1, 3, 1), (2, 7, 1)], [6, 3, 7]),
    "of equals the smaller output": ([(0, 6, 2), (0, 4, 2), (1, 1, 1), (2, 7, 1)], [4, 1, 7]),
}


@pytest.mark.parametrize("name", MAPPINGS)
def test_outputs_are_chosen_by_how_often_they_are_answered(name: str):
    table, expected = MAPPINGS[name]
    module = mapping()
    assert module.remap(*frequencies(table))
    assert outputs_of(module) == expected
    assert not module.remap(*frequencies(table)), "nothing changed the second time"
    np.testing.assert_array_equal(module.to_head().weight, OUTPUTS.weight[expected])


def test_a_class_that_is_left_takes_what_it_likes_best_of_the_rest():
    module = mapping()
    embeddings, labels = frequencies([(0, 5, 3), (1, 5, 2), (2, 7, 1)])
    module.remap(embeddings, labels)
    liking = (embeddings[labels == 1].mean(dim=0).numpy() @ OUTPUTS.weight.T).astype(float)
    liking[[5, 7]] = -np.inf
    assert outputs_of(module) == [5, int(liking.argmax()), 7]


def test_a_class_without_images_takes_a_free_output():
    module = mapping()
    module.remap(*frequencies([(0, 0, 2), (2, 1, 2)]))
    assert outputs_of(module) == [0, 2, 1]


@given(st.integers(0, 10_000), st.integers(1, 9), st.sampled_from(["linear", "text"]))
def test_mappings_are_one_to_one_and_do_not_depend_on_order(seed: int, classes: int, kind: str):
    random = np.random.default_rng(seed)
    embeddings = torch.from_numpy(random.standard_normal((40, 8)).astype(np.float32))
    labels = torch.from_numpy(random.integers(0, classes, 40))
    module, shuffled = mapping(classes, kind), mapping(classes, kind)
    module.remap(embeddings, labels)
    order = torch.from_numpy(random.permutation(40))
    shuffled.remap(embeddings[order], labels[order])
    assert len(set(outputs_of(module))) == classes
    assert outputs_of(module) == outputs_of(shuffled)


def test_the_most_frequent_pair_of_all_is_always_kept():
    random = np.random.default_rng(1)
    outputs, labels = random.integers(0, 8, 200), random.integers(0, 3, 200)
    module = mapping()
    module.remap(answers_like(outputs.tolist()), torch.from_numpy(labels))
    counts = {
        pair: int(((labels == pair[0]) & (outputs == pair[1])).sum()) for pair in itertools.product(range(3), range(8))
    }
    best = max(counts, key=lambda pair: (counts[pair], -pair[0], -pair[1]))
    assert outputs_of(module)[best[0]] == best[1]


def test_the_mapping_is_in_the_state_and_the_outputs_are_not():
    module, other = mapping(), mapping()
    module.remap(*frequencies([(0, 5, 3), (1, 2, 4), (2, 7, 1)]))
    assert list(module.state_dict()) == ["index"]
    other.load_state_dict(module.state_dict())
    assert outputs_of(other) == [5, 2, 7]
    assert torch.equal(other(EMBEDDINGS), module(EMBEDDINGS))


def test_more_classes_than_outputs():
    with pytest.raises(DataError, match="label mapping: expected at most 9 classes"):
        mapping(10)


# The whole model.


def test_without_a_pgn_it_is_the_frozen_vit(tiny_backbone: Backbone):
    head = HeadModule(tiny_backbone.zero_shot.head(tuple("0123456789"), "{}"))
    vit = tiny_backbone.vit
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = PromptedViT(vit, None, head, vit.geometry(0)).eval()
    with torch.no_grad():
        assert torch.equal(model(image), head(vit(image)))


@pytest.mark.parametrize("space", ["token", "pixel"])
def test_with_one_gradients_reach_prompts_and_head_alone(tiny_backbone: Backbone, space: str):
    vit = tiny_backbone.vit
    torch.manual_seed(0)
    width = vit.width if space == "token" else 192
    pgn = PGN(PgnConfig("mlp", 4, 6, width, 10, space, rounded=space == "pixel"), 1.0, vit.spec.preprocess)
    head = HeadModule(tiny_backbone.zero_shot.head(tuple("0123456789"), "{}"), learns=True)
    model = PromptedViT(vit, pgn, head, vit.geometry(4)).train()
    before = copy.deepcopy(vit.state_dict())
    image = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = model(image)
    torch.testing.assert_close(logits, head(model.embed(image)))
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {f"pgn.{name}" for name, _ in pgn.named_parameters()} | {"head.weight"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items())
