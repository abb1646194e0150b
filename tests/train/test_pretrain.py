"""Pre-training of `builtin` in miniature, and the weights that came of it in full."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load, load_file

import pgn_edge.train.curriculum
import pgn_edge.train.pretrain
from pgn_edge.errors import CheckpointError
from pgn_edge.nn.builtin import CHARACTERS, WEIGHTS_SHA256, CharacterNet, load_builtin
from pgn_edge.nn.vit import Backbone
from pgn_edge.train.curriculum import Curriculum, Journal, Recipe, Stage, rate_at, train
from pgn_edge.train.glyphs import load_bank, render_batch
from pgn_edge.train.pretrain import Teacher, main, pretrain

RECIPE = Recipe(seed=3, steps=2, teacher_steps=2, search_steps=1, rate=1e-3)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few images to measure on and small batches; pre-training also takes torch's threads away."""
    for name, value in {"VALIDATION": 16, "TEACHER_BATCH": 8, "STUDENT_BATCH": 8}.items():
        monkeypatch.setattr(pgn_edge.train.pretrain, name, value)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# The command.


@pytest.mark.usefixtures("_small")
def test_the_command_searches_a_rate_and_writes_weights_and_facts(tmp_path: Path):
    output = tmp_path / "net.safetensors"
    options = ["--steps", "1", "--teacher-steps", "1", "--search-steps", "1"]
    done = CliRunner().invoke(main, ["-o", str(output), *options], catch_exceptions=False)
    assert done.exit_code == 0
    facts = json.loads(output.with_suffix(".json").read_text())
    assert facts["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert facts["size_bytes"] == output.stat().st_size
    assert set(facts["rate_search"]) == {"0.0005", "0.001", "0.002"}
    assert facts["rate"] == float(max(facts["rate_search"], key=facts["rate_search"].get))
    assert facts["patch_condition_number"] < 10, "the projection starts orthogonal"
    for scores in (facts["teacher"], facts["half_strength"], facts["full_strength"]):
        assert len(scores) == 6
        assert all(0 <= score <= 1 for score in scores.values())
    assert not set(facts["fonts"]) & set(facts["held_out_fonts"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"net.safetensors", "net.json", "net.state.pt"}
    net = CharacterNet()
    net.load_state_dict({name: tensor.float() for name, tensor in load_file(output).items()})


@pytest.mark.usefixtures("_small")
def test_going_on_after_the_teacher_gives_the_same_weights(tmp_path: Path):
    first, second, third = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "third"))
    pretrain(first, RECIPE)
    # What lies on the disk when a run is killed before the ViT's first entry.
    state = torch.load(first.with_suffix(".state.pt"), weights_only=True)
    del state["student"]
    torch.save(state, second.with_suffix(".state.pt"))
    pretrain(second, RECIPE)
    assert second.read_bytes() == first.read_bytes()
    # And the teacher is really taken from it: with another one, other weights come out.
    state["teacher"]["model"]["classify.bias"] += torch.arange(62.0)
    torch.save(state, third.with_suffix(".state.pt"))
    pretrain(third, RECIPE)
    assert third.read_bytes() != first.read_bytes()


@pytest.mark.parametrize(
    "recipe",
    [Recipe(4, 2, 2, 1, 1e-3), Recipe(3, 5, 2, 1, 1e-3), Recipe(3, 2, 2, 1, None)],
    ids=["another seed", "more steps", "a rate to search"],
)
def test_the_journal_of_another_recipe_is_refused(tmp_path: Path, recipe: Recipe):
    path = tmp_path / "net.state.pt"
    Journal(path, RECIPE).save("teacher", {"step": 1})
    assert Journal(path, RECIPE).data["teacher"] == {"step": 1}
    with pytest.raises(CheckpointError, match="delete the file") as caught:
        Journal(path, recipe)
    assert str(caught.value).startswith(f"{path}: ")


class KilledError(Exception):
    """Stands for a kill."""


