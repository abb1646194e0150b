"""EuroSAT: folders of classes without an official split."""

from __future__ import annotations

from pathlib import Path

from pgn_edge.train.data.dataset import Parts, cut
from pgn_edge.train.data.readers.files import (
    class_folders,
    class_items,
    find_folder,
    find_part,
    listed,
    namer,
    numbered,
)
from pgn_edge.train.data.readers.split_json import read_split

LAYOUT = "eurosat/ with 2750/CLASS/*.jpg (and split_zhou_EuroSAT.json for the usual split)"
SPLIT = "split_zhou_EuroSAT.json"
IMAGES = ("2750", "EuroSAT_RGB", "EuroSAT", "images")
TEST_SHARE = 0.3  # as large as the test part of the usual split

ALIASES = {
    "annualcrop": "annual crop land",
    "herbaceousvegetation": "herbaceous vegetation land",
    "highway": "highway or road",
    "industrial": "industrial buildings",
    "pasture": "pasture land",
    "permanentcrop": "permanent crop land",
    "residential": "residential buildings",
    "sealake": "sea or lake",
}


def read(root: Path) -> Parts:
    """Read EuroSAT's colour images: CoOp's split where its file lies there, else 30 % of each class are the test.

    Args:
        root: holds `eurosat`, or is it.

    Raises:
        DataError: no class folders, or one without images.

    Source: Helber et al., "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover
    Classification", 2019.
    """
    folder = find_folder(root, ("eurosat", "EuroSAT", "."), (SPLIT, *IMAGES), LAYOUT)
    images, name_of = find_part(folder, IMAGES, LAYOUT), namer("eurosat", ALIASES)
    if (folder / SPLIT).is_file():
        return read_split(folder / SPLIT, images, name_of)
    labels = numbered(class_folders(images, LAYOUT))
    train, test = cut(listed(images, class_items(images, labels)), TEST_SHARE)
    return Parts(tuple(name_of(name) for name in labels), train, test)
