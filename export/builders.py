"""One builder for TensorRT and TensorRT-RTX, whose Python modules have one interface, from 10.3 to 11 and 1.x.

Releases differ in what they know: every name that is not in all of them is looked up when an option asks for it.
Source: the Python bindings of TensorRT 10.3, 10.16 and 11.1, `python/src/infer/pyCore.cpp` and
`python/src/parsers/pyOnnx.cpp`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from pgn_edge.errors import EngineError
from pgn_edge.files import write_bytes
from pgn_edge.progress import Progress, silent

MIB = 1 << 20
MOST_SAID = 400  # characters of a library's own reasons


@dataclass(frozen=True)
class BuildRequest:
    """What a builder is asked for.

    Args:
        backend: name of it, for messages.
        batch: smallest, best and largest batch.
        targets: GPU architectures, for example `("sm_86",)`; empty for the backend's own choice.
        workspace_mib: most memory that one layer may use while it runs, in MiB; None for all.
        timing_cache: file of measured kernels, read if it is there and written in the end; None for none.
        version_compatible: let later releases of the same major version load the plan.
        same_compute_capability: let every GPU of the same compute capability run it, not this model alone.
    """

    backend: str
    batch: tuple[int, int, int]
    targets: tuple[str, ...] = ()
    workspace_mib: int | None = None
    timing_cache: str | None = None
    version_compatible: bool = False
    same_compute_capability: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildRequest:
        """Read what `to_json` wrote."""
        smallest, best, largest = data["batch"]
        return cls(**{**data, "batch": (smallest, best, largest), "targets": tuple(data["targets"])})


def build(trt: Any, onnx_bytes: bytes, request: BuildRequest, progress: Progress = silent) -> Any:
    """Build one plan. What the library logs from warnings on goes to stderr.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        onnx_bytes: the graph, strongly typed, with one input whose first dimension alone may be free.
        request: the rest.
        progress: listener.

    Returns:
        The plan, an object with Python's buffer interface.

    Raises:
        EngineError: the library cannot do what is asked, cannot parse the graph, or fails; with its reasons.
        OutputError: the timing cache cannot be written.
    """
    reasons: list[str] = []
    logger = _logger(trt, reasons)
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as exc:  # pybind's way to say that the constructor returned nothing
        raise _failed(request, "a builder", [*reasons, str(exc)], "see: pgn-edge doctor") from exc
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_bytes):
        said = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise _failed(request, "a graph that it can parse", said, "export it again, or report this graph")
    config = builder.create_builder_config()
    _configure(trt, config, request)
    _add_profile(builder, network, config, request)
    timing_cache = _open_timing_cache(config, request)
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(trt, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failed(request, "a plan", reasons, "free memory, or choose other options")
    if timing_cache is not None and request.timing_cache is not None:
        write_bytes(request.timing_cache, bytes(timing_cache.serialize()))
    return plan


def _network_flags(trt: Any) -> int:
    flag = getattr(getattr(trt, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED", None)
    # TensorRT 11 ignores the flag, since every network is strongly typed there, and may drop it.
    return 0 if flag is None else 1 << int(flag)


def _configure(trt: Any, config: Any, request: BuildRequest) -> None:
    if request.workspace_mib is not None:
        pool = _need(trt, "MemoryPoolType.WORKSPACE", "--workspace")
        config.set_memory_pool_limit(pool, request.workspace_mib * MIB)
    if request.version_compatible:
        config.set_flag(_need(trt, "BuilderFlag.VERSION_COMPATIBLE", "--version-compatible"))
    if request.same_compute_capability:
        level = _need(trt, "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY", "--same-compute-capability")
        config.hardware_compatibility_level = level
    if request.targets:
        config.num_compute_capabilities = len(request.targets)
    for index, target in enumerate(request.targets):
        config.set_compute_capability(_need(trt, f"ComputeCapability.{target.replace('sm_', 'SM')}", "--target"), index)


def _need(trt: Any, name: str, option: str) -> Any:
    """A name that some releases lack."""
    found = reduce(lambda value, part: getattr(value, part, None), name.split("."), trt)
    if found is None:
        raise EngineError(
            option,
            expected=f"a release that knows {name}",
            got=f"{trt.__name__} {trt.__version__}, which does not",
            do="leave the option out, or update it",
        )
    return found


def _add_profile(builder: Any, network: Any, config: Any, request: BuildRequest) -> None:
    tensor = network.get_input(0)
    rest = tuple(tensor.shape[1:])
    if network.num_inputs != 1 or any(size < 0 for size in rest):
        shapes = (network.get_input(index) for index in range(network.num_inputs))
        got = ", ".join(f"{one.name} {tuple(one.shape)}" for one in shapes)
        raise EngineError("graph", expected="one input, free in its batch alone", got=got, do="fix its other sizes")
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *((size, *rest) for size in request.batch))
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(
            "batch", expected="sizes that the graph allows", got=str(request.batch), do="choose another --max-batch"
        )


def _open_timing_cache(config: Any, request: BuildRequest) -> Any:
    if request.timing_cache is None:
        return None
    path = Path(request.timing_cache)
    timing_cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if timing_cache is None or not config.set_timing_cache(timing_cache, False):
        raise EngineError(
            str(path),
            expected="a timing cache of this GPU and this version",
            got="one that the library refuses",
            do="remove the file, or name another with --timing-cache",
        )
    return timing_cache


def _failed(request: BuildRequest, expected: str, reasons: list[str], do: str) -> EngineError:
    said = "; ".join(dict.fromkeys(reasons))[:MOST_SAID] or "a failure without a reason"
    return EngineError(request.backend, expected=expected, got=said, do=do)


def _logger(trt: Any, reasons: list[str]) -> Any:
    """A logger that keeps errors in `reasons` and repeats them, and warnings, on stderr."""
    errors, warnings = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR), (trt.ILogger.WARNING,)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in errors:
                reasons.append(msg)
            if severity in (*errors, *warnings):
                sys.stderr.write(f"{msg}\n")

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    """A monitor that tells of the outermost phases, and of those inside them as a note. Never stops the build."""
    outermost: dict[str, int] = {}

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.at = ("", 0)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                outermost[phase_name], self.at = num_steps, (phase_name, 0)
            name, done = self.at
            progress(name, done, outermost.get(name, 1), "" if parent_phase is None else phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in outermost:
                self.at = (phase_name, step + 1)
                progress(phase_name, step + 1, outermost[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in outermost:
                progress(phase_name, outermost[phase_name], outermost[phase_name])

    return Monitor()
