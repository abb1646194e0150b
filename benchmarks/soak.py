"""A long run: frames of several cameras in mixed batches, tasks that are swapped under them, and bad input of any kind.

One frame goes alone, the next ones in batches of several tasks. Now and then a frame is none (no pixels, grey, with
alpha, of floats), or of 8K, or all white: one task is made so that its canvas is NaN for a white frame, and answers
must be degraded then. A frame that is refused takes its batch with it; the others of the batch are sent again. A thread
of its own swaps the tasks, each tenth time with a damaged bundle first. Resident memory is read while nothing is
being swapped, after what was freed went back to the system; a sample still depends on which batches are bound by then.
"""

from __future__ import annotations

import argparse
import io
import os
import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from common import Target, environment_table, markdown_table, parser, targets_table, write_results
from soak_frames import FRAGILE, SWAPPED, Frames, batches, fragile_bundle, is_picture
from swap_files import FIRST, Files, Swaps, make_files

from pgn_edge.errors import DataError
from pgn_edge.files import write_bytes
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.bench_costs import resident_bytes
from pgn_edge.runtime.environment import describe_environment

MOST_GROWTH_MB = 5.0


@dataclass
class Account:
    """What became of every frame: offered = answered + degraded + refused.

    Args:
        outcomes: frames, by what became of them.
        surprises: answers that should have been degraded or should not, and garbage that was answered.
        calls: of `infer_batch`.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    surprises: int = 0
    calls: int = 0

    @property
    def missing(self) -> int:
        """Frames that nobody can account for."""
        return self.outcomes["offered"] - sum(self.outcomes[name] for name in ("answered", "degraded", "refused"))


@dataclass
class Samples:
    """Resident memory over the run, after the warm-up.

    Args:
        frames: offered until then.
        resident_mb: 1e6 bytes.
        threads: of this process at the start and at the end.
        files: open file descriptors, likewise.
    """

    frames: list[int] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    @property
    def growth_mb(self) -> float:
        """From the first tenth of the samples to the last, of medians: a single one tells what is bound just then."""
        tenth = max(len(self.resident_mb) // 10, 1)
        return float(np.median(self.resident_mb[-tenth:]) - np.median(self.resident_mb[:tenth]))

    def take(self, frames: int) -> None:
        """One more sample."""
        self.frames.append(frames)
        self.resident_mb.append((resident_bytes() or 0) / 1e6)
        self.threads.append(len(os.listdir("/proc/self/task")))
        self.files.append(len(os.listdir("/proc/self/fd")))


def answer(runtime: Runtime, frames: Frames, account: Account) -> None:
    """Answer a batch; garbage that it holds is taken out, and the others are sent again."""
    account.outcomes["offered"] += len(frames)
    account.calls += 1
    while frames:
        try:
            results = runtime.infer_batch(frames)
        except DataError:
            bad = [index for index, (_, image) in enumerate(frames) if not is_picture(image)]
            account.outcomes["refused"] += 1
            if not bad:
                account.surprises += 1
            del frames[bad[0] if bad else 0]
            continue
        for (task, image), result in zip(frames, results, strict=True):
            hurt = task == FRAGILE and image.min(initial=255) == 255
            account.outcomes["degraded" if result.degraded else "answered"] += 1
            account.surprises += bool(result.degraded) != hurt or result.task != task or not is_picture(image)
        return


class Swapper:
    """A thread that swaps when it is told to, one swap at a time."""

    def __init__(self, swaps: Swaps) -> None:
        self._swaps, self._orders = swaps, queue.Queue[bool]()
        self._failure: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)

    def order(self) -> None:
        """One more swap, after those that were ordered before."""
        self._orders.put(True)

    def wait(self) -> None:
        """Until every order is done; what went wrong with one is raised here."""
        self._orders.join()
        if self._failure:
            raise self._failure[0]

    def _run(self) -> None:
        while self._orders.get():
            try:
                self._swaps.run(1)
            except BaseException as exc:
                self._failure.append(exc)
            self._orders.task_done()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Swap from here on until the end."""
        self._thread.start()
        try:
            yield
        finally:
            self._orders.put(False)
            self._thread.join()


def make_all(folder: Path) -> tuple[Files, Path]:
    """Engine and bundles, the fragile one apart."""
    files = make_files(folder / "files", small=True)
    return files, fragile_bundle(files.bundles[FIRST], folder / "fragile.pgn")


