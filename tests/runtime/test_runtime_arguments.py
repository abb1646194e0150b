"""The Runtime as a person calls it for the first time: what it takes, what it prints, and what it says to a slip."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgn_edge.errors import DataError, EngineError, PairingError
from pgn_edge.runtime import Result, Runtime


@pytest.fixture(scope="module")
def runtime(tiny_pair):
    with Runtime(tiny_pair.vit, {"pets": tiny_pair.task}, canvases=True) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def frame_bgr() -> np.ndarray:
    rng = np.random.default_rng(3)
    return (np.array([200, 90, 10]) + rng.integers(0, 50, (60, 80, 3))).astype(np.uint8)


# Results.


def test_two_answers_for_one_frame_are_equal_whatever_time_they_took(runtime: Runtime, frame_bgr: np.ndarray):
    first, second = runtime.infer("pets", frame_bgr), runtime.infer("pets", frame_bgr)
    assert first.timings_ms != second.timings_ms
    assert first == second
    assert hash(first) == hash(second)
    assert len({first, second}) == 1
    assert first in [second]


def test_another_answer_is_not_equal(runtime: Runtime, frame_bgr: np.ndarray):
    first, other = runtime.infer("pets", frame_bgr), runtime.infer("pets", frame_bgr[::-1] // 4)
    assert first != other
    assert first != "a label"
    assert first != dataclasses.replace(first, canvas=None)
    assert first != dataclasses.replace(first, embedding=first.embedding + 1)
    assert first != dataclasses.replace(first, label="another")


def test_degraded_results_of_nan_are_equal_to_themselves(runtime: Runtime, frame_bgr: np.ndarray):
    nan = np.full(4, np.nan, np.float32)
    result = dataclasses.replace(runtime.infer("pets", frame_bgr), embedding=nan, degraded="embedding", label="")
    assert result == dataclasses.replace(result, embedding=nan.copy())
    assert repr(result).startswith("Result(task='pets', degraded='embedding', classes=10")


def test_a_result_prints_as_one_short_line(runtime: Runtime, frame_bgr: np.ndarray):
    result: Result = runtime.infer("pets", frame_bgr)
    text = repr(result)
    assert len(text) < 120
    assert "\n" not in text
    assert f"label={result.label!r}, score={result.score:.4f}, classes=10, total_ms=" in text


# Frames.


def test_an_rgb_frame_and_a_pillow_image_get_the_answer_of_the_bgr_frame(runtime: Runtime, frame_bgr: np.ndarray):
    expected = runtime.infer("pets", frame_bgr)
    frame_rgb = np.ascontiguousarray(frame_bgr[..., ::-1])
    assert runtime.infer("pets", frame_rgb, colour="rgb") == expected
    image = Image.fromarray(frame_rgb)
    assert runtime.infer("pets", np.asarray(image.convert("RGB")), colour="rgb") == expected
    assert runtime.infer_batch([("pets", frame_rgb)], colour="rgb") == [expected]
    assert runtime.infer("pets", frame_rgb) != expected, "this frame does not tell red from blue"


def test_another_order_of_colours_is_refused(runtime: Runtime, frame_bgr: np.ndarray):
    wrong: Any = "RGB"
    with pytest.raises(DataError, match="colour: expected bgr or rgb, got 'RGB'"):
        runtime.infer("pets", frame_bgr, colour=wrong)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        pytest.param(None, r"got None: the camera gave no frame; .*camera\.read\(\)", id="no frame"),
        pytest.param(np.zeros((0, 0, 3), np.uint8), "it has no pixels; leave this frame out", id="an empty frame"),
        pytest.param(Image.new("RGB", (4, 4)), r"mode RGB; pass numpy\.asarray.*colour='rgb'", id="a Pillow image"),
        pytest.param(np.zeros((4, 4), np.uint8), "a grey frame; repeat it", id="grey"),
        pytest.param(np.zeros((4, 4, 4), np.uint8), r"four channels; .*frame\[\.\.\., :3\]", id="alpha"),
        pytest.param(np.zeros((4, 4, 3), np.float32), r"float32.*; scale it to 0\.\.255", id="floats"),
        pytest.param(np.zeros((1, 4, 4, 3), np.uint8), "pass one frame", id="a batch"),
        pytest.param([[0]], "list; pass a numpy array", id="a list"),
    ],
)
def test_what_is_no_frame_is_told_by_its_own_remedy(runtime: Runtime, frame: Any, says: str):
    with pytest.raises(DataError, match=says):
        runtime.infer("pets", frame)


# Slips in the arguments.


def test_a_provider_of_another_name_lists_the_three(tiny_pair):
    wrong: Any = "gpu"
    with pytest.raises(EngineError, match="provider: expected one of cpu, cuda, tensorrt, got 'gpu'"):
        Runtime(tiny_pair.vit, {"pets": tiny_pair.task}, provider=wrong)


@pytest.mark.parametrize("option", [{"threads": -1}, {"gpu": -1}, {"threads": "4"}], ids=str)
def test_counts_below_zero_are_refused(tiny_pair, option: dict[str, Any]):
    with pytest.raises(EngineError, match="a whole number from 0 on"):
        Runtime(tiny_pair.vit, **option)


@pytest.mark.parametrize("kind", [str, Path, lambda path: [path]], ids=["text", "path", "list"])
def test_a_bundle_without_a_name_says_how_to_name_it(tiny_pair, kind: Any):
    with pytest.raises(PairingError, match=r"tasks: expected bundles by name, got .*tasks=\{'pets': 'pets\.pgn'\}"):
        Runtime(tiny_pair.vit, kind(tiny_pair.task))


@pytest.mark.parametrize("vit", [None, 3, {"pets": "pets.pgn"}], ids=["none", "number", "tasks first"])
def test_no_engine_is_refused_by_its_type(vit: Any):
    with pytest.raises(EngineError, match=f"vit: expected the path of an engine file.*got {type(vit).__name__}"):
        Runtime(vit)
