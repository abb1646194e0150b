"""Generators: what looks at the image and says how to mix the token library."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.errors import GeometryError

CHANNELS = (16, 32, 64, 128)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; halves the resolution where it widens."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        stride = 1 if inside == outside else 2
        self.net = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, h, w) -> (B, outside, h / stride, w / stride)."""
        return F.relu(self.net(x) + self.shortcut(x))


class ResNet10(nn.Module):
    """The paper's small CNN: a stem, four residual blocks of 16-32-64-128 channels, average pool, linear.

    Args:
        outputs: size of the output.
        resolution: width in pixels at which it looks; the image is averaged down to it first.

    Source: Loedeman et al., BMVC 2024; jochemloedeman/PGN, pgn/pgn_models/resnet.py.
    """

    def __init__(self, outputs: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.stem = nn.Sequential(
            nn.Conv2d(3, CHANNELS[0], 3, 2, 1, bias=False),
            nn.BatchNorm2d(CHANNELS[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        inside = (CHANNELS[0], *CHANNELS[:-1])
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in zip(inside, CHANNELS, strict=True)))
        self.head = nn.Linear(CHANNELS[-1], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self) -> dict[str, Tensor]:
        """Parameters and buffers of all but the last layer, which do not depend on what the net is trained for."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("head.")}

    def forward(self, image: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) -> (B, outputs)."""
        factor, rest = divmod(image.shape[-1], self.resolution)
        if rest or factor < 1:
            raise GeometryError(
                "generator resolution",
                expected=f"a divisor of the image width {image.shape[-1]}",
                got=str(self.resolution),
                do="choose another --resolution",
            )
        if factor > 1:
            image = F.avg_pool2d(image, factor)
        pooled = self.blocks(self.stem(image)).mean(dim=(2, 3))
        outputs: Tensor = self.head(pooled)
        return outputs
