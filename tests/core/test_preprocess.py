"""Preprocessing against two oracles: torchvision's own transforms, and Pillow."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from pgn_edge.errors import DataError, GeometryError
from pgn_edge.preprocess import Preprocess, check_frame

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def torchvision_crop(frame: np.ndarray, size: int) -> np.ndarray:
    """CLIP's rule as torchvision does it on a PIL image."""
    steps = Compose([Resize(size, InterpolationMode.BICUBIC, antialias=True), CenterCrop(size)])
    return np.asarray(steps(Image.fromarray(frame)))


def pillow(frame: np.ndarray, height: int, width: int) -> Image.Image:
    """Pillow's bicubic of the whole frame, columns before rows: the order of every Pillow before 13."""
    bicubic = Image.Resampling.BICUBIC
    return Image.fromarray(frame).resize((width, len(frame)), bicubic).resize((width, height), bicubic)


def pillow_crop(frame: np.ndarray, size: int) -> np.ndarray:
    height, width = frame.shape[:2]
    shorter = min(height, width)
    full_h, full_w = (size if side == shorter else int(size * side / shorter) for side in (height, width))
    return np.asarray(CenterCrop(size)(pillow(frame, full_h, full_w)))


def difference(first: np.ndarray, second: np.ndarray) -> int:
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def assert_same(ours: np.ndarray, oracle: np.ndarray, *, grows: bool) -> None:
    """Within one level; where a frame grows, a stray pixel may round twice."""
    assert difference(ours, oracle) <= 1 + grows
    assert (np.abs(ours.astype(int) - oracle) > 1).mean() <= 1e-4


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([1, 7, 64, 96]), st.integers(0, 9))
@example(1, 1, 64, 0).via("the smallest frame")
@example(1, 400, 64, 0).via("extreme aspect ratio, wide")
@example(400, 1, 64, 0).via("extreme aspect ratio, tall")
@example(64, 64, 64, 0).via("nothing to do")
@example(64, 100, 64, 0).via("only a crop")
@example(65, 64, 64, 0).via("half a pixel to cut")
@example(23, 41, 96, 0).via("upscaling")
@example(110, 55, 7, 0).via("long side a whole multiple, where float rounding could lose a pixel")
@example(150, 65, 64, 0).via("tall, shrinking: Pillow 13 would do the rows first")
def test_crop_equals_pillow(height: int, width: int, size: int, seed: int):
    frame = noise(height, width, seed)
    assert_same(Preprocess((size, size))(frame), pillow_crop(frame, size), grows=min(height, width) < size)


@pytest.mark.parametrize(
    ("height", "width"),
    [(1080, 1920), (720, 1280), (375, 500), (480, 480), (47, 3000), (1, 1)],
    ids=["full HD", "HD", "a photo", "square", "a strip", "one pixel"],
)
@pytest.mark.parametrize("size", [64, 224], ids=["builtin", "CLIP"])
def test_crop_equals_torchvision_on_frames_that_are_not_tall(height: int, width: int, size: int):
    frame = noise(height, width)
    assert_same(Preprocess((size, size))(frame), torchvision_crop(frame, size), grows=height < size)


@pytest.mark.parametrize(("height", "width"), [(1920, 1080), (500, 375), (3000, 47)])
def test_crop_equals_torchvision_on_tall_pictures(height: int, width: int):
    # Smooth, since on noise the order of Pillow's passes shows, and that differs between its versions.
    y, x = np.mgrid[0:height, 0:width]
    frame = np.stack([127 + 99 * np.sin(y / 37), 127 + 99 * np.sin(x / 23), 127 + 99 * np.cos((x + y) / 51)], -1)
    frame = frame.astype(np.uint8)
    assert_same(Preprocess((224, 224))(frame), torchvision_crop(frame, 224), grows=width < 224)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 80), st.integers(1, 80))
@example(100, 100, 30, 60).via("the rows shrink more")
@example(100, 100, 60, 30).via("the columns shrink more")
def test_squash_equals_pillow(height: int, width: int, out_h: int, out_w: int):
    frame = noise(height, width)
    ours = Preprocess((out_h, out_w), fit="squash")(frame)
    assert difference(ours, np.asarray(pillow(frame, out_h, out_w))) <= 1


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([(64, 64), (48, 64), (7, 31)]))
def test_every_mode_fills_any_size(height: int, width: int, size_hw: tuple[int, int]):
    frame = noise(height, width)
    for fit in ("crop", "squash"):
        for kind in ("antialiased-bicubic", "fast"):
            small = Preprocess(size_hw, fit=fit, filter=kind)(frame)
            assert small.shape == (*size_hw, 3)
            assert small.dtype == np.uint8
            assert small.flags.c_contiguous


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_fast_mode_stays_near_on_smooth_pictures(fit: Any):
    y, x = np.mgrid[0:240, 0:320]
    frame = np.stack([x * 255 / 319, y * 255 / 239, (x + y) * 255 / 558], axis=-1).astype(np.uint8)
    exact = Preprocess((64, 64), fit=fit)(frame)
    fast = Preprocess((64, 64), fit=fit, filter="fast")(frame)
    assert difference(exact, fast) <= 4
    assert difference(exact, fast) >= 1, "fast is not another filter at all"


