"""Fresh renderings of printed characters, the only data that `builtin` is pre-trained on.

Each (font, character) is kept as two distance fields: to its outline, and to its centre line. A field is smooth,
so it may be shrunk without aliasing, and a number added to it changes the stroke's width: the outline's own made
bolder or lighter, or one even pen width around the centre line.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.extras import cv2
from pgn_edge.nn.builtin import CHARACTERS, IMAGE

HELD_OUT = ("DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXGeneralBol", "cmss10")
# cmex10 and cmsy10 map letters to brackets and arrows; the last-resort font draws a box per Unicode block.
NOT_TEXT = ("cmex10", "cmsy10", "LastResortHE-Regular")
CELL = 128  # side of a distance field, pixels
FIT = 96  # longest side of the glyph inside it
UNITS = 4.0  # field units per field pixel; 128 stands for the edge, so +-31 pixels are kept
NOISE_POOL = 1 << 22


@dataclass(frozen=True)
class GlyphBank:
    """Everything that a rendering is made from.

    Args:
        fonts: names of the font files, without suffix.
        outlines: distance to the outline, (F, 62, 128, 128) uint8; above 128 is inside.
        centres: distance to the centre line, likewise; 128 on the line, less away from it.
        radii: half the stroke width of each glyph in field pixels, (F, 62) float32.
        photos: background photographs, each (H, W, 3) uint8 RGB.
    """

    fonts: tuple[str, ...]
    outlines: np.ndarray
    centres: np.ndarray
    radii: np.ndarray
    photos: tuple[np.ndarray, ...]


def text_fonts() -> dict[str, Path]:
    """matplotlib's fonts that have a glyph of its own for each of the 62 characters, by name."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = {path.stem: path for path in sorted(folder.glob("*.ttf")) if path.stem not in NOT_TEXT}
    return {name: path for name, path in found.items() if _has_all_characters(path)}


