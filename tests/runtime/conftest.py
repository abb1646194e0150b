"""A CUDA driver without a GPU, and machines made of real files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from ctypes import CDLL, c_size_t
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pgn_edge.runtime.cuda.driver
from pgn_edge.runtime.cuda import Cuda

if TYPE_CHECKING:
    from tests.runtime.embedding_server import EmbeddingServer

SOURCE = Path(__file__).with_name("cuda_stand_in.c")
Tree = Callable[[Path, Mapping[str, str | bytes]], Path]
HELD = ("memory", "pinned", "stream", "event", "graph", "exec", "context", "queued")


def apt_install(*packages: str) -> None:
    """Try to install Debian packages, as root; whoever needs them looks for them afterwards."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["apt-get", "-qq", *command], check=False, capture_output=True, timeout=180)


class StandIn:
    """The stand-in driver's own controls, see `cuda_stand_in.c`."""

    def __init__(self, library: str) -> None:
        self.path = library
        self._library = CDLL(library)
        self.reset()

    def reset(self, devices: int = 2, memory_bytes: int = 1 << 30) -> None:
        """A fresh driver with so many GPUs, and so much memory on each."""
        self._library.standin_reset(devices, c_size_t(memory_bytes))

    def fail(self, function: str, status: int, nth: int = 1) -> None:
        """Let the nth call from now fail; of the queued work that runs, if the function is `work`."""
        assert self._library.standin_fail(function.encode(), nth, status), "too many cues"

    def live(self) -> dict[str, int]:
        """What is held, without what is not."""
        counts = {kind: self._library.standin_live(kind.encode()) for kind in HELD}
        return {kind: count for kind, count in counts.items() if count}


def numbers(count: int = 6, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.float32)


def through(cuda: Cuda, array: np.ndarray) -> np.ndarray:
    """Up to the GPU and down again."""
    device = cuda.empty(array.shape, array.dtype)
    back = np.zeros_like(array)
    cuda.upload(device, array)
    cuda.download(back, device)
    cuda.synchronize()
    return back


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the stand-in driver: `Cuda(library=cuda_library)` needs no GPU."""
    if shutil.which("cc") is None:
        pytest.skip("the stand-in for the CUDA driver is compiled with cc")
    library = tmp_path_factory.mktemp("cuda") / "libcuda_stand_in.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-pthread", "-o", library, SOURCE], check=True)
    return str(library)


@pytest.fixture
def stand_in(cuda_library: str) -> Iterator[StandIn]:
    """Its controls, fresh for this test."""
    controls = StandIn(cuda_library)
    yield controls
    controls.reset()


@pytest.fixture
def cuda(stand_in: StandIn) -> Iterator[Cuda]:
    """One GPU of the stand-in."""
    with Cuda(library=stand_in.path) as opened:
        yield opened


@pytest.fixture
def cuda_by_default(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """For this test, `Cuda()` without a library is the stand-in."""
    monkeypatch.setattr(pgn_edge.runtime.cuda.driver, "LIBRARY", stand_in.path)
    return stand_in


@pytest.fixture
def tree() -> Tree:
    """Write files below a folder, and give the folder back."""

    def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return root

    return write


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny CLIP: `tower.json` and `tower.pt`, known to open_clip as `tower`."""
    from tests.runtime.embedding_server import write_tower

    folder = tmp_path_factory.mktemp("tower")
    write_tower(folder)
    return folder


@pytest.fixture(scope="session")
def tower_server(tower: Path) -> Iterator[EmbeddingServer]:
    """It, behind HTTP."""
    from tests.runtime.embedding_server import EmbeddingServer

    with EmbeddingServer("--config", tower / "tower.json", "--weights", tower / "tower.pt") as running:
        yield running
