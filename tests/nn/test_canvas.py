"""The canvas: 8 bits that lose nothing, the very codec of deployment, and a gradient that passes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pgn_edge.geometry import Geometry, Layout
from pgn_edge.nn.canvas import assemble, carry, send, slot_patches, to_input, to_pixels
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.prompted import embed
from pgn_edge.nn.vit import Backbone, CanvasViT
from pgn_edge.preprocess import Preprocess
from pgn_edge.transport import Transport

CLIP = Preprocess((224, 224), mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
CPU = torch.device("cpu")
JPEG = Transport.parse("jpeg:75")
LAYOUTS: tuple[Layout, ...] = ("append", "inset")


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("prompts", [16, 13], ids=["whole rows", "spare slots"])
def test_slots_are_where_the_geometry_says(prompts: int):
    geometry = Geometry((64, 64), 8, prompts)
    patches = torch.randn(2, prompts, 192)
    canvas = assemble(torch.ones(2, 3, 64, 64), patches, geometry)
    assert canvas.shape == (2, 3, *geometry.canvas_hw)
    for slot in range(prompts):
        x0, y0, x1, y1 = geometry.slot_box(slot)
        assert torch.equal(canvas[:, :, y0:y1, x0:x1].reshape(2, 192), patches[:, slot])
    assert torch.equal(slot_patches(canvas, geometry), patches)
    assert not canvas[:, :, y0:, x1:].any(), "spare slots are zero"


def test_every_level_of_a_picture_survives():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(to_pixels(to_input(levels, CLIP, CPU), CLIP), levels)


def test_the_nearest_level_is_taken_and_what_is_outside_is_clipped():
    scale, shift = (torch.from_numpy(side) for side in CLIP.affine())
    asked = torch.tensor([-40.0, -0.6, 0.4, 0.6, 200.4, 254.6, 255.4, 300.0])
    found = to_pixels(asked.expand(1, 3, 1, 8) * scale + shift, CLIP)
    assert found.dtype == torch.uint8
    assert found.unbind(-1)[0].flatten().tolist() == [0, 0, 0, 1, 200, 255, 255, 255]
    assert torch.equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize("name", ["png", "webp", "webp:80", "jpeg:75"])
def test_canvases_are_carried_by_the_codec_of_deployment(name: str):
    transport, pixels = Transport.parse(name), noise(5, 32, 24, 3)
    expected = np.stack([transport.carry(each) for each in pixels.numpy()])
    assert np.array_equal(carry(pixels, transport).numpy(), expected)
    assert (transport.quality is None) == np.array_equal(expected, pixels.numpy())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_sent_is_seen_as_it_comes_out_and_gradients_pass(layout: Layout):
    geometry, preprocess = Geometry((64, 64), 8, 16, layout), CLIP.with_size((64, 64))
    image = torch.randn(3, 3, *geometry.content_hw)
    patches = torch.randn(3, 16, 192, requires_grad=True)
    seen, prompts = send(image, patches, geometry, preprocess, JPEG)
    with torch.no_grad():
        pixels = to_pixels(assemble(image, patches, geometry), preprocess)
    expected = to_input(carry(pixels, JPEG), preprocess, CPU)
    assert torch.equal(assemble(seen, prompts, geometry), expected)
    assert not seen.requires_grad
    weight = torch.randn(192)
    (prompts * weight).sum().backward()
    assert torch.equal(patches.grad, weight.expand(3, 16, 192))


def rounded_pgn(backbone: Backbone, width: int) -> PGN:
    torch.manual_seed(0)
    config = PgnConfig("resnet10", 16, 6, 192, width, "pixel", "softmax", 0, True)
    return PGN(config, 1.0, backbone.vit.spec.preprocess).eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_png_changes_nothing_for_prompts_that_are_rounded(tiny_backbone: Backbone, layout: Layout):
    vit = tiny_backbone.vit
    geometry, pgn = vit.geometry(16, layout), rounded_pgn(tiny_backbone, 16)
    image = to_input(noise(3, *geometry.content_hw, 3), vit.spec.preprocess, CPU)
    with torch.no_grad():
        plain, sent = (embed(vit, pgn, geometry, image, t) for t in (None, Transport("png")))
    torch.testing.assert_close(sent, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_engine_that_is_given_the_file_gives_the_embedding_of_training(tiny_backbone: Backbone, layout: Layout):
    vit = tiny_backbone.vit
    geometry, pgn = vit.geometry(16, layout), rounded_pgn(tiny_backbone, 16)
    image = to_input(noise(3, *geometry.content_hw, 3), vit.spec.preprocess, CPU)
    with torch.no_grad():
        pixels = carry(to_pixels(assemble(image, pgn(image), geometry), vit.spec.preprocess), JPEG)
        expected = CanvasViT(vit, geometry)(to_input(pixels, vit.spec.preprocess, CPU))
        sent, plain = (embed(vit, pgn, geometry, image, t) for t in (JPEG, None))
    torch.testing.assert_close(sent, expected, rtol=0, atol=1e-5)
    assert (sent - plain).abs().max() > 1e-2, "the codec lost nothing: this test proves nothing"
