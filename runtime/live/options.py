"""How a live source is read, and what is counted meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pgn_edge.errors import DataError

Policy = Literal["latest", "drop-oldest", "wait"]
POLICIES: tuple[Policy, ...] = ("latest", "drop-oldest", "wait")
LARGEST_QUEUE = 1000


@dataclass(frozen=True)
class LiveOptions:
    """How a live source is read.

    Args:
        policy: `latest` gives the newest frame; `drop-oldest` queues frames and drops the oldest of a full queue;
            `wait` drops none, the grabber waits. By default `latest`, for a file behind an address `wait`.
        max_fps: no more frames per second than this; `wait` reads slower, the others leave frames out.
        queue: frames that `drop-oldest` and `wait` hold, 1 to 1000.
        stall_s: seconds without a frame until the grabber is killed and started again.
        connect_s: seconds until the first frame, after which a source that never gave one is an error; also the limit
            of each later attempt.

    Raises:
        DataError: a value that is not one of these.
    """

    policy: Policy | None = None
    max_fps: float | None = None
    queue: int = 4
    stall_s: float = 1.8
    connect_s: float = 10.0

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy not in POLICIES:
            raise _refusal("policy", f"one of {', '.join(POLICIES)}", self.policy)
        if not 1 <= self.queue <= LARGEST_QUEUE:
            raise _refusal("queue", f"1 to {LARGEST_QUEUE} frames", self.queue)
        for name in ("max_fps", "stall_s", "connect_s"):
            value = getattr(self, name)
            if not (value is None and name == "max_fps") and not (value > 0 and math.isfinite(value)):
                raise _refusal(name, "a number above 0", value)


@dataclass(frozen=True)
class Counters:
    """What has happened since a live source was opened.

    Args:
        frames: handed to the app.
        dropped: taken from the camera and never handed over, because the app was slower.
        thinned: left out for `max_fps`.
        reconnects: times that frames came again after the camera was lost.
        stalls: grabbers that were killed because no frame came in time.
        errors: attempts and streams that failed: refused, ended, not decodable, or a grabber that died.
        age_ms: milliseconds since the newest frame came from the camera; None before the first.
    """

    frames: int
    dropped: int
    thinned: int
    reconnects: int
    stalls: int
    errors: int
    age_ms: float | None


def _refusal(name: str, expected: str, got: object) -> DataError:
    return DataError(f"live source, {name}", expected=expected, got=repr(got), do=f"give another {name}")
