"""The runtime for cameras: numpy and one engine library, never torch."""

from pgn_edge.runtime.result import Result
from pgn_edge.runtime.runtime import Runtime

__all__ = ["Result", "Runtime"]
