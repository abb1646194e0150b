"""What a PGN is held against, each under the same data and budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pgn_edge.heads import Head
from pgn_edge.nn.generator import ResNet10
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.config import Schedule
from pgn_edge.train.data import DataSet, Split
from pgn_edge.train.loop import Listeners
from pgn_edge.train.task import train_cnn

PROBE_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)


def linear_probe(vit: FrozenViT, data: DataSet, preprocess: Preprocess) -> Head:
    """Logistic regression on the frozen ViT's embeddings, its regularisation chosen on the validation split.

    Returns:
        A linear head over the embeddings of the ViT alone.
    """
    from sklearn.linear_model import LogisticRegression

    train, validation = (embed(vit, split, preprocess) for split in (data.train, data.validation))
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    fits = [
        LogisticRegression(C=strength, max_iter=2000).fit((train - mean) / std, data.train.labels)
        for strength in PROBE_STRENGTHS
    ]
    best = max(fits, key=lambda fit: float(fit.score((validation - mean) / std, data.validation.labels)))
    weight, bias = best.coef_ / std, best.intercept_
    if len(data.labels) == 2:  # sklearn keeps one row then, for the second class
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    return Head.linear(weight, bias - weight @ mean, data.labels)


def cnn_alone(data: DataSet, preprocess: Preprocess, schedule: Schedule, listeners: Listeners) -> ResNet10:
    """The PGN's own CNN as a plain classifier, trained for as many epochs as CNN and PGN together.

    Returns:
        Normalised images -> logits, its best validation epoch.
    """
    budget = replace(schedule, epochs=schedule.warm_start + schedule.epochs)
    return train_cnn(data, preprocess, budget, listeners)


@torch.no_grad()
def embed(vit: FrozenViT, split: Split, preprocess: Preprocess, batch: int = 128) -> np.ndarray:
    """Embeddings (n, D) of the frozen ViT alone."""
    parts = [split.images[start : start + batch] for start in range(0, len(split), batch)]
    return np.concatenate([vit(torch.from_numpy(preprocess.normalise(part))).numpy() for part in parts])
