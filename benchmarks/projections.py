"""Prompts that must come out of a patch projection: token libraries that are inverted, against libraries of pixels.

Patch projections W of true size with random directions; singular values as random weights have them, or decaying
evenly over four decades. Library tokens are random and as large as the tokens of image patches. Mixtures of them are
asked for; the error is the relative distance in token space between what was asked for and what W makes of the pixels,
where these are kept as float32, as fp16, or as 8 bits (clipped to legal RGB, rounded).

A token library is inverted by the pseudo-inverse, by a truncated one, or with a ridge; rank and ridge are the best of
many for each format, so this is what inversion can do, not what it does untuned. A pixel library asks for nothing that
W cannot give; `rounded` is one that was trained with its prompts rounded to 8 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import environment_table, markdown_table, parser, write_results

from pgn_edge.export.inversion import Projection, invert_library, relative_error, singular_factors
from pgn_edge.export.synthetic import pictures
from pgn_edge.files import write_bytes
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.environment import describe_environment

CLIP = Preprocess((224, 224), mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
SIZES = {"S/16": (384, 16), "B/32": (768, 32), "B/16": (768, 16), "L/14": (1024, 14)}  # token width d, patch P
SPECTRA = ("random", "four decades")
DECADES, WEIGHT_STD = 4, 0.02
PROMPTS, LIBRARY, FRAMES = 16, 256, 16
RIDGES, RANKS = np.geomspace(1e-12, 1, 97), 64  # shares of the largest squared singular value; ranks tried
FORMATS = ("float32", "fp16", "8 bits")
TOKEN = ("pseudo-inverse", "truncated", "ridge")
SAME = 1e-9  # largest relative difference between this script's pseudo-inverse and the one that export folds in

Store = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One projection and what is asked of it.

    Args:
        weight: W (d, 3P²) float64.
        low, high: legal range of each pixel (3P²,), normalised.
        coefficients: (M, N), rows sum to 1.
        library: tokens (N, d).
    """

    weight: np.ndarray
    low: np.ndarray
    high: np.ndarray
    coefficients: np.ndarray
    library: np.ndarray

    def stores(self) -> dict[str, Store]:
        """What each format makes of pixels (M, 3P²)."""

        def levels(pixels: np.ndarray) -> np.ndarray:
            step = (self.high - self.low) / 255
            return np.asarray(self.low + step * np.clip((pixels - self.low) / step, 0, 255).round())

        return {
            "float32": lambda pixels: pixels.astype(np.float32),
            "fp16": lambda pixels: pixels.astype(np.float16).astype(np.float32),
            "8 bits": levels,
        }

    def error(self, pixels: np.ndarray, wanted: np.ndarray, store: Store) -> float:
        """Relative distance in token space; NaN and Inf, as of pixels beyond fp16, are 1 or more."""
        kept = store(pixels)
        if not np.isfinite(kept).all():
            return float("inf")
        return relative_error(wanted, kept.astype(np.float32) @ self.weight.T.astype(np.float32))


def build(name: str, spectrum: str, seed: int) -> Case:
    """A projection of true size, and a library for it."""
    width, patch = SIZES[name]
    random = np.random.default_rng(seed)
    weight = WEIGHT_STD * random.standard_normal((width, 3 * patch**2))
    if spectrum != "random":
        left, sigma, right = singular_factors(weight)
        decayed = np.geomspace(1, 10.0**-DECADES, len(sigma))
        weight = (left * (decayed * np.linalg.norm(sigma) / np.linalg.norm(decayed))) @ right
    images = CLIP.normalise(pictures(4, CLIP.size_hw, seed))
    rows = 224 // patch
    patches = images.reshape(4, 3, rows, patch, rows, patch).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3 * patch**2)
    size = float(np.sqrt(np.square(patches @ weight.T).mean()))
    logits = 3 * random.standard_normal((FRAMES * PROMPTS, LIBRARY))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    low, high = (side.astype(np.float64).repeat(patch**2) for side in CLIP.legal())
    library = size * random.standard_normal((LIBRARY, width))
    return Case(weight, low, high, powers / powers.sum(axis=1, keepdims=True), library)


def inversions(case: Case) -> Iterator[tuple[str, float, np.ndarray]]:
    """Pixels (M, 3P²) of each way to invert the token library: method, its parameter, pixels.

    Raises:
        RuntimeError: the pseudo-inverse here is not the one that export folds into engines.
    """
    left, sigma, right = singular_factors(case.weight)
    asked = case.coefficients @ case.library @ left  # (M, k), in W's own directions

    def pixels(factors: np.ndarray) -> np.ndarray:
        return np.asarray((asked * factors) @ right)

    plain = pixels(1 / sigma)
    none = np.zeros((1, len(case.weight)))
    ours = invert_library(Projection(case.weight, none[0], none), case.library)
    apart = relative_error(ours.patches(case.coefficients), plain)
    if apart > SAME * sigma[0] / sigma[-1]:
        raise RuntimeError(f"expected the pseudo-inverse of pgn_edge.export.inversion, got one {apart:.1e} from it")
    yield "pseudo-inverse", 0.0, plain
    for rank in np.unique(np.linspace(1, len(sigma), RANKS).round().astype(int)):
        yield "truncated", float(rank), pixels(np.where(np.arange(len(sigma)) < rank, 1 / sigma, 0))
    for share in RIDGES:
        yield "ridge", float(share), pixels(sigma / (sigma**2 + share * sigma[0] ** 2))


