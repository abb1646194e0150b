"""A CSV of images: `path,label` or `path,label,split`, one row an image."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.labels import read_labels
from pgn_edge.train.data.dataset import CUT_NOTE, TEST_SHARE, Parts, cut, only_validation
from pgn_edge.train.data.samples import Files
from pgn_edge.train.data.splits import SPELLINGS, spellings, split_of

COLUMNS = ("path", "label", "split")
PROBED = 100  # rows that are looked up to find out what the paths are relative to


@dataclass(frozen=True)
class _Row:
    number: int
    path: str
    label: str
    split: str


def read_csv(path: Path, root: Path, white: int | None = None) -> Parts:
    """List the images of a CSV.

    Args:
        path: UTF-8 with a header of `path`, `label` and perhaps `split` in any order, splits in any common spelling.
            Labels are names; with a `labels.txt` beside the file they may be its names or integers, counted from 0.
        root: folder that the paths may be relative to, if they are not to the CSV's own.
        white: Value of white in files of 16 bits a channel; None as for `read_image`.

    Raises:
        DataError: not such a file, a row that is incomplete or says an image a second time, or a label out of range.
            Images that are missing are found when they are read.
    """
    rows = _rows(path)
    names = path.parent / "labels.txt"
    labels = read_labels(names) if names.is_file() else tuple(sorted({row.label for row in rows}))
    if len(labels) < 2:
        raise _bad(path, "labels of at least two classes", repr(labels[0]), "add images of other classes")
    number = _numbering(path, labels, names.is_file())
    base = _base([path.parent, root], rows)

    _require_once(path, base, rows)

    def files(chosen: list[_Row]) -> Files:
        return Files([base / row.path for row in chosen], np.array([number(row) for row in chosen], np.int64), white)

    if not rows[0].split:
        train, test = cut(files(rows), TEST_SHARE)
        return Parts(labels, train, test, note=CUT_NOTE)
    groups = {part: files([row for row in rows if row.split == part]) for part in SPELLINGS}
    validation = groups["validation"] if len(groups["validation"]) else None
    if not len(groups["train"]):
        raise _bad(path, "rows of the split train", "none", "mark some as train, or leave the column out")
    if len(groups["test"]):
        return Parts(labels, groups["train"], groups["test"], validation)
    if validation is None:
        raise _bad(path, "rows of the split test", "none", "mark some as test, or leave the column out")
    return only_validation(Parts(labels, groups["train"], validation), "the split validation")


def _rows(path: Path) -> list[_Row]:
    rows: list[_Row] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)  # path, "label" is written by hand
            columns = _columns(path, next(reader, []))
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                rows.append(_row(path, columns, cells, reader.line_num))
    except UnicodeDecodeError as exc:
        raise _bad(path, "text in UTF-8", f"{exc.reason} at byte {exc.start}", "save it as UTF-8") from exc
    except (OSError, csv.Error) as exc:
        raise _bad(path, "a CSV that can be read", str(exc), "check the file") from exc
    if not rows:
        raise _bad(path, "rows of images", "a header alone", "add rows")
    return rows


def _require_once(path: Path, base: Path, rows: list[_Row]) -> None:
    """Refuse a file that two rows name, also where they spell its path in two ways."""
    first: dict[str, _Row] = {}
    for row in rows:
        file = os.path.normpath(base / row.path)
        before = first.setdefault(file, row)
        if before is not row:
            labels = "" if before.label == row.label else f" as {before.label!r} and {row.label!r}"
            got = f"{row.path!r} in rows {before.number} and {row.number}{labels}"
            raise _bad(path, "each image once", got, "remove one of them")


def _columns(path: Path, header: list[str]) -> tuple[str, ...]:
    columns = tuple(name.strip().lower() for name in header)
    if sorted(columns) not in (sorted(COLUMNS), sorted(COLUMNS[:2])):
        raise _bad(path, "the header path,label or path,label,split", repr(",".join(header)), "mend the first row")
    return columns


def _row(path: Path, columns: tuple[str, ...], cells: list[str], number: int) -> _Row:
    where = f"{path}, row {number}"
    if len(cells) != len(columns):
        do = 'put quotes around a cell with a comma: "a, b.png"'
        raise _bad(where, f"{len(columns)} cells", str(len(cells)), do)
    values = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    blank = next((name for name in columns if not values[name]), None)
    if blank is not None or "\0" in values["path"]:
        raise _bad(where, f"a {blank or 'path'}", repr(values[blank or "path"]), "fill it in, or remove the row")
    split = values.get("split", "")
    if split and split_of(split) is None:
        raise _bad(where, f"a split such as {', '.join(SPELLINGS)}", repr(split), f"write one of {spellings()}")
    return _Row(number, values["path"], values["label"], split_of(split) or "")


def _numbering(path: Path, labels: tuple[str, ...], listed: bool) -> Callable[[_Row], int]:
    """Row -> class index; an integer counts as one only where the classes are listed."""
    index = {label: number for number, label in enumerate(labels)}
    unclear = [label for label, number in index.items() if label.isdecimal() and label != str(number)]
    if listed and unclear:
        raise _bad(
            path.parent / "labels.txt",
            "no name that is a number, unless it is that of its line, counted from 0",
            repr(unclear[0]),
            "write names such as 'class 7'",
        )

    def number(row: _Row) -> int:
        if not listed:
            return index[row.label]
        try:
            found = int(row.label) if row.label.lstrip("-").isdecimal() else index.get(row.label, -1)
        except ValueError:  # more digits than Python takes, or more than one sign
            found = -1
        if not 0 <= found < len(labels):
            raise _bad(
                f"{path}, row {row.number}",
                f"a label from 0 to {len(labels) - 1} or a name of labels.txt",
                repr(row.label),
                "mend the row, or labels.txt",
            )
        return found

    return number


def _base(folders: list[Path], rows: list[_Row]) -> Path:
    """The first folder in which one of the first rows exists; the CSV's own where none does."""
    probed = [row.path for row in rows[:PROBED] if not Path(row.path).is_absolute()]
    return next((folder for folder in folders if any((folder / each).is_file() for each in probed)), folders[0])


def _bad(subject: str | Path, expected: str, got: str, do: str) -> DataError:
    return DataError(str(subject), expected=expected, got=got, do=do)
