"""The loop of pre-training: fresh renderings in each step, and an augmentation that grows epoch by epoch.

Batch i of a stage is drawn from the seed (seed, stage, i): no batch is seen twice, and a run that was killed goes
on from its journal with the batches it would have had.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError
from pgn_edge.nn.builtin import CHARACTERS, PREPROCESS
from pgn_edge.nn.tensor_file import load_tensors, save_tensors
from pgn_edge.train.glyphs import load_bank, render_batch

SHARDS = 2
EPOCH = 50  # steps: the augmentation may grow once per epoch
CONSOLE = Console()
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Recipe:
    """What a run is made from; a state file of another recipe is refused.

    Args:
        seed: seed of the weights and of every batch.
        steps: steps of the ViT.
        teacher_steps: steps of the CNN.
        search_steps: steps of each short run of the learning-rate search.
        rate: peak learning rate of the ViT, or None to search.
    """

    seed: int
    steps: int
    teacher_steps: int
    search_steps: int
    rate: float | None


@dataclass(frozen=True)
class Stage:
    """One training run.

    Args:
        number: enters the seeds of its batches.
        title: shown while it runs, and the key of its state.
        steps: optimiser steps.
        rate: peak learning rate.
        batch: renderings per step.
        curriculum: (notch, gate): the strength grows by `notch` after an epoch that ends with at least the share
            `gate` of the renderings read right.
    """

    number: int
    title: str
    steps: int
    rate: float
    batch: int
    curriculum: tuple[float, float]


class Journal:
    """The state file of a run: finished stages, the one under way, and the seconds spent so far."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path = path
        self.data: dict[str, Any] = {"recipe": asdict(recipe), "seconds": 0.0}
        if path.exists():
            self.data = load_tensors(path)
        found = self.data.get("recipe") if isinstance(self.data, dict) else None
        if found != asdict(recipe):
            raise CheckpointError(
                str(path),
                expected=f"state of {asdict(recipe)}",
                got=f"state of {found}",
                do="delete the file or run with its options",
            )
        self.clock = time.monotonic()

    def save(self, key: str, value: Any) -> None:
        """Store one entry and the time spent, atomically."""
        now = time.monotonic()
        self.data["seconds"] += now - self.clock
        self.clock = now
        self.data[key] = value
        save_tensors(self.path, self.data)


class Gradients(contextlib.AbstractContextManager["Gradients"]):
    """Gradients of a batch, computed in shards by one thread per shard that each use one core.

    The threads meet once per step, not once per operator as torch's own do: on a shared machine those spend most
    of their time waiting for a core that somebody else has.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        self.objective = objective
        self.parameters = list(model.parameters())
        self.pool = ThreadPoolExecutor(SHARDS, initializer=torch.set_num_threads, initargs=(1,))

    def __exit__(self, *exc: object) -> None:
        self.pool.shutdown()

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Set `.grad` of all parameters to the batch's mean; returns its loss and accuracy."""
        parts = list(self.pool.map(self._shard, images.chunk(SHARDS), labels.chunk(SHARDS)))
        for parameter, *shards in zip(self.parameters, *(grads for grads, _, _ in parts), strict=True):
            parameter.grad = torch.stack(shards).mean(0)
        return sum(loss for _, loss, _ in parts) / SHARDS, sum(hits for _, _, hits in parts) / SHARDS

    def _shard(self, images: Tensor, labels: Tensor) -> tuple[tuple[Tensor, ...], float, float]:
        with torch.autocast("cpu", torch.bfloat16):
            loss, logits = self.objective(images, labels)
        hits = float((logits.detach().argmax(1) == labels).float().mean())
        return torch.autograd.grad(loss, self.parameters), float(loss.detach()), hits


class Curriculum:
    """How strong the augmentation is, and the running loss and accuracy that decide whether it grows."""

    def __init__(self, stage: Stage) -> None:
        self.notch, self.gate = stage.curriculum
        self.strength, self.loss, self.accuracy = 0.0, math.log(len(CHARACTERS)), 0.0

    def grow(self) -> None:
        """End an epoch."""
        if self.accuracy >= self.gate:
            self.strength = min(1.0, self.strength + self.notch)

    def update(self, loss: float, accuracy: float) -> str:
        """Take in one step and say where the run is."""
        self.loss += 0.05 * (loss - self.loss)
        self.accuracy += 0.05 * (accuracy - self.accuracy)
        return f"loss {self.loss:.3f}  accuracy {self.accuracy:.3f}  strength {self.strength:.2f}"


