"""`pgn-edge compile`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from pgn_edge.sidecar import read_sidecar, sidecar_path


@pytest.fixture
def _compiler() -> None:
    pytest.importorskip("tensorrt_rtx", reason="plans are built by tensorrt_rtx: pip install 'pgn-edge[rtx]'")


@pytest.mark.usefixtures("_compiler")
def test_compile_writes_a_plan_beside_the_source(call, tiny_pair, tmp_path: Path):
    source = tmp_path / "task.pgn"
    source.write_bytes(tiny_pair.task_fp16.read_bytes())
    done = call("compile", source, "--target", "sm_86")
    assert done.exit_code == 0, done.output
    plan = tmp_path / "task.plan"
    assert done.stdout.startswith(f"{plan}: tensorrt-rtx ")
    assert "sm_86" in done.stdout
    assert read_sidecar(plan).targets == ("sm_86",)
    assert set(tmp_path.iterdir()) == {source, plan, sidecar_path(plan)}


@pytest.mark.usefixtures("_compiler")
def test_compile_json_is_one_document(call, tiny_pair, tmp_path: Path):
    plan = tmp_path / "x.plan"
    done = call("compile", tiny_pair.task, "-o", plan, "--target", "sm_86", "--max-batch", 2, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["path"] == str(plan)
    assert document["bytes"] == plan.stat().st_size
    assert document["sha256"] == read_sidecar(plan).plan_sha256
    assert (document["backend"], document["targets"]) == ("tensorrt-rtx", ["sm_86"])
    assert read_sidecar(plan).batch == (1, 1, 2)


def foreign() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "foreign", [x], [y])
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["for people", "for programs"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("foreign.onnx", foreign(), id="an ONNX that is no export of ours"),
        pytest.param("text.onnx", b"no ONNX", id="text"),
        pytest.param("text.pgn", b"no zip", id="a bundle that is none"),
        pytest.param("missing.onnx", None, id="no such file"),
    ],
)
def test_sources_that_are_refused(refusal, tmp_path: Path, name: str, data: bytes | None, options: tuple[str, ...]):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert refusal("compile", tmp_path / name, *options).startswith(f"pgn-edge: {tmp_path / name}: expected")


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize(
    ("options", "says"),
    [(("--target", "sm_13"), "'sm_13'"), (("-o", "missing/x.plan"), "a path that can be written")],
    ids=["unknown target", "an output that cannot be written"],
)
def test_options_that_are_refused(
    refusal, tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], says: str
):
    monkeypatch.chdir(tmp_path)
    assert says in refusal("compile", tiny_pair.task_fp16, "-o", "x.plan", *options, "--json")


@pytest.mark.parametrize("options", [("--backend", "cuda"), ("--max-batch", "0")], ids=["unknown backend", "no batch"])
def test_wrong_usage_is_status_2(call, options: tuple[str, ...]):
    assert call("compile", "vit.onnx", *options).exit_code == 2
