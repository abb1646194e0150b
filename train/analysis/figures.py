"""What the pictures of analysis and evaluation share."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from pgn_edge.errors import MissingExtraError
from pgn_edge.plots import render_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SECOND, GREY = "#1f6feb", "#c8442f", "#9aa5b1"
DPI = 120


def require_matplotlib() -> None:
    """Refuse before a long run what the pictures would refuse after it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plots")


def figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, whose parts keep out of each other's way."""
    # Not pyplot: it keeps global state, and chooses a screen.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def png(drawn: Figure) -> bytes:
    """The figure as a PNG, its texts as they are written."""
    return render_png(drawn)


def colours(count: int) -> list[Any]:
    """`count` colours to tell classes apart by; beyond twenty, neighbours resemble one another."""
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](index) for index in range(count)]
    if count <= 20:
        return [colormaps["tab20"](index) for index in range(count)]
    return [colormaps["gist_rainbow"](index / (count - 1)) for index in range(count)]
