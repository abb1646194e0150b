"""Where image and slots lie: exact boxes for both layouts, and that they tile the canvas for every other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn_edge.errors import GeometryError
from pgn_edge.geometry import Geometry, whole_rows


@pytest.mark.parametrize(
    ("geometry", "rows", "spare", "content_hw", "canvas_hw"),
    [
        pytest.param(Geometry((224, 224), 32, 16), 3, 5, (224, 224), (320, 224), id="the paper's B/32, 5 spare"),
        pytest.param(Geometry((224, 224), 16, 14), 1, 0, (224, 224), (240, 224), id="B/16, one full row"),
        pytest.param(Geometry((64, 64), 8, 0), 0, 0, (64, 64), (64, 64), id="stock: no slots"),
        pytest.param(Geometry((64, 64), 8, 1), 1, 7, (64, 64), (72, 64), id="one prompt takes a row"),
        pytest.param(Geometry((64, 64), 8, 16, "inset"), 2, 0, (48, 64), (64, 64), id="inset keeps the stock size"),
        pytest.param(Geometry((64, 64), 8, 56, "inset"), 7, 0, (8, 64), (64, 64), id="inset, one image row left"),
        pytest.param(Geometry((32, 96), 16, 7), 2, 5, (32, 96), (64, 96), id="wide image"),
        pytest.param(Geometry((64, 64), 8, 200), 25, 0, (64, 64), (264, 64), id="more prompts than patches"),
    ],
)
def test_sizes(geometry: Geometry, rows: int, spare: int, content_hw: tuple, canvas_hw: tuple):
    assert geometry.rows == rows
    assert geometry.spare == spare
    assert geometry.content_hw == content_hw
    assert geometry.canvas_hw == canvas_hw
    assert geometry.image_patches == content_hw[0] * content_hw[1] // geometry.patch**2


@pytest.mark.parametrize(
    ("geometry", "slot", "box"),
    [
        pytest.param(Geometry((224, 224), 32, 16), 0, (0, 224, 32, 256), id="append, first: left, just below"),
        pytest.param(Geometry((224, 224), 32, 16), 6, (192, 224, 224, 256), id="append, end of the first row"),
        pytest.param(Geometry((224, 224), 32, 16), 7, (0, 256, 32, 288), id="append, row-major: second row"),
        pytest.param(Geometry((224, 224), 32, 16), 15, (32, 288, 64, 320), id="append, last"),
        pytest.param(Geometry((64, 64), 8, 16, "inset"), 0, (0, 48, 8, 56), id="inset, first: inside the stock size"),
        pytest.param(Geometry((64, 64), 8, 16, "inset"), 15, (56, 56, 64, 64), id="inset, last: bottom right"),
    ],
)
def test_slot_boxes(geometry: Geometry, slot: int, box: tuple[int, int, int, int]):
    assert geometry.slot_box(slot) == box


@pytest.mark.parametrize("slot", [-1, 16, 20], ids=["negative", "one too many", "a spare slot"])
def test_there_is_no_other_slot(slot: int):
    with pytest.raises(GeometryError, match="0 to 15"):
        Geometry((224, 224), 32, 16).slot_box(slot)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(((224, 224), 15, 16), "patch size 15 divides", id="patch does not divide"),
        pytest.param(((224, 220), 16, 16), "patch size 16 divides", id="width not a multiple"),
        pytest.param(((0, 224), 16, 16), "0 x 224", id="no height"),
        pytest.param(((224, 224), 0, 16), "patch size 0", id="no patch"),
        pytest.param(((224, 224), 16, -1), "0 or more", id="negative prompts"),
        pytest.param(((64, 64), 8, 64, "inset"), "at most 56", id="inset leaves no image"),
        pytest.param(((64, 64), 8, 57, "inset"), "at most 56", id="inset, one prompt more than fits"),
        pytest.param(((64, 64), 8, 16, "overlay"), "append or inset", id="unknown layout"),
    ],
)
def test_refusals(arguments: tuple, says: str):
    with pytest.raises(GeometryError, match=says):
        Geometry(*arguments)


@st.composite
def geometries(draw: st.DrawFn) -> Callable[[str], Geometry]:
    """Any sizes that fit; each test asks for both layouts, so that neither is left to chance."""
    patch, grid_h, grid_w = draw(st.integers(1, 32)), draw(st.integers(2, 24)), draw(st.integers(1, 24))
    prompts = draw(st.integers(1, (grid_h - 1) * grid_w))
    return lambda layout: Geometry((grid_h * patch, grid_w * patch), patch, prompts, layout)


for_both_layouts = pytest.mark.parametrize("layout", ["append", "inset"])


@for_both_layouts
@given(drawn=geometries())
def test_slots_and_spares_tile_the_area_below_the_image(layout: str, drawn: Callable[[str], Geometry]):
    geometry = drawn(layout)
    patch = geometry.patch
    height, width = geometry.canvas_hw
    covered = np.zeros((height, width), np.int64)
    covered[: geometry.content_hw[0]] += 1
    for slot in range(geometry.prompts):
        x0, y0, x1, y1 = geometry.slot_box(slot)
        assert (x1 - x0, y1 - y0) == (patch, patch)
        covered[y0:y1, x0:x1] += 1
    assert covered.max() == 1, "image and slots overlap"
    assert (covered == 0).sum() == geometry.spare * patch**2
    assert (covered[:, : width - geometry.spare * patch] == 1).all(), "spare slots are not the last ones"


@for_both_layouts
@given(drawn=geometries())
def test_survives_json(layout: str, drawn: Callable[[str], Geometry]):
    geometry = drawn(layout)
    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry


GOOD = Geometry((64, 64), 8, 16).to_json()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="empty"),
        pytest.param({k: v for k, v in GOOD.items() if k != "patch"}, id="a field is missing"),
        pytest.param({**GOOD, "patch": "eight"}, id="a word for a number"),
        pytest.param({**GOOD, "image_hw": [64]}, id="one side"),
        pytest.param({**GOOD, "image_hw": 64}, id="a number for two"),
        pytest.param({**GOOD, "prompts": None}, id="null"),
        pytest.param({**GOOD, "prompts": float("inf")}, id="Infinity, which Python's JSON reads"),
        pytest.param({**GOOD, "patch": float("nan")}, id="NaN, likewise"),
        pytest.param({**GOOD, "layout": ["append"]}, id="a list for a word"),
        pytest.param([1, 2, 3], id="a list for an object"),
    ],
)
def test_json_that_makes_no_sense(data: Any):
    with pytest.raises(GeometryError):
        Geometry.from_json(data)


# The slot solver.


@pytest.mark.parametrize(
    ("size", "patch", "layout", "near", "expected"),
    [
        pytest.param(224, 32, "append", 16, 14, id="B/32: two rows of 7"),
        pytest.param(224, 16, "append", 16, 14, id="B/16: one row of 14"),
        pytest.param(224, 14, "append", 16, 16, id="L/14: one row of 16"),
        pytest.param(518, 14, "append", 16, 37, id="518 px: a row is more than was asked for"),
        pytest.param(64, 8, "inset", 16, 16, id="builtin"),
        pytest.param(64, 8, "append", 12, 8, id="of two that are equally near, the smaller"),
        pytest.param(64, 32, "inset", 16, 2, id="inset leaves a row to the image"),
        pytest.param(64, 32, "append", 16, 16, id="append has no such limit"),
    ],
)
def test_the_solver(size: int, patch: int, layout: str, near: int, expected: int):
    assert whole_rows((size, size), patch, layout, near) == expected


@for_both_layouts
@given(rows=st.integers(2, 40), columns=st.integers(1, 40), near=st.integers(1, 200))
def test_no_other_number_of_whole_rows_is_nearer(layout: str, rows: int, columns: int, near: int):
    size = (rows * 4, columns * 4)
    found = whole_rows(size, 4, layout, near)
    geometry = Geometry(size, 4, found, layout)
    geometry.require_engine()
    assert geometry.spare == 0
    assert geometry.rows >= 1
    most = rows - 1 if layout == "inset" else 300
    assert abs(found - near) == min(abs(row * columns - near) for row in range(1, most + 1))


def test_inset_on_a_single_row_has_no_room():
    with pytest.raises(GeometryError, match="more than one row"):
        whole_rows((8, 64), 8, "inset")


@pytest.mark.parametrize(("prompts", "nearest"), [(1, 8), (9, 8), (12, 8), (13, 16), (55, 56)])
def test_a_partial_row_names_the_nearest_whole_one(prompts: int, nearest: int):
    with pytest.raises(GeometryError, match=f"use {nearest}, or --prompts auto"):
        Geometry((64, 64), 8, prompts, "inset").require_engine()
