"""The loop: it learns, two runs give the same bits, and an interruption leaves no trace."""

from __future__ import annotations

import math
import os
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError, DataError, OutputError, PgnEdgeError, TrainingError
from pgn_edge.left_out import LeftOut
from pgn_edge.nn.generator import ResNet10
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.tensor_file import load_tensors, save_tensors
from pgn_edge.preprocess import Preprocess
from pgn_edge.progress import silent
from pgn_edge.train.config import Execution, Schedule
from pgn_edge.train.data.dataset import DataSet, LabelSpace
from pgn_edge.train.data.samples import Arrays
from pgn_edge.train.distributed import make_accelerator
from pgn_edge.train.loader import TrainLoader
from pgn_edge.train.loop import History, Listeners, accuracy, fit, logits_of, predict
from pgn_edge.train.model import HeadModule, PromptedViT
from pgn_edge.train.pictures import Pictures
from pgn_edge.train.recipe import read_recipe
from pgn_edge.train.run import Run

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
    schedule = replace(SHORT, epochs=6, optimizer=optimizer, augment="none")
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


@pytest.mark.parametrize("changes", [{"seed": 1}, {"augment": "none"}], ids=["seed", "augmentation"])
def test_another_schedule_gives_other_bits(bar_data: DataSet, bar_preprocess: Preprocess, changes: dict[str, Any]):
    models = conv(), conv()
    for model, schedule in zip(models, (SHORT, replace(SHORT, **changes)), strict=True):
        fit(model, bar_data, bar_preprocess, schedule, Listeners())
    assert not same(*models)


def test_the_best_epoch_is_what_stays(bar_data: DataSet, bar_preprocess: Preprocess):
    # Validation labels the wrong way round: the more is learned, the worse it gets.
    wrong = replace(bar_data, validation=Arrays(bar_data.validation.images, 1 - bar_data.validation.labels, "wrong"))
    kept: list[dict[str, Tensor]] = []
    model = linear()
    schedule = replace(SHORT, lr=1e-4, augment="none")
    listeners = Listeners(on_best=lambda history: kept.append(dict(history.best_state)))
    history = fit(model, wrong, bar_preprocess, schedule, listeners)
    assert history.validation[-1] < max(history.validation), "the last epoch is the best: this test proves nothing"
    assert accuracy(model, wrong.validation, bar_preprocess) == max(history.validation)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[-1][name]), name


def test_of_equal_epochs_the_first_is_the_best():
    assert History(validation=[0.5, 0.9, 0.7, 0.9]).best_epoch == 1


def test_a_batch_of_one_does_not_stop_a_small_generator(bar_data: DataSet, bar_preprocess: Preprocess):
    # At 16 pixels the last blocks have one pixel left, and batch norm needs two values.
    odd = replace(bar_data, train=Arrays(bar_data.train.images[:5], bar_data.train.labels[:5], "odd"))
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
    [{"lr": 0.02}, {"epochs": 5}, {"seed": 1}, {"batch": 12}, {"optimizer": "sgd"}, {"augment": "none"}],
    ids=lambda changes: next(iter(changes)),
)
def test_the_state_of_another_schedule_is_refused(
    state: Path, bar_data: DataSet, bar_preprocess: Preprocess, changes: dict[str, Any]
):
    name, value = next(iter(changes.items()))
    says = f"of the run that it is of, {name} {getattr(SHORT, name)}, got {name} {value}; use the same options"
    with pytest.raises(TrainingError, match=re.escape(says)):
        fit(linear(), bar_data, bar_preprocess, replace(SHORT, **changes), Listeners(resume=state))


def test_the_state_of_more_data_is_refused(state: Path, bar_data: DataSet, bar_preprocess: Preprocess):
    more = replace(
        bar_data,
        train=Arrays(*(np.concatenate([a, a]) for a in (bar_data.train.images, bar_data.train.labels)), "more"),
    )
    with pytest.raises(TrainingError, match="expected 24 training images, got 48; bring back the data"):
        fit(linear(), more, bar_preprocess, SHORT, Listeners(resume=state))


