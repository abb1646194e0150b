"""A canvas of the stock size comes out of a server's own resize and centre crop as it went in, bit for bit.

Random noise is the hardest picture: a shift by a fraction of a pixel, or one step of any filter, changes most of it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from pgn_edge.geometry import Geometry, whole_rows
from pgn_edge.transport import Transport

CLIPImageProcessor = pytest.importorskip(
    "transformers.models.clip.image_processing_clip", reason="transformers ended its support of Python 3.10"
).CLIPImageProcessor
CLIPImageProcessorPil = pytest.importorskip(
    "transformers.models.clip.image_processing_pil_clip", reason="transformers ended its support of Python 3.10"
).CLIPImageProcessorPil

SIDE, PATCH = 224, 32
Server = Callable[[Image.Image], np.ndarray]


def pillow(image: Image.Image) -> np.ndarray:
    """The shorter side to 224, then the middle."""
    scale = SIDE / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - SIDE) // 2, (resized.height - SIDE) // 2
    return np.array(resized.crop((left, top, left + SIDE, top + SIDE)))


def torchvision_pil(resize: int, image: Image.Image) -> np.ndarray:
    bicubic = transforms.InterpolationMode.BICUBIC
    return np.array(transforms.Compose([transforms.Resize(resize, bicubic), transforms.CenterCrop(SIDE)])(image))


def torchvision_tensor(image: Image.Image) -> np.ndarray:
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.PILToTensor(), transforms.Resize(SIDE, bicubic, antialias=True), transforms.CenterCrop(SIDE)]
    return transforms.Compose(steps)(image).permute(1, 2, 0).numpy()


def torchvision_v2(first: list[torch.nn.Module], image: Image.Image) -> np.ndarray:
    bicubic = v2.InterpolationMode.BICUBIC
    steps = [*first, v2.Resize(SIDE, bicubic, antialias=True), v2.CenterCrop(SIDE)]
    found = v2.Compose(steps)(image)
    return np.array(found) if isinstance(found, Image.Image) else levels(found)


def of_open_clip(mode: str, image: Image.Image) -> np.ndarray:
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return levels(open_clip.image_transform(SIDE, is_train=False, resize_mode=mode, **plain)(image))


def of_transformers(kind: type, image: Image.Image) -> np.ndarray:
    """Built from its class, whose defaults are CLIP's: nothing is downloaded."""
    found = kind(do_rescale=False, do_normalize=False)(image, return_tensors="pt")["pixel_values"][0]
    return found.permute(1, 2, 0).numpy()


def levels(image: torch.Tensor) -> np.ndarray:
    """(3, H, W), pixels divided by 255 where they are floats -> (H, W, 3) pixels, which need not be whole numbers."""
    pixels = image * 255 if image.is_floating_point() else image
    return pixels.permute(1, 2, 0).numpy()


SERVERS: Mapping[str, Server] = {
    "Pillow": pillow,
    "torchvision, PIL": partial(torchvision_pil, SIDE),
    "torchvision, tensor": torchvision_tensor,
    "torchvision v2, PIL": partial(torchvision_v2, []),
    "torchvision v2, tensor": partial(torchvision_v2, [v2.PILToTensor()]),
    "torchvision v2, floats": partial(torchvision_v2, [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    "open_clip, shortest": partial(of_open_clip, "shortest"),
    "open_clip, squash": partial(of_open_clip, "squash"),
    "transformers, PIL": partial(of_transformers, CLIPImageProcessorPil),
    "transformers, torchvision": partial(of_transformers, CLIPImageProcessor),
}


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def served(server: Server, canvas: np.ndarray) -> np.ndarray:
    """What the ViT behind a server sees of a PNG."""
    with Image.open(io.BytesIO(Transport("png").encode(canvas))) as image:
        found = server(image.convert("RGB"))
    assert found.shape == (SIDE, SIDE, 3)
    return found


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_a_canvas_of_the_stock_size_is_left_alone(server: Server):
    geometry = Geometry((SIDE, SIDE), PATCH, whole_rows((SIDE, SIDE), PATCH, "inset"), "inset")
    canvas = noise(*geometry.canvas_hw)
    found = served(server, canvas)
    # Of floats the division by 255 is undone, which may leave the last bit.
    np.testing.assert_allclose(found, canvas, rtol=0, atol=0 if found.dtype == np.uint8 else 2e-5)
    assert np.array_equal(np.round(found).astype(np.uint8), canvas)


# Where it is no identity: what the tests above would miss if they could not fail.


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_an_append_canvas_loses_its_prompts(server: Server):
    geometry = Geometry((SIDE, SIDE), PATCH, 14)
    canvas = noise(*geometry.canvas_hw)
    found, rows = served(server, canvas), geometry.rows * PATCH
    assert not np.array_equal(np.round(found), canvas[:SIDE]), "the image is where it was"
    assert not np.array_equal(np.round(found[-rows:]), canvas[-rows:]), "the prompts are where they were"


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_a_canvas_of_another_size_is_resampled(server: Server):
    canvas = noise(256, 256)
    assert np.abs(served(server, canvas).astype(float) - canvas[16:-16, 16:-16]).mean() > 10


def test_a_server_that_resizes_to_more_than_it_cuts_out_leaves_nothing():
    canvas = noise(SIDE, SIDE)
    assert np.abs(served(partial(torchvision_pil, 256), canvas).astype(float) - canvas).mean() > 10
