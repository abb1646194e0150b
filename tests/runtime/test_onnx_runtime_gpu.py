"""ONNX Runtime on a GPU, without one: its sessions compute on the CPU, in the order of the stand-in's stream."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import CDLL, CFUNCTYPE, c_char, c_size_t, c_void_p
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from pgn_edge.errors import EngineError
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.bench import run_bench
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.engines import EngineOptions, OrtGpuEngine, onnx_runtime_gpu, open_engine
from tests.runtime.conftest import StandIn

Work = CFUNCTYPE(None, c_void_p)
CPU = "CPUExecutionProvider"
NAMES = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class Binding:
    """Remembers addresses, as `IOBinding` does."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}

    def bind_input(self, name: str, *place: Any) -> None:
        self.inputs[name] = place

    def bind_output(self, name: str, *place: Any) -> None:
        self.outputs[name] = place


class Sessions:
    """Makes sessions in the place of `onnxruntime.InferenceSession`; `opened` are those on a GPU.

    A run with a binding is queued on the stream that the session was given, and reads and writes the addresses.
    """

    def __init__(self, driver: StandIn) -> None:
        self.real = onnxruntime.InferenceSession
        self.opened: list[Session] = []
        self.starts = True
        self.library = CDLL(driver.path)
        self.library.cuLaunchHostFunc.argtypes = [c_size_t, Work, c_void_p]

    def __call__(self, source: Any, settings: Any, providers: Any, enable_fallback: int) -> Any:
        assert not enable_fallback
        session = self.real(source, settings, providers=[CPU])
        if providers[0][0] == CPU or not self.starts:
            return session
        self.opened.append(Session(self, session, dict(providers)))
        return self.opened[-1]


class Session:
    def __init__(self, sessions: Sessions, real: Any, providers: dict[str, dict[str, str]]) -> None:
        self.sessions, self.real, self.providers = sessions, real, providers
        self.get_inputs, self.get_outputs, self.get_modelmeta = real.get_inputs, real.get_outputs, real.get_modelmeta
        self.work: list[Any] = []
        self.graphs: list[str] = []

    def get_providers(self) -> list[str]:
        return [*self.providers, CPU]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self.graphs.append(options.get_run_config_entry("gpu_graph_id"))
        stream = int(next(iter(self.providers.values()))["user_compute_stream"])

        def array(place: tuple[Any, ...]) -> np.ndarray:
            device, index, kind, shape, address = place
            assert (device, index) == ("cuda", 0)
            nbytes = prod(shape) * np.dtype(kind).itemsize
            return np.ndarray(shape, kind, (c_char * nbytes).from_address(address))

        def run(_: Any) -> None:
            feeds = {name: array(place) for name, place in binding.inputs.items()}
            names = list(binding.outputs)
            for name, value in zip(names, self.real.run(names, feeds), strict=True):
                np.copyto(array(binding.outputs[name]), value)

        self.work.append(Work(run))
        assert self.sessions.library.cuLaunchHostFunc(stream, self.work[-1], None) == 0


@pytest.fixture
def sessions(cuda_by_default: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sessions]:
    made = Sessions(cuda_by_default)
    monkeypatch.setattr(onnxruntime, "InferenceSession", made)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*NAMES.values(), CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("cannot load"), raising=False)
    onnx_runtime_gpu._preload.cache_clear()
    yield made
    assert cuda_by_default.live() == {}, "something on the GPU was not given back"