def test_the_state_of_a_run_whose_class_was_renamed_is_refused(
    state: Path, bar_data: DataSet, bar_preprocess: Preprocess
):
    labels = tuple(sorted((*bar_data.labels[1:], "zebra")))
    renamed = replace(bar_data, spaces=(replace(bar_data.spaces[0], labels=labels),))
    with pytest.raises(TrainingError, match=r"expected class '.*' in place 1, got '.*'; bring back the data"):
        fit(linear(), renamed, bar_preprocess, SHORT, Listeners(resume=state))


def test_the_state_of_another_model_is_refused(state: Path, bar_data: DataSet, bar_preprocess: Preprocess):
    with pytest.raises(TrainingError, match="this very run"):
        fit(conv(), bar_data, bar_preprocess, SHORT, Listeners(resume=state))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_state_is_refused(state: Path, bar_data: DataSet, bar_preprocess: Preprocess, share: float):
    state.write_bytes(state.read_bytes()[: int(share * state.stat().st_size)])
    with pytest.raises(CheckpointError) as caught:
        fit(linear(), bar_data, bar_preprocess, SHORT, Listeners(resume=state))
    assert str(caught.value).startswith(f"{state}: ")


def with_history(data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**data, "history": {**data["history"], **fields}}


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda data: {}, id="empty"),
        pytest.param(lambda data: {**data, "history": [1.0]}, id="a list for a history"),
        pytest.param(lambda data: {**data, "model": None}, id="no model"),
        pytest.param(lambda data: {**data, "optimizer": {}}, id="no optimiser"),
        pytest.param(lambda data: {**data, "done": "many"}, id="a word for a number"),
        pytest.param(lambda data: {**data, "model": {}}, id="no weights"),
        pytest.param(lambda data: {**data, "losses": [10**400]}, id="a loss of 400 digits"),
        pytest.param(lambda data: with_history(data, is_stale=True), id="another attribute of the history"),
        pytest.param(lambda data: with_history(data, loss=[]), id="a history without a loss"),
        pytest.param(lambda data: with_history(data, validation=None), id="no validation"),
        pytest.param(lambda data: with_history(data, best_state={}), id="no best weights"),
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


@pytest.mark.parametrize(
    ("after", "earlier", "says"),
    [
        pytest.param(4, True, "nan at step 4; lower --lr; {path} keeps epoch 1, the best so far", id="after an epoch"),
        pytest.param(1, True, "nan at step 1; lower --lr; {path} is of an earlier run", id="an earlier run's file"),
        pytest.param(1, False, "nan at step 1; lower --lr; there is no checkpoint yet", id="no file"),
    ],
)
def test_a_run_that_diverges_says_whose_checkpoint_is_left(
    bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path, after: int, earlier: bool, says: str
):
    path = tmp_path / "ckpt.pt"
    if earlier:
        path.write_bytes(b"")
    with pytest.raises(TrainingError) as caught:
        fit(Fuse(after), bar_data, bar_preprocess, SHORT, Listeners(checkpoint=path))
    assert str(caught.value).endswith(says.format(path=path))


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


@pytest.fixture
def make_run(bar_data: DataSet, bar_preprocess: Preprocess) -> Any:
    def make(model: nn.Module, schedule: Schedule) -> Run:
        loader = TrainLoader(Pictures(bar_data.train, bar_preprocess, LeftOut()), schedule)
        return Run(model, loader, make_accelerator("fp32", Execution()), Execution())

    return make


@pytest.mark.parametrize(
    ("done", "rate"),
    [
        pytest.param(0, 1 / 24, id="the first step is a twenty-fourth of two epochs"),
        pytest.param(11, 1 / 2, id="half of the warm-up"),
        pytest.param(23, 1.0, id="the peak"),
        pytest.param(24, 1.0, id="the cosine starts at the peak"),
        pytest.param(42, 0.505, id="half of the cosine"),
        pytest.param(60, 0.01, id="a hundredth at the end"),
    ],
)
def test_warm_up_and_cosine(make_run: Any, done: int, rate: float):
    run = make_run(linear(), Schedule(epochs=5, lr=1.0, warmup_epochs=2, batch=2))
    run.done = done
    assert run.rate() == pytest.approx(rate)


