"""Renderings of characters: repeatable, legible when plain, and never from a font that is held out."""

from __future__ import annotations

import numpy as np
import pytest

from pgn_edge.nn.builtin import CHARACTERS
from pgn_edge.train.glyphs import CELL, HELD_OUT, NOT_TEXT, GlyphBank, load_bank, render_batch, text_fonts


@pytest.fixture(scope="module")
def bank() -> GlyphBank:
    return load_bank()


def rendered(bank: GlyphBank, count: int, strength: float, seed: int = 0, **options: int):
    return render_batch(bank, np.random.default_rng(seed), count, strength, **options)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 9])
def test_shapes_and_types(bank: GlyphBank, strength: float, count: int):
    images, labels = rendered(bank, count, strength)
    assert (images.shape, images.dtype) == ((count, 64, 64, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((count,), np.int64)
    for image in images:
        assert np.ptp(image.astype(int)) > 20, "nothing to see"


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_one_seed_gives_the_same_images_and_another_does_not(bank: GlyphBank, strength: float):
    (images, labels), (again, _), (other, _) = (rendered(bank, 8, strength, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(images, again)
    assert (images != other).any()
    assert len({image.tobytes() for image in images}) == len(labels)


def test_plain_glyphs_are_black_on_white_and_fill_the_image(bank: GlyphBank):
    images, _ = rendered(bank, 60, 0.0)
    assert (images == images[..., :1]).all(), "grey only"
    assert (images[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).all(), "white corners"
    for dark in images[..., 0] < 128:
        assert 0.005 < dark.mean() < 0.6
        rows, columns = (np.flatnonzero(dark.any(axis=axis)) for axis in (1, 0))
        longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        assert 0.6 * 64 <= longest <= 0.9 * 64


def test_colour_comes_with_strength(bank: GlyphBank):
    def colour(strength: float) -> float:
        return float(np.ptp(rendered(bank, 64, strength)[0].astype(float), axis=3).mean())

    assert colour(1.0) > colour(0.3) > colour(0.0) == 0


def test_every_character_is_drawn(bank: GlyphBank):
    assert set(rendered(bank, 800, 0.0)[1].tolist()) == set(range(len(CHARACTERS))) == set(range(62))


def test_classes_are_the_first_characters(bank: GlyphBank):
    labels = rendered(bank, 200, 0.0, classes=10)[1]
    assert CHARACTERS[:10] == "0123456789"
    assert set(labels.tolist()) == set(range(10))


def test_the_label_is_what_is_drawn(bank: GlyphBank):
    # An l is a bar and an m is broad, in any font; a W is no digit. One mixed-up index would show.
    images, labels = rendered(bank, 800, 0.0)
    dark = images[..., 0] < 128
    widths = dark.any(axis=1).sum(axis=1)

    def width(character: str) -> float:
        return float(widths[labels == CHARACTERS.index(character)].mean())

    assert width("l") < 0.7 * width("m")
    assert width("1") < width("W")
    centre = dark[:, 28:36, 28:36].mean(axis=(1, 2))
    assert centre[labels == CHARACTERS.index("O")].mean() < 0.1 < centre[labels == CHARACTERS.index("I")].mean()


# Fonts.


def test_held_out_fonts_are_not_trained_on(bank: GlyphBank):
    held_out = load_bank(held_out=True)
    assert set(held_out.fonts) == set(HELD_OUT)
    assert len(bank.fonts) >= 10
    assert not set(bank.fonts) & set(held_out.fonts)
    assert set(bank.fonts) | set(held_out.fonts) == set(text_fonts())


def test_fonts_without_letters_are_left_out(bank: GlyphBank):
    assert "LastResortHE-Regular" in NOT_TEXT
    assert not set(text_fonts()) & set(NOT_TEXT)
    assert not [name for name in text_fonts() if "LastResort" in name]


@pytest.mark.parametrize("held_out", [False, True], ids=["training", "held out"])
def test_no_glyph_is_empty(held_out: bool):
    bank = load_bank(held_out)
    shape = (len(bank.fonts), 62)
    assert bank.outlines.shape == bank.centres.shape == (*shape, CELL, CELL)
    assert bank.radii.shape == shape
    assert (bank.outlines > 128).any(axis=(2, 3)).all(), "an outline with nothing inside"
    assert (bank.outlines < 128).any(axis=(2, 3)).all(), "an outline with nothing outside"
    assert (bank.centres >= 128).any(axis=(2, 3)).all(), "a glyph without a centre line"
    assert (bank.radii > 0).all()


def test_the_62_glyphs_of_a_font_differ(bank: GlyphBank):
    for name, glyphs in zip(bank.fonts, bank.outlines, strict=True):
        assert len({glyph.tobytes() for glyph in glyphs}) == 62, name
