"""`pgn-edge compile`, as a user calls it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pgn_edge import gpu
from pgn_edge.sidecar import read_sidecar, sidecar_path


@pytest.fixture
def _compiler() -> None:
    pytest.importorskip("tensorrt_rtx", reason="plans are built by tensorrt_rtx: pip install 'pgn-edge[rtx]'")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan cache of the test's own."""
    monkeypatch.setenv("PGN_EDGE_CACHE", str(tmp_path_factory.mktemp("cache") / "plans"))


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
    assert (document["batch"], document["cache"]) == ([1, 1, 2], "stored")
    assert "Building engine" in done.stderr
    again = call("compile", tiny_pair.task, "-o", plan, "--target", "sm_86", "--max-batch", 2, "--json")
    assert json.loads(again.stdout) == {**document, "cache": "hit"}
    assert again.stderr == ""


@pytest.mark.usefixtures("_compiler")
def test_the_plan_cache_can_be_named_or_left_out(call, tiny_pair, tmp_path: Path):
    plan, folder = tmp_path / "x.plan", tmp_path / "cache"
    assert "kept in the plan cache" in call("compile", tiny_pair.task_fp16, "-o", plan, "--cache", folder).stdout
    assert len(list(folder.iterdir())) == 1
    assert "built before" in call("compile", tiny_pair.task_fp16, "-o", plan, "--cache", folder).stdout
    done = call("compile", tiny_pair.task_fp16, "-o", plan, "--no-cache", "--json")
    assert json.loads(done.stdout)["cache"] == "off"


@pytest.mark.usefixtures("_compiler")
def test_a_plan_is_checked_against_this_machine_before_it_is_opened(
    call, refusal, tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = tmp_path / "vit.plan"
    assert call("compile", tiny_pair.vit, "-o", plan, "--target", "sm_86").exit_code == 0
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8, 3), np.uint8))
    predict = ("predict", tmp_path / "x.png", "--vit", plan, "--task", tiny_pair.task)
    monkeypatch.setattr(gpu, "ASK_DRIVER", "")
    for answer, says in (
        ("No devices were found", "no NVIDIA GPU or driver found"),
        ("8.9", f"compile {tiny_pair.vit.name} --backend tensorrt-rtx --target sm_89 --max-batch 8 -o {plan}"),
        ("8.6", "CUDA: expected an NVIDIA driver"),
    ):
        monkeypatch.setattr(gpu, "NVIDIA_SMI", ("echo", answer))
        assert says in refusal(*predict)


@pytest.mark.usefixtures("_compiler")
def test_the_librarys_own_words_are_for_debug(call, refusal, tiny_pair, tmp_path: Path):
    model = onnx.load(tiny_pair.vit)
    model.graph.node[0].op_type = "Nonsense"
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    assert "Nonsense" in refusal("compile", tmp_path / "bad.onnx", "--json")
    done = call("--debug", "compile", tmp_path / "bad.onnx", "--json")
    assert done.stdout == ""
    assert "Nonsense" in done.stderr


def test_a_script_for_the_device(call, refusal, tiny_pair, tmp_path: Path):
    script = tmp_path / "build.sh"
    options = ("--backend", "tensorrt", "--workspace", 512, "--script", script)
    source = tiny_pair.vit
    done = call("compile", source, *options)
    assert (done.exit_code, done.stdout) == (
        0,
        f"{script}: copy it with {source} to the device and run it there\n",
    )
    assert "--backend tensorrt --max-batch 8 --workspace 512 -o" in script.read_text()
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert json.loads(call("compile", tiny_pair.vit, *options, "--json").stdout) == {"script": str(script)}
    assert list(tmp_path.iterdir()) == [script]
    assert "check the path" in refusal("compile", tmp_path / "missing.onnx", *options)


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
    [
        (("--target", "sm_13"), "'sm_13'"),
        (("-o", "missing/x.plan"), "a path that can be written"),
        (("--timing-cache", "t"), "expected an option of tensorrt-rtx"),
        (("--version-compatible",), "expected an option of tensorrt-rtx"),
        (("--backend", "tensorrt", "--target", "sm_87"), "expected an option of tensorrt"),
        (("--cache", "/dev/null/plans"), "a folder for the plan cache"),
    ],
    ids=[
        *("unknown target", "an output that cannot be written", "a timing cache without a GPU"),
        *("not of this backend", "targets on the device", "a cache that cannot be made"),
    ],
)
def test_options_that_are_refused(
    refusal, tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], says: str
):
    monkeypatch.chdir(tmp_path)
    assert says in refusal("compile", tiny_pair.task_fp16, "-o", "x.plan", *options, "--json")


@pytest.mark.parametrize(
    "options",
    [("--backend", "cuda"), ("--max-batch", "0"), ("--workspace", "0"), ("--cache", "x", "--no-cache")],
    ids=["unknown backend", "no batch", "no workspace", "a cache and none"],
)
def test_wrong_usage_is_status_2(call, options: tuple[str, ...]):
    assert call("compile", "vit.onnx", *options).exit_code == 2
