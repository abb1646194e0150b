"""Numbers of a running app in the text format that Prometheus scrapes."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from pgn_edge.errors import PairingError
from pgn_edge.redact import public_name
from pgn_edge.runtime.events import EventLog
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.runtime import Runtime
from pgn_edge.runtime.sinks import Sink
from pgn_edge.runtime.sources import Frame

if TYPE_CHECKING:
    from pgn_edge.runtime.live.options import Counters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: stages of a small GPU begin near 0.1 ms, and a frame of two seconds ago is of no use to anybody.
STAGE_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
AGE_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0)
UP_WITHIN_S = 5.0
MEASURES = ("entropy", "entropy_z", "usage_divergence", "strange", "alarm_share", "alarm")

Values = tuple[str, ...]


class Family(Protocol):
    """A metric with all its label sets."""

    def lines(self) -> Iterator[str]:
        """Its lines, without line ends."""


class Counter:
    """Numbers that only grow; any thread may call.

    Args:
        name: in the exposition; ends in `_total`.
        about: one line of help.
        labels: names of the labels; the values are given with each call, in this order.
    """

    kind = "counter"

    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        self._name, self._about, self._labels = name, about, tuple(labels)
        self._lock = threading.Lock()
        self._values: dict[Values, float] = {}
        self._readers: dict[Values, Callable[[], float]] = {}
        self._sources: list[Callable[[], Mapping[Values, float]]] = []

    def add(self, amount: float, *values: str) -> None:
        """Count `amount` more, 0 or more."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + amount

    def follow(self, read: Callable[[], float], *values: str) -> None:
        """Take the number of a label set from somebody who counts already, whenever it is asked for.

        Args:
            read: called in the thread of the scrape; quick, and never less than before.
            values: of the labels.
        """
        with self._lock:
            self._readers[values] = read

    def follow_all(self, read: Callable[[], Mapping[Values, float]]) -> None:
        """As `follow`, for label sets that come and go: what is not among them at a scrape is not in the exposition.

        Args:
            read: called in the thread of the scrape; quick. Numbers by the values of the labels.
        """
        with self._lock:
            self._sources.append(read)

    def lines(self) -> Iterator[str]:
        """See `Family.lines`."""
        with self._lock:
            values, readers, sources = dict(self._values), dict(self._readers), list(self._sources)
        values.update({key: read() for key, read in readers.items()})
        for read_all in sources:
            values.update(read_all())
        yield from _head(self._name, self._about, self.kind)
        yield from (f"{self._name}{_labels(self._labels, key)} {_number(value)}" for key, value in values.items())


class Gauge(Counter):
    """Numbers that go up and down."""

    kind = "gauge"

    def set(self, value: float, *values: str) -> None:
        """Set the number of a label set."""
        with self._lock:
            self._values[values] = value


