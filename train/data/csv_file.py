"""A CSV of images: `path,label` or `path,label,split`, one row an image."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.labels import read_labels
from pgn_edge.train.data.dataset import TEST_SHARE, Parts, cut
from pgn_edge.train.data.samples import Files

COLUMNS = ("path", "label", "split")
SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
PROBED = 100  # rows that are looked up to find out what the paths are relative to


@dataclass(frozen=True)
class _Row:
    number: int
    path: str
    label: str
    split: str


def read_csv(path: Path, root: Path) -> Parts:
    """List the images of a CSV.

    Args:
        path: UTF-8 with a header of `path`, `label` and perhaps `split` (train, val or validation, test) in any order.
            Labels are names; with a `labels.txt` beside the file they may be its names or integers, counted from 0.
        root: folder that the paths may be relative to, if they are not to the CSV's own.

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

    def files(chosen: list[_Row]) -> Files:
        return Files([base / row.path for row in chosen], np.array([number(row) for row in chosen], np.int64))

    if not rows[0].split:
        train, test = cut(files(rows), TEST_SHARE)
        return Parts(labels, train, test)
    groups = {part: files([row for row in rows if row.split == part]) for part in SPLITS.values()}
    for part in ("train", "test"):
        if not len(groups[part]):
            raise _bad(path, f"rows of the split {part}", "none", f"mark some as {part}, or leave the column out")
    validation = groups["validation"]
    return Parts(labels, groups["train"], groups["test"], validation if len(validation) else None)


def _rows(path: Path) -> list[_Row]:
    rows: list[_Row] = []
    first: dict[str, int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = _columns(path, next(reader, []))
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                row = _row(path, columns, cells, reader.line_num)
                if row.path in first:
                    got = f"{row.path!r} in rows {first[row.path]} and {row.number}"
                    raise _bad(path, "each image once", got, "remove one of them")
                first[row.path] = row.number
                rows.append(row)
    except UnicodeDecodeError as exc:
        raise _bad(path, "text in UTF-8", f"{exc.reason} at byte {exc.start}", "save it as UTF-8") from exc
    except (OSError, csv.Error) as exc:
        raise _bad(path, "a CSV that can be read", str(exc), "check the file") from exc
    if not rows:
        raise _bad(path, "rows of images", "a header alone", "add rows")
    return rows


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
    if split and split.lower() not in SPLITS:
        raise _bad(where, f"a split of {', '.join(SPLITS)}", repr(split), "mend the row")
    return _Row(number, values["path"], values["label"], SPLITS.get(split.lower(), ""))


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
