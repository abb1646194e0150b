"""One part of an analysis: numbers, pictures, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


@dataclass(frozen=True)
class Picture:
    """A picture of an analysis.

    Args:
        name: of its file, without the suffix.
        png: its bytes.
        caption: how to read it.
    """

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        title: heading.
        notes: how to read the table, and what was left out and why.
        table: header and rows of text; None for none.
        pictures: in order.
        facts: the numbers, ready for JSON.
    """

    title: str
    notes: tuple[str, ...] = ()
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
