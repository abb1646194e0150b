"""The loop: it learns, two runs give the same bits, and an interruption leaves no trace."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError, PgnEdgeError, TrainingError
from pgn_edge.nn.checkpoint import load_tensors, save_tensors
from pgn_edge.nn.generator import ResNet10
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.config import Schedule
from pgn_edge.train.data import DataSet, Split
from pgn_edge.train.loop import History, Listeners, _Run, accuracy, batches, fit
from pgn_edge.train.task import PromptedViT

SHORT = Schedule(epochs=4, batch=8, lr=0.01)


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))


def conv(seed: int = 0) -> nn.Module:
    """With buffers, which must come back too."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * 8 * 8, 2))


class KilledError(Exception):
    """Stands for a lost connection, a closed lid, a kill."""


def stop_at(last: int) -> Any:
    """A listener that interrupts the run after step `last`."""

    def listen(step: str, done: int, total: int, note: str = "") -> None:
        if done == last:
            raise KilledError

    return listen


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


# Learning.


@pytest.mark.parametrize("make", [linear, conv], ids=["linear", "with batch norm"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_learns(bar_data: DataSet, bar_preprocess: Preprocess, make: Any, optimizer: Any):
    model = make()
    schedule = replace(SHORT, epochs=6, optimizer=optimizer, augment=False)
    history = fit(model, bar_data, bar_preprocess, schedule, Listeners())
    assert len(history.loss) == len(history.validation) == 6
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert accuracy(model, bar_data.test, bar_preprocess) == 1.0
    assert not model.training


def test_two_runs_give_the_same_bits(bar_data: DataSet, bar_preprocess: Preprocess):
    models = conv(), conv()
    first, second = (fit(model, bar_data, bar_preprocess, SHORT, Listeners()) for model in models)
    assert same(*models)
    assert (first.loss, first.validation) == (second.loss, second.validation)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"augment": False}], ids=["seed", "augmentation"])
def test_another_schedule_gives_other_bits(bar_data: DataSet, bar_preprocess: Preprocess, changes: dict[str, Any]):
    models = conv(), conv()
    for model, schedule in zip(models, (SHORT, replace(SHORT, **changes)), strict=True):
        fit(model, bar_data, bar_preprocess, schedule, Listeners())
    assert not same(*models)


def test_the_best_epoch_is_what_stays(bar_data: DataSet, bar_preprocess: Preprocess):
    # Validation labels the wrong way round: the more is learned, the worse it gets.
    wrong = replace(bar_data, validation=Split(bar_data.validation.images, 1 - bar_data.validation.labels))
    kept: list[dict[str, Tensor]] = []
    model = linear()
    schedule = replace(SHORT, lr=1e-4, augment=False)
    listeners = Listeners(on_best=lambda history: kept.append(dict(history.best_state)))
    history = fit(model, wrong, bar_preprocess, schedule, listeners)
    assert history.validation[-1] < max(history.validation), "the last epoch is the best: this test proves nothing"
    assert accuracy(model, wrong.validation, bar_preprocess) == max(history.validation)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[-1][name]), name


def test_of_equal_epochs_the_first_is_the_best():
    assert History(validation=[0.5, 0.9, 0.7, 0.9]).best_epoch == 1


# Batches.


@pytest.mark.parametrize("batch", [2, 5, 7, 24, 100])
def test_an_epoch_shows_every_image_once(bar_data: DataSet, bar_preprocess: Preprocess, batch: int):
    schedule = replace(SHORT, batch=batch, augment=False)
    parts = list(batches(bar_data.train, bar_preprocess, schedule, 0))
    assert max(len(label) for _, label in parts) <= batch
    shown = sorted(image.numpy().tobytes() for images, _ in parts for image in images)
    assert shown == sorted(image.tobytes() for image in bar_preprocess.normalise(bar_data.train.images))


