"""How a PGN begins: a pixel library where a token library of the same seed does, as far as pixels reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pgn_edge.geometry import Geometry, Layout
from pgn_edge.nn.builtin import load_builtin
from pgn_edge.nn.canvas import send
from pgn_edge.nn.pgn import EDGE, PGN
from pgn_edge.nn.vit import FrozenViT, VitSpec
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.config import TrainConfig
from pgn_edge.train.start import build_pgn, least_squares_patches
from pgn_edge.transport import Transport


@pytest.fixture(scope="module")
def vit() -> FrozenViT:
    return load_builtin().vit


def start(vit: FrozenViT, geometry: Geometry, **fields: Any) -> PGN:
    torch.manual_seed(0)
    return build_pgn(TrainConfig("digits", layout=geometry.layout, **fields), vit, geometry)


def tokens_of(pgn: PGN, vit: FrozenViT, geometry: Geometry) -> torch.Tensor:
    """W L + b + E with the mean of the slots' positions."""
    with torch.no_grad():
        weight, bias = (torch.from_numpy(part).float() for part in vit.projection())
        return pgn.entries() @ weight.T + bias + vit.slot_position(geometry).mean(dim=0)


# `append` asks for the edge of the range in one pixel of 49,152; the positions that `inset` takes off, in one of 600.
@pytest.mark.parametrize(("layout", "most"), [("append", 1e-3), ("inset", 0.03)])
@pytest.mark.parametrize("library_std", [None, 0.02], ids=["as the positions", "as the paper"])
@pytest.mark.parametrize("generator", ["resnet10", "constant"])
def test_both_libraries_begin_as_the_same_tokens(
    vit: FrozenViT, layout: Layout, most: float, library_std: float | None, generator: Any
):
    geometry = vit.geometry(16, layout)
    fields: dict[str, Any] = {"library_std": library_std, "generator": generator}
    token, pixel = (start(vit, geometry, library_space=space, **fields) for space in ("token", "pixel"))
    wanted, found = token.entries().detach(), tokens_of(pixel, vit, geometry)
    assert float((found - wanted).norm() / wanted.norm()) < most
    names = [name for name, _ in token.named_parameters() if name.startswith("generator.")]
    assert bool(names) == (generator == "resnet10")
    assert all(torch.equal(token.get_parameter(name), pixel.get_parameter(name)) for name in names)


def narrow_vit(width: int) -> FrozenViT:
    """Patches of 4 x 4 x 3 = 48 pixels projected to `width`, with a bias."""
    torch.manual_seed(1)
    spec = VitSpec("narrow", (16, 16), 4, Preprocess((16, 16), mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 0.2)))
    patch_embed = torch.nn.Conv2d(3, width, 4, stride=4)
    return FrozenViT(spec, patch_embed, torch.randn(1, width), torch.randn(16, width), torch.nn.Identity(), None)


def test_a_projection_that_is_not_surjective_gives_the_nearest_tokens():
    vit = narrow_vit(80)
    geometry = vit.geometry(4)
    tokens = torch.randn(6, 80)
    patches = least_squares_patches(vit, geometry, tokens).double().numpy()
    weight, bias = vit.projection()
    left = tokens.double().numpy() - bias - patches @ weight.T
    assert np.abs(left @ weight).max() < 1e-4, "what is left must be out of reach of every patch"
    assert np.linalg.norm(left) > 1
    pgn = start(vit, geometry, library_space="pixel", prompts=4)
    low, high = pgn.legal()
    share = (pgn.entries() - low) / (high - low)
    assert share.min() > EDGE - 1e-5
    assert share.max() < 1 - EDGE + 1e-5
    assert ((share - EDGE).abs() < 1e-5).any(), "nothing was out of range: this test proves nothing"


def roughness(patches: torch.Tensor) -> float:
    """How much neighbouring pixels differ, as a share of how much any two do."""
    rows = patches.view(-1, 3, 8, 8)
    return float((rows[..., 1:] - rows[..., :-1]).std() / (rows.std() * 2**0.5))


@pytest.mark.parametrize("layout", ["append", "inset"])
def test_a_library_for_a_lossy_codec_begins_as_patches_that_it_leaves(vit: FrozenViT, layout: Layout):
    geometry, codec = vit.geometry(16, layout), Transport.parse("jpeg:75")
    left = {}
    for name in ("png", "jpeg:75"):
        pgn = start(vit, geometry, library_space="pixel", transport=name)
        mixed = pgn.entries().detach().view(16, 16, 192).mean(dim=1)  # as flat as mixtures are when training begins
        patches = mixed.expand(1, 16, 192)
        _, seen = send(torch.zeros(1, 3, *geometry.content_hw), patches, geometry, vit.spec.preprocess, codec)
        left[name] = float((seen - patches).norm() / patches.norm()), roughness(pgn.entries().detach())
    (noise, rough), (smooth, even) = left["png"], left["jpeg:75"]
    assert noise > 0.9, "nothing of noise is left"
    assert smooth < 0.6
    assert rough > 0.9
    assert even < 0.5


def test_prompts_without_a_library_begin_in_the_middle_of_the_range(vit: FrozenViT):
    geometry = vit.geometry(16)
    pgn = start(vit, geometry, library_space="pixel", library=0)
    with torch.no_grad():
        share = (pgn.eval()(torch.rand(4, 3, 64, 64)) + 1) / 2
    assert 0.4 < float(share.mean()) < 0.6
    assert 0.1 < float(share.std()) < 0.3  # a sigmoid of a standard normal: 0.21
