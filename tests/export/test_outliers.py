"""A ViT with the outliers that are seen in the wild: naive fp16 is silently wrong, ours is not.

Source of the size: values of 1,418 in the residual stream of ViT-B/16, squared by a decomposed LayerNormalization
(onnxsim, scripts/nvidia).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import pgn_edge.export.precision as precision_module
from pgn_edge.errors import ParityError
from pgn_edge.export.calibration import check_canvases
from pgn_edge.export.frozen import vit_graph
from pgn_edge.export.parity import Ladder, require_parity, run_onnx
from pgn_edge.export.precision import to_half
from pgn_edge.export.ranges import measure
from pgn_edge.heads import Head
from pgn_edge.nn.builtin import CharacterNet
from pgn_edge.nn.vit import FrozenViT

LARGEST = 1400.0


def scaled(net: CharacterNet) -> None:
    """The whole residual stream times a constant: LayerNorm takes it away again, so the function stays."""
    factor = 330.0
    with torch.no_grad():
        for parameter in (net.body.pre_norm.weight, net.body.pre_norm.bias):
            parameter.mul_(factor)
        for block in net.body.blocks:
            for layer in (block.out, block.mlp[2]):
                layer.weight.mul_(factor)
                layer.bias.mul_(factor)


def one_channel(net: CharacterNet) -> None:
    """One channel far beyond all others, as in trained ViTs."""
    with torch.no_grad():
        net.body.blocks[0].mlp[2].bias[5] = LARGEST


@pytest.fixture(scope="module", params=[scaled, one_channel], ids=["all of it", "one channel"])
def vit(request: pytest.FixtureRequest) -> FrozenViT:
    make: Callable[[CharacterNet], None] = request.param
    torch.manual_seed(0)
    net = CharacterNet()
    net.body.blocks = net.body.blocks[:2]
    make(net)
    return net.backbone().vit


@pytest.fixture(scope="module")
def exact(vit: FrozenViT) -> onnx.ModelProto:
    return vit_graph(vit, 16, "append", "fp32").model


def decompose_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every LayerNormalization as exporters before opset 17 wrote it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last_axis"))
    result.graph.initializer.append(numpy_helper.from_array(np.float32(1e-5), "epsilon"))
    for node in model.graph.node:
        if node.op_type != "LayerNormalization":
            result.graph.node.append(node)
            continue
        x, weight, bias = node.input
        steps = [
            ("ReduceMean", [x, "last_axis"], "mean"),
            ("Sub", [x, "mean"], "centred"),
            ("Mul", ["centred", "centred"], "squared"),
            ("ReduceMean", ["squared", "last_axis"], "variance"),
            ("Add", ["variance", "epsilon"], "positive"),
            ("Sqrt", ["positive"], "deviation"),
            ("Div", ["centred", "deviation"], "unit"),
            ("Mul", ["unit", weight], "weighted"),
            ("Add", ["weighted", bias], "shifted"),
        ]
        made = {target for _, _, target in steps}
        for kind, inputs, target in steps:
            names = [f"{node.name}:{name}" if name in made else name for name in inputs]
            output = node.output[0] if target == "shifted" else f"{node.name}:{target}"
            result.graph.node.append(helper.make_node(kind, names, [output], name=f"{node.name}:{target}"))
    onnx.checker.check_model(result, full_check=True)
    return result


def test_the_stream_is_as_large_as_it_should_be(exact: onnx.ModelProto, vit: FrozenViT):
    canvas = check_canvases(vit, vit.geometry(16))
    stream = [node.output[0] for node in exact.graph.node if node.op_type == "Add" and "blocks.0/" in node.name]
    largest = max(seen.max_abs for seen in measure(exact, canvas, stream).values())
    assert 0.9 * LARGEST < largest < 1.5 * LARGEST


def test_naive_fp16_fails_the_gate(exact: onnx.ModelProto, vit: FrozenViT, monkeypatch: pytest.MonkeyPatch):
    canvas = check_canvases(vit, vit.geometry(16))
    reference = run_onnx(exact, canvas)
    decomposed = decompose_norms(exact)
    np.testing.assert_allclose(run_onnx(decomposed, canvas), reference, rtol=0, atol=1e-4 * np.abs(reference).max())
    everything = frozenset(node.op_type for node in decomposed.graph.node)
    monkeypatch.setattr(precision_module, "HEAVY", everything)
    ladder = Ladder(reference, Head.mapping(np.arange(2), ("a", "b")))
    ladder.climb("naive fp16", "fp16", run_onnx(to_half(decomposed, "fp16"), canvas))
    with pytest.raises(ParityError, match="naive fp16"):
        require_parity(ladder.rungs)


def test_ours_passes_the_gate(vit: FrozenViT):
    parity = vit_graph(vit, 16, "append", "fp16").parity
    assert [(rung.name, rung.passed) for rung in parity] == [("onnxruntime fp32", True), ("onnxruntime fp16", True)]
