"""CLEVR counts: rendered scenes of 3 to 10 objects; the class is how many there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import Item, damaged, find_folder, is_inside, listed, read_json

LAYOUT = "CLEVR_v1.0/ with images/{train,val}/*.png and scenes/CLEVR_train_scenes.json and CLEVR_val_scenes.json"
LEAST, MOST = 3, 10


def read(root: Path) -> Parts:
    """Read CLEVR v1.0 with the number of objects as the class; `val` is the test, as its own test has no scenes.

    Args:
        root: holds `CLEVR_v1.0` or `clevr/CLEVR_v1.0`, or is it.

    Raises:
        DataError: a file of scenes is missing or damaged, or a scene has fewer or more objects.

    Source: Johnson et al., "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual Reasoning",
    2017; as a counting task: Zhai et al., "A Large-scale Study of Representation Learning with the Visual Task
    Adaptation Benchmark", 2019.
    """
    places = ("CLEVR_v1.0", "clevr/CLEVR_v1.0", "clevr_counts/CLEVR_v1.0", ".")
    folder = find_folder(root, places, ("scenes",), LAYOUT)
    train, test = (_counts(folder / f"scenes/CLEVR_{part}_scenes.json", part) for part in ("train", "val"))
    counts = sorted({count for _, count in (*train, *test)})
    labels = {count: label for label, count in enumerate(counts)}
    halves = ([(name, labels[count]) for name, count in items] for items in (train, test))
    learn, look = (listed(folder / "images", half) for half in halves)
    return Parts(tuple(map(str, counts)), learn, look)


def _counts(path: Path, part: str) -> list[Item]:
    """Image of each scene, and how many objects it has."""
    # The rest of an object, its place, colour and neighbours, is 99 % of the file.
    document = read_json(path, LAYOUT, keep=("scenes", "image_filename", "objects"))
    scenes = document.get("scenes") if isinstance(document, dict) else None
    if not isinstance(scenes, list) or not scenes:
        raise damaged(path, "a list of 'scenes'", "none")
    return [_count(path, part, scene) for scene in scenes]


def _count(path: Path, part: str, scene: Any) -> Item:
    match scene:
        case {"image_filename": str(name), "objects": list(objects)} if is_inside(name):
            if not LEAST <= len(objects) <= MOST:
                raise damaged(path, f"{LEAST} to {MOST} objects in a scene", f"{len(objects)} in {name}")
            return f"{part}/{name}", len(objects)
    raise damaged(path, "'image_filename' and 'objects' in each scene", str(scene)[:80])
