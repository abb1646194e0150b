"""Real engines on toy graphs: what is measured, of which files, and what is refused. Nothing here is timed."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pgn_edge.bundle import Bundle, Golden, write_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import DataError, EngineError, PairingError
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.bench import run_bench
from pgn_edge.runtime.bench_costs import resident_bytes
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.bench_tax import adaptation_tax, extra_token_ms, tax_rows
from pgn_edge.runtime.engines import OnnxRuntimeEngine

FAST = BenchOptions(samples=3, warmup=1, frame_hw=(12, 10))
GEOMETRY = Geometry((8, 8), 4, 2)
CHAIN = tuple(f"chain.{stage}" for stage in ("decode", "preprocess", "pgn", "vit", "head", "total"))


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


def test_engine_alone(vit: Path) -> None:
    report = run_bench(vit, options=FAST)
    assert list(report.samples_ms) == ["vit"]
    assert len(report.samples_ms["vit"]) == FAST.samples
    assert report.frame_bytes == {"into the ViT": 3 * 12 * 8 * 4}
    assert report.costs is None
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
    assert list(report.parts) == ["vit", "stock", "task"]
    assert report.parts["vit"].sha256 == hashlib.sha256(vit.read_bytes()).hexdigest()
    assert report.parts["task"].size_bytes == task.stat().st_size
    assert report.frame_bytes["into the ViT alone"] == 3 * 8 * 8 * 4
    assert report.frame_bytes["camera frame, decoded"] == 12 * 10 * 3
    for series, starts in report.samples.starts_s.items():
        assert len(starts) == FAST.samples
        assert all(now > then for then, now in pairwise((0.0, *starts))), series


def test_a_canvas_of_bytes(pixel_pair) -> None:
    report = run_bench(pixel_pair.vit, task=pixel_pair.task, options=FAST)
    assert tuple(report.samples_ms) == ("vit", *CHAIN)
    assert report.frame_bytes["into the ViT"] == 3 * 80 * 64


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
    assert report.frame_bytes == {"into the ViT": 4 * (1 + 2 + 8)}


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0},
        {"frame_hw": (0, 4)},
        {"warmup": -1},
        {"threads": -1},
        {"seed": -1},
        {"frames": 0, "scenario": "offline"},
        {"tasks": 0},
        {"duration_s": 0},
        {"duration_s": float("nan")},
        {"scenario": "served"},
        {"frames": 2},
    ],
    ids=lambda wrong: ", ".join(f"{key} {value}" for key, value in wrong.items()),
)
def test_options_out_of_range(wrong: dict) -> None:
    with pytest.raises(EngineError, match=f"bench options: {next(iter(wrong))}"):
        BenchOptions(**wrong)


@pytest.mark.parametrize(("scenario", "frames"), [("multi-stream", 3), ("offline", 4)])
def test_queries_of_several_frames(vit: Path, task: Path, stock: Path, scenario: str, frames: int) -> None:
    options = replace(FAST, scenario=scenario, frames=frames)
    report = run_bench(vit, task=task, stock=stock, options=options)
    assert tuple(report.samples_ms) == ("vit", "stock", *CHAIN)
    assert report.frame_bytes["into the ViT"] == 3 * 12 * 8 * 4  # of one frame still


def test_an_onnx_by_plain_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    class SmallVit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.body = torch.nn.Conv2d(3, 16, 8, 8), torch.nn.TransformerEncoder(layer, 1)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.body(self.patches(pixel_values).flatten(2).transpose(1, 2)).mean(1)

    path = tmp_path / "foreign.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            SmallVit().eval(),
            (torch.zeros(2, 3, 32, 32),),
            str(path),
            input_names=["pixel_values"],
            output_names=["features"],
            dynamic_axes={"pixel_values": {0: "n"}, "features": {0: "n"}},
            dynamo=False,
        )
    options = replace(FAST, scenario="offline", frames=3)
    report = run_bench(path, rivals=[path], options=options)
    assert list(report.samples_ms) == ["vit", "vit.2"]
    assert report.frame_bytes == {"into the ViT": 3 * 32 * 32 * 4}


def test_a_frame_from_a_file(vit: Path, task: Path, tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    report = run_bench(vit, task=task, options=replace(FAST, frame=path))
    assert report.options.frame_hw == (20, 30)
    assert report.parts["frame"].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.frame_bytes["camera frame, encoded"] == path.stat().st_size


def test_a_frame_that_is_cut_off(vit: Path, task: Path, tmp_path: Path) -> None:
    path = tmp_path / "frame.jpg"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"frame.jpg"):
        run_bench(vit, task=task, options=replace(FAST, frame=path))


def test_the_random_frame_is_the_seed_s(vit: Path, task: Path) -> None:
    sizes = [run_bench(vit, task=task, options=replace(FAST, seed=seed)).frame_bytes for seed in (0, 0, 1)]
    assert sizes[0] == sizes[1] != sizes[2]


def test_costs_are_of_these_files(vit: Path, task: Path) -> None:
    costs = run_bench(vit, task=task, options=FAST).costs
    assert costs is not None
    assert (len(costs.task_load_ms), len(costs.vit_load_ms)) == (5, 3)
    assert min(*costs.task_load_ms, *costs.vit_load_ms) > 0
    assert (costs.task_file_bytes, costs.vit_file_bytes) == (task.stat().st_size, vit.stat().st_size)


def test_resident_memory_is_the_kernel_s(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  9999 kB\nVmRSS:\t    2048 kB\n")
    assert resident_bytes(status) == 2 << 20
    status.write_text("VmRSS:\n")
    assert resident_bytes(status) is None
    assert resident_bytes(tmp_path / "none") is None
