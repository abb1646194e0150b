"""What a PGN is held against, each under the same data and budget."""

from pgn_edge.train.baselines.cnn import cnn_alone
from pgn_edge.train.baselines.contenders import CONTENDERS, Contender, Setting
from pgn_edge.train.baselines.probe import PROBE_STRENGTHS, embed, embed_readable, linear_probe
from pgn_edge.train.baselines.visual import VISUAL_KINDS, VisuallyPrompted

__all__ = [
    "CONTENDERS",
    "PROBE_STRENGTHS",
    "VISUAL_KINDS",
    "Contender",
    "Setting",
    "VisuallyPrompted",
    "cnn_alone",
    "embed",
    "embed_readable",
    "linear_probe",
]
