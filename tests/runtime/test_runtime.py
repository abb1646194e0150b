"""The runtime: equal to torch, all or nothing, and closed to what does not belong together."""

from __future__ import annotations

import dataclasses
import gc
import math
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import pgn_edge.runtime.tasks as tasks_module
from pgn_edge.bundle import Bundle, read_bundle, write_bundle
from pgn_edge.errors import BundleError, DataError, EngineError, PairingError, PgnEdgeError
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.heads import Head
from pgn_edge.nn.checkpoint import load_checkpoint
from pgn_edge.runtime import Result, Runtime
from pgn_edge.runtime.engines import FakeEngine, OnnxRuntimeEngine
from pgn_edge.runtime.result import judge
from tests.hostile import restated, write_unchecked

FRAMES = 1000


def frame(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """A BGR frame whose channels differ: a mix-up of colours must show."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 128, 3)
    return (colour + rng.integers(0, 128, (height, width, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def runtime(tiny_pair):
    with Runtime(tiny_pair.vit, {"exact": tiny_pair.task, "half": tiny_pair.task_fp16}, canvases=True) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def bundle(tiny_pair) -> Bundle:
    return read_bundle(tiny_pair.task)


class FlakyViT(FakeEngine):
    """The real ViT engine behind a fake one: it answers well until told otherwise."""

    def __init__(self, path: Path, **options: Any) -> None:
        real = OnnxRuntimeEngine(path, str(path))
        self.spoil: Any = None

        def run(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            result = real.infer(feeds)
            return result if self.spoil is None else {name: self.spoil(array) for name, array in result.items()}

        super().__init__(real.inputs, real.outputs, run, metadata=real.metadata, **options)


# Answers.


@pytest.mark.parametrize(
    ("task", "tolerance"), [pytest.param("exact", 1e-4, id="fp32"), pytest.param("half", 5e-3, id="fp16")]
)
@pytest.mark.parametrize("size", [(64, 64), (90, 120), (200, 70), (1, 1)], ids=str)
def test_infer_equals_torch(runtime, tiny_checkpoint, tiny_backbone, task: str, tolerance: float, size: tuple):
    checkpoint = load_checkpoint(tiny_checkpoint)
    bgr = frame(1, *size)
    image_rgb = checkpoint.preprocess(np.ascontiguousarray(bgr[:, :, ::-1]))
    image = torch.from_numpy(checkpoint.preprocess.normalise(image_rgb[None]))
    with torch.no_grad():
        embedding = tiny_backbone.vit(image, checkpoint.pgn(image)).numpy()
    result = runtime.infer(task, bgr)
    scale = np.abs(embedding).max()
    np.testing.assert_allclose(result.embedding, embedding[0], rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(result.scores, checkpoint.head.scores(embedding)[0], rtol=0, atol=tolerance)


def test_a_result_is_complete(runtime, bundle: Bundle):
    result = runtime.infer("exact", frame(2))
    assert result.task == "exact"
    assert result.labels == bundle.head.labels == tuple("0123456789")
    assert result.label == result.labels[int(result.scores.argmax())]
    assert result.score == pytest.approx(float(result.scores.max()))
    assert result.scores.sum() == pytest.approx(1, abs=1e-5)
    assert result.canvas.shape == (3, 80, 64)
    assert set(result.timings_ms) >= {"preprocess", "pgn", "vit", "head"}
    assert min(result.timings_ms.values()) >= 0
    assert result.top(3)[0] == (result.label, result.score)
    assert [score for _, score in result.top(10)] == sorted(result.scores.tolist(), reverse=True)


def test_a_batch_of_mixed_tasks_equals_single_frames(runtime):
    jobs = [("exact", frame(3)), ("half", frame(4, 64, 64)), ("exact", frame(5, 33, 200)), ("half", frame(3))]
    together = runtime.infer_batch(jobs)
    for (name, image), result in zip(jobs, together, strict=True):
        alone = runtime.infer(name, image)
        assert (result.task, result.label) == (name, alone.label)
        np.testing.assert_allclose(result.embedding, alone.embedding, rtol=0, atol=3e-6 * np.abs(alone.embedding).max())
        np.testing.assert_allclose(result.canvas, alone.canvas, rtol=0, atol=2e-3 if name == "half" else 1e-5)
    assert np.abs(together[0].canvas - together[3].canvas).max() > 0, "both precisions gave the very same canvas"


@pytest.mark.parametrize("batch", [1, 2, 4], ids=["one by one", "one part short", "all short"])
def test_an_engine_of_a_fixed_batch_answers_any_number(
    runtime, tiny_pair, use_tiny_backbone, tmp_path: Path, batch: int
):
    export_vit("builtin", tmp_path / "fixed.onnx", VitOptions(batch=batch))
    jobs = [("exact", frame(seed)) for seed in range(3)]
    with Runtime(tmp_path / "fixed.onnx", {"exact": tiny_pair.task}, canvases=True) as fixed:
        assert fixed.vit.inputs["canvas"].shape[0] == batch
        for result, expected in zip(fixed.infer_batch(jobs), runtime.infer_batch(jobs), strict=True):
            np.testing.assert_allclose(result.scores, expected.scores, atol=1e-5)
            np.testing.assert_array_equal(result.canvas, expected.canvas)


def test_one_by_one_and_together_are_the_same_path_to_the_caller(runtime):
    (one,) = runtime.infer_batch([("exact", frame(9))])
    alone = runtime.infer("exact", frame(9))
    for attribute in ("scores", "embedding", "canvas"):
        np.testing.assert_array_equal(getattr(one, attribute), getattr(alone, attribute))


@pytest.mark.parametrize("batch", [1, 4], ids=["one by one", "four together"])
def test_a_frame_allocates_no_more_than_its_result(tiny_pair, batch: int):
    image = frame(10, 64, 64)  # of the stock size: nothing to resize
    with Runtime(tiny_pair.vit, {"exact": tiny_pair.task}) as runtime:
        canvas_bytes = 4 * 3 * math.prod(runtime.facts.geometry.canvas_hw)
        check_allocations(lambda: runtime.infer_batch([("exact", image)] * batch), image.nbytes, canvas_bytes)


def check_allocations(answer: Callable[[], list[Result]], image_bytes: int, canvas_bytes: int) -> None:
    results = answer()
    assert results[0].canvas is None, "nobody asked for it"
    kept = sum(array.nbytes for result in results for array in (result.scores, result.embedding))
    tracemalloc.start()
    try:
        _, _ = traced(answer, 5)
        _, peak = traced(answer, 20)
        growth, _ = traced(answer, FRAMES)
    finally:
        tracemalloc.stop()
    smallest = 100  # bytes; an array that is left behind has more, and Python's own caches stop growing
    assert growth < FRAMES * smallest, "memory grows from frame to frame"
    # The colours of the frame are turned round in a copy; a second canvas would not fit in here.
    assert kept <= peak < kept + image_bytes + 30_000 < kept + canvas_bytes


def traced(answer: Callable[[], list[Result]], times: int) -> tuple[int, int]:
    """Bytes that stay and bytes at the most, beyond what was there; Python's own litter is swept up."""
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    for _ in range(times):
        answer()
    _, peak = tracemalloc.get_traced_memory()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    return after - before, peak - before


def test_no_frames_no_results(runtime):
    assert runtime.infer_batch([]) == []


def test_results_belong_to_the_caller(runtime):
    first = runtime.infer("exact", frame(6))
    kept = [array.copy() for array in (first.scores, first.embedding, first.canvas)]
    runtime.infer("exact", frame(7))
    for array, copy in zip((first.scores, first.embedding, first.canvas), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_frame_is_left_alone(runtime):
    image = frame(8, 64, 64)
    copy = image.copy()
    runtime.infer("exact", image)
    np.testing.assert_array_equal(image, copy)


# Refusals in use.


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros((64, 64, 3), np.float32), id="float"),
        pytest.param(np.zeros((64, 64), np.uint8), id="grey"),
        pytest.param(np.zeros((64, 64, 4), np.uint8), id="alpha"),
        pytest.param(np.zeros((0, 64, 3), np.uint8), id="empty"),
        pytest.param(None, id="no frame at all"),
    ],
)
def test_frames_that_are_refused(runtime, image: Any):
    with pytest.raises(DataError):
        runtime.infer("exact", image)
    with pytest.raises(DataError):
        runtime.infer_batch([("exact", frame(1)), ("exact", image)])


