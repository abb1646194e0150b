"""Examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = ("pgn_edge.images", "pgn_edge.left_out", "pgn_edge.plots", "pgn_edge.train.data.splits")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
