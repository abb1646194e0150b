"""A live page over a real tiny runtime, and a client that asks it."""

from __future__ import annotations

import http.client
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest

from pgn_edge.runtime import Runtime
from pgn_edge.runtime.sources import Frame
from pgn_edge.runtime.web import LivePage, PageOptions


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(page: LivePage, path: str, body: str | bytes | None = None, **headers: str) -> Answer:
    """One request: a POST where there is a body. `_` in the name of a header stands for `-`."""
    address = urlsplit(page.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if body is None else "POST", path, body, named)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def eventually(true: Callable[[], object], what: str, within_s: float = 20.0) -> None:
    end = monotonic() + within_s
    while not true():
        assert monotonic() < end, what
        sleep(0.02)


def frame_at(index: int, camera: str = "front", **more: float) -> Frame:
    """A frame of its own colour, with a moving bar."""
    image_bgr = np.full((90, 160, 3), 60 + 40 * (index % 4), np.uint8)
    image_bgr[:, (7 * index) % 150 :][:, :10] = (40, 200, 240)
    return Frame(index, f"{camera}#{index}", index / 10, image_bgr, **more)


@pytest.fixture
def runtime(tiny_pair) -> Iterator[Runtime]:
    with Runtime(tiny_pair.vit, {"pets": tiny_pair.task}, threads=1, canvases=True) as opened:
        yield opened


@pytest.fixture
def bundles(tiny_pair, tmp_path: Path) -> Path:
    """A folder with a good bundle, a damaged one, and what is none; beside it lies a bundle that is not offered."""
    folder = tmp_path / "bundles"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(tiny_pair.task_fp16, folder / "good.pgn")
    shutil.copy(tiny_pair.task, folder / "deeper" / "hidden.pgn")
    shutil.copy(tiny_pair.task, tmp_path / "outside.pgn")
    (folder / "damaged.pgn").write_bytes(b"no bundle")
    (folder / ".good.pgn-edge-12345678.pgn").write_bytes(b"half a bundle")
    (folder / "notes.txt").write_text("no bundle either")
    return folder


@pytest.fixture
def page(runtime: Runtime, bundles: Path) -> Iterator[LivePage]:
    with LivePage(runtime, PageOptions(port=0, bundles=bundles)) as opened:
        yield opened


def feed(runtime: Runtime, page: LivePage, index: int = 0, camera: str = "front") -> None:
    """One frame through all tasks, as a loop would."""
    captured_s = monotonic()
    frame = frame_at(index, camera, captured_s=captured_s)
    page.write(frame, runtime.infer_batch([(task, frame.image_bgr) for task in runtime.tasks]))


@contextmanager
def cameras_running(runtime: Runtime, page: LivePage, *cameras: str) -> Iterator[set[str]]:
    """A loop in another thread; a camera that is taken out of the set has gone silent."""
    running, stop, failures = set(cameras), threading.Event(), []

    def loop() -> None:
        try:
            index = 0
            while not stop.wait(0.08):
                for camera in sorted(running):
                    feed(runtime, page, index, camera)
                index += 1
        except BaseException as exc:
            failures.append(exc)
            raise

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield running
    finally:
        stop.set()
        thread.join()
    assert not failures