def test_an_unknown_task_is_refused_with_the_loaded_ones(runtime):
    for call in (lambda: runtime.infer("pets", frame(1)), lambda: runtime.infer_batch([("pets", frame(1))])):
        with pytest.raises(PairingError, match=r"exact, half"):
            call()


def test_a_name_that_is_taken_is_refused(runtime, tiny_pair):
    with pytest.raises(PairingError, match="taken"):
        runtime.add("exact", tiny_pair.task_fp16)
    assert runtime.tasks["exact"].facts.precision == "fp32"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["NaN", "Inf", "-Inf"])
def test_a_frame_whose_embedding_is_no_number_is_degraded(tiny_pair, value: float):
    vit = FlakyViT(tiny_pair.vit)
    with Runtime(vit, {"a": tiny_pair.task}) as runtime:
        good = runtime.infer("a", frame(1))
        vit.spoil = lambda array: np.where(np.arange(len(array))[:, None] == 1, value, array).astype(np.float32)
        first, second, third = runtime.infer_batch([("a", frame(1))] * 3)
        assert first.label == third.label == good.label, "the others in the batch are answered"
        assert (first.degraded, third.degraded, second.degraded) == ("", "", "embedding")
        assert (second.label, second.score, second.top(3)) == ("", 0.0, [])
        assert second.scores.shape == good.scores.shape
        assert not second.scores.any()
        assert not np.isfinite(second.embedding).all(), "as the engine gave it"
        assert runtime.drift("a").frames == 3, "what is degraded drifts nowhere"
        vit.spoil = None
        assert runtime.infer("a", frame(1)).label == good.label


