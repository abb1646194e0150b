"""A linear classifier on the frozen ViT's embeddings."""

from __future__ import annotations

import numpy as np
import torch

from pgn_edge.heads import Head
from pgn_edge.nn.canvas import to_input
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.samples import Samples
from pgn_edge.train.loader import in_order

PROBE_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)


def linear_probe(vit: FrozenViT, data: DataSet, preprocess: Preprocess) -> Head:
    """Logistic regression on the frozen ViT's embeddings, its regularisation chosen on the validation split.

    The solver is scikit-learn's L-BFGS: it runs to the optimum on embeddings of images that are not augmented, so the
    answer has no seed, and no learning rate or number of epochs to tune.

    Returns:
        A linear head over the embeddings of the ViT alone.
    """
    from sklearn.linear_model import LogisticRegression

    (train, train_at), (validation, validation_at) = (
        embed_readable(vit, samples, preprocess) for samples in (data.train, data.validation)
    )
    train_labels, validation_labels = data.train.labels[train_at], data.validation.labels[validation_at]
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    fits = [
        LogisticRegression(C=strength, max_iter=2000).fit((train - mean) / std, train_labels)
        for strength in PROBE_STRENGTHS
    ]
    best = max(fits, key=lambda fit: float(fit.score((validation - mean) / std, validation_labels)))
    weight, bias = best.coef_ / std, best.intercept_
    if len(data.labels) == 2:  # sklearn keeps one row then, for the second class
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    return Head.linear(weight, bias - weight @ mean, data.labels)


def embed(vit: FrozenViT, samples: Samples, preprocess: Preprocess, batch: int = 128) -> np.ndarray:
    """Embeddings (n, D) of the frozen ViT alone, of the images that can be read."""
    return embed_readable(vit, samples, preprocess, batch)[0]


@torch.no_grad()
def embed_readable(
    vit: FrozenViT, samples: Samples, preprocess: Preprocess, batch: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (m, D) of the frozen ViT alone, and the indices (m,) of the images that could be read."""
    device, parts, found = vit.position.device, [], []
    for images, indices in in_order(samples, preprocess, batch=batch):
        parts.append(vit(to_input(torch.from_numpy(images), preprocess, device)).cpu().numpy())
        found.append(indices)
    return np.concatenate(parts), np.concatenate(found)
