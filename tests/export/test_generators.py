"""Every kind of PGN from prompts in torch to the engine that ships: one embedding, whichever way it is computed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch

from pgn_edge.agreement import FP32_MAX_ABS, compare
from pgn_edge.bundle import read_bundle
from pgn_edge.contract import CanvasType, EngineFacts, Precision
from pgn_edge.errors import InversionError
from pgn_edge.export.certificate import certify
from pgn_edge.export.deployed import DeployedPGN
from pgn_edge.export.graph import OPSET
from pgn_edge.export.inversion import Projection
from pgn_edge.export.pgn_graph import PgnGraph, pgn_graphs
from pgn_edge.export.task import ExportOptions, _invert, export_task
from pgn_edge.export.ties import TIE_LEVELS, settled
from pgn_edge.geometry import Geometry, Layout
from pgn_edge.graph_gate import check_graph
from pgn_edge.graph_shapes import OTHER_FORMS, RULES
from pgn_edge.heads import Head
from pgn_edge.mixtures import COEFFICIENTS
from pgn_edge.nn.canvas import slot_patches
from pgn_edge.nn.checkpoint import Checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.prompted import embed
from pgn_edge.nn.vit import Backbone, CanvasViT, FrozenViT
from pgn_edge.preprocess import Preprocess
from tests.hostile import assert_read_alike

PROMPTS = 8
LABELS = tuple("0123456789")


class Kind(NamedTuple):
    """What a PGN can be made of."""

    generator: str
    library: int = 6
    space: str = "token"
    mixing: str = "softmax"
    hidden: int = 0
    rounded: bool = False
    layout: Layout = "append"
    resolution: int = 16

    def __str__(self) -> str:
        parts = (self.mixing if self.library else "direct", "hidden" * bool(self.hidden), "rounded" * self.rounded)
        return " ".join([self.generator, self.space, *filter(None, parts), self.layout, str(self.resolution)])


def every_kind() -> Iterator[Kind]:
    spaces = [("token", 6, "softmax", False), ("token", 6, "sigmoid", False), ("token", 0, "softmax", False)]
    spaces += [("pixel", library, "softmax", rounded) for library in (6, 0) for rounded in (False, True)]
    for (space, library, mixing, rounded), layout in itertools.product(spaces, ("append", "inset")):
        for generator, hidden in itertools.product(("resnet10", "resnet18", "mlp"), (0, 5)):
            if generator == "resnet18" and (hidden > 0) != (layout == "inset"):
                continue  # twelve times the size of all others together: half of its cases tell the same
            resolution = 10 if generator == "mlp" else 24 if hidden else 32  # 24 is no divisor of 64
            yield Kind(generator, library, space, mixing, hidden, rounded, layout, resolution)
        if library and mixing == "softmax":
            yield Kind("constant", PROMPTS, space, mixing, 0, rounded, layout)


class Setup(NamedTuple):
    """A PGN whose prompts matter, and what belongs to it."""

    vit: FrozenViT
    pgn: PGN
    geometry: Geometry
    preprocess: Preprocess
    images: np.ndarray

    @property
    def normalised(self) -> np.ndarray:
        return self.preprocess.normalise(self.images)

    @property
    def reference(self) -> np.ndarray:
        with torch.no_grad():
            return embed(self.vit, self.pgn, self.geometry, torch.from_numpy(self.normalised)).numpy()

    def codes(self) -> np.ndarray:
        with torch.no_grad():
            return self.pgn.codes(torch.from_numpy(self.normalised)).numpy()

    def deployed(self) -> DeployedPGN:
        inversion = _invert(self.pgn, Projection.of(self.vit, self.geometry), self.codes(), False)
        return DeployedPGN(self.pgn, self.geometry, self.preprocess, inversion).eval()


def build(backbone: Backbone, kind: Kind, prompts: int = PROMPTS, count: int = 4) -> Setup:
    vit = backbone.vit
    geometry = vit.geometry(prompts, kind.layout)
    preprocess = vit.spec.preprocess.with_size(geometry.content_hw)
    torch.manual_seed(1)
    width = vit.width if kind.space == "token" else 192
    library = prompts if kind.generator == "constant" else kind.library
    config = PgnConfig(
        kind.generator, prompts, library, width, kind.resolution, kind.space, kind.mixing, kind.hidden, kind.rounded
    )
    pgn = PGN(config, 1.0, preprocess)
    for module in pgn.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # folding them must matter
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.8, 1.2)
    if pgn.generator is not None:
        pgn.generator.last_layer.weight.data.mul_(5)
    random = np.random.default_rng(0)
    noise = random.integers(0, 128, (count, *geometry.content_hw, 3))
    images = (random.integers(0, 128, (count, 1, 1, 3)) + noise).astype(np.uint8)
    return Setup(vit, pgn.eval(), geometry, preprocess, images)


def unit(embedding: np.ndarray) -> np.ndarray:
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", list(every_kind()), ids=str)
def test_the_canvas_gives_the_embedding_that_the_prompts_give(tiny_backbone: Backbone, kind: Kind):
    case = build(tiny_backbone, kind)
    with torch.no_grad():
        canvas, *more = case.deployed()(torch.from_numpy(case.images))
        found = CanvasViT(case.vit, case.geometry)(canvas).numpy()
        without = case.vit(torch.from_numpy(case.normalised)).numpy()
    expected = case.reference
    if kind.rounded:
        expected = settled(case.vit, case.pgn, case.geometry, case.normalised, canvas.numpy())
        assert np.abs(unit(expected) - unit(case.reference)).max() < 1e-2
    assert np.abs(unit(found) - unit(expected)).max() <= FP32_MAX_ABS
    assert np.abs(unit(expected) - unit(without)).max() > 1e-2, "prompts change nothing here"
    assert len(more) == (kind.generator != "constant" and kind.mixing == "softmax" and kind.library > 0)
    prompts = slot_patches(canvas, case.geometry)
    apart = float((prompts - prompts[:1]).abs().max())
    assert (apart > 1e-3) == (kind.generator != "constant"), "whether prompts depend on the image"


ENGINES = [
    (Kind("resnet10", mixing="sigmoid", layout="inset", resolution=24), "fp16"),
    (Kind("resnet18", space="pixel", rounded=True, hidden=5, resolution=32), "fp32"),
    (Kind("resnet10", library=0), "bf16"),
    (Kind("resnet10", library=0, space="pixel", rounded=True, layout="inset"), "fp16"),
    (Kind("mlp", hidden=5, space="pixel", rounded=True, resolution=10), "fp16"),
    (Kind("mlp", library=0, space="pixel", resolution=10), "fp16"),
    (Kind("constant", space="pixel", rounded=True), "fp16"),
]


@pytest.mark.parametrize(("kind", "precision"), ENGINES, ids=str)
def test_the_engine_passes_the_ladder(use_tiny_backbone: Backbone, kind: Kind, precision: str, tmp_path: Path):
    report, model = export(use_tiny_backbone, kind, tmp_path, precision)
    assert [rung.passed for rung in report.parity] == [True] * (2 if precision == "fp32" else 3)
    shares = kind.mixing == "softmax" and kind.library > 0 and kind.generator != "constant"
    assert [value.name for value in model.graph.output] == ["canvas", COEFFICIENTS][: 1 + shares]
    bundle = read_bundle(tmp_path / "task.pgn")
    assert (bundle.profile is not None) == shares
    assert bundle.certificate["rounded"] == kind.rounded
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Round") == kind.rounded
    if kind.rounded and precision == "fp16" and kind.generator != "constant":
        assert_float32_before_the_rounding(model, kind.library > 0)
        assert "levels of pixels" in {entry["reason"] for entry in report.numerics["kept_float32"]}
    assert "Resize" not in kinds
    assert "Shape" not in kinds or kind.generator == "constant"  # whose batch no tensor of its own has


def export(backbone: Backbone, kind: Kind, folder: Path, precision: str) -> tuple[Any, onnx.ModelProto]:
    case = build(backbone, kind, count=24)
    head = backbone.zero_shot.head(LABELS, "{}")
    identity = case.vit.fingerprint(), case.vit.weights_sha256()
    checkpoint = Checkpoint(
        "kind", "builtin", *identity, case.geometry, case.preprocess, case.pgn, head, case.images, {"seed": 1}
    )
    save_checkpoint(folder / "ckpt.pt", checkpoint)
    options = ExportOptions(precision=precision, onnx_path=folder / "pgn.onnx")
    return export_task(folder / "ckpt.pt", folder / "task.pgn", options), onnx.load(folder / "pgn.onnx")


def written(case: Setup, canvas: CanvasType, precision: Precision, simplified: bool) -> Iterator[PgnGraph]:
    """The graphs that export writes for a PGN."""
    inversion = _invert(case.pgn, Projection.of(case.vit, case.geometry), case.codes(), False)
    deployed = DeployedPGN(case.pgn, case.geometry, case.preprocess, inversion, canvas).eval()
    facts = EngineFacts("pgn", "builtin", "ab" * 32, case.geometry, case.preprocess, "fp32", OPSET, "canvas", canvas)
    return pgn_graphs(deployed, facts, case.images, None, precision, simplified)


def test_the_gate_for_bundles_lets_every_operator_pass_that_export_writes_and_no_other(tiny_backbone: Backbone):
    cases: list[tuple[Kind, int, CanvasType, Precision, bool]] = [
        (Kind("resnet10", mixing="sigmoid", resolution=32), 5, "float32", "fp16", True),
        (Kind("mlp", library=0, space="pixel", rounded=True, resolution=10), 8, "uint8", "bf16", False),
        (Kind("resnet10", hidden=5, resolution=24, layout="inset"), 8, "float32", "fp16", False),
        (Kind("constant", space="pixel"), 5, "float32", "bf16", False),
    ]
    found = set()
    for kind, prompts, canvas, precision, simplified in cases:
        for graph in written(build(tiny_backbone, kind, prompts, 2), canvas, precision, simplified):
            data = graph.model.SerializeToString()
            check_graph(data, graph.facts, str(kind))
            assert_read_alike(data)
            found |= {node.op_type for node in graph.model.graph.node}
    assert found == set(RULES) - OTHER_FORMS


def assert_float32_before_the_rounding(model: onnx.ModelProto, mixes: bool) -> None:
    """From the rounding back to where the generator's values come in, no tensor has 16 bits."""
    half = onnx.TensorProto.FLOAT16
    typed = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    made_by = {name: node for node in typed.graph.node for name in node.output}
    node = next(node for node in typed.graph.node if node.op_type == "Round")
    passed = []
    while node.op_type not in ("Softmax", "Cast"):
        passed.append(node.op_type)
        assert all(types.get(name, 1) != half for name in node.output), node.name
        inside = [name for name in node.input if name in made_by]
        node = made_by[inside[-1 if node.op_type == "Where" else 0]]
    assert ("MatMul" in passed) == mixes
    assert ("Sigmoid" in passed) != mixes
    assert any(tensor.data_type == half for tensor in model.graph.initializer), "the rest of the graph is 16 bits"


