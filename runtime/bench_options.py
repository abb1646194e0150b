"""How to measure: scenario, counts, frame and seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines import EngineOptions
from pgn_edge.runtime.engines.base import Provider

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]

SCENARIOS: dict[Scenario, str] = {
    "single-stream": "One query is one frame; the next is sent when the last is answered. The result is the latency "
    "of the query.",
    "multi-stream": "One query is one frame of each camera, answered together; the next is sent when the last is "
    "answered. The result is the latency of the query.",
    "server": "One query is one frame; queries arrive at random times (Poisson), wait in one line, and are answered "
    "one by one. The result is the 99th percentile of the latency, from arrival to answer, at a rate; or the largest "
    "rate whose 99th percentile stays within a bound.",
    "offline": "All frames are there from the start and are answered in full batches, one after the other. The result "
    "is the throughput in frames per second.",
}


@dataclass(frozen=True)
class BenchOptions:
    """How to measure.

    Args:
        samples: timed queries of each series, at least 1; without effect where `duration_s` is given.
        warmup: rounds before the first sample; None for as many as it takes until latencies settle.
        frame_hw: size (h, w) in pixels of the random frame that goes through the chain.
        threads: CPU threads of each engine; 0 takes one for each core.
        seed: of the random frame, the random inputs and the order of turns.
        duration_s: seconds of timed rounds instead of a count, above 0.
        scenario: what one query is.
        frames: Frames of one query: 1 in single-stream and server, the cameras of multi-stream, the batch of offline.
        tasks: number of tasks that the adaptation tax is told for, at least 1.
        frame: image file to send through the chain instead of the random frame.
        provider: of ONNX Runtime, for engines that are an `.onnx`.
        gpu: number of the GPU, counted from 0.
        trusted: sha256 of plans without a sidecar that the user vouches for.
        qps: Queries per second that arrive in server; None to search the largest rate within `bound_ms`.
        bound_ms: Bound of the 99th percentile in server, in milliseconds.
        size_hw: Size (H, W) in pixels for engines whose pictures have any; None to refuse these.

    Raises:
        EngineError: out of range, or more than one frame in single-stream.
    """

    samples: int = 200
    warmup: int | None = None
    frame_hw: tuple[int, int] = (480, 640)
    threads: int = 0
    seed: int = 0
    duration_s: float | None = None
    scenario: Scenario = "single-stream"
    frames: int = 1
    tasks: int = 10
    frame: Path | None = None
    provider: Provider = "cpu"
    gpu: int = 0
    trusted: tuple[str, ...] = ()
    size_hw: tuple[int, int] | None = None
    qps: float | None = None
    bound_ms: float | None = None

    def __post_init__(self) -> None:
        least = {
            "samples": (self.samples, 1),
            "warmup": (self.warmup or 0, 0),
            "frame_hw": (min(self.frame_hw), 1),
            "threads": (self.threads, 0),
            "seed": (self.seed, 0),
            "frames": (self.frames, 1),
            "tasks": (self.tasks, 1),
            "gpu": (self.gpu, 0),
        }
        for name, (value, limit) in least.items():
            if value < limit:
                raise _wrong(name, f"at least {limit}", value)
        if self.duration_s is not None and not 0 < self.duration_s < float("inf"):
            raise _wrong("duration_s", "a finite time above 0 s", self.duration_s)
        if self.scenario not in get_args(Scenario):
            raise _wrong("scenario", f"one of {', '.join(SCENARIOS)}", self.scenario)
        if self.scenario in ("single-stream", "server") and self.frames != 1:
            raise _wrong("frames", f"1 in {self.scenario}", self.frames)
        for name in ("qps", "bound_ms"):
            value = getattr(self, name)
            if value is not None and (self.scenario != "server" or not 0 < value < float("inf")):
                raise _wrong(name, "a finite value above 0, in server alone", value)
        if self.scenario == "server" and self.qps is None and self.bound_ms is None:
            raise _wrong("scenario", "qps or bound_ms beside server", "neither")

    @property
    def engine(self) -> EngineOptions:
        """How engines are opened."""
        return EngineOptions(self.provider, self.threads, self.gpu, frozenset(self.trusted))

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "frame_hw": list(self.frame_hw),
            "size_hw": None if self.size_hw is None else list(self.size_hw),
            "frame": None if self.frame is None else str(self.frame),
        }


def _wrong(name: str, expected: str, got: object) -> EngineError:
    return EngineError(f"bench options: {name}", expected=expected, got=str(got), do="choose another value")
