"""Runtimes that the chain is measured against: ONNX Runtime alone, and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pgn_edge.errors import EngineError, MissingExtraError
from pgn_edge.extras import import_onnxruntime

onnxruntime = import_onnxruntime()


def bare_session(path: Path, threads: int, provider: str = "CPUExecutionProvider") -> Any:
    """An ONNX Runtime session with default options but for its threads.

    Args:
        path: of the graph.
        threads: 0 takes one for each core.
        provider: never replaced by another.

    Raises:
        EngineError: the provider is not installed, or does not start.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(
            "onnxruntime", expected=provider, got="a package without it", do="install onnxruntime-gpu in its place"
        )
    session = onnxruntime.InferenceSession(str(path), settings, providers=[provider])
    if session.get_providers()[0] != provider:
        raise EngineError("onnxruntime", expected=provider, got=session.get_providers()[0], do="see: pgn-edge doctor")
    return session


def openvino_chain(pgn: Path, vit: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """PGN and ViT graphs on OpenVINO's CPU device, batch 1, latency hint.

    Float32 is asked for: on CPUs with bfloat16 instructions OpenVINO would take those, and lose digits.

    Args:
        pgn: our PGN graph.
        vit: our ViT graph.
        threads: 0 leaves the number to OpenVINO.

    Returns:
        A call from a (1, H, W, 3) uint8 RGB image to its embedding (D,).

    Raises:
        MissingExtraError: openvino is not installed.
        EngineError: it does not take the graphs.
    """
    try:
        import openvino
    except ImportError as exc:
        raise MissingExtraError("openvino", "bench") from exc
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()

    def request(path: Path) -> Any:
        model = core.read_model(str(path))
        model.reshape({0: [1, *(int(size.get_length()) for size in list(model.input(0).partial_shape)[1:])]})
        return core.compile_model(model, "CPU", options).create_infer_request()

    try:
        first, second = request(pgn), request(vit)
    except Exception as exc:
        # OpenVINO raises RuntimeError and its own kinds, which share no other base class.
        reason = " ".join(f"{exc}".split())[:200]
        raise EngineError(
            str(vit.name), expected="graphs that OpenVINO takes", got=reason, do="measure without"
        ) from exc

    def infer(image: np.ndarray) -> np.ndarray:
        canvas = first.infer({0: image}, share_inputs=True, share_outputs=True)[0]
        embedding: np.ndarray = second.infer({0: canvas}, share_inputs=True)[0][0]
        return embedding

    return infer