@pytest.mark.parametrize(("done", "rate"), [(42, 0.5), (60, 0.0)], ids=["half of the cosine", "the end"])
def test_the_papers_cosine_ends_at_zero(make_run: Any, done: int, rate: float):
    recipe = read_recipe("paper").schedule
    run = make_run(linear(), Schedule(epochs=5, lr=1.0, lr_end=recipe["lr_end"], warmup_epochs=2, batch=2))
    run.done = done
    assert run.rate() == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.5, 10.0], ids=["none", "half an epoch", "longer than the run"])
def test_rates_are_positive_and_at_most_the_peak(make_run: Any, warmup_epochs: float):
    run = make_run(linear(), Schedule(epochs=3, lr=0.3, warmup_epochs=warmup_epochs, batch=6))
    rates = []
    for step in range(run.steps):
        run.done = step
        rates.append(run.rate())
    assert 0 < min(rates) <= max(rates) <= 0.3 + 1e-12


def test_weight_decay_is_for_matrices_only(make_run: Any):
    matrices, vectors = make_run(conv(), SHORT).optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2, 4}
    assert {p.ndim for p in vectors["params"]} == {1}


def test_sgd_has_momentum_and_no_decay(make_run: Any):
    (group,) = make_run(conv(), replace(SHORT, optimizer="sgd", momentum=0.7)).optimizer.param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.7, False, 0)


# What a step is made of.


def steps_of(model: nn.Module, run: Run) -> nn.Module:
    for parts in run.loader.epoch(0):
        run.step(parts)
    return model


