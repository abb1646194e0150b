"""A task is swapped again and again while frames run as fast as they can: what frames notice, and who answered them.

Three phases in turns, in a random order in each round: frames alone; frames beside a neighbour, another Runtime of this
process whose task is swapped all the same, so that it takes cores and interpreter but touches no task of ours; and
frames while their own task is swapped. A swap here follows the last one at once, so that something is always loading,
and every tenth is tried with a damaged bundle first. Each model runs with a thread for each core, and again with one
core left free for what loads.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
from common import parser, write_results
from swap_files import FIRST, SECOND, Files, Swaps, judge, make_files, make_frames
from swap_report import ALONE, BESIDE, SWAPPING, Phase, document_of, markdown, targets_of

from pgn_edge.errors import EngineError, PgnEdgeError
from pgn_edge.runtime import Result, Runtime
from pgn_edge.runtime.environment import describe_environment

TASK = "task"

Expected = Mapping[tuple[str, int], Result]


def answers_alone(files: Files, frames: Sequence[np.ndarray], threads: int) -> Expected:
    """What each bundle gives for each frame when nothing else runs."""
    expected: dict[tuple[str, int], Result] = {}
    for name, path in files.bundles.items():
        with Runtime(files.vit, {TASK: path}, threads=threads) as runtime:
            expected |= {(name, index): runtime.infer(TASK, frame) for index, frame in enumerate(frames)}
    if any(np.allclose(expected[FIRST, i].scores, expected[SECOND, i].scores, atol=1e-3) for i in range(len(frames))):
        raise EngineError("benchmark", expected="two tasks that can be told apart", got="equal ones", do="report it")
    return expected


def send(
    runtime: Runtime, frames: Sequence[np.ndarray], expected: Expected, phase: Phase, goes_on: Callable[[], bool]
) -> None:
    """Send frames one after the other for as long as something goes on."""
    ended: float | None = None
    before = ""
    while goes_on():
        index = phase.offered % len(frames)
        phase.offered += 1
        start = perf_counter()
        try:
            result = runtime.infer(TASK, frames[index])
        except PgnEdgeError as exc:
            phase.errors.append(str(exc))
            continue
        end = perf_counter()
        phase.frame_ms.append((end - start) * 1e3)
        owner = result.label.partition(" ")[0]
        if ended is not None:
            phase.gap_ms.append((end - ended) * 1e3)
            if owner != before:
                phase.change_ms.append((end - ended) * 1e3)
        ended, before = end, owner
        phase.answers[judge(result, {name: expected[name, index] for name in (FIRST, SECOND)})] += 1


def measure(files: Files, count: int, threads: int, given: argparse.Namespace) -> tuple[dict[str, Phase], Swaps]:
    """All phases of one model, in rounds."""
    frames, phases = make_frames(given.seed), {name: Phase() for name in (ALONE, BESIDE, SWAPPING)}
    expected, rng = answers_alone(files, frames, threads), np.random.default_rng(given.seed)
    with (
        Runtime(files.vit, {TASK: files.bundles[FIRST]}, threads=threads) as runtime,
        Runtime(files.vit, {TASK: files.bundles[FIRST]}, threads=threads) as neighbour,
    ):
        swaps, others = Swaps(runtime, files, (TASK,)), Swaps(neighbour, files, (TASK,))
        send(runtime, frames, expected, Phase(), _count_down(given.warmup))
        parts = [len(part) for part in np.array_split(np.arange(count), min(given.rounds, count))]
        start = perf_counter()
        for index, part in enumerate(parts):
            beside: dict[str, Callable[[], None]] = {
                BESIDE: lambda: others.run(part),  # noqa: B023
                SWAPPING: lambda: swaps.run(part),  # noqa: B023
            }
            for name in rng.permutation(list(phases)):
                phase = phases[str(name)]
                if name == ALONE:
                    send(runtime, frames, expected, phase, _count_down(max(given.alone // len(parts), 1)))
                else:
                    _beside(beside[str(name)], lambda alive: send(runtime, frames, expected, phase, alive))  # noqa: B023
            left_s = (perf_counter() - start) / (index + 1) * (len(parts) - index - 1)
            print(f"{swaps.done} of {count} swaps, {left_s:.0f} s left", file=sys.stderr)
    return phases, swaps


def _count_down(count: int) -> Callable[[], bool]:
    left = iter(range(count))
    return lambda: next(left, None) is not None


def _beside(work: Callable[[], None], send_while: Callable[[Callable[[], bool]], None]) -> None:
    """Send frames while a thread works; what it raises is raised here."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        send_while(thread.is_alive)
    finally:
        thread.join()
    if failure:
        raise failure[0]


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("What frames notice of a task that is swapped.")
    arguments.add_argument("--swaps", type=int, default=1000, help="with builtin; default: %(default)s")
    arguments.add_argument("--clip-swaps", type=int, default=200, help="with CLIP B/32, 0 for none; %(default)s")
    arguments.add_argument("--alone", type=int, default=2000, help="frames without swaps; default: %(default)s")
    arguments.add_argument("--rounds", type=int, default=10, help="in which phases take turns; default: %(default)s")
    arguments.add_argument("--warmup", type=int, default=50, help="frames before them; default: %(default)s")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    environment, models = describe_environment(), {}
    cores = len(os.sched_getaffinity(0))
    settings = {"every core": cores, "a core left free": cores - 1} if cores > 1 else {"every core": cores}
    for model, count in (("builtin", given.swaps), ("CLIP ViT-B/32", given.clip_swaps)):
        if count:
            with TemporaryDirectory() as name:
                files = make_files(Path(name) / "files", small=model == "builtin")
                for setting, threads in settings.items():
                    measured = measure(files, count, threads, given)
                    models[f"{model}, {setting}"] = document_of(*measured)
    targets = [target for model, measured in models.items() for target in targets_of(model, measured)]
    document = {
        "benchmark": "swap",
        "environment": environment,
        "options": {name: value for name, value in vars(given).items() if name != "output"},
        "targets": [target.to_json() for target in targets],
        "passed": all(target.met for target in targets),
        "models": models,
    }
    write_results(given.output, "swap", document, markdown(document, f"{__doc__}"))
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
