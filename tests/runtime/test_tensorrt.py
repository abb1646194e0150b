"""Plans on a GPU: the adapters and the chain on stand-ins for driver and library, and what they refuse."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pgn_edge import gpu
from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, MissingExtraError, PairingError, PgnEdgeError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.bench import run_bench
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.chain import CudaChain, HostChain, link
from pgn_edge.runtime.cuda import Cuda
from pgn_edge.runtime.engines import EngineOptions, OnnxRuntimeEngine, TensorRtEngine, open_engine
from pgn_edge.runtime.engines.plan import Plan
from pgn_edge.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar
from tests.runtime.conftest import StandIn
from tests.runtime.tensorrt_stand_in import plan_bytes
from tests.runtime.tensorrt_stand_in import stand_in as tensorrt_stand_in

VERSION, MOST = "10.3.0", 4
BACKENDS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


class Machine(NamedTuple):
    """A machine with one GPU, whose driver and library are stand-ins, and a folder for its files."""

    driver: StandIn
    folder: Path
    backend: str
    version: str

    def compile(self, source: Path, plan: str, **options: Any) -> Path:
        """A plan and its sidecar, from a ViT's ONNX or a bundle."""
        path = self.folder / plan
        if source.suffix == ".pgn":
            bundle = read_bundle(source)
            data, facts = bundle.pgn_onnx, bundle.facts
        else:
            data = source.read_bytes()
            facts = EngineFacts.from_metadata({prop.key: prop.value for prop in onnx.load(source).metadata_props}, "")
        path.write_bytes(plan_bytes(data, batch=(1, 1, MOST), **options))
        digests = (hashlib.sha256(each).hexdigest() for each in (path.read_bytes(), data))
        write_sidecar(
            path, Sidecar(*digests, self.backend, self.version, ("sm_86",), (1, 1, MOST), facts, source=source.name)
        )
        return path

    def pair(self, pair: Any, **options: Any) -> tuple[Path, dict[str, Path]]:
        """ViT plan, and two bundles that have their plans beside them."""
        tasks = {}
        for name, source in (("exact", pair.task), ("half", pair.task_fp16)):
            tasks[name] = self.folder / f"{name}.pgn"
            tasks[name].write_bytes(source.read_bytes())
            self.compile(tasks[name], f"{name}.plan")
        return self.compile(pair.vit, "vit.plan", **options), tasks


@pytest.fixture(params=BACKENDS)
def machine(
    request: pytest.FixtureRequest, cuda_by_default: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    module = tensorrt_stand_in(cuda_by_default.path, rtx=request.param == "tensorrt-rtx")
    monkeypatch.setitem(sys.modules, BACKENDS[request.param], module)
    monkeypatch.setattr(gpu, "NVIDIA_SMI", ("echo", "8.6"))
    monkeypatch.setenv("PGN_EDGE_CACHE", str(tmp_path / "cache"))
    yield Machine(cuda_by_default, tmp_path, request.param, module.__version__)
    assert cuda_by_default.live() == {}, "something on the GPU was not given back"


def frame(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 128, 3) + rng.integers(0, 128, (height, width, 3))).astype(np.uint8)


# Answers.


