"""Pictures of matplotlib as PNG, in which no name of a user is read as a formula or spoils the picture."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 40  # characters of a name that a picture has room for


def plot_name(name: str) -> str:
    """A name as pictures show it: on one line, cut after 40 characters, and kept in legends.

    >>> plot_name("_background")
    ' _background'
    """
    line = "".join(c if c.isprintable() else " " for c in name)
    short = line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
    return f" {short}" if short.startswith("_") else short  # legends leave out names that start with an underscore


def render_png(figure: Figure, dpi: float | None = None) -> bytes:
    """Draw a figure.

    Args:
        figure: Figure to draw. All of its texts become plain texts.
        dpi: Dots an inch; None for the figure's own.

    Returns:
        Bytes of a PNG file.
    """
    for artist in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        artist.set_parse_math(False)  # type: ignore[attr-defined]  # else "$5 or $9" is a formula, and "$a^$" an error
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box in the place of the character is enough
        figure.savefig(out, format="png", dpi=dpi or "figure")
    return out.getvalue()
