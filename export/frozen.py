"""`pgn-edge export-vit`: the frozen ViT as one slot-aware ONNX graph, made once for each device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch

from pgn_edge.contract import EngineFacts, Precision
from pgn_edge.export.graph import OPSET, finish, to_onnx
from pgn_edge.export.parity import Ladder, Rung, require_parity, run_onnx, run_torch
from pgn_edge.export.precision import input_readers, to_fp16
from pgn_edge.files import write_bytes
from pgn_edge.geometry import Layout
from pgn_edge.heads import Head
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.vit import CanvasViT, FrozenViT

CHECK_FRAMES = 8


@dataclass(frozen=True)
class VitReport:
    """What `export_vit` wrote and measured.

    Args:
        path: of the ONNX.
        size_bytes: of the ONNX.
        facts: as in its metadata_props.
        parity: against torch, on random canvases.
    """

    path: Path
    size_bytes: int
    facts: EngineFacts
    parity: tuple[Rung, ...]


def export_vit(
    backbone: str,
    output: str | Path,
    *,
    prompts: int = 16,
    layout: Layout = "append",
    precision: Precision = "fp32",
    weights: str | Path | None = None,
) -> VitReport:
    """Export a frozen ViT with prompt slots.

    Args:
        backbone: for example `builtin` or `open_clip:ViT-B-32/openai`.
        output: the ONNX file.
        prompts: K; 0 gives the stock model.
        layout: `append` or `inset`.
        precision: of the arithmetic; the canvas and the patch projection stay float32 in both.
        weights: a local file instead of the download.

    Raises:
        CheckpointError: the backbone cannot be loaded.
        GeometryError: prompts that do not fit the layout.
        ParityError: the graph does not agree with torch.
        OutputError: the output cannot be written.
    """
    vit = load_backbone(backbone, weights).vit
    graph, facts, rungs = vit_graph(vit, prompts, layout, precision)
    require_parity(rungs)
    data = graph.SerializeToString()
    write_bytes(output, data)
    return VitReport(Path(output), len(data), facts, rungs)


def vit_graph(
    vit: FrozenViT, prompts: int, layout: Layout, precision: Precision
) -> tuple[onnx.ModelProto, EngineFacts, tuple[Rung, ...]]:
    """A frozen ViT in memory as a graph, its facts, and its parity with torch.

    Raises:
        GeometryError: prompts that do not fit the layout, or an inset layout whose last prompt row is not full.
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
    )
    module = CanvasViT(vit, geometry).eval()
    canvas = np.random.default_rng(0).standard_normal((CHECK_FRAMES, 3, *geometry.canvas_hw), np.float32)
    ladder = Ladder(run_torch(module, canvas), _no_head())
    graph = to_onnx(module, torch.from_numpy(canvas[:2]), facts)
    ladder.climb("onnxruntime fp32", "fp32", run_onnx(graph, canvas))
    if precision == "fp16":
        facts = replace(facts, precision="fp16")
        graph = finish(to_fp16(graph, keep=input_readers(graph)), facts)
        ladder.climb("onnxruntime fp16", "fp16", run_onnx(graph, canvas))
    return graph, facts, tuple(ladder.rungs)


def _no_head() -> Head:
    # Random canvases have no class; one output cannot flip, so only distances count here.
    return Head.mapping(np.zeros(1, np.int64), ("any",))
