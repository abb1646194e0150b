"""`pgn-edge compile`: an ONNX graph becomes a plan with its sidecar. TensorRT-RTX needs no GPU for this."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from pgn_edge.backends import known_architectures, load_backend
from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError
from pgn_edge.export.build_process import Log, run_build
from pgn_edge.export.builders import BuildRequest
from pgn_edge.export.memory import require_memory
from pgn_edge.export.plan_cache import PlanCache, cache_key
from pgn_edge.file_kind import require_kind
from pgn_edge.files import require_writable
from pgn_edge.fingerprint import sha256_file
from pgn_edge.gpu import require_architectures
from pgn_edge.progress import Progress, silent
from pgn_edge.sidecar import Sidecar, atomic_plan

CacheUse = Literal["off", "hit", "stored", "not stored"]

# Options that one backend has and the other has not, with what to do instead.
FOREIGN = {
    "tensorrt-rtx": {
        "--timing-cache": "leave it out: a build that needs no GPU times nothing",
        "--version-compatible": "leave it out, and compile again for another version",
        "--same-compute-capability": "name the GPUs with --target",
    },
    "tensorrt": {"--target": "leave it out: it builds for the GPU that it runs on"},
}


@dataclass(frozen=True)
class CompileOptions:
    """How to compile.

    Args:
        backend: `tensorrt-rtx`, anywhere, or `tensorrt`, on the device that will run the plan.
        targets: for example `("sm_86", "sm_120")`, of TensorRT-RTX; empty for its default set.
        max_batch: largest batch that the plan accepts, where the graph's own is free; 1 or more.
        workspace_mib: most memory that one layer may use while it runs, in MiB; None for all there is.
        timing_cache: file of measured kernels, of TensorRT, read if it is there and written after a build.
        version_compatible: whether later releases of the same major version of TensorRT load the plan.
        same_compute_capability: whether every GPU of the same compute capability runs it, not this model alone.
        cache: folder of the plan cache; None for none.
    """

    backend: str = "tensorrt-rtx"
    targets: tuple[str, ...] = ()
    max_batch: int = 8
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    same_compute_capability: bool = False
    cache: Path | None = None

    def arguments(self) -> tuple[str, ...]:
        """The same for the command line, without backend, targets and plan cache."""
        words = ["--max-batch", str(self.max_batch)]
        if self.workspace_mib is not None:
            words += ["--workspace", str(self.workspace_mib)]
        if self.timing_cache is not None:
            words += ["--timing-cache", str(self.timing_cache)]
        words += ["--version-compatible"] if self.version_compatible else []
        words += ["--same-compute-capability"] if self.same_compute_capability else []
        return tuple(words)

    def check(self) -> None:
        """Refuse what cannot be built.

        Raises:
            EngineError: an unknown backend, an option that the backend does not know, or a size below 1.
        """
        if self.backend not in FOREIGN:
            raise EngineError(
                "backend", expected=" or ".join(FOREIGN), got=repr(self.backend), do="choose one with --backend"
            )
        given = {*self.arguments(), *(["--target"] if self.targets else [])}
        for option, do in FOREIGN[self.backend].items():
            if option in given:
                raise EngineError(option, expected=f"an option of {self.backend}", got="one of another", do=do)
        for name, option, size in (
            ("batch", "--max-batch", self.max_batch),
            ("workspace", "--workspace", self.workspace_mib),
        ):
            if size is not None and size < 1:
                raise EngineError(name, expected="1 or more", got=str(size), do=f"choose another {option}")


@dataclass(frozen=True)
class CompileReport:
    """What `compile_plan` wrote.

    Args:
        path: of the plan; its sidecar is beside it.
        size_bytes: of the plan.
        sidecar: as written.
        cache: what the plan cache did: `hit` is a plan that was built before.
    """

    path: Path
    size_bytes: int
    sidecar: Sidecar
    cache: CacheUse


@dataclass(frozen=True)
class _Graph:
    """What is compiled: its file's name, the ONNX, the facts, and its batch if that is fixed."""

    name: str
    onnx_bytes: bytes
    facts: EngineFacts
    fixed_batch: int | None


def compile_plan(
    source: str | Path,
    output: str | Path,
    options: CompileOptions = CompileOptions(),
    progress: Progress = silent,
    log: Log | None = None,
) -> CompileReport:
    """Compile a ViT engine or a task's PGN engine, in a child process.

    Args:
        source: `vit.onnx` from `export-vit`, or a bundle `task.pgn`.
        output: the plan; `output.json` is its sidecar.
        options: how.
        progress: listener.
        log: called with each line that the backend prints.

    Raises:
        EngineError: the source is no export of ours, the options do not fit, or the build failed.
        BundleError: the bundle is damaged.
        MissingExtraError: the backend is not installed.
        OutputError: the output, the timing cache or the plan cache cannot be written.
    """
    options.check()
    graph = _read(source)
    trt = load_backend(options.backend)
    draft = _draft(graph, options, trt)
    cache = PlanCache(options.cache) if options.cache is not None else None
    key = _key(draft, options)
    if cache is not None:
        cache.prepare()
    if options.timing_cache is not None:
        require_writable(options.timing_cache)
    use: CacheUse = "off"
    with atomic_plan(output) as pair:
        temporary = pair.path
        found = cache.fetch(key, temporary) if cache is not None else None
        if found is None:
            require_memory(len(graph.onnx_bytes))
            version = run_build(_request(draft, options), graph.onnx_bytes, temporary, progress, log)
            sidecar = replace(draft, plan_sha256=sha256_file(temporary), backend_version=version)
        else:
            use, sidecar = "hit", replace(draft, plan_sha256=found.plan_sha256)
        size_bytes = temporary.stat().st_size
        pair.sidecar = sidecar
    if cache is not None and found is None:
        use = "stored" if cache.store(key, Path(output), sidecar) else "not stored"
    return CompileReport(Path(output), size_bytes, sidecar, use)