@pytest.mark.parametrize("kind", ["antialiased-bicubic", "fast"])
@pytest.mark.parametrize("size", [(90, 130), (32, 32), (20, 10)], ids=["shrinks", "already right", "grows"])
def test_bgr_frames_come_out_as_rgb(kind: Any, size: tuple[int, int]):
    frame = noise(*size)
    preprocess = Preprocess((32, 32), filter=kind)
    small = preprocess(np.ascontiguousarray(frame[:, :, ::-1]), "BGR")
    assert (small == preprocess(frame)).all()
    assert small.flags.c_contiguous


@pytest.mark.parametrize("kind", ["antialiased-bicubic", "fast"])
def test_a_view_into_a_larger_frame(kind: Any):
    frame = noise(200, 300)
    view = frame[20:150:2, 30:250]
    preprocess = Preprocess((32, 32), filter=kind)
    assert (preprocess(view) == preprocess(view.copy())).all()


def test_normalise_equals_torchvision():
    images = np.stack([noise(16, 16, seed) for seed in range(4)])
    steps = Compose([ToTensor(), Normalize(CLIP_MEAN, CLIP_STD)])
    oracle = torch.stack([steps(Image.fromarray(image)) for image in images]).numpy()
    ours = Preprocess((16, 16), mean=CLIP_MEAN, std=CLIP_STD).normalise(images)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_allclose(ours, oracle, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(np.zeros((8, 8), np.uint8), id="grey"),
        pytest.param(np.zeros((8, 8, 1), np.uint8), id="grey with an axis"),
        pytest.param(np.zeros((8, 8, 4), np.uint8), id="alpha"),
        pytest.param(np.zeros((8, 8, 3), np.float32), id="float"),
        pytest.param(np.zeros((8, 8, 3), np.uint16), id="16 bit"),
        pytest.param(np.zeros((0, 8, 3), np.uint8), id="empty"),
        pytest.param(np.zeros((1, 8, 8, 3), np.uint8), id="a batch"),
        pytest.param([[[0, 0, 0]]], id="a list"),
        pytest.param(None, id="what cv2.imread gives for a missing file"),
    ],
)
def test_what_is_not_a_colour_frame_is_refused(frame: Any):
    for refuse in (check_frame, Preprocess((8, 8))):
        with pytest.raises(DataError, match=r"\(height, width, 3\)"):
            refuse(frame)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"fit": "stretch"}, id="fit"),
        pytest.param({"filter": "lanczos"}, id="filter"),
        pytest.param({"size_hw": (0, 8)}, id="no height"),
        pytest.param({"std": (1.0, 0.0, 1.0)}, id="zero std"),
        pytest.param({"std": (1.0, float("nan"), 1.0)}, id="NaN std"),
        pytest.param({"mean": (0.0, float("inf"), 0.0)}, id="infinite mean"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]):
    with pytest.raises(GeometryError):
        Preprocess(**{"size_hw": (8, 8), **options})


@pytest.mark.parametrize(
    ("size_hw", "fit"),
    [((32, 32), "crop"), ((48, 64), "squash"), ((64, 64), "crop")],
    ids=["same aspect ratio", "inset: the aspect ratio changes", "same size"],
)
def test_with_size(size_hw: tuple[int, int], fit: str):
    preprocess = Preprocess((64, 64), mean=CLIP_MEAN, std=CLIP_STD).with_size(size_hw)
    assert (preprocess.size_hw, preprocess.fit) == (size_hw, fit)
    assert (preprocess.mean, preprocess.std) == (CLIP_MEAN, CLIP_STD)


def test_survives_json():
    preprocess = Preprocess((48, 64), "squash", "fast", CLIP_MEAN, CLIP_STD)
    assert Preprocess.from_json(json.loads(json.dumps(preprocess.to_json()))) == preprocess


GOOD = Preprocess((64, 64)).to_json()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="empty"),
        pytest.param({**GOOD, "mean": [0.5, 0.5]}, id="two channels"),
        pytest.param({**GOOD, "std": [1, 1, "one"]}, id="a word for a number"),
        pytest.param({**GOOD, "size_hw": [float("inf"), 64]}, id="Infinity"),
        pytest.param({**GOOD, "mean": [float("nan")] * 3}, id="NaN"),
        pytest.param({**GOOD, "filter": None}, id="null"),
        pytest.param("crop", id="a string"),
    ],
)
def test_json_that_makes_no_sense(data: Any):
    with pytest.raises(GeometryError):
        Preprocess.from_json(data)
