"""Settings of ONNX Runtime under a stream of frames, and the PGN of the next frame beside the ViT of this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from cpu_report import SETTINGS
from peers import Files

from pgn_edge.extras import import_onnxruntime
from pgn_edge.preprocess import Preprocess

onnxruntime = import_onnxruntime()

FRAMES = 8  # of one timed call

STOP, NEVER = {"session.force_spinning_stop": "1"}, {"session.intra_op.allow_spinning": "0"}


@dataclass(frozen=True, eq=False)
class Pair:
    """Sessions of PGN and ViT."""

    pgn: Any
    vit: Any

    @classmethod
    def of(cls, files: Files, entries: dict[str, str], threads: int, pgn_threads: int | None = None) -> Pair:
        """With these configuration entries; `pgn_threads` where the PGN has another number."""

        def session(path: Any, count: int) -> Any:
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = count
            for key, value in entries.items():
                settings.add_session_config_entry(key, value)
            return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

        return cls(session(files.pgn, threads if pgn_threads is None else pgn_threads), session(files.vit(), threads))

    def canvas(self, image: np.ndarray) -> np.ndarray:
        """What the PGN makes of an image (H, W, 3)."""
        canvas: np.ndarray = self.pgn.run(None, {"image": image[None]})[0]
        return canvas

    def embedding(self, canvas: np.ndarray) -> np.ndarray:
        """What the ViT makes of a canvas, (D,)."""
        embedding: np.ndarray = self.vit.run(None, {"canvas": canvas})[0][0]
        return embedding


@contextmanager
def stream_calls(
    files: Files, preprocess: Preprocess, frame_bgr: np.ndarray, threads: int
) -> Iterator[dict[str, Callable[[], np.ndarray]]]:
    """Calls that each answer `FRAMES` frames one after the other, and give the last embedding.

    Args:
        files: with the graphs.
        preprocess: of the task.
        frame_bgr: sent each time.
        threads: of each session; 0 takes one for each core.
    """
    ours, spinning, sleeping, single, beside, after = SETTINGS
    pairs = {
        ours: Pair.of(files, STOP, threads),
        spinning: Pair.of(files, {}, threads),
        sleeping: Pair.of(files, NEVER, threads),
        single: Pair.of(files, STOP, 1),
        beside: Pair.of(files, STOP, threads, pgn_threads=1),
    }

    def serial(pair: Pair) -> np.ndarray:
        for _ in range(FRAMES):
            embedding = pair.embedding(pair.canvas(preprocess(frame_bgr, "BGR")))
        return embedding

    with ThreadPoolExecutor(1) as pool:

        def pipelined(pair: Pair) -> np.ndarray:
            ahead = pool.submit(lambda: pair.canvas(preprocess(frame_bgr, "BGR")))
            for left in reversed(range(FRAMES)):
                canvas = ahead.result()
                if left:
                    ahead = pool.submit(lambda: pair.canvas(preprocess(frame_bgr, "BGR")))
                embedding = pair.embedding(canvas)
            return embedding

        yield {
            **{name: (lambda pair=pair: serial(pair)) for name, pair in pairs.items() if name != beside},
            beside: lambda: pipelined(pairs[beside]),
            after: lambda: serial(pairs[beside]),
        }
