"""Names that mean something: nodes and tensors are called after the module that they come from, not numbered."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter leaves the path of modules here


def name_by_module(model: onnx.ModelProto, root: str) -> None:
    """Rename nodes, tensors and unnamed constants in place; graph inputs, outputs and parameters keep their names.

    A node becomes `module.path/Op`, its output likewise; a constant takes the name of its first reader.

    Args:
        model: as torch's exporter made it, with its metadata.
        root: stands for the outermost module, for example `vit`.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    taken: set[str] = set(fixed)
    names: dict[str, str] = {}
    scope = root
    for node in graph.node:
        scope = _scope(node, root) or scope  # what the exporter's optimiser put in belongs to its neighbour
        node.name = _unique(f"{scope}/{node.op_type}", taken)
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                names[output] = node.name if len(node.output) == 1 else f"{node.name}.{index}"
    names |= _constants(graph, taken)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for info in (*graph.value_info, *graph.initializer):
        info.name = names.get(info.name, info.name)


def _constants(graph: onnx.GraphProto, taken: set[str]) -> dict[str, str]:
    """New names for constants that the exporter only numbered."""
    unnamed = {tensor.name for tensor in graph.initializer if tensor.name.startswith("val_")}
    names: dict[str, str] = {}
    for node in graph.node:
        for name in node.input:
            if name in unnamed and name not in names:
                kind = "weight" if node.op_type == "MatMul" else "constant"
                names[name] = _unique(f"{node.name}.{kind}", taken)
    return names


def _scope(node: onnx.NodeProto, root: str) -> str:
    for prop in node.metadata_props:
        if prop.key == SCOPES:
            scopes: list[str] = ast.literal_eval(prop.value)
            path = scopes[-2] if len(scopes) > 1 else ""
            return root if not path or path.startswith("_") else path  # _: where the exporter itself computes sizes
    return ""


def _unique(name: str, taken: set[str]) -> str:
    """`name`, or with the first number that is free."""
    candidates: Iterable[str] = (name if count == 0 else f"{name}_{count}" for count in range(len(taken) + 1))
    free = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(free)
    return free
