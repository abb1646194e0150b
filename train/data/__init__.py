"""Data sets: one table, any folder of classes, a CSV, and unions; images are decoded when they are read."""

from pgn_edge.train.data.dataset import DataSet, LabelSpace, Parts
from pgn_edge.train.data.samples import Arrays, Files, Joined, Reading, Samples, Subset
from pgn_edge.train.data.table import TABLE, DataSpec, load_data

__all__ = [
    "TABLE",
    "Arrays",
    "DataSet",
    "DataSpec",
    "Files",
    "Joined",
    "LabelSpace",
    "Parts",
    "Reading",
    "Samples",
    "Subset",
    "load_data",
]
