"""Pictures with names of users in them: a dollar, an underscore or a foreign script spoils none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pgn_edge.cli.eval.report import _confusion
from pgn_edge.plots import plot_name, render_png
from pgn_edge.train.analysis.clusters import _scatter
from pgn_edge.train.analysis.figures import png

# The first is an error as a formula; the second would lose its dollars and spaces.
NAMES = ("$a^$", "from $5 to $9", r"\alpha", "_background", "a\nb", "カメラ", "x" * 500, "50 %", "{}")


def texts(figure: Figure) -> list[str]:
    return [each.get_text() for each in figure.findobj(lambda artist: hasattr(artist, "set_parse_math"))]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:12])
def test_class_names_in_a_confusion_matrix_are_no_formulas(name: str):
    drawn = _confusion(np.eye(2, dtype=np.int64), (name, "other"))
    assert png(drawn).startswith(b"\x89PNG")
    assert plot_name(name) in texts(drawn)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:12])
def test_class_names_in_a_legend_are_no_formulas_and_none_is_missing(name: str):
    places = np.random.default_rng(0).normal(size=(4, 2))
    drawn = _scatter({name: places, "other": places}, [places])
    assert png(drawn).startswith(b"\x89PNG")
    assert [each.get_text() for each in drawn.legends[0].get_texts()] == [plot_name(name), "other"]


def test_dollars_are_drawn_and_not_taken_for_marks():
    def ink(text: str) -> int:
        figure = Figure(figsize=(4, 1))
        figure.text(0.1, 0.5, text)
        return int((np.asarray(Image.open(io.BytesIO(render_png(figure))).convert("L")) < 128).sum())

    assert ink("$5 or $9") > ink("5 or 9")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("cat", "cat"), ("_cat", " _cat"), ("a\tb\nc", "a b c"), ("y" * 41, "y" * 39 + "…"), ("", "")],
)
def test_names_as_pictures_show_them(name: str, shown: str):
    assert plot_name(name) == shown