def run(files: Files, fragile: Path, given: argparse.Namespace) -> tuple[Account, Samples, Swaps]:
    """The whole run: the warm-up first, which is in the account and not among the samples."""
    account, samples = Account(), Samples()
    tasks = {**dict.fromkeys(SWAPPED, files.bundles[FIRST]), FRAGILE: fragile}
    with Runtime(files.vit, tasks, threads=given.threads) as runtime:
        swaps, source = Swaps(runtime, files, SWAPPED), batches(given.seed)
        swapper, start = Swapper(swaps), perf_counter()
        total, every = given.warmup + given.frames, max(given.frames // given.samples, 1)
        ordered, sampled = 0, given.warmup
        with swapper.running():
            while (offered := account.outcomes["offered"]) < total:
                answer(runtime, next(source), account)
                while ordered < offered * given.swaps // given.frames:
                    ordered += 1
                    swapper.order()
                if offered >= sampled:
                    swapper.wait()
                    samples.take(offered)
                    sampled += every
                    print(_progress(offered, total, perf_counter() - start), file=sys.stderr)
            swapper.wait()
            samples.take(account.outcomes["offered"])
    return account, samples, swaps


def _progress(done: int, total: int, spent_s: float) -> str:
    return f"{done} of {total} frames, {spent_s / max(done, 1) * (total - done):.0f} s left"


def plot_png(frames: Sequence[int], resident_mb: Sequence[float]) -> bytes:
    """Resident memory over frames, as a picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    axes.plot(frames, resident_mb, marker=".", linewidth=1)
    start_mb = float(np.median(resident_mb[: max(len(resident_mb) // 10, 1)]))
    axes.axhspan(start_mb, start_mb + MOST_GROWTH_MB, alpha=0.15, label="first tenth, and the limit above it")
    axes.set(xlabel="frames", ylabel="resident memory, MB", title="Tasks that are swapped, and bad frames")
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    pyplot.close(figure)
    return picture.getvalue()


def _targets(account: Account, samples: Samples, swaps: Swaps) -> list[Target]:
    counts = {
        "frames nobody can account for": account.missing,
        "answers other than they should be": account.surprises,
        "damaged bundles accepted": swaps.accepted,
        "threads at the end beyond those after the warm-up": samples.threads[-1] - samples.threads[0],
        "open files at the end beyond those after the warm-up": samples.files[-1] - samples.files[0],
    }
    return [
        Target(
            "growth of resident memory, first to last tenth of the samples",
            samples.growth_mb,
            MOST_GROWTH_MB,
            False,
            "MB",
        ),
        *(Target(name, count, 0, False, "") for name, count in counts.items()),
    ]


def _markdown(document: Mapping[str, Any]) -> str:
    resident_mb = document["samples"]["resident_mb"]
    counts = {
        **document["outcomes"],
        "calls": document["calls"],
        "swaps": document["swaps"],
        **{f"refused bundle: {fault}": count for fault, count in document["refused"].items()},
    }
    memory = {
        "first sample": resident_mb[0],
        "last sample": resident_mb[-1],
        "least": min(resident_mb),
        "most": max(resident_mb),
    }
    return "\n".join(
        [
            "# A long run\n",
            f"{__doc__}",
            targets_table(document["targets"]),
            "![resident memory over frames](soak.png)\n",
            markdown_table(("resident memory", "MB"), [(name, f"{value:.2f}") for name, value in memory.items()]),
            markdown_table(("frames and bundles", "count"), [(name, str(count)) for name, count in counts.items()]),
            environment_table(document["environment"]),
        ]
    )


def main() -> int:
    """Run, write, and give exit status 1 where a target is missed."""
    arguments = parser("Memory and losses over a long run with swaps and bad input.")
    arguments.add_argument("--frames", type=int, default=100_000, help="after the warm-up; default: %(default)s")
    arguments.add_argument("--swaps", type=int, default=1000, help="among them; default: %(default)s")
    arguments.add_argument("--warmup", type=int, default=10_000, help="frames, swaps too; default: %(default)s")
    arguments.add_argument("--samples", type=int, default=100, help="of memory; default: %(default)s")
    arguments.add_argument("--threads", type=int, default=0, help="of each session; 0 is one for each core")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    environment = describe_environment()
    with TemporaryDirectory() as name:
        # What exporting needs, torch above all, stays in a process of its own: it is no part of what is weighed.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            files, fragile = pool.submit(make_all, Path(name)).result()
        account, samples, swaps = run(files, fragile, given)
    targets = _targets(account, samples, swaps)
    document = {
        "benchmark": "soak",
        "environment": environment,
        "options": {name: value for name, value in vars(given).items() if name != "output"},
        "targets": [target.to_json() for target in targets],
        "passed": all(target.met for target in targets),
        "outcomes": dict(account.outcomes),
        "calls": account.calls,
        "swaps": swaps.done,
        "refused": dict(swaps.refused),
        "samples": vars(samples),
    }
    write_results(given.output, "soak", document, _markdown(document))
    write_bytes(given.output / "soak.png", plot_png(samples.frames, samples.resident_mb))
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
