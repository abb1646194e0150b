"""The frozen ViT, with the prompts as tokens and as pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pgn_edge.nn.builtin
from pgn_edge.errors import CheckpointError, DataError
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.builtin import CHARACTERS, CharacterNet
from pgn_edge.nn.vit import Backbone, CanvasViT, FrozenViT


@pytest.fixture(scope="module")
def net() -> CharacterNet:
    torch.manual_seed(5)
    return CharacterNet().eval()


@pytest.fixture(scope="module")
def vit(net: CharacterNet) -> FrozenViT:
    return net.backbone().vit


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_frozen_and_with_its_head_it_is_the_trained_net(net: CharacterNet):
    backbone = net.backbone()
    labels = tuple(CHARACTERS)
    with torch.no_grad():
        logits = backbone.zero_shot.head(labels, "{}").logits(backbone.vit(IMAGES).numpy())
        close(torch.from_numpy(logits), net(IMAGES))


def test_the_head_covers_the_classes_asked_for(net: CharacterNet):
    backbone = net.backbone()
    with torch.no_grad():
        embedding = backbone.vit(IMAGES).numpy()
    some = backbone.zero_shot.head(("7", "Q", "z"), "{}").logits(embedding)
    every = backbone.zero_shot.head(tuple(CHARACTERS), "{}").logits(embedding)
    np.testing.assert_allclose(some, every[:, [CHARACTERS.index(c) for c in "7Qz"]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("label", ["cat", "", "é", "01"])
def test_a_class_that_it_has_no_name_for_is_refused(tiny_backbone: Backbone, label: str):
    with pytest.raises(DataError, match="one character"):
        tiny_backbone.zero_shot.head(("0", label), "{}")


def test_without_prompts_the_canvas_is_the_image(vit: FrozenViT):
    with torch.no_grad():
        close(CanvasViT(vit, vit.geometry(0))(IMAGES), vit(IMAGES))


@pytest.mark.parametrize(("prompts", "layout"), [(16, "append"), (13, "append"), (16, "inset"), (13, "inset")])
def test_pixels_in_slots_are_tokens_beside_the_image(vit: FrozenViT, prompts: int, layout: str):
    geometry = vit.geometry(prompts, layout)
    canvas = torch.randn(2, 3, *geometry.canvas_hw, generator=torch.Generator().manual_seed(1))
    weight, bias = (torch.from_numpy(array).float() for array in vit.projection())
    tokens = []
    for slot in range(prompts):
        x0, y0, x1, y1 = geometry.slot_box(slot)
        tokens.append(canvas[:, :, y0:y1, x0:x1].flatten(1) @ weight.T + bias)
    prompt_tokens = torch.stack(tokens, dim=1) + vit.slot_position(geometry)
    with torch.no_grad():
        image = canvas[:, :, : geometry.content_hw[0]]
        close(CanvasViT(vit, geometry)(canvas), vit(image, prompt_tokens))


@pytest.mark.parametrize("layout", ["append", "inset"])
def test_what_stands_in_spare_slots_changes_nothing(vit: FrozenViT, layout: str):
    geometry = vit.geometry(13, layout)
    module = CanvasViT(vit, geometry)
    canvas = torch.randn(1, 3, *geometry.canvas_hw, generator=torch.Generator().manual_seed(2))
    other = canvas.clone()
    other[:, :, -geometry.patch :, -3 * geometry.patch :] = 1e3
    used = canvas.clone()
    used[:, :, -geometry.patch :, : 5 * geometry.patch] += 1
    with torch.no_grad():
        assert torch.equal(module(canvas), module(other))
        assert not torch.equal(module(canvas), module(used))


def test_slot_positions(vit: FrozenViT):
    assert (vit.slot_position(vit.geometry(13)) == 0).all()
    inset = vit.geometry(13, "inset")
    assert torch.equal(vit.slot_position(inset), vit.position[48 : 48 + 13])


def test_append_leaves_the_image_part_of_the_table_alone(vit: FrozenViT):
    table = CanvasViT(vit, vit.geometry(13)).table
    assert torch.equal(table[:64], vit.position)
    assert (table[64:] == 0).all()


def test_it_stays_frozen(vit: FrozenViT):
    vit.train()
    assert not any(module.training for module in vit.modules())
    CanvasViT(vit, vit.geometry(4)).train()
    assert not any(module.training for module in vit.modules())
    assert not any(parameter.requires_grad for parameter in vit.parameters())


def test_prompts_get_the_gradients_of_the_trained_net():
    torch.manual_seed(8)
    net = CharacterNet().double()
    vit, images = net.backbone().vit, IMAGES.double()
    prompts = torch.randn(2, 4, vit.width, dtype=torch.float64, requires_grad=True)
    patches = net.patch_embed(images).flatten(2).transpose(1, 2) + net.position
    expected = net.body(torch.cat([net.prefix.expand(2, -1, -1), patches, prompts], dim=1))
    got = vit(images, prompts)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(each.square().sum(), prompts)[0] for each in (got, expected)]
    assert gradients[1].abs().amax(dim=-1).min() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9 * float(gradients[1].abs().max()))


def test_the_last_block_of_the_trained_net_stays_whole():
    net = CharacterNet()
    before = net.state_dict()
    vit = net.backbone().vit
    assert net.state_dict().keys() == before.keys()
    seen: list[int] = []
    for block in (vit.body.blocks[-2], vit.body.blocks[-1], net.body.blocks[-1]):
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    vit(IMAGES)
    net(IMAGES)
    assert seen == [65, 1, 65, 65]  # the two nets share every block but the last


PARTS = {
    "patch projection": lambda vit: vit.patch_embed.weight,
    "position table": lambda vit: vit.position,
    "pre-norm weight": lambda vit: vit.body.pre_norm.weight,
    "pre-norm bias": lambda vit: vit.body.pre_norm.bias,
}


@pytest.mark.parametrize("part", PARTS)
def test_the_fingerprint_covers_what_a_canvas_meets(part: str):
    torch.manual_seed(6)
    vit = CharacterNet().backbone().vit
    before = vit.fingerprint()
    with torch.no_grad():
        PARTS[part](vit).view(-1)[-1] += 1e-3
    assert vit.fingerprint() != before


def test_the_fingerprint_is_the_weights_own(net: CharacterNet):
    assert net.backbone().vit.fingerprint() == net.backbone().vit.fingerprint()
    torch.manual_seed(7)
    assert CharacterNet().backbone().vit.fingerprint() != net.backbone().vit.fingerprint()


def test_freezing_does_not_follow_later_training(net: CharacterNet):
    frozen = net.backbone().vit
    before = frozen.position.clone()
    with torch.no_grad():
        net.position.add_(1)
    after = frozen.position.clone()
    with torch.no_grad():
        net.position.sub_(1)
    assert torch.equal(before, after)


# The embedded backbone as the package brings it.


def test_the_packages_own_weights_load():
    vit = load_backbone("builtin").vit
    assert vit.fingerprint() == load_backbone("builtin").vit.fingerprint()
    with torch.no_grad():
        assert torch.isfinite(vit(IMAGES)).all()


def test_weights_that_are_not_the_released_ones_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pgn_edge.nn.builtin, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match="install pgn-edge again"):
        load_backbone("builtin")


@pytest.mark.parametrize(("name", "weights"), [("builtin", "weights.pt"), ("builtin:large", None)])
def test_builtin_takes_no_options(name: str, weights: str | None):
    with pytest.raises(CheckpointError, match="leave it out"):
        load_backbone(name, weights)
