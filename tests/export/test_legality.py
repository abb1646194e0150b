"""No value of a pixel space's canvas leaves legal RGB: under any coefficients, in every graph that ships."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, numpy_helper

from pgn_edge.contract import CanvasType, EngineFacts
from pgn_edge.errors import ExportError
from pgn_edge.export.calibration import adversarial_images
from pgn_edge.export.deployed import DeployedPGN
from pgn_edge.export.graph import OPSET
from pgn_edge.export.inversion import Projection, adopt_pixels, adopt_prompts
from pgn_edge.export.legality import PROOF, require_legal
from pgn_edge.export.parity import open_session, run_onnx, run_torch
from pgn_edge.export.pgn_graph import pgn_graphs
from pgn_edge.geometry import Geometry
from pgn_edge.nn.canvas import slot_patches
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.preprocess import Preprocess

PROMPTS, LIBRARY, PATCH = 5, 6, 8
GEOMETRY = Geometry((32, 64), PATCH, PROMPTS)  # with three spare slots
CLIP = Preprocess((32, 64), mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
LOW, HIGH = (side.reshape(3, 1, 1) for side in CLIP.legal())


class Forms(NamedTuple):
    """One PGN as a module, and its graphs by precision."""

    module: DeployedPGN
    graphs: dict[str, onnx.ModelProto]


def forms(canvas: CanvasType, library: int = LIBRARY, rounded: bool = False) -> Forms:
    torch.manual_seed(0)
    pgn = PGN(PgnConfig("mlp", PROMPTS, library, 3 * PATCH**2, 10, "pixel", rounded=rounded), 1.0, CLIP).eval()
    projection = Projection(np.random.default_rng(0).standard_normal((16, 192)), np.zeros(16), np.zeros((PROMPTS, 16)))
    if pgn.library is None:
        inversion = adopt_prompts(projection, *(side.numpy() for side in pgn.legal()))
    else:
        with torch.no_grad():
            pgn.library[0], pgn.library[1] = 40.0, -40.0  # all white and all black, but for nothing
            inversion = adopt_pixels(projection, pgn.double().entries().numpy())
        pgn.float()
    facts = EngineFacts("pgn", "any", "0" * 64, GEOMETRY, CLIP, "fp32", OPSET, "canvas", canvas)
    module = DeployedPGN(pgn, GEOMETRY, CLIP, inversion, canvas).eval()
    graphs = pgn_graphs(module, facts, adversarial_images(GEOMETRY.content_hw), None, "fp16", False)
    return Forms(module, {graph.facts.precision: graph.model for graph in graphs})


@pytest.fixture(scope="module")
def mixed() -> dict[str, Forms]:
    """Mixtures on either canvas, and rounded ones on a canvas of floats."""
    return {"float32": forms("float32"), "uint8": forms("uint8"), "rounded": forms("float32", rounded=True)}


class Mixture(NamedTuple):
    """A graph from the coefficients on: to its canvas, and to the levels that this is cast from, if it is uint8."""

    session: Any
    canvas: str

    def levels(self, coefficients: np.ndarray) -> np.ndarray:
        """Levels, or the normalised canvas, of one frame whose image is half black and half white."""
        image = np.zeros((1, *GEOMETRY.content_hw, 3), np.uint8)
        image[:, :, ::2] = 255
        return np.asarray(self.session.run(None, {"image": image, "coefficients": coefficients[None]})[0][0])


def cut(model: onnx.ModelProto) -> Mixture:
    typed = onnx.shape_inference.infer_shapes(model)
    last = next(node for node in typed.graph.node if "canvas" in node.output)
    # A cast to bytes would hide what it wraps around: what goes into it is what counts.
    name = last.input[0] if last.op_type == "Cast" else "canvas"
    part = onnx.utils.Extractor(typed).extract_model(["image", "coefficients"], [name])
    assert not {tensor.data_type for tensor in part.graph.initializer} & {TensorProto.FLOAT16}
    assert "MatMul" in {node.op_type for node in part.graph.node}
    return Mixture(open_session(part), last.op_type)


@pytest.fixture(scope="module")
def mixtures(mixed: dict[str, Forms]) -> dict[str, Mixture]:
    return {f"{kind} {name}": cut(graph) for kind, form in mixed.items() for name, graph in form.graphs.items()}


GRAPHS = [f"{kind} {precision}" for kind in ("float32", "uint8", "rounded") for precision in ("fp32", "fp16")]
LARGEST = float(np.finfo(np.float32).max)


def rows() -> st.SearchStrategy[np.ndarray]:
    """Finite coefficients of 0 or more of one prompt: anything, shares, one token alone, huge ones, hardly any."""

    def of(elements: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
        return arrays(np.float32, LIBRARY, elements=elements)

    def shares(row: np.ndarray) -> np.ndarray:
        return np.asarray(row / row.sum(), np.float32)

    one = st.sampled_from(list(np.eye(LIBRARY, dtype=np.float32)))
    return st.one_of(
        of(st.floats(0, LARGEST, width=32)),
        of(st.floats(2**-20, 1, width=32)).map(shares),
        one,
        one.map(lambda row: row * np.float32(LARGEST)),
        of(st.floats(2.0**100, LARGEST, width=32)),
        of(st.floats(0, 2.0**-126, width=32)),
    )


def coefficients() -> st.SearchStrategy[np.ndarray]:
    return st.lists(rows(), min_size=PROMPTS, max_size=PROMPTS).map(np.stack)


@pytest.mark.parametrize("name", GRAPHS)
@given(drawn=coefficients())
def test_no_canvas_value_leaves_legal_rgb(mixtures: dict[str, Mixture], name: str, drawn: np.ndarray):
    values = mixtures[name].levels(drawn)
    assert values.dtype == np.float32
    if name.startswith("uint8"):
        assert values.shape == (*GEOMETRY.canvas_hw, 3)
        assert ((values >= 0) & (values <= 255)).all()  # NaN is neither
        assert (values == np.rint(values)).all()
    else:
        # To the bit: what a picture's own black and white become.
        assert ((values >= LOW) & (values <= HIGH)).all()


def test_coefficients_that_sum_to_more_than_one_would_leave_it(mixed: dict[str, Forms]):
    # What the property is about: without the clamp it does not hold.
    model = changed(mixed["float32"].graphs["fp32"], without_clamp)
    values = cut(model).levels(np.full((PROMPTS, LIBRARY), 1.0, np.float32))
    assert (values > HIGH).any()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_level_is_the_same_bits_in_a_prompt_and_in_an_image(mixtures: dict[str, Mixture], mixed, precision: str):
    one_each = np.eye(LIBRARY, dtype=np.float32)[:PROMPTS]
    values = mixtures[f"rounded {precision}"].levels(one_each)
    patches = slot_patches(torch.from_numpy(values[None]), GEOMETRY)[0].numpy()
    levels = np.rint(mixed["rounded"].module.pixels.numpy()[:PROMPTS]).astype(np.uint8)
    assert len(np.unique(levels)) > 100
    as_image = levels.reshape(PROMPTS, 3, PATCH, PATCH).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(patches.reshape(PROMPTS, 3, PATCH, PATCH), CLIP.normalise(as_image))


@pytest.mark.parametrize(
    ("canvas", "library"),
    [("float32", LIBRARY), ("uint8", LIBRARY), ("uint8", 0)],
    ids=["mixed, floats", "mixed, bytes", "direct, bytes"],
)
def test_whole_graphs_on_images_that_no_camera_sends(mixed, canvas: CanvasType, library: int):
    form = mixed[canvas] if library else forms(canvas, 0)
    images = adversarial_images(GEOMETRY.content_hw)
    exact = run_torch(form.module, images).astype(np.float32)
    for precision, model in form.graphs.items():
        require_legal(model, CLIP)
        found = run_onnx(model, images)  # of fp16 with every rounding that a GPU makes
        assert found.dtype == np.dtype(canvas)
        if canvas == "uint8":
            np.testing.assert_array_equal(found[:, : GEOMETRY.content_hw[0]], images)
        else:
            assert ((found >= LOW) & (found <= HIGH)).all()
            np.testing.assert_array_equal(found[:, :, : GEOMETRY.content_hw[0]], CLIP.normalise(images))
        level = 1 if canvas == "uint8" else float(CLIP.affine()[0].max())
        apart = np.abs(found - exact).max()
        assert apart <= (1.01 * level if precision == "fp16" else (canvas == "uint8") * level + 1e-5)


def test_an_8_bit_canvas_is_cast_in_the_end_and_nowhere_before(mixed: dict[str, Forms]):
    for model in mixed["uint8"].graphs.values():
        typed = onnx.shape_inference.infer_shapes(model)
        bytes_ = [value.name for value in typed.graph.value_info if value.type.tensor_type.elem_type == 2]
        assert bytes_ == [], "TensorRT has no arithmetic in uint8, not even Transpose"
        readers = [node.op_type for node in typed.graph.node if "image" in node.input]
        (last,) = (node for node in typed.graph.node if "canvas" in node.output)
        assert (set(readers), last.op_type) == ({"Cast"}, "Cast")
        kinds = [node.op_type for node in typed.graph.node]
        assert kinds.index("Clip") < kinds.index("Round") < len(kinds) - 1


# What the proof refuses.


def changed(model: onnx.ModelProto, change: Callable[[onnx.GraphProto], None]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy.graph)
    return copy


def find(graph: onnx.GraphProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == op_type)


def without_clamp(graph: onnx.GraphProto) -> None:
    clamp = find(graph, "Clip")
    clamp.op_type = "Identity"
    del clamp.input[1:]


def clamped_to(value: float) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        set_constant(graph, find(graph, "Clip").input[2], np.float32(value))

    return change


def set_constant(graph: onnx.GraphProto, name: str, value: Any) -> None:
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def scaled_by_more(graph: onnx.GraphProto) -> None:
    set_constant(graph, "scale", np.nextafter(CLIP.affine()[0], np.float32(1)))


def a_relu_behind_the_clamp(graph: onnx.GraphProto) -> None:
    find(graph, "Pad").op_type = "Relu"


def a_cast_to_fp16(graph: onnx.GraphProto) -> None:
    pad = find(graph, "Pad")
    del pad.input[1:], pad.attribute[:]
    pad.op_type = "Cast"
    pad.attribute.append(onnx.helper.make_attribute("to", TensorProto.FLOAT16))


def spare_slots_of_300(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.float32(300), "much"))
    pad = find(graph, "Pad")
    pad.input[:] = [*pad.input[:2], "much"]


def a_negative_library(graph: onnx.GraphProto) -> None:
    set_constant(graph, "pixels", np.full((LIBRARY, 192), -1e-3, np.float32))


DAMAGES = [
    pytest.param(without_clamp, "MatMul pgn/MatMul behind the clamp", id="no clamp"),
    pytest.param(clamped_to(255.5), "between 0.0 and 255.5", id="a clamp to more"),
    pytest.param(clamped_to(float("inf")), "between 0.0 and inf", id="a clamp to anything"),
    pytest.param(scaled_by_more, "other constants in pgn/Mul", id="a scale one bit off"),
    pytest.param(a_relu_behind_the_clamp, "Relu pgn/Pad behind the clamp", id="arithmetic behind the clamp"),
    pytest.param(a_cast_to_fp16, "to 16 bits", id="16 bits behind the clamp"),
    pytest.param(spare_slots_of_300, "pgn/Pad with 300", id="spare slots beyond white"),
    pytest.param(a_negative_library, "a library of float32 from -0.001", id="a library below black"),
]


@pytest.mark.parametrize(("change", "says"), DAMAGES)
def test_the_proof_does_not_go_through(mixed: dict[str, Forms], change: Callable[..., None], says: str):
    good = mixed["float32"].graphs["fp16"]
    require_legal(good, CLIP)
    with pytest.raises(ExportError, match=f"^canvas: expected {PROOF}, got .*") as caught:
        require_legal(changed(good, change), CLIP)
    assert says in str(caught.value)
