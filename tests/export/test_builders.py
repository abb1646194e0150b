"""What the builder asks of a TensorRT module, tried on TensorRT-RTX, whole and without what other releases lack."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from pgn_edge.errors import EngineError
from pgn_edge.export import builders
from pgn_edge.export.builders import BuildRequest, build

trt = pytest.importorskip("tensorrt_rtx", reason="plans are built by tensorrt_rtx: pip install 'pgn-edge[rtx]'")


def graph(shape: tuple[int | str, ...] = ("n", 3), inputs: int = 1) -> bytes:
    names = [f"x{index}" for index in range(inputs)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in (*names, "y")]
    node = helper.make_node("Sum", names, ["y"]) if inputs > 1 else helper.make_node("Relu", names, ["y"])
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(helper.make_graph([node], "g", values[:-1], values[-1:]), opset_imports=opset)
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model.SerializeToString()


def request(**options: Any) -> BuildRequest:
    return BuildRequest(**{"backend": "tensorrt-rtx", "batch": (1, 1, 4), "targets": ("sm_86",), **options})


class Release:
    """The module as another release has it: without some names."""

    def __init__(self, module: Any, *missing: str) -> None:
        self.module, self.missing = module, missing

    def __getattr__(self, name: str) -> Any:
        if name in self.missing:
            raise AttributeError(name)
        below = [path.partition(".")[2] for path in self.missing if path.startswith(f"{name}.")]
        found = getattr(self.module, name)
        return Release(found, *below) if below else found


def test_a_request_survives_the_pipe():
    asked = request(workspace_mib=5, timing_cache="t", version_compatible=True)
    assert BuildRequest.from_json(json.loads(json.dumps(asked.to_json()))) == asked


class Config:
    """Remembers what is set; TensorRT-RTX has no use for some of it, and says so by forgetting it."""

    def __init__(self) -> None:
        self.pools: dict[Any, int] = {}
        self.flags: set[Any] = set()
        self.capabilities: dict[int, Any] = {}
        self.set_memory_pool_limit = self.pools.__setitem__
        self.set_flag = self.flags.add
        self.hardware_compatibility_level: Any = None
        self.num_compute_capabilities = 0

    def set_compute_capability(self, capability: Any, index: int) -> None:
        self.capabilities[index] = capability


def test_every_option_reaches_the_library():
    config = Config()
    options = {"workspace_mib": 48, "version_compatible": True, "same_compute_capability": True}
    builders._configure(trt, config, request(targets=("sm_89", "sm_75"), **options))
    assert config.pools == {trt.MemoryPoolType.WORKSPACE: 48 << 20}
    assert config.flags == {trt.BuilderFlag.VERSION_COMPATIBLE}
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    assert config.num_compute_capabilities == 2
    assert config.capabilities == {0: trt.ComputeCapability.SM89, 1: trt.ComputeCapability.SM75}


def test_an_option_that_is_not_given_is_left_alone():
    config = Config()
    builders._configure(trt, config, request(targets=()))
    assert vars(config)["hardware_compatibility_level"] is None
    assert (config.pools, config.flags, config.num_compute_capabilities) == ({}, set(), 0)


def test_a_workspace_is_taken_by_the_real_thing():
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    builders._configure(trt, config, request(workspace_mib=48))
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 48 << 20
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM86


def test_progress_goes_from_the_first_step_to_the_last_and_names_what_is_inside():
    told: list[tuple[str, int, int, str]] = []
    build(trt, graph(), request(), lambda step, done, total, note="": told.append((step, done, total, note)))
    engine = [at for at in told if at[0] == "Building engine"]
    done = [at[1] for at in engine]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, engine[-1][2])
    assert len({at[3] for at in engine}) > 2


@pytest.mark.parametrize(
    "missing",
    ["NetworkDefinitionCreationFlag", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"],
    ids=["no flags", "strongly typed always"],
)
def test_a_release_without_the_flag_for_strong_types(missing: str):
    assert len(bytes(build(Release(trt, missing), graph(), request()))) > 0


@pytest.mark.parametrize(
    ("missing", "options", "says"),
    [
        pytest.param(
            "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
            {"same_compute_capability": True},
            "--same-compute-capability",
            id="as in 10.3",
        ),
        pytest.param("BuilderFlag.VERSION_COMPATIBLE", {"version_compatible": True}, "--version-compatible", id="vc"),
        pytest.param("MemoryPoolType", {"workspace_mib": 64}, "--workspace", id="no pools"),
        pytest.param("ComputeCapability", {}, "--target", id="no targets, as in TensorRT"),
    ],
)
def test_a_release_that_does_not_know_an_option(missing: str, options: dict[str, Any], says: str):
    version = re.escape(trt.__version__)
    with pytest.raises(EngineError, match=rf"^{says}: expected a release that knows {missing}.*, got .*{version}"):
        build(Release(trt, missing), graph(), request(**options))


@pytest.mark.parametrize(("shape", "inputs"), [(("n", "m"), 1), (("n", 3), 2)], ids=["another free size", "two inputs"])
def test_only_the_batch_may_be_free(shape: tuple[str | int, ...], inputs: int):
    with pytest.raises(EngineError, match="free in its batch alone, got x0"):
        build(trt, graph(shape, inputs), request())


def test_a_failed_build_says_why(capfd: pytest.CaptureFixture[str]):
    # The lean runtime that such a plan carries does not come with TensorRT-RTX.
    with pytest.raises(EngineError, match=r"expected a plan, got .*lean"):
        build(trt, graph(), request(version_compatible=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert "lean" in err


def test_a_builder_that_cannot_be_made():
    class Broken:
        ILogger = trt.ILogger

        @staticmethod
        def Builder(logger: Any) -> None:  # noqa: N802
            logger.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("factory function returned nullptr")

    with pytest.raises(EngineError, match="CUDA initialization failure with error: 35"):
        build(Broken, graph(), request())


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
def test_a_timing_cache_is_made_and_read_again(tmp_path: Path):
    path = tmp_path / "timings.bin"
    build(trt, graph(), request(timing_cache=str(path)))
    assert path.stat().st_size > 0
    build(trt, graph(), request(timing_cache=str(path)))
    assert [left.name for left in tmp_path.iterdir()] == ["timings.bin"]


def test_a_timing_cache_of_another_device_is_refused(tmp_path: Path):
    class Device:
        def create_timing_cache(self, data: bytes) -> bytes:
            return data

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            return cache == b""

    path = tmp_path / "timings.bin"
    assert builders._open_timing_cache(Device(), request(timing_cache=str(path))) == b""
    path.write_bytes(b"of another device")
    with pytest.raises(EngineError, match="a timing cache of this GPU and this version"):
        builders._open_timing_cache(Device(), request(timing_cache=str(path)))
