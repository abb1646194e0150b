"""The Prompt Generation Network: its size as in the paper, and its mixtures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from pgn_edge.errors import CheckpointError
from pgn_edge.nn.generator import ResidualBlock
from pgn_edge.nn.pgn import EDGE, PGN, Levels, PgnConfig
from pgn_edge.nn.prompted import embed
from pgn_edge.preprocess import Preprocess


def make(
    generator: str = "resnet10", prompts: int = 4, library: int = 6, width: int = 8, resolution: int = 16, **more: Any
) -> PGN:
    torch.manual_seed(0)
    return PGN(PgnConfig(generator, prompts, library, width, resolution, **more)).eval()


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("prompts", "library", "width", "count"),
    [
        pytest.param(16, 256, 768, 1_032_304, id="the paper's CLIP setting"),
        pytest.param(16, 128, 384, 620_656, id="half the library, narrow tokens"),
        pytest.param(16, 128, 768, 669_808, id="half the library"),
    ],
)
def test_parameter_counts(prompts: int, library: int, width: int, count: int):
    pgn = make("resnet10", prompts, library, width)
    assert sum(parameter.numel() for parameter in pgn.parameters()) == count


@pytest.mark.parametrize("generator", ["resnet10", "resnet18", "mlp"])
def test_coefficients_are_mixtures(generator: str):
    with torch.no_grad():
        coefficients = make(generator).coefficients(IMAGES)
    assert coefficients.shape == (3, 4, 6)
    assert (coefficients >= 0).all()
    torch.testing.assert_close(coefficients.sum(dim=-1), torch.ones(3, 4))


def test_under_a_sigmoid_each_coefficient_stands_for_itself():
    soft, gates = make(), make(mixing="sigmoid")
    with torch.no_grad():
        logits = soft.generator(IMAGES).view(3, 4, 6)
        torch.testing.assert_close(gates.coefficients(IMAGES), 1 / (1 + (-logits).exp()))
        torch.testing.assert_close(gates(IMAGES), torch.einsum("bkn,nd->bkd", 1 / (1 + (-logits).exp()), gates.library))


@pytest.mark.parametrize(
    ("fields", "mixes", "observed"),
    [
        pytest.param({}, True, True, id="the paper's"),
        pytest.param({"mixing": "sigmoid"}, True, False, id="gates are no shares"),
        pytest.param({"library": 0}, False, False, id="no library, nothing to mix"),
        pytest.param({"generator": "constant", "library": 4}, False, False, id="mixtures that never change"),
    ],
)
def test_who_mixes(fields: dict[str, Any], mixes: bool, observed: bool):
    pgn = make(**fields)
    assert (pgn.mixes, pgn.config.observed) == (mixes, observed)
    if not mixes:
        with pytest.raises(AssertionError):
            pgn.coefficients(IMAGES)


@pytest.mark.parametrize("fields", [{}, {"mixing": "sigmoid"}, {"library": 0}, {"generator": "constant", "library": 4}])
def test_codes_times_library_are_the_prompts(fields: dict[str, Any]):
    pgn = make(**fields)
    with torch.no_grad():
        codes = pgn.codes(IMAGES)
        library = pgn.entries() if pgn.config.library else torch.eye(8)
        torch.testing.assert_close(pgn(IMAGES), codes @ library)


def test_prompts_are_mixtures_of_the_library():
    pgn = make()
    with torch.no_grad():
        prompts, coefficients = pgn(IMAGES), pgn.coefficients(IMAGES)
    by_hand = torch.einsum("bkn,nd->bkd", coefficients, pgn.library)
    torch.testing.assert_close(prompts, by_hand)
    assert prompts.shape == (3, 4, 8)


def test_the_network_looks_at_the_image():
    with torch.no_grad():
        first, second, _ = make()(IMAGES)
    assert (first - second).abs().max() > 0


def test_constant_prompts_do_not():
    pgn = make("constant", 4, 4)
    with torch.no_grad():
        prompts = pgn(IMAGES)
    torch.testing.assert_close(prompts, pgn.library.expand(3, 4, 8), rtol=0, atol=0)


def test_every_parameter_gets_a_gradient():
    pgn = make().train()
    (pgn(IMAGES) * torch.randn(8, generator=torch.Generator().manual_seed(1))).sum().backward()
    without = [name for name, p in pgn.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias right before a softmax over N shifts nothing only if it is the same for all N: all of them matter here.
    assert without == []


def test_the_library_starts_small():
    library = make(prompts=1, library=2000, width=64).library
    assert float(library.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert abs(float(library.detach().mean())) < 1e-3


def test_prompts_without_a_library_begin_as_a_librarys_would():
    with torch.no_grad():
        prompts = make(prompts=64, library=0, width=64)(IMAGES)
    assert prompts.shape == (3, 64, 64)
    assert 0.01 < float(prompts.std()) < 0.06  # library_std is 0.02
    between_images = float((prompts - prompts.mean(dim=0)).std())
    assert 1e-4 < between_images < float(prompts.std()), "constant prompts that the image moves a little"


def test_layers_are_made_in_the_order_that_they_run():
    # Else the seeds of published runs would stand for other parameters.
    torch.manual_seed(0)
    library = 0.02 * torch.randn(6, 8)
    torch.nn.Conv2d(3, 16, 3, bias=False)
    for inside, outside in ((16, 16), (16, 32), (32, 64), (64, 128)):
        ResidualBlock(inside, outside)
    head = torch.nn.Linear(128, 24)
    pgn = make()
    assert torch.equal(pgn.library, library)
    assert torch.equal(pgn.generator.head.weight, head.weight)
    names = list(pgn.state_dict())
    assert (names[0], names[1], names[-1]) == ("library", "generator.stem.0.weight", "generator.head.bias")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(("resnet50", 4, 6, 8, 16), id="unknown generator"),
        pytest.param(("resnet10", 0, 6, 8, 16), id="no prompts"),
        pytest.param(("resnet10", 4, -1, 8, 16), id="less than no library"),
        pytest.param(("constant", 4, 0, 8, 16), id="constant prompts need theirs"),
        pytest.param(("constant", 4, 4, 8, 16, "token", "softmax", 5), id="no net, no hidden layer"),
        pytest.param(("constant", 4, 4, 8, 16, "token", "sigmoid"), id="constant prompts are not mixed"),
        pytest.param(("resnet10", 4, 6, 8, 16, "token", "relu"), id="unknown mixing"),
        pytest.param(("resnet10", 4, 6, 8, 16, "pixel", "sigmoid"), id="sums of pixels leave legal RGB"),
        pytest.param(("resnet10", 4, 0, 8, 16, "token", "sigmoid"), id="nothing to mix"),
        pytest.param(("resnet10", 4, 6, 8, 16, "token", "softmax", -1), id="negative hidden layer"),
        pytest.param(("resnet10", 4, 6, 8, 16, "token", "softmax", 0, True), id="tokens are not rounded"),
        pytest.param(("resnet10", 4, 6, 8, 16, "pixel", "softmax", 0, "no"), id="a word for a truth value"),
        pytest.param(("resnet10", 4, 6, -8, 16), id="negative width"),
        pytest.param(("constant", 4, 6, 8, 16), id="constant with a library of its own"),
    ],
)
def test_configurations_that_are_refused(fields: tuple[Any, ...]):
    with pytest.raises(CheckpointError):
        PgnConfig(*fields)


GOOD = asdict(PgnConfig("resnet10", 4, 6, 8, 16))


def test_a_configuration_survives_json():
    assert PgnConfig.from_json(GOOD) == PgnConfig("resnet10", 4, 6, 8, 16)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="empty"),
        pytest.param({**GOOD, "width": "wide"}, id="a word for a number"),
        pytest.param({**GOOD, "width": float("inf")}, id="Infinity"),
        pytest.param({**GOOD, "generator": None}, id="null"),
        pytest.param({**GOOD, "hidden": None}, id="null for a number"),
        pytest.param({**GOOD, "rounded": 1}, id="a number for a truth value"),
        pytest.param([], id="a list"),
    ],
)
def test_json_that_makes_no_sense(data: Any):
    with pytest.raises(CheckpointError):
        PgnConfig.from_json(data)


# The pixel space.

PREPROCESS = Preprocess((64, 64), mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 0.2))


def pixel_pgn(width: int = 192, preprocess: Preprocess = PREPROCESS) -> PGN:
    torch.manual_seed(0)
    return PGN(PgnConfig("resnet10", 16, 6, width, 16, "pixel"), 1.0, preprocess).eval()


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3], ids=["grey", "as initialised", "saturated"])
def test_pixel_entries_are_legal_rgb_whatever_is_learned(scale: float):
    pgn = pixel_pgn()
    with torch.no_grad():
        pgn.library.mul_(scale)
        pixels = pgn.entries().view(6, 3, 64)
    mean, std = (torch.tensor(values)[:, None] for values in (PREPROCESS.mean, PREPROCESS.std))
    back = 255 * (pixels * std + mean)
    assert back.min() >= -1e-3
    assert back.max() <= 255 + 1e-3
    if scale == 0:
        torch.testing.assert_close(back, torch.full_like(back, 127.5))
    if scale == 1e3:
        assert ((back < 1) | (back > 254)).float().mean() > 0.95, "the whole range can be reached"


def test_pixel_prompts_are_what_the_vit_makes_of_the_pixels(tiny_backbone):
    vit = tiny_backbone.vit
    pgn = pixel_pgn(preprocess=vit.spec.preprocess)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for layout in ("append", "inset"):
        geometry = vit.geometry(16, layout)
        content = image[:, :, : geometry.content_hw[0]]
        with torch.no_grad():
            patches = (pgn.coefficients(content) @ pgn.entries()).view(2, 16, 3, 8, 8)
            tokens = torch.stack([vit.patch_embed(patch).flatten(1) for patch in patches.unbind(1)], dim=1)
            expected = vit(content, tokens + vit.slot_position(geometry))
            torch.testing.assert_close(embed(vit, pgn, geometry, content), expected, rtol=0, atol=1e-5)


def test_a_library_begins_as_the_patches_that_are_given():
    low, high = pixel_pgn().legal()
    share = torch.linspace(-0.5, 1.5, 6 * 192).view(6, 192)
    pgn = PGN(PgnConfig("resnet10", 16, 6, 192, 16, "pixel"), 1.0, PREPROCESS, low + share * (high - low))
    found = (pgn.entries() - low) / (high - low)
    inside = (share > EDGE) & (share < 1 - EDGE)
    torch.testing.assert_close(found[inside], share[inside], rtol=0, atol=1e-5)
    torch.testing.assert_close(found, share.clamp(EDGE, 1 - EDGE), rtol=0, atol=1e-5)
    pgn.entries().sum().backward()
    assert (pgn.library.grad / (high - low)).min() > EDGE / 2, "pixels that cannot move any more"


def test_the_pixel_range_is_part_of_the_state():
    state = pixel_pgn().state_dict()
    with torch.device("meta"):
        again = PGN(PgnConfig("resnet10", 16, 6, 192, 16, "pixel"))
    again.load_state_dict(state, assign=True)
    assert torch.equal(again.entries(), pixel_pgn().entries())


def test_a_configuration_without_a_space_is_a_token_library():
    config = PgnConfig("resnet10", 4, 6, 8, 16)
    later = ("space", "mixing", "hidden", "rounded")
    for count in range(len(later)):
        older = {key: value for key, value in asdict(config).items() if key not in later[count:]}
        assert PgnConfig.from_json(older) == config


@pytest.mark.parametrize("space", ["colour", "", None, 3])
def test_an_unknown_space(space: Any):
    with pytest.raises(CheckpointError, match="library space: expected token or pixel"):
        PgnConfig("resnet10", 4, 6, 8, 16, space)


# Rounded to 8 bits.


def levels_of(pixels: torch.Tensor) -> torch.Tensor:
    """Values (..., 3P²) as levels, computed from mean and standard deviation."""
    mean, std = (torch.tensor(values).repeat_interleave(64) for values in (PREPROCESS.mean, PREPROCESS.std))
    return 255 * (pixels * std + mean)


@pytest.mark.parametrize(
    ("generator", "library"), [("resnet10", 6), ("mlp", 0), ("constant", 16)], ids=["mixed", "direct", "constant"]
)
def test_rounded_prompts_are_the_nearest_of_256_levels(generator: str, library: int):
    torch.manual_seed(0)
    config = PgnConfig(generator, 16, library, 192, 16, "pixel", "softmax", 0, True)
    pgn = PGN(config, 1.0, PREPROCESS).eval()
    with torch.no_grad():
        exact, rounded = levels_of(pgn.unrounded(IMAGES)), levels_of(pgn(IMAGES))
    torch.testing.assert_close(rounded, rounded.round(), rtol=0, atol=1e-3)
    assert rounded.min() >= -1e-3
    assert rounded.max() <= 255 + 1e-3
    assert (rounded - exact).abs().max() <= 0.5 + 1e-3
    assert (rounded - exact).abs().mean() > 0.2, "nothing was rounded"


def test_training_sees_the_values_that_are_deployed_and_gradients_pass():
    low, high = torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 3.0])
    pixels = (torch.rand(500, 2) * 4 + low).requires_grad_()
    levels = Levels()
    trained, deployed = levels.train()(pixels, low, high), levels.eval()(pixels, low, high)
    assert torch.equal(trained, deployed)
    (trained * torch.tensor([3.0, 5.0])).sum().backward()
    assert torch.equal(pixels.grad, torch.tensor([3.0, 5.0]).expand(500, 2))


def test_every_level_is_its_own_nearest():
    low, high = torch.tensor([-1.7923]), torch.tensor([1.9303])
    values = low + torch.arange(256)[:, None] * ((high - low) / 255)
    assert torch.equal(Levels().eval()(values, low, high), values)
