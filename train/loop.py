"""The one training loop: anything that turns images into logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.errors import TrainingError
from pgn_edge.nn.checkpoint import load_tensors, save_tensors
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.preprocess import Preprocess
from pgn_edge.progress import Progress, silent
from pgn_edge.train.augment import augment
from pgn_edge.train.config import Schedule
from pgn_edge.train.data import DataSet, Split


@dataclass
class History:
    """What happened, epoch by epoch, and the best of it.

    Args:
        loss: mean training loss of each epoch.
        validation: validation accuracy after each epoch, 0..1.
        best_state: parameters and buffers of the best epoch, without the frozen ViT.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int:
        """Index of the first epoch with the best validation accuracy."""
        return int(np.argmax(self.validation))


@dataclass(frozen=True)
class Listeners:
    """Who is told what while a loop runs.

    Args:
        progress: steps done, with loss and accuracy.
        on_best: called with the model at each new best epoch.
        resume: file that holds the whole state after each epoch; read first if it is there.
        title: of the progress.
        about: what the run is made of beside its schedule; the state of another one is refused.
    """

    progress: Progress = silent
    on_best: Callable[[History], None] = lambda history: None
    resume: Path | None = None
    title: str = "training"
    about: Mapping[str, Any] = field(default_factory=dict)


def fit(model: nn.Module, data: DataSet, preprocess: Preprocess, schedule: Schedule, listeners: Listeners) -> History:
    """Train `model`, and leave the parameters of its best validation epoch in it.

    Args:
        model: normalised (B, 3, H, W) -> logits (B, C); only parameters that require gradients change.
        data: train and validation splits.
        preprocess: gives the normalisation.
        schedule: length, optimiser and seed; two runs of one schedule give the same bits on one machine.
        listeners: progress, best epochs and the file to resume from.

    Raises:
        TrainingError: loss or weights are not finite, or the file to resume from belongs to another run.
        CheckpointError: the file to resume from is damaged.
    """
    run = _Run(model, schedule, epoch_steps(len(data.train), schedule.batch))
    history = History()
    if listeners.resume is not None and listeners.resume.exists():
        run.restore(listeners.resume, history, listeners.about)
    for epoch in range(len(history.loss), schedule.epochs):
        losses = []
        for step, (image, label) in enumerate(batches(data.train, preprocess, schedule, epoch)):
            losses.append(run.step(image, label))
            note = f"loss {losses[-1]:.3f}" + (f", validation {max(history.validation):.1%}" if epoch else "")
            listeners.progress(listeners.title, epoch * run.epoch_steps + step + 1, run.steps, note)
        run.check_weights()
        history.loss.append(float(np.mean(losses)))
        history.validation.append(accuracy(model, data.validation, preprocess))
        if history.best_epoch == epoch:
            history.best_state = {key: value.clone() for key, value in run.state().items()}
            listeners.on_best(history)
        if listeners.resume is not None:
            run.save(listeners.resume, history, listeners.about)
    model.load_state_dict(history.best_state, strict=False)
    model.eval()
    return history


def epoch_steps(count: int, batch: int) -> int:
    """Batches in an epoch; none of a single image, with which batch norm may have nothing to average over."""
    return max(1, min(math.ceil(count / batch), count // 2))


def batches(split: Split, preprocess: Preprocess, schedule: Schedule, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented, normalised batches of one epoch; the order depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(schedule.seed * 100_003 + epoch)
    order = torch.randperm(len(split), generator=generator).numpy()
    for chosen in np.array_split(order, epoch_steps(len(order), schedule.batch)):
        image = torch.from_numpy(preprocess.normalise(split.images[chosen]))
        if schedule.augment:
            image = augment(image, generator)
        yield image, torch.from_numpy(split.labels[chosen])


@torch.no_grad()
def predict(model: nn.Module, split: Split, preprocess: Preprocess, batch: int = 128) -> np.ndarray:
    """Class index of each image, (n,) int64, in evaluation mode."""
    model.eval()
    parts = [split.images[start : start + batch] for start in range(0, len(split), batch)]
    logits = [model(torch.from_numpy(preprocess.normalise(part))) for part in parts]
    return np.asarray(torch.cat(logits).argmax(dim=1).numpy())


def accuracy(model: nn.Module, split: Split, preprocess: Preprocess) -> float:
    """Share of right answers, 0..1."""
    return float((predict(model, split, preprocess) == split.labels).mean())


class _Run:
    """Model, optimiser and learning rate of one run."""

    def __init__(self, model: nn.Module, schedule: Schedule, epoch_steps: int) -> None:
        self.model, self.schedule, self.epoch_steps = model, schedule, epoch_steps
        self.steps = epoch_steps * schedule.epochs
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": schedule.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer: torch.optim.Optimizer
        if schedule.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(groups, lr=schedule.lr)
        else:
            self.optimizer = torch.optim.SGD(self.parameters, lr=schedule.lr, momentum=0.9)
        self.done = 0

    def step(self, image: Tensor, label: Tensor) -> float:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        loss = F.cross_entropy(self.model(image), label)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged("a finite loss", str(value))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.done += 1
        return value

    def check_weights(self) -> None:
        """Refuse what the last step of an epoch broke, of which no later loss may tell."""
        bad = [name for name, tensor in self.state().items() if not torch.isfinite(tensor).all()]
        if bad:
            raise self._diverged("finite weights", f"NaN or Inf in {bad[0]}")

    def _diverged(self, expected: str, got: str) -> TrainingError:
        do = "lower --lr; the best checkpoint so far is kept"
        return TrainingError("training", expected=expected, got=f"{got} at step {self.done}", do=do)

    def _rate(self) -> float:
        """Linear warm-up, then a cosine from the peak to a hundredth of it."""
        schedule = self.schedule
        warm = max(1.0, schedule.warmup_epochs * self.epoch_steps)
        if self.done < warm:
            return schedule.lr * (self.done + 1) / warm
        share = (self.done - warm) / max(1.0, self.steps - warm)
        return schedule.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))

    def state(self) -> dict[str, Tensor]:
        """Everything but the frozen ViT."""
        modules = self.model.named_modules()
        frozen = tuple(f"{name}." for name, module in modules if isinstance(module, FrozenViT))
        state = self.model.state_dict()
        return {name: tensor for name, tensor in state.items() if not name.startswith(frozen)}

    def save(self, path: Path, history: History, about: Mapping[str, Any]) -> None:
        state = {
            "about": dict(about),
            "schedule": asdict(self.schedule),
            "steps": self.steps,
            "done": self.done,
            "model": self.state(),
            "optimizer": self.optimizer.state_dict(),
            "history": asdict(history),
        }
        save_tensors(path, state)

    def restore(self, path: Path, history: History, about: Mapping[str, Any]) -> None:
        data: dict[str, Any] = load_tensors(path)
        own = {"about": dict(about), "schedule": asdict(self.schedule), "steps": self.steps}
        try:
            found = {key: data[key] for key in own}
            if found != own:
                raise ValueError(str(found))
            self.model.load_state_dict(data["model"], strict=False)
            self.optimizer.load_state_dict(data["optimizer"])
            self.done = int(data["done"])
            for key, value in data["history"].items():
                setattr(history, key, value)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as exc:
            raise TrainingError(
                str(path),
                expected=f"the state of this very run, {own}",
                got=f"{exc}".split("\n")[0],
                do="use the same options, or leave --resume out",
            ) from exc
