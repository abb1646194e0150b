"""The one training loop: anything that turns images into logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pgn_edge.errors import InterruptedRunError
from pgn_edge.left_out import LeftOut
from pgn_edge.preprocess import Preprocess
from pgn_edge.progress import Progress, silent
from pgn_edge.train.board import Board
from pgn_edge.train.config import Execution, Schedule
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.identity import identity
from pgn_edge.train.data.samples import Samples
from pgn_edge.train.distributed import joint_batch_norm, make_accelerator, share_of
from pgn_edge.train.interrupt import Interrupt
from pgn_edge.train.loader import EVALUATION_BATCH, TrainLoader, answers
from pgn_edge.train.pictures import Pictures, unreadable
from pgn_edge.train.run import CONTENTS, Run


@dataclass
class History:
    """What happened, epoch by epoch, and the best of it.

    Args:
        loss: mean training loss of each epoch.
        validation: validation accuracy after each epoch, 0..1.
        images_per_s: images trained on in a second, of each epoch, over all processes.
        waiting: share of each epoch's time that training stood still for images, 0..1.
        best_state: parameters and buffers of the best epoch, on the CPU, without a frozen ViT.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    images_per_s: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int:
        """Index of the first epoch with the best validation accuracy."""
        return int(np.argmax(self.validation))

    def is_stale(self, patience: int) -> bool:
        """Whether the last `patience` epochs brought nothing better; never for a patience of 0."""
        return bool(patience and self.validation) and len(self.validation) - 1 - self.best_epoch >= patience


@dataclass(frozen=True)
class Listeners:
    """Who is told what while a loop runs.

    Args:
        progress: steps done, with loss, learning rate, images in a second and accuracy.
        on_best: called at each new best epoch, in the first process alone.
        before_epoch: called with the number of each epoch before its first step, in every process.
        resume: file that holds the whole state, written after each epoch and when the run is interrupted; read first
            if it is there.
        title: of the progress.
        about: what the run is made of beside its schedule; the state of another one is refused.
        left_out: counts images that cannot be read.
        checkpoint: Path of the file that `on_best` writes; None where it writes none.
    """

    progress: Progress = silent
    on_best: Callable[[History], None] = lambda history: None
    before_epoch: Callable[[int], None] = lambda epoch: None
    resume: Path | None = None
    title: str = "training"
    about: Mapping[str, Any] = field(default_factory=dict)
    left_out: LeftOut | None = None
    checkpoint: Path | None = None


NOBODY, ANYWHERE = Listeners(), Execution()


def fit(
    model: nn.Module,
    data: DataSet,
    preprocess: Preprocess,
    schedule: Schedule,
    listeners: Listeners = NOBODY,
    execution: Execution = ANYWHERE,
) -> History:
    """Train `model`, and leave it on the CPU in evaluation mode with the weights of its best validation epoch.

    A run with a file to resume from answers SIGINT, SIGTERM and SIGHUP at the end of a step: it writes its state and
    raises.

    Args:
        model: normalised (B, 3, H, W) -> logits (B, C); only parameters that require gradients change.
        data: train and validation splits.
        preprocess: frame -> image of the model, and its normalisation.
        schedule: length, optimiser and seed; two runs of one schedule give the same bits on one machine's CPU.
        listeners: progress, best epochs and the file to resume from.
        execution: device, threads and logs.

    Raises:
        TrainingError: loss or weights are not finite, the run was interrupted, the device is not there, or the file to
            resume from belongs to another run.
        CheckpointError: the file to resume from is damaged.
        DataError: nothing can be read, or one image cannot and `execution` is strict.
    """
    data.require_training()
    accelerator = make_accelerator(schedule.precision, execution)
    left_out = listeners.left_out or LeftOut(execution.strict)
    place = accelerator.process_index, accelerator.num_processes
    loader = TrainLoader(Pictures(data.train, preprocess, left_out), schedule, execution.workers, place)
    run = Run(model, loader, accelerator, execution)
    folder = execution.log_dir if accelerator.is_main_process else None
    if listeners.resume is not None:
        listeners = replace(listeners, about={**listeners.about, CONTENTS: identity(data)})
    with Interrupt(listeners.resume is not None) as interrupt, Board(folder) as board:
        course = _Course(run, Pictures(data.validation, preprocess, left_out), listeners, execution, board, interrupt)
        with joint_batch_norm(model, accelerator):
            history = course.run_epochs()
    model.load_state_dict(history.best_state, strict=False)
    run.release()
    return history


