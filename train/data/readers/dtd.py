"""Describable Textures: folders of classes, and the first of the ten official splits."""

from __future__ import annotations

from pathlib import Path

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import (
    class_folders,
    find_folder,
    find_part,
    listed,
    listed_items,
    namer,
    numbered,
)
from pgn_edge.train.data.readers.split_json import read_split

LAYOUT = (
    "dtd/ with images/CLASS/*.jpg and labels/train1.txt, val1.txt and test1.txt "
    "(or split_zhou_DescribableTextures.json)"
)
SPLIT = "split_zhou_DescribableTextures.json"


def read(root: Path) -> Parts:
    """Read DTD: CoOp's split where its file lies there, else the first official one.

    Args:
        root: holds `dtd`, or is it.

    Raises:
        DataError: a list is missing, or names a class without a folder.

    Source: Cimpoi et al., "Describing Textures in the Wild", 2014.
    """
    folder = find_folder(root, ("dtd", "dtd/dtd", "."), ("labels", SPLIT), LAYOUT)
    images, name_of = find_part(folder, ("images",), LAYOUT), namer("dtd")
    if (folder / SPLIT).is_file():
        return read_split(folder / SPLIT, images, name_of)
    labels = numbered(class_folders(images, LAYOUT))
    train, validation, test = (
        listed(images, listed_items(folder / f"labels/{part}1.txt", labels, LAYOUT))
        for part in ("train", "val", "test")
    )
    return Parts(tuple(name_of(name) for name in labels), train, test, validation)
