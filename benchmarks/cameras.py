"""A real RTSP camera is killed, and then frozen, many times: until the loss is seen, and until frames come again.

In each round the camera dies and is started again; then it stops in the middle (SIGSTOP), holding its connections open
and saying nothing, and goes on later. Both times it stays away for a random while after the loss was seen.
"""

from __future__ import annotations

import argparse
import io
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import HEADER, Target, environment_table, markdown_table, parser, stats_row, targets_table, write_results

from pgn_edge.files import write_bytes
from pgn_edge.runtime.environment import describe_environment
from pgn_edge.runtime.live import Counters, LiveOptions, LiveSource

SERVER = Path(__file__).parents[1] / "tests" / "runtime" / "rtsp_server.py"
SIZE_WH, FPS = (320, 240), 25
DETECTED_S, RECOVERED_S = 2.0, 5.0
SERIES = ("detected", "recovered", "away")
TITLES = {"detected": "the loss is seen", "recovered": "frames come again"}
WAYS = ("killed", "frozen")
CALM_S = 0.5  # of frames before each loss
GIVE_UP_S = 30.0
POLL_S = 0.001


class RtspCamera:
    """The camera of the tests, at a fixed address; on while it is entered.

    Args:
        python: that has GStreamer.
    """

    def __init__(self, python: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._command = [python, str(SERVER), *(str(number) for number in (self._port, *SIZE_WH, FPS))]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"rtsp://127.0.0.1:{self._port}/camera"

    def start(self) -> None:
        """Switch it on; it listens when this returns."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise SystemExit(f"{self._command[0]} cannot run the RTSP server: see docs/cameras.md")

    def kill(self) -> None:
        """Switch it off, if it is on."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def freeze(self) -> None:
        """Stop it where it is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> RtspCamera:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def seconds_until(holds: Callable[[], bool]) -> float:
    """Seconds until something holds, 30 at the most."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > GIVE_UP_S:
            break
        time.sleep(POLL_S)
    return time.monotonic() - start


def measure(given: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Lose the camera in each way and get it back, `rounds` times.

    Returns:
        Seconds by series, and the counters at the end.
    """
    rng, start = np.random.default_rng(given.seed), time.monotonic()
    seconds: dict[str, list[float]] = {f"{way}, {what}": [] for what in SERIES for way in WAYS}
    with RtspCamera(given.python) as camera, LiveSource(camera.url, LiveOptions()) as live:
        live.connect()
        ways = {"killed": (camera.kill, camera.start), "frozen": (camera.freeze, camera.thaw)}
        # An app that takes every frame.
        threading.Thread(target=lambda: [None for _ in live], daemon=True).start()
        for index in range(given.rounds):
            for way, (lose, restore) in ways.items():
                time.sleep(CALM_S)
                before, away_s = live.counters, float(rng.uniform(0.0, given.longest_away))
                lose()
                seconds[f"{way}, detected"].append(seconds_until(lambda: _losses(live.counters) > _losses(before)))  # noqa: B023
                time.sleep(away_s)
                restore()
                back = seconds_until(lambda: live.counters.reconnects > before.reconnects)  # noqa: B023
                seconds[f"{way}, recovered"].append(back)
                seconds[f"{way}, away"].append(away_s)
            left_s = (time.monotonic() - start) / (index + 1) * (given.rounds - index - 1)
            print(f"{index + 1} of {given.rounds} rounds, {left_s:.0f} s left", file=sys.stderr)
        counters = vars(live.counters)
    return seconds, counters


def _losses(counters: Counters) -> int:
    return counters.errors + counters.stalls


def plot_png(seconds: Mapping[str, Sequence[float]]) -> bytes:
    """How many of the rounds were done within so many seconds, as a picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for axes, what, limit_s in zip(panels, SERIES, (DETECTED_S, RECOVERED_S), strict=False):
        for way in WAYS:
            axes.ecdf(seconds[f"{way}, {what}"], label=f"{way}, {len(seconds[f'{way}, {what}'])} times")
        axes.axvline(limit_s, color="black", linestyle=":", label=f"limit, {limit_s:g} s")
        axes.set(xlabel="seconds", title=f"until {TITLES[what]}", xlim=(0, None))
        axes.legend()
    panels[0].set_ylabel("share of the rounds")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    pyplot.close(figure)
    return picture.getvalue()


def _markdown(document: Mapping[str, Any]) -> str:
    rows = [stats_row(name, series, 3) for name, series in document["samples_s"].items()]
    counters = [(name, f"{value:g}") for name, value in document["counters"].items()]
    parts = [
        "# Cameras that go away\n",
        f"{__doc__}".strip() + " Seconds; `away` is that while.\n",
        targets_table(document["targets"]),
        "![how soon a loss is seen, and frames come again](cameras.png)\n",
        markdown_table(HEADER, rows),
        markdown_table(("counter", "at the end"), counters),
        environment_table(document["environment"]),
    ]
    return "\n".join(parts)


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("How soon a lost camera is noticed, and a restored one is back.")
    arguments.add_argument("--rounds", type=int, default=100, help="of one of each; default: %(default)s")
    arguments.add_argument("--longest-away", type=float, default=10.0, help="seconds; default: %(default)s")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--python", default="/usr/bin/python3", help="that has GStreamer; default: %(default)s")
    given = arguments.parse_args()
    environment = describe_environment()
    seconds, counters = measure(given)
    targets = [
        Target(f"slowest {name}", max(seconds[f"{way}, {what}"]), limit_s, False, "s")
        for what, noun, limit_s in (("detected", "detection", DETECTED_S), ("recovered", "recovery", RECOVERED_S))
        for way, name in ((way, f"{noun} of a {way} camera") for way in WAYS)
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
    write_bytes(given.output / "cameras.png", plot_png(seconds))
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
