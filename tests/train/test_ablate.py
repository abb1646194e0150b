"""Ablations: one option varied at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pgn_edge.errors import DataError, TrainingError
from pgn_edge.nn.vit import Backbone
from pgn_edge.train.ablate import Grid, ablate, parse_grid
from pgn_edge.train.compare import Contest, compare
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.series import Base

SHORT = Schedule(epochs=1, warm_start=0, batch=9, augment="none")
BASE = Base(TrainConfig("any", resolution=16, library=8), SHORT, 1, Execution("cpu"))


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ("prompts=1,2,16", Grid("prompts", (1, 2, 16))),
        ("library = none, 0, 8", Grid("library", (None, 0, 8))),
        ("library-space=token,pixel", Grid("library_space", ("token", "pixel"))),
        ("library_std=,0.02", Grid("library_std", (None, 0.02))),
        ("rounded=true,false", Grid("rounded", (True, False))),
        ("head=linear,tuned", Grid("head", ("linear", "tuned"))),
        ("lr=1e-3,0.01", Grid("lr", (0.001, 0.01))),
        ("prompts=none", Grid("prompts", (None,))),
        ("optimizer=sgd", Grid("optimizer", ("sgd",))),
    ],
    ids=[
        *("whole numbers", "the default has no number", "a dash for a line", "an empty value", "truth values"),
        *("a head", "of the schedule", "what fills whole rows", "one alone"),
    ],
)
def test_grids(text: str, grid: Grid):
    assert parse_grid(text) == grid


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("promts=1", "expected OPTION=VALUE,VALUE, got 'promts'; did you mean prompts=…"),
        ("prompts", "expected OPTION=VALUE,VALUE"),
        ("epochs=", "expected whole numbers, got ''"),
        ("prompts=1.5", "expected whole numbers, got '1.5'"),
        ("lr=fast", "expected numbers, got 'fast'"),
        ("generator=resnet10,resnet11", "expected resnet10 or resnet18 or mlp or constant, got 'resnet11'"),
        ("rounded=yes", "expected true or false, got 'yes'"),
        ("prompts=4,4", "expected each value once, got 4,4"),
        ("seed=1,2", "expected OPTION=VALUE,VALUE, got 'seed'"),
        ("backbone=builtin", "expected OPTION=VALUE,VALUE, got 'backbone'"),
        ("data=digits", "expected OPTION=VALUE,VALUE, got 'data'"),
    ],
    ids=[
        *("misspelt", "no values", "an empty one", "a fraction", "a word", "no such generator", "no truth value"),
        *("twice", "seeds are repeated in each cell", "another backbone", "another data set"),
    ],
)
def test_refused_grids(text: str, reason: str):
    with pytest.raises(DataError, match=reason):
        parse_grid(text)


def test_grids_share_the_default_and_what_cannot_be_says_so(
    bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    told: list[tuple[int, int]] = []

    def listen(step: str, done: int, total: int, note: str = "") -> None:
        if step == "runs":
            told.append((done, total))

    grids = [
        Grid("resolution", (16, 128)),
        Grid("generator", ("resnet10", "constant")),
        Grid("lr", (SHORT.lr, 0.01)),
    ]
    sections = ablate([str(bar_folder)], grids, BASE, tmp_path, listen)
    assert [section.title for section in sections] == [f"{grid.field} on {bar_folder}" for grid in grids]
    names = [[row.name for row in section.rows] for section in sections]
    assert names == [["16 (default)", "128"], ["resnet10 (default)", "constant"], ["0.003 (default)", "0.01"]]
    assert sections[0].rows[0].results == sections[1].rows[0].results == sections[2].rows[0].results
    assert told[-1] == (4, 4)
    assert len(list((tmp_path / "results").iterdir())) == 3
    impossible = sections[0].rows[1]
    assert impossible.problem.startswith("not possible: generator resolution: expected at most the image width 64")
    assert not impossible.failed
    assert sections[1].rows[1].results[0].parameters == 16 * 128
    assert sections[2].rows[1].results[0].job["schedule"]["lr"] == 0.01
    document = json.loads((tmp_path / "ablate.json").read_text())
    assert [row["name"] for row in document["sections"][0]["rows"]] == names[0]
    assert {path.name for path in tmp_path.glob("ablate.*")} == {"ablate.json", "ablate.md", "ablate.html"}


def test_the_default_is_the_pgn_of_a_comparison(bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    (compared,) = compare(Contest((str(bar_folder),), ("pgn",), rates=(1.0,)), BASE, tmp_path)
    (varied,) = ablate([str(bar_folder)], [Grid("prompts", (16,))], BASE, tmp_path)
    assert varied.rows[0].results == compared.rows[0].results


def test_constant_prompts_get_the_passes_of_the_warm_start_too(
    bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    told: list[int] = []

    def listen(step: str, done: int, total: int, note: str = "") -> None:
        if step == "training":
            told.append(total)

    base = replace(BASE, schedule=replace(SHORT, warm_start=2))
    ablate([str(bar_folder)], [Grid("generator", ("constant",))], base, tmp_path, listen)
    assert set(told) == {6}, "three epochs of two steps"


def test_a_value_out_of_range_is_refused_before_anything_runs(
    bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    with pytest.raises(TrainingError, match="epochs: expected at least 1, got 0"):
        ablate([str(bar_folder)], [Grid("prompts", (8,)), Grid("epochs", (0,))], BASE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_vary_is_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="give --data and --grid"):
        ablate(["digits"], [], BASE, tmp_path)