def test_a_plan_answers_as_its_graph_does(machine: Machine, tiny_pair):
    vit, tasks = machine.pair(tiny_pair)
    with Runtime(tiny_pair.vit, {"exact": tiny_pair.task}, canvases=True) as host:
        expected = [host.infer("exact", frame(seed)) for seed in range(3)]
        drift = host.drift("exact")
    with Runtime(vit, tasks, canvases=True) as runtime:
        for seed, wanted in enumerate(expected):
            result = runtime.infer("exact", frame(seed))
            np.testing.assert_allclose(result.embedding, wanted.embedding, rtol=0, atol=1e-5)
            np.testing.assert_allclose(result.canvas, wanted.canvas, rtol=0, atol=1e-5)
            assert result.label == wanted.label
            assert result.degraded == ""
            assert list(result.timings_ms) == ["preprocess", "upload", "pgn", "vit", "download", "head", "total"]
            assert all(0 < result.timings_ms[stage] < 1e4 for stage in ("upload", "pgn", "vit", "download"))
        assert runtime.notes == (), "the chain is one CUDA graph"
        found, expected_drift = runtime.drift("exact"), dataclasses.asdict(drift)
        assert expected_drift.pop("alarm_share") is found.alarm_share is None, "three frames cannot set off the alarm"
        for name, value in expected_drift.items():
            assert getattr(found, name) == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_a_canvas_of_bytes_stays_on_the_gpu_too(machine: Machine, pixel_pair):
    vit, task = machine.compile(pixel_pair.vit, "vit.plan"), machine.folder / "task.pgn"
    task.write_bytes(pixel_pair.task.read_bytes())
    machine.compile(task, "task.plan")
    jobs = [("a", frame(seed)) for seed in range(MOST + 1)]
    with Runtime(pixel_pair.vit, {"a": pixel_pair.task}, canvases=True) as host:
        expected = host.infer_batch(jobs)
    with Runtime(vit, {"a": task}, canvases=True) as runtime:
        for result, wanted in zip(runtime.infer_batch(jobs), expected, strict=True):
            assert (result.canvas.dtype, result.canvas.shape) == (np.uint8, (80, 64, 3))
            np.testing.assert_array_equal(result.canvas, wanted.canvas)
            np.testing.assert_allclose(result.embedding, wanted.embedding, rtol=0, atol=1e-5)
        assert runtime.notes == (), "the chain is one CUDA graph"


def test_results_belong_to_the_caller(machine: Machine, tiny_pair):
    vit, tasks = machine.pair(tiny_pair)
    with Runtime(vit, tasks) as runtime:
        first = runtime.infer("exact", frame(1))
        kept = first.embedding.copy()
        runtime.infer("exact", frame(2))
    np.testing.assert_array_equal(first.embedding, kept)
    assert first.canvas is None


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["exact"] * 3, id="one task"),
        pytest.param(["half", "exact", "half"], id="two tasks in turns"),
        pytest.param(["exact", "half"] * MOST, id="more frames than the profile has"),
    ],
)
def test_frames_together_equal_frames_alone(machine: Machine, tiny_pair, names: list[str]):
    vit, tasks = machine.pair(tiny_pair)
    jobs = [(name, frame(seed)) for seed, name in enumerate(names)]
    with Runtime(vit, tasks) as runtime:
        alone = [runtime.infer(*job) for job in jobs]
        for result, wanted in zip(runtime.infer_batch(jobs), alone, strict=True):
            assert result.task == wanted.task
            np.testing.assert_allclose(result.embedding, wanted.embedding, rtol=0, atol=1e-5)


def test_combinations_beyond_those_that_are_kept(machine: Machine, tiny_pair):
    vit, tasks = machine.pair(tiny_pair)
    with Runtime(vit, tasks) as runtime:
        held = []
        for _ in range(2):
            for count in range(1, 12):
                results = runtime.infer_batch([("exact", frame(0))] * count)
                np.testing.assert_allclose(results[-1].embedding, results[0].embedding, rtol=0, atol=1e-5)
            held.append(machine.driver.live())
    assert held[0] == held[1], "chains that nobody asks for any more keep what they had"


def test_any_thread_may_call(machine: Machine, tiny_pair):
    vit, tasks = machine.pair(tiny_pair)
    with Runtime(vit, tasks) as runtime:
        here = runtime.infer("exact", frame(1))
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(runtime.infer_batch([("half", frame(1))] * 2)))
        thread.start()
        thread.join()
        assert len(results[0]) == 2
        np.testing.assert_allclose(results[0][0].embedding, here.embedding, rtol=0, atol=1e-2)


