"""The frozen ViT as an engine with prompt slots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pgn_edge.errors import CheckpointError, GeometryError, OutputError
from pgn_edge.export.frozen import export_vit, vit_graph
from pgn_edge.export.parity import run_onnx
from pgn_edge.nn.vit import Backbone, CanvasViT


def canvases(vit, prompts: int, layout: str = "append", count: int = 3) -> np.ndarray:
    shape = (count, 3, *vit.geometry(prompts, layout).canvas_hw)
    return np.random.default_rng(4).standard_normal(shape, np.float32)


def run(module: torch.nn.Module, canvas: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(canvas)).numpy()


def test_without_prompts_it_is_the_stock_model(tiny_pair, tiny_backbone: Backbone):
    vit = tiny_backbone.vit
    canvas = canvases(vit, 0)
    np.testing.assert_allclose(run_onnx(onnx.load(tiny_pair.stock), canvas), run(vit, canvas), rtol=0, atol=1e-5)


def test_with_prompts_it_is_torchs_canvas_vit(tiny_pair, tiny_backbone: Backbone):
    vit = tiny_backbone.vit
    canvas = canvases(vit, 16)
    expected = run(CanvasViT(vit, vit.geometry(16)), canvas)
    np.testing.assert_allclose(run_onnx(onnx.load(tiny_pair.vit), canvas), expected, rtol=0, atol=1e-5)


def test_fp16_stays_close(tiny_pair, tiny_vit_fp16: Path, tiny_backbone: Backbone):
    canvas = canvases(tiny_backbone.vit, 16)
    exact, half = (run_onnx(onnx.load(path), canvas) for path in (tiny_pair.vit, tiny_vit_fp16))
    assert 0 < np.abs(exact - half).max() < 1e-2 * np.abs(exact).max()


def test_inset_keeps_the_stock_size(tiny_backbone: Backbone):
    vit = tiny_backbone.vit
    graph, facts, rungs = vit_graph(vit, 16, "inset", "fp32")
    assert facts.geometry.canvas_hw == (64, 64)
    assert [(rung.name, rung.passed) for rung in rungs] == [("onnxruntime fp32", True)]
    canvas = canvases(vit, 16, "inset")
    # All 64 patches are read with the table's own rows: this is the stock model, and runs as such elsewhere.
    np.testing.assert_allclose(run_onnx(graph, canvas), run(vit, canvas), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("prompts", "suggested"), [(1, 8), (13, 16), (55, 56)])
def test_inset_with_a_partial_row_suggests_a_full_one(tiny_backbone: Backbone, prompts: int, suggested: int):
    with pytest.raises(GeometryError, match=f"use {suggested}$"):
        vit_graph(tiny_backbone.vit, prompts, "inset", "fp32")


def test_inset_without_room_for_the_image(tiny_backbone: Backbone):
    with pytest.raises(GeometryError, match="at most 56"):
        vit_graph(tiny_backbone.vit, 64, "inset", "fp32")


def test_an_output_that_cannot_be_written(use_tiny_backbone: Backbone, tmp_path: Path):
    with pytest.raises(OutputError):
        export_vit("builtin", tmp_path / "missing" / "vit.onnx", prompts=8)


@pytest.mark.parametrize("name", ["resnet", "", "builtin:other", "timm:vit_tiny"])
def test_an_unknown_backbone(tmp_path: Path, name: str):
    with pytest.raises(CheckpointError):
        export_vit(name, tmp_path / "vit.onnx")
    assert not list(tmp_path.iterdir())