def test_each_epoch_has_its_own_order(bar_data: DataSet, bar_preprocess: Preprocess):
    schedule = replace(SHORT, augment=False)
    first, again, second = (
        torch.cat([image for image, _ in batches(bar_data.train, bar_preprocess, schedule, epoch)])
        for epoch in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_batch_of_one_does_not_stop_a_small_generator(bar_data: DataSet, bar_preprocess: Preprocess):
    # At 16 pixels the last blocks have one pixel left, and batch norm needs two values.
    odd = replace(bar_data, train=Split(bar_data.train.images[:5], bar_data.train.labels[:5]))
    history = fit(ResNet10(2, 16), odd, bar_preprocess, replace(SHORT, batch=2, epochs=1), Listeners())
    assert math.isfinite(history.loss[0])


# Interruption and resuming.


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("last", [4, 8, 11], ids=["early in epoch 2", "late in epoch 3", "in the last epoch"])
def test_interrupted_and_resumed_is_as_if_nothing_happened(
    bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path, last: int, optimizer: Any
):
    schedule, path = replace(SHORT, optimizer=optimizer), tmp_path / "state.pt"
    smooth, broken, resumed = conv(), conv(), conv(seed=9)
    told = fit(smooth, bar_data, bar_preprocess, schedule, Listeners())
    with pytest.raises(KilledError):
        fit(broken, bar_data, bar_preprocess, schedule, Listeners(stop_at(last), resume=path))
    history = fit(resumed, bar_data, bar_preprocess, schedule, Listeners(resume=path))
    assert same(smooth, resumed)
    assert (history.loss, history.validation) == (told.loss, told.validation)
    assert list(tmp_path.iterdir()) == [path]


def test_resuming_a_finished_run_gives_its_best_epoch(bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path):
    first, second = conv(), conv(seed=9)
    listeners = Listeners(resume=tmp_path / "state.pt")
    history = fit(first, bar_data, bar_preprocess, SHORT, listeners)
    again = fit(second, bar_data, bar_preprocess, SHORT, listeners)
    assert same(first, second)
    assert again.loss == history.loss


@pytest.fixture
def state(bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path) -> Path:
    """Of a run that was interrupted in its second epoch."""
    path = tmp_path / "state.pt"
    with pytest.raises(KilledError):
        fit(linear(), bar_data, bar_preprocess, SHORT, Listeners(stop_at(5), resume=path))
    return path


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.02}, {"epochs": 5}, {"seed": 1}, {"batch": 12}, {"optimizer": "sgd"}, {"augment": False}],
    ids=lambda changes: next(iter(changes)),
)
def test_the_state_of_another_schedule_is_refused(
    state: Path, bar_data: DataSet, bar_preprocess: Preprocess, changes: dict[str, Any]
):
    with pytest.raises(TrainingError, match="this very run"):
        fit(linear(), bar_data, bar_preprocess, replace(SHORT, **changes), Listeners(resume=state))


def test_the_state_of_more_data_is_refused(state: Path, bar_data: DataSet, bar_preprocess: Preprocess):
    more = replace(
        bar_data, train=Split(*(np.concatenate([a, a]) for a in (bar_data.train.images, bar_data.train.labels)))
    )
    with pytest.raises(TrainingError, match="this very run"):
        fit(linear(), more, bar_preprocess, SHORT, Listeners(resume=state))


def test_the_state_of_another_model_is_refused(state: Path, bar_data: DataSet, bar_preprocess: Preprocess):
    with pytest.raises(TrainingError, match="this very run"):
        fit(conv(), bar_data, bar_preprocess, SHORT, Listeners(resume=state))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_state_is_refused(state: Path, bar_data: DataSet, bar_preprocess: Preprocess, share: float):
    state.write_bytes(state.read_bytes()[: int(share * state.stat().st_size)])
    with pytest.raises(CheckpointError) as caught:
        fit(linear(), bar_data, bar_preprocess, SHORT, Listeners(resume=state))
    assert str(caught.value).startswith(f"{state}: ")


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda data: {}, id="empty"),
        pytest.param(lambda data: {**data, "history": [1.0]}, id="a list for a history"),
        pytest.param(lambda data: {**data, "model": None}, id="no model"),
        pytest.param(lambda data: {**data, "optimizer": {}}, id="no optimiser"),
        pytest.param(lambda data: {**data, "done": "many"}, id="a word for a number"),
    ],
)
def test_a_foreign_state_is_refused(state: Path, bar_data: DataSet, bar_preprocess: Preprocess, edit: Any):
    save_tensors(state, edit(load_tensors(state)))
    with pytest.raises(TrainingError, match="this very run"):
        fit(linear(), bar_data, bar_preprocess, SHORT, Listeners(resume=state))


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2]], ids=["a tensor", "a list"])
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, bar_data: DataSet, bar_preprocess: Preprocess, content: Any
):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(PgnEdgeError):
        fit(linear(), bar_data, bar_preprocess, SHORT, Listeners(resume=tmp_path / "state.pt"))


# Divergence.