def test_a_chain_that_cannot_be_captured_answers_and_says_so(machine: Machine, tiny_pair):
    vit, tasks = machine.pair(tiny_pair)
    with Runtime(vit) as runtime:
        machine.driver.fail("cuGraphInstantiateWithFlags", 801)
        runtime.add("exact", tasks["exact"])
        result = runtime.infer("exact", frame(1))
        assert "cuGraphInstantiateWithFlags" in runtime.notes[0]
        other = runtime.infer_batch([("exact", frame(1)), ("exact", frame(2))])[0]
        np.testing.assert_allclose(result.embedding, other.embedding, rtol=0, atol=1e-5)


def odd_graph(
    name: str, source: tuple[int, ...], target: tuple[int, ...], factor: float, mixtures: tuple[int, ...] = ()
) -> bytes:
    """Resizes nothing: the input as float, summed to one number, spread over the outputs."""
    kind = TensorProto.UINT8 if name == "image" else TensorProto.FLOAT
    output = "canvas" if name == "image" else "embedding"
    nodes = [
        helper.make_node("Cast", [name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("ReduceMean", ["flat", "axis"], ["mean"]),
        helper.make_node("Mul", ["mean", "row"], ["rows"]),
        helper.make_node("Reshape", ["rows", "shape"], [output]),
    ]
    if mixtures:
        nodes.append(helper.make_node("Expand", ["mean", "wide"], ["spread"]))
        nodes.append(helper.make_node("Reshape", ["spread", "mixed"], ["coefficients"]))
    row = factor * np.arange(1, 1 + int(np.prod(target)), dtype=np.float32)[None]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("row", TensorProto.FLOAT, row.shape, row.ravel()),
        helper.make_tensor("shape", TensorProto.INT64, [1 + len(target)], [-1, *target]),
        helper.make_tensor("wide", TensorProto.INT64, [2], [1, int(np.prod(mixtures))]),
        helper.make_tensor("mixed", TensorProto.INT64, [1 + len(mixtures)], [-1, *mixtures]),
    ]
    tensors = [(name, kind, source), (output, TensorProto.FLOAT, target)]
    tensors += [("coefficients", TensorProto.FLOAT, mixtures)] if mixtures else []
    values = [helper.make_tensor_value_info(each, each_kind, ["batch", *shape]) for each, each_kind, shape in tensors]
    graph = helper.make_graph(nodes, "odd", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def loaded(module: ModuleType, data: bytes) -> Plan:
    return Plan("odd.plan", data, hashlib.sha256(data).hexdigest(), "tensorrt", module, {}, "", "compile it again")


def test_rows_that_no_address_may_begin_with(cuda_by_default: StandIn):
    # TensorRT takes multiples of 256 bytes; frames of 5 x 5 pixels are none.
    module = tensorrt_stand_in(cuda_by_default.path)
    image, canvas, width = (5, 5, 3), (3, 7, 5), 3
    # One library of 7 tokens, one of 5, and a PGN that does not tell.
    sizes = ((3, 7), (3, 5), ())
    graphs = [odd_graph("image", image, canvas, 1 / (1 + index), size) for index, size in enumerate(sizes)]
    vit_graph = odd_graph("canvas", canvas, (width,), 1.0)
    images = np.random.default_rng(0).integers(0, 256, (7, *image), dtype=np.uint8)
    which = [0, 0, 1, 1, 1, 1, 2]
    answers = []
    with Cuda() as cuda:
        on_gpu = [TensorRtEngine(loaded(module, plan_bytes(g, batch=(1, 1, 4))), 0, cuda) for g in (vit_graph, *graphs)]
        on_host = [OnnxRuntimeEngine(g, "host", 1) for g in (vit_graph, *graphs)]
        for kind, (vit, *pgns) in ((CudaChain, on_gpu), (HostChain, on_host)):
            chain = link(vit, [pgns[index] for index in which], width)
            assert isinstance(chain, kind)
            assert chain.note == ""
            for shift in (0, 3):  # a graph is launched again with other images
                chain.images[:] = images + shift
                chain.run()
            assert [None if each is None else each.shape for each in chain.coefficients] == [
                sizes[index] or None for index in which
            ]
            mixtures = [each.copy() for each in chain.coefficients[:-1]]
            assert chain.flaws() == [""] * len(which)
            answers.append(
                (chain.embeddings.copy(), chain.canvases(), np.concatenate([each.ravel() for each in mixtures]))
            )
            means = chain.images[:-1].reshape(6, -1).mean(axis=1, dtype=np.float64)
            np.testing.assert_allclose([each[0, 0] for each in mixtures], means, rtol=1e-5)
            chain.close()
        for engine in on_gpu:
            engine.close()
    for got, expected in zip(*answers, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert cuda_by_default.live() == {}


def test_nan_on_its_way_to_an_answer(cuda_by_default: StandIn):
    module = tensorrt_stand_in(cuda_by_default.path)
    image, canvas, width = (4, 4, 3), (3, 8, 4), 3
    graphs = [odd_graph("canvas", canvas, (width,), 1.0)]
    graphs += [odd_graph("image", image, canvas, factor, (3, 7)) for factor in (1.0, np.nan)]
    flaws = []
    with Cuda() as cuda:
        on_gpu = [TensorRtEngine(loaded(module, plan_bytes(graph, batch=(1, 1, 4))), 0, cuda) for graph in graphs]
        on_host = [OnnxRuntimeEngine(graph, "host", 1) for graph in graphs]
        for vit, good, bad in (on_gpu, on_host):
            chain = link(vit, [good, bad], width)
            chain.run()
            flaws.append(chain.flaws())
            chain.close()
        for engine in on_gpu:
            engine.close()
    assert flaws == [["", "embedding"], ["", "canvas"]], "a canvas that never leaves the GPU is not looked at there"


def test_an_engine_by_itself(machine: Machine, tiny_pair):
    vit, _ = machine.pair(tiny_pair)
    plain, engine = OnnxRuntimeEngine(tiny_pair.vit, "vit", 1), open_engine(vit)
    assert (engine.inputs["canvas"].most, plain.inputs["canvas"].most) == (MOST, None)
    assert machine.backend in engine.device
    rng = np.random.default_rng(0)
    for batch in (1, 3, 1):
        feeds = {"canvas": rng.standard_normal((batch, 3, 80, 64), np.float32)}
        np.testing.assert_allclose(engine.infer(feeds)["embedding"], plain.infer(feeds)["embedding"], rtol=0, atol=1e-5)
    out = np.zeros((2, engine.outputs["embedding"].shape[1]), np.float32)
    canvas = np.zeros((2, 3, 80, 64), np.float32)
    run = engine.bind({"canvas": canvas}, {"embedding": out})
    canvas[:] = rng.standard_normal(canvas.shape)
    run()
    np.testing.assert_allclose(out, plain.infer({"canvas": canvas})["embedding"], rtol=0, atol=1e-5)
    with pytest.raises(EngineError, match="batch up to 4"):
        engine.infer({"canvas": np.zeros((MOST + 1, 3, 80, 64), np.float32)})
    engine.close()
    engine.close()
    for call in (run, lambda: engine.infer({"canvas": canvas}), lambda: engine.bind({"canvas": canvas}, {})):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_bench_measures_a_plan_beside_its_graph_and_the_chain(machine: Machine, tiny_pair):
    vit, tasks = machine.pair(tiny_pair)
    options = BenchOptions(samples=2, warmup=1, frame_hw=(30, 40))
    report = run_bench(vit, rivals=[tiny_pair.vit], task=tasks["exact"], options=options)
    stages = {f"chain.{stage}" for stage in ("decode", "preprocess", "upload", "pgn", "vit", "download", "head")}
    assert report.samples_ms.keys() == {"vit", "vit.2", "chain.total", *stages}
    assert machine.backend in str(report.parts["vit"].device)
    assert "chain" not in report.environment
    assert report.costs is not None


# What RTX compiles is kept.


@pytest.fixture
def rtx(machine: Machine) -> Machine:
    if machine.backend != "tensorrt-rtx":
        pytest.skip("TensorRT has no runtime cache")
    return machine


def kernels(machine: Machine) -> dict[str, bytes]:
    folder = machine.folder / "cache" / "kernels"
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_kernels_are_kept_for_the_next_process(rtx: Machine, tiny_pair, monkeypatch: pytest.MonkeyPatch):
    vit = rtx.compile(tiny_pair.vit, "vit.plan")
    feeds = {"canvas": np.zeros((1, 3, 80, 64), np.float32)}

    def once() -> None:
        engine = open_engine(vit)
        engine.infer(feeds)
        engine.close()

    once()
    first = kernels(rtx)
    assert len(first) == 1
    (path,) = (rtx.folder / "cache" / "kernels").iterdir()
    stamp = path.stat().st_mtime_ns
    once()
    assert path.stat().st_mtime_ns == stamp, "nothing was compiled anew, so nothing is written anew"
    path.write_bytes(b"garbage")
    once()
    assert kernels(rtx) == first


def test_a_folder_that_cannot_be_written_costs_time_alone(rtx: Machine, tiny_pair):
    (rtx.folder / "cache").write_text("a file where the folder should be")
    engine = open_engine(rtx.compile(tiny_pair.vit, "vit.plan"))
    engine.infer({"canvas": np.zeros((1, 3, 80, 64), np.float32)})
    engine.close()


# Refusals, each in one line, with everything given back.


def refusal(call: Callable[[], object], error: type[PgnEdgeError] = EngineError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def no_driver(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgn_edge.runtime.cuda.driver.LIBRARY", "libno-such-driver.so")


def other_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "NVIDIA_SMI", ("echo", "7.5"))


def other_version(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[BACKENDS[machine.backend]], "__version__", "9.9.9")


def not_installed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, BACKENDS[machine.backend], None)


def flipped_byte(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    path = machine.folder / "vit.plan"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_sidecar(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar_path(machine.folder / "vit.plan").write_bytes(sidecar_path(machine.folder / "exact.plan").read_bytes())


def no_memory(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.driver.reset(memory_bytes=10_000)


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        pytest.param(no_driver, EngineError, "an NVIDIA driver", id="no driver"),
        pytest.param(other_gpu, EngineError, "a GPU of sm_86, got sm_75", id="another GPU"),
        pytest.param(other_version, EngineError, "9.9.9 on this machine", id="another release"),
        pytest.param(not_installed, MissingExtraError, "pip install", id="not installed"),
        pytest.param(flipped_byte, EngineError, "sha256", id="a flipped byte"),
        pytest.param(other_sidecar, EngineError, "sha256", id="the sidecar of another plan"),
        pytest.param(no_memory, EngineError, "take a smaller batch", id="no memory"),
    ],
)
def test_machines_and_files_that_do_not_fit(
    machine: Machine, tiny_pair, monkeypatch: pytest.MonkeyPatch, spoil: Any, error: type[PgnEdgeError], says: str
):
    vit, tasks = machine.pair(tiny_pair)
    spoil(machine, monkeypatch)
    parsed: list[bytes] = []
    if spoil not in (no_driver, no_memory, not_installed):
        module = sys.modules[BACKENDS[machine.backend]]
        monkeypatch.setattr(module, "Runtime", parsed.append)
    assert says in refusal(lambda: Runtime(vit, tasks), error)
    assert not parsed, "a byte was parsed before the plan was found good"


def test_a_plan_that_the_library_refuses(machine: Machine, tiny_pair):
    vit, tasks = machine.pair(tiny_pair)
    kept = vit.with_name("kept.plan")
    kept.write_bytes(vit.read_bytes())
    sidecar_path(kept).write_bytes(sidecar_path(vit).read_bytes())
    vit.write_bytes(b"no plan at all")
    write_sidecar(
        vit, dataclasses.replace(read_sidecar(kept), plan_sha256=hashlib.sha256(vit.read_bytes()).hexdigest())
    )
    said = refusal(lambda: Runtime(vit, tasks))
    assert "not a plan of this release" in said
    assert "compile it again: pgn-edge compile" in said


@pytest.mark.parametrize("fails", ["context", "run"])
def test_a_library_that_fails(machine: Machine, tiny_pair, fails: str):
    vit, tasks = machine.pair(tiny_pair, fails=fails)
    says = {"context": "an execution context, got [stand-in] create_execution_context", "run": "it fails on cue"}
    assert says[fails] in refusal(lambda: Runtime(vit, tasks))


def test_a_failure_on_the_gpu_in_use(machine: Machine, tiny_pair):
    vit, tasks = machine.pair(tiny_pair)
    runtime = Runtime(vit, tasks)
    runtime.infer("exact", frame(1))
    machine.driver.fail("work", 719)
    assert "CUDA_ERROR_LAUNCH_FAILED" in refusal(lambda: runtime.infer("exact", frame(1)))
    with pytest.raises(EngineError, match="LAUNCH_FAILED"):  # the context is lost, and every call says so
        runtime.infer("exact", frame(1))
    runtime.close()
    machine.driver.reset()


@pytest.mark.parametrize("task", ["missing", "stale", "of another backend"])
def test_a_task_whose_plan_does_not_belong(machine: Machine, tiny_pair, task: str, monkeypatch: pytest.MonkeyPatch):
    vit, tasks = machine.pair(tiny_pair)
    plan = machine.folder / "exact.plan"
    if task == "missing":
        plan.unlink()
        says = "exact.plan beside it"
    elif task == "stale":
        plan.write_bytes((machine.folder / "half.plan").read_bytes())
        sidecar_path(plan).write_bytes(sidecar_path(machine.folder / "half.plan").read_bytes())
        says = "sha256 of its graph"
    else:
        other = next(name for name in BACKENDS if name != machine.backend)
        module = tensorrt_stand_in(machine.driver.path, rtx=other == "tensorrt-rtx")
        monkeypatch.setitem(sys.modules, BACKENDS[other], module)
        machine._replace(backend=other, version=module.__version__).compile(tasks["exact"], "exact.plan")
        says = "exact.plan: backend"
    said = refusal(lambda: Runtime(vit, {"exact": tasks["exact"]}))
    assert says in said
    assert f"compile it: pgn-edge compile {tasks['exact']} --backend {machine.backend}" in said


def test_a_vit_of_another_task(machine: Machine, tiny_pair):
    _, tasks = machine.pair(tiny_pair)
    stock = machine.compile(tiny_pair.stock, "stock.plan")
    assert "canvas" in refusal(lambda: Runtime(stock, tasks), PairingError)


def test_a_provider_beside_a_plan(machine: Machine, tiny_pair):
    vit, tasks = machine.pair(tiny_pair)
    assert "a plan and --provider cuda" in refusal(lambda: Runtime(vit, tasks, provider="cuda"))


def test_engines_on_two_devices_are_not_linked(machine: Machine, tiny_pair):
    vit, _ = machine.pair(tiny_pair)
    engine, pgn = open_engine(vit), OnnxRuntimeEngine(read_bundle(tiny_pair.task).pgn_onnx, "pgn.onnx", 1)
    assert "a PGN engine on" in refusal(lambda: link(engine, [pgn], 128))
    engine.close()


# Plans of others.


@pytest.fixture
def foreign(machine: Machine, tiny_pair) -> Path:
    if machine.backend != "tensorrt":
        pytest.skip("a plan without a sidecar is taken for one of TensorRT")
    plan = machine.compile(tiny_pair.vit, "foreign.plan")
    sidecar_path(plan).unlink()
    return plan


def test_a_plan_without_a_sidecar_is_loaded_only_by_its_digest(foreign: Path, machine: Machine):
    digest = hashlib.sha256(foreign.read_bytes()).hexdigest()
    said = refusal(lambda: open_engine(foreign))
    assert f"--trust {digest}" in said
    refusal(lambda: open_engine(foreign, EngineOptions(trusted=frozenset({"0" * 64}))))
    options = BenchOptions(samples=1, warmup=0, trusted=(digest,))
    assert run_bench(foreign, options=options).samples_ms.keys() == {"vit"}
    engine = open_engine(foreign, options.engine)
    assert "no pgn_edge facts" in refusal(lambda: Runtime(engine))