# Certificates.


def certificate_of(case: Setup, ridge: bool = False) -> Any:
    codes = case.codes()
    inversion = _invert(case.pgn, Projection.of(case.vit, case.geometry), codes, ridge)
    return certify(inversion, codes, case.preprocess, case.pgn.config.rounded), inversion


@pytest.mark.parametrize("layout", ["append", "inset"])
def test_gates_reach_what_some_coefficients_reach_and_no_more(tiny_backbone: Backbone, layout: Layout):
    case = build(tiny_backbone, Kind("mlp", mixing="sigmoid", layout=layout, resolution=10))
    certificate, inversion = certificate_of(case)
    certificate.check()
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    pixels = inversion.patches(np.repeat(corners[:, None], PROMPTS, axis=1))
    assert certificate.pixel_min == pytest.approx(pixels.min())
    assert certificate.pixel_max == pytest.approx(pixels.max())
    tokens = Projection.of(case.vit, case.geometry).tokens(pixels)
    library = case.pgn.library.detach().double().numpy()
    np.testing.assert_allclose(tokens, np.repeat((corners @ library)[:, None], PROMPTS, axis=1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("layout", ["append", "inset"])
def test_of_direct_prompts_the_golden_ones_are_measured(tiny_backbone: Backbone, layout: Layout):
    case = build(tiny_backbone, Kind("mlp", library=0, layout=layout, resolution=10))
    certificate, inversion = certificate_of(case)
    certificate.check()
    projection, tokens = Projection.of(case.vit, case.geometry), case.codes().astype(np.float64)
    oracle = np.linalg.lstsq(
        projection.weight, (tokens - projection.bias - projection.slots).reshape(-1, 128).T, rcond=None
    )[0].T
    np.testing.assert_allclose(inversion.patches(tokens).reshape(-1, 192), oracle, rtol=0, atol=1e-9)
    assert (certificate.pixel_min, certificate.pixel_max) == (pytest.approx(oracle.min()), pytest.approx(oracle.max()))
    assert certificate.residual < 1e-12
    assert not certificate.proven_legal, "nothing bounds them"


def test_direct_prompts_of_a_projection_that_cannot_reach_them(tiny_backbone: Backbone):
    case = build(tiny_backbone, Kind("mlp", library=0, resolution=10))
    projection = Projection.of(case.vit, case.geometry)
    poor = projection.weight.copy()
    poor[0] = poor[1]
    inversion = _invert(case.pgn, Projection(poor, projection.bias, projection.slots), case.codes(), False)
    assert inversion.residual > 1e-2
    with pytest.raises(InversionError, match="rank 127"):
        certify(inversion, case.codes(), case.preprocess).check()


@pytest.mark.parametrize("mixing", ["sigmoid", "direct"])
def test_a_ridge_serves_them_too(tiny_backbone: Backbone, mixing: str):
    kind = (
        Kind("mlp", mixing="sigmoid", resolution=10) if mixing == "sigmoid" else Kind("mlp", library=0, resolution=10)
    )
    case = build(tiny_backbone, kind)
    certificate, inversion = certificate_of(case, ridge=True)
    assert certificate.ridge is not None
    tokens = Projection.of(case.vit, case.geometry).tokens(inversion.patches(case.codes()))
    with torch.no_grad():
        wanted = case.pgn(torch.from_numpy(case.normalised)).numpy()
    np.testing.assert_allclose(tokens, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("library", [6, 0], ids=["mixed", "direct"])
def test_prompts_that_are_pixels_are_legal_by_construction(tiny_backbone: Backbone, library: int):
    case = build(tiny_backbone, Kind("mlp", library=library, space="pixel", resolution=10))
    certificate, _ = certificate_of(case)
    certificate.check()
    assert (certificate.proven_legal, certificate.share_illegal, certificate.residual) == (True, 0.0, 0.0)
    if library:
        return
    low, high = (side.min() if index == 0 else side.max() for index, side in enumerate(case.preprocess.legal()))
    assert (certificate.pixel_min, certificate.pixel_max) == (pytest.approx(low), pytest.approx(high))
    case.pgn.get_buffer("high").mul_(1.01)
    with pytest.raises(InversionError, match="expected prompt pixels within legal RGB"):
        certificate_of(case)[0].check()


# Ties.


def tied(case: Setup) -> tuple[np.ndarray, np.ndarray]:
    """The canvas of some frames, and where on it a prompt pixel lies between two levels."""
    with torch.no_grad():
        canvas = case.deployed()(torch.from_numpy(case.images))[0].numpy()
        exact = case.pgn.unrounded(torch.from_numpy(case.normalised)).double().numpy()
    low, high = (side.numpy() for side in case.pgn.legal())
    level = (exact - low) / (high - low) * 255
    return canvas, np.abs(level - np.floor(level) - 0.5) < TIE_LEVELS / 2


@pytest.mark.parametrize("layout", ["append", "inset"])
def test_a_tie_may_go_either_way_and_nothing_else_may(tiny_backbone: Backbone, layout: Layout):
    case = build(tiny_backbone, Kind("mlp", space="pixel", rounded=True, layout=layout, resolution=10))
    canvas, ties = tied(case)
    assert 0 < ties.sum() < 0.05 * ties.size
    step = case.preprocess.affine()[0].max()
    frozen = CanvasViT(case.vit, case.geometry)

    def moved(where: np.ndarray, by: float) -> np.ndarray:
        """The canvas with one level more or less in one slot pixel."""
        frame, slot, pixel = where
        changed = canvas.copy()
        x0, y0, _, _ = case.geometry.slot_box(slot)
        channel, row, column = np.unravel_index(pixel, (3, 8, 8))
        changed[frame, channel, y0 + row, x0 + column] += by * step
        return changed

    def judge(candidate: np.ndarray) -> float:
        reference = settled(case.vit, case.pgn, case.geometry, case.normalised, candidate)
        with torch.no_grad():
            found = frozen(torch.from_numpy(candidate)).numpy()
        head = Head.mapping(np.arange(2), ("a", "b"))
        return compare(reference, found, head).max_abs

    where = np.argwhere(ties)[0]
    with torch.no_grad():
        exact = case.pgn.unrounded(torch.from_numpy(case.normalised)).numpy()[tuple(where)]
    other_side = np.sign(exact - slot_patches(torch.from_numpy(canvas), case.geometry).numpy()[tuple(where)])
    assert judge(canvas) < 1e-6
    assert judge(moved(where, other_side)) < 1e-6, "the other neighbour is as right"
    assert judge(moved(where, -other_side)) > 2e-6, "the next but one is not"
    sure = np.argwhere(~ties)[5]
    assert judge(moved(sure, 1)) > 2e-6
