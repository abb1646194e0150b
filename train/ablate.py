"""`pgn-edge ablate`: one option varied at a time, around a common default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from pgn_edge.errors import DataError, TrainingError
from pgn_edge.progress import Progress, silent
from pgn_edge.train.compare import complete, require_single
from pgn_edge.train.compare_report import Section, write_report
from pgn_edge.train.config import Schedule, TrainConfig
from pgn_edge.train.heads import HeadOption, resolve_head
from pgn_edge.train.recipe import PLACES
from pgn_edge.train.series import Base, Row, Series, runs_of
from pgn_edge.train.store import Job, Store

FIXED = (*PLACES, "backbone", "template", "seed")  # the same in all cells


@dataclass(frozen=True)
class Grid:
    """One option and the values that it takes.

    Args:
        field: of `TrainConfig` or `Schedule`.
        values: each once, of the field's type.
    """

    field: str
    values: tuple[Any, ...]


def parse_grid(text: str) -> Grid:
    """Read `prompts=1,2,4`; an empty value or `none` stands for the default that depends on the backbone.

    Raises:
        DataError: no such option, or a value of another type, or one that is given twice.
    """
    name, equals, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    kinds = {**get_type_hints(TrainConfig), **get_type_hints(Schedule)}
    known = [each for each in kinds if each not in FIXED]
    if not equals or name not in known:
        nearest = get_close_matches(name, known, 1, 0)[0]
        raise DataError(
            f"--grid {text}", expected="OPTION=VALUE,VALUE", got=repr(name), do=f"did you mean {nearest}=…?"
        )
    values = tuple(_parse(f"--grid {text}", value.strip(), kinds[name]) for value in rest.split(","))
    if len(set(values)) < len(values):
        raise DataError(f"--grid {text}", expected="each value once", got=rest, do="leave one out")
    return Grid(name, values)


def ablate(
    data: Sequence[str],
    grids: Sequence[Grid],
    base: Base,
    output: Path,
    progress: Progress = silent,
    head: HeadOption = "auto",
) -> list[Section]:
    """Run what is not there yet, and write `ablate.json`, `ablate.md` and `ablate.html`.

    Args:
        data: names of data sets.
        grids: what varies; all else is as in `base`.
        base: backbone, PGN, budget and seeds; all cells have its learning rate, unless they vary it.
        output: folder of the results, made if it is not there; it may be that of a comparison.
        progress: listener.
        head: Head of all cells that do not vary it; `auto` for the one that is found for each data set.

    Returns:
        A table for each grid and data set. A cell that cannot be has a row that says why.

    Raises:
        DataError: data that cannot be read.
        CheckpointError: the backbone cannot be loaded.
        TrainingError: a value outside of its range, or interrupted; the same command goes on.
        OutputError: the folder cannot be written.
    """
    if not data or not grids:
        raise TrainingError("ablation", expected="data sets and grids", got="none", do="give --data and --grid")
    series = Series(Store(output), base, 0, progress)
    plan: list[tuple[str, str, Job]] = []
    for name in data:
        require_single(series.data(name))
        chosen = resolve_head(head, series.backbone, series.data(name))
        usual = Job("pgn", replace(base.config, data=name, head=chosen), base.schedule)
        default = _completed(usual, series).name
        for grid in grids:
            for value in grid.values:
                job = _completed(_vary(usual, grid.field, value), series)
                label = "none" if value is None else str(value)
                plan.append((f"{grid.field} on {name}", f"{label} (default)" if job.name == default else label, job))
    unique = {job.name: job for _, _, job in plan}
    series.total = sum(runs_of(job, base.seeds, (1.0,)) for job in unique.values())
    series.store.make()  # not before: what is refused leaves nothing behind
    rows: dict[str, Row] = {}
    sections: dict[str, list[Row]] = {title: [] for title, _, _ in plan}
    for title, label, job in plan:
        if job.name not in rows:
            rows[job.name] = series.row(label, job, series.data(job.config.data).name)
        sections[title].append(replace(rows[job.name], name=label))
    tables = [Section(title, tuple(found)) for title, found in sections.items()]
    write_report("ablate", "Ablations", tables, output)
    return tables


def _vary(job: Job, name: str, value: Any) -> Job:
    if name in {field.name for field in fields(Schedule)}:
        return replace(job, schedule=replace(job.schedule, **{name: value}))
    changes = {name: value}
    if changes == {"generator": "constant"}:
        changes["library"] = None  # one entry for each prompt, whatever the others have
    return replace(job, config=replace(job.config, **changes))


def _completed(job: Job, series: Series) -> Job:
    head = resolve_head(job.config.head, series.backbone, series.data(job.config.data))
    return replace(job, config=complete(replace(job.config, head=head), series.backbone))


def _parse(where: str, value: str, kind: Any) -> Any:
    """A value of an annotation such as `int`, `int | None` or `Literal["a", "b"]`."""
    kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    if NoneType in kinds and value in ("", "none"):
        return None
    kind = kinds[0]
    choices = {"true": True, "false": False} if kind is bool else {name: name for name in get_args(kind)}
    if choices:
        if value not in choices:
            raise DataError(where, expected=" or ".join(choices), got=repr(value), do="choose from these")
        return choices[value]
    try:
        return kind(value)
    except ValueError as exc:
        expected = "whole numbers" if kind is int else "numbers"
        raise DataError(where, expected=expected, got=repr(value), do="write them with commas between") from exc
