"""CLEVR counts: the class of a scene is how many objects it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgn_edge.errors import DataError
from pgn_edge.train.data.readers import clevr_counts

# Numbers of objects; 10 is the class that sorts wrong as text.
COUNTS = {"train": [10, 3, 7, 3, 10], "val": [7, 10, 3]}


def thing(number: int) -> dict[str, Any]:
    place = {"3d_coords": [0.1 * number, 1.0, 0.35], "pixel_coords": [100 + number, 80, 9.5], "rotation": 12.5}
    return {"color": "red", "size": "small", "shape": "cube", "material": "rubber", **place}


def write_scenes(folder: Path, counts: dict[str, list[int]]) -> None:
    for part, numbers in counts.items():
        scenes = [
            {
                "split": part,
                "image_index": index,
                "image_filename": f"CLEVR_{part}_{index:06d}.png",
                "objects": [thing(number) for number in range(count)],
                "relationships": {"left": [[1], []], "right": [[], [0]]},
                "directions": {"right": [0.66, 0.75, 0.0]},
            }
            for index, count in enumerate(numbers)
        ]
        path = folder / f"scenes/CLEVR_{part}_scenes.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"info": {"split": part, "version": "1.0"}, "scenes": scenes}))


@pytest.mark.parametrize("place", ["CLEVR_v1.0", "clevr/CLEVR_v1.0", "."])
def test_objects_are_counted(tmp_path: Path, pictures, listing: Callable, place: str):
    write_scenes(tmp_path / place, COUNTS)
    expected = {}
    for part, numbers in COUNTS.items():
        names = [str(Path(place) / f"images/{part}/CLEVR_{part}_{index:06d}.png") for index in range(len(numbers))]
        expected[part] = [(name, [3, 7, 10].index(count)) for name, count in zip(names, numbers, strict=True)]
        for name in names:
            pictures.write(name)
    parts = listing(clevr_counts.read, tmp_path)
    assert parts.labels == ("3", "7", "10")
    assert parts.validation is None
    pictures.check(parts.train, expected["train"])
    pictures.check(parts.test, expected["val"])


@pytest.mark.parametrize("count", [2, 11])
def test_count_out_of_range_is_named(tmp_path: Path, count: int):
    write_scenes(tmp_path / "CLEVR_v1.0", {"train": [3, count], "val": [3]})
    with pytest.raises(DataError, match=rf"3 to 10 objects in a scene, got {count} in CLEVR_train_000001\.png"):
        clevr_counts.read(tmp_path)


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(DataError) as error:
        clevr_counts.read(tmp_path)
    assert error.value.expected == clevr_counts.LAYOUT
    write_scenes(tmp_path / "CLEVR_v1.0", {"train": [3]})
    with pytest.raises(DataError, match=r"CLEVR_val_scenes\.json: expected CLEVR_v1\.0/ with"):
        clevr_counts.read(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param('{"info": {}, "scenes": [{"image_filename"', "a whole JSON document", id="truncated"),
        pytest.param('{"info": {}}', "a list of 'scenes', got none", id="no scenes"),
        pytest.param('{"scenes": []}', "a list of 'scenes', got none", id="empty"),
        pytest.param('{"scenes": [{"objects": [1, 2, 3]}]}', "'image_filename' and 'objects'", id="no file name"),
        pytest.param(
            '{"scenes": [{"image_filename": "../a.png", "objects": [1, 2, 3]}]}', "'image_filename'", id="path"
        ),
    ],
)
def test_scenes_of_another_form_are_refused(tmp_path: Path, data: str, message: str):
    write_scenes(tmp_path, {"val": [3]})
    (tmp_path / "scenes/CLEVR_train_scenes.json").write_text(data)
    with pytest.raises(DataError, match=message):
        clevr_counts.read(tmp_path)
