"""What the readers share: where a data set lies, its lists, its folders of classes, and the names of classes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.images import IMAGE_SUFFIXES
from pgn_edge.labels import load_labels
from pgn_edge.listing import is_hidden
from pgn_edge.train.data.samples import Files

Item = tuple[str, int]  # path of an image under the folder of images, and label


class Paths(Sequence[Path]):
    """Paths under one folder, kept as text: ImageNet has 1.3 million of them.

    Args:
        folder: what the names are relative to.
        names: one for each image.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> Paths: ...

    def __getitem__(self, index: int | slice) -> Path | Paths:
        if isinstance(index, slice):
            return Paths(self._folder, self._names[index])
        return self._folder / self._names[index]


def listed(folder: Path, items: Sequence[Item]) -> Files:
    """Images under `folder`, neither opened nor looked up."""
    return Files(Paths(folder, [name for name, _ in items]), np.array([label for _, label in items], np.int64))


def find_folder(root: Path, places: Sequence[str], marks: Sequence[str], layout: str) -> Path:
    """The first of the folders `places` under `root` that holds one of `marks`.

    Raises:
        DataError: none does.
    """
    for place in places:
        if any((root / place / mark).exists() for mark in marks):
            return root / place
    raise wrong_layout(root, layout, _contents(root))


def find_part(folder: Path, names: Sequence[str], layout: str) -> Path:
    """The first of the files or folders `names` that exists in `folder`.

    Raises:
        DataError: none does.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise wrong_layout(folder, layout, f"no {' or '.join(names)}")


def wrong_layout(path: Path, layout: str, got: str) -> DataError:
    """The error of a data set that does not lie as it was published."""
    return DataError(str(path), expected=layout, got=got, do="check --root, and unpack the data set there")


def damaged(path: Path, expected: str, got: str) -> DataError:
    """The error of a list or archive that does not hold what it was published with."""
    return DataError(str(path), expected=expected, got=got, do="fetch the file again")


def read_lines(path: Path, layout: str) -> list[str]:
    """Lines of a UTF-8 list; blank ones are left out.

    Raises:
        DataError: no such file, no UTF-8, or not one line.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as exc:
        raise damaged(path, "a list in UTF-8", f"{exc.reason} at byte {exc.start}") from exc
    except OSError as exc:
        raise wrong_layout(path, layout, exc.strerror or str(exc)) from exc
    lines = [line for line in lines if line]
    if not lines:
        raise damaged(path, "a list with one entry a line", "an empty file")
    return lines


def read_json(path: Path, layout: str, keep: Sequence[str] | None = None) -> Any:
    """A JSON document.

    Args:
        keep: keys of objects, at any depth, that are kept; None keeps all.

    Raises:
        DataError: no such file, or no JSON to its last byte.
    """

    def slim(node: dict[str, Any]) -> dict[str, Any]:
        return node if keep is None else {key: node[key] for key in keep if key in node}

    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_hook=slim)
    except OSError as exc:
        raise wrong_layout(path, layout, exc.strerror or str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise damaged(path, "a whole JSON document", str(exc)) from exc


def listed_items(path: Path, labels: Mapping[str, int], layout: str, suffix: str = "") -> list[Item]:
    """Images of a list with one `class/image` a line.

    Args:
        path: the list.
        labels: class as the list writes it -> label; a slash in front of either does not count.
        layout: of the data set, for messages.
        suffix: what the list leaves out at the end of each name.

    Raises:
        DataError: no such list, or a line that is of no class.
    """
    items: list[Item] = []
    for number, line in enumerate(read_lines(path, layout), 1):
        name = line.lstrip("/")
        label = labels.get(name.rpartition("/")[0])
        if label is None or not is_inside(name):
            raise damaged(path, "CLASS/IMAGE with one of the classes", f"{line[:80]!r} in line {number}")
        items.append((name + suffix, label))
    return items


def is_inside(name: str) -> bool:
    """Whether a listed path stays in the folder that it is listed for."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/") and name.isprintable()


def class_folders(folder: Path, layout: str) -> list[str]:
    """Names of the class folders, sorted.

    Raises:
        DataError: no such folder, or none in it.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    except OSError as exc:
        raise wrong_layout(folder, layout, exc.strerror or str(exc)) from exc
    if not names:
        raise wrong_layout(folder, layout, "no class folder")
    return names


def class_items(folder: Path, labels: Mapping[str, int]) -> list[Item]:
    """Images of class folders: class by class as given, sorted within each.

    Args:
        folder: holds the class folders.
        labels: name of a class folder -> label.

    Raises:
        DataError: a class folder is missing or without images.
    """
    items: list[Item] = []
    for name, label in labels.items():
        images = image_names(folder / name)
        if not images:
            got = "none" if (folder / name).is_dir() else "no such folder"
            raise DataError(
                str(folder / name), expected="images of this class", got=got, do="unpack the data set again"
            )
        items += [(f"{name}/{image}", label) for image in images]
    return items


def image_names(folder: Path) -> list[str]:
    """Names of the images that lie right in `folder`, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # not Path.iterdir and is_file: a stat call for each of ImageNet's images
        return sorted(
            e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(e.name) and e.is_file()
        )


def namer(data: str, aliases: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """A function from a class's name on disk to its name in `pgn_edge/labels`.

    Names that differ only in capitals, underscores, spaces and marks are one name. A class that the list does not
    have keeps its own name, with spaces for underscores.

    Args:
        data: name of the list.
        aliases: name on disk, in small letters without spaces and marks -> name in the list.
    """
    known = {_letters(name): name for name in load_labels(data)} | dict(aliases or {})
    return lambda name: known.get(_letters(name), name.replace("_", " ").lower())


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Each name's label: its place among the names, in the order given."""
    return {name: label for label, name in enumerate(dict.fromkeys(names))}


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(e.name for e in folder.iterdir())
    return ", ".join(names[:5]) + (" and more" if len(names) > 5 else "") if names else "an empty folder"
