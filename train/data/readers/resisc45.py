"""NWPU-RESISC45: folders of classes; the split is the one of the paper."""

from __future__ import annotations

from pathlib import Path

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import find_folder, find_part, namer
from pgn_edge.train.data.readers.split_json import read_split

LAYOUT = "resisc45/ with NWPU-RESISC45/CLASS/*.jpg and resisc45_json.json from data/resisc45 of jochemloedeman/PGN"
SPLIT = "resisc45_json.json"


def read(root: Path) -> Parts:
    """Read RESISC45.

    Args:
        root: holds `resisc45`, or is it.

    Raises:
        DataError: no images, or no split beside them.

    Source: Cheng et al., "Remote Sensing Image Scene Classification", 2017; split: jochemloedeman/PGN.
    """
    folder = find_folder(root, ("resisc45", "RESISC45", "."), (SPLIT, "NWPU-RESISC45"), LAYOUT)
    images = find_part(folder, ("NWPU-RESISC45", "images"), LAYOUT)
    return read_split(find_part(folder, (SPLIT,), LAYOUT), images, namer("resisc45"))