class SpoiltPgn(FakeEngine):
    """The real PGN engine behind a fake one, which can spoil any of its outputs."""

    def __init__(self, data: bytes) -> None:
        real = OnnxRuntimeEngine(data, "pgn.onnx")
        self.spoilt: dict[str, tuple[int, ...]] = {}

        def run(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            answer = real.infer(feeds)
            for name, place in self.spoilt.items():
                answer[name][place] = np.nan
            return answer

        super().__init__(real.inputs, real.outputs, run, metadata=real.metadata)


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        pytest.param({"coefficients": (0, 15, 31)}, "mixture coefficients", id="one coefficient"),
        pytest.param({"canvas": (0, 2, 79, 63)}, "canvas", id="the last prompt pixel"),
        pytest.param(
            {"canvas": (0, 0, 64, 0), "coefficients": (0, 0, 0)}, "mixture coefficients", id="both: the cause"
        ),
    ],
)
def test_nan_that_an_int8_vit_would_hide(
    tiny_pair, monkeypatch: pytest.MonkeyPatch, spoilt: dict[str, tuple[int, ...]], reason: str
):
    made: list[SpoiltPgn] = []

    def open_pgn(bundle: Bundle, *_: Any) -> SpoiltPgn:
        made.append(SpoiltPgn(bundle.pgn_onnx))
        return made[-1]

    monkeypatch.setattr(tasks_module, "open_pgn", open_pgn)
    vit = FlakyViT(tiny_pair.vit)
    with Runtime(vit, {"a": tiny_pair.task}, canvases=True) as runtime:
        good = runtime.infer("a", frame(1))
        made[0].spoilt, vit.spoil = spoilt, np.nan_to_num
        bad = runtime.infer("a", frame(1))
        assert np.isfinite(bad.embedding).all()
        assert (bad.label, bad.degraded) == ("", reason)
        made[0].spoilt = {}
        assert runtime.infer("a", frame(1)).label == good.label


def test_logits_that_overflow_are_no_answer():
    head = Head.linear(np.full((2, 4), 1e38), np.zeros(2), ("a", "b"))
    scores, degraded = judge(head, np.full((1, 4), 10, np.float32), "")
    assert (scores.tolist(), degraded) == ([0, 0], "scores")


def test_an_engine_that_fails_once(tiny_pair, bundle: Bundle):
    first_frame = len(bundle.golden.images) + 1  # and the frame of another size
    vit = FlakyViT(tiny_pair.vit, fail_at=frozenset({first_frame}))
    with Runtime(vit, {"a": tiny_pair.task}) as runtime:
        with pytest.raises(EngineError, match="on cue"):
            runtime.infer("a", frame(1))
        runtime.infer("a", frame(1))


def test_closed_twice(tiny_pair):
    vit = FlakyViT(tiny_pair.vit)
    runtime = Runtime(vit, {"a": tiny_pair.task})
    runtime.close()
    runtime.close()
    assert vit.closed
    assert runtime.tasks == {}
    with pytest.raises(PgnEdgeError):
        runtime.infer("a", frame(1))


# Refusals at the door. Each bundle below is whole, its hashes right: only its content is wrong.


def forged(folder: Path, bundle: Bundle, **changes: Any) -> Path:
    path = folder / "forged.pgn"
    write_bundle(path, dataclasses.replace(bundle, **changes))
    return path


