"""Which library tokens a PGN uses, and what images each of them is for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pgn_edge.errors import DataError
from pgn_edge.mixtures import entropies, usage
from pgn_edge.nn.pgn import PGN
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.plots import plot_name
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.analysis.features import Features
from pgn_edge.train.analysis.figures import colours, figure, png
from pgn_edge.train.analysis.section import Picture, Section
from pgn_edge.train.analysis.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEAD = 0.1  # of the even share
TOKENS, IMAGES = 8, 7  # rows and columns of the gallery
HEADER = ("data", "effective tokens", "dead tokens", "most used", "entropy of a mixture")


def library_usage(trained: Trained, features: Sequence[Features]) -> Section:
    """How evenly the library is used."""
    title, config = "Library usage", trained.checkpoint.pgn.config
    if not config.observed:
        reason = "its coefficients are no shares" if config.mixes else "it mixes no library by the image"
        return Section(title, (f"Left out for this PGN: {reason}.",))
    facts = {each.name: usage_facts(_coefficients(each)) for each in features}
    rows: list[tuple[str, ...]] = [
        (
            name,
            f"{fact['effective']:.1f} of {config.library}",
            str(fact["dead"]),
            f"{fact['most_used']:.1%}",
            f"{fact['entropy']:.3f}",
        )
        for name, fact in facts.items()
    ]
    read = (
        "Effective tokens: e to the power of the entropy of the mean shares; N where all are used alike, 1 where one "
        "is used alone. A dead token never reaches a tenth of the even share 1/N in any prompt of any image. The "
        "entropy of a mixture is 0 where each prompt is one token, and 1 where each is all tokens alike."
    )
    caption = "Share of each token in all prompts, most used first; the dotted line is the even share 1/N."
    shares = {each.name: np.sort(usage(_coefficients(each)))[::-1] for each in features}
    picture = Picture("library_usage", png(_curve(shares)), caption)
    return Section(title, (read,), (HEADER, rows), (picture,), facts)


def usage_facts(coefficients: np.ndarray) -> dict[str, Any]:
    """How evenly a library is used.

    Args:
        coefficients: (n, K, N), rows of N sum to 1.

    Returns:
        `effective` and `dead` tokens, share of the `most_used`, and mean `entropy` of a mixture, 0..1.
    """
    share = usage(coefficients)
    used = share[share > 0]
    return {
        "effective": float(math.exp(-(used * np.log(used)).sum())),
        "dead": int((coefficients.max(axis=(0, 1)) < DEAD / coefficients.shape[2]).sum()),
        "most_used": float(share.max()),
        "entropy": float(entropies(coefficients).mean()),
    }


def require_tokens(pgn: PGN, chosen: Sequence[int]) -> None:
    """Refuse tokens that a library does not have, before anything is computed.

    Args:
        pgn: PGN with the library.
        chosen: Library tokens that the user asked for.

    Raises:
        DataError: a token is outside the library, is named twice, or there is no library.
    """
    count = pgn.config.library if pgn.mixes else 0
    legal = all(0 <= token < count for token in chosen)
    if not legal or len(set(chosen)) < len(chosen):
        expected = f"different numbers from 0 to {count - 1}" if count else "none, as this PGN mixes no library"
        raise DataError(
            "gallery tokens", expected=expected, got=", ".join(map(str, chosen)), do="choose others with --tokens"
        )


def gallery(trained: Trained, features: Sequence[Features], chosen: Sequence[int] = ()) -> Section:
    """Show the images in which each token has its largest mixture coefficient.

    Args:
        trained: Checkpoint with its ViT.
        features: Images of each data set.
        chosen: Library tokens to show, in order; empty for the most used ones.
    """
    title, pgn = "Token gallery", trained.checkpoint.pgn
    if not pgn.mixes:
        return Section(title, ("Left out for this PGN: it mixes no library by the image.",))
    share = np.mean([_coefficients(each).mean(axis=(0, 1), dtype=np.float64) for each in features], axis=0)
    most_used = np.argsort(-share, kind="stable")[:TOKENS]
    tokens = np.asarray(chosen, np.int64) if chosen else most_used
    # Of each image the prompt that takes most of a token; an image of any data set may stand in a row.
    peaks = np.concatenate([_coefficients(each)[:, :, tokens].max(axis=1) for each in features])
    images = np.concatenate([each.images for each in features])
    best = np.argsort(-peaks, axis=0, kind="stable")[:IMAGES].T
    pixel = pgn.config.space == "pixel"
    patches = shown(token_pixels(trained.model.vit, pgn)[tokens], trained.checkpoint.preprocess, stretch=not pixel)
    kind = "as it is learned" if pixel else "by the pseudo-inverse of the patch projection, contrast stretched"
    caption = (
        f"A row for each of {len(tokens)} {'chosen' if chosen else 'most used'} tokens. First its number and its mean "
        "coefficient; then the "
        f"token as a patch of pixels, {kind}; then the images in which one of the prompts takes most of it, with that "
        "coefficient. A row of alike images is a token that stands for something."
    )
    drawn = _gallery(tokens, share[tokens], patches, [(images[row], peaks[row, at]) for at, row in enumerate(best)])
    owners = [[each.name, index] for each in features for index in range(len(each.labels))]
    facts = {
        "tokens": tokens.tolist(),
        "mean_coefficient": share[tokens].tolist(),
        "images": [[owners[image] for image in row] for row in best],
    }
    return Section(title, (), None, (Picture("token_gallery", png(drawn), caption),), facts)


def token_pixels(vit: FrozenViT, pgn: PGN) -> np.ndarray:
    """The normalised pixels that become each library entry, (N, 3, P, P) float64.

    A token is undone by the pseudo-inverse of the patch projection, without the position of a prompt slot.

    Args:
        vit: its patch projection turns pixels into tokens.
        pgn: with a library.
    """
    entries = pgn.entries().detach().double().cpu().numpy()
    if pgn.config.space == "token":
        weight, bias = vit.projection()
        entries = (entries - bias) @ np.linalg.pinv(weight).T
    return np.asarray(entries.reshape(-1, 3, vit.spec.patch, vit.spec.patch))


def shown(pixels: np.ndarray, preprocess: Preprocess, stretch: bool) -> np.ndarray:
    """Normalised patches (N, 3, P, P) as (N, P, P, 3) uint8 RGB; `stretch` gives each the whole range."""
    scale, shift = preprocess.affine()
    levels = ((pixels - shift) / scale).transpose(0, 2, 3, 1)
    if stretch:
        low, high = (edge(axis=(1, 2, 3), keepdims=True) for edge in (levels.min, levels.max))
        levels = 255 * (levels - low) / np.maximum(high - low, 1e-9)
    return np.asarray(levels.round().clip(0, 255).astype(np.uint8))


def _coefficients(features: Features) -> np.ndarray:
    assert features.coefficients is not None, "the section is left out for such a PGN"
    return features.coefficients


def _curve(shares: dict[str, np.ndarray]) -> Figure:
    drawn = figure(7, 3.6)
    axes = drawn.subplots()
    for colour, (name, share) in zip(colours(len(shares)), shares.items(), strict=True):
        axes.plot(np.arange(1, len(share) + 1), 100 * share, color=colour, label=plot_name(name))
    count = len(next(iter(shares.values())))
    axes.axhline(100 / count, color="#57606a", linestyle=":", linewidth=1)
    axes.set(xlabel="library tokens, most used first", ylabel="share of use, %", xlim=(0, count + 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return drawn


def _gallery(
    tokens: np.ndarray, share: np.ndarray, patches: np.ndarray, rows: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Figure:
    columns = 1 + max(len(images) for images, _ in rows)
    drawn = figure(1.15 * columns + 0.8, 1.28 * len(rows))
    grid = drawn.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.axis("off")
    for line, token, mean, patch, (images, peaks) in zip(grid, tokens, share, patches, rows, strict=True):
        line[0].axis("on")
        line[0].imshow(patch, interpolation="nearest")
        line[0].set_ylabel(f"token {token}\n{mean:.1%}", rotation=0, ha="right", va="center", fontsize=9)
        for axes, image, peak in zip(line[1:], images, peaks, strict=False):
            axes.imshow(image)
            axes.set_title(f"{peak:.0%}", fontsize=8, pad=2)
    return drawn