class _Course:
    """The epochs of one run, and who hears of them."""

    def __init__(
        self,
        run: Run,
        validation: Pictures,
        listeners: Listeners,
        execution: Execution,
        board: Board,
        interrupt: Interrupt,
    ) -> None:
        self.run, self.validation, self.listeners, self.execution = run, validation, listeners, execution
        self.board, self.interrupt = board, interrupt
        self.accelerator = run.accelerator
        self.history = History()
        self.saved_s = perf_counter()
        run.kept = self._kept

    def _kept(self) -> str:
        """What the checkpoint file holds at this moment, in words."""
        path = self.listeners.checkpoint
        if path is None:
            return ""
        if self.history.validation:
            return f"{path} keeps epoch {self.history.best_epoch + 1}, the best so far"
        return f"{path} is of an earlier run" if path.exists() else "there is no checkpoint yet"

    def run_epochs(self) -> History:
        run, history, listeners = self.run, self.history, self.listeners
        if listeners.resume is not None and listeners.resume.exists():
            run.restore(listeners.resume, history, listeners.about)
        for epoch in range(len(history.loss), run.schedule.epochs):
            if history.is_stale(run.schedule.patience):
                break
            images_per_s = self._train(epoch)
            waiting = run.loader.waiting
            run.check_weights()
            right = self._validate()
            history.loss.append(float(np.mean(run.losses)))
            history.validation.append(right)
            history.images_per_s.append(images_per_s)
            history.waiting.append(waiting)
            curves = {"accuracy/validation": right, "time/images_per_s": images_per_s, "time/waiting": waiting}
            self.board.write(run.done, curves)
            if history.best_epoch == epoch:
                history.best_state = run.state()
                if self.accelerator.is_main_process:
                    listeners.on_best(history)
            self._save()
            if epoch + 1 < run.schedule.epochs:
                self._pause(save=False)
        return history

    def _train(self, epoch: int) -> float:
        """One epoch, or what is left of it; images in a second."""
        run = self.run
        start = run.done - epoch * run.loader.steps
        if not start:
            run.losses = []
            self.listeners.before_epoch(epoch)
        began, images, images_per_s = perf_counter(), 0, 0.0
        for parts in run.loader.epoch(epoch, start):
            rate, loss = run.rate(), run.step(parts)
            images += sum(len(part.labels) for part in parts) * self.accelerator.num_processes
            images_per_s = images / (perf_counter() - began)
            self._tell(loss, rate, images_per_s)
            self._pause(save=True)
        return images_per_s

    def _tell(self, loss: float, rate: float, images_per_s: float) -> None:
        self.board.write(self.run.done, {"loss/train": loss, "rate/lr": rate})
        if not self.accelerator.is_main_process:
            return
        note = f"loss {loss:.3f}, lr {rate:.1e}, {images_per_s:.0f} images/s"
        if self.history.validation:
            note += f", best {max(self.history.validation):.1%}"
        self.listeners.progress(self.listeners.title, self.run.done, self.run.steps, note)

    def _pause(self, save: bool) -> None:
        """Stop where a signal asks for it, and save where it is time to.

        Args:
            save: whether the state since the last step is not on disk yet.

        Raises:
            InterruptedRunError: the run was interrupted.
        """
        if self.listeners.resume is None:
            return
        due = perf_counter() - self.saved_s > 60 * self.execution.save_minutes
        flags = torch.tensor([float(bool(self.interrupt)), float(due)], device=self.accelerator.device)
        stop, time_to_save = (bool(flag) for flag in self.accelerator.reduce(flags, "max"))  # the same in every process
        if save and (stop or time_to_save):
            self._save()
        if stop:
            raise InterruptedRunError(
                "training",
                expected=f"to reach step {self.run.steps}",
                got=f"{self.interrupt.name or 'a signal in another process'} after step {self.run.done}",
                do="go on with the same command and --resume",
            )

    def _save(self) -> None:
        if self.listeners.resume is not None and self.accelerator.is_main_process:
            self.run.save(self.listeners.resume, asdict(self.history), self.listeners.about)
        self.saved_s = perf_counter()

    def _validate(self) -> float:
        """Share of right answers, over all processes."""
        indices = share_of(range(len(self.validation.samples)), self.accelerator)
        right = seen = 0
        with self.accelerator.autocast():
            for logits, found in answers(self.run.model, self.validation, indices, self.execution.workers):
                right += int((logits.argmax(dim=1).cpu().numpy() == self.validation.samples.labels[found]).sum())
                seen += len(found)
                if self.accelerator.num_processes == 1:
                    self._pause(save=True)
        right, seen = self.accelerator.reduce(torch.tensor([right, seen], device=self.accelerator.device), "sum")
        if not int(seen):
            raise unreadable(self.validation.left_out)
        return int(right) / int(seen)


def logits_of(
    model: nn.Module, samples: Samples, preprocess: Preprocess, *, batch: int = EVALUATION_BATCH
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of all images that can be read, in evaluation mode.

    Args:
        model: normalised (B, 3, H, W) -> logits (B, C); where it lies, it is computed.
        samples: n images.
        preprocess: frame -> image of the model, and its normalisation.
        batch: images in a batch, at most.

    Returns:
        Logits (m, C) float32, and the indices (m,) int64 of the images they are of.

    Raises:
        DataError: not one can be read.
    """
    left_out = LeftOut()
    pictures = Pictures(samples, preprocess, left_out)
    parts = list(answers(model, pictures, range(len(samples)), None, batch))
    if not parts:
        raise unreadable(left_out)
    logits = torch.cat([logits for logits, _ in parts])
    return logits.float().cpu().numpy(), np.concatenate([found for _, found in parts])


def predict(model: nn.Module, samples: Samples, preprocess: Preprocess, *, batch: int = EVALUATION_BATCH) -> np.ndarray:
    """Class index of each image, (n,) int64, -1 where it could not be read; arguments as of `logits_of`."""
    logits, indices = logits_of(model, samples, preprocess, batch=batch)
    chosen = np.full(len(samples), -1)
    chosen[indices] = logits.argmax(axis=1)
    return chosen


def accuracy(model: nn.Module, samples: Samples, preprocess: Preprocess) -> float:
    """Share of right answers among the images that can be read, 0..1; arguments as of `logits_of`."""
    logits, indices = logits_of(model, samples, preprocess)
    return float((logits.argmax(axis=1) == samples.labels[indices]).mean())
