"""A first run of a foreign graph in a process of its own: a crash of the library there costs no more than one line.

ONNX Runtime may end its process with a signal on a graph that it does not expect. No exception tells of that.
"""

from __future__ import annotations

import json
import mmap
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pgn_edge.contract import PREFIX
from pgn_edge.errors import EngineError, PgnEdgeError
from pgn_edge.runtime.engines import EngineOptions, TensorSpec, open_engine

OURS = f"{PREFIX}fingerprint".encode()
SIZE = (224, 224)  # of pictures whose own size is free
# The user's folder comes first on the path of a child, and may hold an `onnxruntime/`.
START = "import sys; sys.path = [p for p in sys.path if p]; from pgn_edge.runtime.engines.trial import main; main()"


def require_survival(engine: str, options: EngineOptions, size_hw: tuple[int, int] | None = None) -> None:
    """Open and run a foreign `.onnx` once in a child process.

    Engines that carry our facts, and engines that are no `.onnx`, are left alone.

    Args:
        engine: Path of the engine as the user typed it.
        options: Options with which it will be opened.
        size_hw: Size (H, W) of pictures whose own is free; None for 224 x 224.

    Raises:
        EngineError: the library ended the child with a signal.
    """
    if Path(engine).suffix != ".onnx" or _is_ours(Path(engine)):
        return
    told = {**asdict(options), "trusted": [], "engine": engine, "size_hw": size_hw or SIZE}
    done = subprocess.run(  # noqa: S603  # our own module, and no shell
        [sys.executable, "-c", START], input=json.dumps(told).encode(), capture_output=True, check=False
    )
    # Any other end is left to this process, which then meets the same error and says what it is.
    if done.returncode < 0:
        raise EngineError(
            engine,
            expected="a graph that ONNX Runtime opens and runs",
            got=f"its process ended by {signal.Signals(-done.returncode).name}",
            do="check the graph with onnx.checker.check_model, or try another release of onnxruntime",
        )


def main() -> None:
    """Open and run what stdin names, in the child."""
    told = json.load(sys.stdin)
    size_hw = tuple(told.pop("size_hw"))
    engine = told.pop("engine")
    try:
        with closing(open_engine(engine, EngineOptions(**{**told, "trusted": frozenset()}))) as opened:
            opened.infer({name: _ones(spec.with_size(size_hw)) for name, spec in opened.inputs.items()})
    except PgnEdgeError:
        return  # the parent meets it again


def _ones(spec: TensorSpec) -> np.ndarray:
    return np.ones([size or 1 for size in spec.shape], spec.dtype)


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(OURS) >= 0
    except (OSError, ValueError):
        return True  # missing or empty: opening it says so
