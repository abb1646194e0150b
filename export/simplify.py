"""onnxsim, for those who want it, and the proof that it changed nothing."""

from __future__ import annotations

import numpy as np
import onnx

from pgn_edge.errors import ExportError, MissingExtraError
from pgn_edge.export.parity import run_all


def simplify(model: onnx.ModelProto, batch: np.ndarray) -> onnx.ModelProto:
    """Run onnxsim over a graph with one input.

    Args:
        model: as exported.
        batch: inputs on which every output must stay as it was, to the bit.

    Raises:
        ExportError: onnxsim failed its own check, or changed an output.
        MissingExtraError: onnxsim is not installed.
    """
    try:
        import onnxsim
    except ImportError as exc:
        raise MissingExtraError("onnxsim", "export") from exc
    simpler, checked = onnxsim.simplify(model)
    if not checked:
        raise _refuse("a failed check of its own")
    for before, after in zip(run_all(model, batch), run_all(simpler, batch), strict=True):
        if not np.array_equal(before, after):
            raise _refuse(f"outputs up to {np.abs(before - after).max():.3g} apart")
    return simpler


def _refuse(got: str) -> ExportError:
    return ExportError("onnxsim", expected="a graph with the same outputs", got=got, do="export without --simplify")
