"""The PGN engine as a graph: float32 first, then in the precision that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch

from pgn_edge.contract import EngineFacts, Precision
from pgn_edge.errors import ExportError
from pgn_edge.export.calibration import adversarial_images
from pgn_edge.export.deployed import LEVELS, DeployedPGN
from pgn_edge.export.graph import finish, to_onnx
from pgn_edge.export.precision import HEAVY, readers, to_half
from pgn_edge.export.ranges import Kept, keep_by_range
from pgn_edge.export.rounding import Mixing, token_limit
from pgn_edge.export.simplify import simplify

CALIBRATION_FRAMES = 16


@dataclass(frozen=True)
class PgnGraph:
    """One form of the PGN engine.

    Args:
        model: uint8 image -> canvas, and mixture coefficients where it has them; facts and numerics in its metadata.
        facts: of the engine.
        numerics: which nodes stay float32 and why; empty for fp32.
    """

    model: onnx.ModelProto
    facts: EngineFacts
    numerics: Mapping[str, Any] = field(default_factory=dict)


def pgn_graphs(
    deployed: DeployedPGN,
    facts: EngineFacts,
    images: np.ndarray,
    mixing: Mixing | None,
    precision: Precision,
    onnxsim: bool,
) -> Iterator[PgnGraph]:
    """The float32 graph, and after it the one in `precision` if that is another.

    Args:
        deployed: the PGN with its inversion folded in.
        facts: of the float32 engine.
        images: (M, H, W, 3) uint8 golden images.
        mixing: coefficients and library of tokens on these images; None for a pixel space, which mixes in float32.
        precision: `fp32`, `fp16` or `bf16`.
        onnxsim: whether to simplify the graph.

    Raises:
        ExportError: a precision that no PGN is exported in, or onnxsim changed an output.
    """
    model = to_onnx(deployed, torch.from_numpy(images[:1]).repeat(2, 1, 1, 1), facts, deployed.more_outputs)
    if onnxsim:
        model = finish(simplify(model, images[:CALIBRATION_FRAMES]), facts)
    yield PgnGraph(model, facts)
    if precision == "fp32":
        return
    if precision == "int8":
        raise ExportError(
            "precision",
            expected="fp32, fp16 or bf16 for a PGN",
            got=precision,
            do="quantise the ViT: pgn-edge export-vit --int8",
        )
    calibration = np.concatenate([images[:CALIBRATION_FRAMES], adversarial_images(images.shape[1:3])])
    kept = {node.node: node for node in keep_by_range(model, calibration)} if precision == "fp16" else {}
    kept |= {name: Kept(name, "levels of pixels", LEVELS, 0.0) for name in _before_clamp(model)}
    error = 0.0 if mixing is None else mixing.error(precision)
    if mixing is not None and not error <= token_limit(precision):
        largest = float(np.abs(mixing.pixels).max())
        for name in readers(model, "pixels"):
            kept[name] = Kept(name, "prompt pixels", largest, error)
    numerics = {"kept_float32": [node.to_json() for node in kept.values()]}
    facts = replace(facts, precision=precision)
    yield PgnGraph(finish(to_half(model, precision, list(kept)), facts, numerics), facts, numerics)


def _before_clamp(model: onnx.ModelProto) -> list[str]:
    """Nodes between the generator and the clamp of its pixels, which are few and cheap.

    fp16 has steps of an eighth of a level in the upper half of the range, and large coefficients would overflow in it:
    Inf times a level of 0 is NaN, which no clamp makes legal.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    open_names = [name for node in model.graph.node if node.op_type == "Clip" for name in (*node.input, *node.output)]
    found: dict[str, None] = {}
    while open_names:
        node = made_by.get(open_names.pop())
        if node is None or node.name in found:
            continue
        mixes = "pixels" in node.input
        if mixes or node.op_type not in HEAVY:
            found[node.name] = None
            open_names += [] if mixes else node.input
    return list(found)
