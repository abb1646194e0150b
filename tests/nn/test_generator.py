"""Generators: against torchvision, against numpy, and on sizes that do not divide."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from pgn_edge.errors import GeometryError
from pgn_edge.nn.generator import Mlp, ResNet10, ResNet18, make_generator, shrink
from pgn_edge.nn.pgn import PGN, PgnConfig

NAMES = ["resnet10", "resnet18", "mlp"]


def images(*size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(64, 64), (48, 64)], ids=["square", "inset"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "batch statistics"])
def test_resnet18_is_torchvisions(size: tuple[int, int], training: bool):
    theirs, ours = torchvision.models.resnet18(num_classes=7), ResNet18(7, 64)
    for seed, (name, tensor) in enumerate(theirs.state_dict().items()):
        if tensor.is_floating_point():
            tensor.copy_(0.1 * numbers(seed, *tensor.shape) + (1.0 if "running_var" in name or tensor.ndim == 1 else 0))
    state = {ours_name: theirs.state_dict()[name] for ours_name, name in in_torchvision(ours).items()}
    ours.load_state_dict(state)
    assert len(state) == len(theirs.state_dict())
    with torch.no_grad():
        expected = theirs.train(training)(images(*size))
        torch.testing.assert_close(ours.train(training)(images(*size)), expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 1e-2


def in_torchvision(model: ResNet18) -> dict[str, str]:
    """Our names -> torchvision's."""
    names: dict[str, str] = {}
    for name in model.state_dict():
        part, _, rest = name.partition(".")
        if part == "stem":
            names[name] = f"{'conv1' if rest[0] == '0' else 'bn1'}.{rest[2:]}"
        elif part == "head":
            names[name] = f"fc.{rest}"
        else:
            index, module, at, *tail = rest.split(".")
            kinds = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2"}
            inside = f"downsample.{at}" if module == "shortcut" else kinds[at]
            names[name] = f"layer{int(index) // 2 + 1}.{int(index) % 2}.{inside}.{'.'.join(tail)}"
    return names


def test_the_mlp_by_hand():
    model = Mlp(5, 10)
    image = images(24, 31)
    with torch.no_grad():
        middle = image[:, :, 7:17, 10:20].reshape(2, 300)
        first = (middle @ model.first.weight.T + model.first.bias).clamp(min=0)
        torch.testing.assert_close(model(image), first @ model.head.weight.T + model.head.bias)
    changed = image.clone()
    changed[:, :, :7], changed[:, :, :, 20:] = 9, 9
    assert torch.equal(model(changed), model(image)), "the border does not count"


@pytest.mark.parametrize("name", NAMES)
def test_a_hidden_layer_by_hand(name: str):
    model = make_generator(name, 5, 16, hidden=9).eval()
    with torch.no_grad():
        features = model.look(images(32, 32))
        hidden = (features @ model.head[0].weight.T + model.head[0].bias).clamp(min=0)
        torch.testing.assert_close(model(images(32, 32)), hidden @ model.head[2].weight.T + model.head[2].bias)
    assert model.head[0].out_features == 9
    assert model.last_layer is model.head[2]


@pytest.mark.parametrize("hidden", [0, 9])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_all_but_the_head(name: str, hidden: int):
    model = make_generator(name, 5, 16, hidden)
    other = make_generator(name, 77, 16, 0)
    other.load_state_dict(model.features(), strict=False)
    model.eval(), other.eval()
    with torch.no_grad():
        assert torch.equal(model.look(images(32, 32)), other.look(images(32, 32)))
    assert not any(key.startswith("head") for key in model.features())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str):
    model = make_generator(name, 5, 16, hidden=6).train()
    (model(images(32, 32, count=4)) * numbers(1, 5)).sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


# Resolution.


def test_larger_images_are_averaged_down():
    generator = ResNet10(5, 16).eval()
    with torch.no_grad():
        small = torch.nn.functional.avg_pool2d(images(32, 32), 2)
        torch.testing.assert_close(generator(images(32, 32)), generator(small), rtol=0, atol=0)


def by_hand(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeat every pixel until the areas are whole, then average: exact in another way."""
    fine = image.repeat(height, axis=-2).repeat(width, axis=-1)
    shape = (*image.shape[:-2], height, image.shape[-2], width, image.shape[-1])
    return fine.reshape(shape).mean(axis=(-3, -1))


@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_any_width_is_the_average_over_areas(height: int, width: int, data: st.DataObject):
    target = data.draw(st.integers(1, width).filter(lambda value: width % value != 0 or value == width))
    image = images(height, width, count=1).double()
    small = shrink(image, target)
    if target == width:
        assert torch.equal(small, image)
        return
    rows = max(1, round(height * target / width))
    assert small.shape[-2:] == (rows, target)
    np.testing.assert_allclose(small.numpy(), by_hand(image.numpy(), rows, target), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(224, 224), (160, 224)], ids=["square", "inset"])
def test_64_of_224(size: tuple[int, int]):
    image = images(*size, count=1)
    small = shrink(image, 64)
    assert small.shape[-2:] == (round(64 * size[0] / 224), 64)
    # torch's own pool has whole pixels alone, so it agrees in the mean and no further.
    torch.testing.assert_close(small.mean(), image.mean(), rtol=0, atol=1e-6)
    torch.testing.assert_close(shrink(torch.full_like(image, 3.0), 64), torch.full_like(small, 3.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 32), (24, 32)], ids=["square", "inset"])
def test_a_resolution_beyond_the_image_is_refused(name: str, size: tuple[int, int]):
    with pytest.raises(GeometryError, match="generator resolution: expected at most"):
        make_generator(name, 5, 33)(images(*size))


def test_the_mlp_needs_a_square_that_fits():
    with pytest.raises(GeometryError, match="at most 24, the smaller side"):
        Mlp(5, 30)(images(24, 32))


# The page.


def test_the_table_of_parameters_is_what_the_nets_have():
    lines = (Path(__file__).parents[2] / "docs" / "generators.md").read_text().splitlines()
    start = lines.index("| generator | hidden | library | space | parameters | of these before the head |") + 2
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines[start:]))
    assert len(table) == 10
    for line in table:
        name, hidden, library, space, *counts = (cell.strip() for cell in line.strip("|").split("|"))
        generator, _, side = name.partition(", side ")
        width = {"token": 768, "pixel": 3072}[space]
        config = PgnConfig(generator.strip("`"), 16, int(library), width, int(side or 224), space, hidden=int(hidden))
        with torch.device("meta"):
            pgn = PGN(config)
        before = {} if pgn.generator is None else pgn.generator.features()
        floats = [p for name, p in pgn.generator.named_parameters() if name in before] if pgn.generator else []
        found = [sum(p.numel() for p in pgn.parameters()), sum(p.numel() for p in floats)]
        assert [f"{count:,}" for count in found] == counts, line
