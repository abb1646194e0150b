"""Recipes: small TOML files that hold what differs from the defaults of `TrainConfig` and `Schedule`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pgn_edge.documents import read_toml
from pgn_edge.errors import DataError
from pgn_edge.train.config import Schedule, TrainConfig

FOLDER = Path(__file__).with_name("recipes")
PLACES = ("data", "root", "weights")  # of this machine, and so of no recipe
NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false"}


@dataclass(frozen=True)
class Recipe:
    """What differs from the defaults.

    Args:
        config: fields of `TrainConfig`.
        schedule: fields of `Schedule`.
    """

    config: Mapping[str, Any]
    schedule: Mapping[str, Any]

    def options(self) -> dict[str, Any]:
        """All of it, by name."""
        return {**self.config, **self.schedule}


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(source: str | Path) -> Recipe:
    """Read and check a recipe.

    Args:
        source: a name of `recipe_names`, or the path of a TOML file.

    Raises:
        DataError: no such recipe, no TOML, or a key that is unknown or of another type. The message names the key.
    """
    known = FOLDER / f"{source}.toml"
    path = known if str(source) in recipe_names() else Path(source)
    values = _load(path)
    config = {field.name: str(field.type) for field in fields(TrainConfig) if field.name not in PLACES}
    schedule = {field.name: str(field.type) for field in fields(Schedule)}
    kinds = {**config, **schedule}
    for key, value in values.items():
        if key not in kinds:
            nearest = get_close_matches(key, kinds, 1, 0)[0]
            raise DataError(
                f"{path}: {key}", expected="an option of training", got="an unknown one", do=f"did you mean {nearest}?"
            )
        _require_kind(f"{path}: {key}", value, kinds[key])
    return Recipe(
        {key: value for key, value in values.items() if key in config},
        {key: value for key, value in values.items() if key in schedule},
    )


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        names = ", ".join(recipe_names())
        expected = f"{names}, or a TOML file"
        raise DataError("recipe", expected=expected, got=f"{str(path)!r}: no such file", do="check --recipe")
    return read_toml(path, DataError, "a recipe")


def _require_kind(where: str, value: Any, kind: str) -> None:
    """Check against an annotation such as `int | None`; a name of a choice is a string, and its class checks it."""
    kind = kind.removesuffix(" | None")
    wanted = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(kind, (str,))
    if type(value) not in wanted:  # a truth value is a whole number to Python
        raise DataError(
            where, expected=NAMES.get(kind, "a string"), got=type(value).__name__, do="change it in the recipe"
        )
