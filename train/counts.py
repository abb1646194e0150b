"""The embedded data set `counts`: one to eight objects of any colour over photographs; the label is how many.

Beside `digits`, whose classes the embedded backbone has met in another style, this one asks for what no frozen model
here has a class for. Shapes, colours, sizes and places are drawn at random and say nothing about the number; the
painted area says little, since the objects get smaller where there are more of them. The photographs are cut by split
as for `digits`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from pgn_edge.extras import cv2
from pgn_edge.train.backgrounds import SIZE, crop

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
LABELS = tuple(f"{number} object{'s' * (number != 'one')}" for number in NUMBERS)
SPLITS = {"train": (0, 1600), "validation": (1600, 2000), "test": (2000, 2800)}
SEED = 8
AREA = 100.0, 400.0  # pixels inside the outline of a single object; each of n has this over the root of n
SPREAD = 0.35  # of the logarithm of an object's area within one image
GAP = 2  # pixels that stay free around each object
MARGIN = 3.5  # pixels between an outline and the border; its smooth edge reaches up to three
TRIES = 40  # places tried for an object before the whole image is drawn smaller
NARROWEST = 0.26  # what any shape of area 1 reaches in every direction, so places with less room need no drawing
COLOURS = 24  # colours tried for an object
CONTRAST = 110.0  # least distance in RGB to nine tenths of what an object covers and touches


@dataclass(frozen=True, eq=False)
class Scene:
    """One image before it is painted.

    Args:
        background: (64, 64, 3) uint8 RGB.
        masks: how far each object covers each pixel, (n, 64, 64) float32 in 0..1; no two share a pixel.
        colours: of the objects, (n, 3) RGB in 0..255.
    """

    background: np.ndarray
    masks: np.ndarray
    colours: np.ndarray

    def paint(self) -> np.ndarray:
        """The image, (64, 64, 3) uint8 RGB."""
        ink = self.masks.reshape(len(self.masks), -1).T @ self.colours
        image = self.background * (1 - self.masks.sum(axis=0))[..., None] + ink.reshape(self.background.shape)
        return np.asarray(np.clip(image, 0, 255).round().astype(np.uint8))


@functools.cache
def count_frames() -> tuple[np.ndarray, np.ndarray]:
    """All images of the three splits in order, made once in a process; the classes take turns.

    Returns:
        (2800, 64, 64, 3) uint8 RGB frames and (2800,) int64 labels, both read-only; the same on every call. Label i
        stands for i + 1 objects.
    """
    frames = np.stack([draw(index).paint() for index in range(SPLITS["test"][1])])
    labels = np.arange(len(frames), dtype=np.int64) % len(LABELS)
    frames.flags.writeable = labels.flags.writeable = False
    return frames, labels


def draw(index: int) -> Scene:
    """What image `index` is made of; it has `index % 8 + 1` objects."""
    random = np.random.default_rng((SEED, index))
    split = next(part for part, (_, end) in enumerate(SPLITS.values()) if index < end)
    background = crop(split, random)
    masks = _objects(index % len(LABELS) + 1, random)
    colours = np.stack([_colour(background, mask, random) for mask in masks])
    return Scene(background, masks, colours)


def _objects(count: int, random: np.random.Generator) -> np.ndarray:
    """Masks (n, 64, 64) of objects that do not touch; drawn anew and smaller until all have a place."""
    low, high = np.log(AREA)
    area = np.exp(random.uniform(low, high) + SPREAD * random.standard_normal(count)) / np.sqrt(count)
    while True:
        masks: list[np.ndarray] = []
        taken = np.zeros((SIZE, SIZE), np.uint8)
        for size in sorted(area, reverse=True):
            placed = _place(size, taken, random)
            if placed is None:
                break
            masks.append(placed)
        else:
            return np.stack(masks)
        area *= 0.8


def _place(area: float, taken: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """Find room for one object, and mark it in `taken` with the gap around it."""
    outlines = _shape(random) * np.sqrt(area)
    reach = np.abs(outlines[0]).max(axis=0) + MARGIN
    if (reach > SIZE / 2).any():
        return None
    centres = random.uniform(reach, SIZE - reach, (TRIES, 2))
    column, row = centres.astype(int).T
    room = cv2.distanceTransform(255 - taken, cv2.DIST_L2, 3)[row, column]
    for centre in centres[room > NARROWEST * np.sqrt(area)]:
        whole = _fill(outlines[:1] + centre)  # nothing is put into a ring's hole
        if not (whole & taken).any():
            taken[cv2.dilate(whole, np.ones((2 * GAP + 1, 2 * GAP + 1))) > 0] = 255
            return _fill(outlines + centre).astype(np.float32) / 255
    return None


def _fill(outlines: np.ndarray) -> np.ndarray:
    """Cover the inside of closed outlines with smooth edges; a second outline is a hole. -> (64, 64) uint8."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    fixed = np.round((outlines - 0.5) * 256).astype(np.int32)  # OpenCV counts from a pixel's centre
    cv2.fillPoly(mask, list(fixed), 255, lineType=cv2.LINE_AA, shift=8)
    return mask


def _shape(random: np.random.Generator) -> np.ndarray:
    """Outlines (1 or 2, points, 2) of a disc, square, triangle, ring or bar of area 1, turned at random."""
    kind = int(random.integers(5))
    turn = random.uniform(0, 2 * np.pi)
    if kind == 4:
        long = np.sqrt(random.uniform(2.2, 3.5))
        outlines = np.array([[[long, 1 / long], [-long, 1 / long], [-long, -1 / long], [long, -1 / long]]]) / 2
    else:
        corners = (40, 4, 3, 40)[kind]
        outlines = _regular(corners)[None]
        if kind == 3:
            hole = random.uniform(0.45, 0.65)
            outlines = np.concatenate([outlines, hole * outlines]) / np.sqrt(1 - hole**2)
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.asarray(outlines @ np.array([[cosine, sine], [-sine, cosine]]))


def _regular(corners: int) -> np.ndarray:
    """Corners (n, 2) of a regular polygon of area 1 around the origin."""
    angle = 2 * np.pi * np.arange(corners) / corners
    radius = np.sqrt(2 / (corners * np.sin(2 * np.pi / corners)))
    return np.asarray(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def _colour(background: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A colour that stands out from what it covers and touches: the first that does, or the one that does most."""
    behind = background[cv2.dilate(mask, np.ones((3, 3))) > 0].astype(np.float64)
    tries = random.uniform(0, 255, (COLOURS, 3))
    squared = (tries**2).sum(axis=1)[:, None] - 2 * tries @ behind.T + (behind**2).sum(axis=1)
    alike = (squared < CONTRAST**2).mean(axis=1)
    good = np.flatnonzero(alike < 0.1)
    return np.asarray(tries[good[0] if len(good) else alike.argmin()])
