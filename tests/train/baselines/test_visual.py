"""Learned pixels that are added to every image."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from pgn_edge.errors import TrainingError
from pgn_edge.nn.vit import Backbone
from pgn_edge.train.baselines.visual import VISUAL_KINDS, FixedPatch, Frame, RandomPatch, VisualKind, VisuallyPrompted
from pgn_edge.train.model import HeadModule


def make(backbone: Backbone, kind: str) -> VisuallyPrompted:
    head = HeadModule(backbone.zero_shot.head(("0", "1", "2"), "{}"))
    return VisuallyPrompted(backbone.vit, cast("VisualKind", kind), head)


@pytest.mark.parametrize("kind", VISUAL_KINDS)
def test_before_training_the_image_is_as_it_was(tiny_backbone: Backbone, kind: str):
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(make(tiny_backbone, kind).embed(image), tiny_backbone.vit(image))


@pytest.mark.parametrize(
    ("kind", "count"),
    [("padding", 3 * (64**2 - 46**2)), ("fixed-patch", 3 * 9**2), ("random-patch", 3 * 9**2)],
    ids=["a frame of 9 of 64 pixels, as 30 of 224", "a square of 9", "a square of 9 too"],
)
def test_these_pixels_alone_are_trained(tiny_backbone: Backbone, kind: str, count: int):
    model = make(tiny_backbone, kind)
    model(torch.zeros(2, 3, 64, 64)).sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == count
    assert all(parameter.grad is not None for parameter in trained)


def test_the_frame_leaves_the_middle_alone():
    frame = Frame((10, 12), 3)
    with torch.no_grad():
        for parameter in frame.parameters():
            parameter.fill_(1)
    wanted = torch.ones(2, 3, 10, 12)
    wanted[:, :, 3:-3, 3:-3] = 0
    assert torch.equal(frame(torch.zeros(2, 3, 10, 12)), wanted)


def test_the_fixed_patch_lies_in_the_corner():
    patch = FixedPatch((10, 12), 3)
    with torch.no_grad():
        patch.patch.copy_(torch.arange(27.0).view(3, 3, 3))
    out = patch(torch.zeros(1, 3, 10, 12))
    assert torch.equal(out[0, :, :3, :3], patch.patch)
    assert int(out.count_nonzero()) == 26


def test_the_random_patch_lies_where_the_image_says():
    patch = RandomPatch((10, 12), 3)
    with torch.no_grad():
        patch.patch.copy_(torch.arange(1.0, 28.0).view(3, 3, 3))
    image = torch.rand(64, 3, 10, 12, generator=torch.Generator().manual_seed(1))
    added = (patch(image) - image).detach()
    rows, columns = patch.places(image)
    for index in range(64):
        row, column = int(rows[index]), int(columns[index])
        torch.testing.assert_close(added[index, :, row : row + 3, column : column + 3], patch.patch.detach())
        torch.testing.assert_close(added[index].sum(), patch.patch.detach().sum(), rtol=0, atol=1e-3)
    assert set(rows.tolist()) == set(range(8)), "every row that there is room in"
    assert set(columns.tolist()) == set(range(10))


def test_the_random_place_does_not_depend_on_the_batch():
    patch = RandomPatch((64, 64), 9)
    image = torch.rand(7, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    together = torch.stack(patch.places(image), dim=1)
    alone = torch.cat([torch.stack(patch.places(one[None]), dim=1) for one in image])
    assert torch.equal(together, alone)


def test_another_kind_is_refused(tiny_backbone: Backbone):
    with pytest.raises(TrainingError, match="padding or fixed-patch or random-patch"):
        make(tiny_backbone, "stripes")
