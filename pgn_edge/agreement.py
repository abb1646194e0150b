"""How far two sets of embeddings are apart, and the limits that hold everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgn_edge.contract import Precision
from pgn_edge.heads import Head

FP32_MAX_ABS = 1e-4  # of the L2-normalised embedding
# Of fp16, and of the other precisions below float32, which are held to no less.
FP16_COSINE = 0.999
FP16_AGREEMENT = 0.99  # share of frames with the same top-1


@dataclass(frozen=True)
class Agreement:
    """Embeddings against a reference.

    Args:
        max_abs: largest absolute difference of the L2-normalised embeddings.
        cosine: smallest cosine over the frames.
        top1_flips: frames whose class changed.
        frames: how many were compared.
    """

    max_abs: float
    cosine: float
    top1_flips: int
    frames: int

    def within(self, precision: Precision) -> bool:
        """Whether this is inside the limits of `precision`; NaN is outside."""
        if precision == "fp32":
            return self.max_abs <= FP32_MAX_ABS
        return self.cosine >= FP16_COSINE and self.top1_flips <= (1 - FP16_AGREEMENT) * self.frames

    def __str__(self) -> str:
        return f"max abs {self.max_abs:.2g}, cosine {self.cosine:.6f}, {self.top1_flips} of {self.frames} top-1 flips"


def limits(precision: Precision) -> str:
    """The limits of `precision` in words, for messages."""
    if precision == "fp32":
        return f"max abs at most {FP32_MAX_ABS:g}"
    return f"cosine at least {FP16_COSINE:g} and top-1 agreement at least {FP16_AGREEMENT:.0%}"


def compare(reference: np.ndarray, embedding: np.ndarray, head: Head) -> Agreement:
    """Compare embeddings (M, D) with a reference (M, D), both float32, under one head."""
    with np.errstate(invalid="ignore", over="ignore"):  # Inf becomes NaN, which is outside every limit
        first, second = (_unit(array.astype(np.float64)) for array in (reference, embedding))
        flips = head.logits(reference).argmax(axis=1) != head.logits(embedding).argmax(axis=1)
    return Agreement(
        max_abs=float(np.abs(first - second).max()),
        cosine=float((first * second).sum(axis=1).min()),
        top1_flips=int(flips.sum()),
        frames=len(reference),
    )


def _unit(array: np.ndarray) -> np.ndarray:
    return np.asarray(array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-300))
