"""TensorRT-RTX builds real plans without a GPU, TensorRT on its device; the sidecar vouches for each of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import pgn_edge.nn.backbones
from pgn_edge import gpu
from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import BundleError, EngineError, OutputError
from pgn_edge.export import build_process, memory
from pgn_edge.export.compile import CompileOptions, compile_plan
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.sidecar import read_sidecar, sidecar_path


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    pytest.importorskip("tensorrt_rtx", reason="plans are built by tensorrt_rtx: pip install 'pgn-edge[rtx]'")


@pytest.fixture(scope="module")
def sources(
    tiny_pair,
    pixel_pair,
    tiny_vit_fp16: Path,
    tiny_backbone,
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
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
        "vit uint8": pixel_pair.vit,
        "pgn uint8": pixel_pair.task,
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


KINDS = ("fp32", "fp16", "bf16", "uint8")


@pytest.mark.parametrize("name", [f"{role} {kind}" for role in ("vit", "pgn") for kind in KINDS])
def test_a_plan_and_its_sidecar(sources: dict[str, Path], tmp_path: Path, name: str):
    import tensorrt_rtx

    plan = tmp_path / "engine.plan"
    report = compile_plan(sources[name], plan, CompileOptions(targets=("sm_86",), max_batch=4))
    facts, onnx_bytes = source_facts(sources[name])
    sidecar = read_sidecar(plan)
    assert report.sidecar == sidecar
    assert report.size_bytes == plan.stat().st_size > 10_000
    assert sidecar.plan_sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert sidecar.onnx_sha256 == hashlib.sha256(onnx_bytes).hexdigest()
    assert sidecar.facts == facts
    assert (sidecar.backend, sidecar.backend_version) == ("tensorrt-rtx", tensorrt_rtx.__version__)
    assert (sidecar.targets, sidecar.batch) == (("sm_86",), (1, 1, 4))
    assert (sidecar.source, sidecar.options) == (sources[name].name, ("--max-batch", "4"))
    assert report.cache == "off"
    assert not [path for path in tmp_path.iterdir() if path not in (plan, sidecar_path(plan))]


def test_a_fixed_batch_is_the_plans_too(sources: dict[str, Path], tmp_path: Path):
    report = compile_plan(sources["vit batch 3"], tmp_path / "vit.plan", CompileOptions(max_batch=8))
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
        pytest.param({"backend": "cuda"}, "tensorrt-rtx", id="unknown backend"),
        pytest.param({"max_batch": 0}, "1 or more", id="no batch"),
        pytest.param({"workspace_mib": 0}, "1 or more", id="no workspace"),
        pytest.param({"timing_cache": Path("t")}, "--timing-cache.*needs no GPU", id="a timing cache ends that"),
        pytest.param({"version_compatible": True}, "--version-compatible", id="version-compatible is TensorRT's"),
        pytest.param({"same_compute_capability": True}, "name the GPUs with --target", id="so is this"),
        pytest.param({"backend": "tensorrt", "targets": ("sm_87",)}, "--target", id="targets are TensorRT-RTX's"),
    ],
)
def test_options_that_are_refused(sources: dict[str, Path], tmp_path: Path, options: dict, says: str):
    with pytest.raises(EngineError, match=says):
        compile_plan(sources["pgn fp32"], tmp_path / "x.plan", CompileOptions(**options))
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
    lines: list[str] = []
    with pytest.raises(EngineError, match=r"parse, got .*Nonsense"):
        compile_plan(tmp_path / "bad.onnx", tmp_path / "x.plan", log=lines.append)
    assert [line for line in lines if "Nonsense" in line], "the library's own words are for whoever wants them"
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


@pytest.mark.parametrize("name", ["missing/x.plan", "."], ids=["no such folder", "a folder"])
def test_an_output_that_cannot_be_written(sources: dict[str, Path], tmp_path: Path, name: str):
    with pytest.raises(OutputError):
        compile_plan(sources["pgn fp32"], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_progress_is_told(sources: dict[str, Path], tmp_path: Path):
    told: list[tuple[str, int, int]] = []
    compile_plan(sources["pgn fp16"], tmp_path / "x.plan", progress=lambda *at, note="": told.append(at[:3]))
    steps = [at for at in told if at[0] == "Building engine"]
    assert steps[0][1] == 0
    assert steps[-1][1] == steps[-1][2] > 1
    assert all(done <= total for _, done, total in told)


def test_hopeless_memory_is_refused_before_the_build(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    size = len(source_facts(sources["pgn fp32"])[1])
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    monkeypatch.setattr(build_process, "COMMAND", (sys.executable, "-c", "raise SystemExit('it was started')"))
    meminfo.write_text(f"MemTotal: 99999999 kB\nMemAvailable: {3 * size // 1024 - 1} kB\n")
    with pytest.raises(EngineError, match=r"memory: expected at least .* 3 times the graph"):
        compile_plan(sources["pgn fp32"], tmp_path / "x.plan")
    meminfo.write_text(f"MemAvailable: {3 * size // 1024 + 1} kB\n")
    with pytest.raises(EngineError, match="it was started"):
        compile_plan(sources["pgn fp32"], tmp_path / "x.plan")
    meminfo.write_text("no memory at all\n")
    with pytest.raises(EngineError, match="it was started"):
        compile_plan(sources["pgn fp32"], tmp_path / "x.plan")


# The plan cache.


def test_the_same_build_is_not_done_twice(sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = CompileOptions(targets=("sm_86",), cache=tmp_path / "cache" / "plans")
    first = compile_plan(sources["pgn fp16"], tmp_path / "a.plan", options)
    copy = shutil.copy(sources["pgn fp16"], tmp_path / "renamed.pgn")
    monkeypatch.setattr(build_process, "COMMAND", (sys.executable, "-c", "raise SystemExit('built again')"))
    second = compile_plan(copy, tmp_path / "b.plan", options)
    assert (first.cache, second.cache) == ("stored", "hit")
    assert (tmp_path / "b.plan").read_bytes() == (tmp_path / "a.plan").read_bytes()
    assert read_sidecar(tmp_path / "b.plan") == second.sidecar
    assert second.sidecar.source == "renamed.pgn"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("pgn fp32", {}, id="another graph"),
        pytest.param("pgn fp16", {"targets": ("sm_89",)}, id="another target"),
        pytest.param("pgn fp16", {"max_batch": 4}, id="another batch"),
        pytest.param("pgn fp16", {"workspace_mib": 64}, id="another workspace"),
    ],
)
def test_another_build_is_no_hit(
    sources: dict[str, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: dict,
):
    folder = tmp_path / "cache"
    compile_plan(sources["pgn fp16"], tmp_path / "a.plan", CompileOptions(targets=("sm_86",), cache=folder))
    monkeypatch.setattr(build_process, "COMMAND", (sys.executable, "-c", "raise SystemExit('built again')"))
    with pytest.raises(EngineError, match="built again"):
        compile_plan(
            sources[name], tmp_path / "b.plan", CompileOptions(**{"targets": ("sm_86",), "cache": folder, **change})
        )


def test_a_damaged_entry_is_built_again(sources: dict[str, Path], tmp_path: Path):
    options = CompileOptions(cache=tmp_path / "cache")
    compile_plan(sources["pgn fp16"], tmp_path / "a.plan", options)
    (kept,) = (tmp_path / "cache").glob("*/*.plan")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    assert compile_plan(sources["pgn fp16"], tmp_path / "b.plan", options).cache == "stored"
    assert read_sidecar(tmp_path / "b.plan")
    assert compile_plan(sources["pgn fp16"], tmp_path / "c.plan", options).cache == "hit"


def test_a_cache_that_cannot_be_made(sources: dict[str, Path], tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="--no-cache"):
        compile_plan(sources["pgn fp16"], tmp_path / "x.plan", CompileOptions(cache=tmp_path / "file"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# TensorRT: the same code, with TensorRT-RTX under its name and a made-up GPU.


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the driver answer with these compute capabilities."""
    monkeypatch.setattr(gpu, "ASK_DRIVER", "")
    return lambda *answers: monkeypatch.setattr(gpu, "NVIDIA_SMI", ("echo", "\n".join(answers)))


