"""The PGN's own CNN without the ViT."""

from __future__ import annotations

from dataclasses import replace

from pgn_edge.nn.generator import ResNet10
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.config import Schedule
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.loop import Listeners
from pgn_edge.train.task import train_cnn


def whole(schedule: Schedule) -> Schedule:
    """The same budget in one go: the passes of the warm start are passes like the others."""
    return replace(schedule, epochs=schedule.warm_start + schedule.epochs, warm_start=0)


def cnn_alone(data: DataSet, preprocess: Preprocess, schedule: Schedule, listeners: Listeners) -> ResNet10:
    """The PGN's own CNN as a plain classifier, trained for as many epochs as CNN and PGN together.

    Returns:
        Normalised images -> logits, its best validation epoch.
    """
    return train_cnn(data, preprocess, whole(schedule), listeners)
