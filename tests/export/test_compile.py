"""TensorRT-RTX builds real plans without a GPU; the sidecar vouches for each of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import pgn_edge.nn.backbones
from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import BundleError, EngineError, OutputError
from pgn_edge.export.compile import compile_plan
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.sidecar import read_sidecar, sidecar_path


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    pytest.importorskip("tensorrt_rtx", reason="plans are built by tensorrt_rtx: pip install 'pgn-edge[rtx]'")


@pytest.fixture(scope="module")
def sources(
    tiny_pair, tiny_vit_fp16: Path, tiny_backbone, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    more = {name: folder / f"{name}.onnx" for name in ("vit bf16", "vit int8", "vit batch 3")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: tiny_backbone)
        export_vit("builtin", more["vit bf16"], VitOptions(precision="bf16"))
        export_vit("builtin", more["vit int8"], VitOptions(precision="int8"))
        export_vit("builtin", more["vit batch 3"], VitOptions(batch=3))
        export_task(tiny_checkpoint, folder / "bf16.pgn", ExportOptions(precision="bf16"))
    return {
        **more,
        "pgn bf16": folder / "bf16.pgn",
        "vit fp32": tiny_pair.vit,
        "vit fp16": tiny_vit_fp16,
        "pgn fp32": tiny_pair.task,
        "pgn fp16": tiny_pair.task_fp16,
    }


@pytest.fixture(scope="module")
def good_plan(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "task.plan"
    compile_plan(sources["pgn fp32"], path)
    return path


@pytest.fixture
def plan(good_plan: Path, tmp_path: Path) -> Path:
    """A plan of one's own, with its sidecar, to damage."""
    for path in (good_plan, sidecar_path(good_plan)):
        shutil.copy(path, tmp_path)
    return tmp_path / good_plan.name


def source_facts(path: Path) -> tuple[EngineFacts, bytes]:
    if path.suffix == ".pgn":
        bundle = read_bundle(path)
        return bundle.facts, bundle.pgn_onnx
    metadata = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    return EngineFacts.from_metadata(metadata, "here"), path.read_bytes()


@pytest.mark.parametrize("name", ["vit fp32", "vit fp16", "vit bf16", "pgn fp32", "pgn fp16", "pgn bf16"])
def test_a_plan_and_its_sidecar(sources: dict[str, Path], tmp_path: Path, name: str):
    import tensorrt_rtx

    plan = tmp_path / "engine.plan"
    report = compile_plan(sources[name], plan, targets=("sm_86",), max_batch=4)
    facts, onnx_bytes = source_facts(sources[name])
    sidecar = read_sidecar(plan)
    assert report.sidecar == sidecar
    assert report.size_bytes == plan.stat().st_size > 10_000
    assert sidecar.plan_sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert sidecar.onnx_sha256 == hashlib.sha256(onnx_bytes).hexdigest()
    assert sidecar.facts == facts
    assert (sidecar.backend, sidecar.backend_version) == ("tensorrt-rtx", tensorrt_rtx.__version__)
    assert (sidecar.targets, sidecar.batch) == (("sm_86",), (1, 1, 4))


def test_a_fixed_batch_is_the_plans_too(sources: dict[str, Path], tmp_path: Path):
    report = compile_plan(sources["vit batch 3"], tmp_path / "vit.plan", max_batch=8)
    assert report.sidecar.batch == (3, 3, 3)
    assert report.size_bytes > 10_000


def test_int8_is_for_cpus(sources: dict[str, Path], tmp_path: Path):
    with pytest.raises(EngineError, match="without --int8"):
        compile_plan(sources["vit int8"], tmp_path / "vit.plan")
    assert not list(tmp_path.iterdir())


def test_fp16_makes_a_smaller_plan(sources: dict[str, Path], tmp_path: Path):
    sizes = [compile_plan(sources[name], tmp_path / "x.plan").size_bytes for name in ("pgn fp32", "pgn fp16")]
    assert sizes[1] < 0.8 * sizes[0], "types were not taken from the graph"


@pytest.mark.parametrize("offset", [0, 1000, -1], ids=["first byte", "somewhere", "last byte"])
def test_a_flipped_byte_is_refused(plan: Path, offset: int):
    data = bytearray(plan.read_bytes())
    data[offset] ^= 1
    plan.write_bytes(data)
    with pytest.raises(EngineError, match="sha256"):
        read_sidecar(plan)


def test_another_plans_sidecar_is_refused(plan: Path):
    path = sidecar_path(plan)
    path.write_text(json.dumps({**json.loads(path.read_text()), "plan_sha256": "0" * 64}))
    with pytest.raises(EngineError, match="sha256"):
        read_sidecar(plan)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"targets": ("sm_86", "sm_13")}, "got 'sm_13'", id="unknown target"),
        pytest.param({"targets": ("NONE",)}, "sm_86", id="a name that only the library knows"),
        pytest.param({"backend": "tensorrt"}, "tensorrt-rtx", id="unknown backend"),
        pytest.param({"max_batch": 0}, "1 or more", id="no batch"),
    ],
)
def test_options_that_are_refused(sources: dict[str, Path], tmp_path: Path, options: dict, says: str):
    with pytest.raises(EngineError, match=says):
        compile_plan(sources["pgn fp32"], tmp_path / "x.plan", **options)
    assert not list(tmp_path.iterdir())


def foreign() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "foreign", [x], [y])
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        pytest.param("foreign.onnx", foreign(), EngineError, id="an ONNX that is not ours"),
        pytest.param("empty.onnx", b"", EngineError, id="empty"),
        pytest.param("text.onnx", b"this is no protobuf \xff\xff", EngineError, id="text"),
        pytest.param("missing.onnx", None, EngineError, id="no such file"),
        pytest.param("text.pgn", b"no zip", BundleError, id="a bundle that is none"),
        pytest.param("missing.pgn", None, BundleError, id="no such bundle"),
    ],
)
def test_sources_that_are_refused(tmp_path: Path, name: str, data: bytes | None, error: type[Exception]):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error) as caught:
        compile_plan(tmp_path / name, tmp_path / "x.plan")
    assert name in str(caught.value)
    assert not (tmp_path / "x.plan").exists()


def test_a_graph_of_ours_that_was_damaged(tiny_pair, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    model = onnx.load(tiny_pair.vit)
    model.graph.node[0].op_type = "Nonsense"
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match="parse"):
        compile_plan(tmp_path / "bad.onnx", tmp_path / "x.plan")
    capfd.readouterr()  # the library's own report
    assert not (tmp_path / "x.plan").exists()


def test_an_output_that_cannot_be_written(sources: dict[str, Path], tmp_path: Path):
    with pytest.raises(OutputError):
        compile_plan(sources["pgn fp32"], tmp_path / "missing" / "x.plan")
