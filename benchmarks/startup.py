"""Time from the shell to an imported runtime, and to the first help text: whole processes, interleaved."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
from common import HEADER, environment_table, markdown_table, parser, stats_row, write_results

from pgn_edge.runtime.environment import describe_environment

# The command's module instead of the script beside the interpreter: the script may not be on the path.
COMMANDS = {
    "python -c 'import pgn_edge.runtime'": ((sys.executable, "-c", "import pgn_edge.runtime"), 0.3),
    "pgn-edge --help": ((sys.executable, "-m", "pgn_edge", "--help"), 0.5),
    "python -c pass": ((sys.executable, "-c", "pass"), None),
}


def measure(runs: int) -> dict[str, list[float]]:
    """Seconds of each process, after one run of each that fills the disk cache."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(runs + 1):
        for name, (command, _) in COMMANDS.items():
            start = perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if run:
                seconds[name].append(perf_counter() - start)
    return seconds


def _markdown(document: Mapping[str, Any]) -> str:
    rows = []
    for name, series in document["samples_s"].items():
        target = COMMANDS[name][1]
        verdict = "-" if target is None else "met" if np.median(series) <= target else "MISSED"
        rows.append((*stats_row(f"`{name}`", series, 3), "-" if target is None else f"{target}", verdict))
    parts = ["# Startup\n", f"{__doc__}".strip() + " Seconds; targets are for p50.\n"]
    table = markdown_table((*HEADER, "target", ""), rows)
    return "\n".join([*parts, table, environment_table(document["environment"])])


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("Startup time of the runtime and the command line.")
    arguments.add_argument("--runs", type=int, default=10)
    given = arguments.parse_args()
    environment = describe_environment()
    seconds = measure(given.runs)
    targets = {name: target for name, (_, target) in COMMANDS.items() if target is not None}
    passed = all(float(np.median(seconds[name])) <= target for name, target in targets.items())
    document = {
        "benchmark": "startup",
        "environment": environment,
        "targets_s": targets,
        "passed": passed,
        "samples_s": seconds,
    }
    write_results(given.output, "startup", document, _markdown(document))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
