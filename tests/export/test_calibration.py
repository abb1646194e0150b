"""What a graph is measured on: prompts are the tokens that were meant, wherever they stand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pgn_edge.export.calibration import PICTURES, adversarial_images, check_canvases
from pgn_edge.geometry import Layout
from pgn_edge.nn.vit import Backbone


@pytest.mark.parametrize(
    ("prompts", "layout"),
    [
        pytest.param(16, "append", id="whole rows"),
        pytest.param(13, "append", id="slots to spare"),
        pytest.param(16, "inset", id="slots with positions of their own"),
    ],
)
def test_prompts_have_the_size_that_is_said(tiny_backbone: Backbone, prompts: int, layout: Layout):
    vit = tiny_backbone.vit
    geometry = vit.geometry(prompts, layout)
    canvas, side = check_canvases(vit, geometry), geometry.patch
    boxes = [geometry.slot_box(slot) for slot in range(prompts)]
    patches = np.stack([canvas[:, :, y0:y1, x0:x1].reshape(-1, 3 * side**2) for x0, y0, x1, y1 in boxes], axis=1)
    tokens = vit.slot_tokens(torch.from_numpy(patches), geometry).numpy()
    sizes = tokens.std(axis=(1, 2)) / float(vit.position.std())
    np.testing.assert_allclose(sizes, np.geomspace(0.5, 4, len(canvas)), rtol=0.05)
    for x0, y0, x1, y1 in boxes:
        canvas[:, :, y0:y1, x0:x1] = 0
    assert not canvas[:, :, geometry.content_hw[0] :].any(), "pixels outside the slots"


def test_the_images_are_there_without_prompts_too(tiny_backbone: Backbone):
    vit = tiny_backbone.vit
    size = vit.spec.image_hw
    adversarial = adversarial_images(size)
    canvas = check_canvases(vit, vit.geometry(0))
    assert canvas.shape == (PICTURES + len(adversarial), 3, *size)
    np.testing.assert_array_equal(canvas[PICTURES:], vit.spec.preprocess.normalise(adversarial))
