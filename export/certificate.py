"""What export measures of a prompt inversion, and the limits beyond which it refuses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pgn_edge.errors import InversionError
from pgn_edge.export.inversion import Inversion
from pgn_edge.preprocess import Preprocess

FP16_MAX = 65504.0
RESIDUAL_LIMIT = 1e-6  # float64 arithmetic on a projection of full rank stays far below
CONDITION_LIMIT = 1e4  # float32 canvases have seven digits; beyond this fewer than three reach the token
WAY_OUT = "train with --library-space pixel, which needs no inversion"


@dataclass(frozen=True)
class Certificate:
    """What export measured of the inversion, in the manifest and on the screen.

    Args:
        library_space: `token` or `pixel`.
        width: token width d, the rank that exactness needs.
        rank: of the patch projection W.
        sigma_max: largest singular value of W.
        sigma_min: smallest; 0 where a token has more entries than a patch has pixels.
        condition: their ratio.
        ridge: share of the largest squared singular value that was added to all of them; None for the pseudo-inverse.
        residual: largest relative residual of a library token, or of a golden prompt where there is no library.
        pixel_min: lowest value that any prompt can reach, normalised units; where there is no bound, that of the
            golden frames.
        pixel_max: highest.
        share_illegal: share of prompt pixels on the golden frames outside legal RGB.
        proven_legal: whether no prompt whatsoever can leave legal RGB.
        proof: how that was read from the graph that ships, in each of its precisions; empty where it was not.
        fp16_overflow: whether a pixel exceeds what fp16 can hold; the mixing then stays float32.
        rounded: whether the engine rounds prompt pixels to the levels of an 8-bit image.
    """

    library_space: str
    width: int
    rank: int
    sigma_max: float
    sigma_min: float
    condition: float
    ridge: float | None
    residual: float
    pixel_min: float
    pixel_max: float
    share_illegal: float
    proven_legal: bool
    fp16_overflow: bool
    rounded: bool = False
    proof: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with the limits that it was held against."""
        return {
            **asdict(self),
            "condition": self.condition if np.isfinite(self.condition) else None,  # JSON has no infinity
            "residual_limit": RESIDUAL_LIMIT,
            "condition_limit": CONDITION_LIMIT,
        }

    def check(self) -> None:
        """Refuse what cannot be exact.

        With a ridge the parity ladder judges alone: it says on the golden frames what the ridge costs.

        Raises:
            InversionError: rank, residual, conditioning or legality outside the limits.
        """
        if self.library_space == "pixel":
            self._require(
                self.proven_legal,
                "prompt pixels within legal RGB",
                f"{self.pixel_min:.6g} to {self.pixel_max:.6g}",
                "train the task again",
            )
        elif self.ridge is None:
            self._require_exact()

    def _require_exact(self) -> None:
        exact = self.rank == self.width and self.residual <= RESIDUAL_LIMIT  # NaN is refused too
        limit = f"a patch projection of rank {self.width}, residual at most {RESIDUAL_LIMIT:g}"
        self._require(exact, limit, f"rank {self.rank}, residual {self.residual:.3g}", WAY_OUT)
        self._require(
            self.condition <= CONDITION_LIMIT,
            f"a patch projection of condition at most {CONDITION_LIMIT:g}",
            f"{self.condition:.3g}",
            f"export with --ridge, or {WAY_OUT}",
        )

    def _require(self, good: bool, expected: str, got: str, do: str) -> None:
        if not good:
            raise InversionError("prompt inversion", expected=expected, got=got, do=do)


def certify(
    inversion: Inversion, golden_codes: np.ndarray, preprocess: Preprocess, rounded: bool = False
) -> Certificate:
    """Measure an inversion.

    Args:
        inversion: of the library, or of prompts without one.
        golden_codes: c (M, K, N) on the golden frames.
        preprocess: gives the legal range of each colour channel.
        rounded: whether the engine rounds prompt pixels to 8 bits.
    """
    golden, reach = inversion.patches(golden_codes), inversion.reach()
    low, high = (golden.min(axis=(0, 1)), golden.max(axis=(0, 1))) if reach is None else reach
    sigma = inversion.singular_values
    # Where tokens are wider than patches, W has more rows than singular values: the missing ones are zero.
    smallest = float(sigma[-1]) if len(sigma) == inversion.width else 0.0
    return Certificate(
        library_space="pixel" if inversion.legal else "token",
        width=inversion.width,
        rank=inversion.rank,
        sigma_max=float(sigma[0]),
        sigma_min=smallest,
        condition=float(sigma[0] / smallest) if smallest > 0 else float("inf"),
        ridge=inversion.ridge,
        residual=inversion.residual,
        pixel_min=float(low.min()),
        pixel_max=float(high.max()),
        share_illegal=float(_illegal(golden, preprocess).mean()),
        proven_legal=reach is not None and not _illegal(np.stack(reach), preprocess).any(),
        fp16_overflow=bool(max(-low.min(), high.max()) > FP16_MAX),
        rounded=rounded,
    )


def _illegal(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Which of the pixels (..., 3P²), rounded to float32 as on the canvas, no RGB image can hold."""
    by_channel = pixels.astype(np.float32).reshape(-1, 3, pixels.shape[-1] // 3)
    low, high = (side.reshape(3, 1) for side in preprocess.legal())
    return np.asarray((by_channel < low) | (by_channel > high))
