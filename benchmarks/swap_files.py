"""Pairs of tasks, of any backbone, swapping them, and bundles that must be refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from common import CLIP, PROMPTS, random_clip_task

from pgn_edge.bundle import read_bundle, write_bundle
from pgn_edge.errors import PgnEdgeError
from pgn_edge.files import write_bytes
from pgn_edge.runtime import Result, Runtime

FIRST, SECOND = "first", "second"
GOLDEN = 32  # as a trained task has
FRAMES, FRAME_HW = 16, (240, 320)
DAMAGE_EVERY = 10
TOLERANCE = 1e-4
EXACT, CLOSE, WRONG = "bit for bit", f"within {TOLERANCE:g}", "of neither bundle"


@dataclass(frozen=True)
class Files:
    """Engine and bundles of one model.

    Args:
        vit: ViT engine.
        bundles: two good bundles by name; each label begins with the name.
        damaged: bundles that must be refused, by what is wrong with them.
    """

    vit: Path
    bundles: Mapping[str, Path]
    damaged: Mapping[str, Path]


def builtin_task(folder: Path) -> Path:
    """A checkpoint of an untrained task for the ViT that the package brings."""
    import torch

    from pgn_edge.export.synthetic import pictures
    from pgn_edge.nn.backbones import load_backbone
    from pgn_edge.nn.checkpoint import Checkpoint, save_checkpoint
    from pgn_edge.nn.pgn import PGN, PgnConfig

    torch.manual_seed(0)
    backbone = load_backbone("builtin")
    vit, hw = backbone.vit, backbone.vit.spec.image_hw
    checkpoint = Checkpoint(
        name="random",
        backbone="builtin",
        fingerprint=vit.fingerprint(),
        weights_sha256=vit.weights_sha256(),
        geometry=vit.geometry(PROMPTS),
        preprocess=vit.spec.preprocess,
        pgn=PGN(PgnConfig("resnet10", PROMPTS, 64, vit.width, 32)).eval(),
        head=backbone.zero_shot.head(tuple("0123456789"), "{}"),
        golden_images=pictures(GOLDEN, hw, 0),
    )
    save_checkpoint(folder / "ckpt.pt", checkpoint)
    return folder / "ckpt.pt"


def make_files(folder: Path, *, small: bool) -> Files:
    """Export a ViT and two tasks for it, and spoil copies of them."""
    from pgn_edge.export.frozen import VitOptions, export_vit

    folder.mkdir()
    weights, checkpoint = (None, builtin_task(folder)) if small else random_clip_task(folder, GOLDEN, 0)
    vit = folder / "vit.onnx"
    export_vit("builtin" if small else CLIP, vit, VitOptions(prompts=PROMPTS, weights=weights))
    bundles = {name: _bundle(checkpoint, name, weights, seed) for seed, name in enumerate((FIRST, SECOND))}
    good, data = read_bundle(bundles[FIRST]), bundles[FIRST].read_bytes()
    flipped, middle = bytearray(data), len(data) // 2
    flipped[middle] ^= 1
    damaged = {name: folder / f"{name}.pgn" for name in ("a flipped bit", "cut short", "golden pair of another")}
    write_bytes(damaged["a flipped bit"], bytes(flipped))
    write_bytes(damaged["cut short"], data[:middle])
    # The dearest of refusals: the whole proof runs, and fails at its end.
    other = replace(good.golden, embedding=-good.golden.embedding)
    write_bundle(damaged["golden pair of another"], replace(good, golden=other))
    return Files(vit, bundles, damaged)


def _bundle(path: Path, name: str, weights: Path | None, seed: int) -> Path:
    import torch

    from pgn_edge.export.task import ExportOptions, export_task
    from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
    from pgn_edge.nn.pgn import PGN

    base = load_checkpoint(path)
    torch.manual_seed(seed + 1)
    labels = tuple(f"{name} {label}" for label in base.head.labels)
    own = replace(base, name=name, pgn=PGN(base.pgn.config).eval(), head=replace(base.head, labels=labels))
    save_checkpoint(path.with_name(f"{name}.pt"), own)
    bundle = path.with_name(f"{name}.pgn")
    export_task(path.with_name(f"{name}.pt"), bundle, ExportOptions(weights=weights))
    return bundle


def make_frames(seed: int) -> list[np.ndarray]:
    """Frames as a camera gives them."""
    from pgn_edge.export.synthetic import pictures

    return list(pictures(FRAMES, FRAME_HW, seed))


def judge(result: Result, expected: Mapping[str, Result]) -> str:
    """Whose answer it is, and how exactly; `WRONG` if it is of neither, or of half of each.

    Args:
        result: as it came.
        expected: what each bundle alone gives for the same frame, by its name.
    """
    owner = result.label.partition(" ")[0]
    wanted = expected.get(owner)
    if wanted is None or result.degraded or result.labels != wanted.labels:
        return WRONG
    pairs = ((result.embedding, wanted.embedding), (result.scores, wanted.scores))
    if all(np.array_equal(have, want) for have, want in pairs):
        return f"{owner}, {EXACT}"
    return f"{owner}, {CLOSE}" if all(np.allclose(*pair, rtol=0, atol=TOLERANCE) for pair in pairs) else WRONG


@dataclass
class Swaps:
    """Swaps of tasks under frames, one task after the other, from one bundle to the other and back.

    Args:
        runtime: that answers; its tasks begin with the bundle `FIRST`.
        files: bundles.
        tasks: names.
        done: swaps so far.
        spent_ms: from the call to the return of each.
        refused: damaged bundles that were refused, by what is wrong with them.
        accepted: damaged bundles that were not.
    """

    runtime: Runtime
    files: Files
    tasks: Sequence[str]
    done: int = 0
    spent_ms: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    accepted: int = 0

    def run(self, count: int) -> None:
        """Swap so many times; every tenth swap is tried with a damaged bundle first."""
        for _ in range(count):
            turn, which = divmod(self.done, len(self.tasks))
            self.done += 1
            if self.done % DAMAGE_EVERY == 0:
                self._try_damaged(self.tasks[which])
            start = perf_counter()
            self.runtime.swap(self.tasks[which], self.files.bundles[FIRST if turn % 2 else SECOND])
            self.spent_ms.append((perf_counter() - start) * 1e3)

    def _try_damaged(self, task: str) -> None:
        fault = list(self.files.damaged)[self.done // DAMAGE_EVERY % len(self.files.damaged)]
        try:
            self.runtime.swap(task, self.files.damaged[fault])
        except PgnEdgeError:
            self.refused[fault] += 1
        else:
            self.accepted += 1