class Histogram:
    """Counts of observations in fixed buckets, their sum and their number; any thread may call.

    Args:
        name: in the exposition, with its unit.
        about: one line of help.
        labels: names of the labels; the values are given with each call, in this order.
        bounds: upper bounds of the buckets, rising; one without a bound is added.
    """

    def __init__(self, name: str, about: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._about, self._labels, self._bounds = name, about, tuple(labels), tuple(bounds)
        self._lock = threading.Lock()
        self._rows: dict[Values, list[float]] = {}  # a count for each bucket, then the sum

    def observe(self, value: float, *values: str) -> None:
        """Count one observation."""
        with self._lock:
            row = self._rows.get(values)
            if row is None:
                row = self._rows[values] = [0] * (len(self._bounds) + 1) + [0.0]
            row[bisect_left(self._bounds, value)] += 1
            row[-1] += value

    def lines(self) -> Iterator[str]:
        """See `Family.lines`."""
        with self._lock:
            rows = {key: list(row) for key, row in self._rows.items()}
        yield from _head(self._name, self._about, "histogram")
        for key, row in rows.items():
            seen = 0.0
            for bound, count in zip((*self._bounds, float("inf")), row[:-1], strict=True):
                seen += count
                labels = _labels((*self._labels, "le"), (*key, _number(bound)))
                yield f"{self._name}_bucket{labels} {_number(seen)}"
            yield f"{self._name}_sum{_labels(self._labels, key)} {_number(row[-1])}"
            yield f"{self._name}_count{_labels(self._labels, key)} {_number(seen)}"


class Metrics:
    """All numbers of an app; each of its families takes numbers from any thread.

    Args:
        log: Event log of the app, whose counts and problems are in the exposition; None for a new one.

    Attributes:
        log: Event log of the app.
        frames: answers, degraded ones among them, by camera and task.
        frames_dropped: frames that gave way to newer ones, by camera.
        frame_age_s: from the capture of a frame to its answer, by camera.
        stage_s: time of each stage of the pass that an answer came from, by task and stage.
        task_swaps: tasks replaced while frames flowed, by task.
        reconnects: cameras that were opened again, by camera.
        errors: of any kind, by kind; `degraded` counts frames whose numbers were not finite.
        drift: mixtures against the training profile, by task and measure (a field of `Drift`).
        camera_up: 1 while the newest frame of a camera is at most 5 s old, else 0.
        camera_age_s: Age of the newest frame; NaN before the first.
        stalls: Times that a camera was opened again because no frame came.
        camera_errors: Attempts and streams of a camera that failed.
        sink_lost: what sinks lost or dropped, by sink.
        events: Changes of state, by kind, subject and state.
        last_error: Time of the last problem in seconds since 1970, by kind, subject and text.
    """

    def __init__(self, log: EventLog | None = None) -> None:
        self.log = EventLog() if log is None else log
        camera = ("camera",)
        self.frames = Counter("pgn_edge_frames_total", "Answers given.", ("camera", "task"))
        self.frames_dropped = Counter("pgn_edge_frames_dropped_total", "Frames dropped for newer ones.", camera)
        self.frame_age_s = Histogram("pgn_edge_frame_age_seconds", "Age of frames answered.", camera, AGE_BUCKETS_S)
        self.stage_s = Histogram(
            "pgn_edge_stage_seconds", "Time of each stage of a pass.", ("task", "stage"), STAGE_BUCKETS_S
        )
        self.task_swaps = Counter("pgn_edge_task_swaps_total", "Tasks replaced while frames flowed.", ("task",))
        self.reconnects = Counter("pgn_edge_reconnects_total", "Cameras opened again.", camera)
        self.errors = Counter("pgn_edge_errors_total", "Errors.", ("kind",))
        self.drift = Gauge("pgn_edge_drift", "Distance from the training profile.", ("task", "measure"))
        self.sink_lost = Counter("pgn_edge_sink_lost_total", "What sinks lost or dropped.", ("sink",))
        subject = ("kind", "subject")
        self.events = Counter("pgn_edge_events_total", "Changes of state.", (*subject, "state"))
        self.last_error = Gauge(
            "pgn_edge_last_error_timestamp_seconds", "Time of the last problem of a subject.", (*subject, "text")
        )
        self.events.follow_all(lambda: {key: float(count) for key, count in self.log.counts.items()})
        self.last_error.follow_all(lambda: _problems(self.log))
        self._families: tuple[Family, ...] = (
            *(self.frames, self.frames_dropped, self.frame_age_s, self.stage_s, self.task_swaps),
            *(self.reconnects, self.errors, self.drift, self.sink_lost, self.events, self.last_error),
        )
        self.camera_up = Gauge("pgn_edge_camera_up", "1 while frames of a camera come.", camera)
        self.camera_age_s = Gauge("pgn_edge_camera_last_frame_age_seconds", "Age of the newest frame.", camera)
        self.stalls = Counter("pgn_edge_camera_stalls_total", "Cameras opened again for want of frames.", camera)
        self.camera_errors = Counter("pgn_edge_camera_errors_total", "Attempts and streams that failed.", camera)
        self._families += (self.camera_up, self.camera_age_s, self.stalls, self.camera_errors)
        self._beat_s: float | None = None
        self._last: dict[str, tuple[int, float] | None] = {}  # index of the frame, and when it was answered

    def expect(self, camera: str) -> None:
        """Say that frames of a camera shall come, so that `/healthz` misses it before the first."""
        self._last.setdefault(camera, None)
        self.frames_dropped.add(0, camera)

    def watch_camera(self, camera: str, counters: Callable[[], Counters]) -> None:
        """Follow a live source from now on, also one that never gives a frame.

        Args:
            camera: Name of the camera.
            counters: Function that gives the counters of the source; called at each scrape.
        """
        self.expect(camera)
        self.reconnects.follow(lambda: counters().reconnects, camera)
        self.stalls.follow(lambda: counters().stalls, camera)
        self.camera_errors.follow(lambda: counters().errors, camera)
        self.camera_age_s.follow(lambda: _age_s(counters()), camera)
        self.camera_up.follow(lambda: _age_s(counters()) <= UP_WITHIN_S, camera)

    def beat(self) -> None:
        """Say that the loop of the app turns; `/livez` is 503 where it said so once and no more."""
        self._beat_s = monotonic()

    @property
    def beat_age_s(self) -> float | None:
        """Seconds since the last `beat`; None where there was none."""
        return None if self._beat_s is None else monotonic() - self._beat_s

    def observe(self, result: Result, frame: Frame) -> None:
        """Count one answer; of a frame's answers the first one counts its age, and what was dropped before it.

        Args:
            result: the answer.
            frame: what it is about; its camera is `frame.camera`.
        """
        camera, now = frame.camera, monotonic()
        last = self._last.get(camera)
        self._last[camera] = frame.index, now
        self.frames.add(1, camera, result.task)
        if result.degraded:
            self.errors.add(1, "degraded")
        if last is None or last[0] != frame.index:
            self.frames_dropped.add(frame.dropped, camera)
            if frame.captured_s is not None:
                self.frame_age_s.observe(now - frame.captured_s, camera)
        for stage, value_ms in result.timings_ms.items():
            self.stage_s.observe(value_ms / 1e3, result.task, stage)

    def watch(self, name: str, sink: Sink) -> None:
        """Follow the losses of a sink.

        Args:
            name: of the sink, as its label.
            sink: whose counts are read at each scrape.
        """
        self.sink_lost.follow(lambda: sink.counts.lost + sink.counts.dropped, name)

    def watch_runtime(self, runtime: Runtime) -> None:
        """Follow swaps and drift of a runtime's tasks, also of those that are added later; one that is removed goes.

        Args:
            runtime: read at each scrape; frames do not wait for it.
        """
        self.task_swaps.follow_all(lambda: {(task,): count for task, count in runtime.swaps.items()})
        self.drift.follow_all(lambda: _drift(runtime))

    def silence_s(self) -> dict[str, float | None]:
        """Seconds since the last answer by camera; None where there was none yet."""
        now = monotonic()
        return {camera: None if last is None else now - last[1] for camera, last in self._last.copy().items()}

    def render(self) -> str:
        """All numbers in the text exposition format 0.0.4."""
        return "".join(f"{line}\n" for family in self._families for line in family.lines())


def _age_s(counters: Counters) -> float:
    return math.nan if counters.age_ms is None else counters.age_ms / 1e3


def _problems(events: EventLog) -> dict[Values, float]:
    return {
        (event.kind, event.subject, event.text): datetime.fromisoformat(event.at.replace("Z", "+00:00")).timestamp()
        for event in events.problems.values()
    }


def _drift(runtime: Runtime) -> dict[Values, float]:
    values: dict[Values, float] = {}
    for task in runtime.tasks:
        try:
            drift = runtime.drift(task)
        except PairingError:  # removed a moment ago
            continue
        if drift is not None:
            known = {measure: getattr(drift, measure) for measure in MEASURES}
            values |= {(task, measure): float(value) for measure, value in known.items() if value is not None}
    return values


def _head(name: str, about: str, kind: str) -> tuple[str, str]:
    text = about.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    # A lone surrogate, as in a file name that is no UTF-8, would make the whole page unreadable.
    text = public_name(value).encode(errors="replace").decode()
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
