"""Augmentation: random, repeatable, and small enough that an image stays what it is."""

from __future__ import annotations

import pytest
import torch

from pgn_edge.train.augment import LIGHT, MIX, augment

IMAGES = torch.rand(6, 3, 20, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def augmented(seed: int, images: torch.Tensor = IMAGES) -> torch.Tensor:
    return augment(images, torch.Generator().manual_seed(seed))


def test_one_state_gives_the_same_images_and_another_does_not():
    assert torch.equal(augmented(1), augmented(1))
    assert not torch.equal(augmented(1), augmented(2))


def test_the_generator_moves_on():
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(augment(IMAGES, generator), augment(IMAGES, generator))


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
