"""`pgn-edge triton-repo`, as a user calls it; tests/runtime/test_triton.py serves what it writes with a real server."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.sidecar import Sidecar, write_sidecar


def metadata(path: Path) -> dict[str, str]:
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props if prop.key.startswith("pgn_edge.")}


def a_plan(folder: Path, vit: Path, backend: str = "tensorrt", batch: tuple[int, int, int] = (1, 1, 16)) -> Path:
    """Bytes that no TensorRT would load, with a sidecar that vouches for them."""
    plan = folder / "vit.plan"
    plan.write_bytes(b"a plan")
    facts = EngineFacts.from_metadata(metadata(vit), "vit.onnx")
    digest = hashlib.sha256(b"a plan").hexdigest()
    write_sidecar(plan, Sidecar(digest, "0" * 64, backend, "10.3.0", (), batch, facts, source="vit.onnx"))
    return plan


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_onnx_becomes_a_model(call, tiny_pair, tmp_path: Path):
    done = call("triton-repo", tiny_pair.vit, "-o", tmp_path / "models", "--delay-us", 250, "--instances", 2)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path / 'models' / 'vit'}: onnxruntime_onnx, batches up to 8")
    assert files(tmp_path) == {"models/vit/config.pbtxt", "models/vit/1/model.onnx"}
    assert (tmp_path / "models/vit/1/model.onnx").read_bytes() == tiny_pair.vit.read_bytes()
    config = (tmp_path / "models/vit/config.pbtxt").read_text()
    for line in (
        'name: "vit"',
        'platform: "onnxruntime_onnx"',
        "max_batch_size: 8",
        'input [ { name: "canvas" data_type: TYPE_FP32 dims: [ 3, 80, 64 ] } ]',
        'output [ { name: "embedding" data_type: TYPE_FP32 dims: [ 128 ] } ]',
        "instance_group [ { count: 2 } ]",
        "dynamic_batching { max_queue_delay_microseconds: 250 }",
    ):
        assert line in config.splitlines()
    assert "model_warmup" not in config
    for key, value in metadata(tiny_pair.vit).items():
        if key in EngineFacts.from_metadata(metadata(tiny_pair.vit), "").to_metadata():
            assert f'key: "{key}" value {{ string_value: {json.dumps(value)} }}' in config


def test_a_canvas_of_bytes(call, pixel_pair, tmp_path: Path):
    assert call("triton-repo", pixel_pair.vit, "-o", tmp_path / "models", "--warm-up").exit_code == 0
    config = (tmp_path / "models/vit/config.pbtxt").read_text()
    assert 'input [ { name: "canvas" data_type: TYPE_UINT8 dims: [ 80, 64, 3 ] } ]' in config.splitlines()
    assert "data_type: TYPE_UINT8 dims: [ 80, 64, 3 ] zero_data" in config
    plan = a_plan(tmp_path, pixel_pair.vit, batch=(4, 4, 4))
    assert call("triton-repo", plan, "-o", tmp_path / "plans").exit_code == 0
    assert "data_type: TYPE_UINT8 dims: [ 4, 80, 64, 3 ]" in (tmp_path / "plans/vit/config.pbtxt").read_text()


def test_json_is_one_document(call, tiny_pair, tmp_path: Path):
    done = call(
        *("triton-repo", tiny_pair.vit, "-o", tmp_path, "--name", "clip-b32", "--max-batch", 1, "--warm-up", "--json")
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["name"], document["max_batch"], document["platform"]) == ("clip-b32", 1, "onnxruntime_onnx")
    assert document["facts"]["fingerprint"] in metadata(tiny_pair.vit)["pgn_edge.fingerprint"]
    config = Path(document["path"], "config.pbtxt").read_text()
    assert config.count("model_warmup") == 1
    assert "dynamic_batching" not in config, "nothing to join"


def test_a_plan_becomes_a_model_whose_outputs_the_server_reads(call, tiny_pair, tmp_path: Path):
    plan = a_plan(tmp_path, tiny_pair.vit)
    assert call("triton-repo", plan, "-o", tmp_path / "models", "--warm-up").exit_code == 0
    assert (tmp_path / "models/vit/1/model.plan").read_bytes() == b"a plan"
    config = (tmp_path / "models/vit/config.pbtxt").read_text()
    assert 'platform: "tensorrt_plan"' in config
    assert "max_batch_size: 16" in config
    assert "output [" not in config
    assert config.count("model_warmup") == 2, "the smallest batch and the largest"


def test_a_plan_of_a_fixed_batch_has_it_in_its_sizes(call, tiny_pair, tmp_path: Path):
    plan = a_plan(tmp_path, tiny_pair.vit, batch=(4, 4, 4))
    done = call("triton-repo", plan, "-o", tmp_path / "models", "--warm-up")
    assert "a fixed batch" in done.stdout
    config = (tmp_path / "models/vit/config.pbtxt").read_text()
    assert "max_batch_size: 0" in config
    assert "dims: [ 4, 3, 80, 64 ]" in config
    assert "batch_size: 1 inputs" in config
    assert "dynamic_batching" not in config


def test_a_plan_that_is_not_the_one_of_its_sidecar(refusal, tiny_pair, tmp_path: Path):
    plan = a_plan(tmp_path, tiny_pair.vit)
    plan.write_bytes(b"b plan")
    assert hashlib.sha256(b"b plan").hexdigest() in refusal("triton-repo", plan, "-o", tmp_path / "models")
    plan.with_name("vit.plan.json").unlink()
    assert "sidecar" in refusal("triton-repo", plan, "-o", tmp_path / "models")


@pytest.mark.parametrize(
    ("backend", "options", "says"),
    [
        pytest.param("tensorrt-rtx", (), "--backend tensorrt", id="a plan that Triton does not run"),
        pytest.param("tensorrt", ("--max-batch", 17), "at most 16", id="a larger batch than the plan takes"),
        pytest.param("tensorrt", ("--name", "../vit"), "--name", id="a name that climbs"),
    ],
)
def test_what_cannot_be_served(
    refusal, tiny_pair, tmp_path: Path, backend: str, options: tuple[object, ...], says: str
):
    plan = a_plan(tmp_path, tiny_pair.vit, backend)
    assert says in refusal("triton-repo", plan, "-o", tmp_path / "models", *options)


def test_files_that_are_no_vit(refusal, tiny_pair, tmp_path: Path):
    assert "vit.onnx or a vit.plan" in refusal("triton-repo", tiny_pair.task, "-o", tmp_path / "models")
    assert "missing.onnx" in refusal("triton-repo", tmp_path / "missing.onnx", "-o", tmp_path / "models")


def test_another_model_stays_unless_it_is_forced(call, refusal, tiny_pair, tmp_path: Path):
    command = ("triton-repo", tiny_pair.vit, "-o", tmp_path)
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit/config.pbtxt").write_text('name: "vit"\n')
    assert "--force" in refusal(*command)
    assert call(*command, "--force").exit_code == 0
    assert files(tmp_path) == {"vit/config.pbtxt", "vit/1/model.onnx"}
    assert call(*command, "--max-batch", 2).exit_code == 0, "the same ViT needs no force"
    assert "max_batch_size: 2" in (tmp_path / "vit/config.pbtxt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]


def test_a_folder_that_cannot_be_made(refusal, tiny_pair, tmp_path: Path):
    (tmp_path / "models").write_text("a file")
    assert "expected" in refusal("triton-repo", tiny_pair.vit, "-o", tmp_path / "models" / "below")