def teach(path: Path, seed: int, last: int = 6) -> Teacher:
    """Train a teacher for six steps, or up to an interruption after step `last`."""
    torch.manual_seed(seed)
    teacher, calls = Teacher(), 0

    def objective(images: torch.Tensor, labels: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        if calls > 2 * last:  # two shards in each step
            raise KilledError
        return teacher.objective(images, labels)

    stage = Stage(1, "teacher", 6, 1e-3, 8, (0.1, 0.0))
    train(teacher, objective, stage, RECIPE.seed, Journal(path, RECIPE))
    return teacher


@pytest.mark.usefixtures("_small")
def test_a_stage_that_was_interrupted_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pgn_edge.train.curriculum, "EPOCH", 1)  # a journal entry every four steps
    smooth = teach(tmp_path / "smooth.pt", seed=2)
    with pytest.raises(KilledError):
        teach(tmp_path / "broken.pt", seed=2, last=5)
    assert torch.load(tmp_path / "broken.pt", weights_only=True)["teacher"]["step"] == 4
    resumed = teach(tmp_path / "broken.pt", seed=1)
    assert torch.load(tmp_path / "broken.pt", weights_only=True)["teacher"]["step"] == 6
    for (name, one), other in zip(smooth.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_rate_of_a_stage():
    stage = Stage(1, "x", 100, 2.0, 8, (0.1, 0.5))
    assert rate_at(stage, 0) == pytest.approx(0.4)
    assert rate_at(stage, 4) == rate_at(stage, 5) == pytest.approx(2.0)
    assert 0 < rate_at(stage, 99) < 0.01


def test_the_curriculum_grows_only_behind_its_gate():
    curriculum = Curriculum(Stage(1, "x", 100, 1.0, 8, (0.4, 0.5)))
    curriculum.grow()
    assert curriculum.strength == 0
    for _ in range(100):
        curriculum.update(0.1, 1.0)
    for wanted in (0.4, 0.8, 1.0, 1.0):
        curriculum.grow()
        assert curriculum.strength == pytest.approx(wanted)


# The packaged weights.


@pytest.fixture(scope="module")
def data() -> bytes:
    return resources.files("pgn_edge.nn").joinpath("builtin.safetensors").read_bytes()


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    text = resources.files("pgn_edge.nn").joinpath("builtin.json").read_text()
    return json.loads(text)


@pytest.fixture(scope="module")
def builtin() -> Backbone:
    return load_builtin()


def test_the_weights_are_those_of_the_release(data: bytes, facts: dict[str, Any]):
    assert hashlib.sha256(data).hexdigest() == WEIGHTS_SHA256 == facts["sha256"]
    assert len(data) == facts["size_bytes"] <= 6 << 20


def test_the_weights_are_small_and_finite(data: bytes, facts: dict[str, Any]):
    tensors = load(data)
    assert sum(tensor.numel() for tensor in tensors.values()) == facts["parameters"] <= 3_000_000
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_the_projection_can_be_inverted_and_is_well_conditioned(builtin: Backbone, facts: dict[str, Any]):
    weight, bias = builtin.vit.projection()
    assert weight.shape == (128, 192)
    assert np.linalg.matrix_rank(weight) == 128
    assert np.linalg.cond(weight) == pytest.approx(facts["patch_condition_number"], rel=1e-6)
    assert np.linalg.cond(weight) < 100
    assert not bias.any()


@pytest.mark.parametrize(
    ("classes", "strength", "least"),
    [pytest.param(10, 0.5, 0.95, id="digits"), pytest.param(62, 0.5, 0.75, id="all characters, look-alikes too")],
)
def test_builtin_reads_fonts_that_it_has_never_seen(builtin: Backbone, classes: int, strength: float, least: float):
    images, labels = render_batch(load_bank(held_out=True), np.random.default_rng(7), 300, strength, classes)
    head = builtin.zero_shot.head(tuple(CHARACTERS[:classes]), "{}")
    with torch.no_grad():
        embedding = builtin.vit(torch.from_numpy(builtin.vit.spec.preprocess.normalise(images))).numpy()
    assert (head.logits(embedding).argmax(axis=1) == labels).mean() >= least
