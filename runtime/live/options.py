"""How a live source is read, and what is counted meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pgn_edge.errors import DataError

Policy = Literal["latest", "drop-oldest", "wait"]
Transport = Literal["tcp", "udp"]
TRANSPORTS: tuple[Transport, ...] = ("tcp", "udp")
POLICIES: tuple[Policy, ...] = ("latest", "drop-oldest", "wait")
LARGEST_QUEUE = 1000


@dataclass(frozen=True)
class LiveOptions:
    """How a live source is read.

    Args:
        policy: `latest` gives the newest frame; `drop-oldest` queues frames and drops the oldest of a full queue;
            `wait` drops none, the grabber waits. By default `latest`, for a file behind an address `wait`.
        max_fps: Most frames in a second; `wait` reads slower, the others leave frames out. Single pictures behind an
            http address are asked for at this rate, by default 1.
        queue: frames that `drop-oldest` and `wait` hold, 1 to 1000.
        stall_s: Seconds without a frame until the camera is opened again. By default 1.8, or three times the longest
            pause between two frames of the last minute; 20 for HLS, whose frames come in segments.
        connect_s: Seconds until the first frame, for each attempt and for those who wait in `LiveSource.connect`.
        refused_s: Seconds until the next attempt after a camera has refused user and password. Many cameras lock the
            account after five attempts.
        rtsp_transport: `tcp` or `udp`, for RTSP; by default `tcp`.

    Raises:
        DataError: a value that is not one of these.
    """

    policy: Policy | None = None
    max_fps: float | None = None
    queue: int = 4
    stall_s: float | None = None
    connect_s: float = 10.0
    refused_s: float = 300.0
    rtsp_transport: Transport | None = None

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy not in POLICIES:
            raise _refusal("policy", f"one of {', '.join(POLICIES)}", self.policy)
        if not 1 <= self.queue <= LARGEST_QUEUE:
            raise _refusal("queue", f"1 to {LARGEST_QUEUE} frames", self.queue)
        if self.rtsp_transport is not None and self.rtsp_transport not in TRANSPORTS:
            raise _refusal("rtsp_transport", f"one of {', '.join(TRANSPORTS)}", self.rtsp_transport)
        for name in ("max_fps", "stall_s", "connect_s", "refused_s"):
            value = getattr(self, name)
            may_be_none = name in ("max_fps", "stall_s")
            if not (value is None and may_be_none) and not (value > 0 and math.isfinite(value)):
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
