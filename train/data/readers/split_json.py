"""Splits as CoOp published them: one JSON file with the images of training, validation and test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import Item, damaged, is_inside, listed, read_json

FORM = '{"train": [["path of the image", label, "class name"], …], "val": …, "test": …}'


def read_split(path: Path, images: Path, name_of: Callable[[str], str]) -> Parts:
    """Read a split.

    Args:
        path: the JSON file.
        images: folder that its paths are relative to.
        name_of: class name in the file -> class name.

    Raises:
        DataError: another form, a class without a name or with two, or a path that leaves the folder.

    Source: Zhou et al., "Learning to Prompt for Vision-Language Models"; KaiyangZhou/CoOp, DATASETS.md.
    """
    table = read_json(path, f"a split of the form {FORM}")
    names: dict[int, str] = {}
    train, validation, test = (_part(path, table, part, names) for part in ("train", "val", "test"))
    for label in range(len(names)):
        if label not in names:
            raise damaged(path, f"labels 0 to {len(names) - 1} for {len(names)} classes", f"label {max(names)}")
    if not train or not test:
        raise damaged(path, "images for training and for test", f"{len(train)} and {len(test)}")
    return Parts(
        tuple(name_of(names[label]) for label in range(len(names))),
        listed(images, train),
        listed(images, test),
        listed(images, validation) if validation else None,
    )


def _part(path: Path, table: Any, part: str, names: dict[int, str]) -> list[Item]:
    entries = table.get(part) if isinstance(table, dict) else None
    if not isinstance(entries, list):
        raise damaged(path, FORM, f"no list {part!r}")
    items: list[Item] = []
    for number, entry in enumerate(entries):
        match entry:
            case [str(image), int(label), str(name)] if label >= 0 and not isinstance(label, bool) and is_inside(image):
                items.append((image, label))
            case _:
                raise damaged(path, FORM, f"{str(entry)[:80]} as {part}[{number}]")
        if names.setdefault(label, name) != name:
            raise damaged(path, "one name for each label", f"{names[label]!r} and {name!r} for label {label}")
    return items
