"""Engines on toy graphs: what they accept, what they refuse, and with which words."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pgn_edge.errors import EngineError, PgnEdgeError
from pgn_edge.runtime.engines import Engine, EngineOptions, FakeEngine, OnnxRuntimeEngine, TensorSpec, open_engine
from pgn_edge.runtime.engines.onnx_runtime import open_session

MISSING_PROVIDER = "CUDAExecutionProvider"


def toy(op: str = "Mul", kind: int = TensorProto.FLOAT, batch: str | int = "batch") -> bytes:
    """x (batch, 3), y (batch, 3) -> z = x op y."""
    x, y, z = (helper.make_tensor_value_info(name, kind, [batch, 3]) for name in "xyz")
    graph = helper.make_graph([helper.make_node(op, ["x", "y"], ["z"])], "toy", [x, y], [z])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.helper.set_model_props(model, {"who": "toy"})
    return model.SerializeToString()


def feeds(batch: int = 2, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    return {"x": np.full((batch, 3), 2, dtype), "y": np.arange(3 * batch, dtype=dtype).reshape(batch, 3)}


SPEC = TensorSpec((None, 3), np.dtype(np.float32))


def fake(**options: Any) -> FakeEngine:
    return FakeEngine({"x": SPEC, "y": SPEC}, {"z": SPEC}, lambda feeds: {"z": feeds["x"] * feeds["y"]}, **options)


ENGINES: dict[str, Callable[[], Engine]] = {
    "onnxruntime": lambda: OnnxRuntimeEngine(toy(), "toy.onnx"),
    "fake": fake,
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()


# The same verbs on every engine.


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_infer(engine: Engine, batch: int):
    given = feeds(batch)
    result = engine.infer(given)
    assert result.keys() == {"z"}
    np.testing.assert_array_equal(result["z"], given["x"] * given["y"])


def test_it_tells_its_tensors(engine: Engine):
    assert dict(engine.inputs) == {"x": SPEC, "y": SPEC}
    assert dict(engine.outputs) == {"z": SPEC}
    assert engine.name
    assert engine.device


def test_outputs_belong_to_the_caller(engine: Engine):
    first = engine.infer(feeds())["z"]
    kept = first.copy()
    engine.infer({name: array + 1 for name, array in feeds().items()})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"x": None}, r"inputs \['x', 'y'\]", id="an input is missing"),
        pytest.param({"w": np.zeros(1)}, r"got \['w', 'x', 'y'\]", id="an input too many"),
        pytest.param({"x": np.zeros((2, 3))}, r"float32 \(batch, 3\), got float64 \(2, 3\)", id="float64"),
        pytest.param({"x": np.zeros((2, 4), np.float32)}, r"got float32 \(2, 4\)", id="too wide"),
        pytest.param({"x": np.zeros(3, np.float32)}, r"got float32 \(3,\)", id="no batch"),
        pytest.param({"x": np.zeros((2, 3, 1), np.float32)}, r"\(2, 3, 1\)", id="an axis too many"),
    ],
)
def test_feeds_that_do_not_fit(engine: Engine, change: dict[str, Any], says: str):
    given = {name: array for name, array in {**feeds(), **change}.items() if array is not None}
    with pytest.raises(EngineError, match=says):
        engine.infer(given)


def test_a_bound_engine_reads_and_writes_in_place(engine: Engine):
    given, z = feeds(), np.zeros((2, 3), np.float32)
    run = engine.bind(given, {"z": z})
    assert (z == 0).all(), "nothing runs before it is told to"
    for value in (2, 7):
        given["x"][:] = value
        run()
        np.testing.assert_array_equal(z, value * given["y"])


def test_one_engine_writes_where_the_next_one_reads(engine: Engine):
    given, between, z = feeds(), np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    first, second = engine.bind(given, {"z": between}), engine.bind({"x": between, "y": given["y"]}, {"z": z})
    first()
    second()
    np.testing.assert_array_equal(z, given["x"] * given["y"] ** 2)


def test_a_binding_keeps_its_arrays_alive(engine: Engine):
    outputs = {"z": np.zeros((2000, 3), np.float32)}
    view = memoryview(outputs["z"])
    run = engine.bind(feeds(2000), outputs)
    del outputs
    gc.collect()
    others = [np.full((2000, 3), 9, np.float32) for _ in range(20)]  # would take the place of what was freed
    run()
    expected = feeds(2000)
    np.testing.assert_array_equal(np.asarray(view), expected["x"] * expected["y"])
    assert all((other == 9).all() for other in others)


def read_only() -> np.ndarray:
    array = np.zeros((2, 3), np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"x": np.zeros((2, 6), np.float32)[:, ::2]}, "contiguous", id="an input with gaps"),
        pytest.param({"x": np.zeros((2, 3))}, "float64", id="an input of another type"),
        pytest.param({"z": np.zeros((3, 2), np.float32).T}, "contiguous", id="a turned output"),
        pytest.param({"z": read_only()}, "writable", id="an output that cannot be written"),
        pytest.param({"z": np.zeros((2, 3))}, "float64", id="an output of another type"),
        pytest.param({"z": np.zeros((2, 4), np.float32)}, r"\(2, 4\)", id="an output too wide"),
        pytest.param({"z": None}, "outputs", id="an output is missing"),
    ],
)
def test_arrays_that_cannot_be_bound(engine: Engine, change: dict[str, Any], says: str):
    arrays = {**feeds(), "z": np.zeros((2, 3), np.float32), **change}
    outputs = {"z": arrays.pop("z")}
    with pytest.raises(EngineError, match=says):
        engine.bind(arrays, {name: array for name, array in outputs.items() if array is not None})


def test_a_bound_engine_that_was_closed(engine: Engine):
    run = engine.bind(feeds(), {"z": np.zeros((2, 3), np.float32)})
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        run()


def test_closed_twice_and_then_used(engine: Engine):
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(feeds())


# ONNX Runtime.


def test_metadata_are_those_of_the_file():
    assert OnnxRuntimeEngine(toy(), "toy.onnx").metadata == {"who": "toy"}


def test_a_file_and_its_bytes_are_the_same(tmp_path: Path):
    path = tmp_path / "toy.onnx"
    path.write_bytes(toy())
    by_path, by_bytes = OnnxRuntimeEngine(path, "a"), OnnxRuntimeEngine(toy(), "b")
    np.testing.assert_array_equal(by_path.infer(feeds())["z"], by_bytes.infer(feeds())["z"])


@pytest.mark.parametrize("threads", [1, 2], ids=["one thread", "two threads"])
def test_threads_do_not_change_the_answer(threads: int):
    np.testing.assert_array_equal(
        OnnxRuntimeEngine(toy(), "toy", threads).infer(feeds())["z"], feeds()["x"] * feeds()["y"]
    )


@pytest.mark.skipif(
    MISSING_PROVIDER in onnxruntime.get_available_providers(), reason="needs an onnxruntime without CUDA"
)
def test_a_provider_that_is_missing_is_not_replaced(tmp_path: Path):
    (tmp_path / "toy.onnx").write_bytes(toy())
    with pytest.raises(EngineError, match=f"with {MISSING_PROVIDER}, got only .*CPUExecutionProvider"):
        open_engine(tmp_path / "toy.onnx", EngineOptions(provider="cuda"))


def test_stdout_stays_the_apps_while_an_engine_opens(monkeypatch: pytest.MonkeyPatch):
    # It is one for all threads: an app goes on printing answers while another thread swaps a task.
    real, seen = onnxruntime.InferenceSession, []

    def session(*arguments: Any, **options: Any) -> Any:
        seen.append(sys.stdout)
        return real(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxRuntimeEngine(toy(), "toy.onnx").close()
    assert seen == [sys.stdout]


def test_a_provider_that_does_not_start_is_not_replaced(monkeypatch: pytest.MonkeyPatch):
    # As onnxruntime-gpu has it on a machine without a driver: the session comes up on the CPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [MISSING_PROVIDER, "CPUExecutionProvider"])
    says = f"a session on {MISSING_PROVIDER}, got one on CPUExecutionProvider"
    with pytest.warns(UserWarning, match="not in available"), pytest.raises(EngineError, match=says):
        open_session(toy(), "toy.onnx", [("cuda", {})], 1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"this is a text file", id="text"),
        pytest.param(toy()[:-20], id="truncated"),
        pytest.param(toy(op="Nonsense"), id="an unknown operator"),
        pytest.param(toy(kind=TensorProto.COMPLEX64), id="a type that no engine has"),
    ],
)
def test_what_is_no_usable_graph(data: bytes):
    with pytest.raises(EngineError, match=r"bad\.onnx") as caught:
        OnnxRuntimeEngine(data, "bad.onnx")
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_that_fails_inside():
    # Reshape to a size that the batch does not divide into: the shapes of the feeds are right.
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2, 3])
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["z"])], "toy", [x], [z], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    engine = OnnxRuntimeEngine(model.SerializeToString(), "toy.onnx")
    with pytest.raises(EngineError, match=r"toy\.onnx: expected a run without errors"):
        engine.infer({"x": np.zeros((3, 3), np.float32)})
    assert engine.infer({"x": np.zeros((2, 3), np.float32)})["z"].shape == (2, 3)


# The stand-in.


def test_a_fake_engine_fails_on_cue_and_goes_on():
    engine = fake(fail_at=frozenset({1}))
    engine.infer(feeds())
    with pytest.raises(EngineError, match="on cue at call 1"):
        engine.infer(feeds())
    engine.infer(feeds())
    assert engine.calls == 3


# By file name.


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        pytest.param("vit.plan", b"plan", "sidecar", id="a plan without a sidecar"),
        pytest.param("vit.pt", b"", "'.pt'", id="another kind of file"),
        pytest.param("vit", b"", "''", id="no suffix"),
        pytest.param("missing.onnx", None, "missing.onnx", id="no such file"),
        pytest.param("folder.onnx", "folder", "folder.onnx", id="a folder"),
        pytest.param("text.onnx", b"text", "text.onnx", id="not an ONNX"),
    ],
)
def test_files_that_cannot_be_opened(tmp_path: Path, name: str, data: bytes | str | None, says: str):
    path = tmp_path / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif data == "folder":
        path.mkdir()
    with pytest.raises(EngineError, match=says):
        open_engine(path)


def test_a_plan_is_verified_before_anything_is_said_of_it(tmp_path: Path):
    plan = tmp_path / "vit.plan"
    plan.write_bytes(b"code for the driver")
    (tmp_path / "vit.plan.json").write_text(json.dumps({"format": "pgn-edge plan", "schema": 1}))
    with pytest.raises(PgnEdgeError):
        open_engine(plan)
