"""What must be true of a picture without looking at it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import DataError
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.annotate import ACCENT, annotate, canvas_picture, fit_into
from pgn_edge.runtime.result import Result

STAGES_MS = {"preprocess": 0.4, "pgn": 1.2, "vit": 9.8, "head": 0.1, "total": 11.5}
PREPROCESS = Preprocess((64, 64), mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


def facts_for(geometry: Geometry) -> EngineFacts:
    preprocess = replace(PREPROCESS, size_hw=geometry.content_hw)
    return EngineFacts("vit", "builtin", "0" * 64, geometry, preprocess, "fp32", 17, "embedding")


FACTS = facts_for(Geometry((64, 64), 8, 16))


def result_for(facts: EngineFacts, labels: tuple[str, ...] = ("cat", "dog", "owl", "yak")) -> Result:
    scores = np.full(len(labels), 0.1 / max(len(labels) - 1, 1), np.float32)
    scores[0] = 0.9
    canvas = np.zeros((3, *facts.geometry.canvas_hw), np.float32)
    return Result("pets", labels[0], 0.9, scores, labels, np.zeros(8, np.float32), canvas, STAGES_MS)


@pytest.mark.parametrize(
    "frame_hw",
    [(240, 320), (1080, 1920), (1, 1), (1, 4000), (4000, 1), (97, 131)],
    ids=["small", "full HD", "one pixel", "a line", "a column", "odd"],
)
def test_size_is_even_fixed_and_tall_enough(frame_hw: tuple[int, int]) -> None:
    frame_bgr = np.zeros((*frame_hw, 3), np.uint8)
    picture = annotate(frame_bgr, result_for(FACTS), FACTS)
    other = annotate(frame_bgr + 9, result_for(FACTS, ("a very long label indeed, " * 20, "b")), FACTS)
    assert picture.dtype == np.uint8
    assert picture.shape == other.shape
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert picture.shape[0] >= 384


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((224, 224), 32, 16),
        Geometry((64, 64), 8, 16, "inset"),
        Geometry((64, 64), 8, 13),
        Geometry((64, 64), 8, 0),
        Geometry((518, 518), 14, 40),
        Geometry((16, 64), 8, 4),
    ],
    ids=["B/32", "inset", "spare slots", "no prompts", "canvas taller than the frame", "wide canvas"],
)
def test_every_canvas_fits_beside_the_frame(geometry: Geometry) -> None:
    facts = facts_for(geometry)
    picture = annotate(np.zeros((120, 160, 3), np.uint8), result_for(facts), facts)
    assert min(picture.shape[:2]) > max(geometry.canvas_hw)


def test_the_frame_itself_is_shown_unchanged_where_it_is_large_enough() -> None:
    frame_bgr = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    picture = annotate(frame_bgr, result_for(FACTS), FACTS)
    np.testing.assert_array_equal(picture[:400, :500], frame_bgr)


def test_each_slot_is_outlined_and_its_pixels_are_enlarged_without_smoothing() -> None:
    result = result_for(FACTS)
    result.canvas[:] = np.random.default_rng(0).normal(size=result.canvas.shape)
    picture = annotate(np.zeros((384, 384, 3), np.uint8), result, FACTS)
    zoom, (height, width) = 4, FACTS.geometry.canvas_hw
    top = (384 - zoom * height) // 2
    left = 384 + (picture.shape[1] - 384 - zoom * width) // 2
    shown = picture[top : top + zoom * height, left : left + zoom * width]
    enlarged = canvas_picture(result.canvas, FACTS).repeat(zoom, 0).repeat(zoom, 1)
    for slot in range(FACTS.geometry.prompts):
        x0, y0, x1, y1 = (zoom * side for side in FACTS.geometry.slot_box(slot))
        assert shown[y0, x0].tolist() == shown[y1 - 1, x1 - 1].tolist() == list(ACCENT)
        enlarged[[y0, y1 - 1], x0:x1] = enlarged[y0:y1, [x0, x1 - 1]] = ACCENT
    np.testing.assert_array_equal(shown, enlarged)


def test_canvas_picture_undoes_the_normalisation_exactly() -> None:
    image_rgb = np.random.default_rng(0).integers(0, 256, (1, 80, 64, 3), dtype=np.uint8)
    picture = canvas_picture(PREPROCESS.normalise(image_rgb)[0], FACTS)
    np.testing.assert_array_equal(picture, image_rgb[0, :, :, ::-1])
    assert picture.flags.c_contiguous


def test_a_canvas_of_bytes_is_shown_as_it_is() -> None:
    canvas_rgb = np.random.default_rng(0).integers(0, 256, (80, 64, 3), dtype=np.uint8)
    picture = canvas_picture(canvas_rgb, FACTS)
    np.testing.assert_array_equal(picture, canvas_rgb[:, :, ::-1])
    assert picture.flags.c_contiguous
    result = replace(result_for(FACTS), canvas=canvas_rgb)
    floats = replace(result, canvas=PREPROCESS.normalise(canvas_rgb[None])[0])
    frame_bgr = np.zeros((64, 64, 3), np.uint8)
    np.testing.assert_array_equal(annotate(frame_bgr, result, FACTS), annotate(frame_bgr, floats, FACTS))


def test_canvas_picture_clips_what_is_no_legal_colour() -> None:
    canvas = np.zeros((3, 80, 64), np.float32)
    canvas[0, 0, 0], canvas[1, 0, 0] = 1e6, -1e6
    assert canvas_picture(canvas, FACTS)[0, 0, 1:].tolist() == [0, 255]


@pytest.mark.parametrize("labels", [("only",), ("cat", "dog")])
def test_fewer_than_three_classes(labels: tuple[str, ...]) -> None:
    annotate(np.zeros((64, 64, 3), np.uint8), result_for(FACTS, labels), FACTS)


@pytest.mark.parametrize("label", ["", "two\nlines", "Größe 猫", "{}%s"], ids=repr)
def test_any_label_can_be_drawn(label: str) -> None:
    annotate(np.zeros((64, 64, 3), np.uint8), result_for(FACTS, (label, "b")), FACTS)


def test_a_degraded_frame_has_no_label_and_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    frame_bgr, good = np.zeros((120, 160, 3), np.uint8), result_for(FACTS)
    bad = replace(good, degraded="canvas", label="", score=0.0, scores=np.zeros(4, np.float32))
    bad.canvas[:, 64:] = np.nan
    words: list[str] = []
    put_text = cv2.putText

    def listen(picture: np.ndarray, text: str, *rest: Any) -> Any:
        words.append(text)
        return put_text(picture, text, *rest)

    monkeypatch.setattr(cv2, "putText", listen)
    picture = annotate(frame_bgr, bad, FACTS)
    assert {"degraded", "canvas: NaN or Inf"} <= set(words)
    assert not {"cat", "dog", "top 3", "0.0%"} & set(words)
    assert picture.shape == annotate(frame_bgr, good, FACTS).shape
    panel = picture[390:].reshape(-1, 3).tolist()
    assert list(ACCENT) not in panel, "a bar is drawn"
    assert list(ACCENT) in annotate(frame_bgr, good, FACTS)[390:].reshape(-1, 3).tolist()


def test_canvas_picture_shows_nan_as_black() -> None:
    canvas = np.full((3, 80, 64), np.nan, np.float32)
    canvas[:, 0, 0] = np.inf, -np.inf, np.nan
    picture = canvas_picture(canvas, FACTS)
    assert picture[0, 0].tolist() == [0, 0, 255]
    assert not picture[1:].any()


def test_grey_frame_is_refused() -> None:
    with pytest.raises(DataError, match="expected a uint8 array"):
        annotate(np.zeros((64, 64), np.uint8), result_for(FACTS), FACTS)


def test_fit_into_keeps_the_shape_and_centres() -> None:
    boxed = fit_into(np.full((10, 20, 3), 200, np.uint8), (40, 40))
    assert boxed.shape == (40, 40, 3)
    assert (boxed[10:30] == 200).all()
    assert not boxed[:10].any()
    assert not boxed[30:].any()
