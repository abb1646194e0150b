"""In which order of channels, and in which units, an engine may want its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgn_edge.preprocess import Order, Preprocess

CLIP = Preprocess((1, 1), mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
IMAGENET = Preprocess((1, 1), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
LEVELS = Preprocess((1, 1), std=(1 / 255, 1 / 255, 1 / 255))
STATED = {
    "0 to 255": LEVELS,
    "0 to 1": Preprocess((1, 1)),
    "-1 to 1": Preprocess((1, 1), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "ImageNet": IMAGENET,
    "CLIP": CLIP,
}
INSIDE = ("0 to 255", "0 to 1")  # no mean is taken off: if there is one, the engine does it
ORDERS: tuple[Order, Order] = ("RGB", "BGR")


@dataclass(frozen=True)
class Units:
    """What an engine may expect.

    Args:
        order: of the channels.
        name: of the normalisation.
        preprocess: its mean and standard deviation, RGB order.
    """

    order: Order
    name: str
    preprocess: Preprocess

    def values(self, pixels: np.ndarray) -> np.ndarray:
        """RGB in levels of 0 to 255, (M, H, W, 3), in these units: float64."""
        scale, shift = (side.astype(np.float64).reshape(3) for side in self.preprocess.affine())
        values = pixels * scale + shift
        return values if self.order == "RGB" else values[..., ::-1]


def hypotheses(eight_bit: bool, own: Sequence[Preprocess]) -> list[Units]:
    """Every order with every normalisation that an engine may expect, each once.

    Args:
        eight_bit: for an engine that takes bytes, and so has its normalisation inside.
        own: normalisations of the backbones that it may be.
    """
    named = {"0 to 255": LEVELS} if eight_bit else dict(STATED)
    for preprocess in [] if eight_bit else own:
        if not any(same_scale(preprocess, other) for other in named.values()):
            named[f"mean {_numbers(preprocess.mean)}, std {_numbers(preprocess.std)}"] = preprocess
    return [Units(order, name, preprocess) for name, preprocess in named.items() for order in ORDERS]


def same_scale(first: Preprocess, second: Preprocess) -> bool:
    """Whether both normalise alike."""
    return np.allclose([first.mean, first.std], [second.mean, second.std], atol=1e-4)


def _numbers(values: Sequence[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)
