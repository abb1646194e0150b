"""Files of other people's engines: suffixes, types, weights beside them, and graphs that crash the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pgn_edge.errors import EngineError
from pgn_edge.runtime.bench import run_bench
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.engines import EngineOptions, OnnxRuntimeEngine, open_engine
from pgn_edge.runtime.engines.trial import require_survival


@pytest.mark.parametrize("name", ["vit.plan", "vit.engine", "vit.trt"])
def test_a_plan_is_a_plan_under_each_usual_name(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"a plan")
    with pytest.raises(EngineError, match=f"expected its sidecar {name}.json beside it.*--trust"):
        open_engine(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(TensorProto.INT32, np.int32), (TensorProto.DOUBLE, np.float64), (TensorProto.BOOL, np.bool_)],
    ids=["int32", "float64", "bool"],
)
def test_an_engine_with_tensors_of_unusual_types_is_opened_and_measured(tmp_path: Path, kind: int, dtype: type):
    values = [helper.make_tensor_value_info(name, kind, ["n", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "odd.onnx")
    engine = OnnxRuntimeEngine(tmp_path / "odd.onnx", "odd", 1)
    assert (engine.inputs["x"].dtype, engine.outputs["y"].dtype) == (dtype, dtype)
    report = run_bench(engine, options=BenchOptions(samples=1, warmup=0))
    assert report.stats["vit"].count == 1


@pytest.fixture
def beside(tiny_pair, tmp_path: Path) -> Path:
    """A foreign ONNX with its weights in `weights.bin`."""
    model = onnx.load(tiny_pair.stock)
    del model.metadata_props[:]
    path = tmp_path / "vit.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return path


def test_an_onnx_with_its_weights_beside_it_is_opened(beside: Path):
    open_engine(beside).close()


def test_a_missing_file_of_weights_is_named(beside: Path):
    beside.with_name("weights.bin").unlink()
    with pytest.raises(EngineError, match=r"got no file .*weights\.bin; copy the file with its weights"):
        open_engine(beside)


def test_a_file_of_weights_that_was_cut_short_is_no_reason_to_export_again(beside: Path):
    weights = beside.with_name("weights.bin")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EngineError, match="can not be read in full; copy the file with its weights"):
        open_engine(beside)


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In child processes the library dies as soon as it is touched."""
    package = tmp_path / "stand_in" / "onnxruntime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


@pytest.mark.parametrize("command", ["probe", "bench"])
def test_a_graph_that_crashes_the_library_leaves_one_line(deadly, beside: Path, command: str):
    from click.testing import CliRunner

    from pgn_edge.cli import cli

    done = CliRunner().invoke(cli, [command, "--engine", str(beside)])
    assert done.exit_code == 1
    assert "its process ended by SIGSEGV" in done.stderr
    assert (done.stderr.count("\n"), done.stdout) == (1, "")


def test_engines_of_ours_need_no_trial(deadly, tiny_pair, tmp_path: Path):
    require_survival(str(tiny_pair.vit), EngineOptions())
    require_survival(str(tmp_path / "missing.onnx"), EngineOptions())
    require_survival("triton+http://localhost:1/vit", EngineOptions())


def test_a_trial_that_goes_well_says_nothing(beside: Path, capfd: pytest.CaptureFixture[str]):
    require_survival(str(beside), EngineOptions(threads=1))
    assert capfd.readouterr() == ("", "")
