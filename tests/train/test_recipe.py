"""Recipes: each of the package's makes a run, and a foreign one is refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn_edge.errors import DataError
from pgn_edge.train.config import Schedule, TrainConfig
from pgn_edge.train.recipe import read_recipe, recipe_names


@pytest.mark.parametrize("name", ["paper", "fast", "edge-tiny", "eight-bit-safe", "hosted-api"])
def test_a_recipe_holds_only_what_differs(name: str):
    recipe = read_recipe(name)
    plain = {**TrainConfig("digits").to_json(), **vars(Schedule())}
    made = {**TrainConfig("digits", **recipe.config).to_json(), **vars(Schedule(**recipe.schedule))}
    assert recipe.options()
    assert all(made[key] != plain[key] for key in recipe.options())


def test_no_recipe_is_untested():
    assert recipe_names() == ["edge-tiny", "eight-bit-safe", "fast", "hosted-api", "paper"]


def test_the_papers_schedule():
    schedule = Schedule(**read_recipe("paper").schedule)
    assert (schedule.optimizer, schedule.momentum, schedule.lr, schedule.clip) == ("sgd", 0.9, 0.1, 0)
    assert (schedule.epochs, schedule.warmup_epochs, schedule.warm_start, schedule.augment) == (100, 50, 0, "paper")
    assert read_recipe("paper").config == {"library_std": 0.02}


def test_a_file_of_ones_own(tmp_path: Path):
    (tmp_path / "mine.toml").write_text('lr = 1\nprompts = 4\nlayout = "inset"\nrounded = false\n')
    recipe = read_recipe(tmp_path / "mine.toml")
    assert recipe.config == {"prompts": 4, "layout": "inset", "rounded": False}
    assert recipe.schedule == {"lr": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("epoch = 3", "epoch: expected an option of training, got an unknown one; did you mean epochs?"),
        pytest.param('data = "digits"', "data: expected an option of training"),
        pytest.param("epochs = 1.5", "epochs: expected a whole number, got float"),
        pytest.param("epochs = true", "epochs: expected a whole number, got bool"),
        pytest.param('lr = "fast"', "lr: expected a number, got str"),
        pytest.param("rounded = 1", "rounded: expected true or false, got int"),
        pytest.param("optimizer = 1", "optimizer: expected a string, got int"),
        pytest.param("epochs =", "expected TOML in UTF-8"),
    ],
    ids=["unknown", "of this machine", "part of an epoch", "truth", "word", "number", "no name", "no TOML"],
)
def test_recipes_that_are_refused(tmp_path: Path, text: str, says: str):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)


def test_no_such_recipe():
    with pytest.raises(DataError, match="edge-tiny, eight-bit-safe, fast, hosted-api, paper, or a TOML file"):
        read_recipe("papre")
