"""Food-101: folders of classes, and lists of training and test images."""

from __future__ import annotations

from pathlib import Path

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import (
    find_folder,
    find_part,
    listed,
    listed_items,
    namer,
    numbered,
    read_lines,
)
from pgn_edge.train.data.readers.split_json import read_split

LAYOUT = "food-101/ with images/CLASS/*.jpg and meta/classes.txt, train.txt and test.txt (or split_zhou_Food101.json)"
SPLIT = "split_zhou_Food101.json"


def read(root: Path) -> Parts:
    """Read Food-101: CoOp's split where its file lies there, else the official one.

    Args:
        root: holds `food-101` or `food101`, or is it.

    Raises:
        DataError: a list is missing, or names a class that is not among the classes.

    Source: Bossard et al., "Food-101: Mining Discriminative Components with Random Forests", 2014.
    """
    folder = find_folder(root, ("food-101", "food101/food-101", "food101", "."), ("meta", SPLIT), LAYOUT)
    images, name_of = find_part(folder, ("images",), LAYOUT), namer("food101")
    if (folder / SPLIT).is_file():
        return read_split(folder / SPLIT, images, name_of)
    labels = numbered(read_lines(folder / "meta/classes.txt", LAYOUT))
    train, test = (
        listed(images, listed_items(folder / f"meta/{part}.txt", labels, LAYOUT, suffix=".jpg"))
        for part in ("train", "test")
    )
    return Parts(tuple(name_of(name) for name in labels), train, test)
