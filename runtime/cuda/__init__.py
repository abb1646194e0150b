"""Memory, order and time on one NVIDIA GPU, asked of its driver: nothing else needs to be installed."""

from pgn_edge.runtime.cuda.arrays import DeviceArray
from pgn_edge.runtime.cuda.device import Cuda
from pgn_edge.runtime.cuda.graphs import Event, Graph

__all__ = ["Cuda", "DeviceArray", "Event", "Graph"]
