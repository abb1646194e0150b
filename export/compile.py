"""`pgn-edge compile`: an ONNX graph becomes a plan with its sidecar. TensorRT-RTX needs no GPU for this."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, MissingExtraError
from pgn_edge.files import atomic_write
from pgn_edge.sidecar import Sidecar, write_sidecar


@dataclass(frozen=True)
class CompileReport:
    """What `compile_plan` wrote.

    Args:
        path: of the plan; its sidecar is beside it.
        size_bytes: of the plan.
        sidecar: as written.
    """

    path: Path
    size_bytes: int
    sidecar: Sidecar


def compile_plan(
    source: str | Path,
    output: str | Path,
    *,
    backend: str = "tensorrt-rtx",
    targets: Sequence[str] = (),
    max_batch: int = 8,
) -> CompileReport:
    """Compile a ViT engine or a task's PGN engine.

    Args:
        source: `vit.onnx` from `export-vit`, or a bundle `task.pgn`.
        output: the plan; `output.json` is its sidecar.
        backend: `tensorrt-rtx`.
        targets: for example `("sm_86", "sm_120")`; empty for the backend's default set.
        max_batch: largest batch that the plan accepts, where the graph's own is free.

    Raises:
        EngineError: the source is no export of ours, or the backend refused it.
        BundleError: the bundle is damaged.
        MissingExtraError: the backend is not installed.
        OutputError: the output cannot be written.
    """
    builders = {"tensorrt-rtx": _build_rtx}
    if backend not in builders:
        raise EngineError("backend", expected=" or ".join(builders), got=repr(backend), do="choose one with --backend")
    if max_batch < 1:
        raise EngineError("batch", expected="1 or more", got=str(max_batch), do="choose another --max-batch")
    data, facts = _read(source)
    if facts.precision == "int8":
        raise EngineError(
            str(source), expected="fp32, fp16 or bf16", got="int8, which is for CPUs", do="export it without --int8"
        )
    fixed = _fixed_batch(data)
    batch = (1, 1, max_batch) if fixed is None else (fixed, fixed, fixed)
    plan, version = builders[backend](data, facts, targets, batch)
    sidecar = Sidecar(
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        onnx_sha256=hashlib.sha256(data).hexdigest(),
        backend=backend,
        backend_version=version,
        targets=tuple(targets),
        batch=batch,
        facts=facts,
    )
    with atomic_write(output) as temporary:
        temporary.write_bytes(plan)
        # Before the plan has its name: a plan is never there without the sidecar that vouches for it.
        write_sidecar(output, sidecar)
    return CompileReport(Path(output), len(plan), sidecar)


def _read(source: str | Path) -> tuple[bytes, EngineFacts]:
    path = Path(source)
    if path.suffix == ".pgn":
        bundle = read_bundle(path)
        return bundle.pgn_onnx, bundle.facts
    try:
        data = path.read_bytes()
        metadata = {prop.key: prop.value for prop in onnx.load_model_from_string(data).metadata_props}
    except OSError as exc:
        raise EngineError(
            str(path), expected="an ONNX file", got=exc.strerror or str(exc), do="check the path"
        ) from exc
    except Exception as exc:
        # protobuf's DecodeError has another home in each protobuf release.
        raise EngineError(
            str(path), expected="an ONNX file", got=f"{exc}".split("\n")[0], do="export it again"
        ) from exc
    return data, EngineFacts.from_metadata(metadata, str(path))


def _fixed_batch(data: bytes) -> int | None:
    batch = onnx.load_model_from_string(data).graph.input[0].type.tensor_type.shape.dim[0]
    return batch.dim_value if batch.HasField("dim_value") else None


def _build_rtx(
    data: bytes, facts: EngineFacts, targets: Sequence[str], batch: tuple[int, int, int]
) -> tuple[bytes, str]:
    try:
        import tensorrt_rtx as trt
    except ImportError as exc:
        raise MissingExtraError("tensorrt_rtx", "rtx") from exc
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(data):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(
            "TensorRT-RTX", expected="a graph that it can parse", got=reasons[:300], do="report this graph"
        )
    config = builder.create_builder_config()
    _set_targets(trt, config, targets)
    profile = builder.create_optimization_profile()
    tensor = network.get_input(0)
    profile.set_shape(tensor.name, *((size, *tensor.shape[1:]) for size in batch))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            "TensorRT-RTX",
            expected=f"a plan for {facts.role} {facts.backbone}",
            got="a failed build, its reason above",
            do="try other --target values",
        )
    return bytes(plan), str(trt.__version__)


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    known = {
        f"sm_{name[2:]}": value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")
    }
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise EngineError("target", expected=", ".join(sorted(known)), got=repr(unknown[0]), do="choose from these")
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(known[target], index)
