"""The loop between one source and its sinks, and the account of any run; `cameras` has the loop for several."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from pgn_edge.errors import PairingError
from pgn_edge.progress import Progress, silent
from pgn_edge.redact import redact
from pgn_edge.runtime.events import last_error
from pgn_edge.runtime.metrics import Metrics
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.runtime import Runtime
from pgn_edge.runtime.scheduler import BatchCounts
from pgn_edge.runtime.sinks import Sink
from pgn_edge.runtime.sources import Frame, Missing, Source, new_run

if TYPE_CHECKING:
    from pgn_edge.runtime.live import Counters

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
class CameraSummary:
    """What became of one camera.

    Args:
        frames: answered.
        skipped: refused, because they were no pictures or their task had gone.
        dropped: gave way to newer ones before they were answered.
        reconnects: times that frames came again after the camera was lost.
        age_ms: from the capture to the sinks, of the last 10,000 frames; None of a file.
        error: what the camera ended with; empty where it simply ended.
        missing: Frames that a file or a folder should have given and did not.
    """

    frames: int
    skipped: int
    dropped: int
    reconnects: int
    age_ms: Latency | None
    error: str
    missing: Missing = field(default_factory=Missing)


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Args:
        run: Id of the run, as every answer record has it.
        frames: number of frames answered.
        missing_frames: Number of frames that files and folders should have given and did not.
        seconds: wall-clock time from the first frame to the last, reading and writing included.
        fps: frames / seconds.
        counts: frames by task and label, the most frequent label first; degraded ones have none.
        degraded: by task, answers that were not finite.
        latency_ms: by stage; of all tasks together, of the last 10,000 frames.
        cameras: by name; a single source counts as one.
        lost: by kind of sink, what they lost or dropped; without those that lost nothing.
        batching: of the scheduler; None of a run without one.
        last_error: Newest problem in the log of the metrics, as a JSON object; None where there was none.
    """

    run: str
    frames: int
    missing_frames: int
    seconds: float
    fps: float
    counts: Mapping[str, Mapping[str, int]]
    degraded: Mapping[str, int]
    latency_ms: Mapping[str, Latency]
    cameras: Mapping[str, CameraSummary]
    lost: Mapping[str, int]
    batching: BatchCounts | None
    last_error: Mapping[str, str] | None = None

    @property
    def failed(self) -> dict[str, str]:
        """Errors by camera, of those that ended with one."""
        return {name: camera.error for name, camera in self.cameras.items() if camera.error}

    def to_json(self) -> dict[str, Any]:
        """A JSON object with these fields."""
        return asdict(self)


def run_app(
    runtime: Runtime,
    source: Source,
    sinks: Sequence[Sink] = (),
    progress: Progress = silent,
    metrics: Metrics | None = None,
    camera: str = "",
) -> RunSummary:
    """Send every frame of a source through every task, and what comes back to every sink, in this thread.

    The sinks are entered and left here; if anything goes wrong, or the run is interrupted, none leaves a file.

    Args:
        runtime: with at least one task; all tasks share one pass of the ViT.
        source: opened by the caller, who closes it too.
        sinks: not yet entered.
        progress: called after each frame; the total is what is done so far where the source has no count.
        metrics: told of every result.
        camera: Name of the source in answers and in the summary; empty for its own name.

    Raises:
        PairingError: no task is loaded.
        DataError: a frame cannot be read.
        EngineError: an engine failed.
        OutputError: a sink cannot write.
    """
    tasks = tuple(runtime.tasks)
    if not tasks:
        raise PairingError("run", expected="at least one task", got="none", do="add a task first")
    name = camera or source.name
    account = Account({name: source}, tasks, progress, metrics)
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        start = perf_counter()
        for frame in source:
            results = runtime.answer_batch([(task, frame.image_bgr) for task in tasks])
            account.deliver(name, frame.of_camera(camera) if camera else frame, results, sinks)
        seconds = perf_counter() - start
    return account.summary(seconds, sinks)


@dataclass
class _Tally:
    """Numbers of one camera while it runs."""

    frames: int = 0
    skipped: int = 0
    dropped: int = 0
    error: str = ""
    ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_TIMINGS))


