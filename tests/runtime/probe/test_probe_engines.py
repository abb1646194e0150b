"""What a probe finds out about engines whose every property is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pgn_edge.errors import EngineError
from pgn_edge.preprocess import Preprocess
from pgn_edge.progress import silent
from pgn_edge.runtime.engines import FakeEngine, TensorSpec
from pgn_edge.runtime.probe import Finding, ProbeOptions, Report, run_probe
from pgn_edge.runtime.probe.engine import EngineSubject
from pgn_edge.runtime.probe.finding import SURE, UNKNOWN, margin
from pgn_edge.runtime.probe.interview import interview
from pgn_edge.runtime.probe.units import CLIP, IMAGENET, STATED
from tests.runtime.probe.toys import OUT, SIDE, Toy, encoder, reference

ODD = Preprocess((1, 1), mean=(0.3, 0.6, 0.2), std=(0.4, 0.1, 0.3))
Probe = Callable[..., Report]


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    """Probe a toy, with a reference of the seed and the normalisation that are given."""

    def run(toy: Toy, own: Preprocess | None = None, seed: int = 0, **options: Any) -> Report:
        (tmp_path / "toy.onnx").write_bytes(encoder(toy))
        if own is not None:
            (tmp_path / "reference.onnx").write_bytes(reference(Toy(seed=seed), own))
            options["reference"] = tmp_path / "reference.onnx"
        return run_probe(tmp_path / "toy.onnx", ProbeOptions(**options))

    return run


def one(report: Report, what: str) -> Finding:
    return next(finding for finding in report.findings if finding.what == what)


def sure(report: Report) -> dict[str, str]:
    return {finding.what: finding.answer for finding in report.findings if finding.confidence >= 0.8}


# Tensors.


@pytest.mark.parametrize(
    ("toy", "found"),
    [
        pytest.param(Toy(), {"input": "pixels, float32", "layout": "NCHW", "batch": "any"}, id="NCHW"),
        pytest.param(Toy(layout="NHWC"), {"layout": "NHWC", "canvas": f"{SIDE} x {SIDE}"}, id="NHWC"),
        pytest.param(
            Toy(layout="NHWC", dtype="uint8", inside=CLIP),
            {"input": "pixels, uint8", "layout": "NHWC", "normalisation": "inside"},
            id="bytes",
        ),
        pytest.param(Toy(dtype="float16", half=True, batch=3), {"input": "pixels, float16", "batch": "3"}, id="fp16"),
        pytest.param(Toy(unit=True), {"length": "1", "width": str(OUT)}, id="unit length"),
        pytest.param(Toy(), {"length": "free", "deterministic": "yes", "reads pictures": "yes"}, id="any length"),
    ],
)
def test_tensors(probe: Probe, toy: Toy, found: dict[str, str]):
    report = probe(toy)
    assert found.items() <= sure(report).items()


# Colours.


@pytest.mark.parametrize(
    ("toy", "own", "order", "normalisation"),
    [
        *(pytest.param(Toy(), own, "RGB", name, id=name) for name, own in STATED.items()),
        pytest.param(Toy(), ODD, "RGB", "mean 0.3/0.6/0.2, std 0.4/0.1/0.3", id="the backbone's own"),
        pytest.param(Toy(order="BGR"), IMAGENET, "BGR", "ImageNet", id="BGR"),
        pytest.param(Toy(inside=CLIP), CLIP, "RGB", "0 to 255", id="CLIP inside"),
        pytest.param(Toy(inside=IMAGENET, order="BGR"), IMAGENET, "BGR", "0 to 255", id="ImageNet inside, BGR"),
        pytest.param(Toy(half=True), CLIP, "RGB", "CLIP", id="fp16 against its fp32"),
        pytest.param(Toy(dtype="float16", half=True, layout="NHWC"), CLIP, "RGB", "CLIP", id="fp16 input"),
        pytest.param(Toy(dtype="uint8", inside=CLIP, order="BGR"), CLIP, "BGR", "inside", id="bytes, BGR"),
        pytest.param(Toy(unit=True), CLIP, "RGB", "CLIP", id="unit length against any"),
    ],
)
def test_colours_with_a_reference(probe: Probe, toy: Toy, own: Preprocess, order: str, normalisation: str):
    found = sure(probe(toy, own))
    assert (found["colour order"], found["normalisation"], found["backbone"]) == (order, normalisation, "yes")


def test_another_backbone_leaves_colours_open(probe: Probe):
    report = probe(Toy(seed=1), CLIP)
    assert sure(report)["backbone"] == "no"
    for what in ("colour order", "normalisation"):
        assert one(report, what).confidence < SURE, one(report, what)
    assert report.settings.options["backbone"] == "BACKBONE"
    assert any("not the backbone" in note for note in report.settings.notes)


def test_a_truth_that_is_no_hypothesis_is_not_taken_for_one(probe: Probe):
    report = probe(Toy(inside=ODD), IMAGENET)
    assert one(report, "normalisation").confidence < SURE, one(report, "normalisation")
    assert one(report, "backbone").answer != "yes"


def test_outputs_alone_do_not_tell_colours(probe: Probe):
    report = probe(Toy())
    for what in ("colour order", "normalisation", "backbone"):
        finding = one(report, what)
        assert (finding.answer, finding.confidence) == (UNKNOWN, 0.0)
        assert "--reference" in finding.evidence
    bytes_in = probe(Toy(dtype="uint8", layout="NHWC", inside=CLIP))
    assert one(bytes_in, "normalisation") == Finding(
        "normalisation", "inside", 1.0, "it takes pixels of 8 bits: there is nothing to normalise before"
    )
    assert one(bytes_in, "colour order").confidence == 0


# Sizes.


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize(
    ("taller", "size", "extra", "layout"),
    [
        ("declared", "fixed", "refused", "inset"),
        ("refused", "fixed", "refused", "inset"),
        ("read", "some", "read", "append"),
        ("ignored", "free", "ignored", "inset"),
        ("cropped", "free", "cropped", "inset"),
        ("resized", "free", "resized", "inset"),
    ],
)
def test_rows_under_the_image(probe: Probe, taller: Any, size: str, extra: str, layout: str, half: bool):
    report = probe(Toy(taller=taller, half=half), CLIP)
    assert {"size": size, "extra patches": extra}.items() <= sure(report).items()
    assert report.settings.options["layout"] == layout
    assert f"--layout {layout}" in report.settings.commands[0]


def test_sizes_without_a_reference(probe: Probe):
    report = probe(Toy(taller="read", inside=CLIP), size_hw=(SIDE, SIDE))
    assert {"size": "some", "extra patches": "read"}.items() <= sure(report).items()


def test_a_refused_size_is_told_with_its_reason_and_printed_nowhere_else(
    probe: Probe, capfd: pytest.CaptureFixture[str]
):
    report = probe(Toy(taller="refused"))
    assert "Add" in one(report, "extra patches").evidence
    assert capfd.readouterr() == ("", "")


# Bundles.


def test_a_bundle_on_its_own_engine(tiny_pair):
    report = run_probe(tiny_pair.vit, ProbeOptions(task=tiny_pair.task))
    expected = {"colour order": "RGB", "normalisation": "-1 to 1", "backbone": "yes", "canvas": "80 x 64"}
    assert expected.items() <= sure(report).items()
    assert (report.settings.options["layout"], report.settings.options["prompts"]) == ("append", "16")
    assert report.disagreements == ()


def test_a_bundle_on_the_fp16_engine(tiny_pair, tiny_vit_fp16: Path):
    report = run_probe(tiny_vit_fp16, ProbeOptions(task=tiny_pair.task))
    assert {"colour order": "RGB", "normalisation": "-1 to 1", "backbone": "yes"}.items() <= sure(report).items()


def test_a_bundle_of_another_backbone(tiny_pair, tmp_path: Path):
    model, random = onnx.load(tiny_pair.vit), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1 and array.dtype == np.float32:
            noise = random.normal(0, array.std(), array.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(noise, tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    report = run_probe(tmp_path / "other.onnx", ProbeOptions(task=tiny_pair.task))
    assert sure(report)["backbone"] == "no"
    assert one(report, "normalisation").confidence < SURE


def test_a_bundle_whose_canvas_does_not_fit(tiny_pair):
    report = run_probe(tiny_pair.stock, ProbeOptions(task=tiny_pair.task))
    assert one(report, "backbone").answer == UNKNOWN
    assert "80 x 64 in the golden pair" in one(report, "backbone").evidence
    both = run_probe(tiny_pair.stock, ProbeOptions(task=tiny_pair.task, reference=tiny_pair.stock))
    assert sure(both)["backbone"] == "yes"


# Facts are compared, and not read.


def test_facts_that_lie_are_told(tmp_path: Path):
    (tmp_path / "lies.onnx").write_bytes(reference(Toy(), IMAGENET))
    (tmp_path / "reference.onnx").write_bytes(reference(Toy(), CLIP))
    report = run_probe(tmp_path / "lies.onnx", ProbeOptions(reference=tmp_path / "reference.onnx"))
    assert sure(report)["normalisation"] == "CLIP"
    (line,) = report.disagreements
    assert line.startswith("normalisation: found CLIP, its facts say mean (0.485")


# Engines that are strange.

FLOATS = np.dtype(np.float32)
FREE = TensorSpec((None, None, None, None), FLOATS)


def mean_colour(feeds: Any) -> dict[str, np.ndarray]:
    return {"y": np.concatenate([feeds["x"].mean(axis=(1, 2)), feeds["x"].std(axis=(1, 2))], axis=1)}


def asked(engine: FakeEngine, **options: Any) -> dict[str, Finding]:
    return {finding.what: finding for finding in interview(EngineSubject(engine, **options), [], 0, silent).findings}


def fake(function: Callable[[Any], Any], spec: TensorSpec = FREE, out: TensorSpec | None = None) -> FakeEngine:
    return FakeEngine({"x": spec}, {"y": out or TensorSpec((None, None), FLOATS)}, function)


def test_an_engine_that_takes_both_layouts():
    found = asked(fake(mean_colour))
    assert (found["layout"].answer, found["layout"].confidence) == ("NCHW", 0.5)


def test_answers_that_change():
    random = np.random.default_rng(0)

    def noisy(feeds: Any) -> dict[str, np.ndarray]:
        (value,) = mean_colour(feeds).values()
        return {"y": value + random.normal(0, 0.02, value.shape)}

    found = asked(fake(noisy, TensorSpec((None, SIDE, SIDE, 3), FLOATS)))
    assert (found["deterministic"].answer, found["reads pictures"].answer) == ("no", "yes")
    assert found["deterministic"].confidence > 0.8


@pytest.mark.parametrize(
    ("function", "says"),
    [
        pytest.param(lambda feeds: {"y": np.ones((len(feeds["x"]), 4), np.float32)}, "depend on", id="constant"),
        pytest.param(lambda feeds: {"y": np.full((len(feeds["x"]), 4), np.nan, np.float32)}, "finite", id="NaN"),
    ],
)
def test_an_engine_that_sees_nothing(function: Callable[[Any], Any], says: str):
    found = asked(fake(function, TensorSpec((None, 3, SIDE, SIDE), FLOATS)))
    assert (found["reads pictures"].answer, found["reads pictures"].confidence) == ("no", 1.0)
    assert says in found["reads pictures"].evidence
    assert "size" not in found


def test_probabilities():
    def softmax(feeds: Any) -> dict[str, np.ndarray]:
        exponential = np.exp(feeds["x"].reshape(len(feeds["x"]), -1)[:, :5] / 256)
        return {"y": exponential / exponential.sum(axis=1, keepdims=True)}

    assert asked(fake(softmax, TensorSpec((None, 3, SIDE, SIDE), FLOATS)))["length"].answer == "probabilities"


def test_a_free_batch_that_takes_one_frame_only():
    def one_at_a_time(feeds: Any) -> dict[str, np.ndarray]:
        if len(feeds["x"]) > 1:
            raise EngineError("fake", expected="one", got="two", do="one at a time")
        return mean_colour(feeds)

    found = asked(fake(one_at_a_time, TensorSpec((None, SIDE, SIDE, 3), FLOATS)))
    assert (found["batch"].answer, found["deterministic"].answer) == ("1", "yes")


def test_a_free_batch_with_a_limit():
    found = asked(fake(mean_colour, TensorSpec((None, SIDE, SIDE, 3), FLOATS, most=3)))
    assert (found["batch"].answer, found["reads pictures"].answer) == ("any", "yes")


def test_the_output_that_depends_on_the_picture_is_the_one():
    def several(feeds: Any) -> dict[str, np.ndarray]:
        vector = mean_colour({"x": feeds["pixel_values"].transpose(0, 2, 3, 1)})["y"]
        count = len(vector)
        return {
            "text_embeds": np.ones((count, 6), np.float32) * feeds["input_ids"].size,
            "last_hidden_state": np.stack([vector, vector], axis=1),
            "image_embeds": vector,
        }

    inputs = {
        "input_ids": TensorSpec((None, 7), np.dtype(np.int64)),
        "pixel_values": TensorSpec((None, 3, 8, 8), FLOATS),
    }
    outputs = {name: TensorSpec((None, None), FLOATS) for name in ("text_embeds", "last_hidden_state", "image_embeds")}
    assert asked(FakeEngine(inputs, outputs, several))["output"].answer == "image_embeds"


def test_tokens_answer_with_the_first_of_them():
    def tokens(feeds: Any) -> dict[str, np.ndarray]:
        vector = mean_colour({"x": feeds["x"].transpose(0, 2, 3, 1)})["y"]
        return {"y": np.stack([vector, 0 * vector], axis=1)}

    found = asked(fake(tokens, TensorSpec((None, 3, SIDE, SIDE), FLOATS), TensorSpec((None, None, None), FLOATS)))
    assert found["width"].answer == "6"


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        pytest.param({"x": TensorSpec((None, 7), FLOATS)}, "one input for colour pictures", id="no picture"),
        pytest.param({"x": TensorSpec((None, 1, 8, 8), FLOATS)}, "one input for colour pictures", id="grey"),
        pytest.param({"x": FREE, "z": FREE}, "one input for colour pictures", id="two pictures"),
    ],
)
def test_what_is_no_image_encoder(inputs: dict[str, TensorSpec], says: str):
    with pytest.raises(EngineError, match=says):
        EngineSubject(FakeEngine(inputs, {"y": TensorSpec((None, 3), FLOATS)}, mean_colour))


def test_no_size_that_it_takes():
    def refuses(feeds: Any) -> dict[str, np.ndarray]:
        raise EngineError("fake", expected="81 x 81", got="something else", do="ask for it")

    with pytest.raises(EngineError, match="something else; give a --task"):
        EngineSubject(fake(refuses))


@pytest.mark.parametrize("most", [4, 6, 8, 12, 16])
def test_a_probe_that_may_not_ask_any_more_says_so(probe: Probe, most: int):
    report = probe(Toy(taller="read"), CLIP, most_calls=most)
    assert report.calls == most
    assert any(f"in {most} calls, got more" in finding.evidence for finding in report.findings)


# Confidence.


@pytest.mark.parametrize(
    ("near", "far", "value"), [(0.0, 1.0, 1.0), (0.5, 1.0, 0.5), (1.0, 1.0, 0.0), (2.0, 1.0, 0.0), (0.0, 0.0, 0.0)]
)
def test_a_margin_is_between_0_and_1(near: float, far: float, value: float):
    assert margin(near, far) == value


def test_every_confidence_is_between_0_and_1(probe: Probe):
    for toy in (Toy(taller="read"), Toy(taller="resized", half=True, seed=3)):
        for finding in probe(toy, CLIP).findings:
            assert 0 <= finding.confidence <= 1, finding
