"""Random changes to training images: `light` on whole batches, `paper` on each decoded original."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from pgn_edge.preprocess import check_frame

SHIFT, TURN, SCALE, LIGHT = 0.08, 10.0, 0.12, 0.2  # share of the size, degrees, relative, relative
MIX, GREY, NEGATIVE = 0.3, 0.2, 0.3  # strength of the channel mix, and shares of images
UNIFORM, NORMAL = 8, 9  # numbers that an image takes

# Of the paper's own code. It has no smallest area but takes one from the command line, 1 if none is given.
AREA, RATIO, CROP_TRIES = (1.0, 1.0), (3 / 4, 4 / 3), 10
JITTER, JITTER_SHARE, GREY_SHARE, SOLARIZE_SHARE, FLIP_SHARE = 0.4, 0.8, 0.2, 0.2, 0.5
SOLARIZE_FROM = 128


def light_table(count: int, generator: torch.Generator) -> Tensor:
    """The numbers that `light` takes for an epoch, one row an image.

    An image's row does not depend on the batch that it comes in, nor on the process that it goes to.

    Args:
        count: images of the data set.
        generator: source of randomness; the same state gives the same table.

    Returns:
        (count, 17): eight numbers of -1..1, then nine of a normal distribution.
    """
    uniform = 2 * torch.rand(count, UNIFORM, generator=generator) - 1
    return torch.cat([uniform, torch.randn(count, NORMAL, generator=generator)], dim=1)


def light(image: Tensor, rows: Tensor) -> Tensor:
    """Shift, turn, scale, re-colour and re-light each image on its own.

    Args:
        image: (B, 3, H, W) normalised.
        rows: (B, 17) of `light_table`, on the same device.

    Returns:
        (B, 3, H, W), edges repeated where the image moved away from them.
    """
    gain, bias = (column.view(-1, 1, 1, 1) for column in rows[:, 4:6].unbind(1))
    return _recolour(_move(image, rows), rows) * (1 + LIGHT * gain) + LIGHT * bias


def _move(image: Tensor, rows: Tensor) -> Tensor:
    angle, scale, shift_x, shift_y = rows[:, :4].unbind(1)
    angle = angle * math.radians(TURN)
    scale = 1 + scale * SCALE
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    # One row a coordinate: affine_grid wants (B, 2, 3) in units of half the image.
    matrix = [cosine, -sine, 2 * SHIFT * shift_x, sine, cosine, 2 * SHIFT * shift_y]
    grid = F.affine_grid(torch.stack(matrix, dim=1).view(-1, 2, 3), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recolour(image: Tensor, rows: Tensor) -> Tensor:
    """Mix the channels at random; some images become grey, some their own negative."""
    mix = torch.eye(3, device=image.device) + MIX * rows[:, UNIFORM:].view(-1, 3, 3)
    grey, negative = ((column.view(-1, 1, 1) + 1) / 2 for column in rows[:, 6:8].unbind(1))
    mix = torch.where(grey < GREY, torch.full_like(mix, 1 / 3), mix)
    return torch.einsum("bij,bjhw->bihw", torch.where(negative < NEGATIVE, -mix, mix), image)


def paper(frame: np.ndarray, size_hw: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """The paper's augmentation: a random crop, then colour jitter, grey, solarize and flip, each at times.

    Args:
        frame: (h, w, 3) uint8 RGB, as decoded.
        size_hw: size (H, W) of the result in pixels.
        random: source of randomness of this image.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: not an (h, w, 3) uint8 array.

    Source: Loedeman et al., BMVC 2024; jochemloedeman/PGN, pgn/datamodules.
    """
    check_frame(frame)
    image = Image.fromarray(frame)
    image = image.resize(size_hw[::-1], Image.Resampling.BICUBIC, box=_crop(image.size, random))
    if random.random() < JITTER_SHARE:
        image = _jitter(image, random)
    if random.random() < GREY_SHARE:
        image = image.convert("L").convert("RGB")
    if random.random() < SOLARIZE_SHARE:
        image = ImageOps.solarize(image, SOLARIZE_FROM)
    if random.random() < FLIP_SHARE:
        image = ImageOps.mirror(image)
    return np.array(image)


def _crop(size_wh: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of a random shape and place; the largest in the centre of a legal shape where none was found."""
    width, height = size_wh
    for _ in range(CROP_TRIES):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(random.integers(0, width - wide + 1)), int(random.integers(0, height - high + 1))
            return left, top, left + wide, top + high
    wide = min(width, max(1, round(height * RATIO[1])))
    high = min(height, max(1, round(width / RATIO[0])))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _jitter(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue in a random order."""
    factors = random.uniform(1 - JITTER, 1 + JITTER, 3)
    turn = int(255 * random.uniform(-JITTER, JITTER))
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for which in random.permutation(4):
        image = _turn_hue(image, turn) if which == 3 else enhancers[which](image).enhance(float(factors[which]))
    return image


def _turn_hue(image: Image.Image, turn: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray(((np.array(hue).astype(np.int16) + turn) % 256).astype(np.uint8))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
