"""The gate for graphs in bundles: what a PGN engine may hold, decided before any runtime or compiler parses it.

A bundle may come from a stranger. Its graph holds only operators and fields that export writes, so no part of it
names a file or repeats itself. The canvas bounds its tensors and its work, and it states the facts of the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from pgn_edge.contract import MORE_METADATA, PREFIX, EngineFacts, Precision
from pgn_edge.errors import BundleError, PgnEdgeError
from pgn_edge.graph_shapes import RULES, infer
from pgn_edge.graph_tensor import (
    BFLOAT16,
    FLOAT,
    FLOAT16,
    INT64,
    ITEM_BYTES,
    MOST_AXES,
    MOST_SIZES,
    UINT8,
    ShapeError,
    Tensor,
)
from pgn_edge.mixtures import COEFFICIENTS
from pgn_edge.onnx_wire import WireError, read_model

OPSETS = range(20, 24)  # the rules of `graph_shapes` hold for these
DOMAINS = ("", "ai.onnx")
MOST_NODES = 2000
# Per pixel of the canvas, and beside it. A ResNet18 that sees every pixel takes 133 values and 36,000 multiplications.
VALUES_PER_PIXEL, VALUES = 1 << 10, 1 << 22
WORK_PER_PIXEL, WORK = 1 << 18, 1 << 30
HALF_TYPES: Mapping[Precision, set[int]] = {"fp32": set(), "fp16": {FLOAT16}, "bf16": {BFLOAT16}, "int8": set()}
ATTRIBUTE_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}  # by AttributeProto.AttributeType


def check_graph(data: bytes, facts: EngineFacts, source: str) -> None:
    """Refuse a PGN engine that export would not have written.

    Args:
        data: Bytes of the ONNX graph.
        facts: Facts of the PGN engine from the manifest.
        source: Name of the file for messages.

    Raises:
        BundleError: A field, an operator, a size, an amount of work or a fact is not what export writes.
    """
    try:
        model = read_model(data)
        graph = model.get("graph", {})
        _check_opset(model, facts)
        _check_facts(_metadata(model), facts, source)
        constants = {entry.get("name", ""): _constant(entry) for entry in graph.get("initializer", [])}
        if len(constants) < len(graph.get("initializer", [])):
            raise WireError("two initializers of one name")
        small, large = (_Walk(graph, constants, facts, batch) for batch in (1, 2))
        _check_growth(small.made, large.made)
        _check_types(small.made.values(), constants.values(), facts)
    except (WireError, ShapeError) as exc:
        raise _refuse(source, "a graph that pgn-edge export writes", str(exc)) from exc


def _check_opset(model: Mapping[str, Any], facts: EngineFacts) -> None:
    imports = [(entry.get("domain", ""), entry.get("version", 0)) for entry in model.get("opset_import", [])]
    if len(imports) != 1 or imports[0][0] not in DOMAINS or imports[0][1] not in OPSETS:
        raise WireError(f"operators of {imports}"[:120])
    if imports[0][1] != facts.opset:
        raise WireError(f"opset {imports[0][1]}, while the manifest says {facts.opset}")


def _metadata(model: Mapping[str, Any]) -> dict[str, str]:
    entries = [(entry.get("key", ""), entry.get("value", "")) for entry in model.get("metadata_props", [])]
    metadata = dict(entries)
    if len(metadata) < len(entries):
        raise WireError("one key of the metadata twice")
    ours = {PREFIX + name for name in ("schema", *MORE_METADATA, *(field.name for field in fields(EngineFacts)))}
    strange = [key for key in metadata if key not in ours]
    if strange:
        raise WireError(f"metadata {strange[0]!r}"[:120])
    return metadata


def _check_facts(metadata: Mapping[str, str], facts: EngineFacts, source: str) -> None:
    try:
        stated = EngineFacts.from_metadata(metadata, f"{source}: metadata")
    except PgnEdgeError as exc:
        raise _refuse(source, "a graph that states the facts of its manifest", str(exc)) from exc
    for field in fields(EngineFacts):
        in_graph, in_manifest = getattr(stated, field.name), getattr(facts, field.name)
        if in_graph != in_manifest:
            raise _refuse(
                source,
                f"{field.name} {in_manifest}, as the manifest says",
                f"{in_graph} in the graph",
            )
    if (facts.role, facts.output) != ("pgn", "canvas"):
        raise _refuse(source, "the facts of a PGN engine", f"role {facts.role} with output {facts.output}")
    if facts.preprocess.size_hw != facts.geometry.content_hw:
        raise _refuse(
            source,
            f"frames resized to {facts.geometry.content_hw}, the image on the canvas",
            f"a preprocessing to {facts.preprocess.size_hw}",
        )


def _constant(entry: Mapping[str, Any]) -> Tensor:
    """An initializer, or the tensor of a Constant node."""
    shape, kind = tuple(entry.get("dims", [])), entry.get("data_type", 0)
    if kind not in ITEM_BYTES or len(shape) > MOST_AXES or not all(size >= 1 for size in shape):
        raise WireError(f"a constant of type {kind} and shape {shape}"[:120])
    raw, listed = entry.get("raw_data"), entry.get("int64_data")
    count = math.prod(shape)
    values = None
    if raw is None and listed is not None and kind == INT64 and len(listed) == count:
        values = tuple(listed)
    elif raw is not None and listed is None and len(raw) == count * ITEM_BYTES[kind]:
        values = _int64(bytes(raw)) if kind == INT64 and count <= MOST_SIZES else None
    else:
        raise WireError(f"a constant of shape {shape} over other bytes"[:120])
    if count > MOST_SIZES:
        values = None
    return Tensor(shape, kind, values)


def _int64(raw: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(raw[at : at + 8], "little", signed=True) for at in range(0, len(raw), 8))


class _Walk:
    """The graph from its image to its outputs, for one batch size.

    Attributes:
        made: Every tensor that a node gives, by name.
    """

    def __init__(
        self, graph: Mapping[str, Any], constants: Mapping[str, Tensor], facts: EngineFacts, batch: int
    ) -> None:
        self.made: dict[str, Tensor] = {}
        self._known = dict(constants)
        self._facts, self._batch = facts, batch
        canvas_hw = facts.geometry.canvas_hw
        pixels = batch * math.prod(canvas_hw)
        self._values_left = VALUES_PER_PIXEL * pixels + VALUES * batch
        self._work_left = WORK_PER_PIXEL * pixels + WORK * batch
        self._known |= self._image(graph)
        nodes = graph.get("node", [])
        if len(nodes) > MOST_NODES:
            raise WireError(f"{len(nodes)} nodes, more than {MOST_NODES}")
        for node in nodes:
            self._add(node)
        self._check_outputs(graph)

    def _image(self, graph: Mapping[str, Any]) -> dict[str, Tensor]:
        inputs = [_declared(entry, self._batch) for entry in graph.get("input", [])]
        wanted = ("image", Tensor((self._batch, *self._facts.geometry.content_hw, 3), UINT8))
        if inputs != [wanted] or "image" in self._known:
            raise ShapeError(f"inputs {inputs}, not only image {wanted[1].shape}"[:200])
        return dict(inputs)

    def _add(self, node: Mapping[str, Any]) -> None:
        kind = node.get("op_type", "")
        if node.get("domain", "") not in DOMAINS or kind not in RULES:
            name = f"{node.get('domain', '')} {kind}".strip()
            raise WireError(f"operator {name!r}"[:120])
        attributes = dict(_attributes(node, RULES[kind][1]))
        inputs = [self._input(name, kind) for name in node.get("input", [])]
        outputs = node.get("output", [])
        if len(outputs) != 1 or outputs[0] in self._known or not outputs[0]:
            raise WireError(f"outputs of a node {outputs}"[:120])
        try:
            outcome = infer(kind, inputs, attributes)
        except ShapeError as exc:
            raise ShapeError(f"{kind} with {exc}") from exc
        self._values_left -= outcome.tensor.count
        self._work_left -= outcome.work
        if self._values_left < 0 or self._work_left < 0:
            raise ShapeError(f"more values or more work than a PGN of this canvas takes, at {kind} {outputs[0]}"[:160])
        self._known[outputs[0]] = self.made[outputs[0]] = outcome.tensor

    def _input(self, name: str, kind: str) -> Tensor | None:
        if not name:
            return None
        if name not in self._known:
            raise WireError(f"{kind} reads {name}, which nothing gives"[:120])
        return self._known[name]

    def _check_outputs(self, graph: Mapping[str, Any]) -> None:
        geometry, batch = self._facts.geometry, self._batch
        height, width = geometry.canvas_hw
        by_vit = self._facts.canvas == "uint8"
        shape = (batch, height, width, 3) if by_vit else (batch, 3, height, width)
        wanted = {"canvas": Tensor(shape, UINT8 if by_vit else FLOAT)}
        names = [entry.get("name", "") for entry in graph.get("output", [])]
        if COEFFICIENTS in names and COEFFICIENTS in self.made:
            library = self.made[COEFFICIENTS].shape[-1]
            wanted[COEFFICIENTS] = Tensor((batch, geometry.prompts, library), FLOAT)
        if names != list(wanted):
            raise ShapeError(f"outputs {names}"[:120])
        for name, tensor in wanted.items():
            found = self.made.get(name)
            if found is None or (found.shape, found.kind) != (tensor.shape, tensor.kind):
                raise ShapeError(f"{name} {None if found is None else found.shape}, not {tensor.shape}")


def _attributes(node: Mapping[str, Any], allowed: frozenset[str]) -> Iterator[tuple[str, Any]]:
    seen = set()
    for entry in node.get("attribute", []):
        name, field = entry.get("name", ""), ATTRIBUTE_FIELDS.get(entry.get("type", 0), "")
        if name not in allowed or name in seen:
            raise WireError(f"attribute {name!r} of {node['op_type']}"[:120])
        if entry.keys() - {"name", "type", field}:
            raise WireError(f"attribute {name!r} with two values"[:120])
        seen.add(name)
        empty: Any = {"f": 0.0, "i": 0, "s": ""}.get(field, [])
        value = entry.get(field, empty)
        yield name, _constant(value) if field == "t" else value


def _declared(entry: Mapping[str, Any], batch: int) -> tuple[str, Tensor]:
    """Name and tensor of a graph input; its first size may be free."""
    tensor = entry.get("type", {}).get("tensor_type", {})
    sizes = [dim.get("dim_value") for dim in tensor.get("shape", {}).get("dim", [])]
    shape = tuple(0 if size is None else size for size in sizes)
    if sizes and sizes[0] is None:
        shape = (batch, *shape[1:])
    return entry.get("name", ""), Tensor(shape, tensor.get("elem_type", 0))


def _check_growth(small: Mapping[str, Tensor], large: Mapping[str, Tensor]) -> None:
    """Refuse tensors that grow faster than the batch."""
    for name, tensor in large.items():
        if tensor.count > 2 * small[name].count:
            raise ShapeError(f"{name}, which grows faster than the batch"[:120])


def _check_types(made: Iterable[Tensor], constants: Iterable[Tensor], facts: EngineFacts) -> None:
    kinds = {tensor.kind for tensor in (*made, *constants)} & {FLOAT16, BFLOAT16}
    if not kinds <= HALF_TYPES[facts.precision] or facts.precision == "int8":
        raise ShapeError(f"numbers of other types than {facts.precision} has")


def _refuse(source: str, expected: str, got: str) -> BundleError:
    return BundleError(
        source, expected=expected, got=got, do="ask its author for a task.pgn from: pgn-edge export ckpt.pt"
    )
