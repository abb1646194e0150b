"""Tasks that come, change and go while frames flow: every answer is of one whole task; a bad bundle changes nothing."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgn_edge import gpu
from pgn_edge.bundle import read_bundle, write_bundle
from pgn_edge.errors import BundleError, EngineError, PairingError, PgnEdgeError
from pgn_edge.runtime import Runtime
from tests.hostile import restated
from tests.runtime.conftest import StandIn
from tests.runtime.tensorrt_stand_in import stand_in as tensorrt_stand_in
from tests.runtime.test_tensorrt import Machine

SWAPS = 20
FRAME = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def renamed(source: Path, path: Path, labels: str) -> Path:
    """The same task with other labels."""
    bundle = read_bundle(source)
    write_bundle(path, dataclasses.replace(bundle, head=dataclasses.replace(bundle.head, labels=tuple(labels))))
    return path


@pytest.fixture
def bundles(tiny_pair, tmp_path: Path) -> dict[str, Path]:
    """Two good ones, and three that are none."""
    bundle = read_bundle(tiny_pair.task)
    made = {
        "digits": tiny_pair.task,
        "letters": renamed(tiny_pair.task, tmp_path / "letters.pgn", "abcdefghij"),
        "damaged": tmp_path / "damaged.pgn",
        "of another ViT": tmp_path / "other.pgn",
        "of another answer": tmp_path / "wrong.pgn",
    }
    made["damaged"].write_bytes(tiny_pair.task.read_bytes()[:-200])
    write_bundle(made["of another ViT"], restated(bundle, fingerprint="ab" * 32))
    golden = dataclasses.replace(bundle.golden, embedding=bundle.golden.embedding[:, ::-1].copy())
    write_bundle(made["of another answer"], dataclasses.replace(bundle, golden=golden))
    return made


BAD = {"damaged": BundleError, "of another ViT": PairingError, "of another answer": PairingError}


@pytest.fixture(params=["cpu", "gpu"])
def runtime(
    request: pytest.FixtureRequest, bundles: dict[str, Path], tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runtime]:
    """With the task `t`, on the CPU and on the stand-ins for TensorRT and its driver."""
    if request.param == "cpu":
        with Runtime(tiny_pair.vit, {"t": bundles["digits"]}, threads=1) as opened:
            yield opened
        return
    driver: StandIn = request.getfixturevalue("cuda_by_default")
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_stand_in(driver.path))
    monkeypatch.setattr(gpu, "NVIDIA_SMI", ("echo", "8.6"))
    machine = Machine(driver, tmp_path, "tensorrt", "10.3.0")
    bundles["digits"] = tmp_path / "digits.pgn"
    bundles["digits"].write_bytes(tiny_pair.task.read_bytes())
    for name in ("digits", "letters", "of another answer"):
        machine.compile(bundles[name], bundles[name].with_suffix(".plan").name)
    with Runtime(machine.compile(tiny_pair.vit, "vit.plan"), {"t": bundles["digits"]}) as opened:
        yield opened
    assert driver.live() == {}, "something on the GPU was not given back"


def labels_of(runtime: Runtime, name: str = "t") -> tuple[str, ...]:
    return runtime.infer(name, FRAME).labels


def test_a_swap_takes_effect_with_the_next_frame(runtime: Runtime, bundles: dict[str, Path]):
    before = runtime.infer("t", FRAME)
    runtime.swap("t", bundles["letters"])
    after = runtime.infer("t", FRAME)
    assert (before.labels, after.labels) == (tuple("0123456789"), tuple("abcdefghij"))
    np.testing.assert_allclose(after.embedding, before.embedding, rtol=0, atol=1e-5)
    assert runtime.tasks["t"].head.labels == after.labels


@pytest.mark.parametrize("bad", BAD)
def test_a_swap_that_fails_changes_nothing(runtime: Runtime, bundles: dict[str, Path], bad: str):
    before, loaded = runtime.infer("t", FRAME), runtime.tasks["t"]
    with pytest.raises(BAD[bad]):
        runtime.swap("t", bundles[bad])
    after = runtime.infer("t", FRAME)
    assert runtime.tasks["t"] is loaded
    np.testing.assert_array_equal(after.scores, before.scores)


def test_batches_see_the_new_task_too(runtime: Runtime, bundles: dict[str, Path]):
    runtime.add("u", bundles["digits"])
    jobs = [("t", FRAME), ("u", FRAME), ("t", FRAME)]
    runtime.infer_batch(jobs)
    runtime.swap("t", bundles["letters"])
    first, second, third = runtime.infer_batch(jobs)
    assert first.labels == third.labels == tuple("abcdefghij")
    assert second.labels == tuple("0123456789")


def test_a_task_that_was_removed(runtime: Runtime, bundles: dict[str, Path]):
    runtime.add("u", bundles["letters"])
    runtime.infer_batch([("t", FRAME), ("u", FRAME)])
    runtime.remove("u")
    assert list(runtime.tasks) == ["t"]
    for call in (
        lambda: runtime.infer("u", FRAME),
        lambda: runtime.remove("u"),
        lambda: runtime.swap("u", bundles["letters"]),
    ):
        with pytest.raises(PairingError, match="a loaded task \\(t\\)"):
            call()
    runtime.add("u", bundles["digits"])
    assert labels_of(runtime, "u") == labels_of(runtime)


def test_frames_flow_while_tasks_change(runtime: Runtime, bundles: dict[str, Path]):
    digits, letters = tuple("0123456789"), tuple("abcdefghij")
    expected = {digits: runtime.infer("t", FRAME).scores, letters: runtime.infer("t", FRAME).scores}
    done, failures = threading.Event(), []

    def change() -> None:
        bad = list(BAD)
        try:
            for index in range(SWAPS):
                runtime.swap("t", bundles["letters" if index % 2 == 0 else "digits"])
                with pytest.raises(PgnEdgeError):
                    runtime.swap("t", bundles[bad[index % len(bad)]])
                runtime.add("u", bundles["letters"])
                runtime.remove("u")
        except BaseException as exc:  # shown by the thread that asserts
            failures.append(exc)
        finally:
            done.set()

    thread = threading.Thread(target=change)
    thread.start()
    seen: set[Any] = set()
    frames = 0
    while not done.is_set():
        results = runtime.infer_batch([("t", FRAME)] * (1 + frames % 2))
        frames += len(results)
        for result in results:
            np.testing.assert_allclose(result.scores, expected[result.labels], rtol=0, atol=1e-5)
            seen.add(result.labels)
    thread.join()
    assert not failures, failures
    assert seen == {digits, letters}, "both tasks answered while they changed"
    assert frames > SWAPS


def test_a_name_that_another_thread_takes_meanwhile(
    runtime: Runtime, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    load = type(runtime._loader).load

    def slowly(loader: Any, name: str, path: Path) -> Any:
        task = load(loader, name, path)
        monkeypatch.setattr(type(runtime._loader), "load", load)
        runtime.add(name, path)  # as a quicker thread would
        return task

    monkeypatch.setattr(type(runtime._loader), "load", slowly)
    with pytest.raises(PairingError, match="taken"):
        runtime.add("u", bundles["digits"])
    assert labels_of(runtime, "u")


def test_a_task_that_is_loaded_while_the_runtime_is_closed(
    runtime: Runtime, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    load = type(runtime._loader).load

    def slowly(loader: Any, name: str, path: Path) -> Any:
        task = load(loader, name, path)
        task.close()  # as the GPU would be gone with the runtime
        runtime.close()
        return task

    monkeypatch.setattr(type(runtime._loader), "load", slowly)
    with pytest.raises(EngineError, match="a closed one"):
        runtime.add("u", bundles["digits"])
    assert runtime.tasks == {}