def refused(pair: Any, path: Path, error: type[PgnEdgeError] = PairingError) -> str:
    """The task is refused, and the runtime goes on with the tasks that it had."""
    with Runtime(pair.vit, {"good": pair.task}) as runtime:
        with pytest.raises(error) as caught:
            runtime.add("bad", path)
        assert list(runtime.tasks) == ["good"]
        assert runtime.infer("good", frame(1)).label
    vit = FlakyViT(pair.vit)
    with pytest.raises(error):
        Runtime(vit, {"bad": path})
    assert vit.closed, "the engine was left open behind the error"
    return str(caught.value)


def test_another_vits_task(tiny_pair, bundle: Bundle, tmp_path: Path):
    message = refused(tiny_pair, forged(tmp_path, restated(bundle, fingerprint="cd" * 32)))
    assert "fingerprint" in message
    assert "cd" * 32 in message
    assert bundle.facts.fingerprint in message


def test_another_canvas(tiny_pair):
    with pytest.raises(PairingError, match="canvas") as caught:
        Runtime(tiny_pair.stock, {"a": tiny_pair.task})
    assert "append of 16 prompts" in str(caught.value)
    assert "append of 0 prompts" in str(caught.value)


def test_another_normalisation(tiny_pair, bundle: Bundle, tmp_path: Path):
    preprocess = dataclasses.replace(bundle.facts.preprocess, mean=(0.4, 0.5, 0.5))
    # A task may normalise in its own way, but not in another than its file says.
    assert "image part of the canvas" in refused(tiny_pair, forged(tmp_path, restated(bundle, preprocess=preprocess)))


def test_swapped_roles(tiny_pair, bundle: Bundle, tmp_path: Path):
    pgn = tmp_path / "pgn.onnx"
    pgn.write_bytes(bundle.pgn_onnx)
    with pytest.raises(EngineError, match="expected a ViT engine, got a PGN engine"):
        Runtime(pgn, {"a": tiny_pair.task})
    swapped = write_unchecked(tmp_path / "swapped.pgn", restated(bundle, role="vit", output="embedding"))
    assert "expected the facts of a PGN engine, got role vit" in refused(tiny_pair, swapped, BundleError)


def spoilt_golden(bundle: Bundle, name: str, value: Any) -> Any:
    golden = bundle.golden
    array = getattr(golden, name).copy()
    array[-1].flat[0] = value(array[-1].flat[0]) if callable(value) else value
    return dataclasses.replace(golden, **{name: array})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        pytest.param("prompt_rows", lambda old: old + 1, "prompt rows", id="a pixel of the prompts"),
        pytest.param("embedding", lambda old: old + 1, "embedding", id="an entry of the embedding"),
    ],
)
def test_a_golden_pair_that_the_device_does_not_reproduce(
    tiny_pair, bundle: Bundle, tmp_path: Path, name: str, value: Any, says: str
):
    message = refused(tiny_pair, forged(tmp_path, bundle, golden=spoilt_golden(bundle, name, value)))
    assert f"golden {says}" in message


def test_a_golden_class_that_the_device_does_not_reproduce(tiny_pair, bundle: Bundle, tmp_path: Path):
    golden = dataclasses.replace(bundle.golden, top1=(bundle.golden.top1 + 1) % 10)
    assert "golden class" in refused(tiny_pair, forged(tmp_path, bundle, golden=golden))


@pytest.mark.parametrize("kind", ["linear", "text"])
def test_an_embedding_of_length_1_is_another_one_to_a_linear_head(tiny_pair, bundle: Bundle, tmp_path: Path, kind: str):
    weight, labels = np.eye(*bundle.head.weight.shape, dtype=np.float32), bundle.head.labels
    head = (
        Head.linear(weight, np.zeros(len(weight), np.float32), labels)
        if kind == "linear"
        else Head.text(weight, labels, 1.0)
    )
    top1 = head.logits(bundle.golden.embedding).argmax(axis=1)
    task = forged(tmp_path, bundle, head=head, golden=dataclasses.replace(bundle.golden, top1=top1))
    Runtime(tiny_pair.vit, {"a": task}).close()
    vit = FlakyViT(tiny_pair.vit)
    vit.spoil = lambda array: array / np.linalg.norm(array, axis=1, keepdims=True)
    if kind == "text":
        Runtime(vit, {"a": task}).close()
        return
    with pytest.raises(PairingError, match=r"golden length of the embedding: expected .* 5%, got 0\.\d+ times it"):
        Runtime(vit, {"a": task})


def test_a_vit_that_drifts_on_this_device(tiny_pair):
    vit = FlakyViT(tiny_pair.vit)
    vit.spoil = lambda array: array[:, ::-1]
    with pytest.raises(PairingError, match="golden embedding"):
        Runtime(vit, {"a": tiny_pair.task})


