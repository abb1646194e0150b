"""The deployed PGN against the same computation spelt out in numpy and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pgn_edge.export.deployed import DeployedPGN
from pgn_edge.export.inversion import Projection, invert_library
from pgn_edge.geometry import Geometry, Layout
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.vit import Backbone, CanvasViT
from pgn_edge.preprocess import Preprocess

CASES = [
    pytest.param(("append", 16, "resnet10"), id="append, full rows"),
    pytest.param(("append", 13, "resnet10"), id="append, three spare slots"),
    pytest.param(("append", 3, "resnet10"), id="append, less than one row"),
    pytest.param(("inset", 16, "resnet10"), id="inset, full rows"),
    pytest.param(("inset", 13, "resnet10"), id="inset, three spare slots"),
    pytest.param(("append", 5, "constant"), id="constant prompts"),
]


def make_pgn(generator: str, prompts: int, width: int) -> PGN:
    """Untrained, but with batch norms that have seen something: folding them must matter."""
    torch.manual_seed(2)
    pgn = PGN(PgnConfig(generator, prompts, prompts if generator == "constant" else 9, width, 16))
    for module in pgn.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    torch.nn.init.normal_(pgn.library)
    return pgn.eval()


class Setup:
    """One PGN, deployed for one canvas."""

    def __init__(self, backbone: Backbone, layout: Layout, prompts: int, generator: str) -> None:
        self.vit = backbone.vit
        self.pgn = make_pgn(generator, prompts, self.vit.width)
        self.geometry: Geometry = self.vit.geometry(prompts, layout)
        self.preprocess: Preprocess = self.vit.spec.preprocess.with_size(self.geometry.content_hw)
        library = self.pgn.library.detach().double().numpy()
        inversion = invert_library(Projection.of(self.vit, self.geometry), library)
        self.deployed = DeployedPGN(self.pgn, self.geometry, self.preprocess, inversion).eval()
        self.images = np.random.default_rng(3).integers(0, 256, (4, *self.geometry.content_hw, 3), np.uint8)
        self.normalised = torch.from_numpy(self.preprocess.normalise(self.images))
        with torch.no_grad():
            self.canvas, *self.more = (output.numpy() for output in self.deployed(torch.from_numpy(self.images)))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tiny_backbone: Backbone) -> Setup:
    return Setup(tiny_backbone, *request.param)


def test_the_image_part_is_the_normalised_image(case: Setup):
    top = case.geometry.content_hw[0]
    np.testing.assert_allclose(case.canvas[:, :, :top], case.normalised.numpy(), rtol=0, atol=1e-6)


def test_the_slots_hold_what_numpy_computes(case: Setup):
    vit, geometry = case.vit, case.geometry
    weight, bias = vit.projection()
    pseudo_inverse = np.linalg.pinv(weight)
    position = vit.slot_position(geometry).double().numpy()
    with torch.no_grad():
        mixtures = case.pgn.codes(case.normalised).double().numpy()
    tokens = mixtures @ case.pgn.library.detach().double().numpy()  # (M, K, d)
    for frame in range(len(case.images)):
        for slot in range(geometry.prompts):
            pixels = pseudo_inverse @ (tokens[frame, slot] - bias - position[slot])
            x0, y0, x1, y1 = geometry.slot_box(slot)
            np.testing.assert_allclose(
                case.canvas[frame, :, y0:y1, x0:x1].ravel(), pixels, rtol=0, atol=2e-4 * np.abs(pixels).max()
            )


def test_the_second_output_is_what_torch_mixes_with(case: Setup):
    if case.pgn.config.generator == "constant":
        assert case.more == [], "mixtures that never change say nothing of the image"
        return
    with torch.no_grad():
        mixtures = case.pgn.coefficients(case.normalised).numpy()
    np.testing.assert_allclose(case.more[0], mixtures, rtol=0, atol=1e-5)


def test_spare_slots_are_zero_and_nothing_else_is(case: Setup):
    geometry = case.geometry
    used = np.zeros(geometry.canvas_hw, bool)
    used[: geometry.content_hw[0]] = True
    for slot in range(geometry.prompts):
        x0, y0, x1, y1 = geometry.slot_box(slot)
        used[y0:y1, x0:x1] = True
    assert (case.canvas[:, :, ~used] == 0).all()
    assert (~used).sum() == geometry.spare * geometry.patch**2
    assert (case.canvas[:, :, used] != 0).mean() > 0.9


def test_the_frozen_vit_reads_the_tokens_back(case: Setup):
    # Through pixels or beside them: the embedding is the same.
    with torch.no_grad():
        by_token = case.vit(case.normalised, case.pgn(case.normalised))
        by_pixel = CanvasViT(case.vit, case.geometry)(torch.from_numpy(case.canvas))
    np.testing.assert_allclose(by_pixel.numpy(), by_token.numpy(), rtol=0, atol=1e-3 * float(by_token.abs().max()))
    with torch.no_grad():
        without = case.vit(case.normalised)
    assert float((by_token - without).abs().max()) > 1e-2 * float(by_token.abs().max()), "prompts change nothing here"


def test_batch_norms_are_folded_in_the_copy_only(tiny_backbone: Backbone):
    case = Setup(tiny_backbone, "append", 4, "resnet10")
    kinds = [type(module) for module in case.deployed.modules()]
    assert torch.nn.BatchNorm2d not in kinds
    assert torch.nn.BatchNorm2d in [type(module) for module in case.pgn.modules()]
