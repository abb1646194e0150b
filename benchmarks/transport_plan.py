"""What `transport.py` runs: tasks, layouts, libraries, seeds and transports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from pgn_edge.geometry import Layout
from pgn_edge.nn.pgn import LibrarySpace
from pgn_edge.train.heads import HeadChoice

TASKS: Mapping[str, HeadChoice] = {"digits": "zero-shot", "counts": "linear"}
# What the library holds, and what it is trained for.
LIBRARIES: tuple[tuple[LibrarySpace, str | None], ...] = (
    ("token", None),
    ("pixel", None),
    ("pixel", "webp:80"),
    ("pixel", "jpeg:75"),
)
SEEDS = (0, 1, 2)
FLOAT, TRANSPORTS = "float", ("png", "webp:80", "jpeg:90", "jpeg:75", "jpeg:50")
LATENCY = "latency.json"


@dataclass(frozen=True)
class Job:
    """One run: a task, a layout, a library, the transport it is trained for, and a seed."""

    task: str
    layout: Layout
    space: LibrarySpace
    trained: str | None
    seed: int

    @property
    def name(self) -> str:
        """Of its result file."""
        trained = (self.trained or "none").replace(":", "-")
        return f"{self.task}_{self.layout}_{self.space}_{trained}_{self.seed}"


def jobs() -> list[Job]:
    """All runs, every variant of one seed before the next seed, so that an early stop leaves a balanced table."""
    return [
        Job(task, layout, space, trained, seed)
        for seed in SEEDS
        for task in TASKS
        for layout in get_args(Layout)
        for space, trained in LIBRARIES
    ]
