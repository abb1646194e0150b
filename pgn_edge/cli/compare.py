"""`pgn-edge compare` and `pgn-edge ablate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgn_edge.cli.console import (
    HEADS,
    json_option,
    print_json,
    print_table,
    progress_bar,
    strict_option,
    weights_option,
)

if TYPE_CHECKING:
    from pgn_edge.train.compare_report import Section
    from pgn_edge.train.recipe import Recipe
    from pgn_edge.train.series import Base

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])
PLACES, BUDGET = ("backbone", "root", "weights", "template"), ("epochs", "warm_start", "batch", "seed")
CONTENDERS = (
    *("zero-shot", "linear-probe", "full-fine-tuning", "padding", "fixed-patch", "random-patch"),
    *("constant", "cnn", "pgn", "multi-pgn"),
)


class _Words(click.ParamType):
    """Words with commas between, each one of `choices`; or positive numbers, where there are no choices."""

    def __init__(self, name: str, choices: Sequence[str] = ()) -> None:
        self.name, self.choices = name, choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """A tuple of strings or of numbers."""
        if isinstance(value, tuple):
            return value
        kind: click.ParamType = click.Choice(self.choices) if self.choices else click.FLOAT
        return tuple(kind.convert(part.strip(), param, ctx) for part in value.split(","))


def _joined(given: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """All words of an option that was given several times, each once."""
    return tuple(dict.fromkeys(chain.from_iterable(given)))


class _NamedHead(click.ParamType):
    """A data set and the head of its prompts."""

    name = "NAME=HEAD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """(data set, head)."""
        data, equals, head = value.rpartition("=")
        if not equals:
            self.fail(f"{value!r} is not NAME=HEAD", param, ctx)
        return data, click.Choice(HEADS).convert(head, param, ctx)


_COMMON = (
    click.option("--data", multiple=True, required=True, help="A data set's name, a folder or a .csv; give it again."),
    click.option("--root", type=click.Path(file_okay=False), help="Folder that --data is looked up in."),
    click.option(
        "--backbone",
        help="builtin, open_clip:ARCHITECTURE/TAG, timm:NAME, torchvision:NAME or dino:NAME.  "
        "[default: the recipe's, or builtin]",
    ),
    weights_option,
    click.option("--template", help="Sentence with {} for the class name, for text heads."),
    click.option("--recipe", help="A recipe's name or a TOML file, for all else that differs from the defaults."),
    click.option("--epochs", type=click.IntRange(min=1), help="With the ViT.  [default: the recipe's, or 40]"),
    click.option(
        "--warm-start",
        type=click.IntRange(min=0),
        help="Passes before these, which all contenders get.  [default: the recipe's, or 20]",
    ),
    click.option("--batch", type=click.IntRange(min=2), help="Images in a step.  [default: the recipe's, or 32]"),
    click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each contender."),
    click.option("--seed", type=click.IntRange(min=0), help="The first seed.  [default: the recipe's, or 0]"),
    click.option("--device", help="cpu, cuda, cuda:1, …  [default: the best there is]"),
    click.option("--workers", type=click.IntRange(min=0), help="Threads that decode images."),
    strict_option,
)


def _common(command: AnyCommand) -> AnyCommand:
    for option in reversed(_COMMON):
        command = option(command)
    return command


@click.command()
@_common
@click.option(
    "--only",
    type=_Words("NAMES", CONTENDERS),
    multiple=True,
    help=f"Contenders, some of {', '.join(CONTENDERS)}; give it again for more.  [default: all]",
)
@click.option("--head", "heads", type=_NamedHead(), multiple=True, help="Head of a data set's prompts; give it again.")
@click.option(
    "--rates",
    type=_Words("FACTORS"),
    multiple=True,
    default=["0.03,0.3,1,3"],
    show_default=True,
    help="Factors to the learning rate; validation chooses one for each contender. One factor: no search.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/compare"),
    show_default=True,
    help="Folder of the results; what is in it is not computed again.",
)
@json_option
def compare(
    output: Path,
    only: tuple[tuple[str, ...], ...],
    heads: tuple[tuple[str, Any], ...],
    rates: tuple[tuple[float, ...], ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Compare a PGN with baselines of the same budget.

    Tables and plots are written. Start the command again to continue.
    """
    from pgn_edge.train.compare import Contest
    from pgn_edge.train.compare import compare as run

    recipe, base = _read(options)
    usual = recipe.config.get("head")
    chosen: dict[str, Any] = {name: usual for name in options["data"] if usual} | dict(heads)
    contest = Contest(options["data"], _joined(only), chosen, _joined(rates))
    with progress_bar() as progress:
        sections = run(contest, base, output, progress)
    _show("compare", "Comparison", sections, output, as_json)


@click.command()
@_common
@click.option("--grid", "grids", multiple=True, required=True, help="OPTION=VALUE,VALUE,…; give it again.")
@click.option("--head", type=click.Choice(HEADS), help="Head of all cells.  [default: the recipe's, or auto]")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/ablate"),
    show_default=True,
    help="Folder of the results; what is in it is not computed again.",
)
@json_option
def ablate(output: Path, grids: tuple[str, ...], head: Any, as_json: bool, **options: Any) -> None:
    """Vary one training option of a PGN at a time.

    Tables and plots are written. Start the command again to continue.
    """
    from pgn_edge.train.ablate import ablate as run
    from pgn_edge.train.ablate import parse_grid

    recipe, base = _read(options)
    parsed = [parse_grid(grid) for grid in grids]
    with progress_bar() as progress:
        sections = run(options["data"], parsed, base, output, progress, head or recipe.config.get("head", "auto"))
    _show("ablate", "Ablations", sections, output, as_json)


def _read(options: dict[str, Any]) -> tuple[Recipe, Base]:
    """The recipe, and what all runs have in common; an option that is typed goes before the recipe."""
    from pgn_edge.train.config import Execution, Schedule, TrainConfig
    from pgn_edge.train.recipe import Recipe, read_recipe
    from pgn_edge.train.series import Base

    recipe = read_recipe(options["recipe"]) if options["recipe"] else Recipe({}, {})
    config, schedule = dict(recipe.config), dict(recipe.schedule)
    for values, names in ((config, PLACES), (schedule, BUDGET)):
        values.update({name: options[name] for name in names if options[name] is not None})
    execution = Execution(options["device"], options["workers"], strict=options["strict"])
    whole = TrainConfig(options["data"][0], **config)
    return recipe, Base(whole, Schedule(**schedule), options["seeds"], execution)


def _show(name: str, title: str, sections: Sequence[Section], output: Path, as_json: bool) -> None:
    from pgn_edge.train.compare_report import BRIEF, HEADER, cells, document, summary

    if as_json:
        print_json(document(title, sections))
    else:
        for section in sections:
            print_table(section.title, HEADER[:BRIEF], [cells(summary(row))[:BRIEF] for row in section.rows])
        click.echo(f"{output / name}.html: tables and plots; {output / name}.md, {output / name}.json: the numbers")
    failed = [row for section in sections for row in section.rows if row.failed]
    if failed:
        click.echo(f"pgn-edge: {failed[0].name} on {failed[0].data} failed: {failed[0].problem}", err=True)
        raise click.exceptions.Exit(1)


COMMANDS = (compare, ablate)