@pytest.fixture
def _tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "tensorrt.py").write_text("from tensorrt_rtx import *\nfrom tensorrt_rtx import __version__\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    yield
    sys.modules.pop("tensorrt", None)


@pytest.mark.usefixtures("_tensorrt")
def test_tensorrt_builds_for_the_gpu_at_hand(sources: dict[str, Path], tmp_path: Path, gpus: Callable[..., None]):
    gpus("8.7")
    timings = tmp_path / "timings.bin"
    options = CompileOptions(
        "tensorrt", max_batch=2, workspace_mib=64, timing_cache=timings, same_compute_capability=True
    )
    report = compile_plan(sources["pgn fp16"], tmp_path / "x.plan", options)
    assert report.sidecar.backend == "tensorrt"
    assert (report.sidecar.targets, report.sidecar.batch) == (("sm_87",), (1, 1, 2))
    assert timings.stat().st_size > 0
    assert report.sidecar.rebuild("x.plan") == (
        "pgn-edge compile task_fp16.pgn --backend tensorrt --max-batch 2 --workspace 64 "
        f"--timing-cache {timings} --same-compute-capability -o x.plan"
    )


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize(
    ("found", "says"),
    [
        pytest.param((), "no NVIDIA GPU or driver found", id="no GPU"),
        pytest.param(("8.6", "8.9"), "one compute capability, got sm_86, sm_89", id="two kinds"),
    ],
)
def test_tensorrt_needs_one_kind_of_gpu(
    sources: dict[str, Path], tmp_path: Path, gpus: Callable[..., None], found: tuple[str, ...], says: str
):
    gpus(*found)
    with pytest.raises(EngineError, match=says):
        compile_plan(sources["pgn fp16"], tmp_path / "x.plan", CompileOptions("tensorrt"))
    assert not (tmp_path / "x.plan").exists()


@pytest.mark.parametrize("location", ["/etc/hostname", "../../../../etc/hostname", "beside.bin"])
def test_a_graph_that_names_files_is_refused_before_the_parser_reads_them(tiny_pair, tmp_path: Path, location: str):
    model = onnx.load(tiny_pair.vit)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "vit.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match="expected a graph with its weights inside, got external data"):
        compile_plan(tmp_path / "vit.onnx", tmp_path / "vit.plan")
