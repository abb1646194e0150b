"""From a torch module to a checked ONNX graph that says what it is."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import nn

from pgn_edge.contract import PREFIX, EngineFacts
from pgn_edge.errors import MissingExtraError
from pgn_edge.export.naming import name_by_module

OPSET = 20  # Gelu and LayerNormalization are single nodes, and TensorRT 10.3 reads it


def to_onnx(
    module: nn.Module, example: torch.Tensor, facts: EngineFacts, more_outputs: Sequence[str] = ()
) -> onnx.ModelProto:
    """Export a module with one input and a free batch size.

    Args:
        module: in evaluation mode.
        example: an input with a batch of 2; a batch of 1 would be taken as a constant.
        facts: become metadata_props; role and output name the tensors.
        more_outputs: names of what the module gives after `facts.output`.

    Returns:
        A model that passes onnx's full check, in float32.

    Raises:
        MissingExtraError: onnxscript, which torch's exporter needs, is not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as exc:
        raise MissingExtraError("onnxscript", "export") from exc
    input_name = "image" if facts.role == "pgn" else "canvas"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, nothing that a user could act on
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[facts.output, *more_outputs],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    assert program is not None
    model = program.model_proto
    name_by_module(model, facts.role)
    if facts.canvas == "uint8":
        _cast_first(model.graph)
    return finish(model, facts)


def _cast_first(graph: onnx.GraphProto) -> None:
    """Let a cast alone read an input of 8 bits: TensorRT does not even give the shape of one."""
    given = graph.input[0]
    askers = [node for node in graph.node if node.op_type == "Shape" and given.name in node.input]
    if not askers:
        return
    cast = onnx.NodeProto()
    cast.CopyFrom(next(node for node in graph.node if node.op_type == "Cast" and given.name in node.input))
    for node in askers:
        node.input[0] = cast.output[0]
    graph.node.remove(cast)
    graph.node.insert(0, cast)


def fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same graph for one batch size only, with every shape in it known."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del fixed.graph.value_info[:]  # sizes that were free; the checker infers them again
    return onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)


def finish(model: onnx.ModelProto, facts: EngineFacts, numerics: Mapping[str, Any] | None = None) -> onnx.ModelProto:
    """Write the facts into a model, drop the exporter's traces of this machine, and check it fully.

    Args:
        model: changed in place.
        facts: become metadata_props.
        numerics: what was measured to choose the precision of each node; JSON values, for the metadata too.
    """
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with file paths
        node.doc_string = ""
    for info in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del info.metadata_props[:]
        info.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    model.graph.name = facts.role
    model.producer_name, model.producer_version = "pgn-edge", ""
    extra = {} if numerics is None else {f"{PREFIX}numerics": json.dumps(numerics)}
    onnx.helper.set_model_props(model, {**facts.to_metadata(), **extra})
    onnx.checker.check_model(model, full_check=True)
    return model
