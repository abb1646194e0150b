"""What a run is made of: values that make no sense are refused by name, and defaults that the command line shares."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import Any

import pytest

from pgn_edge.cli.train import train
from pgn_edge.errors import TrainingError
from pgn_edge.train.config import Execution, Schedule, TrainConfig


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"warm_start": -1},
        {"batch": 1},
        {"accumulate": 0},
        {"accumulate": 17},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"momentum": 1.0},
        {"momentum": math.nan},
        {"weight_decay": -0.1},
        {"weight_decay": math.nan},
        {"warmup_epochs": -1.0},
        {"warmup_epochs": math.nan},
        {"clip": -1.0},
        {"clip": math.nan},
        {"patience": -1},
        {"optimizer": "adam"},
        {"augment": "heavy"},
        {"precision": "int8"},
        {"seed": -1},
        {"seed": 10**16},
    ],
    ids=str,
)
def test_schedules_that_are_refused(changes: dict[str, Any]):
    name, value = next(iter(changes.items()))
    with pytest.raises(TrainingError) as caught:
        Schedule(**changes)
    assert caught.value.subject == name
    assert str(value) in caught.value.got


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_spreads_that_are_refused(std: float):
    with pytest.raises(TrainingError, match="library_std"):
        TrainConfig("digits", library_std=std)


@pytest.mark.parametrize("changes", [{"workers": -1}, {"save_minutes": -1.0}, {"save_minutes": math.nan}], ids=str)
def test_executions_that_are_refused(changes: dict[str, Any]):
    with pytest.raises(TrainingError, match=next(iter(changes))):
        Execution(**changes)


@pytest.mark.parametrize("kind", [TrainConfig, Schedule, Execution], ids=lambda kind: kind.__name__)
def test_the_command_line_has_every_option_and_the_same_defaults(kind: type):
    parsed = train.make_context("train", ["--data", "x"]).params
    for field in fields(kind):
        assert field.name in parsed, field.name
        if field.default is not MISSING:
            assert parsed[field.name] == field.default, field.name
