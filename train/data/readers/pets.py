"""Oxford-IIIT Pet: one folder of images named by breed, and lists with the breed's number."""

from __future__ import annotations

from pathlib import Path

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import (
    Item,
    damaged,
    find_folder,
    find_part,
    is_inside,
    listed,
    namer,
    read_lines,
)
from pgn_edge.train.data.readers.split_json import read_split

LAYOUT = "oxford_pets/ with images/*.jpg and annotations/trainval.txt and test.txt (or split_zhou_OxfordPets.json)"
SPLIT = "split_zhou_OxfordPets.json"


def read(root: Path) -> Parts:
    """Read the 37 breeds: CoOp's split where its file lies there, else the official one.

    Args:
        root: holds `oxford_pets`, `oxford-iiit-pet` or `pets`, or is it.

    Raises:
        DataError: a list is missing, or its breeds and numbers do not agree.

    Source: Parkhi et al., "Cats and Dogs", 2012.
    """
    places = ("oxford_pets", "oxford-iiit-pet", "pets", ".")
    folder = find_folder(root, places, (SPLIT, "annotations"), LAYOUT)
    images, name_of = find_part(folder, ("images",), LAYOUT), namer("pets")
    if (folder / SPLIT).is_file():
        return read_split(folder / SPLIT, images, name_of)
    breeds: dict[int, str] = {}
    train, test = (_items(folder / f"annotations/{part}.txt", breeds) for part in ("trainval", "test"))
    if sorted(breeds) != list(range(len(breeds))):
        got = f"{len(breeds)} breeds, and one with number {max(breeds) + 1}"
        raise damaged(folder / "annotations/trainval.txt", "breeds numbered from 1 without a gap", got)
    return Parts(
        tuple(name_of(breeds[label]) for label in range(len(breeds))), listed(images, train), listed(images, test)
    )


def _items(path: Path, breeds: dict[int, str]) -> list[Item]:
    """Lines such as `Abyssinian_100 1 1 1`: image, breed, species, breed within the species."""
    items: list[Item] = []
    for line in read_lines(path, LAYOUT):
        if line.startswith("#"):
            continue
        image, *numbers = line.split()
        if not is_inside(image) or not numbers or not numbers[0].isdecimal() or numbers[0] == "0":
            raise damaged(path, "an image and the number of its breed in each line", repr(line[:80]))
        label, breed = int(numbers[0]) - 1, image.rpartition("_")[0]
        if breeds.setdefault(label, breed) != breed:
            raise damaged(path, "one breed for each number", f"{breeds[label]!r} and {breed!r} for number {label + 1}")
        items.append((f"{image}.jpg", label))
    return items
