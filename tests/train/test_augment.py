"""Augmentation: random, repeatable, and small enough that an image stays what it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pgn_edge.errors import DataError
from pgn_edge.train.augment import LIGHT, MIX, _crop, _jitter, light, light_table, paper

IMAGES = torch.rand(6, 3, 20, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def augmented(seed: int, images: torch.Tensor = IMAGES) -> torch.Tensor:
    return light(images, light_table(len(images), torch.Generator().manual_seed(seed)))


def test_one_state_gives_the_same_images_and_another_does_not():
    assert torch.equal(augmented(1), augmented(1))
    assert not torch.equal(augmented(1), augmented(2))


def test_the_generator_moves_on():
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(light_table(6, generator), light_table(6, generator))


def test_a_row_says_what_happens_to_an_image_whatever_stands_beside_it():
    table = light_table(6, torch.Generator().manual_seed(1))
    together, alone = light(IMAGES, table), light(IMAGES[4:5], table[4:5])
    torch.testing.assert_close(together[4:5], alone, rtol=0, atol=1e-6)


def test_the_shares_of_grey_and_negative_are_as_stated():
    ramp = torch.linspace(0.1, 1, 3).view(1, 3, 1, 1).expand(4000, 3, 4, 4)
    out = light(ramp, light_table(4000, torch.Generator().manual_seed(0)))
    grey = (out.amax(dim=1) - out.amin(dim=1)).amax(dim=(1, 2)) < 1e-5
    assert float(grey.float().mean()) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (5, 3, 48, 64)], ids=["one image", "not square"])
def test_shape_and_values_stay_in_bounds(shape: tuple[int, ...]):
    out = augmented(3, torch.ones(shape))
    assert out.shape == shape
    assert out.isfinite().all()
    # Six standard deviations of three mixed channels, then gain and bias.
    assert out.abs().max() <= (1 + 3 * 6 * MIX) * (1 + LIGHT) + LIGHT


def test_every_image_is_changed_and_the_input_is_left_alone():
    before = IMAGES.clone()
    out = augmented(4)
    assert torch.equal(IMAGES, before)
    for one, other in zip(out, IMAGES, strict=True):
        assert (one - other).abs().max() > 0.01


def test_equal_images_are_changed_each_in_its_own_way():
    out = augmented(5, IMAGES[:1].expand(4, -1, -1, -1))
    assert len({image.numpy().tobytes() for image in out}) == 4


def test_a_spot_stays_near_its_place():
    images = torch.zeros(64, 3, 32, 32)
    images[:, :, 12:20, 12:20] = 1
    out = augmented(6, images)
    weight = (out - out[:, :, :1, :1]).abs().sum(dim=1)  # brightness may be turned over, the place may not
    ticks = torch.arange(32.0)
    total = weight.sum(dim=(1, 2))
    row, column = (weight.sum(dim=2) @ ticks) / total, (weight.sum(dim=1) @ ticks) / total
    assert (torch.stack([row, column]) - 15.5).abs().max() < 0.15 * 32


# The paper's.

FRAME = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def changed(seed: int, frame: np.ndarray = FRAME, size_hw: tuple[int, int] = (24, 32)) -> np.ndarray:
    return paper(frame, size_hw, np.random.default_rng(seed))


def test_the_papers_gives_images_of_the_size_asked_for_and_the_same_for_a_seed():
    out = changed(1)
    assert (out.shape, out.dtype) == ((24, 32, 3), np.uint8)
    assert np.array_equal(out, changed(1))
    assert not np.array_equal(out, changed(2))


def test_the_papers_shares():
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[:, 8:] = (200, 60, 30)  # dark on the left: a flip shows, solarize darkens what is bright, grey has one level
    outs = [changed(seed, frame, (16, 16)).astype(int) for seed in range(600)]
    grey = np.mean([np.ptp(out, axis=2).max() == 0 for out in outs])
    flipped = np.mean([out[:, :6].sum() > out[:, -6:].sum() for out in outs])
    assert grey == pytest.approx(0.2, abs=0.05)
    assert flipped == pytest.approx(0.5, abs=0.06)


class OnlySolarize:
    """Random numbers of an image that is solarized and nothing else: the whole area, no jitter, no grey, no flip."""

    def __init__(self) -> None:
        self.shares = [0.99, 0.99, 0.0, 0.99]

    def uniform(self, low: float, high: float) -> float:
        return 1.0 if high == 1 else 0.0

    def integers(self, low: int, high: int) -> int:
        return low

    def random(self) -> float:
        return self.shares.pop(0)


def test_the_paper_solarizes_from_half_of_the_range_on():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    out = paper(levels, (16, 16), OnlySolarize())  # type: ignore[arg-type]
    expected = np.where(levels < 128, levels, 255 - levels)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize(
    ("size_wh", "box"),
    [
        pytest.param((80, 80), (0, 0, 80, 80), id="square: all of it"),
        pytest.param((100, 80), (0, 0, 100, 80), id="within the ratios: all of it"),
        pytest.param((200, 60), (60, 0, 140, 60), id="too wide: the middle of 4 to 3"),
        pytest.param((60, 200), (0, 60, 60, 140), id="too high: the middle of 3 to 4"),
    ],
)
def test_a_crop_of_the_whole_area_is_torchvisions(size_wh: tuple[int, int], box: tuple[int, ...]):
    from torchvision.transforms import RandomResizedCrop

    top, left, high, wide = RandomResizedCrop.get_params(torch.zeros(3, *size_wh[::-1]), [1.0, 1.0], [3 / 4, 4 / 3])
    assert (left, top, left + wide, top + high) == box
    assert _crop(size_wh, np.random.default_rng(0)) == box


class Fixed:
    """Random numbers that are known: factors of light, the turn of the hue, and the order."""

    def __init__(self, factors: list[float], turn: float, order: list[int]) -> None:
        self.values, self.order = [np.array(factors), turn], order

    def uniform(self, low: float, high: float, size: int | None = None) -> object:
        return self.values.pop(0)

    def permutation(self, count: int) -> list[int]:
        return self.order


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]], ids=["in order", "another order"])
def test_the_jitter_is_torchvisions(order: list[int]):
    from torchvision.transforms import functional as tv

    image, factors, turn = Image.fromarray(FRAME), [0.7, 1.3, 0.8], 0.25
    wanted, steps = image, (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)
    for which in order:
        wanted = tv.adjust_hue(wanted, turn) if which == 3 else steps[which](wanted, factors[which])
    got = _jitter(image, Fixed(factors, turn, order))  # type: ignore[arg-type]
    assert np.array_equal(np.array(got), np.array(wanted))


def test_what_is_no_colour_frame_is_refused():
    with pytest.raises(DataError):
        changed(0, FRAME[..., 0])
