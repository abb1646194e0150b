"""Memory before and after a build. On a Jetson it is one pool for CPU and GPU, and a build is what exhausts it."""

from __future__ import annotations

from pathlib import Path

from pgn_edge.errors import EngineError
from pgn_edge.host import sizes_bytes

MEMINFO = Path("/proc/meminfo")
COPIES = 3


def available_bytes() -> int | None:
    """Memory that programs can still get without swapping, in bytes; None where the system does not tell."""
    return sizes_bytes(MEMINFO).get("MemAvailable")


def require_memory(onnx_bytes: int) -> None:
    """Refuse a build that cannot end well.

    There are at least three copies of the weights at one time: the graph as it was read, the parser's, and the plan.
    Trials of kernels come on top, and nobody knows how much; so with more than the least, a build may try.

    Args:
        onnx_bytes: size of the graph.

    Raises:
        EngineError: less is available than three times that.
    """
    have, need = available_bytes(), COPIES * onnx_bytes
    if have is not None and have < need:
        raise EngineError(
            "memory",
            expected=f"at least {megabytes(need)} available, {COPIES} times the graph",
            got=megabytes(have),
            do="close applications, add swap, or compile on another machine of the same GPU",
        )


def megabytes(size_bytes: int | None) -> str:
    """For people."""
    return "an unknown amount" if size_bytes is None else f"{size_bytes / 1e6:.0f} MB"