@functools.cache
def load_bank(held_out: bool = False) -> GlyphBank:
    """Distance fields of the fonts for training, or of the fonts that are held out for validation.

    Raises:
        DataError: matplotlib has no fonts for this split.
    """
    chosen = {name: path for name, path in text_fonts().items() if (name in HELD_OUT) == held_out}
    if not chosen:
        raise DataError(
            "matplotlib's font folder",
            expected="fonts with 62 characters",
            got="none",
            do="install matplotlib again",
        )
    masks = np.stack([_font_masks(path) for path in chosen.values()])
    flat = masks.reshape(-1, CELL, CELL)
    # The centre line is found at half size: thinning is the slow part and a pen is wider than two pixels.
    half = np.stack([cv2.resize(mask, (CELL // 2, CELL // 2), interpolation=cv2.INTER_AREA) for mask in flat])
    lines = _thin(half > 127)
    pairs = [_fields(mask, line) for mask, line in zip(flat, lines, strict=True)]
    shape = (len(chosen), len(CHARACTERS))
    return GlyphBank(
        tuple(chosen),
        np.stack([outline for outline, _, _ in pairs]).reshape(*shape, CELL, CELL),
        np.stack([centre for _, centre, _ in pairs]).reshape(*shape, CELL, CELL),
        np.array([radius for _, _, radius in pairs], np.float32).reshape(shape),
        _photos(),
    )


def render_batch(
    bank: GlyphBank, rng: np.random.Generator, count: int, strength: float, classes: int = len(CHARACTERS)
) -> tuple[np.ndarray, np.ndarray]:
    """Fresh renderings of random characters in random fonts.

    Args:
        bank: fonts and photographs.
        rng: source of all randomness; the same state gives the same images.
        count: number of images B.
        strength: 0 is an upright black or white glyph on a plain ground, 1 the full augmentation.
        classes: draw from the first characters only; 10 for digits.

    Returns:
        images (B, 64, 64, 3) uint8 RGB, and labels (B,) int64, in the order of `CHARACTERS`.
    """
    labels = rng.integers(0, classes, count)
    height = rng.uniform(0.75 - 0.4 * strength, 0.85 + 0.1 * strength, count)
    alpha = _strokes(bank, rng, labels, height, strength)
    ground = np.stack([_ground(bank, rng, strength) for _ in range(count)])
    ink = _ink(rng, ground, alpha, strength)
    images = ground + alpha[..., None] * (ink - ground)
    return _camera(rng, images, height, strength), labels.astype(np.int64)


def _has_all_characters(path: Path) -> bool:
    from matplotlib.ft2font import FT2Font

    charmap = FT2Font(str(path)).get_charmap()
    if any(charmap.get(ord(character), 0) == 0 for character in CHARACTERS):
        return False
    masks = _font_masks(path)
    distinct = len({mask.tobytes() for mask in masks})
    return bool(masks.any(axis=(1, 2)).all()) and distinct == len(CHARACTERS)


@functools.cache
def _font_masks(path: Path) -> np.ndarray:
    """(62, 128, 128) uint8 masks, each glyph centred with its longest side at 96 pixels."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(path), 160)
    masks = np.zeros((len(CHARACTERS), CELL, CELL), np.uint8)
    for mask, character in zip(masks, CHARACTERS, strict=True):
        left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
        if right <= left or bottom <= top:
            continue
        page = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(page).text((-left, -top), character, fill=255, font=font)
        glyph = np.asarray(page)
        ratio = FIT / max(glyph.shape)
        width, height = (max(1, round(side * ratio)) for side in glyph.shape[::-1])
        glyph = cv2.resize(glyph, (width, height), interpolation=cv2.INTER_AREA)
        y, x = (CELL - height) // 2, (CELL - width) // 2
        mask[y : y + height, x : x + width] = glyph
    return masks


def _thin(shapes: np.ndarray) -> np.ndarray:
    """Centre lines of (N, h, w) boolean shapes that do not touch the border.

    Source: Zhang and Suen, "A fast parallel algorithm for thinning digital patterns", CACM 27(3), 1984.
    """
    shapes = shapes.copy()
    active = np.arange(len(shapes))
    while len(active):
        before = shapes[active]
        after = _peel(_peel(before, True), False)
        shapes[active] = after
        active = active[(after != before).any(axis=(1, 2))]
    return shapes


def _peel(shapes: np.ndarray, south_east: bool) -> np.ndarray:
    north, east, south, west = (np.roll(shapes, s, a) for s, a in ((1, 1), (-1, 2), (-1, 1), (1, 2)))
    ring = [north, np.roll(north, -1, 2), east, np.roll(south, -1, 2)]
    ring += [south, np.roll(south, 1, 2), west, np.roll(north, 1, 2)]
    neighbours = np.stack(ring).sum(axis=0, dtype=np.int8)
    rises = np.stack([~a & b for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]).sum(axis=0, dtype=np.int8)
    keep = east & south & (north | west) if south_east else north & west & (east | south)
    peeled: np.ndarray = shapes & ~((neighbours >= 2) & (neighbours <= 6) & (rises == 1) & ~keep)
    return peeled


def _fields(mask: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    inside = (mask > 127).astype(np.uint8)
    within = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    outline = within - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    large = cv2.resize(line.astype(np.uint8), (CELL, CELL), interpolation=cv2.INTER_NEAREST)
    centre = -cv2.distanceTransform(1 - large, cv2.DIST_L2, 5)
    radius = float(np.percentile(within[large > 0], 20)) if large.any() else 0.0
    return _encode(outline), _encode(centre), radius


def _encode(distance: np.ndarray) -> np.ndarray:
    return np.clip(128 + UNITS * distance, 0, 255).astype(np.uint8)


def _photos() -> tuple[np.ndarray, ...]:
    from matplotlib import cbook
    from PIL import Image
    from sklearn.datasets import load_sample_images

    file = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    portrait = np.asarray(Image.open(file).convert("RGB"))
    return (*load_sample_images().images, portrait)


def _strokes(
    bank: GlyphBank, rng: np.random.Generator, labels: np.ndarray, height: np.ndarray, strength: float
) -> np.ndarray:
    """Coverage (B, 64, 64) float32 in 0..1 of each glyph, whose longest side is `height` of the image's."""
    count = len(labels)
    fonts = rng.integers(0, len(bank.fonts), count)
    scale = height * IMAGE / FIT
    maps = _maps(rng, scale, strength)
    pen = rng.random(count) < 0.5 * strength
    fields = np.empty((count, IMAGE, IMAGE), np.float32)
    for i in range(count):
        source = (bank.centres if pen[i] else bank.outlines)[fonts[i], labels[i]]
        fields[i] = cv2.remap(source, maps[i], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    radii = bank.radii[fonts, labels]
    bolder = rng.uniform(-0.4 * radii * strength, 4.0 * strength)
    offset = np.where(pen, rng.uniform(2.5, 10.0, count), bolder)
    # One output pixel is 1 / scale field pixels: this slope is an edge one pixel wide, softened at random.
    slope = scale * (1 - strength * rng.uniform(0, 0.8, count) * (rng.random(count) < 0.5))
    inside = (fields - 128) / np.float32(UNITS) + offset[:, None, None].astype(np.float32)
    alpha: np.ndarray = np.clip(inside * slope[:, None, None].astype(np.float32) + 0.5, 0, 1)
    for coarse in np.flatnonzero(rng.random(count) < 0.6 * strength):
        alpha[coarse] = _low_resolution(rng, alpha[coarse], height[coarse], strength)
    return alpha


def _maps(rng: np.random.Generator, scale: np.ndarray, strength: float) -> np.ndarray:
    """Where each output pixel reads its distance field, (B, 64, 64, 2) float32: affine, then elastic."""
    count = len(scale)
    angle = np.deg2rad(rng.uniform(-20, 20, count)) * strength
    shear = rng.uniform(-0.35, 0.35, count) * strength
    stretch = np.exp(rng.uniform(-0.35, 0.25, count) * strength)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)
    slant = np.zeros((count, 2, 2))
    slant[:, 0, 0], slant[:, 0, 1], slant[:, 1, 1] = 1 / stretch, shear, 1
    matrix = (slant @ turn / scale[:, None, None]).astype(np.float32)
    room = np.maximum(0.06, 0.5 - 0.5 * scale * FIT / IMAGE)
    shift = (rng.uniform(-1, 1, (count, 2)) * (room * strength * IMAGE)[:, None]).astype(np.float32)
    ticks = np.arange(IMAGE, dtype=np.float32) - (IMAGE - 1) / 2
    grid = np.stack(np.meshgrid(ticks, ticks), -1).reshape(1, -1, 2)
    flat = (grid - shift[:, None]) @ matrix.transpose(0, 2, 1) + np.float32((CELL - 1) / 2)
    maps: np.ndarray = flat.reshape(count, IMAGE, IMAGE, 2)
    amount = rng.uniform(0, 20, count) * strength
    for i in np.flatnonzero(rng.random(count) < 0.7):
        knots = int(rng.integers(3, 7))  # the finer the warp, the smaller, or the strokes fold
        coarse = rng.normal(0, amount[i] / knots, (knots, knots, 2)).astype(np.float32)
        maps[i] += cv2.resize(coarse, (IMAGE, IMAGE), interpolation=cv2.INTER_CUBIC)
    return maps


def _low_resolution(rng: np.random.Generator, image: np.ndarray, height: float, strength: float) -> np.ndarray:
    """Down and up again; at full strength the glyph's longest side is left with 7 pixels or more."""
    lowest = min(32, round(7 / height + 24 * (1 - strength)))
    side = int(rng.integers(lowest, 33))
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    how = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[int(rng.integers(0, 3))]
    # The cubic overshoots what it interpolates.
    large: np.ndarray = cv2.resize(small, (IMAGE, IMAGE), interpolation=how)
    np.clip(large, 0, 255 if image.ndim == 3 else 1, out=large)
    return large


def _ground(bank: GlyphBank, rng: np.random.Generator, strength: float) -> np.ndarray:
    """(64, 64, 3) float32 in 0..255: a photograph's crop, a gradient or one colour."""
    ground: np.ndarray
    kind = rng.random()
    if kind < 0.65 * strength:
        photo = bank.photos[int(rng.integers(0, len(bank.photos)))]
        side = int(rng.integers(24, 257))
        y, x = (int(rng.integers(0, limit - side + 1)) for limit in photo.shape[:2])
        ground = cv2.resize(photo[y : y + side, x : x + side], (IMAGE, IMAGE), interpolation=cv2.INTER_LINEAR)
        return (ground[:, ::-1] if rng.random() < 0.5 else ground).astype(np.float32)
    if kind < 0.85 * strength:
        corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.float32)
        ground = cv2.resize(corners, (IMAGE, IMAGE), interpolation=cv2.INTER_LINEAR)
        return ground
    # Plain glyphs are black on white: a ViT learns them in far fewer steps than both polarities at once.
    plain = np.full(3, 255.0 * (rng.random() > min(0.5, 2 * strength)))
    colour = (1 - strength) * plain + strength * rng.uniform(0, 255, 3)
    return np.full((IMAGE, IMAGE, 3), colour, np.float32)


def _ink(rng: np.random.Generator, ground: np.ndarray, alpha: np.ndarray, strength: float) -> np.ndarray:
    """Ink (B, 1, 1, 3) float32 that stands out from most of the ground it covers, lighter or darker."""
    cells = np.stack([cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA) for image in ground])
    covered = np.stack([cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA) for image in alpha]) > 0.1
    tries = rng.uniform(0, 255, (16, len(ground), 3)).astype(np.float32)
    gap = np.linalg.norm(tries[:, :, None, None] - cells, axis=-1)
    clear = (gap > rng.uniform(70, 180, len(ground))[:, None, None]) | ~covered
    good = clear.mean(axis=(2, 3)) > 0.92
    drawn = np.take_along_axis(tries, good.argmax(0)[None, :, None], 0)[0]
    opposite = np.where(ground.mean(axis=(1, 2, 3)) > 127, 0.0, 255.0)[:, None]
    ink = np.where(good.any(0)[:, None], strength * drawn + (1 - strength) * opposite, opposite)
    return ink[:, None, None].astype(np.float32)


def _camera(rng: np.random.Generator, images: np.ndarray, height: np.ndarray, strength: float) -> np.ndarray:
    """Contrast, light, blur, low resolution and noise of the whole image; -> uint8."""
    count = len(images)
    gain = (1 + strength * rng.uniform(-0.4, 0.2, count)).astype(np.float32)[:, None, None, None]
    light = (127 + strength * rng.uniform(-40, 40, count)).astype(np.float32)[:, None, None, None]
    images = (images - 127) * gain + light
    for i in np.flatnonzero(rng.random(count) < 0.2 * strength):
        images[i] = cv2.GaussianBlur(images[i], (0, 0), 0.3 + height[i] * rng.uniform(0, 2))
    for i in np.flatnonzero(rng.random(count) < 0.1 * strength):
        images[i] = _low_resolution(rng, images[i], height[i], strength)
    amount = strength * rng.uniform(0, 14, count) * (rng.random(count) < 0.5)
    pool, size = _noise_pool(), images[0].size
    starts = rng.integers(0, NOISE_POOL - size, count)
    windows = np.stack([pool[start : start + size] for start in starts]).reshape(images.shape)
    images += amount.astype(np.float32)[:, None, None, None] * windows
    pixels: np.ndarray = np.clip(images, 0, 255).astype(np.uint8)
    return pixels


@functools.cache
def _noise_pool() -> np.ndarray:
    """Normal noise to cut windows from: drawing it anew for each pixel would cost more than the glyphs."""
    return np.random.default_rng(0).standard_normal(NOISE_POOL, dtype=np.float32)
