"""Tables that several commands print: what export measured, and what inspect reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pgn_edge.cli.console import print_table


def print_certificate(certificate: Mapping[str, Any]) -> None:
    """The certificate of an inversion, each value beside its limit."""
    rows = [
        (words(key), text(value), text(certificate.get(f"{key}_limit", "")))
        for key, value in certificate.items()
        if not key.endswith("_limit")
    ]
    if rows:
        print_table("Certificate of the inversion", ("", "value", "limit"), rows)


def print_parity(parity: Sequence[Mapping[str, Any]]) -> None:
    """The rungs of a parity ladder, as their `to_json` gives them."""
    rows = [
        (
            text(rung["rung"]),
            f"{rung['max_abs']:.2e}",
            f"{rung['cosine']:.6f}",
            f"{rung['top1_flips']} of {rung['frames']}",
            "passed" if rung["passed"] else "FAILED",
        )
        for rung in parity
    ]
    print_table("Parity ladder", ("rung", "max abs", "cosine", "top-1 flips", ""), rows)


def print_numerics(numerics: Mapping[str, Any]) -> None:
    """Which nodes stay float32 in a 16-bit graph, if any had to."""
    rows = [
        (
            text(kept["node"]),
            text(kept["reason"]),
            "not finite" if kept["max_abs"] is None else f"{kept['max_abs']:.3g}",
            "overflow" if kept["rounding"] is None else f"{kept['rounding']:.1e}",
        )
        for kept in numerics.get("kept_float32", ())
    ]
    if rows:
        print_table("Kept in float32", ("node", "reason", "max abs", "rounding error"), rows)


def text(value: Any) -> str:
    """A JSON value for a cell."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, list):
        return ", ".join(map(text, value))
    return str(value)


def words(key: str) -> str:
    """A key for people to read."""
    return key.replace("_", " ")
