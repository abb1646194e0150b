"""Which of several outputs is the embedding, and what another width means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.errors import EngineError
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.engines import FakeEngine, TensorSpec
from pgn_edge.runtime.probe import Finding, ProbeOptions, Report, run_probe
from pgn_edge.runtime.probe.engine import EngineSubject
from tests.runtime.probe.toys import OUT, SIDE, Toy, encoder, reference

OWN = Preprocess((1, 1), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def one(report: Report, what: str) -> Finding:
    return next(finding for finding in report.findings if finding.what == what)


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """Reference engine of the toy backbone."""
    (tmp_path / "stock.onnx").write_bytes(reference(Toy(), OWN))
    return tmp_path / "stock.onnx"


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """The toy with its embedding as the last of four outputs without telling names."""
    model = onnx.load_from_string(encoder(Toy(), "x", "o4"))
    random = np.random.default_rng(3)
    for name, width in (("o1", OUT), ("o2", 7), ("o3", OUT)):
        weight = numpy_helper.from_array(random.normal(0, 1, (OUT, width)).astype(np.float32), f"w_{name}")
        model.graph.initializer.append(weight)
        model.graph.node.append(helper.make_node("MatMul", ["o4", f"w_{name}"], [name]))
        model.graph.output.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]))
    onnx.save(model, tmp_path / "crowded.onnx")
    return tmp_path / "crowded.onnx"


def test_the_embedding_among_several_anonymous_outputs_is_found_by_the_known_answers(crowded: Path, stock: Path):
    report = run_probe(crowded, ProbeOptions(reference=stock))
    assert (one(report, "output").answer, one(report, "backbone").answer) == ("o4", "yes")
    assert one(report, "output").confidence == 1.0


def test_the_width_of_the_known_answers_chooses_the_output(tmp_path: Path, stock: Path):
    model = onnx.load_from_string(encoder(Toy(), "x", "o2"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((OUT, 5), np.float32), "w"))
    model.graph.node.append(helper.make_node("MatMul", ["o2", "w"], ["embedding"]))  # a name that misleads
    model.graph.output.insert(0, helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 5]))
    onnx.save(model, tmp_path / "two.onnx")
    report = run_probe(tmp_path / "two.onnx", ProbeOptions(reference=stock))
    assert (one(report, "output").answer, one(report, "backbone").answer) == ("o2", "yes")


def test_output_names_the_one_to_take(crowded: Path, stock: Path):
    report = run_probe(crowded, ProbeOptions(reference=stock, output="o1"))
    assert (one(report, "output").answer, one(report, "backbone").answer) == ("o1", "no")
    with pytest.raises(EngineError, match=r"o3, o2, o1, o4.*got embeds"):
        run_probe(crowded, ProbeOptions(output="embeds"))


def test_anonymous_outputs_without_known_answers_are_not_chosen_with_confidence(crowded: Path):
    finding = one(run_probe(crowded), "output")
    assert finding.confidence == 0.0
    assert "--output" in finding.evidence


def test_a_tower_without_its_projection_is_not_denied_to_be_the_backbone(tmp_path: Path, stock: Path):
    (tmp_path / "tower.onnx").write_bytes(encoder(Toy(width=OUT + 1)))
    finding = one(run_probe(tmp_path / "tower.onnx", ProbeOptions(reference=stock)), "backbone")
    assert (finding.answer, finding.confidence) == ("unknown", 0.0)
    assert f"{OUT + 1} and {OUT} numbers" in finding.evidence
    assert "projection" in finding.evidence


FLOATS = np.dtype(np.float32)


@pytest.mark.parametrize("shape", [(3, SIDE, SIDE), (SIDE, SIDE, 3)], ids=["C,H,W", "H,W,C"])
def test_a_picture_without_a_batch_axis_is_probed_one_by_one(shape: tuple[int, ...]):
    def colours(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        axes = (1, 2) if shape[0] == 3 else (0, 1)
        return {"y": np.concatenate([feeds["x"].mean(axis=axes), feeds["x"].std(axis=axes)])}

    engine = FakeEngine({"x": TensorSpec(shape, FLOATS)}, {"y": TensorSpec((6,), FLOATS)}, colours)
    subject = EngineSubject(engine)
    assert (subject.batch, subject.size_hw) == (1, (SIDE, SIDE))
    assert subject.answer(np.random.default_rng(0).normal(size=(3, SIDE, SIDE, 3))).shape == (3, 6)


@pytest.mark.parametrize("kind", [np.int32, np.float64, np.int64])
def test_pixels_of_unusual_types_are_pixels(kind: type):
    def colours(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert feeds["flag"].dtype == bool
        return {"y": feeds["x"].mean(axis=(2, 3)).astype(np.float64)}

    inputs = {"x": TensorSpec((None, 3, SIDE, SIDE), np.dtype(kind)), "flag": TensorSpec((), np.dtype(bool))}
    subject = EngineSubject(FakeEngine(inputs, {"y": TensorSpec((None, 3), np.dtype(np.float64))}, colours))
    assert subject.eight_bit == (np.dtype(kind).kind == "i")
    assert subject.answer(np.full((2, SIDE, SIDE, 3), 7.4)).shape == (2, 3)
