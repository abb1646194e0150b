"""Engines: one adapter a file, each with the same few verbs."""

from __future__ import annotations

from pathlib import Path

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.base import Engine, TensorSpec
from pgn_edge.runtime.engines.fake import FakeEngine
from pgn_edge.runtime.engines.onnx_runtime import OnnxRuntimeEngine, OrtOptions
from pgn_edge.sidecar import verify_plan

__all__ = ["Engine", "FakeEngine", "OnnxRuntimeEngine", "OrtOptions", "TensorSpec", "open_engine"]


def open_engine(path: str | Path, options: OrtOptions | None = None) -> Engine:
    """Open an engine by its file name.

    Args:
        path: an `.onnx` file.
        options: for ONNX Runtime.

    Raises:
        EngineError: the file cannot be used; a plan is verified, and checked against this machine, before anything else
            is said.
        MissingExtraError: the package behind it is not installed.
    """
    suffix = Path(path).suffix
    if suffix == ".plan":
        sidecar = verify_plan(path)
        raise EngineError(
            str(path),
            expected="an .onnx file",
            got=f"a plan for {sidecar.backend} {sidecar.backend_version}, verified",
            do="this version compiles and verifies plans but runs ONNX: use the graph it was compiled from",
        )
    if suffix != ".onnx":
        raise EngineError(
            str(path),
            expected="an .onnx file",
            got=repr(suffix),
            do="export it: pgn-edge export-vit BACKBONE",
        )
    return OnnxRuntimeEngine(path, str(path), options)