@pytest.fixture(scope="module")
def fixed_vit(tiny_backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fixed") / "vit1.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgn_edge.nn.backbones._load_builtin", lambda rest, weights: tiny_backbone)
        export_vit("builtin", path, VitOptions(batch=1))
    return path


def frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.mark.parametrize("provider", NAMES)
def test_it_answers_as_on_the_cpu(sessions: Sessions, tiny_pair, provider: Any, capsys: pytest.CaptureFixture[str]):
    tasks = {"exact": tiny_pair.task, "half": tiny_pair.task_fp16}
    jobs = [("exact", frame(0)), ("half", frame(1)), ("exact", frame(2))]
    with Runtime(tiny_pair.vit, tasks) as host:
        expected = [host.infer(*job) for job in jobs]
    with Runtime(tiny_pair.vit, tasks, provider=provider) as runtime:
        for results in ([runtime.infer(*job) for job in jobs], runtime.infer_batch(jobs)):
            for result, wanted in zip(results, expected, strict=True):
                scale = np.abs(wanted.embedding).max()
                np.testing.assert_allclose(result.embedding, wanted.embedding, rtol=0, atol=1e-5 * scale)
        assert "keeps its own" in runtime.notes[0], "ONNX Runtime cannot be recorded into the chain's graph"
        assert {"upload", "download"} <= results[0].timings_ms.keys()
    assert capsys.readouterr().out == "", "what a library prints belongs to no --json"
    assert [next(iter(session.providers)) for session in sessions.opened] == [NAMES[provider]] * 3
    assert len({session.providers[NAMES[provider]]["user_compute_stream"] for session in sessions.opened}) == 1


def test_graphs_are_recorded_where_every_size_is_fixed(sessions: Sessions, tiny_pair, fixed_vit: Path):
    with Runtime(fixed_vit, {"exact": tiny_pair.task}, provider="cuda") as runtime:
        runtime.infer("exact", frame(0))
        runtime.infer_batch([("exact", frame(0)), ("exact", frame(1))])
        vit, pgn = sessions.opened
        enabled = [session.providers[NAMES["cuda"]]["enable_cuda_graph"] for session in (vit, pgn)]
    assert enabled == ["1", "0"]
    assert set(pgn.graphs) == {"-1"}
    assert len(set(vit.graphs)) == 3, "one frame, and each of two: three bindings, so three graphs"


@pytest.mark.parametrize(("precision", "flag"), [("fp32", "0"), ("fp16", "1")])
def test_tensorrt_is_told_of_fp16(sessions: Sessions, tiny_pair, tiny_vit_fp16: Path, precision: str, flag: str):
    engine = open_engine(tiny_vit_fp16 if precision == "fp16" else tiny_pair.vit, EngineOptions(provider="tensorrt"))
    options = sessions.opened[0].providers[NAMES["tensorrt"]]
    engine.close()
    assert (options["trt_fp16_enable"], options["trt_layer_norm_fp32_fallback"]) == (flag, "1")
    assert list(sessions.opened[0].providers) == [NAMES["tensorrt"], NAMES["cuda"]], "CUDA takes what TensorRT leaves"


def test_an_engine_by_itself_and_closed(sessions: Sessions, tiny_pair):
    engine = open_engine(tiny_pair.vit, EngineOptions(provider="cuda"))
    assert isinstance(engine, OrtGpuEngine)
    assert "CUDAExecutionProvider on Stand-in" in engine.device
    canvas = np.random.default_rng(0).standard_normal((2, 3, 80, 64), np.float32)
    out = np.zeros((2, 128), np.float32)
    run = engine.bind({"canvas": canvas}, {"embedding": out})
    run()
    np.testing.assert_array_equal(out, engine.infer({"canvas": canvas})["embedding"])
    engine.close()
    engine.close()
    for call in (run, lambda: engine.infer({"canvas": canvas})):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_a_bench_on_the_gpu(sessions: Sessions, tiny_pair):
    options = BenchOptions(samples=1, warmup=1, frame_hw=(30, 40), provider="cuda")
    report = run_bench(tiny_pair.vit, stock=tiny_pair.stock, task=tiny_pair.task, options=options)
    assert {"vit", "stock", "chain.total", "chain.upload"} <= report.samples_ms.keys()
    assert "keeps its own" in report.environment["chain"][0]


def test_a_provider_that_does_not_start(sessions: Sessions, tiny_pair):
    sessions.starts = False
    with pytest.raises(EngineError, match="a session on CUDAExecutionProvider, got one on CPUExecutionProvider"):
        Runtime(tiny_pair.vit, {"exact": tiny_pair.task}, provider="cuda")
