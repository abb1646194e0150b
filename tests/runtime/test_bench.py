"""Real engines on toy graphs; nothing here asserts a latency."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from pgn_edge.bundle import Bundle, Golden, write_bundle
from pgn_edge.cli.bench import bench
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, OutputError, PairingError
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.bench import BenchOptions, Stats, run_bench
from pgn_edge.runtime.bench_report import adaptation_tax, bench_html, bench_json, extra_token_ms, stats_rows, tax_rows
from pgn_edge.runtime.engines import FakeEngine, OnnxRuntimeEngine, TensorSpec
from pgn_edge.runtime.environment import describe_environment

FAST = BenchOptions(samples=3, warmup=1, frame_hw=(12, 10))
GEOMETRY = Geometry((8, 8), 4, 2)
CHAIN = tuple(f"chain.{stage}" for stage in ("preprocess", "pgn", "vit", "head", "total"))


def facts(role: str = "vit", **changes: object) -> EngineFacts:
    made = EngineFacts(
        role=role,  # type: ignore[arg-type]
        backbone="toy",
        fingerprint="f" * 64,
        geometry=GEOMETRY,
        preprocess=Preprocess((8, 8)),
        precision="fp32",
        opset=20,
        output="embedding" if role == "vit" else "canvas",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def model(nodes: list, inputs: list, outputs: list, constants: Mapping, about: EngineFacts | None) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if about is not None:
        helper.set_model_props(made, about.to_metadata())
    return made


def vit_model(about: EngineFacts | None) -> onnx.ModelProto:
    """Canvas -> mean of each colour."""
    size = GEOMETRY.canvas_hw if about is None else about.geometry.canvas_hw
    return model(
        [helper.make_node("ReduceMean", ["canvas", "axes"], ["embedding"], keepdims=0)],
        [helper.make_tensor_value_info("canvas", TensorProto.FLOAT, ["batch", 3, *size])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])],
        {"axes": np.array([2, 3], np.int64)},
        about,
    )


def pgn_model() -> onnx.ModelProto:
    """Image -> the image itself over a grey prompt row."""
    return model(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Mul", ["nchw", "scale"], ["pixels"]),
            helper.make_node("Pad", ["pixels", "pads", "grey"], ["canvas"]),
        ],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("canvas", TensorProto.FLOAT, ["batch", 3, 12, 8])],
        {
            "scale": np.float32(1 / 255),
            "pads": np.array([0, 0, 0, 0, 0, 0, 4, 0], np.int64),
            "grey": np.float32(0.5),
        },
        facts("pgn"),
    )


def save(path: Path, made: onnx.ModelProto) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return save(tmp_path / "vit.onnx", vit_model(facts()))


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    return save(tmp_path / "stock.onnx", vit_model(facts(geometry=replace(GEOMETRY, prompts=0))))


@pytest.fixture
def task(tmp_path: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    pgn = OnnxRuntimeEngine(pgn_model().SerializeToString(), "pgn")
    canvas = pgn.infer({"image": images})["canvas"]
    embedding = canvas.mean(axis=(2, 3))
    head = Head.linear(np.eye(3), np.zeros(3), ("red", "green", "blue"))
    top1 = head.logits(embedding).argmax(axis=1)
    golden = Golden(images, np.ascontiguousarray(canvas[:, :, 8:]), embedding, top1)
    path = tmp_path / "task.pgn"
    write_bundle(path, Bundle("toy", facts("pgn"), pgn_model().SerializeToString(), head, golden))
    return path


def fake(function: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]], **options: object) -> FakeEngine:
    spec = {"x": TensorSpec((None, 2), np.dtype(np.float32))}
    return FakeEngine(spec, {"y": spec["x"]}, function, **options)  # type: ignore[arg-type]


def test_engine_alone(vit: Path) -> None:
    report = run_bench(vit, options=FAST)
    assert list(report.samples_ms) == ["vit"]
    assert len(report.samples_ms["vit"]) == FAST.samples
    assert report.input_bytes == 3 * 12 * 8 * 4
    assert [row[1] for row in tax_rows(report)][:2] == [
        "not measured: give --stock",
        f"{report.stats['vit'].p50:.3f}",
    ]
    assert extra_token_ms(report) is None


def test_chain_and_stock(vit: Path, task: Path, stock: Path) -> None:
    report = run_bench(vit, task=task, stock=stock, options=FAST)
    assert tuple(report.samples_ms) == ("vit", "stock", *CHAIN)
    assert {len(series) for series in report.samples_ms.values()} == {FAST.samples}
    stats = report.stats
    ratios = {row.part: row.ratio for row in adaptation_tax(report)}
    assert ratios["ViT alone"] == 1
    assert ratios["whole chain"] == pytest.approx(stats["chain.total"].p50 / stats["stock"].p50)
    assert extra_token_ms(report) == pytest.approx(stats["vit"].p50 - stats["stock"].p50)
    assert set(report.devices) == {"vit", "stock"}


def test_foreign_onnx_is_filled_by_its_specs(tmp_path: Path) -> None:
    tensors = {
        "image": (TensorProto.UINT8, ["n", 4]),
        "half": (TensorProto.FLOAT16, ["n", 4]),
        "token": (TensorProto.INT64, ["n", 4]),
    }
    nodes = [helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT) for name in tensors]
    nodes.append(helper.make_node("Sum", [f"{name}_f" for name in tensors], ["y"]))
    inputs = [helper.make_tensor_value_info(name, *spec) for name, spec in tensors.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
    report = run_bench(save(tmp_path / "any.onnx", model(nodes, inputs, outputs, {}, None)), options=FAST)
    assert list(report.samples_ms) == ["vit"]
    assert report.input_bytes == 4 * (1 + 2 + 8)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"fingerprint": "0" * 64}, "fingerprint"),
        ({"geometry": GEOMETRY}, "prompts"),
        ({"geometry": Geometry((16, 8), 4, 0)}, "image size"),
        ({"precision": "fp16", "geometry": replace(GEOMETRY, prompts=0)}, "precision"),
    ],
    ids=["another ViT", "has prompt slots itself", "another image size", "would mix precision into the tax"],
)
def test_stock_that_does_not_belong(vit: Path, tmp_path: Path, changes: dict, what: str) -> None:
    about = facts(**{"geometry": replace(GEOMETRY, prompts=0), **changes})
    other = save(tmp_path / "other.onnx", vit_model(about))
    with pytest.raises(PairingError, match=what):
        run_bench(vit, stock=other, options=FAST)


def test_foreign_files_refuse_what_needs_facts(vit: Path, stock: Path, task: Path, tmp_path: Path) -> None:
    foreign = save(tmp_path / "foreign.onnx", vit_model(None))
    for arguments in ({"engine": foreign, "stock": stock}, {"engine": vit, "stock": foreign}):
        with pytest.raises(EngineError, match=r"foreign.onnx.*no pgn_edge facts"):
            run_bench(**arguments, options=FAST)
    with pytest.raises(EngineError, match="no pgn_edge facts"):
        run_bench(foreign, task=task, options=FAST)


def test_pgn_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="role 'pgn'"):
        run_bench(save(tmp_path / "pgn.onnx", pgn_model()), options=FAST)


def test_outputs_that_are_not_finite() -> None:
    engine = fake(lambda feeds: {"y": feeds["x"] * np.nan})
    with pytest.raises(EngineError, match="finite"):
        run_bench(engine, options=FAST)
    assert engine.closed


def test_outputs_that_change() -> None:
    calls = iter(range(100))
    engine = fake(lambda feeds: {"y": feeds["x"] + next(calls)})
    with pytest.raises(EngineError, match="the same output"):
        run_bench(engine, options=FAST)


def test_engine_that_fails_midway_is_closed() -> None:
    engine = fake(dict, fail_at=frozenset({3}))
    with pytest.raises(EngineError, match="failure on cue"):
        run_bench(engine, options=FAST)
    assert engine.closed


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 0}, {"frame_hw": (0, 4)}, {"warmup": -1}, {"threads": -1}, {"seed": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_options_out_of_range(wrong: dict) -> None:
    with pytest.raises(EngineError, match="bench options"):
        BenchOptions(**wrong)


def test_p99_needs_a_hundred_samples() -> None:
    assert Stats.of([1.0] * 99).p99 is None
    stats = Stats.of([float(value) for value in range(101)])
    assert (stats.count, stats.p50, stats.p95, stats.p99, stats.mean, stats.min) == (101, 50, 95, 99, 50, 0)


def test_environment_is_json() -> None:
    environment = json.loads(json.dumps(describe_environment()))
    assert environment["cores"] >= environment["usable_cores"] >= 1
    assert environment["numpy"] == np.__version__
    assert environment["onnxruntime"]
    assert "/" not in environment["command"].split()[0]


def test_json_holds_every_sample(vit: Path, task: Path, stock: Path) -> None:
    report = run_bench(vit, task=task, stock=stock, options=FAST)
    document = json.loads(json.dumps(bench_json(report)))
    assert document["samples_ms"]["chain.total"] == list(report.samples_ms["chain.total"])
    assert document["stats_ms"]["vit"]["p99"] is None
    assert document["options"]["frame_hw"] == [12, 10]
    assert document["adaptation_tax"][0]["part"] == "ViT alone"


@pytest.mark.parametrize("whole", [False, True], ids=["engine alone", "with task and stock"])
def test_page_is_self_contained(vit: Path, task: Path, stock: Path, whole: bool) -> None:
    pytest.importorskip("matplotlib")
    report = run_bench(vit, task=task if whole else None, stock=stock if whole else None, options=FAST)
    text = bench_html(report)
    assert text.count("data:image/png;base64,") == 3
    assert text.count("src=") == 3
    assert "href=" not in text
    assert "<script" not in text
    for row in stats_rows(report):
        assert row[1] in text


def test_command_prints_tables(vit: Path, task: Path) -> None:
    arguments = ["--engine", str(vit), "--task", str(task), "--samples", "2", "--frame", "16x9"]
    result = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "chain.total" in result.stdout
    assert "not measured: give --stock" in result.stdout
    assert "rounds" in result.stderr


def test_command_json_on_stdout_and_nothing_else(vit: Path) -> None:
    arguments = ["--engine", str(vit), "--samples", "2", "--json", "-"]
    document = json.loads(CliRunner().invoke(bench, arguments, catch_exceptions=False).stdout)
    assert len(document["samples_ms"]["vit"]) == 2


def test_command_writes_files(vit: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, html = tmp_path / "out.json", tmp_path / "out.html"
    arguments = ["--engine", str(vit), "--samples", "2", "--json", str(out), "--html", str(html)]
    result = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert json.loads(out.read_text())["options"]["samples"] == 2
    assert html.read_text().startswith("<!doctype html>")
    assert str(html) in result.stdout


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_command_checks_outputs_before_it_measures(tmp_path: Path, option: str) -> None:
    # The engine does not exist: the refusal of the output must come first.
    arguments = ["--engine", str(tmp_path / "none.onnx"), option, str(tmp_path / "no" / "out")]
    with pytest.raises(OutputError, match="folder that exists"):
        CliRunner().invoke(bench, arguments, catch_exceptions=False)


@pytest.mark.parametrize("frame", ["640", "0x4", "640x480x3", "axb", "640X480"])
def test_command_refuses_a_frame(vit: Path, frame: str) -> None:
    result = CliRunner().invoke(bench, ["--engine", str(vit), "--frame", frame])
    assert result.exit_code == 2
    assert "WIDTHxHEIGHT" in result.stderr
