"""Bundles from strangers: each is refused with one line while the other tasks of the app go on answering."""

from __future__ import annotations

import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.bundle import read_bundle
from pgn_edge.errors import BundleError, PgnEdgeError
from pgn_edge.runtime import Runtime
from tests.core.test_manifest import WRONG
from tests.hostile import EXTERNAL, GREEDY, Change, changed, members, pack

REFUSED_WITHIN_S = 2.0
PATIENCE_S = 60.0


class Camera:
    """Frames of a task, answered one after the other by a thread of their own."""

    def __init__(self, runtime: Runtime, task: str) -> None:
        self.answers, self.errors = 0, list[BaseException]()
        self._runtime, self._task = runtime, task
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        picture = np.full((48, 64, 3), 90, np.uint8)
        try:
            while not self._over.is_set():
                assert self._runtime.infer(self._task, picture).label
                self.answers += 1
        except BaseException as exc:
            self.errors.append(exc)

    def go_on(self) -> None:
        """Wait for two more answers."""
        wanted, end = self.answers + 2, time.monotonic() + PATIENCE_S
        while self.answers < wanted:
            assert not self.errors, self.errors
            assert time.monotonic() < end, "no more answers"
            time.sleep(0.001)

    def close(self) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def app(tiny_pair) -> Iterator[tuple[Runtime, Camera]]:
    """A runtime whose task `good` answers a camera, and a task `other` to be swapped."""
    with Runtime(tiny_pair.vit, {"good": tiny_pair.task, "other": tiny_pair.task}, threads=1) as runtime:
        camera = Camera(runtime, "good")
        yield runtime, camera
        camera.close()


def refused(app: tuple[Runtime, Camera], path: Path, error: type[PgnEdgeError] = BundleError) -> str:
    """Swap and add it; both must fail at once, and frames must go on."""
    runtime, camera = app
    messages = []
    for load in (lambda: runtime.swap("other", path), lambda: runtime.add("new", path)):
        begin = time.monotonic()
        with pytest.raises(error) as caught:
            load()
        assert time.monotonic() - begin < REFUSED_WITHIN_S
        messages.append(str(caught.value))
        camera.go_on()
    assert runtime.infer("other", np.zeros((30, 40, 3), np.uint8)).label
    assert list(runtime.tasks) == ["good", "other"]
    assert messages[0] == messages[1]
    assert len(messages[0].splitlines()) == 1
    assert str(path) in messages[0]
    return messages[0]


def hostile(good: Path, path: Path, change: Change) -> Path:
    parts = members(good)
    path.write_bytes(pack({**parts, "pgn.onnx": changed(parts["pgn.onnx"], change)}))
    return path


@pytest.mark.parametrize("where", EXTERNAL)
def test_a_bundle_that_reads_files_of_the_device_is_refused_while_other_tasks_answer(
    app, tiny_pair, tmp_path: Path, where: str
):
    message = refused(app, hostile(tiny_pair.task, tmp_path / "thief.pgn", EXTERNAL[where]))
    assert "which export never writes" in message


@pytest.mark.parametrize("what", GREEDY)
def test_a_bundle_that_takes_all_time_or_memory_is_refused_while_other_tasks_answer(
    app, tiny_pair, tmp_path: Path, what: str
):
    refused(app, hostile(tiny_pair.task, tmp_path / "greedy.pgn", GREEDY[what]))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [("preprocess", "fit", "squash"), ("preprocess", "size_hw", [48, 48]), ("preprocess", "mean", [0.1, 0.1, 0.1])],
)
def test_a_manifest_that_prepares_frames_in_another_way_than_its_graph_is_refused(
    app, tiny_pair, tmp_path: Path, part: str, field: str, value: object
):
    path = tmp_path / "other_frames.pgn"
    path.write_bytes(pack(members(tiny_pair.task), lambda manifest: manifest["engine"][part].update({field: value})))
    assert "as the manifest says" in refused(app, path)


@pytest.mark.parametrize("what", WRONG)
def test_a_bundle_whose_manifest_is_wrong_is_refused_while_other_tasks_answer(
    app, tiny_pair, tmp_path: Path, what: str
):
    path = tmp_path / "wrong.pgn"
    path.write_bytes(pack(members(tiny_pair.task), WRONG[what]))
    refused(app, path)


def link(info: zipfile.ZipInfo) -> None:
    info.external_attr = 0o120777 << 16


def other_checksum(info: zipfile.ZipInfo) -> None:
    info.CRC ^= 1


@pytest.mark.parametrize("change", [link, other_checksum])
def test_a_bundle_with_a_link_or_two_descriptions_of_a_member_is_refused_while_other_tasks_answer(
    app, tiny_pair, tmp_path: Path, change: Callable[[zipfile.ZipInfo], None]
):
    path = tmp_path / "zip.pgn"
    path.write_bytes(tiny_pair.task.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        change(archive.getinfo("pgn.onnx"))
        archive._didModify = True  # writes the directory again on close
    refused(app, path)


def test_compile_and_inspect_refuse_such_a_bundle_before_a_parser_sees_it(
    tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import onnx

    from pgn_edge.export.compile import compile_plan
    from pgn_edge.export.inspection import inspect_file

    path = hostile(tiny_pair.task, tmp_path / "thief.pgn", EXTERNAL["an initializer"])

    def parse(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(onnx, "load_model_from_string", parse)
    for use in (lambda: compile_plan(path, tmp_path / "x.plan"), lambda: inspect_file(path), lambda: read_bundle(path)):
        with pytest.raises(BundleError, match="external data, which export never writes"):
            use()
    assert [each.name for each in tmp_path.iterdir()] == ["thief.pgn"]
