"""The whole chain on a real GPU, with whatever libraries are there: `make test-gpu` on a machine that has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgn_edge.backends import known_architectures, load_backend
from pgn_edge.errors import EngineError, PgnEdgeError
from pgn_edge.export.compile import CompileOptions, compile_plan
from pgn_edge.gpu import local_architectures
from pgn_edge.runtime import Result, Runtime
from pgn_edge.runtime.engines.onnx_runtime import INSTALL, require_provider

HERE = local_architectures()

pytestmark = pytest.mark.skipif(not HERE, reason="no NVIDIA GPU or driver found")


def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(5)]


def answers(runtime: Runtime) -> tuple[list[Result], list[Result]]:
    """One by one, and together."""
    return [runtime.infer("task", frame) for frame in frames()], runtime.infer_batch([("task", f) for f in frames()])


def check(runtime: Runtime, pair: Any, task: Path) -> None:
    """As on the CPU, within what fp16 rounds."""
    with Runtime(pair.vit, {"task": task}) as host:
        expected, _ = answers(host)
    for results in answers(runtime):
        for result, wanted in zip(results, expected, strict=True):
            cosine = result.embedding @ wanted.embedding
            cosine /= np.linalg.norm(result.embedding) * np.linalg.norm(wanted.embedding)
            assert cosine > 0.999
            assert 0 < result.timings_ms["vit"] < 1e3


@pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt"])
@pytest.mark.parametrize("precision", ["task", "task_fp16"])
def test_plans(tiny_pair, tmp_path: Path, backend: str, precision: str):
    try:
        module = load_backend(backend)
    except PgnEdgeError as exc:
        pytest.skip(str(exc))
    if backend == "tensorrt-rtx" and HERE[0] not in known_architectures(module):
        pytest.skip(f"{backend} {module.__version__} does not know {HERE[0]}")
    options = CompileOptions(backend, HERE[:1] if backend == "tensorrt-rtx" else (), max_batch=4)
    task = tmp_path / "task.pgn"
    task.write_bytes(getattr(tiny_pair, precision).read_bytes())
    for source, plan in ((tiny_pair.vit, tmp_path / "vit.plan"), (task, tmp_path / "task.plan")):
        compile_plan(source, plan, options)
    with Runtime(tmp_path / "vit.plan", {"task": task}) as runtime:
        check(runtime, tiny_pair, task)
        assert runtime.notes == (), "the chain is one CUDA graph"


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_providers(tiny_pair, provider: Any):
    try:
        require_provider(provider, "test")
    except PgnEdgeError as exc:
        pytest.skip(str(exc))
    try:
        runtime = Runtime(tiny_pair.vit, {"task": tiny_pair.task}, provider=provider)
    except EngineError as exc:
        if exc.do != INSTALL:
            raise
        pytest.skip(str(exc))
    with runtime:
        check(runtime, tiny_pair, tiny_pair.task)
