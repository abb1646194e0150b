"""Prompt inversion: the pixels that a frozen ViT's own patch projection turns into given prompt tokens.

A ViT turns the patch x in slot k into W x + b + E_k. For a prompt token h_k = sum_n c_kn t_n we need
W x_k = h_k - b - E_k, so x_k = W+ (h_k - b - E_k) = c_k L + o_k with L = T W+^T and o_k = -W+ (b + E_k). The rows of c
sum to 1 under a softmax, so where o does not depend on k it folds into L; they do not under a sigmoid. Prompts without
a library are h = h I: their library is the identity, L is W+^T, and what multiplies it is the prompt itself. Everything
here is float64 and happens once, at export.

Source: Loedeman et al., BMVC 2024, section 3.3. Ridge and the pixel space are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pgn_edge.geometry import Geometry

if TYPE_CHECKING:
    from pgn_edge.nn.vit import FrozenViT

# What the codes c are that multiply L: shares that sum to 1, each 0 to 1 for itself, or any numbers.
Codes = Literal["shares", "gates", "free"]

RIDGE_FRAMES = 16
RIDGES = np.geomspace(1e-16, 1e-2, 57)  # shares of the largest squared singular value, four to a decade


@dataclass(frozen=True)
class Projection:
    """The patch projection of a ViT, and what it adds in each prompt slot.

    Args:
        weight: W (d, 3P²) float64, pixels in the order (C, P, P).
        bias: b (d,) float64.
        slots: E (K, d) float64, the position of each prompt slot.
    """

    weight: np.ndarray
    bias: np.ndarray
    slots: np.ndarray

    def __post_init__(self) -> None:
        for name in ("weight", "bias", "slots"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))

    @classmethod
    def of(cls, vit: FrozenViT, geometry: Geometry) -> Projection:
        """The patch projection of `vit`, and what stands in the slots of `geometry`."""
        return cls(*vit.projection(), vit.slot_position(geometry).double().cpu().numpy())

    @property
    def one_row(self) -> bool:
        """Whether every slot adds the same."""
        return bool((self.slots == self.slots[:1]).all())

    def tokens(self, patches: np.ndarray) -> np.ndarray:
        """What the ViT makes of the pixels in its slots: (..., K, 3P²) -> (..., K, d)."""
        return np.asarray(patches @ self.weight.T + self.bias + self.slots)


@dataclass(frozen=True)
class Inversion:
    """The library as pixels, and what was measured on the way.

    Args:
        pixels: L (N, 3P²) float64, pixels in the order (C, P, P), normalised units; includes o where o is one row and
            the codes are shares. None where the codes are pixels already.
        offset: o (K, 3P²) float64 where it depends on the slot, (1, 3P²) where it does not, None where it is in L.
        singular_values: of W, descending.
        rank: numerical rank of W.
        width: token width d.
        residual: largest relative distance between a wanted token and the one that its pixels give: of the library's
            tokens, or of the prompts that were looked at where there is no library.
        ridge: share of the largest squared singular value that was added to all of them, 0 where none was the best;
            None for the plain pseudo-inverse.
        legal: whether the prompts were learned as legal pixels, so that nothing had to be inverted.
        codes: what multiplies L.
        bounds: lowest and highest value of each pixel (3P²,) where the codes are pixels already.
    """

    pixels: np.ndarray | None
    offset: np.ndarray | None
    singular_values: np.ndarray
    rank: int
    width: int
    residual: float
    ridge: float | None = None
    legal: bool = False
    codes: Codes = "shares"
    bounds: tuple[np.ndarray, np.ndarray] | None = None

    def patches(self, codes: np.ndarray) -> np.ndarray:
        """Pixels of the prompt slots for codes c (..., K, N), such as mixture coefficients: (..., K, 3P²) float64."""
        mixed = codes.astype(np.float64)
        if self.pixels is not None:
            mixed = mixed @ self.pixels
        return np.asarray(mixed if self.offset is None else mixed + self.offset)

    def reach(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Lowest and highest value of each pixel (3P²,) under any codes; None where there is no bound."""
        if self.pixels is None or self.codes == "free":
            return self.bounds
        if self.codes == "shares":  # convex
            low, high = self.pixels.min(axis=0), self.pixels.max(axis=0)
        else:
            low, high = np.minimum(self.pixels, 0).sum(axis=0), np.maximum(self.pixels, 0).sum(axis=0)
        if self.offset is not None:
            low, high = low + self.offset.min(axis=0), high + self.offset.max(axis=0)
        return low, high


def invert_library(
    projection: Projection, library: np.ndarray, ridge: float | None = None, codes: Codes = "shares"
) -> Inversion:
    """Fold prompt inversion into constants.

    Args:
        projection: of the ViT.
        library: T (N, d).
        ridge: share of the largest squared singular value that is added to all of them; trades exactness for smaller
            pixels where W is ill-conditioned. None for the plain pseudo-inverse.
        codes: what multiplies the library.

    Returns:
        The inverted library, exact where rank(W) = d and there is no ridge.
    """
    return _invert(projection, singular_factors(projection.weight), library, ridge, codes)


