"""`pgn-edge train`: a data set becomes a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from pgn_edge.errors import TrainingError
from pgn_edge.files import require_writable
from pgn_edge.geometry import Geometry
from pgn_edge.left_out import LeftOut
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.canvas import to_input
from pgn_edge.nn.checkpoint import GOLDEN_FRAMES, Checkpoint, HeldOut, load_checkpoint, save_checkpoint, spread
from pgn_edge.nn.generator import ResNet10, make_generator
from pgn_edge.nn.pgn import PGN
from pgn_edge.nn.vit import Backbone
from pgn_edge.preprocess import Preprocess
from pgn_edge.progress import Progress, silent
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.samples import Reading, Subset
from pgn_edge.train.data.table import load_data
from pgn_edge.train.distributed import make_accelerator
from pgn_edge.train.heads import HeadOption, make_head, resolve_head
from pgn_edge.train.loader import EVALUATION_BATCH, in_groups, in_order, read_all
from pgn_edge.train.loop import ANYWHERE, History, Listeners, fit
from pgn_edge.train.model import PromptedViT
from pgn_edge.train.pictures import Pictures
from pgn_edge.train.start import build_pgn

HELD_OUT_IMAGES = 512  # of the validation split, that the drift alarm is calibrated on
MAPPED_IMAGES = 2048  # training images that a label mapping is chosen by


@dataclass(frozen=True)
class TrainReport:
    """What training wrote and measured.

    Args:
        path: of the checkpoint.
        model: the trained model, its best epoch, on the CPU in evaluation mode.
        data: what it learned from.
        preprocess: of its images.
        history: loss, validation accuracy and speed of each epoch.
        seconds: wall time.
        left_out: images that this process could not read.
        head: Name of the head that was trained with, never `auto`.
    """

    path: Path
    model: PromptedViT
    data: DataSet
    preprocess: Preprocess
    history: History
    seconds: float
    left_out: LeftOut
    head: HeadOption


def train_task(
    config: TrainConfig,
    schedule: Schedule,
    output: str | Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
    execution: Execution = ANYWHERE,
) -> TrainReport:
    """Train a PGN and keep the checkpoint of the best validation accuracy.

    Under `accelerate launch` every process calls this; the first one alone writes and tells of its progress.

    Args:
        config: what to train.
        schedule: how.
        output: the checkpoint, usually `ckpt.pt`; `ckpt.resume.pt` beside it holds the whole state, and as long as the
            run is not finished `ckpt.warm.pt` that of the warm start.
        resume: go on from these states if they are there.
        progress: listener.
        execution: device, threads and logs.

    Raises:
        CheckpointError: the backbone cannot be loaded, or the state to resume from is damaged.
        DataError: the data cannot be read, or the backbone cannot name its classes.
        GeometryError: prompts or resolution that do not fit.
        TrainingError: the loss diverged, the run was interrupted, the state to resume from belongs to another run, or a
            model is to be compiled whose canvas goes through a codec.
        OutputError: the output cannot be written.
    """
    start, path = perf_counter(), Path(output)
    if execution.compile and config.transport is not None:
        raise TrainingError(
            "compile", expected="a canvas of floats", got=config.transport, do="leave --compile or --transport out"
        )
    require_writable(path)
    accelerator = make_accelerator(schedule.precision, execution)
    left_out = LeftOut(execution.strict)
    listing = progress if accelerator.is_main_process else silent
    config, model, data, preprocess = _prepare(config, schedule.seed, Reading(left_out, config.white, listing))
    files = _Files(path, config, schedule, data, preprocess, left_out)
    if not resume and accelerator.is_main_process:
        files.forget()
    accelerator.wait_for_everyone()
    about = config.to_json()
    if not files.state.exists() and schedule.warm_start:
        listeners = Listeners(progress, resume=files.warm, title="warm start", about=about)
        _warm_start(model.pgn, data, preprocess, schedule, listeners, execution)
    listeners = Listeners(
        progress,
        on_best=lambda history: files.save(model, history),
        before_epoch=Remap(model, data, preprocess, execution.workers),
        resume=files.state,
        about=about,
        left_out=left_out,
        checkpoint=path,
    )
    history = fit(model, data, preprocess, schedule, listeners, execution)
    if accelerator.is_main_process:
        # A finished run that is resumed changes nothing; one whose checkpoint is lost gets it back.
        if not path.exists() or load_checkpoint(path).held_out is None:
            files.save(model, history, _held_out(model, data, preprocess, accelerator.device, progress))
        files.warm.unlink(missing_ok=True)
    return TrainReport(path, model, data, preprocess, history, perf_counter() - start, left_out, config.head)


@torch.no_grad()
def _held_out(
    model: PromptedViT, data: DataSet, preprocess: Preprocess, device: torch.device, progress: Progress
) -> HeldOut:
    """What the trained model makes of validation images, at most 512 spread over the split; it ends on the CPU."""
    samples = Subset(data.validation, spread(len(data.validation), HELD_OUT_IMAGES))
    model = model.to(device).eval()
    head, embeddings = model.head.to_head(), []
    for images, indices in in_order(samples, preprocess, batch=EVALUATION_BATCH):
        found = model.embed(to_input(torch.from_numpy(images), preprocess, device))
        embeddings.append(found.float().cpu().numpy())
        progress("held-out images", int(indices[-1]) + 1, len(samples))
    model.cpu()
    whole = np.concatenate(embeddings)
    return HeldOut(whole, head.scores(whole).max(axis=1).astype(np.float32))


def _prepare(config: TrainConfig, seed: int, reading: Reading) -> tuple[TrainConfig, PromptedViT, DataSet, Preprocess]:
    """What training begins with, the same for the same seed.

    Returns:
        Configuration with the head that `auto` stands for, model, data, and preprocessing of its images.
    """
    backbone = load_backbone(config.backbone, config.weights)
    vit = backbone.vit
    geometry = vit.geometry(config.prompts, config.layout)
    geometry.require_engine()
    data = load_data(config.data, config.root, template=config.template, reading=reading)
    data.require_training()
    data.require_readable(reading.left_out)
    config = replace(config, head=resolve_head(config.head, backbone, data))
    model = build_model(config, backbone, geometry, data, seed)
    return config, model, data, vit.spec.preprocess.with_size(geometry.content_hw)


def build_model(config: TrainConfig, backbone: Backbone, geometry: Geometry, data: DataSet, seed: int) -> PromptedViT:
    """The model as training begins, the same for the same seed.

    Args:
        config: of the run.
        backbone: the frozen ViT and its own head.
        geometry: of the canvas.
        data: gives the classes.
        seed: of initialisation.

    Raises:
        CheckpointError: sizes or options of the PGN that do not fit each other.
        DataError: a head that this backbone cannot have.
    """
    torch.manual_seed(seed)
    pgn = build_pgn(config, backbone.vit, geometry)
    head = make_head(resolve_head(config.head, backbone, data), backbone, data.spaces, seed)
    return PromptedViT(backbone.vit, pgn, head, geometry, config.carrier)


def train_cnn(
    data: DataSet,
    preprocess: Preprocess,
    schedule: Schedule,
    listeners: Listeners,
    resolution: int | None = None,
    execution: Execution = ANYWHERE,
) -> ResNet10:
    """Train the PGN's CNN as a plain classifier.

    Args:
        data: train and validation splits.
        preprocess: of its images.
        schedule: how.
        listeners: progress.
        resolution: width in pixels at which it looks; None takes the image width.
        execution: device, threads and logs.

    Returns:
        Normalised images -> logits, its best validation epoch, in evaluation mode.
    """
    torch.manual_seed(schedule.seed)
    model = ResNet10(len(data.labels), resolution or preprocess.size_hw[1])
    fit(model, data, preprocess, schedule, listeners, execution)
    return model


def _warm_start(
    pgn: PGN | None,
    data: DataSet,
    preprocess: Preprocess,
    schedule: Schedule,
    listeners: Listeners,
    execution: Execution,
) -> None:
    """Let the layers of a generator, but for its head, learn the labels on their own."""
    if pgn is None or pgn.generator is None or pgn.config.generator == "constant":
        return
    folder, shape = execution.log_dir, pgn.config
    execution = replace(execution, log_dir=None if folder is None else folder / "warm-start")
    torch.manual_seed(schedule.seed)
    net = make_generator(pgn.config.generator, len(data.labels), shape.resolution, shape.hidden)
    fit(net, data, preprocess, replace(schedule, epochs=schedule.warm_start), listeners, execution)
    pgn.generator.load_state_dict(net.features(), strict=False)


class Remap:
    """Chooses the outputs that a label mapping reads, where the head has one: once, or anew before each epoch.

    Args:
        model: whose head is mapped, where it lies.
        data: its training split is looked at, at most 2,048 images spread over the classes.
        preprocess: of its images.
        workers: threads that decode; None for as many as there are cores, at most 8.
    """

    def __init__(self, model: PromptedViT, data: DataSet, preprocess: Preprocess, workers: int | None) -> None:
        self.model, self.workers = model, workers
        by_class = np.argsort(data.train.labels, kind="stable")
        chosen = np.sort(by_class[spread(len(by_class), MAPPED_IMAGES)])
        self.pictures = Pictures(Subset(data.train, chosen), preprocess, LeftOut())

    @torch.no_grad()
    def __call__(self, epoch: int) -> None:
        """To be called before each epoch, numbered from 0."""
        head, model = self.model.head, self.model.eval()
        if not head.mapping or (head.mapping == "once" and epoch):
            return
        embed = model.vit if head.mapping == "once" else model.embed
        embeddings, labels, device = [], [], model.vit.position.device
        everything = range(len(self.pictures.samples))
        for images, indices in in_groups(self.pictures, everything, EVALUATION_BATCH, self.workers):
            embeddings.append(embed(to_input(torch.from_numpy(images), self.pictures.preprocess, device)))
            labels.append(torch.from_numpy(self.pictures.samples.labels[indices]))
        head.remap(torch.cat(embeddings), torch.cat(labels).to(device))


class _Files:
    """What a run leaves on disk."""

    def __init__(
        self,
        path: Path,
        config: TrainConfig,
        schedule: Schedule,
        data: DataSet,
        preprocess: Preprocess,
        left_out: LeftOut,
    ) -> None:
        self.path, self.config, self.data, self.preprocess = path, config, data, preprocess
        self.state, self.warm = (path.with_name(f"{path.stem}.{kind}{path.suffix}") for kind in ("resume", "warm"))
        self.provenance = {
            "config": config.to_json(),
            "schedule": asdict(schedule),
            "sizes": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
            "facts": dict(data.facts),
        }
        shown = Subset(data.validation, spread(len(data.validation), GOLDEN_FRAMES))
        self.golden = read_all(shown, preprocess, left_out)
        self.weights_sha256 = ""

    def forget(self) -> None:
        """Remove the states of an earlier run."""
        for path in (self.state, self.warm):
            path.unlink(missing_ok=True)

    def save(self, model: PromptedViT, history: History, held_out: HeldOut | None = None) -> None:
        """Write the checkpoint."""
        assert model.pgn is not None
        # The ViT is frozen, and hashing a large one takes a second, so this is done once a run.
        self.weights_sha256 = self.weights_sha256 or model.vit.weights_sha256()
        checkpoint = Checkpoint(
            name=self.data.name,
            backbone=self.config.backbone,
            fingerprint=model.vit.fingerprint(),
            weights_sha256=self.weights_sha256,
            geometry=model.geometry,
            preprocess=self.preprocess,
            pgn=model.pgn,
            head=model.head.to_head(),
            golden_images=self.golden,
            provenance={
                **self.provenance,
                "activation": model.vit.activation(),
                "training": _summary(history),
            },
            held_out=held_out,
        )
        save_checkpoint(self.path, checkpoint)


def _summary(history: History) -> dict[str, Any]:
    best = history.best_epoch
    return {
        "epochs": len(history.loss),
        "best_epoch": best + 1,
        "validation_accuracy": history.validation[best],
    }
