"""Engines: one adapter a file, each with the same few verbs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from pgn_edge.bundle import Bundle
from pgn_edge.errors import EngineError
from pgn_edge.file_kind import require_kind
from pgn_edge.runtime.cuda import Cuda
from pgn_edge.runtime.engines.base import DeviceEngine, Engine, EngineOptions, TensorSpec
from pgn_edge.runtime.engines.facts_file import SUFFIX as FACTS
from pgn_edge.runtime.engines.facts_file import read_facts_file
from pgn_edge.runtime.engines.fake import FakeEngine
from pgn_edge.runtime.engines.foreign import ForeignEngine
from pgn_edge.runtime.engines.onnx_runtime import OnnxRuntimeEngine
from pgn_edge.runtime.engines.onnx_runtime_gpu import OrtGpuEngine
from pgn_edge.runtime.engines.plan import Plan, read_plan
from pgn_edge.runtime.engines.service import ServiceEngine
from pgn_edge.runtime.engines.tensorrt import TensorRtEngine
from pgn_edge.runtime.engines.tensorrt_rtx import TensorRtRtxEngine
from pgn_edge.runtime.engines.triton import TritonEngine
from pgn_edge.runtime.engines.triton_options import PREFIX as TRITON
from pgn_edge.runtime.engines.triton_options import TritonOptions

PLANS = (".plan", ".engine", ".trt")  # of TensorRT, by the habits of pgn-edge, trtexec and ultralytics, and torch2trt

__all__ = [
    "PLANS",
    "DeviceEngine",
    "Engine",
    "EngineOptions",
    "FakeEngine",
    "ForeignEngine",
    "OnnxRuntimeEngine",
    "OrtGpuEngine",
    "ServiceEngine",
    "TensorRtEngine",
    "TensorRtRtxEngine",
    "TensorSpec",
    "TritonEngine",
    "TritonOptions",
    "is_served",
    "open_engine",
    "open_pgn",
]


def open_engine(path: str | Path, options: EngineOptions | None = None) -> Engine:
    """Open an engine by its file name, by the address of a served model, or by the config of a service.

    Args:
        path: Path of an `.onnx` file, of a plan (`.plan`, `.engine` or `.trt`), of the facts file of a foreign engine
            (`vit.facts.json`, see `read_facts_file`) or of an embedding service's `.toml`, see `read_service`; or an
            address such as `triton+http://host:port/model`, see `TritonAddress`, with secrets from the environment,
            see `TritonOptions.from_environment`.
        options: provider, threads and GPU.

    Raises:
        EngineError: the file cannot be used here; a plan is verified, and checked against this machine, before a byte
            of it is parsed.
        MissingExtraError: the package behind it is not installed.
    """
    options = options or EngineOptions()
    if is_served(path):
        return _served(str(path), options)
    require_kind(path, "vit", "pgn", "onnx", "plan", error=EngineError)
    suffix = Path(path).suffix
    if suffix == ".onnx":
        if options.provider == "cpu":
            return OnnxRuntimeEngine(path, str(path), options.threads)
        return OrtGpuEngine(path, str(path), replace(options, deadline_s=0.0))
    if suffix == FACTS:
        return _foreign(path, options)
    if suffix in PLANS:
        if options.provider != "cpu":
            raise EngineError(
                str(path),
                expected="an .onnx file where a provider is chosen",
                got=f"a plan and --provider {options.provider}",
                do="leave the provider out: a plan brings its own backend",
            )
        return _on_tensorrt(read_plan(path, options.trusted), options, None)
    raise EngineError(
        str(path),
        expected="an .onnx, .plan, .engine or .trt file, a vit.facts.json, a service's .toml or an address such as "
        "triton+http://host:port/model",
        got=repr(suffix),
        do="export it: pgn-edge export-vit BACKBONE; and for a GPU: pgn-edge compile vit.onnx",
    )


def is_served(path: str | Path) -> bool:
    """Whether a server runs it: the address of a model, or the config of a service, and no engine file."""
    return str(path).startswith(TRITON) or Path(path).suffix == ".toml"


def open_pgn(bundle: Bundle, path: str | Path, vit: Engine, options: EngineOptions) -> Engine:
    """Open a task's PGN engine where the ViT engine is, so that the canvas need not travel.

    Args:
        bundle: as read.
        path: of the bundle; beside a ViT plan the PGN is a plan too, `pets.plan` for `pets.pgn`.
        vit: the ViT engine.
        options: as it was opened with.

    Raises:
        EngineError: the PGN's plan is missing, not for this machine, or not compiled from this bundle.
    """
    if isinstance(vit, TensorRtEngine):
        return _on_tensorrt(_pgn_plan(bundle, Path(path), vit), options, vit.cuda)
    if isinstance(vit, OrtGpuEngine):
        same = replace(options, provider=vit.provider)
        return OrtGpuEngine(bundle.pgn_onnx, f"{path}: pgn.onnx", same, vit.cuda)
    return OnnxRuntimeEngine(bundle.pgn_onnx, f"{path}: pgn.onnx", options.threads, options.deadline_s)


def _served(where: str, options: EngineOptions) -> Engine:
    if options.provider != "cpu":
        raise EngineError(
            where,
            expected="an .onnx file where a provider is chosen",
            got=f"a served model and --provider {options.provider}",
            do="leave the provider out: the server chooses where the ViT runs",
        )
    return TritonEngine(where, TritonOptions.from_environment()) if where.startswith(TRITON) else ServiceEngine(where)


def _foreign(path: str | Path, options: EngineOptions) -> Engine:
    """The engine that a facts file describes."""
    file = read_facts_file(path)
    suffix = Path(file.engine).suffix
    if not file.served and suffix not in (".onnx", *PLANS):
        expected = "the facts of an .onnx, a plan or a served model"
        raise EngineError(str(path), expected=expected, got=file.engine, do="name that file as the engine itself")
    # Whoever wrote the facts named this very plan, as a sidecar does.
    engine = open_engine(file.engine, replace(options, trusted=options.trusted | {file.sha256}))
    try:
        return ForeignEngine(engine, file)
    except BaseException:
        engine.close()
        raise


def _on_tensorrt(plan: Plan, options: EngineOptions, cuda: Cuda | None) -> TensorRtEngine:
    kind = TensorRtRtxEngine if plan.backend == "tensorrt-rtx" else TensorRtEngine
    return kind(plan, options.gpu, cuda)


def _pgn_plan(bundle: Bundle, path: Path, vit: TensorRtEngine) -> Plan:
    beside = path.with_suffix(".plan")
    do = f"compile it: pgn-edge compile {path} --backend {vit.backend} -o {beside}"
    if not beside.exists():
        raise EngineError(str(path), expected=f"{beside.name} beside it, as the ViT is a plan", got="none", do=do)
    plan = read_plan(beside)
    pairs = {
        "sha256 of its graph": (hashlib.sha256(bundle.pgn_onnx).hexdigest(), plan.onnx_sha256),
        "backend": (vit.backend, plan.backend),
    }
    for what, (wanted, found) in pairs.items():
        if wanted != found:
            raise EngineError(f"{beside}: {what}", expected=wanted, got=found, do=do)
    return plan
