"""Attention of the class token: the weights are those that the block itself uses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import pgn_edge.train.analysis.attention as attention_module
from pgn_edge.nn.attention import ClassTokenBlock
from pgn_edge.nn.builtin import Body, CharacterNet
from pgn_edge.nn.checkpoint import spread
from pgn_edge.nn.pgn import PgnConfig
from pgn_edge.nn.vit import Backbone, FrozenViT
from pgn_edge.train.analysis.attention import SHOWN, _maps, attention, class_attention, last_block, weights_of
from pgn_edge.train.analysis.features import Features
from pgn_edge.train.analysis.figures import figure
from pgn_edge.train.analysis.trained import Trained


@pytest.fixture
def block(tiny_backbone: Backbone) -> ClassTokenBlock:
    found = last_block(tiny_backbone.vit)
    assert found is not None
    return found


@torch.no_grad()
def test_the_weights_lead_to_the_blocks_own_output(block: ClassTokenBlock):
    x = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(0))
    weights = weights_of(block, x)
    assert weights.shape == (2, 4, 9)
    assert weights.sum(dim=-1).numpy() == pytest.approx(np.ones((2, 4)), abs=1e-5)
    value = block.key_value(block.norm_1(x)).chunk(2, dim=-1)[1].view(2, 9, 4, 32)
    mixed = torch.einsum("bhn,bnhd->bhd", weights, value).reshape(2, 1, 128)
    token = x[:, :1] + block.out(mixed)
    token = token + block.mlp(block.norm_2(token))
    assert token.numpy() == pytest.approx(block(x).numpy(), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["append", "inset"])
def test_image_prompts_and_the_rest_share_the_attention(tiny_backbone: Backbone, block: ClassTokenBlock, layout: str):
    vit = tiny_backbone.vit
    geometry = vit.geometry(16, layout)  # type: ignore[arg-type]
    image, prompts = torch.randn(2, 3, *geometry.content_hw), torch.randn(2, 16, 128)
    patches, on_prompts = class_attention(vit, block, geometry, image, prompts)
    assert patches.shape == (2, geometry.content_hw[0] // 8, 8)
    assert on_prompts.shape == (2, 16)
    total = patches.sum(axis=(1, 2)) + on_prompts.sum(axis=1)
    assert (total < 1).all()
    alone, nothing = class_attention(vit, block, geometry, image)
    assert nothing.shape == (2, 0)
    assert (alone > patches).mean() > 0.9  # nothing else is there to look at
    assert not block._forward_pre_hooks


@torch.no_grad()
def test_tokens_that_are_all_alike_get_the_same(block: ClassTokenBlock):
    x = torch.randn(128, generator=torch.Generator().manual_seed(3)).expand(1, 5, 128)
    assert weights_of(block, x).numpy() == pytest.approx(np.full((1, 4, 5), 0.2), abs=1e-6)


def test_a_section_says_how_much_the_prompts_get(trained: Trained, features: Features):
    section = attention(trained, features, 0)
    facts = section.facts
    assert [picture.name for picture in section.pictures] == ["attention_maps_0", "attention_prompts_0"]
    assert facts["prompts"] == pytest.approx(sum(facts["each_prompt"]), rel=1e-5)
    assert facts["prompts"] + facts["image_patches"] < 1
    assert f"{facts['prompts']:.1%}" in section.notes[0]


@torch.no_grad()
def test_the_map_without_prompts_is_computed_without_prompts(
    trained: Trained, features: Features, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[tuple[np.ndarray, ...]] = []
    monkeypatch.setattr(attention_module, "_maps", lambda *parts: drawn.append(parts) or figure(1, 1))
    section = attention(trained, features, 0)
    model, geometry, block = trained.model, trained.checkpoint.geometry, last_block(trained.model.vit)
    assert model.pgn is not None
    assert block is not None
    x = torch.from_numpy(trained.checkpoint.preprocess.normalise(features.images))
    alone, _ = class_attention(model.vit, block, geometry, x)
    beside, on_prompts = class_attention(model.vit, block, geometry, x, model.pgn(x))
    assert section.facts["image_patches_alone"] == pytest.approx(float(alone.sum(axis=(1, 2)).mean()), abs=1e-5)
    shown = spread(24, SHOWN)
    for found, expected in zip(drawn[0], (features.images, alone, beside, on_prompts), strict=True):
        assert found == pytest.approx(expected[shown], abs=1e-5)


def test_each_image_shows_its_attention_to_every_prompt():
    images = np.zeros((2, 16, 16, 3), np.uint8)
    maps, on_prompts = np.full((2, 2, 2), 0.1), np.array([[0.1, 0.2, 0.3], [0.4, 0.0, 0.1]])
    last_row = _maps(images, maps, maps, on_prompts).axes[-2:]
    heights = [[bar.get_height() for bar in axes.patches] for axes in last_row]
    assert np.array(heights) == pytest.approx(100 * on_prompts)


def test_prompts_that_are_pixels(other: Callable[[PgnConfig], Trained], features: Features):
    section = attention(other(PgnConfig("mlp", 8, 4, 192, 16, space="pixel")), features, 0)
    assert len(section.facts["each_prompt"]) == 8


def test_a_vit_that_pools_its_tokens_is_left_out(trained: Trained, features: Features):
    net = CharacterNet()
    body = Body(net.body.pre_norm, net.body.blocks, net.body.post_norm, net.body.project)  # its last block is whole
    vit = trained.model.vit
    trained.model.vit = FrozenViT(vit.spec, net.patch_embed, net.prefix, net.position, body, body.pre_norm)
    section = attention(trained, features, 0)
    assert section.pictures == ()
    assert section.notes[0].startswith("Left out")