class Account:
    """What a run has done so far; one thread calls it.

    Args:
        sources: by the name of their camera.
        tasks: names of the tasks that are in the summary even without a frame.
        progress: called after each frame.
        metrics: told of every result, every frame that was skipped and every camera that failed.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        tasks: Iterable[str],
        progress: Progress = silent,
        metrics: Metrics | None = None,
    ) -> None:
        self._sources, self._progress, self._metrics = sources, progress, metrics
        self._run = new_run()
        self._cameras = {name: _Tally() for name in sources}
        self._counts: dict[str, Counter[str]] = {task: Counter() for task in tasks}
        self._degraded: Counter[str] = Counter()
        self._timings_ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_TIMINGS))
        self._frames = 0
        for name, source in sources.items():
            if metrics is not None and is_live(source):
                metrics.watch_camera(name, partial(getattr, source, "counters"))

    def deliver(self, camera: str, frame: Frame, results: Sequence[Result], sinks: Sequence[Sink]) -> None:
        """Hand a frame and its answers to every sink, and count them.

        Raises:
            OutputError: a sink cannot write.
        """
        frame = replace(frame, run=self._run)
        for sink in sinks:
            sink.write(frame, results)
        for result in results:
            self._count(result)
            if self._metrics is not None:
                self._metrics.observe(result, frame)
        for stage, value_ms in results[0].timings_ms.items():
            self._timings_ms[stage].append(value_ms)
        tally = self._cameras[camera]
        tally.frames += 1
        tally.dropped += frame.dropped
        if frame.captured_s is not None:
            tally.ages_ms.append((monotonic() - frame.captured_s) * 1e3)
        self._frames += 1
        counts = [source.count for source in self._sources.values()]
        total = 0 if None in counts else sum(count or 0 for count in counts)
        self._progress("frames", self._frames, max(total, self._frames))

    def beat(self) -> None:
        """Say that the loop turns."""
        if self._metrics is not None:
            self._metrics.beat()

    def skip(self, camera: str) -> None:
        """Count a frame that was refused."""
        self._cameras[camera].skipped += 1
        if self._metrics is not None:
            self._metrics.errors.add(1, "frame")

    def fail(self, camera: str, error: str) -> None:
        """Count a camera that ended with an error."""
        self._cameras[camera].error = redact(error)
        if self._metrics is not None:
            self._metrics.log.add("camera", camera, "failed", error)
            self._metrics.errors.add(1, "camera")

    def summary(self, seconds: float, sinks: Sequence[Sink], batching: BatchCounts | None = None) -> RunSummary:
        """Everything so far.

        Args:
            seconds: that the run took.
            sinks: closed by now, so that their losses are final.
            batching: of its scheduler.
        """
        lost: Counter[str] = Counter()
        for sink in sinks:
            lost[type(sink).__name__] += sink.counts.lost + sink.counts.dropped
        return RunSummary(
            run=self._run,
            frames=self._frames,
            missing_frames=sum(source.missing.frames for source in self._sources.values()),
            seconds=seconds,
            fps=self._frames / seconds if self._frames else 0.0,
            counts={task: dict(counter.most_common()) for task, counter in self._counts.items()},
            degraded=dict(self._degraded),
            latency_ms={stage: _latency(values_ms) for stage, values_ms in self._timings_ms.items()},
            cameras={name: _camera(tally, self._sources[name]) for name, tally in self._cameras.items()},
            lost={name: count for name, count in lost.items() if count},
            batching=batching,
            last_error=None if self._metrics is None else last_error(self._metrics.log),
        )

    def _count(self, result: Result) -> None:
        labels = self._counts.setdefault(result.task, Counter())  # a task may have been added meanwhile
        if result.degraded:
            self._degraded[result.task] += 1
        else:
            labels[result.label] += 1


def reconnects(source: Source) -> int:
    """Times that frames came again after a camera was lost; 0 of a source that cannot be lost."""
    counters = _counters(source)
    return 0 if counters is None else counters.reconnects


def _camera(tally: _Tally, source: Source) -> CameraSummary:
    counters = _counters(source)
    return CameraSummary(
        frames=tally.frames,
        skipped=tally.skipped,
        # What was dropped after the last frame is known to the camera alone.
        dropped=tally.dropped if counters is None else counters.dropped,
        reconnects=reconnects(source),
        age_ms=_latency(tally.ages_ms) if tally.ages_ms else None,
        error=tally.error,
        missing=source.missing,
    )


def is_live(source: Source) -> bool:
    """Whether a source is a camera or a stream."""
    return _counters(source) is not None


def _counters(source: Source) -> Counters | None:
    """Of a live source; None of any other."""
    from pgn_edge.runtime.live import LiveSource  # with multiprocessing: not at import

    return source.counters if isinstance(source, LiveSource) else None


def _latency(values_ms: Sequence[float]) -> Latency:
    p50, p95 = np.percentile(values_ms, (50, 95))
    return Latency(float(p50), float(p95))
