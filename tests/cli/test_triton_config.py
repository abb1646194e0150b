"""The generated `config.pbtxt`, parsed and judged by Triton's own schema, `model_config.proto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.sidecar import read_sidecar, write_sidecar
from tests.cli.test_triton_repo import a_plan, metadata
from tests.runtime.triton_server import UnavailableError, install_client


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's messages, as its client ships them."""
    try:
        install_client()
        from tritonclient.grpc import model_config_pb2
    except (UnavailableError, ImportError) as exc:
        pytest.skip(f"no client of Triton here: {exc}")
    return model_config_pb2


@pytest.fixture
def parsed(call, schema: Any, tmp_path: Path) -> Any:
    """Writes a repository, and reads its configuration as the server would: unknown fields are errors."""
    from google.protobuf import text_format

    def run(source: Path, *options: object) -> Any:
        done = call("triton-repo", source, "-o", tmp_path / "models", *options)
        assert done.exit_code == 0, done.output
        (config,) = (tmp_path / "models").glob("*/config.pbtxt")
        found = text_format.Parse(config.read_text(), schema.ModelConfig())
        require_sound(found, schema)
        return found

    return run


def require_sound(config: Any, schema: Any) -> None:
    """Rules that the schema's comments state and its types do not."""
    assert config.platform in ("onnxruntime_onnx", "tensorrt_plan")
    assert config.name
    batched = config.max_batch_size > 0
    for tensor in (*config.input, *config.output):
        assert tensor.data_type != schema.TYPE_INVALID
        assert len(tensor.dims) > 0
        assert all(size > 0 or size == -1 for size in tensor.dims)
    assert not config.HasField("dynamic_batching") or batched
    inputs = {tensor.name: tensor for tensor in config.input}
    assert len({sample.name for sample in config.model_warmup}) == len(config.model_warmup)
    for sample in config.model_warmup:
        assert 1 <= sample.batch_size <= max(config.max_batch_size, 1)
        assert sample.inputs.keys() == inputs.keys()
        for name, tensor in sample.inputs.items():
            assert (tensor.data_type, list(tensor.dims)) == (inputs[name].data_type, list(inputs[name].dims))
            assert tensor.zero_data


def test_the_configuration_of_an_onnx_is_one_by_tritons_own_schema(parsed, schema: Any, tiny_pair):
    config = parsed(tiny_pair.vit, "--max-batch", 4, "--delay-us", 250, "--instances", 2, "--warm-up")
    assert (config.name, config.platform, config.max_batch_size) == ("vit", "onnxruntime_onnx", 4)
    (canvas,), (embedding,) = config.input, config.output
    assert (canvas.name, canvas.data_type, list(canvas.dims)) == ("canvas", schema.TYPE_FP32, [3, 80, 64])
    assert (embedding.name, embedding.data_type, list(embedding.dims)) == ("embedding", schema.TYPE_FP32, [128])
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert [group.count for group in config.instance_group] == [2]
    assert sorted(sample.batch_size for sample in config.model_warmup) == [1, 4]


def test_a_canvas_of_bytes_has_tritons_type(parsed, schema: Any, pixel_pair):
    (canvas,) = parsed(pixel_pair.vit, "--warm-up").input
    assert (canvas.data_type, list(canvas.dims)) == (schema.TYPE_UINT8, [80, 64, 3])


@pytest.mark.parametrize("batch", [(1, 1, 16), (4, 4, 4)], ids=["free batch", "fixed batch"])
@pytest.mark.parametrize("warm_up", [(), ("--warm-up",)], ids=["cold", "warm"])
def test_the_configuration_of_a_plan_is_one_too(
    parsed, tiny_pair, tmp_path: Path, batch: tuple[int, int, int], warm_up: tuple[str, ...]
):
    config = parsed(a_plan(tmp_path, tiny_pair.vit, batch=batch), *warm_up)
    fixed = batch[0] == batch[2]
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 0 if fixed else 16)
    assert list(config.input[0].dims) == ([4, 3, 80, 64] if fixed else [3, 80, 64])


def test_the_facts_survive_the_text_of_the_configuration(parsed, tiny_pair, tmp_path: Path):
    from dataclasses import replace

    plan = a_plan(tmp_path, tiny_pair.vit)
    sidecar = read_sidecar(plan)
    odd = replace(sidecar.facts, backbone='a "name" with \\ and\nlines, é and \u2028')
    write_sidecar(plan, replace(sidecar, facts=odd))
    parameters = {key: value.string_value for key, value in parsed(plan).parameters.items()}
    assert EngineFacts.from_metadata(parameters, "config") == odd


def test_a_plan_of_another_suffix_lies_where_triton_looks_for_it(parsed, tiny_pair, tmp_path: Path):
    plan = a_plan(tmp_path, tiny_pair.vit)
    engine = tmp_path / "vit.engine"
    plan.rename(engine)
    plan.with_name("vit.plan.json").rename(tmp_path / "vit.engine.json")
    assert parsed(engine).platform == "tensorrt_plan"
    assert (tmp_path / "models/vit/1/model.plan").exists()


def test_an_onnx_of_a_fixed_batch_has_it_in_its_sizes(parsed, tiny_pair, tmp_path: Path):
    import onnx

    from pgn_edge.export.graph import finish, fix_batch

    model = onnx.load(tiny_pair.vit)
    facts = EngineFacts.from_metadata(metadata(tiny_pair.vit), "vit")
    onnx.save(finish(fix_batch(model, 2), facts), tmp_path / "two.onnx")
    config = parsed(tmp_path / "two.onnx", "--warm-up")
    assert config.max_batch_size == 0
    assert np.array_equal(config.input[0].dims, [2, 3, 80, 64])