def measure(case: Case, seed: int) -> list[dict[str, Any]]:
    """A row for each method: error and parameter in each format, and the range of its pixels."""
    wanted, stores = case.coefficients @ case.library, case.stores()
    best: dict[str, dict[str, tuple[float, float, np.ndarray]]] = {method: {} for method in TOKEN}
    for method, parameter, pixels in inversions(case):
        for form, store in stores.items():
            error = case.error(pixels, wanted, store)
            if form not in best[method] or error < best[method][form][0]:
                best[method][form] = (error, parameter, pixels)
    rows = [_row(f"token, {method}", case, found) for method, found in best.items()]
    # As pixel libraries begin: sigmoid of a standard normal between the legal values.
    raw = np.random.default_rng(seed + 1).standard_normal((LIBRARY, case.weight.shape[1]))
    learned = case.coefficients @ (case.low + (case.high - case.low) / (1 + np.exp(-raw)))
    for name, pixels in (("pixel", learned), ("pixel, rounded", stores["8 bits"](learned))):
        exact = pixels @ case.weight.T
        rows.append(_row(name, case, {form: (case.error(pixels, exact, s), 0.0, pixels) for form, s in stores.items()}))
    return rows


def _row(name: str, case: Case, found: Mapping[str, tuple[float, float, np.ndarray]]) -> dict[str, Any]:
    pixels = found["float32"][2]
    outside = (pixels < case.low - 1e-9) | (pixels > case.high + 1e-9)
    return {
        "method": name,
        "error": {form: error for form, (error, _, _) in found.items()},
        "parameter": {form: parameter for form, (_, parameter, _) in found.items()},
        "pixel_min": float(pixels.min()),
        "pixel_max": float(pixels.max()),
        "share_illegal": float(outside.mean()),
    }


def plot_png(cases: Mapping[str, list[dict[str, Any]]]) -> bytes:
    """Error in token space of each method and format, a panel for each projection."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained", dpi=110)
    panels = figure.subplots(len(SPECTRA), len(SIZES), sharey=True)
    for index, (name, rows) in enumerate(cases.items()):
        axes = panels[index % len(SPECTRA)][index // len(SPECTRA)]
        for place, form in enumerate(FORMATS):
            heights = [min(max(row["error"][form], 1e-8), 10) for row in rows]
            axes.bar(np.arange(len(rows)) + 0.27 * (place - 1), heights, 0.25, label=form)
        axes.set(title=name, yscale="log", ylim=(1e-8, 10), xticks=range(len(rows)))
        axes.set_xticklabels([row["method"].removeprefix("token, ") for row in rows], rotation=40, ha="right")
        axes.axhline(1, color="black", linewidth=0.5)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(FORMATS))
    figure.supylabel("relative error in token space")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _markdown(document: Mapping[str, Any]) -> str:
    rows = []
    for name, case in document["cases"].items():
        for row in case:
            errors = (f"{row['error'][form]:.1e}" for form in FORMATS)
            reach = f"{row['pixel_min']:.3g} to {row['pixel_max']:.3g}"
            rows.append((name, row["method"], *errors, reach, f"{row['share_illegal']:.0%}"))
    header = ("projection", "library", *(f"error, {form}" for form in FORMATS), "pixels, normalised", "illegal")
    return "\n".join(
        [
            f"# Projections that are hard to invert\n\n{__doc__}".rstrip() + "\n",
            f"`python benchmarks/{document['environment']['command']}`\n",
            "![Relative error in token space of each way](projections.png)\n",
            markdown_table(header, rows),
            environment_table(document["environment"]),
        ]
    )


def main() -> int:
    """Measure and write."""
    arguments = parser("Token libraries that are inverted, against libraries of pixels.")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    environment, cases = describe_environment(), {}
    for name in SIZES:
        for spectrum in SPECTRA:
            print(f"{name}, {spectrum}", file=sys.stderr)
            cases[f"{name}, {spectrum}"] = measure(build(name, spectrum, given.seed), given.seed)
    document = {"benchmark": "projections", "environment": environment, "cases": cases}
    write_results(given.output, "projections", document, _markdown(document))
    write_bytes(given.output / "projections.png", plot_png(cases))
    return 0


if __name__ == "__main__":
    sys.exit(main())