def batches(stage: Stage, seed: int, curriculum: Curriculum, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised (B, 3, 64, 64) float32 and labels (B,); the next is rendered while the net trains on this."""
    bank = load_bank()

    def render(step: int, strength: float) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((seed, stage.number, step))
        images, labels = render_batch(bank, rng, stage.batch, strength)
        return normalise(images), torch.from_numpy(labels)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(render, start, curriculum.strength)
        for step in range(start, stage.steps):
            batch = ahead.result()
            if (step + 1) % EPOCH == 0:
                curriculum.grow()
            if step + 1 < stage.steps:
                ahead = pool.submit(render, step + 1, curriculum.strength)
            yield batch


def normalise(images: np.ndarray) -> Tensor:
    """(B, 64, 64, 3) uint8 RGB -> normalised (B, 3, 64, 64) float32."""
    # Channels last, in which the teacher's convolutions are faster.
    return torch.from_numpy(PREPROCESS.normalise(images)).contiguous(memory_format=torch.channels_last)


def train(model: nn.Module, objective: Objective, stage: Stage, seed: int, journal: Journal | None) -> None:
    """Train in place with AdamW, warm-up and cosine decay; bf16 where autocast allows it.

    Args:
        model: holds the parameters to train.
        objective: (images, labels) -> loss and logits (B, 62), both float32.
        stage: how long and how fast.
        seed: seed of the batches.
        journal: where to go on from and to save to, or None for a short run.
    """
    optimiser = torch.optim.AdamW(_groups(model), lr=stage.rate, betas=(0.9, 0.98))
    curriculum = Curriculum(stage)
    start = _restore(model, optimiser, curriculum, journal.data.get(stage.title) if journal else None)
    with Gradients(model, objective) as gradients, _progress() as progress:
        task = progress.add_task(stage.title, total=stage.steps, completed=start, note="")
        model.train()
        for step, (images, labels) in enumerate(batches(stage, seed, curriculum, start), start):
            for group in optimiser.param_groups:
                group["lr"] = group["scale"] * rate_at(stage, step)
            loss, hits = gradients(images, labels)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            note = curriculum.update(loss, hits)
            progress.update(task, advance=1, note=note)
            if (step + 1) % EPOCH == 0:
                progress.console.print(f"{stage.title}  step {step + 1}/{stage.steps}  {note}")
            if journal and ((step + 1) % (4 * EPOCH) == 0 or step + 1 == stage.steps):
                journal.save(stage.title, _state(step + 1, model, optimiser, curriculum))
    model.eval()


def rate_at(stage: Stage, step: int) -> float:
    """Learning rate: linear warm-up over a twentieth of the steps, then a cosine to zero."""
    warm = max(1, min(200, stage.steps // 20))
    if step < warm:
        return stage.rate * (step + 1) / warm
    return stage.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (stage.steps - warm)))


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices only; the patch projection has none and learns slower, to stay orthogonal."""
    slow: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, value in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if "patch_embed" in name:
            slow.append(value)
        elif value.ndim < 2 or leaf in ("prefix", "position", "head"):
            free.append(value)
        else:
            decayed.append(value)
    return [
        {"params": slow, "scale": 0.2, "weight_decay": 0.0},
        {"params": free, "scale": 1.0, "weight_decay": 0.0},
        {"params": decayed, "scale": 1.0, "weight_decay": 0.05},
    ]


def _state(step: int, model: nn.Module, optimiser: torch.optim.Optimizer, curriculum: Curriculum) -> dict[str, Any]:
    state = {"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
    return {**state, "strength": curriculum.strength, "accuracy": curriculum.accuracy}


def _restore(
    model: nn.Module, optimiser: torch.optim.Optimizer, curriculum: Curriculum, state: dict[str, Any] | None
) -> int:
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    curriculum.strength, curriculum.accuracy = state["strength"], state["accuracy"]
    return int(state["step"])


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=CONSOLE)
