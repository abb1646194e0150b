"""Generators: what looks at the image and says how to mix the token library, or gives the prompts themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.errors import GeometryError

LookingName = Literal["resnet10", "resnet18", "mlp"]

CHANNELS = (16, 32, 64, 128)
CHANNELS_18 = (64, 128, 256, 512)
MLP_WIDTH = 256


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; halves the resolution where it widens.

    Args:
        inside: channels of the input.
        outside: channels of the output.
        normed: whether the shortcut of a block that widens ends in a batch norm, and has no bias then.
    """

    def __init__(self, inside: int, outside: int, normed: bool = False) -> None:
        super().__init__()
        stride = 1 if inside == outside else 2
        self.net = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            project = nn.Conv2d(inside, outside, 1, stride, bias=not normed)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(outside)) if normed else project

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, h, w) -> (B, outside, h / stride, w / stride)."""
        return F.relu(self.net(x) + self.shortcut(x))


class Generator(nn.Module):
    """A net that sees the image: features, then a head.

    Args:
        resolution: in pixels; what it means each generator says.
    """

    head: nn.Module

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution

    @property
    def last_layer(self) -> nn.Linear:
        """The layer that gives the outputs."""
        last = self.head[-1] if isinstance(self.head, nn.Sequential) else self.head
        assert isinstance(last, nn.Linear)
        return last

    def features(self) -> dict[str, Tensor]:
        """Parameters and buffers of all but the head, which do not depend on what the net is trained for."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("head.")}

    def look(self, image: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) -> features (B, width)."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) -> (B, outputs)."""
        outputs: Tensor = self.head(self.look(image))
        return outputs


class ResNet(Generator):
    """Stem, residual blocks, average pool, head; the image is averaged down to `resolution` pixels of width first.

    Args:
        stem: layers before the blocks.
        blocks: residual blocks.
        head: of the features.
        resolution: width in pixels.
    """

    def __init__(
        self, stem: Sequence[nn.Module], blocks: Sequence[nn.Module], head: nn.Module, resolution: int
    ) -> None:
        super().__init__(resolution)
        self.stem, self.blocks, self.head = nn.Sequential(*stem), nn.Sequential(*blocks), head
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def look(self, image: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) -> features (B, width)."""
        features: Tensor = self.blocks(self.stem(shrink(image, self.resolution))).mean(dim=(2, 3))
        return features


class ResNet10(ResNet):
    """The paper's small CNN: a stem, four residual blocks of 16-32-64-128 channels, average pool, head.

    Args:
        outputs: size of the output.
        resolution: width in pixels at which it looks; the image is averaged down to it first.
        hidden: width of one hidden layer in the head; 0 for a linear head.

    Source: Loedeman et al., BMVC 2024; jochemloedeman/PGN, pgn/pgn_models/resnet.py.
    """

    def __init__(self, outputs: int, resolution: int, hidden: int = 0) -> None:
        stem = _stem(nn.Conv2d(3, CHANNELS[0], 3, 2, 1, bias=False))
        inside = (CHANNELS[0], *CHANNELS[:-1])
        blocks = [ResidualBlock(i, o) for i, o in zip(inside, CHANNELS, strict=True)]
        super().__init__(stem, blocks, _head(CHANNELS[-1], outputs, hidden), resolution)


class ResNet18(ResNet):
    """The standard ResNet of 18 layers: two residual blocks each of 64-128-256-512 channels.

    Args:
        outputs: size of the output.
        resolution: width in pixels at which it looks; the image is averaged down to it first.
        hidden: width of one hidden layer in the head; 0 for a linear head.

    Source: He et al., CVPR 2016, table 1; its parameters begin as those of `ResNet10`.
    """

    def __init__(self, outputs: int, resolution: int, hidden: int = 0) -> None:
        stem = _stem(nn.Conv2d(3, CHANNELS_18[0], 7, 2, 3, bias=False))
        outside = [channels for channels in CHANNELS_18 for _ in range(2)]
        inside = (CHANNELS_18[0], *outside[:-1])
        blocks = [ResidualBlock(i, o, normed=True) for i, o in zip(inside, outside, strict=True)]
        super().__init__(stem, blocks, _head(CHANNELS_18[-1], outputs, hidden), resolution)


class Mlp(Generator):
    """Two layers on the pixels in the middle of the image: the smallest thing that looks at it.

    Args:
        outputs: size of the output.
        resolution: side in pixels of the square that it sees; nothing is scaled.
        hidden: width of one more hidden layer in the head; 0 for none.

    Source: Loedeman et al., BMVC 2024, the ablation of generators.
    """

    def __init__(self, outputs: int, resolution: int, hidden: int = 0) -> None:
        super().__init__(resolution)
        self.first = nn.Linear(3 * resolution**2, MLP_WIDTH)
        self.head = _head(MLP_WIDTH, outputs, hidden)

    def look(self, image: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) -> features (B, 256)."""
        height, width = image.shape[-2:]
        side = self.resolution
        if min(height, width) < side:
            raise GeometryError(
                "generator resolution",
                expected=f"at most {min(height, width)}, the smaller side of the image",
                got=str(side),
                do="choose another --resolution",
            )
        top, left = (height - side) // 2, (width - side) // 2
        middle = image[:, :, top : top + side, left : left + side]
        return F.relu(self.first(middle.flatten(1)))


def make_generator(name: LookingName, outputs: int, resolution: int, hidden: int = 0) -> Generator:
    """A generator by name, with random parameters.

    Args:
        name: `resnet10`, `resnet18` or `mlp`.
        outputs: size of the output.
        resolution: in pixels, at least 1.
        hidden: width of one hidden layer in the head; 0 for a linear head.
    """
    kinds = {"resnet10": ResNet10, "resnet18": ResNet18, "mlp": Mlp}
    return kinds[name](outputs, resolution, hidden)


def shrink(image: Tensor, width: int) -> Tensor:
    """Average an image down, every pixel of the result over the area that it covers.

    Args:
        image: (B, 3, H, W).
        width: of the result in pixels, 1 to W.

    Returns:
        (B, 3, h, width). Where width divides W, h is H divided by the same factor, and rows that are left over are not
        read; elsewhere it keeps the shape of the image as nearly as whole pixels can.

    Raises:
        GeometryError: the result would be wider than the image.
    """
    height, across = image.shape[-2:]
    if not 1 <= width <= across:
        raise GeometryError(
            "generator resolution",
            expected=f"at most the image width {across}",
            got=str(width),
            do="choose another --resolution",
        )
    factor, rest = divmod(across, width)
    if rest == 0:
        return F.avg_pool2d(image, factor) if factor > 1 else image
    # Two products with constants: what every runtime has, where an adaptive pool would be taken apart or refused.
    rows = _areas(height, max(1, round(height * width / across))).to(image)
    columns = _areas(across, width).to(image)
    return rows @ (image @ columns.T)


def _stem(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]


def _head(width: int, outputs: int, hidden: int) -> nn.Module:
    """From features to outputs; 0 for no hidden layer."""
    if not hidden:
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def _areas(size: int, parts: int) -> Tensor:
    """Shares of `size` pixels in equal parts of their line, (parts, size); each row sums to 1."""
    edges = np.arange(parts + 1) * size / parts
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    covered = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return torch.from_numpy(covered * parts / size)