def _draft(graph: _Graph, options: CompileOptions, trt: Any) -> Sidecar:
    """The sidecar of the plan to be, but for its sha256."""
    smallest, largest = (1, options.max_batch) if graph.fixed_batch is None else (graph.fixed_batch,) * 2
    return Sidecar(
        plan_sha256="",
        onnx_sha256=hashlib.sha256(graph.onnx_bytes).hexdigest(),
        backend=options.backend,
        backend_version=str(trt.__version__),
        targets=_targets(options, trt),
        batch=(smallest, smallest, largest),
        facts=graph.facts,
        version_compatible=options.version_compatible,
        source=graph.name,
        options=options.arguments(),
    )


def _targets(options: CompileOptions, trt: Any) -> tuple[str, ...]:
    if options.backend == "tensorrt":
        here = require_architectures("tensorrt", "compile on the device, or use --backend tensorrt-rtx")
        if len(here) > 1:
            raise EngineError(
                "tensorrt",
                expected="GPUs of one compute capability",
                got=", ".join(here),
                do="compile on a machine that has the one GPU that will run it",
            )
        return here
    known = known_architectures(trt)
    unknown = [target for target in options.targets if target not in known]
    if unknown:
        raise EngineError("target", expected=", ".join(known), got=repr(unknown[0]), do="choose from these")
    return options.targets


def _request(draft: Sidecar, options: CompileOptions) -> BuildRequest:
    return BuildRequest(
        backend=draft.backend,
        batch=draft.batch,
        targets=options.targets,
        workspace_mib=options.workspace_mib,
        timing_cache=None if options.timing_cache is None else str(options.timing_cache.absolute()),
        version_compatible=options.version_compatible,
        same_compute_capability=options.same_compute_capability,
    )


def _key(draft: Sidecar, options: CompileOptions) -> str:
    timings = options.timing_cache
    return cache_key(
        {
            "onnx": draft.onnx_sha256,
            "backend": [draft.backend, draft.backend_version],
            "targets": draft.targets,
            "request": replace(_request(draft, options), timing_cache=None).to_json(),
            # What is in it decides between kernels; where it lies does not.
            "timings": sha256_file(timings) if timings is not None and timings.is_file() else "",
        }
    )


def _read(source: str | Path) -> _Graph:
    path = Path(source)
    require_kind(path, "vit", "pgn", "onnx", "bundle", error=EngineError)
    if path.suffix == ".pgn":
        bundle = read_bundle(path)
        data, facts = bundle.pgn_onnx, bundle.facts
        model = onnx.load_model_from_string(data)
    else:
        try:
            data = path.read_bytes()
            model = onnx.load_model_from_string(data)
        except OSError as exc:
            raise _no_onnx(path, exc.strerror or str(exc), "check the path") from exc
        except Exception as exc:
            # protobuf's DecodeError has another home in each protobuf release.
            raise _no_onnx(path, f"{exc}".split("\n")[0], "export it again") from exc
        facts = EngineFacts.from_metadata({prop.key: prop.value for prop in model.metadata_props}, str(path))
        _refuse_external(model, path)
    if facts.precision == "int8":
        raise EngineError(
            str(path), expected="fp32, fp16 or bf16", got="int8, which is for CPUs", do="export it without --int8"
        )
    try:
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    except IndexError as exc:
        raise _no_onnx(path, "a graph without an input that has a batch", "export it again") from exc
    return _Graph(path.name, data, facts, batch.dim_value if batch.HasField("dim_value") else None)


def _refuse_external(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph that names files: the parser would read them, and nobody vouches for the names.

    Raises:
        EngineError: A tensor, wherever it stands in the model, is external data.
    """
    messages: list[Any] = [model]
    while messages:
        message = messages.pop()
        if isinstance(message, onnx.TensorProto) and (message.data_location or message.external_data):
            raise EngineError(
                str(path),
                expected="a graph with its weights inside",
                got="external data",
                do="save it as one file, with onnx.save(onnx.load(path), path)",
            )
        for field, value in message.ListFields():
            if field.message_type is not None:
                messages.extend(value if field.is_repeated else [value])


def _no_onnx(path: Path, got: str, do: str) -> EngineError:
    return EngineError(str(path), expected="an ONNX file", got=got, do=do)
