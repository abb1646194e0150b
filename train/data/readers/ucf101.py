"""UCF101 as images: the middle frame of each video, and the first of the three official splits."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import (
    Item,
    damaged,
    find_folder,
    find_part,
    is_inside,
    listed,
    namer,
    numbered,
    read_lines,
)
from pgn_edge.train.data.readers.split_json import read_split

LAYOUT = (
    "ucf101/ with UCF-101-midframes/Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c01.jpg … and ucfTrainTestlist/classInd.txt, "
    "trainlist01.txt and testlist01.txt (or split_zhou_UCF101.json)"
)
SPLIT = "split_zhou_UCF101.json"

ALIASES = {
    "cuttinginkitchen": "cutting in a kitchen",
    "moppingfloor": "mopping a floor",
    "rockclimbingindoor": "rock climbing indoors",
    "walkingwithdog": "walking with a dog",
    "writingonboard": "writing on a board",
}


def read(root: Path) -> Parts:
    """Read the middle frames of UCF101: CoOp's split where its file lies there, else the first official one.

    Args:
        root: holds `ucf101`, or is it; class folders are named with or without underscores.

    Raises:
        DataError: a list is missing, or names a class that is not in `classInd.txt`.

    Source: Soomro et al., "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", 2012.
    """
    folder = find_folder(root, ("ucf101", "UCF101", "."), (SPLIT, "ucfTrainTestlist"), LAYOUT)
    images, name_of = find_part(folder, ("UCF-101-midframes", "images"), LAYOUT), namer("ucf101", ALIASES)
    if (folder / SPLIT).is_file():
        return read_split(folder / SPLIT, images, name_of)
    lists = folder / "ucfTrainTestlist"
    labels = _classes(lists / "classInd.txt")
    train, test = (listed(images, _items(lists / f"{part}list01.txt", images, labels)) for part in ("train", "test"))
    return Parts(tuple(name_of(_spaced(name)) for name in labels), train, test)


def _classes(path: Path) -> dict[str, int]:
    names: list[str] = []
    for line in read_lines(path, LAYOUT):
        number, _, name = line.partition(" ")
        if number != str(len(names) + 1) or not name.isalnum():
            raise damaged(path, "a number from 1 on and a class in each line", repr(line[:80]))
        names.append(name)
    return numbered(names)


def _items(path: Path, images: Path, labels: dict[str, int]) -> list[Item]:
    folders = {name: name if (images / name).is_dir() else _spaced(name) for name in labels}
    items: list[Item] = []
    for line in read_lines(path, LAYOUT):
        video = line.split()[0]  # lists of training videos have the class number behind it
        name, _, file = video.partition("/")
        if name not in labels or not is_inside(video):
            raise damaged(path, "CLASS/VIDEO with one of the classes", repr(line[:80]))
        items.append((f"{folders[name]}/{PurePosixPath(file).stem}.jpg", labels[name]))
    return items


def _spaced(name: str) -> str:
    """`ApplyEyeMakeup` as CoOp's folders write it: `Apply_Eye_Makeup`."""
    return "_".join(re.findall("[A-Z][^A-Z]*", name)) or name
