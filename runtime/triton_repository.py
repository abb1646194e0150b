"""A folder that a Triton server serves a ViT from: the file, its configuration, and the facts that clients check.

Source: Triton's documentation of model repositories and of the model configuration.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, OutputError
from pgn_edge.files import atomic_folder, atomic_write, write_text
from pgn_edge.fingerprint import sha256_file
from pgn_edge.runtime.engines import PLANS
from pgn_edge.runtime.engines.base import TensorSpec
from pgn_edge.runtime.engines.onnx_runtime import OnnxRuntimeEngine
from pgn_edge.runtime.pairing import canvas_spec, check_tensors
from pgn_edge.sidecar import read_sidecar

DEFAULT_BATCH = 8
TYPES = {np.dtype(np.float32): "TYPE_FP32", np.dtype(np.uint8): "TYPE_UINT8"}
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ServingOptions:
    """How a server runs a model.

    Args:
        name: of the model; empty for the file's stem.
        max_batch: largest batch that requests are joined to; None for 8, or what a plan takes.
        delay_us: longest time, in microseconds, that a request waits for others to join it.
        instances: of the model, that run side by side.
        warm_up: whether the server runs a sample before it says that it is ready.
        force: whether another model of that name is replaced.
    """

    name: str = ""
    max_batch: int | None = None
    delay_us: int = 500
    instances: int = 1
    warm_up: bool = False
    force: bool = False


@dataclass(frozen=True)
class ServedFolder:
    """What was written.

    Args:
        path: of the model's folder.
        name: of the model.
        platform: Triton's name of what runs it.
        max_batch: largest batch that requests are joined to; 0 where the batch is fixed.
        facts: of the ViT.
    """

    path: Path
    name: str
    platform: str
    max_batch: int
    facts: EngineFacts


@dataclass(frozen=True)
class _Model:
    """A file to serve; `outputs` is empty where the server reads them from the file."""

    path: Path
    sha256: str
    facts: EngineFacts
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    most: int | None  # of the batch, where the file limits it

    @property
    def platform(self) -> str:
        return "tensorrt_plan" if self.path.suffix in PLANS else "onnxruntime_onnx"


def write_model_folder(source: str | Path, repository: str | Path, options: ServingOptions) -> ServedFolder:
    """Write `repository/NAME` whole or not at all.

    Args:
        source: `vit.onnx`, or a `vit.plan` of TensorRT with its sidecar beside it.
        repository: folder of models, made if it is not there.
        options: how it is served.

    Raises:
        EngineError: no ViT of ours, a plan that is not the one of its sidecar, or a batch that it cannot take.
        OutputError: another model stands there, or the folder cannot be written.
        MissingExtraError: onnxruntime, which reads an `.onnx`, is not installed.
    """
    model = _read(Path(source))
    name = options.name or model.path.stem
    if not NAME.fullmatch(name):
        raise OutputError(
            "name of the model", expected="letters, digits, and _ . - inside", got=repr(name), do="choose --name"
        )
    max_batch = _max_batch(model, options.max_batch)
    config = _config(model, name, max_batch, options)
    folder = Path(repository) / name
    _refuse_another(folder, model.facts, options.force)
    with atomic_folder(folder) as made:
        write_text(made / "config.pbtxt", config)
        (made / "1").mkdir()
        # The names that Triton looks for by default.
        copy = made / "1" / ("model.plan" if model.path.suffix in PLANS else "model.onnx")
        with atomic_write(copy) as temporary:
            shutil.copyfile(model.path, temporary)
        digest = sha256_file(copy)
        if digest != model.sha256:
            raise EngineError(
                str(source), expected=f"sha256 {model.sha256}", got=digest, do="leave the file alone meanwhile"
            )
    return ServedFolder(folder, name, model.platform, max_batch, model.facts)


def _read(source: Path) -> _Model:
    if source.suffix in PLANS:
        model = _read_plan(source)
    elif source.suffix == ".onnx":
        model = _read_onnx(source)
    else:
        raise EngineError(str(source), expected="a vit.onnx or a vit.plan", got=repr(source.suffix), do="choose one")
    if model.facts.role != "vit":
        raise EngineError(
            str(source), expected="a ViT engine", got="a PGN engine", do="serve the ViT; tasks stay with the camera"
        )
    return model


def _read_onnx(source: Path) -> _Model:
    engine = OnnxRuntimeEngine(source, str(source), threads=1)
    try:
        facts = EngineFacts.from_metadata(engine.metadata, engine.name)
        if facts.role == "vit":
            check_tensors(engine, facts)
        most = engine.inputs["canvas"].shape[0] if facts.role == "vit" else None
        return _Model(source, sha256_file(source), facts, engine.inputs, engine.outputs, most)
    finally:
        engine.close()


def _read_plan(source: Path) -> _Model:
    sidecar = read_sidecar(source)
    if sidecar.backend != "tensorrt":
        raise EngineError(
            str(source),
            expected="a plan of tensorrt, which is what Triton runs",
            got=sidecar.backend,
            do=f"compile it on the server's GPU: pgn-edge compile {sidecar.source or 'vit.onnx'} --backend tensorrt",
        )
    smallest, _, largest = sidecar.batch
    size = largest if smallest == largest else None
    spec = canvas_spec(sidecar.facts)
    canvas = replace(spec, shape=(size, *spec.shape[1:]), most=None if size else largest)
    return _Model(source, sidecar.plan_sha256, sidecar.facts, {"canvas": canvas}, {}, largest)


def _max_batch(model: _Model, asked: int | None) -> int:
    """As Triton means it: 0 where the batch is fixed, and then a part of every shape."""
    fixed = model.inputs["canvas"].shape[0]
    if asked is not None and model.most is not None and asked > model.most:
        raise EngineError(
            str(model.path),
            expected=f"--max-batch of at most {model.most}, for which it was made",
            got=str(asked),
            do="ask for less, or make it again for more",
        )
    if fixed is not None:
        return 0
    return asked or model.most or DEFAULT_BATCH


def _config(model: _Model, name: str, max_batch: int, options: ServingOptions) -> str:
    """The text of `config.pbtxt`."""
    lines = [
        f'name: "{name}"',
        f'platform: "{model.platform}"',
        f"max_batch_size: {max_batch}",
        *_tensors("input", model.inputs),
        *_tensors("output", model.outputs),
        f"instance_group [ {{ count: {options.instances} }} ]",
    ]
    if max_batch > 1:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {options.delay_us} }}")
    if options.warm_up:
        lines += _warm_up(model, max_batch)
    return "\n".join([*lines, *_parameters(model.facts).values(), ""])


def _tensors(kind: str, specs: Mapping[str, TensorSpec]) -> list[str]:
    return [
        f'{kind} [ {{ name: "{name}" data_type: {TYPES[spec.dtype]} dims: {_dims(spec)} }} ]'
        for name, spec in specs.items()
    ]


def _dims(spec: TensorSpec) -> str:
    sizes = spec.shape if spec.shape[0] is not None else spec.shape[1:]
    return f"[ {', '.join('-1' if size is None else str(size) for size in sizes)} ]"


def _warm_up(model: _Model, max_batch: int) -> list[str]:
    inputs = [
        f'inputs {{ key: "{name}" value {{ data_type: {TYPES[spec.dtype]} dims: {_dims(spec)} zero_data: true }} }}'
        for name, spec in model.inputs.items()
    ]
    # A model without batching has the batch in its sizes, and a batch size of 1.
    batches = sorted({1, max(1, max_batch)})
    return [f'model_warmup [ {{ name: "batch {batch}" batch_size: {batch} {" ".join(inputs)} }} ]' for batch in batches]


def _parameters(facts: EngineFacts) -> dict[str, str]:
    """A line for each fact; values are JSON within a quoted string."""
    lines = {}
    for key, value in facts.to_metadata().items():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        lines[key] = f'parameters {{ key: "{key}" value {{ string_value: "{escaped}" }} }}'
    return lines


def _refuse_another(folder: Path, facts: EngineFacts, force: bool) -> None:
    if force or not folder.exists():
        return
    line = _parameters(facts)["pgn_edge.fingerprint"]
    try:
        found = (folder / "config.pbtxt").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        found = []
    if line not in found:
        raise OutputError(
            str(folder), expected="no model, or one of the same ViT", got="another", do="choose --name, or --force"
        )