def test_a_step_in_parts_is_the_step_in_one(make_run: Any):
    schedule, models = replace(SHORT, clip=0), (linear(), linear())
    whole = steps_of(models[0], make_run(models[0], schedule))
    parted = steps_of(models[1], make_run(models[1], replace(schedule, accumulate=3)))
    assert not same(whole, parted), "nothing was cut: this test proves nothing"
    for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_gradient_is_shortened_to_the_clip(make_run: Any):
    run = make_run(linear(), replace(SHORT, clip=0.01, optimizer="sgd", lr=1.0, warmup_epochs=0, momentum=0))
    before = [p.detach().clone() for p in run.parameters]
    run.step(next(run.loader.epoch(0)))
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(run.parameters, before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_bf16_trains_and_differs(bar_data: DataSet, bar_preprocess: Preprocess):
    exact, rough = conv(), conv()
    fit(exact, bar_data, bar_preprocess, SHORT)
    history = fit(rough, bar_data, bar_preprocess, replace(SHORT, precision="bf16", epochs=6))
    assert not same(exact, rough)
    assert {p.dtype for p in rough.parameters()} == {torch.float32}
    assert max(history.validation) == 1.0


def test_fp16_needs_a_gpu(bar_data: DataSet, bar_preprocess: Preprocess):
    with pytest.raises(TrainingError, match="fp32 or bf16 on a CPU, got fp16"):
        fit(conv(), bar_data, bar_preprocess, replace(SHORT, precision="fp16"), execution=Execution(device="cpu"))


def test_a_device_that_is_not_there(bar_data: DataSet, bar_preprocess: Preprocess):
    with pytest.raises(TrainingError, match="a device that is there"):
        fit(linear(), bar_data, bar_preprocess, SHORT, execution=Execution(device="no-such-device"))


def test_channels_last_learns_the_same_and_gives_ordinary_weights_back(bar_data: DataSet, bar_preprocess: Preprocess):
    first, last, schedule = conv(), conv(), replace(SHORT, optimizer="sgd")
    fit(first, bar_data, bar_preprocess, schedule)
    history = fit(last, bar_data, bar_preprocess, schedule, execution=Execution(channels_last=True))
    assert all(p.is_contiguous() for p in last.parameters())
    assert all(tensor.is_contiguous() for tensor in history.best_state.values())
    for one, other in zip(first.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_the_compiled_model_is_what_trains(
    bar_data: DataSet, bar_preprocess: Preprocess, monkeypatch: pytest.MonkeyPatch
):
    calls = []

    def compile_model(model: nn.Module) -> Any:
        def forward(image: Tensor) -> Tensor:
            calls.append(len(image))
            logits: Tensor = model(image)
            return logits

        return forward

    monkeypatch.setattr(torch, "compile", compile_model)
    fit(linear(), bar_data, bar_preprocess, replace(SHORT, epochs=1), execution=Execution(compile=True))
    assert calls == [8, 8, 8]


def test_training_ends_where_nothing_gets_better(bar_data: DataSet, bar_preprocess: Preprocess):
    schedule = replace(SHORT, epochs=50, lr=1e-9, patience=2)
    history = fit(linear(), bar_data, bar_preprocess, schedule)
    assert len(history.validation) == 3


@pytest.mark.parametrize(
    ("validation", "patience", "stale"),
    [
        pytest.param([0.5, 0.5, 0.5], 2, True, id="a tie is nothing better"),
        pytest.param([0.5, 0.6, 0.5], 2, False, id="not yet"),
        pytest.param([0.9, 0.1, 0.1, 0.1], 0, False, id="never"),
        pytest.param([], 1, False, id="before the first epoch"),
    ],
)
def test_patience(validation: list[float], patience: int, stale: bool):
    assert History(validation=validation).is_stale(patience) is stale


# The frozen ViT, and who is told.


def test_the_frozen_vit_is_in_no_state(tiny_backbone, tmp_path: Path):
    rng = np.random.default_rng(0)
    split = Arrays(rng.integers(0, 256, (6, 64, 64, 3), np.uint8), np.arange(6) % 2, "noise")
    data = DataSet("noise", (LabelSpace(("0", "1"), "{}"),), split, split, split, {})
    vit, path = tiny_backbone.vit, tmp_path / "state.pt"
    torch.manual_seed(0)
    pgn = PGN(PgnConfig("constant", 4, 4, vit.width, 64))
    model = PromptedViT(vit, pgn, HeadModule(tiny_backbone.zero_shot.head(("0", "1"), "{}")), vit.geometry(4))
    schedule = Schedule(epochs=1, batch=6, augment="none")
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
    assert ", best " in told[-1][3]


def test_before_epoch_comes_once_an_epoch(bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path):
    path, told = tmp_path / "state.pt", []
    with pytest.raises(KilledError):
        fit(linear(), bar_data, bar_preprocess, SHORT, Listeners(stop_at(4), before_epoch=told.append, resume=path))
    fit(linear(), bar_data, bar_preprocess, SHORT, Listeners(before_epoch=told.append, resume=path))
    assert told == [0, 1, 1, 2, 3], "the second epoch was lost with the process, and begins anew"


def test_speed_and_waiting_are_kept(bar_data: DataSet, bar_preprocess: Preprocess):
    history = fit(linear(), bar_data, bar_preprocess, SHORT)
    assert len(history.images_per_s) == len(history.waiting) == 4
    assert min(history.images_per_s) > 0
    assert 0 <= min(history.waiting) <= max(history.waiting) <= 1


def test_curves_for_tensorboard(bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(linear(), bar_data, bar_preprocess, SHORT, execution=Execution(log_dir=tmp_path / "log"))
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    curves = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert set(curves) == {"loss/train", "rate/lr", "accuracy/validation", "time/images_per_s", "time/waiting"}
    assert [step for step, _ in curves["loss/train"]] == list(range(1, 13))
    assert [step for step, _ in curves["accuracy/validation"]] == [3, 6, 9, 12]
    assert [value for _, value in curves["accuracy/validation"]] == pytest.approx(history.validation)


def test_curves_that_cannot_be_written(bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="a folder that can be written"):
        fit(linear(), bar_data, bar_preprocess, SHORT, execution=Execution(log_dir=tmp_path / "file" / "log"))


# Answers.


@dataclass(frozen=True)
class WithHoles:
    """`bars` of which some cannot be read."""

    source: Arrays
    holes: tuple[int, ...]

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        if index in self.holes:
            raise DataError(self.name(index), expected="an image", got="half of one", do="mend it")
        return self.source.read(index)

    def name(self, index: int) -> str:
        return f"bar {index}"


def test_what_cannot_be_read_has_no_answer_and_no_share_in_the_accuracy(bar_data: DataSet, bar_preprocess: Preprocess):
    model, whole = linear(), bar_data.test
    everything = predict(model, whole, bar_preprocess)
    answers = predict(model, WithHoles(whole, (1, 4)), bar_preprocess, batch=5)
    logits, indices = logits_of(model, WithHoles(whole, (1, 4)), bar_preprocess)
    seen = np.setdiff1d(np.arange(12), [1, 4])
    assert answers[[1, 4]].tolist() == [-1, -1]
    assert answers[seen].tolist() == everything[seen].tolist() == logits.argmax(axis=1).tolist()
    assert indices.tolist() == seen.tolist()
    right = float((everything[seen] == whole.labels[seen]).mean())
    assert accuracy(model, WithHoles(whole, (1, 4)), bar_preprocess) == right


def test_nothing_that_can_be_read_is_an_error(bar_data: DataSet, bar_preprocess: Preprocess):
    broken = WithHoles(bar_data.test, tuple(range(12)))
    with pytest.raises(DataError, match="at least one that can be read, got bar 0"):
        accuracy(linear(), broken, bar_preprocess)
    with pytest.raises(DataError, match="at least one that can be read"):
        fit(linear(), replace(bar_data, train=WithHoles(bar_data.train, tuple(range(24)))), bar_preprocess, SHORT)


def test_holes_in_training_are_counted_once_and_refused_if_strict(bar_data: DataSet, bar_preprocess: Preprocess):
    broken = replace(bar_data, train=WithHoles(bar_data.train, (3, 23)))
    left_out = LeftOut()
    fit(linear(), broken, bar_preprocess, SHORT, Listeners(left_out=left_out))
    assert len(left_out) == 2
    with pytest.raises(DataError, match="half of one"):
        fit(linear(), broken, bar_preprocess, SHORT, execution=Execution(strict=True))


# Signals.


def signal_at(last: int, number: signal.Signals) -> Any:
    def listen(step: str, done: int, total: int, note: str = "") -> None:
        if done == last:
            os.kill(os.getpid(), number)

    return listen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("last", [2, 3, 7], ids=["in mid-epoch", "at the end of an epoch", "later"])
def test_a_signal_stops_after_a_step_and_the_rest_is_as_if_nothing_happened(
    bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path, last: int, number: signal.Signals
):
    path, smooth, broken, resumed = tmp_path / "state.pt", conv(), conv(), conv(seed=9)
    told = fit(smooth, bar_data, bar_preprocess, SHORT)
    before = signal.getsignal(number)
    with pytest.raises(TrainingError, match=f"reach step 12, got {number.name} after step {last}.*--resume"):
        fit(broken, bar_data, bar_preprocess, SHORT, Listeners(signal_at(last, number), resume=path))
    assert signal.getsignal(number) is before
    assert load_tensors(path)["done"] == last
    history = fit(resumed, bar_data, bar_preprocess, SHORT, Listeners(resume=path))
    assert same(smooth, resumed)
    assert (history.loss, history.validation) == (told.loss, told.validation)


def test_a_signal_in_the_last_step_loses_nothing(bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path):
    listeners = Listeners(signal_at(12, signal.SIGTERM), resume=tmp_path / "state.pt")
    with pytest.raises(TrainingError, match="after step 12"):
        fit(linear(), bar_data, bar_preprocess, SHORT, listeners)
    assert len(fit(linear(), bar_data, bar_preprocess, SHORT, replace(listeners, progress=silent)).validation) == 4


def test_without_a_file_a_signal_does_what_it_always_does(bar_data: DataSet, bar_preprocess: Preprocess):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(linear(), bar_data, bar_preprocess, SHORT, Listeners(signal_at(2, signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_state_is_saved_as_often_as_asked(bar_data: DataSet, bar_preprocess: Preprocess, tmp_path: Path):
    path = tmp_path / "state.pt"
    listeners = Listeners(stop_at(2), resume=path)
    with pytest.raises(KilledError):
        fit(linear(), bar_data, bar_preprocess, SHORT, listeners, Execution(save_minutes=0))
    assert load_tensors(path)["done"] == 1, "the listener is told before the state is saved"
