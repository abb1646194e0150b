"""What becomes of pixels on their way, on a subject that does it to them before a toy sees them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from pgn_edge.runtime.engines import OnnxRuntimeEngine
from pgn_edge.runtime.probe import transport
from pgn_edge.runtime.probe.engine import EngineSubject
from pgn_edge.runtime.probe.finding import SURE, Finding
from pgn_edge.runtime.probe.own_size import own_size
from pgn_edge.runtime.probe.pictures import pictures
from pgn_edge.runtime.probe.subject import USUAL_SIZES, to_levels
from pgn_edge.runtime.probe.units import CLIP
from pgn_edge.runtime.probe.yardstick import measure
from pgn_edge.transport import Transport
from tests.runtime.probe.toys import SIDE, Toy, encoder

Way = Callable[[np.ndarray], np.ndarray]


class Behind:
    """A subject of 8 bits that changes every frame first."""

    name, eight_bit, fixed, calls, size_hw = "behind", True, False, 0, (SIDE, SIDE)

    def __init__(self, inner: EngineSubject, way: Way) -> None:
        self._inner, self._way = inner, way

    def answer(self, values: np.ndarray) -> np.ndarray:
        return self._inner.answer(np.stack([self._way(frame) for frame in to_levels(values)]))


@pytest.fixture(scope="module")
def inner() -> Iterator[EngineSubject]:
    toy = Toy(layout="NHWC", dtype="uint8", inside=CLIP)
    subject = EngineSubject(OnnxRuntimeEngine(encoder(toy), "toy", 1), most_calls=10_000)
    yield subject
    subject.close()


def jpeg(quality: int, subsampling: int) -> Way:
    def carry(frame: np.ndarray) -> np.ndarray:
        target = io.BytesIO()
        Image.fromarray(frame).save(target, "JPEG", quality=quality, subsampling=subsampling)
        return np.asarray(Image.open(target).convert("RGB"))

    return carry


def resized(side: int, kind: Image.Resampling = Image.Resampling.BICUBIC) -> Way:
    return lambda frame: np.asarray(Image.fromarray(frame).resize((side, side), kind))


def twice(first: Way, then: Way) -> Way:
    return lambda frame: then(first(frame))


def asked(inner: EngineSubject, way: Way) -> Finding:
    subject = Behind(inner, way)
    levels = pictures(4, subject.size_hw, 0)
    yardstick = measure(subject, levels, subject.answer(levels), subject.answer(levels))
    (finding,) = transport.reencoding(subject, yardstick, 0)
    return finding


@pytest.mark.parametrize(
    ("way", "answer"),
    [
        pytest.param(lambda frame: frame, "lossless", id="as sent"),
        pytest.param(Transport("jpeg", 50).carry, "jpeg:50", id="JPEG 50"),
        pytest.param(Transport("jpeg", 72).carry, "jpeg:72", id="JPEG of an unusual quality"),
        pytest.param(jpeg(75, 0), "jpeg:75", id="JPEG with all its colours"),
        pytest.param(Transport("jpeg", 95).carry, "jpeg:95", id="JPEG that hardly loses"),
        pytest.param(lambda frame: frame & 0xFE, "7 bits or fewer", id="7 bits"),
        pytest.param(lambda frame: frame & 0xF0, "7 bits or fewer", id="4 bits"),
        pytest.param(twice(resized(24), resized(SIDE)), "resampled", id="smaller and back"),
    ],
)
def test_pixels_on_their_way(inner: EngineSubject, way: Way, answer: str):
    finding = asked(inner, way)
    assert (finding.answer, finding.confidence >= SURE) == (answer, True), finding


@pytest.mark.parametrize("kind", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR], ids=["bicubic", "bilinear"])
def test_the_size_of_a_service_that_resizes_to_its_own(inner: EngineSubject, kind: Image.Resampling):
    sizes = [(side, side) for side in USUAL_SIZES]
    found, confidence = own_size(Behind(inner, resized(SIDE, kind)), sizes, 0)
    assert found == (SIDE, SIDE)
    assert confidence > 0.9


def test_a_filter_that_nobody_tried_leaves_the_size_open(inner: EngineSubject):
    sizes = [(side, side) for side in USUAL_SIZES]
    _, confidence = own_size(Behind(inner, resized(SIDE, Image.Resampling.NEAREST)), sizes, 0)
    assert confidence < 0.75