def toy_pgn(output: str, shape: list[int | str]) -> bytes:
    """image -> zeros of any name and shape."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 64, 64, 3])
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, *shape[1:]])
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["sizes"], [output])], "toy", [image], [result], [sizes]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_a_profile_of_another_library(tiny_pair, bundle: Bundle, tmp_path: Path):
    profile = dataclasses.replace(bundle.profile, usage=(0.5, 0.5))
    message = refused(tiny_pair, forged(tmp_path, bundle, profile=profile))
    assert "expected one of 32 library tokens" in message
    assert "got one of 2" in message


def changed_graph(bundle: Bundle, change: Callable[[onnx.GraphProto], object]) -> bytes:
    model = onnx.load_model_from_string(bundle.pgn_onnx)
    change(model.graph)
    return model.SerializeToString()


def test_a_bundle_from_before_drift_was_measured(tiny_pair, bundle: Bundle, tmp_path: Path, runtime):
    older = changed_graph(bundle, lambda graph: graph.output.pop())
    path = forged(tmp_path, bundle, pgn_onnx=older, profile=None)
    with Runtime(tiny_pair.vit, {"old": path, "new": tiny_pair.task}, canvases=True) as both:
        old, new = both.infer_batch([("old", frame(1)), ("new", frame(1))])
        np.testing.assert_array_equal(old.canvas, new.canvas)
        assert (old.label, old.degraded, both.drift("old")) == (new.label, "", None)
        assert both.drift("new").frames == 1
    message = refused(tiny_pair, forged(tmp_path, bundle, pgn_onnx=older))
    assert "expected none, as the PGN gives no mixtures" in message


def test_a_profile_is_not_asked_for(tiny_pair, bundle: Bundle, tmp_path: Path):
    with Runtime(tiny_pair.vit, {"a": forged(tmp_path, bundle, profile=None)}) as plain:
        assert plain.infer("a", frame(1)).degraded == ""
        assert plain.drift("a") is None


def twice(graph: onnx.GraphProto) -> None:
    """The output comes from a node that doubles it."""
    for node in graph.node:
        node.input[:] = ["mixed" if name == "coefficients" else name for name in node.input]
        node.output[:] = ["mixed" if name == "coefficients" else name for name in node.output]
    graph.node.append(helper.make_node("Add", ["mixed", "mixed"], ["coefficients"]))


def test_mixtures_that_are_none(tiny_pair, bundle: Bundle, tmp_path: Path):
    message = refused(tiny_pair, forged(tmp_path, bundle, pgn_onnx=changed_graph(bundle, twice)))
    assert "golden mixture coefficients: expected sums within 0.001 of 1, got 1" in message


def test_an_output_that_nobody_knows(tiny_pair, bundle: Bundle, tmp_path: Path):
    extra = helper.make_tensor_value_info("mood", TensorProto.FLOAT, ["batch", 16, 32])

    def add(graph: onnx.GraphProto) -> None:
        graph.node.append(helper.make_node("Identity", ["coefficients"], ["mood"]))
        graph.output.append(extra)

    forged_bundle = dataclasses.replace(bundle, pgn_onnx=changed_graph(bundle, add))
    message = refused(tiny_pair, write_unchecked(tmp_path / "moody.pgn", forged_bundle), BundleError)
    assert "mood" in message


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"no graph", id="no ONNX"),
        pytest.param(toy_pgn("picture", [1, 3, 80, 64]), id="another name for the canvas"),
        pytest.param(toy_pgn("canvas", [1, 3, 64, 64]), id="a canvas without slots"),
        pytest.param(toy_pgn("canvas", [1, 3, 80, 32]), id="a narrow canvas"),
    ],
)
def test_a_pgn_engine_that_is_none(tiny_pair, bundle: Bundle, tmp_path: Path, data: bytes):
    forged_bundle = dataclasses.replace(bundle, pgn_onnx=data)
    refused(tiny_pair, write_unchecked(tmp_path / "none.pgn", forged_bundle), BundleError)


def test_a_damaged_bundle(tiny_pair, tmp_path: Path):
    path = tmp_path / "bad.pgn"
    path.write_bytes(tiny_pair.task.read_bytes()[:-100])
    refused(tiny_pair, path, BundleError)


def test_a_graph_that_is_not_ours(tmp_path: Path):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(toy_pgn("canvas", [1, 3, 80, 64]))
    with pytest.raises(EngineError, match="no pgn_edge facts"):
        Runtime(path)