def invert_prompts(projection: Projection, prompts: np.ndarray) -> Inversion:
    """Fold the inversion of prompts that are no mixtures into constants.

    Args:
        projection: of the ViT.
        prompts: h (M, K, d) on the golden frames, for the residual.

    Returns:
        The pseudo-inverse as the library, exact where rank(W) = d.
    """
    inversion = invert_library(projection, np.eye(len(projection.weight)), codes="free")
    wanted = prompts.astype(np.float64)
    given = projection.tokens(inversion.patches(wanted))
    share = np.linalg.norm(given - wanted, axis=-1) / np.maximum(np.linalg.norm(wanted, axis=-1), 1e-300)
    return replace(inversion, residual=float(share.max()))


def _invert(projection: Projection, factors: Any, library: np.ndarray, ridge: float | None, codes: Codes) -> Inversion:
    """As `invert_library`, with the singular value decomposition of W already made."""
    weight, library = projection.weight, np.asarray(library, np.float64)
    left, sigma, right = factors
    rank = _rank(weight, sigma)
    kept = sigma[:rank]
    gain = kept / (kept**2 + (ridge or 0.0) * sigma[0] ** 2)  # 1 / sigma where there is no ridge
    pseudo_inverse = (right[:rank].T * gain) @ left[:, :rank].T  # W+ (3P², d)
    pixels = library @ pseudo_inverse.T
    offset = -(projection.slots + projection.bias) @ pseudo_inverse.T
    wanted = library - projection.bias - projection.slots[:1]
    given = (pixels + offset[:1]) @ weight.T
    residual = np.linalg.norm(given - wanted, axis=1) / np.maximum(np.linalg.norm(wanted, axis=1), 1e-300)
    folds = projection.one_row and codes == "shares"
    return Inversion(
        pixels=pixels + offset[0] if folds else pixels,
        offset=None if folds else offset[:1] if projection.one_row else offset,
        singular_values=sigma,
        rank=rank,
        width=len(weight),
        residual=float(residual.max()),
        ridge=ridge,
        codes=codes,
    )


def adopt_pixels(projection: Projection, pixels: np.ndarray) -> Inversion:
    """A library that was learned as pixels L (N, 3P²): its tokens are what W makes of them, so nothing is inverted."""
    return replace(_adopt(projection), pixels=np.asarray(pixels, np.float64), codes="shares")


def adopt_prompts(projection: Projection, low: np.ndarray, high: np.ndarray) -> Inversion:
    """Prompts that a net gives as pixels, each between low and high (3P²,)."""
    return replace(_adopt(projection), bounds=(np.asarray(low, np.float64), np.asarray(high, np.float64)))


def _adopt(projection: Projection) -> Inversion:
    """Nothing to invert."""
    weight = projection.weight
    sigma = singular_factors(weight)[1]
    return Inversion(
        pixels=None,
        offset=None,
        singular_values=sigma,
        rank=_rank(weight, sigma),
        width=len(weight),
        residual=0.0,
        legal=True,
        codes="free",
    )


def choose_ridge(
    projection: Projection, library: np.ndarray, coefficients: np.ndarray, codes: Codes = "shares"
) -> Inversion:
    """The inversion whose prompt tokens come out closest when canvas and projection are float32.

    Without a ridge an ill-conditioned W asks for large pixels, whose rounding then hides the token; with too much of
    it the token itself is missed. The best lies where the two meet, and depends on the tokens that are really used.

    Args:
        projection: of the ViT.
        library: T (N, d); the identity for prompts that are no mixtures.
        coefficients: c (M, K, N) on the golden frames.
        codes: what they are.
    """
    coefficients = coefficients[:RIDGE_FRAMES]
    tokens = coefficients.astype(np.float64) @ np.asarray(library, np.float64)  # (M, K, d)
    factors = singular_factors(projection.weight)

    def error(inversion: Inversion) -> float:
        return relative_error(tokens, float32_tokens(projection, inversion.patches(coefficients)))

    return min((_invert(projection, factors, library, float(ridge), codes) for ridge in (0.0, *RIDGES)), key=error)


def float32_tokens(projection: Projection, patches: np.ndarray) -> np.ndarray:
    """Tokens (..., K, d) that an engine with a float32 canvas and projection makes of pixels (..., K, 3P²)."""
    rounded = patches.astype(np.float32) @ projection.weight.T.astype(np.float32)
    return np.asarray(rounded + (projection.bias + projection.slots).astype(np.float32))


def relative_error(wanted: np.ndarray, got: np.ndarray) -> float:
    """Root of the summed squared differences as a share of that of the wanted values."""
    return float(np.linalg.norm(got - wanted) / max(float(np.linalg.norm(wanted)), 1e-300))


def singular_factors(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin singular value decomposition, after a QR that makes the matrix square: as stable, and several times faster.

    Args:
        weight: (m, n).

    Returns:
        U (m, k), singular values (k,) descending, V transposed (k, n), with k = min(m, n).
    """
    if len(weight) > weight.shape[1]:
        left, sigma, right = singular_factors(weight.T)
        return right.T, sigma, left.T
    basis, triangle = np.linalg.qr(weight.T)  # (3P², d), (d, d)
    right, sigma, left = np.linalg.svd(triangle, full_matrices=False)
    return left.T, sigma, (basis @ right).T


def _rank(weight: np.ndarray, sigma: np.ndarray) -> int:
    return int((sigma > sigma[0] * max(weight.shape) * np.finfo(np.float64).eps).sum())
