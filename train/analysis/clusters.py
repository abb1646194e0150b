"""Do images of one class lie together: in the mixtures, in the frozen embedding, in the prompted one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from pgn_edge.plots import plot_name
from pgn_edge.train.analysis.features import Features, flat_mixtures
from pgn_edge.train.analysis.figures import colours, figure, png
from pgn_edge.train.analysis.section import Picture, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 0
RESTARTS = 10  # of k-means; the one with the tightest clusters counts
PERPLEXITY = 30.0
COMPONENTS = 50  # principal ones that t-SNE is given
LEAST_IMAGES = 4  # for a map
MOST_NAMED = 20  # classes that a legend has room for
NOTHING = "Left out: this PGN has no mixture coefficients that depend on the image."


def clusters(features: Sequence[Features]) -> Section:
    """Agreement of k-means clusters with the classes and with each other.

    Source: Loedeman et al., BMVC 2024, their comparison of PGN, CLIP and PGN with CLIP by mutual information. Their
    figure for the PGN clusters its prompts.
    """
    facts, rows, notes = dict[str, Any](), list[tuple[str, ...]](), list[str]()
    for each in features:
        classes = len(np.unique(each.labels))
        if len(each.labels) <= classes or classes < 2:
            notes.append(f"{each.name}: left out, {len(each.labels)} images of {classes} classes are too few.")
            continue
        values = agreement(spaces_of(each), each.labels)
        facts[each.name] = values
        rows += [(each.name, *pair.split(" | "), f"{100 * value:.1f}") for pair, value in values.items()]
    read = (
        f"Each space is cut by k-means into as many clusters as there are classes (best of {RESTARTS} starts, seed "
        f"{SEED}). NMI x 100 is what two groupings say of each other: 100 for the same one, near 0 for chance. "
        "Embeddings are scaled to length 1 first. The paper's figure for the PGN clusters its prompts; its mixture "
        "coefficients are a space of their own."
    )
    if any(each.coefficients is None for each in features):
        notes.append("PGN mixtures are left out: this PGN has no mixture coefficients that depend on the image.")
    if any(each.prompts is None for each in features):
        notes.append("PGN prompts are left out: this PGN gives every image the same prompts.")
    table = ("data", "clusters of", "against", "NMI"), rows
    return Section("Clusters", (read, *notes), table if rows else None, (), facts)


def spaces_of(features: Features) -> dict[str, np.ndarray]:
    """What is clustered, by name: (n, width) each."""
    spaces = {}
    if features.coefficients is not None:
        spaces["PGN mixtures"] = flat_mixtures([features])[0]
    if features.prompts is not None:
        spaces["PGN prompts"] = features.prompts.reshape(len(features.labels), -1)
    return {**spaces, "frozen ViT": _unit(features.frozen), "PGN + ViT": _unit(features.prompted)}


def agreement(spaces: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Normalised mutual information of each pair of groupings, 0..1.

    Args:
        spaces: (n, width) by name.
        labels: (n,) int64 classes, at least two, and more images than classes.

    Returns:
        By `space | labels` and `space | other space`.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    groupings = {}
    for name, values in spaces.items():
        # No more clusters than there are different points: constant features are one cluster.
        count = min(len(np.unique(labels)), len(np.unique(values, axis=0)))
        means = KMeans(n_clusters=count, n_init=RESTARTS, random_state=SEED)
        groupings[name] = means.fit_predict(_narrow(values))
    pairs = [(name, "labels") for name in groupings] + list(combinations(groupings, 2))
    groupings["labels"] = labels
    return {
        f"{first} | {second}": float(normalized_mutual_info_score(groupings[second], groupings[first]))
        for first, second in pairs
    }


def _narrow(points: np.ndarray) -> np.ndarray:
    """Points (n, width) in at most n coordinates with the same distances: k-means over prompts then takes seconds."""
    points = points.astype(np.float64)
    points = points - points.mean(axis=0)
    if points.shape[1] <= points.shape[0]:
        return points
    upper: np.ndarray = np.asarray(np.linalg.qr(points.T, mode="r"))  # points = upper.T @ q.T; q keeps every length
    return np.ascontiguousarray(upper.T)


def maps(features: Sequence[Features]) -> Section:
    """t-SNE of the mixture coefficients over all data sets."""
    mixtures = flat_mixtures(features)
    title = "Map of the mixture coefficients"
    if not mixtures:
        return Section(title, (NOTHING,))
    points = np.concatenate(mixtures)
    if len(points) < LEAST_IMAGES:
        return Section(title, (f"Left out: {len(points)} images are too few for a map.",))
    cuts = np.cumsum([len(each.labels) for each in features])[:-1]
    places = np.split(tsne(points), cuts)
    read = (
        "Each point is an image; images with alike mixtures lie near each other. Distances between far groups and the "
        "axes mean nothing."
    )
    pictures = []
    if len(features) > 1:
        groups = {each.name: place for each, place in zip(features, places, strict=True)}
        caption = "Coloured by data set: islands of one colour are tokens that one data set has for itself."
        pictures.append(Picture("map_by_data", png(_scatter(groups, places)), caption))
    for number, (each, place) in enumerate(zip(features, places, strict=True)):
        names = each.data.labels
        groups = {names[label]: place[each.labels == label] for label in np.unique(each.labels)}
        caption = (
            f"{each.name}, coloured by class: where colours part, the mixtures alone tell the classes apart. Grey: "
            "other data sets."
        )
        pictures.append(Picture(f"map_by_class_{number}", png(_scatter(groups, places)), caption))
    return Section(title, (read,), None, tuple(pictures))


def tsne(points: np.ndarray) -> np.ndarray:
    """Places (n, 2) in the plane for points (n, width), n at least 4; the same on every call."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    points = points.astype(np.float64)
    components = min(COMPONENTS, *points.shape)
    if components < points.shape[1]:
        points = PCA(components, svd_solver="full", random_state=SEED).fit_transform(points)
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    # Not from the principal components: points that are all alike have none, and the first places would be NaN.
    made = TSNE(perplexity=perplexity, init="random", random_state=SEED).fit_transform(points)
    return np.asarray(made)


def _scatter(groups: dict[str, np.ndarray], everything: Sequence[np.ndarray]) -> Figure:
    named = len(groups) <= MOST_NAMED
    drawn = figure(7.5 if named else 6, 5.5)
    axes = drawn.subplots()
    x, y = np.concatenate(everything).T
    axes.scatter(x, y, s=6, color="#d9dee3", linewidths=0)
    for colour, (name, places) in zip(colours(len(groups)), groups.items(), strict=True):
        axes.scatter(places[:, 0], places[:, 1], s=10, color=colour, label=plot_name(name), linewidths=0)
    axes.set(xticks=[], yticks=[])
    if named:
        drawn.legend(loc="outside right upper", markerscale=2, fontsize=8, frameon=False)
    return drawn


def _unit(embedding: np.ndarray) -> np.ndarray:
    return np.asarray(embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12))
