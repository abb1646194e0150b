"""The loop between a source and its sinks, for files; a camera app writes its own around `Runtime.infer`."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

from pgn_edge.errors import PairingError
from pgn_edge.progress import Progress, silent
from pgn_edge.runtime.metrics import Metrics
from pgn_edge.runtime.runtime import Runtime
from pgn_edge.runtime.sinks import Sink
from pgn_edge.runtime.sources import Source

MOST_TIMINGS = 10_000  # of each stage; a camera may run for years


@dataclass(frozen=True)
class Latency:
    """Median and tail of one stage, milliseconds.

    Args:
        p50: half of the frames took at most this.
        p95: 95 % of them.
    """

    p50: float
    p95: float


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Args:
        frames: number of frames answered.
        missing_frames: frames that the source stated and did not give.
        seconds: wall-clock time from the first frame to the last, reading and writing included.
        fps: frames / seconds.
        counts: frames by task and label, the most frequent label first.
        latency_ms: by stage; of all tasks together, of the last 10,000 frames.
    """

    frames: int
    missing_frames: int
    seconds: float
    fps: float
    counts: Mapping[str, Mapping[str, int]]
    latency_ms: Mapping[str, Latency]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with these fields."""
        return asdict(self)


def run_app(
    runtime: Runtime,
    source: Source,
    sinks: Sequence[Sink] = (),
    progress: Progress = silent,
    metrics: Metrics | None = None,
) -> RunSummary:
    """Send every frame of a source through every task, and what comes back to every sink.

    The sinks are entered and left here; if anything goes wrong, or the run is interrupted, none leaves a file.

    Args:
        runtime: with at least one task; all tasks share one pass of the ViT.
        source: opened by the caller, who closes it too.
        sinks: not yet entered.
        progress: called after each frame; the total is what is done so far where the source has no count.
        metrics: told of every result.

    Raises:
        PairingError: no task is loaded.
        DataError: a frame cannot be read.
        EngineError: an engine failed.
        OutputError: a sink cannot write.
    """
    tasks = tuple(runtime.tasks)
    if not tasks:
        raise PairingError("run", expected="at least one task", got="none", do="add a task first")
    counts: dict[str, Counter[str]] = {task: Counter() for task in tasks}
    timings_ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_TIMINGS))
    frames = 0
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        start = perf_counter()
        for frame in source:
            results = runtime.infer_batch([(task, frame.image_bgr) for task in tasks])
            for sink in sinks:
                sink.write(frame, results)
            for result in results:
                counts[result.task][result.label] += 1
                if metrics is not None:
                    metrics.observe(result, frame)
            for stage, value_ms in results[0].timings_ms.items():
                timings_ms[stage].append(value_ms)
            frames += 1
            progress("frames", frames, max(source.count or 0, frames))
        seconds = perf_counter() - start
    return RunSummary(
        frames=frames,
        missing_frames=source.missing_frames,
        seconds=seconds,
        fps=frames / seconds if frames else 0.0,
        counts={task: dict(counter.most_common()) for task, counter in counts.items()},
        latency_ms={stage: _latency(values_ms) for stage, values_ms in timings_ms.items()},
    )


def _latency(values_ms: Sequence[float]) -> Latency:
    p50, p95 = np.percentile(values_ms, (50, 95))
    return Latency(float(p50), float(p95))
