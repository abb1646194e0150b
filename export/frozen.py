"""`pgn-edge export-vit`: the frozen ViT as one slot-aware ONNX graph, made once for each device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from pgn_edge.contract import CanvasType, EngineFacts, Precision
from pgn_edge.errors import GeometryError
from pgn_edge.export.calibration import check_canvases, check_pixels
from pgn_edge.export.graph import OPSET, finish, fix_batch, to_onnx
from pgn_edge.export.int8 import to_int8
from pgn_edge.export.parity import Ladder, Rung, normalised, require_parity, run_onnx, run_torch
from pgn_edge.export.precision import readers, to_half
from pgn_edge.export.ranges import Kept, keep_by_range
from pgn_edge.export.rounding import projection_error, token_limit
from pgn_edge.files import require_writable, write_bytes
from pgn_edge.geometry import Geometry, Layout
from pgn_edge.heads import Head
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.vit import CanvasViT, FrozenViT

# protobuf cannot serialise 2 GiB; the graph around the weights takes far less than the rest.
ONNX_BYTES = 2**31 - 2**24


@dataclass(frozen=True)
class VitOptions:
    """What kind of engine to export.

    Args:
        prompts: K; 0 gives the stock model, None what fills whole rows, near 16.
        layout: `append` or `inset`.
        precision: of the arithmetic; it says nothing of the canvas.
        canvas: what the engine reads, `float32` or `uint8`, see `EngineFacts`.
        batch: a fixed batch size; None leaves it free.
        weights: a local file instead of the download.
        allow_drift: write the engine although a parity rung failed.
    """

    prompts: int | None = 16
    layout: Layout = "append"
    precision: Precision = "fp32"
    canvas: CanvasType = "float32"
    batch: int | None = None
    weights: str | Path | None = None
    allow_drift: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise GeometryError("batch", expected="1 or more", got=str(self.batch), do="choose another --batch")


@dataclass(frozen=True)
class VitGraph:
    """A ViT engine in memory.

    Args:
        model: the graph, facts and numerics in its metadata.
        facts: of the engine.
        parity: against torch, on pictures and adversarial canvases.
        numerics: which nodes stay float32 and why; empty where nothing was lowered.
    """

    model: onnx.ModelProto
    facts: EngineFacts
    parity: tuple[Rung, ...]
    numerics: Mapping[str, Any]


@dataclass(frozen=True)
class VitReport:
    """What `export_vit` wrote and measured.

    Args:
        path: of the ONNX.
        size_bytes: of the ONNX.
        graph: what is in it.
    """

    path: Path
    size_bytes: int
    graph: VitGraph


def export_vit(backbone: str, output: str | Path, options: VitOptions = VitOptions()) -> VitReport:
    """Export a frozen ViT with prompt slots.

    Args:
        backbone: for example `builtin` or `open_clip:ViT-B-32/openai`.
        output: the ONNX file.
        options: what kind of engine.

    Raises:
        CheckpointError: the backbone cannot be loaded, or is larger than one ONNX file can be.
        GeometryError: prompts that do not fit the layout.
        ParityError: the graph does not agree with torch.
        OutputError: the output cannot be written.
    """
    require_writable(output)
    vit = load_backbone(backbone, options.weights, most_bytes=ONNX_BYTES).vit
    graph = vit_graph(vit, options.prompts, options.layout, options.precision, options.canvas)
    if not options.allow_drift:
        require_parity(graph.parity)
    model = graph.model
    if options.batch is not None:
        model = finish(fix_batch(model, options.batch), graph.facts, graph.numerics)
    data = model.SerializeToString()
    write_bytes(output, data)
    return VitReport(Path(output), len(data), graph)


class PixelViT(CanvasViT):
    """`CanvasViT` behind a canvas of 8 bits, which it normalises itself.

    Args:
        vit: the frozen ViT; it gives the normalisation.
        geometry: canvas geometry.
    """

    def __init__(self, vit: FrozenViT, geometry: Geometry) -> None:
        super().__init__(vit, geometry)
        scale, shift = (torch.from_numpy(array) for array in vit.spec.preprocess.affine())
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.scale: torch.Tensor
        self.shift: torch.Tensor

    def forward(self, canvas: torch.Tensor) -> torch.Tensor:
        """Canvas (B, H_c, W_c, 3), uint8 RGB -> embedding (B, D)."""
        # Cast first: TensorRT has no uint8 arithmetic, not even Transpose.
        return super().forward(canvas.float().permute(0, 3, 1, 2) * self.scale + self.shift)


def vit_graph(
    vit: FrozenViT, prompts: int | None, layout: Layout, precision: Precision, canvas: CanvasType = "float32"
) -> VitGraph:
    """A frozen ViT in memory as a graph, and its parity with torch.

    Raises:
        GeometryError: prompts that do not fit the layout, or an inset layout whose last prompt row is not full.
    """
    return next(vit_graphs(vit, prompts, layout, [precision], canvas))


def vit_graphs(
    vit: FrozenViT,
    prompts: int | None,
    layout: Layout,
    precisions: Sequence[Precision],
    canvas: CanvasType = "float32",
) -> Iterator[VitGraph]:
    """A frozen ViT in several precisions, all from one export; one graph in memory at a time beside the float32 one.

    Raises:
        GeometryError: as `vit_graph`.
    """
    geometry = vit.geometry(prompts, layout)
    geometry.require_engine()
    facts = EngineFacts(
        role="vit",
        backbone=vit.spec.backbone,
        fingerprint=vit.fingerprint(),
        geometry=geometry,
        preprocess=vit.spec.preprocess,
        precision="fp32",
        opset=OPSET,
        output="embedding",
        canvas=canvas,
    )
    kind, given = (
        (PixelViT, check_pixels(geometry)) if canvas == "uint8" else (CanvasViT, check_canvases(vit, geometry))
    )
    # Behind a canvas of floats in either case: it says whether the normalisation inside is right.
    reference = run_torch(CanvasViT(vit, geometry).eval(), normalised(given, vit.spec.preprocess))
    ladder = Ladder(reference, _nearest(reference))
    model = to_onnx(kind(vit, geometry).eval(), torch.from_numpy(given[:2]), facts)
    ladder.climb("onnxruntime fp32", "fp32", run_onnx(model, given))
    for precision in precisions:
        if precision == "fp32":
            yield VitGraph(model, facts, (ladder.rungs[0],), {})
            continue
        lowered, numerics = _lower(model, vit, precision, given)
        changed = replace(facts, precision=precision)
        finish(lowered, changed, numerics)
        ladder.climb(f"onnxruntime {precision}", precision, run_onnx(lowered, given))
        yield VitGraph(lowered, changed, (ladder.rungs[0], ladder.rungs[-1]), numerics)


def _lower(
    model: onnx.ModelProto, vit: FrozenViT, precision: Precision, canvas: np.ndarray
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A copy in fewer bits, and what was measured to choose them."""
    if precision == "int8":
        return to_int8(model), {}
    kept = _keep(model, vit, precision, canvas)
    lowered = to_half(model, precision, [node.node for node in kept])
    return lowered, {"kept_float32": [node.to_json() for node in kept]}


def _keep(model: onnx.ModelProto, vit: FrozenViT, precision: Precision, canvas: np.ndarray) -> tuple[Kept, ...]:
    """Nodes that stay float32: what the ranges say, the position table, and the projection where it must."""
    kept = {node.node: node for node in keep_by_range(model, canvas)} if precision == "fp16" else {}
    error, largest = (
        projection_error(vit.projection()[0], precision),
        np.abs(normalised(canvas, vit.spec.preprocess)).max(),
    )
    if not error <= token_limit(precision):
        for name in readers(model, "vit.patch_embed.weight"):
            kept[name] = Kept(name, "patch projection", float(largest), error)
    for name in readers(model, "table"):
        kept.setdefault(name, Kept(name, "position table", float(vit.position.abs().max()), 0.0))
    return tuple(kept.values())


def _nearest(reference: np.ndarray) -> Head:
    """Which of the reference embeddings is nearest: a canvas that finds another than its own has flipped."""
    norms = np.linalg.norm(reference, axis=1, keepdims=True)
    return Head.text(reference / np.maximum(norms, 1e-12), tuple(str(i) for i in range(len(reference))), 1.0)
