"""The benchmarks' own arithmetic, and the page that is made from their committed results."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from pgn_edge.errors import EngineError
from pgn_edge.gpu import local_architectures
from pgn_edge.heads import Head
from pgn_edge.nn.checkpoint import Checkpoint
from pgn_edge.nn.clip import clip_backbone
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.prompted import embed
from pgn_edge.nn.vit import CanvasViT

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAGE = ROOT / "docs/performance.md"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a script of `benchmarks/` by its name, as the scripts import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def importer(name: str) -> ModuleType:
        return importlib.import_module(name)

    return importer


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


# The page.


def test_the_committed_page_is_what_the_command_makes(tmp_path: Path):
    child = run("performance.py", "--output", tmp_path / "page.md")
    assert child.returncode == 0, child.stderr
    assert (tmp_path / "page.md").read_text() == PAGE.read_text(), "run: make performance"


def test_every_link_of_the_page_leads_somewhere():
    links = [part.partition(")")[0] for part in PAGE.read_text().split("](")[1:]]
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_a_page_without_results_says_so(load: Any, tmp_path: Path):
    text = load("performance").page(tmp_path)
    assert text.count("No results are committed yet") == 12
    assert "No GPU results are committed yet" in text


ENVIRONMENT = {
    "command": "a.py --few 1",
    "cpu": "a CPU",
    "usable_cores": 2,
    "load_average": [0.1, 0.2, 0.3],
    "onnxruntime": "1",
    "python": "3",
    "started": "2000-01-01T00:00:00",
    "gpus": ["a GPU"],
}


def latency(**p50: float) -> dict[str, Any]:
    return {"samples_ms": {name: [ms] * 3 for name, ms in p50.items()}, "skipped": {}, "agreement": {}}


def measured(report: ModuleType, chain: float) -> dict[str, Any]:
    """Every part of cpu.json, with a chain that takes `chain` ms beside a ViT alone that takes 10."""
    samples = {report.EAGER: 30.0, report.PLAIN: 10.0, report.BARE: 10.0, report.CHAIN: chain, report.CHAIN_INT8: 4.0}
    products = {
        "vit: a": {"graph": "vit", "count": 3, "multiply_adds": 2_000_000, "integers": False},
        "vit int8: b": {"graph": "vit int8", "count": 2, "multiply_adds": 3_000_000, "integers": True},
        "plain: a": {"graph": "plain", "count": 3, "multiply_adds": 2_000_000, "integers": False},
        "pgn: c": {"graph": "pgn", "count": 1, "multiply_adds": 1_000_000, "integers": False},
        "square: d": {"graph": "square", "count": 0, "multiply_adds": 8_000_000, "integers": False},
    }
    times = {"vit: a": 1.0, "plain: a": 1.0, "vit int8: b": 0.5, "pgn: c": 1.0, "square: d": 2.0, "copy": 2.0}
    times |= {"pgn": 1.5, "plain": 3.5, "vit": 3.5, "vit int8": 1.5}
    answer = {"cosine": 0.9995, "max_abs": 0.001, "top1_flips": 0, "frames": 64}
    starts = {name: [0.25] for name in ("total", "start", "import", "open ViT", "add task", "first infer")}
    return {
        "environment": ENVIRONMENT,
        "latency": latency(**samples),
        "accuracy": {report.CHAIN: answer, report.CHAIN_INT8: answer},
        "offline": {"samples_ms": {report.BARE: [97.0], report.CHAIN: [100.0]}},
        "stream": {"samples_ms": {name: [80.0 + n] for n, name in enumerate(report.SETTINGS)}, "frames": 8},
        "memory": {"resident_bytes": [100_000_000, 105_000_000, 120_000_000]},
        "first": {"samples_s": {"Runtime": starts, "bare ONNX Runtime": starts}},
        "roofline": {
            "products": products,
            "copy_bytes": 8_000_000,
            "file_bytes": {"pgn": 4_000_000, "plain": 40_000_000, "vit": 40_000_000, "vit int8": 10_000_000},
            "samples_ms": {name: [ms] for name, ms in times.items()},
        },
    }


def test_targets_of_the_chain_on_a_cpu(load: Any):
    report = load("cpu_report")
    values = {target.name: (round(target.value, 4), target.met) for target in report.targets_of(measured(report, 10.2))}
    assert values == {
        "chain / ONNX Runtime alone, vit.onnx": (1.02, True),
        "chain / ONNX Runtime alone, plain export": (1.02, True),
        "torch eager, as the paper's code / chain": (2.9412, True),
        "torch eager, as the paper's code / chain with int8 ViT": (7.5, True),
        "cosine to torch with int8 ViT, least of 64 pictures": (0.9995, True),
        "throughput at batch 8, chain / ViT alone": (0.97, True),
        "resident memory of a further task": (10.0, True),
        "first result after process start": (0.25, True),
    }


def test_a_missed_target_is_on_the_page(load: Any, tmp_path: Path):
    report, performance = load("cpu_report"), load("performance")
    document = measured(report, 16.0)
    document["targets"] = [target.to_json() for target in report.targets_of(document)]
    (tmp_path / "cpu.json").write_text(json.dumps(document))
    text = performance.page(tmp_path)
    assert "| chain / ONNX Runtime alone, vit.onnx | 1.6 x | at most 1.03 x | **MISSED** |" in text
    assert "| torch eager, as the paper's code / chain | 1.875 x | at least 2 x | **MISSED** |" in text
    assert text.count("**MISSED**") == 3
    assert "### Latency, batch 1" in text
    # At the ceilings torch's products take 0.25 + 1.5 ms of its 30, and the int8 chain's 0.25 + 1.
    assert "| torch eager, as the paper's code | 1.8 | 30.0 | 6% |" in text
    assert "Torch eager takes 17.14 times" in text
    assert "and 24.00 times" in text


def test_a_part_that_was_not_measured_is_named(load: Any):
    report = load("cpu_report")
    document = measured(report, 10.0)
    del document["memory"], document["accuracy"]
    assert "Not measured in this run: accuracy, memory." in report.sections(document)[0]
    assert len(report.targets_of(document)) == 6


def test_a_stream_is_told_by_the_frame_and_against_the_first(load: Any):
    report = load("cpu_report")
    document = measured(report, 10.0)
    rows = [line for text in report.sections(document) for line in text.splitlines() if "one thread |" in line]
    assert [cell.strip() for cell in rows[0].split("|")[1:-1]] == ["one thread", "10.4", "-", "1.038", "1"]


def test_a_target_that_is_no_number_is_missed(load: Any):
    target = load("common").Target
    assert not target("a", float("nan"), 1.0, True, "x").met
    assert not target("a", float("nan"), 1.0, False, "x").met
    assert target("a", 1.0, 1.0, True, "x").met
    assert target("a", 1.0, 1.0, False, "x").met


def test_time_at_the_ceilings(load: Any):
    report = load("cpu_report")
    roofline = measured(report, 10.0)["roofline"]
    ceilings = report.Ceilings.of(roofline)
    # The square product is the fastest in float32: 8e6 in 2 ms. In int8: 3e6 in 0.5 ms.
    assert (ceilings.float32, ceilings.int8, ceilings.copied) == (4e6, 6e6, 4e6)
    assert ceilings.least_ms(roofline, ("vit",)) == pytest.approx(3 * 2e6 / 4e6)
    assert ceilings.least_ms(roofline, ("pgn", "vit int8")) == pytest.approx(1e6 / 4e6 + 2 * 3e6 / 6e6)


def test_gpu_results_on_the_page(load: Any, tmp_path: Path):
    performance = load("performance")
    (tmp_path / "gpu").mkdir()
    batch = {**latency(a=1.0), "skipped": {"chain, tensorrt": "not installed"}}
    target = {"name": "chain", "value": 1.2, "limit": 1.1, "at_least": False, "unit": "x", "met": False}
    document = {"environment": ENVIRONMENT, "targets": [target], "batches": {"1": batch}}
    (tmp_path / "gpu/chain.json").write_text(json.dumps(document))
    text = performance.page(tmp_path)
    assert "| chain | 1.2 x | at most 1.1 x | **MISSED** |" in text
    assert "chain, tensorrt: not measured. not installed" in text
    assert "No results of gpu/roofline, gpu/training are committed yet" in text


# How it is measured.


def test_each_timed_call_follows_one_of_its_own_kind(load: Any):
    common = load("common")
    called: list[str] = []
    calls = {name: lambda name=name: called.append(name) or name for name in "abc"}
    yielded = [(name, answer) for name, _, answer in common.interleave(calls, common.Rounds(20, 3, 0))]
    pairs = [called[index : index + 2] for index in range(0, len(called), 2)]
    assert all(first == second for first, second in pairs)
    assert [name for name, _ in yielded] == [first for first, _ in pairs][3 * 3 :]
    assert all(name == answer for name, answer in yielded)
    orders = {tuple(first for first, _ in pairs[index : index + 3]) for index in range(0, len(pairs), 3)}
    assert {tuple(sorted(order)) for order in orders} == {("a", "b", "c")}
    assert len(orders) > 3


def toy_graph(*extra: onnx.NodeProto) -> onnx.ModelProto:
    """One product of each kind: 2 x 3 x 8 x 8 image, two equal linear layers, attention scores, int8."""
    rng = np.random.default_rng(0)
    constants = {
        "kernel": rng.standard_normal((5, 3, 4, 4)).astype(np.float32),
        "weight": rng.standard_normal((5, 5)).astype(np.float32),
        "turned": rng.standard_normal((4, 7)).astype(np.float32),
        "bytes": rng.integers(-128, 128, (5, 6)).astype(np.int8),
        "rows": np.array([2, 4, 5], np.int64),
        "flat": np.array([4, 10], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["patches"], strides=[4, 4]),  # 2 x 5 x 2 x 2
        helper.make_node("Transpose", ["patches"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "rows"], ["tokens"]),  # 2 x 4 x 5
        helper.make_node("MatMul", ["tokens", "weight"], ["first"]),
        helper.make_node("MatMul", ["first", "weight"], ["second"]),
        helper.make_node("Transpose", ["second"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["second", "keys"], ["scores"]),  # 2 x 4 x 4
        helper.make_node("DynamicQuantizeLinear", ["second"], ["small", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["small", "bytes", "zero"], ["sums"]),  # 2 x 4 x 6
        helper.make_node("Reshape", ["second", "flat"], ["wide"]),  # 4 x 10
        helper.make_node("Gemm", ["wide", "turned"], ["out"], transA=1),  # 10 x 7
        *extra,
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (2, 3, 8, 8))],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("sums", TensorProto.INT32, None),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, None),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_products_are_counted_as_by_hand_and_run_alone(load: Any, tmp_path: Path):
    ceilings, path = load("ceilings"), tmp_path / "toy.onnx"
    onnx.save(toy_graph(), path)
    image = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    products = ceilings.products_of(path, {"image": image})
    found = {product.name: (product.count, product.multiply_adds, product.integers) for product in products}
    assert found == {
        "Conv 2x3x8x8 . 5x3x4x4*": (1, 2 * 5 * 2 * 2 * 3 * 4 * 4, False),
        "MatMul 2x4x5 . 5x5*": (2, 2 * 4 * 5 * 5, False),
        "MatMul 2x4x5 . 2x5x4": (1, 2 * 4 * 4 * 5, False),
        "MatMulInteger 2x4x5 . 5x6*": (1, 2 * 4 * 6 * 5, True),
        "Gemm 4x10 . 4x7*": (1, 10 * 7 * 4, False),
    }
    scores, sums, out = ceilings.whole_call(path, {"image": image}, 1)()
    alone = [ceilings.call_of(product, 1)()[0] for product in products]
    for answer, expected in zip(alone[2:], (scores, sums, out), strict=True):
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)


def test_a_product_that_would_be_left_out_of_the_count_is_refused(load: Any, tmp_path: Path):
    ceilings, path = load("ceilings"), tmp_path / "toy.onnx"
    onnx.save(toy_graph(helper.make_node("Einsum", ["second"], ["sum"], equation="bij->b")), path)
    with pytest.raises(EngineError, match="got Einsum"):
        ceilings.products_of(path, {"image": np.zeros((2, 3, 8, 8), np.float32)})


def test_the_first_result_and_the_memory_of_tasks_come_from_processes_of_their_own(load: Any, tiny_pair: Any):
    children, rounds = load("children"), load("common").Rounds(1, 0, 0)
    seconds = children.first_results(tiny_pair.vit, tiny_pair.task, 1, rounds)
    assert set(seconds) == {"Runtime", "bare ONNX Runtime"}
    for series in seconds.values():
        (total,) = series["total"]
        assert total == pytest.approx(sum(series[name][0] for name in ("start", *children.STEPS)))
        assert series["import"][0] > 0
        assert series["first infer"][0] > 0
    resident = children.resident_after_tasks(tiny_pair.vit, tiny_pair.task, 1, 2)
    assert len(resident) == 3
    assert min(resident) > 10e6
    with pytest.raises(subprocess.CalledProcessError):
        children.resident_after_tasks(tiny_pair.stock, tiny_pair.task, 1, 1)


# The peers compute what we compute.


@pytest.fixture(scope="module")
def tiny_clip() -> Any:
    """Two blocks with no parameter at zero or one."""
    text = CLIPTextCfg(context_length=8, vocab_size=64, width=32, heads=2, layers=1)
    model = CLIP(24, CLIPVisionCfg(layers=2, width=48, head_width=16, patch_size=8, image_size=32), text)
    model.visual.preprocess_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    generator = torch.Generator().manual_seed(3)
    for parameter in model.visual.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval().requires_grad_(False)


def tiny_task(model: Any) -> Checkpoint:
    vit = clip_backbone(model, "tiny", None).vit
    torch.manual_seed(1)
    pgn = PGN(PgnConfig("resnet10", 5, 7, vit.width, 32), library_std=1.0).eval().requires_grad_(False)
    rows = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
    head = Head.text(rows / np.linalg.norm(rows, axis=1, keepdims=True), ("a", "b", "c"), 10.0)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    identity = vit.fingerprint(), vit.weights_sha256()
    return Checkpoint("t", "tiny", *identity, vit.geometry(5), vit.spec.preprocess, pgn, head, images)


@pytest.mark.parametrize("sequence_first", [True, False], ids=["as the paper", "batch first"])
def test_torch_as_the_paper_runs_it_gives_what_training_gives(load: Any, tiny_clip: Any, sequence_first: bool):
    task = tiny_task(tiny_clip)
    vit = clip_backbone(tiny_clip, "tiny", None).vit
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = embed(vit, task.pgn, task.geometry, image)
        embedding, logits = load("peers").PaperModel(tiny_clip.visual, task, sequence_first=sequence_first)(image)
        without = vit(image)
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits.numpy(), task.head.logits(expected.numpy()), rtol=1e-3, atol=1e-3)
    assert (without - expected).abs().max() > 1e-2
    assert tiny_clip.visual.transformer.batch_first


def test_the_plain_export_has_our_tokens(load: Any, tiny_clip: Any):
    vit = clip_backbone(tiny_clip, "tiny", None).vit
    geometry = vit.geometry(5)
    canvas = torch.randn(2, 3, *geometry.canvas_hw, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = CanvasViT(vit, geometry)(canvas)
        plain = load("peers").PlainCanvas(tiny_clip.visual, 5)(canvas)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-4)


# The scripts start.


@pytest.mark.parametrize("script", ["cpu.py", "performance.py", "gpu/chain.py", "gpu/roofline.py"])
def test_help(script: str):
    child = run(script, "--help")
    assert child.returncode == 0, child.stderr
    assert "--output" in child.stdout


@pytest.mark.skipif(bool(local_architectures()), reason="there is a GPU here")
@pytest.mark.parametrize("script", ["gpu/chain.py", "gpu/roofline.py"])
def test_without_a_gpu_one_clear_line(tmp_path: Path, script: str):
    child = run(script, "--output", tmp_path)
    assert child.returncode == 1
    assert child.stdout == ""
    assert child.stderr.count(os.linesep) == 1
    assert "expected an NVIDIA GPU" in child.stderr
    assert "run it on a machine with an NVIDIA GPU" in child.stderr
    assert list(tmp_path.iterdir()) == []
