"""Append tasks on a stock engine that nobody re-exported: one that interpolates its positions to a taller picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from pgn_edge.agreement import compare
from pgn_edge.bundle import read_bundle
from pgn_edge.errors import GeometryError
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.probe import ProbeOptions, run_probe

GRID, WIDTH = 8, 128  # patches a side of the tiny ViT, and its token width


@pytest.fixture(scope="module")
def dynamic(tiny_pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stock ViT as libraries export it with free sizes: ONNX's own Resize stretches its position table."""
    model = onnx.load(tiny_pair.stock)
    graph = model.graph
    del model.metadata_props[:], graph.value_info[:]
    for tensor in graph.initializer:
        sizes = numpy_helper.to_array(tensor)
        if sizes.dtype == np.int64 and sizes.size > 2 and sizes[0] == -1:
            # Numbers of tokens become free: 0 keeps the batch, -1 is the rest.
            free = [0, *(-1 if size in (GRID**2, GRID**2 + 1) else size for size in sizes[1:].tolist())]
            tensor.CopyFrom(numpy_helper.from_array(np.array(free), tensor.name))
    for node in graph.node:
        if node.op_type == "Reshape":
            del node.attribute[:]  # allowzero, by which 0 would be a size
    (table,) = (numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == "table")
    add = next(node for node in graph.node if "table" in node.input)
    add.input[list(add.input).index("table")] = "stretched"
    constants = {
        "grid": table.T.reshape(1, WIDTH, GRID, GRID),
        "front": np.array([1, WIDTH]),
        "flat": np.array([WIDTH, -1]),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    conv = next(node for node in graph.node if node.op_type == "Conv")
    nodes = [
        helper.make_node("Shape", [conv.output[0]], ["sides"], start=2, end=4),
        helper.make_node("Concat", ["front", "sides"], ["sizes"], axis=0),
        helper.make_node("Resize", ["grid", "", "", "sizes"], ["taller"], mode="cubic", cubic_coeff_a=-0.75),
        helper.make_node("Reshape", ["taller", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["stretched"], perm=[1, 0]),
    ]
    at = list(graph.node).index(add)
    for node in reversed(nodes):
        graph.node.insert(at, node)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("canvas", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"]))
    path = tmp_path_factory.mktemp("dynamic") / "library.onnx"
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def test_an_append_task_runs_on_an_unmodified_engine_that_interpolates_its_positions(
    use_tiny_backbone, tiny_checkpoint: Path, dynamic: Path, tmp_path: Path
):
    task, facts = tmp_path / "task.pgn", tmp_path / "library.facts.json"
    export_task(tiny_checkpoint, task, ExportOptions(positions="bicubic"))
    report = run_probe(dynamic, ProbeOptions(task=task, facts_file=facts))
    assert report.refusal is None, report.refusal
    with Runtime(facts, {"task": task}) as runtime:  # the golden pair is the proof
        assert runtime.infer("task", np.zeros((64, 64, 3), np.uint8)).label


def test_without_the_positions_of_its_slots_the_engine_gives_other_answers(
    use_tiny_backbone, tiny_checkpoint: Path, tiny_pair, dynamic: Path, tmp_path: Path
):
    report = run_probe(dynamic, ProbeOptions(task=tiny_pair.task, facts_file=tmp_path / "facts.json"))
    assert report.refusal is not None, "the prompts of an ordinary bundle are for zero positions"


def test_the_tokens_in_the_slots_are_those_that_were_trained(use_tiny_backbone, tiny_checkpoint: Path, tmp_path: Path):
    export_task(tiny_checkpoint, tmp_path / "task.pgn", ExportOptions(positions="bicubic"))
    bundle, checkpoint = read_bundle(tmp_path / "task.pgn"), load_checkpoint(tiny_checkpoint)
    vit, own = use_tiny_backbone.vit, checkpoint.geometry
    image = torch.from_numpy(checkpoint.preprocess.normalise(bundle.golden.images))
    # Written out: stretched positions under the image, trained tokens without any position in the slots.
    table = vit.position.T.reshape(1, WIDTH, GRID, GRID)
    taller = (GRID + own.rows, GRID)
    stretched = torch.nn.functional.interpolate(table, size=taller, mode="bicubic", align_corners=False)
    positions = stretched.flatten(2)[0].T[: GRID * GRID]
    with torch.no_grad():
        prompts = checkpoint.pgn(image)
        wanted = vit.encode(torch.cat([vit.patch_tokens(image) + positions, prompts], dim=1)).numpy()
    assert compare(wanted, bundle.golden.embedding, bundle.head).max_abs < 1e-4


def test_prompts_that_do_not_fill_whole_rows_are_refused_for_a_stock_engine(
    use_tiny_backbone, tiny_checkpoint: Path, tmp_path: Path
):
    checkpoint = load_checkpoint(tiny_checkpoint)
    pgn = PGN(PgnConfig("resnet10", 11, 32, WIDTH, 16)).eval()
    odd = replace(checkpoint, geometry=use_tiny_backbone.vit.geometry(11), pgn=pgn)
    save_checkpoint(tmp_path / "odd.pt", odd)
    with pytest.raises(GeometryError, match=r"whole rows of 8 prompts.*got append of 11.*--prompts 8"):
        export_task(tmp_path / "odd.pt", tmp_path / "task.pgn", ExportOptions(positions="bicubic"))
    assert not (tmp_path / "task.pgn").exists()
