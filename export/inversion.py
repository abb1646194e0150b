"""Prompt inversion: the pixels that a frozen ViT's own patch projection turns into given prompt tokens.

A ViT turns the patch x in slot k into W x + b + E_k. For a prompt token h_k = sum_n c_kn t_n we need
W x_k = h_k - b - E_k, so x_k = W+ (h_k - b - E_k) = c_k L + o_k with L = T W+^T and o_k = -W+ (b + E_k). The rows of c
sum to 1, so where o does not depend on k it folds into L. Everything here is float64 and happens once, at export.

Source: Loedeman et al., BMVC 2024, section 3.3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pgn_edge.errors import InversionError
from pgn_edge.preprocess import Preprocess

FP16_MAX = 65504.0
RESIDUAL_LIMIT = 1e-6  # float64 arithmetic on a projection of full rank stays far below
CONDITION_LIMIT = 1e4  # float32 canvases have seven digits; beyond this fewer than three reach the token


@dataclass(frozen=True)
class Inversion:
    """The inverted library and what was measured on the way.

    Args:
        pixels: L (N, 3P²) float64, pixels in the order (C, P, P), normalised units; includes o where o is one row.
        offset: o (K, 3P²) float64 where it depends on the slot, else None.
        singular_values: of W, descending.
        rank: numerical rank of W.
        width: token width d.
        residual: largest relative distance between a wanted library token and the one that its pixels give.
    """

    pixels: np.ndarray
    offset: np.ndarray | None
    singular_values: np.ndarray
    rank: int
    width: int
    residual: float


def invert_library(weight: np.ndarray, bias: np.ndarray, library: np.ndarray, slot_position: np.ndarray) -> Inversion:
    """Fold prompt inversion into constants.

    Args:
        weight: W (d, 3P²).
        bias: b (d,).
        library: T (N, d).
        slot_position: E (K, d), what the engine adds in each prompt slot.

    Returns:
        The inverted library, exact where rank(W) = d.
    """
    weight, bias, library, slot_position = (
        np.asarray(array, np.float64) for array in (weight, bias, library, slot_position)
    )
    left, sigma, right = np.linalg.svd(weight, full_matrices=False)
    rank = int((sigma > sigma[0] * max(weight.shape) * np.finfo(np.float64).eps).sum())
    pseudo_inverse = (right[:rank].T / sigma[:rank]) @ left[:, :rank].T  # W+ (3P², d)
    pixels = library @ pseudo_inverse.T
    offset = -(slot_position + bias) @ pseudo_inverse.T
    one_row = bool((slot_position == slot_position[:1]).all())
    wanted = library - bias - slot_position[:1]
    given = (pixels + offset[:1]) @ weight.T
    residual = np.linalg.norm(given - wanted, axis=1) / np.maximum(np.linalg.norm(wanted, axis=1), 1e-300)
    return Inversion(
        pixels=pixels + offset[0] if one_row else pixels,
        offset=None if one_row else offset,
        singular_values=sigma,
        rank=rank,
        width=weight.shape[0],
        residual=float(residual.max()),
    )


@dataclass(frozen=True)
class Certificate:
    """What export measured of the inversion, in the manifest and on the screen.

    Args:
        width: token width d, the rank that exactness needs.
        rank: of the patch projection W.
        sigma_max: largest singular value of W.
        sigma_min: smallest.
        condition: their ratio.
        residual: largest relative residual of a library token.
        pixel_min: lowest value that any mixture can reach, normalised units.
        pixel_max: highest.
        share_illegal: share of prompt pixels on the golden frames outside legal RGB.
        fp16_overflow: whether a constant exceeds what fp16 can hold.
    """

    width: int
    rank: int
    sigma_max: float
    sigma_min: float
    condition: float
    residual: float
    pixel_min: float
    pixel_max: float
    share_illegal: float
    fp16_overflow: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with the limits that it was held against."""
        return {
            **asdict(self),
            "residual_limit": RESIDUAL_LIMIT,
            "condition_limit": CONDITION_LIMIT,
        }

    def check(self, precision: str) -> None:
        """Refuse an inversion that is not exact.

        Raises:
            InversionError: rank, residual, conditioning or range outside the limits.
        """
        way_out = "choose a backbone whose patch has at least as many pixel values as a token has entries"
        if self.rank < self.width or not self.residual <= RESIDUAL_LIMIT:  # NaN is refused too
            raise InversionError(
                "prompt inversion",
                expected=f"a patch projection of rank {self.width}, residual at most {RESIDUAL_LIMIT:g}",
                got=f"rank {self.rank}, residual {self.residual:.3g}",
                do=way_out,
            )
        if self.condition > CONDITION_LIMIT:
            raise InversionError(
                "prompt inversion",
                expected=f"a patch projection of condition at most {CONDITION_LIMIT:g}",
                got=f"{self.condition:.3g}",
                do=way_out,
            )
        if precision == "fp16" and self.fp16_overflow:
            raise InversionError(
                "prompt inversion",
                expected=f"pixels within ±{FP16_MAX:g} for fp16",
                got=f"{self.pixel_min:.3g} to {self.pixel_max:.3g}",
                do="export without --fp16",
            )


def certify(inversion: Inversion, golden_coefficients: np.ndarray, preprocess: Preprocess) -> Certificate:
    """Measure an inversion.

    Args:
        inversion: of the library.
        golden_coefficients: c (M, K, N) on the golden frames.
        preprocess: gives the legal range of each colour channel.
    """
    low, high = inversion.pixels.min(axis=0), inversion.pixels.max(axis=0)  # mixtures are convex
    golden = golden_coefficients.astype(np.float64) @ inversion.pixels  # (M, K, 3P²)
    if inversion.offset is not None:
        low, high = low + inversion.offset.min(axis=0), high + inversion.offset.max(axis=0)
        golden = golden + inversion.offset
    scale, shift = (array.reshape(3, 1).astype(np.float64) for array in preprocess.affine())
    by_channel = golden.reshape(-1, 3, golden.shape[-1] // 3)
    illegal = (by_channel < shift) | (by_channel > 255 * scale + shift)
    sigma = inversion.singular_values
    return Certificate(
        width=inversion.width,
        rank=inversion.rank,
        sigma_max=float(sigma[0]),
        sigma_min=float(sigma[-1]),
        condition=float(sigma[0] / sigma[-1]) if sigma[-1] > 0 else float("inf"),
        residual=inversion.residual,
        pixel_min=float(low.min()),
        pixel_max=float(high.max()),
        share_illegal=float(illegal.mean()),
        fp16_overflow=bool(max(-low.min(), high.max()) > FP16_MAX),
    )