class Fuse(nn.Module):
    """Gives NaN from the training step `after` on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.net, self.left = linear(), after

    def forward(self, image: Tensor) -> Tensor:
        self.left -= self.training
        logits: Tensor = self.net(image)
        return logits if self.left >= 0 else logits * math.nan


def test_a_loss_that_is_not_finite_stops_and_keeps_the_best(
    bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path
):
    path, kept = tmp_path / "state.pt", []
    listeners = Listeners(on_best=lambda history: kept.append(history.validation[-1]), resume=path)
    with pytest.raises(TrainingError, match=r"nan at step 4.*lower --lr"):
        fit(Fuse(after=4), bar_data, bar_preprocess, SHORT, listeners)
    assert len(kept) == 1
    assert load_tensors(path)["history"]["validation"] == kept


def test_a_huge_rate_is_divergence(bar_data: DataSet, bar_preprocess: Preprocess):
    with pytest.raises(TrainingError, match="finite"):
        fit(linear(), bar_data, bar_preprocess, replace(SHORT, lr=1e37), Listeners())


class Kink(nn.Module):
    """Its loss is finite; its gradient, a root's at zero, is not."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.shift = linear(), nn.Parameter(torch.zeros(2))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image) + self.shift.square().sqrt()
        return logits


def test_weights_that_the_last_step_of_an_epoch_breaks_are_not_kept(bar_data: DataSet, bar_preprocess: Preprocess):
    kept: list[History] = []
    with pytest.raises(TrainingError, match="finite weights"):
        fit(Kink(), bar_data, bar_preprocess, replace(SHORT, epochs=1, batch=24), Listeners(on_best=kept.append))
    assert kept == []


# The learning rate.


@pytest.mark.parametrize(
    ("done", "rate"),
    [
        pytest.param(0, 1 / 20, id="the first step is a twentieth of two epochs"),
        pytest.param(9, 1 / 2, id="half of the warm-up"),
        pytest.param(19, 1.0, id="the peak"),
        pytest.param(20, 1.0, id="the cosine starts at the peak"),
        pytest.param(35, 0.505, id="half of the cosine"),
        pytest.param(50, 0.01, id="a hundredth at the end"),
    ],
)
def test_warm_up_and_cosine(done: int, rate: float):
    run = _Run(linear(), Schedule(epochs=5, lr=1.0, warmup_epochs=2), epoch_steps=10)
    run.done = done
    assert run._rate() == pytest.approx(rate)


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.5, 10.0], ids=["none", "half an epoch", "longer than the run"])
def test_rates_are_positive_and_at_most_the_peak(warmup_epochs: float):
    run = _Run(linear(), Schedule(epochs=3, lr=0.3, warmup_epochs=warmup_epochs), epoch_steps=4)
    rates = []
    for step in range(run.steps):
        run.done = step
        rates.append(run._rate())
    assert 0 < min(rates) <= max(rates) <= 0.3 + 1e-12


def test_weight_decay_is_for_matrices_only():
    matrices, vectors = _Run(conv(), SHORT, epoch_steps=1).optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2, 4}
    assert {p.ndim for p in vectors["params"]} == {1}


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"warm_start": -1},
        {"batch": 1},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"weight_decay": -0.1},
        {"weight_decay": math.nan},
        {"warmup_epochs": -1.0},
        {"warmup_epochs": math.nan},
        {"optimizer": "adam"},
        {"seed": -1},
        {"seed": 10**16},
    ],
    ids=str,
)
def test_schedules_that_are_refused(changes: dict[str, Any]):
    with pytest.raises(TrainingError):
        Schedule(**changes)


# The frozen ViT, and who is told.


def test_the_frozen_vit_is_in_no_state(tiny_backbone, tmp_path: Path):
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (6, 64, 64, 3), np.uint8), np.arange(6) % 2)
    data = DataSet("noise", ("0", "1"), "{}", split, split, split)
    vit, path = tiny_backbone.vit, tmp_path / "state.pt"
    torch.manual_seed(0)
    pgn = PGN(PgnConfig("constant", 4, 4, vit.width, 64))
    model = PromptedViT(vit, pgn, tiny_backbone.zero_shot.head(("0", "1"), "{}"), vit.geometry(4))
    schedule = Schedule(epochs=1, batch=6, augment=False)
    history = fit(model, data, vit.spec.preprocess, schedule, Listeners(resume=path))
    stored = load_tensors(path)
    for names in (history.best_state, stored["model"]):
        assert "pgn.library" in names
        assert not [name for name in names if name.startswith("vit.")]
    # One group of matrices and one of vectors; only the library learns.
    assert sum(len(group["params"]) for group in stored["optimizer"]["param_groups"]) == 1


def test_every_step_is_told(bar_data: DataSet, bar_preprocess: Preprocess):
    told = []
    fit(linear(), bar_data, bar_preprocess, SHORT, Listeners(lambda *what: told.append(what), title="lesson"))
    assert [(step, done, total) for step, done, total, _ in told] == [("lesson", done, 12) for done in range(1, 13)]
    assert all(note.startswith("loss ") for *_, note in told)
    assert "validation" in told[-1][3]
