"""A real RTSP camera is killed and restored many times: time until the loss is seen, and until frames come again."""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import HEADER, Target, environment_table, markdown_table, parser, stats_row, targets_table, write_results

from pgn_edge.runtime.environment import describe_environment
from pgn_edge.runtime.live import LiveOptions, LiveSource

SERVER = Path(__file__).parents[1] / "tests" / "runtime" / "rtsp_server.py"
SIZE_WH, FPS = (320, 240), 25
DETECTED_S, RECOVERED_S = 2.0, 5.0
GIVE_UP_S = 30.0
POLL_S = 0.001


@contextlib.contextmanager
def rtsp_camera(python: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The camera of the tests, listening."""
    command = [python, str(SERVER), *(str(number) for number in (port, *SIZE_WH, FPS))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise SystemExit(f"{python} cannot run the RTSP server: see docs/cameras.md")
            yield process
        finally:
            process.kill()


def seconds_until(holds: Callable[[], bool]) -> float:
    """Seconds until something holds, 30 at the most."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > GIVE_UP_S:
            break
        time.sleep(POLL_S)
    return time.monotonic() - start


def measure(given: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Kill and restore the camera `rounds` times, each time away for a random while.

    Returns:
        Seconds by series, and the counters at the end.
    """
    rng = np.random.default_rng(given.seed)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    seconds: dict[str, list[float]] = {"detected": [], "recovered": [], "away": []}
    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(contextlib.ExitStack())
        camera.enter_context(rtsp_camera(given.python, port))
        live = stack.enter_context(LiveSource(f"rtsp://127.0.0.1:{port}/camera", LiveOptions()))
        live.connect()
        # An app that takes every frame.
        threading.Thread(target=lambda: [None for _ in live], daemon=True).start()
        for index in range(given.rounds):
            before = live.counters
            away_s = float(rng.uniform(0.0, given.longest_away))
            camera.close()
            seconds["detected"].append(
                seconds_until(lambda: live.counters.errors + live.counters.stalls > before.errors + before.stalls)  # noqa: B023
            )
            time.sleep(away_s)
            camera.enter_context(rtsp_camera(given.python, port))
            seconds["recovered"].append(seconds_until(lambda: live.counters.reconnects > before.reconnects))  # noqa: B023
            seconds["away"].append(away_s)
            print(f"{index + 1} of {given.rounds} rounds", file=sys.stderr)
        counters = vars(live.counters)
    return seconds, counters


def _markdown(document: Mapping[str, Any]) -> str:
    rows = [stats_row(name, series, 3) for name, series in document["samples_s"].items()]
    counters = [(name, f"{value:g}") for name, value in document["counters"].items()]
    parts = [
        "# Cameras that go away\n",
        f"{__doc__}".strip() + " Seconds; `away` is how long the camera stayed off after the loss was seen.\n",
        targets_table(document["targets"]),
        markdown_table(HEADER, rows),
        markdown_table(("counter", "at the end"), counters),
        environment_table(document["environment"]),
    ]
    return "\n".join(parts)


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("How soon a lost camera is noticed, and a restored one is back.")
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--longest-away", type=float, default=10.0, help="seconds; default: %(default)s")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--python", default="/usr/bin/python3", help="that has GStreamer; default: %(default)s")
    given = arguments.parse_args()
    environment = describe_environment()
    seconds, counters = measure(given)
    targets = [
        Target("slowest detection", max(seconds["detected"]), DETECTED_S, False, "s"),
        Target("slowest recovery", max(seconds["recovered"]), RECOVERED_S, False, "s"),
    ]
    document = {
        "benchmark": "cameras",
        "environment": environment,
        "targets": [target.to_json() for target in targets],
        "passed": all(target.met for target in targets),
        "counters": counters,
        "samples_s": seconds,
    }
    write_results(given.output, "cameras", document, _markdown(document))
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
