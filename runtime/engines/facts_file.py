"""`vit.facts.json`: the facts of an engine that pgn-edge did not export, as `pgn-edge probe` found and proved them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pgn_edge.contract import EngineFacts
from pgn_edge.documents import parse_json
from pgn_edge.errors import EngineError
from pgn_edge.files import write_text
from pgn_edge.fingerprint import sha256_file
from pgn_edge.runtime.engines.triton_options import PREFIX as TRITON

FORMAT = "pgn-edge engine facts"
SCHEMA = 1
SUFFIX = ".json"
SIZE_LIMIT = 1 << 20
PROBE_AGAIN = "write it again: pgn-edge probe --engine ENGINE --reference STOCK -o vit.facts.json"
Axes = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class Tensors:
    """Tensors of a foreign engine that stand for canvas and embedding.

    Args:
        input: Name of the input for the canvas.
        axes: Order of its axes, also where it has no batch axis.
        output: Name of the output with the embedding; of tokens (B, T, D) the first is it.
    """

    input: str
    axes: Axes
    output: str


@dataclass(frozen=True)
class FactsFile:
    """Facts of a foreign engine, kept beside it.

    Args:
        engine: Path of the engine file, or address of a served model.
        sha256: sha256 of the file; empty for a served model.
        tensors: Its tensors.
        facts: Its facts, as an engine of ours carries them.
    """

    engine: str
    sha256: str
    tensors: Tensors
    facts: EngineFacts

    @property
    def served(self) -> bool:
        """Whether the engine is a served model."""
        return self.engine.startswith(TRITON)


def write_facts_file(path: str | Path, engine: str, tensors: Tensors, facts: EngineFacts) -> None:
    """Write a facts file whole or not at all.

    Args:
        path: Path of the facts file.
        engine: Path of the engine file, or address of a served model.
        tensors: Tensors of the engine.
        facts: Facts of the engine.

    Raises:
        EngineError: the engine file cannot be read.
        OutputError: the facts file cannot be written.
    """
    served = engine.startswith(TRITON)
    data = {
        "format": FORMAT,
        "schema": SCHEMA,
        # Relative, so that both files can move together.
        "engine": engine if served else os.path.relpath(engine, Path(path).parent),
        "sha256": "" if served else _digest(engine),
        "input": {"name": tensors.input, "axes": tensors.axes},
        "output": tensors.output,
        "facts": facts.to_json(),
    }
    write_text(path, json.dumps(data, indent=2) + "\n")


def read_facts_file(path: str | Path) -> FactsFile:
    """Read a facts file, and verify that the engine file is the one that was probed.

    Raises:
        EngineError: no such file, an unreadable one, or another engine file than the one that was probed.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(SIZE_LIMIT + 1)
    except OSError as exc:
        raise _refuse(path, "a file of engine facts", exc.strerror or str(exc)) from exc
    if len(text) > SIZE_LIMIT:
        raise _refuse(path, f"at most {SIZE_LIMIT} bytes", "more")
    found = _parse(parse_json(text, str(path), EngineError, PROBE_AGAIN), path)
    if found.served:
        return found
    digest = _digest(found.engine)
    if digest != found.sha256:
        raise EngineError(found.engine, expected=f"sha256 {found.sha256}, by {path}", got=digest, do=PROBE_AGAIN)
    return found


def _parse(data: Any, path: str | Path) -> FactsFile:
    try:
        if (data["format"], data["schema"]) != (FORMAT, SCHEMA):
            raise _refuse(path, f"{FORMAT!r} of schema {SCHEMA}", f"{data['format']!r} {data['schema']!r}")
        engine, tensors = str(data["engine"]), Tensors(data["input"]["name"], data["input"]["axes"], data["output"])
        digest, facts = str(data["sha256"]), EngineFacts.from_json(data["facts"], str(path))
    except (KeyError, TypeError, ValueError) as exc:
        raise _refuse(path, "a file of engine facts", f"{type(exc).__name__}: {exc}") from exc
    names = [tensors.input, tensors.output]
    if tensors.axes not in ("NCHW", "NHWC") or not all(isinstance(name, str) for name in names):
        raise _refuse(path, "names of tensors, and axes NCHW or NHWC", f"{names} {tensors.axes}")
    if not engine.startswith(TRITON):
        engine = str(Path(path).parent / engine)
    return FactsFile(engine, digest, tensors, facts)


def _digest(engine: str) -> str:
    try:
        return sha256_file(engine)
    except OSError as exc:
        raise EngineError(engine, expected="an engine file", got=exc.strerror or str(exc), do="check the path") from exc


def _refuse(path: str | Path, expected: str, got: str) -> EngineError:
    return EngineError(str(path), expected=expected, got=got, do=PROBE_AGAIN)
