"""Many runs after one another: each result is kept, one that fails does not end the others, and all of it resumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from pgn_edge.errors import (
    CheckpointError,
    DataError,
    GeometryError,
    InterruptedRunError,
    OutputError,
    PgnEdgeError,
    TrainingError,
)
from pgn_edge.left_out import LeftOut
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.vit import Backbone, FrozenViT
from pgn_edge.progress import Progress, silent
from pgn_edge.train.baselines.contenders import CONTENDERS, Setting
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.identity import identity
from pgn_edge.train.data.samples import Reading
from pgn_edge.train.data.table import load_data
from pgn_edge.train.distributed import make_accelerator
from pgn_edge.train.loop import ANYWHERE, accuracy, predict
from pgn_edge.train.store import Job, Result, Store


@dataclass(frozen=True)
class Base:
    """What all runs of a series have in common.

    Args:
        config: backbone, root and the PGN's shape; its data are replaced.
        schedule: the budget; its seed is the first one.
        seeds: how many, at least 1.
        execution: device and threads.
    """

    config: TrainConfig
    schedule: Schedule
    seeds: int = 3
    execution: Execution = ANYWHERE

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise TrainingError("seeds", expected="at least 1", got=str(self.seeds), do="choose another number")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise TrainingError(
                "series", expected="one process", got="several", do="start it without accelerate launch"
            )


@dataclass(frozen=True)
class Row:
    """All runs of one contender with the same options.

    Args:
        name: in tables.
        data: whose test images count.
        head: what it classifies with.
        results: one of each seed; one alone where nothing depends on the seed.
        problem: why results are missing; empty where none are.
        failed: whether that is a failure, and not a combination that cannot be.
    """

    name: str
    data: str
    head: str
    results: tuple[Result, ...] = ()
    problem: str = ""
    failed: bool = False


class Series:
    """Runs jobs that a store does not hold yet.

    Args:
        store: of their results.
        base: backbone and device.
        total: runs that are planned, for the progress.
        progress: of the runs, and of each of them.
    """

    def __init__(self, store: Store, base: Base, total: int, progress: Progress = silent) -> None:
        self.store, self.base, self.total, self.progress = store, base, total, progress
        self.done = 0
        self._data: dict[str, DataSet] = {}
        self._known: set[str] = set()  # data sets whose results may be mixed with those of the folder

    @cached_property
    def backbone(self) -> Backbone:
        """Loaded once; runs that train it take a copy."""
        return load_backbone(self.base.config.backbone, self.base.config.weights)

    def data(self, name: str) -> DataSet:
        """A data set of the series, its files listed once."""
        if name not in self._data:
            config, left_out = self.base.config, LeftOut(self.base.execution.strict)
            reading = Reading(left_out, config.white, self.progress)
            self._data[name] = load_data(name, config.root, template=config.template, reading=reading)
            self._data[name].require_training()
            self._data[name].require_readable(left_out)
        return self._data[name]

    def row(self, name: str, job: Job, data: str, rates: Sequence[float] = (1.0,)) -> Row:
        """All seeds of a job, with the best of several learning rates.

        Args:
            name: of the row.
            job: with the first seed.
            data: whose test images the row counts.
            rates: factors to the learning rate, of which the first seed's validation accuracy chooses.

        Raises:
            DataError: the data are not those of the results that the folder holds.
            InterruptedRunError: by a signal; everything that was finished is kept.
            OutputError: a result cannot be written.
        """
        contender, source = CONTENDERS[job.contender], job.config.data
        if source not in self._known:
            self.store.require_data(source, identity(self.data(source), test=True))
            self._known.add(source)
        planned = self.done + runs_of(job, self.base.seeds, rates)
        results: list[Result] = []
        row = Row(name, data, job.config.head)
        try:
            chosen, searched = self._search(job, rates if contender.learns else (1.0,))
            for index in range(self.base.seeds if contender.learns else 1):
                seed = chosen.schedule.seed + index
                results.append(self._result(replace_schedule(chosen, seed=seed), searched))
        except InterruptedRunError as exc:
            do = "start the same command again: it goes on where it stopped"
            raise InterruptedRunError("series", expected=f"{self.total} runs", got=exc.got, do=do) from exc
        except OutputError:
            raise
        except _ImpossibleError as exc:
            row = replace(row, problem=f"not possible: {exc}")
        except (PgnEdgeError, RuntimeError, MemoryError) as exc:  # torch says RuntimeError where memory ends
            row = replace(row, problem=" ".join(f"{exc or type(exc).__name__}".split()), failed=True)
        self.done = planned
        self._tell("")
        return replace(row, results=tuple(results))

    def _search(self, job: Job, rates: Sequence[float]) -> tuple[Job, dict[str, float]]:
        """The job with the best rate, and what each rate reached; the test split is not looked at."""
        jobs = [replace_schedule(job, lr=job.schedule.lr * rate) for rate in rates]
        if len(jobs) == 1:
            return jobs[0], {}
        found = self.store.search(job)
        if found is None or set(found) != {_rate(each) for each in jobs}:
            found = {}
            for each in jobs:
                found[_rate(each)] = self._try(each)
                self.done += 1
            self.store.keep_search(job, found)
        else:
            self.done += len(jobs)
        best = max(jobs, key=lambda each: found[_rate(each)])
        for each in jobs:
            if each is not best:
                self.store.tidy(each, checkpoint=self.store.result(each) is None)
        return best, found

    def _try(self, job: Job) -> float:
        """Validation accuracy of a job; 0 where it diverges. Its state stays, so that nothing is trained twice."""
        kept = self.store.result(job)
        if kept is not None:
            return kept.validation
        try:
            setting, model = self._train(job)
        except InterruptedRunError:
            raise
        except TrainingError:
            return 0.0
        device = make_accelerator("fp32", setting.execution).device
        return accuracy(model.to(device), setting.data.validation, setting.preprocess(model))

    def _result(self, job: Job, searched: dict[str, float]) -> Result:
        kept = self.store.result(job)
        if kept is None:
            setting, model = self._train(job)
            kept = self._measure(job, setting, model)
            self.store.keep(job, replace(kept, searched=searched))
        # Also where an earlier series ended between the two.
        self.store.tidy(job, checkpoint=False)
        self.done += 1
        return replace(kept, searched=searched)

    def _train(self, job: Job) -> tuple[Setting, nn.Module]:
        """A trained model on the CPU."""
        self._tell(f"{job.contender} on {job.config.data}, seed {job.schedule.seed}")
        self.backbone.vit.cpu()  # a run that failed may have left it elsewhere
        setting = Setting(
            job.contender,
            job.config,
            job.schedule,
            self.backbone,
            self.data(job.config.data),
            self.store.checkpoint(job),
            self.progress,
            self.base.execution,
        )
        build, train = CONTENDERS[job.contender].build, CONTENDERS[job.contender].train
        model = require_possible(setting, build)
        began, before = perf_counter(), self.store.seconds(job)
        try:
            model = train(setting, model)
        except CheckpointError:  # of a state that is damaged: begin anew
            if not self.store.has_state(job):
                raise
            self.store.tidy(job, checkpoint=True)
            began, before = perf_counter(), 0.0
            model = train(setting, require_possible(setting, build))
        finally:
            self.store.keep_seconds(job, before + perf_counter() - began)
        return setting, model

    def _measure(self, job: Job, setting: Setting, model: nn.Module) -> Result:
        """The one look at the test split, after everything is chosen."""
        data, preprocess = setting.data, setting.preprocess(model)
        model.to(make_accelerator("fp32", setting.execution).device)
        validation = accuracy(model, data.validation, preprocess)
        answer, labels = predict(model, data.test, preprocess), data.test.labels
        ends = np.cumsum([0, *(len(space.labels) for space in data.spaces)])
        space = np.searchsorted(ends, labels, side="right") - 1
        names = [space.name for space in data.spaces]
        read = [(space == index) & (answer >= 0) for index in range(len(names))]
        right = {name: int((answer == labels)[mask].sum()) for name, mask in zip(names, read, strict=True)}
        images = {name: int(mask.sum()) for name, mask in zip(names, read, strict=True)}
        missing = [name for name, count in images.items() if not count]
        if missing:
            raise DataError(missing[0], expected="test images that can be read", got="none", do="check the files")
        return Result(
            job.to_json(),
            right,
            images,
            validation,
            sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            stored_bytes(model),
            self.store.seconds(job),
            int((answer < 0).sum()),
        )

    def _tell(self, note: str) -> None:
        self.progress("runs", self.done, self.total, note)


class _ImpossibleError(Exception):
    """A combination of options that no model has."""


def require_possible(setting: Setting, build: Callable[[Setting], nn.Module]) -> nn.Module:
    """Build a model and let it see one image.

    Raises:
        _ImpossibleError: sizes, heads or options that do not fit each other.
    """
    try:
        model = build(setting)
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, *setting.preprocess(model).size_hw))
    except (CheckpointError, GeometryError, DataError) as exc:
        raise _ImpossibleError(str(exc)) from exc
    return model


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers but those of a ViT that stayed frozen."""
    frozen = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, FrozenViT) and not any(parameter.requires_grad for parameter in module.parameters())
    )
    state = model.state_dict().items()
    return sum(tensor.numel() * tensor.element_size() for name, tensor in state if not name.startswith(frozen))


def replace_schedule(job: Job, **changes: Any) -> Job:
    """The same job with other values in its schedule."""
    return replace(job, schedule=replace(job.schedule, **changes))


def runs_of(job: Job, seeds: int, rates: Sequence[float]) -> int:
    """How many runs `Series.row` makes of a job."""
    if not CONTENDERS[job.contender].learns:
        return 1
    return seeds + (len(rates) if len(rates) > 1 else 0)


def _rate(job: Job) -> str:
    return f"{job.schedule.lr:g}"
