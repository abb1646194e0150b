"""Canvases of 8 bits as image files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pgn_edge.errors import DataError
from pgn_edge.transport import LOSSLESS, Transport

NOISE = np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)


@pytest.mark.parametrize("text", ["png", "webp", "webp:80", "jpeg:75", "jpeg:1", "jpeg:100"])
def test_a_transport_reads_as_it_is_written(text: str):
    assert str(Transport.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "gif", "jpeg", "png:90", "jpeg:0", "jpeg:101", "jpeg:-1", "jpeg:75 ", "JPEG:75", "webp:", "jpeg:7.5"]
)
def test_what_is_no_transport(text: str):
    with pytest.raises(DataError, match="expected png, webp, webp:QUALITY or jpeg:QUALITY"):
        Transport.parse(text)


@pytest.mark.parametrize("text", ["png", "webp"])
def test_no_pixel_is_lost(text: str):
    transport = Transport.parse(text)
    assert transport.loss == LOSSLESS
    with Image.open(io.BytesIO(transport.encode(NOISE))) as image:
        assert (image.format or "").lower() == transport.codec
        assert np.array_equal(np.asarray(image), NOISE)
    assert np.array_equal(transport.carry(NOISE), NOISE)


@pytest.mark.parametrize("codec", ["webp", "jpeg"])
def test_a_lower_quality_loses_more_in_fewer_bytes(codec: str):
    coarse, fine = (Transport.parse(f"{codec}:{quality}") for quality in (20, 90))
    assert coarse.loss == f"{codec}:20"
    assert len(coarse.encode(NOISE)) < len(fine.encode(NOISE))
    errors = [np.abs(each.carry(NOISE).astype(int) - NOISE).mean() for each in (coarse, fine)]
    assert errors[0] > errors[1] > 0


def test_what_comes_out_is_what_any_reader_of_the_file_sees():
    transport = Transport.parse("jpeg:75")
    with Image.open(io.BytesIO(transport.encode(NOISE))) as image:
        assert np.array_equal(np.asarray(image), transport.carry(NOISE))
        assert Image.MIME[image.format or ""] == transport.content_type
