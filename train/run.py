"""One run: a model on its device, its optimiser, and all that is needed to go on after an interruption."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.errors import TrainingError
from pgn_edge.nn.canvas import to_input
from pgn_edge.nn.tensor_file import load_tensors, save_tensors
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.train.augment import light
from pgn_edge.train.config import Execution
from pgn_edge.train.data.identity import difference
from pgn_edge.train.distributed import add_gradients
from pgn_edge.train.loader import Part, TrainLoader

if TYPE_CHECKING:
    from accelerate import Accelerator

CONTENTS = "contents of the data"  # key of what `identity` says of them
SERIES = ("loss", "validation", "images_per_s", "waiting")  # of a history: one number for each epoch

FORMAT = "pgn-edge training state"  # by which a file in the wrong place is recognised


class Run:
    """Model, optimiser and learning rate; it owns the model's place on the device until `release`.

    Args:
        model: normalised (B, 3, H, W) -> logits (B, C).
        loader: of the training split; its schedule is the run's.
        accelerator: device, processes and precision.
        execution: whether the model is compiled, and how convolutions keep their channels.
    """

    def __init__(self, model: nn.Module, loader: TrainLoader, accelerator: Accelerator, execution: Execution) -> None:
        self.model, self.loader, self.accelerator = model.to(accelerator.device), loader, accelerator
        self.schedule = loader.schedule
        self.steps = loader.steps * self.schedule.epochs
        self.format = torch.channels_last if execution.channels_last else torch.contiguous_format
        _set_format(model, self.format)
        self.forward = torch.compile(model) if execution.compile else model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = accelerator.prepare_optimizer(self._optimizer())
        self.losses: list[float] = []  # of the steps of this epoch
        self.kept: Callable[[], str] = str  # says what the checkpoint file holds, for a run that diverges
        self.done = 0

    def _optimizer(self) -> torch.optim.Optimizer:
        schedule = self.schedule
        if schedule.optimizer == "sgd":
            return torch.optim.SGD(self.parameters, lr=schedule.lr, momentum=schedule.momentum)
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": schedule.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=schedule.lr)

    def step(self, parts: list[Part]) -> float:
        """One step of the optimiser.

        Args:
            parts: this process's share of the step's images.

        Returns:
            The loss over all images of the step, of all processes.

        Raises:
            TrainingError: the loss is not finite; the weights are as they were before the step.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.accelerator.device)
        for part in parts:
            share = self._loss(part) * part.weight
            self.accelerator.backward(share)
            loss = loss + share.detach()
        value = float(self.accelerator.reduce(loss, "sum"))
        if not math.isfinite(value):
            raise self._diverged("a finite loss", str(value))
        add_gradients(self.parameters, self.accelerator)
        if self.schedule.clip:
            self.accelerator.clip_grad_norm_(self.parameters, self.schedule.clip)
        self.optimizer.step()
        self.done += 1
        self.losses.append(value)
        return value

    def _loss(self, part: Part) -> Tensor:
        device = self.accelerator.device
        image = to_input(part.images, self.loader.pictures.preprocess, device)
        if part.changes is not None:
            image = light(image, part.changes.to(device))
        with self.accelerator.autocast():
            logits = self.forward(image.contiguous(memory_format=self.format))
        return F.cross_entropy(logits.float(), part.labels.to(device))

    def check_weights(self) -> None:
        """Refuse what the last step of an epoch broke, of which no later loss may tell.

        Raises:
            TrainingError: a weight is not finite.
        """
        bad = [name for name, tensor in self.state().items() if not torch.isfinite(tensor).all()]
        if bad:
            raise self._diverged("finite weights", f"NaN or Inf in {bad[0]}")

    def _diverged(self, expected: str, got: str) -> TrainingError:
        kept = self.kept()
        do = f"lower --lr; {kept}" if kept else "lower --lr"
        return TrainingError("training", expected=expected, got=f"{got} at step {self.done}", do=do)

    def rate(self) -> float:
        """Learning rate of the next step: a linear warm-up, then a cosine from the peak to its end."""
        schedule = self.schedule
        warm = max(1.0, schedule.warmup_epochs * self.loader.steps)
        if self.done < warm:
            return schedule.lr * (self.done + 1) / warm
        share = (self.done - warm) / max(1.0, self.steps - warm)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        return schedule.lr * (schedule.lr_end + (1 - schedule.lr_end) * cosine)

    def state(self) -> dict[str, Tensor]:
        """A copy on the CPU of everything but a frozen ViT; a ViT that is being trained is in it."""
        modules = ((name, module) for name, module in self.model.named_modules() if isinstance(module, FrozenViT))
        frozen = tuple(f"{name}." for name, module in modules if not any(p.requires_grad for p in module.parameters()))
        state = self.model.state_dict()
        return {name: _copy(tensor) for name, tensor in state.items() if not name.startswith(frozen)}

    def save(self, path: Path, history: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Write all that `restore` needs.

        Args:
            path: of the file.
            history: what happened so far; tensors and plain values.
            about: what the run is made of beside its schedule.

        Raises:
            OutputError: it cannot be written.
        """
        scaler = self.accelerator.scaler
        state = {
            "format": FORMAT,
            "run": self._own(about),
            "done": self.done,
            "losses": self.losses,
            "model": self.state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "history": dict(history),
        }
        save_tensors(path, state)

    def restore(self, path: Path, history: object, about: Mapping[str, Any]) -> None:
        """Go on from what `save` wrote.

        Args:
            path: of the file.
            history: is given the fields that were saved.
            about: what this run is made of beside its schedule.

        Raises:
            TrainingError: it belongs to another run, or to another program.
            CheckpointError: it is damaged.
        """
        data: Any = load_tensors(path)
        try:
            _require_same(path, dict(data["run"]), self._own(about))
            own = self.state()
            _require_shapes("model", data["model"], own)
            self.model.load_state_dict(data["model"], strict=False)
            self.optimizer.load_state_dict(data["optimizer"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(data["scaler"])
            self.done, self.losses = int(data["done"]), [float(loss) for loss in data["losses"]]
            for name, value in _history(data["history"], own).items():
                setattr(history, name, value)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as exc:
            got = f"{type(exc).__name__}: {exc}".split("\n")[0]
            raise _foreign(path, "the state of this very run", got) from exc

    def _own(self, about: Mapping[str, Any]) -> dict[str, Any]:
        return {**about, **asdict(self.schedule), "steps": self.steps}

    def release(self) -> None:
        """Bring the model back to the CPU, in evaluation mode."""
        _set_format(self.model, torch.contiguous_format)
        self.model.cpu().eval()


def _set_format(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the weights of convolutions, but for the frozen ViT's one."""
    for part in model.children():
        if not isinstance(part, FrozenViT):
            part.to(memory_format=memory_format)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _history(saved: Mapping[str, Any], own: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of a history, checked: a state from elsewhere sets no other attributes and no other types."""
    series = {name: [float(value) for value in saved[name]] for name in SERIES}
    lengths = {name: len(values) for name, values in series.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"series of different lengths, {lengths}")
    best = saved["best_state"]
    if lengths["validation"]:
        _require_shapes("best_state", best, own)
    odd = set(saved) - {*series, "best_state"}
    if odd:
        raise ValueError(f"{min(odd)} in the history")
    return {**series, "best_state": dict(best)}


def _require_shapes(what: str, found: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    for name in (*own, *found):
        if name not in own or found[name].shape != own[name].shape:
            raise ValueError(f"{name} of {what} is not as in this model")


def _require_same(path: Path, found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if CONTENTS in own:
        changed = difference(found.get(CONTENTS), own[CONTENTS])
        if changed is not None:
            do = "bring back the data that the run began with, or leave --resume out"
            raise TrainingError(str(path), expected=changed[0], got=changed[1], do=do)
    for name, value in own.items():
        if name not in found or found[name] != value:
            before = f"{name} {found.get(name, 'of this release')}"
            raise _foreign(path, f"the options of the run that it is of, {before}", f"{name} {value}")


def _foreign(path: Path, expected: str, got: str) -> TrainingError:
    return TrainingError(str(path), expected=expected, got=got, do="use the same options, or leave --resume out")
