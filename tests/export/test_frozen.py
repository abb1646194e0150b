"""The frozen ViT as an engine with prompt slots."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import pgn_edge.export.frozen as frozen_module
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import CheckpointError, GeometryError, OutputError, ParityError
from pgn_edge.export.frozen import VitOptions, export_vit, vit_graph, vit_graphs
from pgn_edge.export.parity import run_onnx
from pgn_edge.export.precision import to_half
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
    built = vit_graph(vit, 16, "inset", "fp32")
    assert built.facts.geometry.canvas_hw == (64, 64)
    assert [(rung.name, rung.passed) for rung in built.parity] == [("onnxruntime fp32", True)]
    canvas = canvases(vit, 16, "inset")
    # All 64 patches are read with the table's own rows: this is the stock model, and runs as such elsewhere.
    np.testing.assert_allclose(run_onnx(built.model, canvas), run(vit, canvas), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("prompts", "suggested"), [(1, 8), (13, 16), (55, 56)])
def test_inset_with_a_partial_row_suggests_a_full_one(tiny_backbone: Backbone, prompts: int, suggested: int):
    with pytest.raises(GeometryError, match=f"use {suggested}, or --prompts auto$"):
        vit_graph(tiny_backbone.vit, prompts, "inset", "fp32")


def test_inset_without_room_for_the_image(tiny_backbone: Backbone):
    with pytest.raises(GeometryError, match="at most 56"):
        vit_graph(tiny_backbone.vit, 64, "inset", "fp32")


def test_an_output_that_cannot_be_written(use_tiny_backbone: Backbone, tmp_path: Path):
    with pytest.raises(OutputError):
        export_vit("builtin", tmp_path / "missing" / "vit.onnx", VitOptions(prompts=8))


@pytest.mark.parametrize("name", ["resnet", "", "builtin:other", "timm:vit_tiny"])
def test_an_unknown_backbone(tmp_path: Path, name: str):
    with pytest.raises(CheckpointError):
        export_vit(name, tmp_path / "vit.onnx")
    assert not list(tmp_path.iterdir())


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_image_part_of_the_position_table_is_the_stock_models_to_the_bit(
    tiny_pair, tiny_vit_fp16: Path, tiny_backbone: Backbone, precision: str
):
    table = constants(onnx.load(tiny_pair.vit if precision == "fp32" else tiny_vit_fp16))["table"]
    stock = tiny_backbone.vit.position.numpy()
    assert table.dtype == np.float32
    assert table[: len(stock)].tobytes() == stock.tobytes()
    assert (table[len(stock) :] == 0).all()
    assert len(table) == len(stock) + 16


def test_inset_keeps_the_whole_table_to_the_bit(tiny_backbone: Backbone):
    table = constants(vit_graph(tiny_backbone.vit, 16, "inset", "fp32").model)["table"]
    assert table.tobytes() == tiny_backbone.vit.position.numpy().tobytes()


def test_what_stands_in_spare_slots_changes_no_bit(tiny_backbone: Backbone):
    vit = tiny_backbone.vit
    built = vit_graph(vit, 13, "append", "fp32")
    canvas = canvases(vit, 13)
    spoilt = canvas.copy()
    spoilt[:, :, -8:, -3 * 8 :] = 1e4
    np.testing.assert_array_equal(run_onnx(built.model, spoilt), run_onnx(built.model, canvas))
    used = canvas.copy()
    used[:, :, -8:, -4 * 8 : -3 * 8] += 1
    assert (run_onnx(built.model, used) != run_onnx(built.model, canvas)).any()


def test_pixels_give_what_their_normalised_values_give(tiny_pair, tiny_vit_fp16: Path, tiny_backbone: Backbone):
    vit = tiny_backbone.vit
    precisions = ("fp32", "fp16", "bf16", "int8")
    built = {graph.facts.precision: graph for graph in vit_graphs(vit, 16, "append", precisions, "uint8")}
    canvas = np.random.default_rng(5).integers(0, 256, (3, 80, 64, 3), np.uint8)
    for precision, twin in (("fp32", tiny_pair.vit), ("fp16", tiny_vit_fp16)):
        expected = run_onnx(onnx.load(twin), vit.spec.preprocess.normalise(canvas))
        found = run_onnx(built[precision].model, canvas)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    for precision, graph in built.items():
        assert (graph.facts.precision, graph.facts.canvas) == (precision, "uint8")
        assert all(rung.passed for rung in graph.parity)
        # TensorRT has no arithmetic in uint8: the canvas is cast before anything else reads it.
        assert [node.op_type for node in graph.model.graph.node if "canvas" in node.input] == ["Cast"]
        (given,) = graph.model.graph.input
        assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert [dim.dim_value for dim in given.type.tensor_type.shape.dim][1:] == [80, 64, 3]


def test_a_wrong_normalisation_inside_is_refused(
    pixel_pair, use_tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    model = onnx.load(pixel_pair.vit)
    (shift,) = (tensor for tensor in model.graph.initializer if tensor.name == "shift")
    shift.CopyFrom(onnx.numpy_helper.from_array(1.1 * onnx.numpy_helper.to_array(shift), "shift"))
    monkeypatch.setattr(frozen_module, "to_onnx", lambda *arguments: model)
    with pytest.raises(ParityError, match="'onnxruntime fp32'"):
        export_vit("builtin", tmp_path / "vit.onnx", VitOptions(canvas="uint8"))


@pytest.mark.parametrize("layout", ["append", "inset"])
def test_auto_fills_whole_rows(tiny_backbone: Backbone, layout: str):
    geometry = vit_graph(tiny_backbone.vit, None, layout, "fp32").facts.geometry
    assert (geometry.prompts, geometry.spare) == (16, 0)


def test_layer_norms_are_single_nodes_in_float32(tiny_vit_fp16: Path):
    model = onnx.load(tiny_vit_fp16)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("LayerNormalization") == 2 + 2 * 2  # before, after, and two in each of two blocks
    assert not {"ReduceMean", "Pow", "Sqrt"} & set(kinds)
    weights = [tensor for tensor in model.graph.initializer if "norm" in tensor.name]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT}


def test_a_projection_that_decays_stays_float32(tiny_backbone: Backbone):
    vit = copy.deepcopy(tiny_backbone.vit)
    left, sigma, right = torch.linalg.svd(vit.patch_embed.weight.flatten(1), full_matrices=False)
    decayed = torch.logspace(0, -3, len(sigma)) * sigma[0]
    vit.patch_embed.weight.copy_(((left * decayed) @ right).view_as(vit.patch_embed.weight))
    built = vit_graph(vit, 16, "append", "fp16")
    reasons = {entry["node"]: entry["reason"] for entry in built.numerics["kept_float32"]}
    assert reasons["vit.patch_embed/Conv"] == "patch projection"
    assert constants(built.model)["vit.patch_embed.weight"].dtype == np.float32
    assert all(rung.passed for rung in built.parity)


def test_int8_multiplies_integers_and_passes_the_gate(tiny_pair, use_tiny_backbone: Backbone, tmp_path: Path):
    report = export_vit("builtin", tmp_path / "int8.onnx", VitOptions(precision="int8"))
    assert [(rung.name, rung.passed) for rung in report.graph.parity][1] == ("onnxruntime int8", True)
    model = onnx.load(tmp_path / "int8.onnx")
    # Four a block, one more for the query of the last one's class token, and the projection.
    assert sum(node.op_type == "MatMulInteger" for node in model.graph.node) == 2 * 4 + 1 + 1
    assert report.size_bytes < 0.45 * tiny_pair.vit.stat().st_size
    assert EngineFacts.from_metadata({p.key: p.value for p in model.metadata_props}, "here").precision == "int8"


class _Spoilt:
    """Stands where export lowers the precision, and doubles one weight on the way."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        def spoil(model: onnx.ModelProto, *rest: object) -> onnx.ModelProto:
            half = to_half(model, *rest)
            for tensor in half.graph.initializer:
                if tensor.name.startswith("vit.body.blocks.1.mlp.0/MatMul.weight"):
                    tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
            return half

        patch.setattr(frozen_module, "to_half", spoil)


