"""What the benchmarks share: where results go, and how they read."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pgn_edge.files import write_text
from pgn_edge.runtime.bench_stats import Stats

CLIP = "open_clip:ViT-B-32/openai"  # the architecture; the weights are random
PROMPTS, LIBRARY, CLASSES = 16, 256, 100

RESULTS = Path(__file__).parent / "results"
HEADER = ("", "p50", "p95", "p99", "mean", "min", "samples")


Series = dict[str, list[float]]


@dataclass(frozen=True)
class Rounds:
    """How often, and in which order.

    Args:
        samples: timed calls of each.
        warmup: rounds before them.
        seed: of the order.
    """

    samples: int
    warmup: int
    seed: int


@dataclass(frozen=True)
class Target:
    """A figure that was measured, and the limit that it is held against.

    Args:
        name: what was measured.
        value: as measured.
        limit: least or largest value that is right.
        at_least: whether `limit` is the least.
        unit: behind both figures; empty for a bare number.
    """

    name: str
    value: float
    limit: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool:
        """Whether the limit is kept; NaN keeps none."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the verdict in it."""
        return {**asdict(self), "met": self.met}


def interleave(calls: Mapping[str, Callable[[], Any]], rounds: Rounds) -> Iterator[tuple[str, float, Any]]:
    """Time calls in turns, in a new random order each round, each after an untimed call of its own kind.

    Threads of a session or of torch go on spinning for milliseconds after a call, and caches hold what the last one
    read: the untimed call sees to it that those are the call's own.

    Args:
        calls: by name.
        rounds: how often.

    Yields:
        Name, milliseconds and answer of each timed call after the warm-up.
    """
    rng = np.random.default_rng(rounds.seed)
    total = rounds.warmup + rounds.samples
    for index in range(total):
        for name in rng.permutation(list(calls)):
            call = calls[name]
            call()
            start = perf_counter()
            answer = call()
            elapsed_ms = (perf_counter() - start) * 1e3
            if index >= rounds.warmup:
                yield str(name), elapsed_ms, answer
        # Plain lines: the thread behind a live bar would take time from what is measured.
        if (index + 1) % max(total // 10, 1) == 0:
            print(f"{index + 1} of {total} rounds", file=sys.stderr)


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option that every benchmark has: where to write."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--output", type=Path, default=RESULTS, help="folder of the results; default: %(default)s")
    return made


def random_clip_task(folder: Path, golden: int, seed: int) -> tuple[Path, Path]:
    """CLIP ViT-B/32 with seeded random weights, and an untrained task for it.

    Args:
        folder: where both are written.
        golden: number of golden images, all of them synthetic.
        seed: of everything random.

    Returns:
        Paths of the weights and of the checkpoint.
    """
    import open_clip
    import torch

    from pgn_edge.export.synthetic import pictures
    from pgn_edge.heads import Head
    from pgn_edge.nn.checkpoint import Checkpoint, save_checkpoint
    from pgn_edge.nn.clip import clip_backbone
    from pgn_edge.nn.pgn import PGN, PgnConfig

    logging.getLogger().setLevel(logging.ERROR)  # else open_clip warns that the weights are random, as they should be
    torch.manual_seed(seed)
    model = open_clip.create_model("ViT-B-32", pretrained=None, force_quick_gelu=True).eval()
    torch.save(model.state_dict(), folder / "weights.pt")
    vit = clip_backbone(model, CLIP, None).vit
    rows = np.random.default_rng(seed).standard_normal((CLASSES, int(model.visual.proj.shape[1])), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    checkpoint = Checkpoint(
        name="random",
        backbone=CLIP,
        fingerprint=vit.fingerprint(),
        weights_sha256=vit.weights_sha256(),
        geometry=vit.geometry(PROMPTS),
        preprocess=vit.spec.preprocess,
        pgn=PGN(PgnConfig("resnet10", PROMPTS, LIBRARY, vit.width, vit.spec.image_hw[1])).eval(),
        head=Head.text(rows, tuple(f"class {index}" for index in range(CLASSES)), 100.0),
        golden_images=pictures(golden, vit.spec.image_hw, seed),
    )
    save_checkpoint(folder / "ckpt.pt", checkpoint)
    return folder / "weights.pt", folder / "ckpt.pt"


def stats_row(name: str, samples: Sequence[float], digits: int = 2) -> tuple[str, ...]:
    """One row under `HEADER`."""
    stats = Stats.of(samples)
    values = (stats.p50, stats.p95, stats.p99, stats.mean, stats.min)
    return (name, *("-" if value is None else f"{value:.{digits}f}" for value in values), str(stats.count))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column reads from the left."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


def targets_table(targets: Sequence[Mapping[str, Any]]) -> str:
    """Each target with its measured value and its verdict.

    Args:
        targets: as `Target.to_json` gives them.
    """
    rows = [
        (
            target["name"],
            f"{target['value']:.{4 if target['unit'] else 6}g} {target['unit']}".rstrip(),
            f"{'at least' if target['at_least'] else 'at most'} {target['limit']:g} {target['unit']}".rstrip(),
            "met" if target["met"] else "**MISSED**",
        )
        for target in targets
    ]
    return markdown_table(("target", "measured", "limit", "verdict"), rows)


def environment_table(environment: Mapping[str, Any]) -> str:
    """Machine, versions and command as a table."""
    rows = [
        (key.replace("_", " "), "not readable" if value is None else f"`{value}`") for key, value in environment.items()
    ]
    return markdown_table(("environment", "value"), rows)


def write_results(folder: Path, name: str, document: Mapping[str, Any], markdown: str) -> None:
    """Write `<name>.json` with the raw samples and `<name>.md`, and print the latter.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.json", json.dumps(document, indent=1) + "\n")
    write_text(folder / f"{name}.md", markdown)
    print(markdown)
