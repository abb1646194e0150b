"""Many runs after one another: nothing is computed twice, and what fails ends nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.errors import DataError, InterruptedRunError, TrainingError
from pgn_edge.nn.checkpoint import load_checkpoint
from pgn_edge.nn.vit import Backbone
from pgn_edge.progress import Progress, silent
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.data.samples import Arrays
from pgn_edge.train.data.table import load_data
from pgn_edge.train.loop import predict
from pgn_edge.train.model import HeadModule, PromptedViT
from pgn_edge.train.series import Base, Series, replace_schedule, runs_of
from pgn_edge.train.store import Job, Store

SHORT = Schedule(epochs=2, warm_start=1, batch=5, augment="none")


def job(contender: str, data: Path, **config: object) -> Job:
    known = {"resolution": 16, "library": 8, "head": "zero-shot", **config}
    return Job(contender, replace(TrainConfig(str(data)), **known), SHORT)


def make(store: Store, seeds: int = 1, progress: Progress = silent) -> Series:
    return Series(store, Base(TrainConfig("any"), SHORT, seeds, Execution("cpu")), 9, progress)


class Heard:
    """A listener that counts steps, and may interrupt this very process after one of them."""

    def __init__(self, stop: int = 0) -> None:
        self.steps, self.stop = 0, stop

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        if step == "training":
            self.steps += 1
            if self.steps == self.stop:
                os.kill(os.getpid(), signal.SIGINT)


def test_a_result_that_is_there_is_not_computed_again(bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    store, own = Store(tmp_path).make(), job("padding", bar_folder)
    first = make(store, seeds=2).row("padding", own, bar_folder.name)
    assert [result.job["schedule"]["seed"] for result in first.results] == [0, 1]
    assert not list(store.checkpoints.iterdir()), "states of finished runs are gone"
    heard = Heard()
    again = make(store, seeds=2, progress=heard).row("padding", own, bar_folder.name)
    assert again.results == first.results
    assert heard.steps == 0
    more = make(store, seeds=3, progress=heard).row("padding", own, bar_folder.name)
    assert more.results[:2] == first.results
    assert heard.steps == 9, "three epochs of three steps: the third seed alone"


def test_a_damaged_result_is_computed_again_and_is_the_same(
    bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    store, own = Store(tmp_path).make(), job("pgn", bar_folder)
    (first,) = make(store).row("PGN", own, bar_folder.name).results
    file = store.results / f"{own.name}.json"
    file.write_text(file.read_text()[:-40])
    (again,) = make(store).row("PGN", own, bar_folder.name).results
    assert replace(again, seconds=0) == replace(first, seconds=0)
    assert json.loads(file.read_text())["right"] == dict(first.right)
    assert [path.name for path in store.checkpoints.iterdir()] == [f"{own.name}.pt"], "a checkpoint to export"


@pytest.mark.parametrize("contender", ["random-patch", "pgn"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    contender: str, bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    own = job(contender, bar_folder)
    (whole,) = make(Store(tmp_path / "whole").make()).row("", own, bar_folder.name).results
    store, heard = Store(tmp_path / "torn").make(), Heard(stop=2)
    with pytest.raises(InterruptedRunError, match=r"9 runs, got SIGINT after step 2; start the same command again"):
        make(store, progress=heard).row("", own, bar_folder.name)
    before = store.seconds(own)
    assert before > 0
    assert store.has_state(own)
    assert store.result(own) is None
    (result,) = make(store).row("", own, bar_folder.name).results
    assert replace(result, seconds=0) == replace(whole, seconds=0)
    assert result.seconds > before, "both parts count"
    assert not store.has_state(own)


def test_a_damaged_state_begins_anew(bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    store, own = Store(tmp_path).make(), job("fixed-patch", bar_folder)
    with pytest.raises(InterruptedRunError):
        make(store, progress=Heard(stop=2)).row("", own, bar_folder.name)
    state = store.checkpoint(own).with_suffix(".resume.pt")
    state.write_bytes(state.read_bytes()[:100])
    row = make(store).row("", own, bar_folder.name)
    assert (len(row.results), row.problem) == (1, "")


def test_validation_chooses_the_rate_and_nothing_is_trained_twice(
    bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    store, own, heard = Store(tmp_path).make(), job("cnn", bar_folder, head="linear"), Heard()
    rates = (1e-6, 1.0)
    row = make(store, seeds=2, progress=heard).row("", own, bar_folder.name, rates)
    assert heard.steps == 3 * 9, "two rates with the first seed, one of them with the second too"
    searched = row.results[0].searched
    best = max(searched, key=lambda rate: searched[rate])
    assert len(searched) == 2
    assert [f"{result.job['schedule']['lr']:g}" for result in row.results] == [best, best]
    assert row.results[0].validation == searched[best]
    assert not list(store.checkpoints.iterdir())
    make(store, seeds=2, progress=heard).row("", own, bar_folder.name, rates)
    assert heard.steps == 3 * 9
    make(store, progress=heard).row("", own, bar_folder.name, (1e-6, 1.0, 2.0))
    assert heard.steps > 3 * 9, "another list is another search"


def test_the_rate_is_chosen_on_validation_images_and_never_on_test_images(
    bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    """The classes of the test images are turned, so that the rate that learns most is the worst one there."""
    series, own = make(Store(tmp_path).make()), job("cnn", bar_folder, head="linear")
    data = series.data(str(bar_folder))
    turned = (data.test.labels + 1) % 3
    images = np.stack([data.test.read(index) for index in range(len(data.test))])
    series._data[str(bar_folder)] = replace(data, test=Arrays(images, turned, "turned"))
    own = replace_schedule(own, lr=0.03, epochs=10)
    (result,) = series.row("", own, bar_folder.name, (1e-6, 1.0)).results
    assert result.searched["0.03"] > result.searched["3e-08"]
    assert result.job["schedule"]["lr"] == 0.03
    assert result.validation == result.searched["0.03"]
    assert result.right[bar_folder.name] / result.images[bar_folder.name] < result.validation


def test_a_search_takes_what_is_known_and_removes_no_finished_checkpoint(
    bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    store, own, heard = Store(tmp_path).make(), job("constant", bar_folder, generator="constant", library=None), Heard()
    (first,) = make(store).row("", own, bar_folder.name).results
    row = make(store, progress=heard).row("", own, bar_folder.name, (1.0, 1e-6))
    assert heard.steps == 9, "the other rate alone"
    assert row.results[0].searched["0.003"] == first.validation
    assert store.checkpoint(own).exists()


def test_a_rate_that_diverges_is_not_chosen(bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    own = replace_schedule(job("padding", bar_folder), clip=0.0)
    row = make(Store(tmp_path).make()).row("", own, bar_folder.name, (1e39, 1.0))
    assert row.problem == ""
    assert row.results[0].searched["3e+36"] == 0
    assert row.results[0].job["schedule"]["lr"] == SHORT.lr


def test_a_run_that_fails_says_why_and_ends_no_other(bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    series = make(Store(tmp_path).make())
    bad = replace_schedule(job("padding", bar_folder), clip=0.0, lr=3e36)
    row = series.row("", bad, bar_folder.name)
    assert (row.failed, row.results) == (True, ())
    assert "training: expected a finite loss" in row.problem or "finite weights" in row.problem
    assert series.row("", job("zero-shot", bar_folder), bar_folder.name).problem == ""


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"resolution": 128}, "generator resolution"),
        ({"mixing": "sigmoid", "library_space": "pixel"}, "mixing"),
        ({"generator": "constant", "library": 8, "resolution": None}, "library size"),
        ({"head": "prototypes"}, "a DINO model with its projection head"),
    ],
    ids=["larger than the image", "mixtures beyond legal RGB", "not one entry a prompt", "no such head"],
)
def test_what_cannot_be_is_no_failure(
    config: dict, reason: str, bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    row = make(Store(tmp_path).make()).row("", job("pgn", bar_folder, **config), bar_folder.name)
    assert row.problem.startswith("not possible: ")
    assert reason in row.problem
    assert (row.failed, row.results) == (False, ())


def test_united_data_sets_are_counted_one_by_one(bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    letters = tmp_path / "letters"
    shutil.copytree(bar_folder, letters)
    store, vit = Store(tmp_path / "out").make(), use_tiny_backbone.vit
    own = job("multi-pgn", Path(f"{bar_folder},{letters}"), head="iterative")
    (result,) = make(store).row("", own, "letters").results
    kept = load_checkpoint(store.checkpoint(own))
    model = PromptedViT(vit, kept.pgn, HeadModule(kept.head), kept.geometry)
    for data, shift in ((load_data(str(bar_folder)), 0), (load_data(str(letters)), 3)):
        chosen = predict(model, data.test, vit.spec.preprocess)
        assert result.images[data.name] == len(data.test)
        assert result.right[data.name] == int((chosen == data.test.labels + shift).sum())
    assert set(result.images) == {bar_folder.name, "letters"}


def test_how_many_runs_there_are(bar_folder: Path):
    assert runs_of(job("pgn", bar_folder), 3, (1.0,)) == 3
    assert runs_of(job("pgn", bar_folder), 3, (0.1, 1.0)) == 5
    assert runs_of(job("linear-probe", bar_folder), 3, (0.1, 1.0)) == 1


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="without accelerate launch"):
        Base(TrainConfig("any"), SHORT)


def test_no_seed_is_refused():
    with pytest.raises(TrainingError, match="seeds: expected at least 1, got 0"):
        Base(TrainConfig("any"), SHORT, 0)


def test_a_series_goes_on_only_with_the_data_that_it_began_with(
    bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    folder = tmp_path / "bars"
    shutil.copytree(bar_folder, folder)
    store, own = Store(tmp_path / "runs").make(), job("zero-shot", folder)
    first = make(store).row("zero-shot", own, folder.name)
    assert first.results == make(store).row("zero-shot", own, folder.name).results
    (folder / "0").rename(folder / "3")
    with pytest.raises(DataError, match=r"expected class '0' in place 1, got '1'; choose another folder: -o"):
        make(store).row("zero-shot", own, folder.name)