def test_a_wrong_engine_is_refused_and_nothing_written(
    use_tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    _Spoilt(monkeypatch)
    with pytest.raises(ParityError, match=r"'onnxruntime fp16'.*--allow-drift"):
        export_vit("builtin", tmp_path / "vit.onnx", VitOptions(precision="fp16"))
    assert not list(tmp_path.iterdir())


def test_drift_is_written_where_it_is_allowed(
    use_tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    _Spoilt(monkeypatch)
    report = export_vit("builtin", tmp_path / "vit.onnx", VitOptions(precision="fp16", allow_drift=True))
    assert [rung.passed for rung in report.graph.parity] == [True, False]
    assert (tmp_path / "vit.onnx").exists()


def test_a_batch_of_none_is_refused():
    with pytest.raises(GeometryError, match="1 or more"):
        VitOptions(batch=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "name", ["open_clip:ViT-B-32", "open_clip:ViT-B-32/openai", "timm:test_vit", "torchvision:vit_b_32"]
)
def test_a_tower_that_one_onnx_file_cannot_hold_is_refused_before_its_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str
):
    monkeypatch.setattr(frozen_module, "ONNX_BYTES", 1_000_000)
    missing = tmp_path / "never_read.pt"  # an attempt to read it would be the error
    with pytest.raises(CheckpointError, match=r"at most 1 MB in float32, .*got \d+ MB \(\d+ M parameters\)"):
        export_vit(name, tmp_path / "vit.onnx", VitOptions(precision=precision, weights=missing))
    assert not (tmp_path / "vit.onnx").exists()


def test_the_limit_is_that_of_protobuf_with_room_for_the_graph():
    assert frozen_module.ONNX_BYTES < 2**31 - 2**20
    # ViT-L/14 with 304 M parameters fits, ViT-H/14 with 632 M does not.
    assert 4 * 304e6 < frozen_module.ONNX_BYTES < 4 * 632e6
