"""`pgn-edge train`: a data set becomes a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.files import require_writable
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import GOLDEN_FRAMES, Checkpoint, save_checkpoint, spread
from pgn_edge.nn.generator import ResNet10
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.prompted import embed
from pgn_edge.nn.vit import Backbone, FrozenViT
from pgn_edge.preprocess import Preprocess
from pgn_edge.progress import Progress, silent
from pgn_edge.train.config import Schedule, TrainConfig
from pgn_edge.train.data import DataSet, load_data
from pgn_edge.train.loop import History, Listeners, fit


class PromptedViT(nn.Module):
    """A frozen ViT with a PGN before it and a head behind it: normalised images -> logits.

    Args:
        vit: the frozen ViT.
        pgn: emits the prompts.
        head: the classifier; its weights are trained only where it is linear.
        geometry: of the canvas that the task is deployed with.
    """

    def __init__(self, vit: FrozenViT, pgn: PGN, head: Head, geometry: Geometry) -> None:
        super().__init__()
        self.vit, self.pgn, self.geometry = vit, pgn, geometry
        self.head = HeadModule(head)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C) logits."""
        logits: Tensor = self.head(embed(self.vit, self.pgn, self.geometry, image))
        return logits


class HeadModule(nn.Module):
    """`heads.Head` in torch; a linear head learns, the others stay as they are."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.source = head
        learns = head.kind == "linear"
        self.weight = nn.Parameter(torch.from_numpy(head.weight.copy()), requires_grad=learns)
        self.bias = nn.Parameter(torch.from_numpy(head.bias.copy()), requires_grad=learns)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        head = self.source
        if head.kind == "mapping":
            return embedding[:, torch.from_numpy(head.index)]
        if head.kind == "text":
            return head.scale * F.normalize(embedding, dim=-1) @ self.weight.T
        return embedding @ self.weight.T + self.bias

    def to_head(self) -> Head:
        """The head as it is now, for checkpoints."""
        if self.source.kind != "linear":
            return self.source
        return Head.linear(self.weight.detach().numpy(), self.bias.detach().numpy(), self.source.labels)


@dataclass(frozen=True)
class TrainReport:
    """What training wrote and measured.

    Args:
        path: of the checkpoint.
        model: the trained model, its best epoch, in evaluation mode.
        data: what it learned from.
        preprocess: of its images.
        history: loss and validation accuracy of each epoch.
        seconds: wall time.
    """

    path: Path
    model: PromptedViT
    data: DataSet
    preprocess: Preprocess
    history: History
    seconds: float


def train_task(
    config: TrainConfig,
    schedule: Schedule,
    output: str | Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
) -> TrainReport:
    """Train a PGN and keep the checkpoint of the best validation accuracy.

    Args:
        config: what to train.
        schedule: how.
        output: the checkpoint, usually `ckpt.pt`; `ckpt.resume.pt` beside it holds the whole state.
        resume: go on from that state if it is there.
        progress: listener.

    Raises:
        CheckpointError: the backbone cannot be loaded, or the state to resume from is damaged.
        DataError: the data cannot be read, or the backbone cannot name its classes.
        GeometryError: prompts or resolution that do not fit.
        TrainingError: the loss diverged, or the state to resume from belongs to another run.
        OutputError: the output cannot be written.
    """
    start, path = perf_counter(), Path(output)
    require_writable(path)
    backbone = load_backbone(config.backbone, config.weights)
    vit = backbone.vit
    geometry = vit.geometry(config.prompts, config.layout)
    geometry.require_engine()
    preprocess = vit.spec.preprocess.with_size(geometry.content_hw)
    data = load_data(config.data, config.root, preprocess)
    torch.manual_seed(schedule.seed)
    pgn = _build_pgn(config, vit, geometry)
    model = PromptedViT(vit, pgn, _head(config, backbone, data), geometry)
    provenance = {
        "config": config.to_json(),
        "schedule": asdict(schedule),
        "sizes": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
    }

    def save(history: History) -> None:
        save_checkpoint(
            path,
            Checkpoint(
                name=data.name,
                backbone=config.backbone,
                fingerprint=vit.fingerprint(),
                geometry=geometry,
                preprocess=preprocess,
                pgn=pgn,
                head=model.head.to_head(),
                golden_images=_golden(data),
                provenance={**provenance, "training": _summary(history)},
            ),
        )

    state = path.with_name(f"{path.stem}.resume{path.suffix}")
    if not resume:
        state.unlink(missing_ok=True)
    if not state.exists() and schedule.warm_start and isinstance(pgn.generator, ResNet10):
        warm = replace(schedule, epochs=schedule.warm_start)
        cnn = train_cnn(data, preprocess, warm, Listeners(progress, title="warm start"), pgn.config.resolution)
        pgn.generator.load_state_dict(cnn.features(), strict=False)
    history = fit(model, data, preprocess, schedule, Listeners(progress, save, state, about=config.to_json()))
    if not path.exists():  # a finished run was resumed and its checkpoint is lost
        save(history)
    return TrainReport(path, model, data, preprocess, history, perf_counter() - start)


def train_cnn(
    data: DataSet, preprocess: Preprocess, schedule: Schedule, listeners: Listeners, resolution: int | None = None
) -> ResNet10:
    """Train the PGN's CNN as a plain classifier.

    Args:
        data: train and validation splits.
        preprocess: of its images.
        schedule: how.
        listeners: progress.
        resolution: width in pixels at which it looks; None takes the image width.

    Returns:
        Normalised images -> logits, its best validation epoch, in evaluation mode.
    """
    torch.manual_seed(schedule.seed)
    model = ResNet10(len(data.labels), resolution or preprocess.size_hw[1])
    fit(model, data, preprocess, schedule, listeners)
    return model


def _build_pgn(config: TrainConfig, vit: FrozenViT, geometry: Geometry) -> PGN:
    library = config.library or (geometry.prompts if config.generator == "constant" else 256)
    resolution = config.resolution or geometry.content_hw[1]
    # Prompt tokens start as large as the ViT's own positions: far smaller ones would be turned by a large angle in each
    # step of the optimiser, since the pre-norm takes their length away.
    std = float(vit.position.std()) if config.library_space == "token" else 1.0
    width = vit.width if config.library_space == "token" else 3 * geometry.patch**2
    shape = PgnConfig(config.generator, geometry.prompts, library, width, resolution, config.library_space)
    return PGN(shape, std, vit.spec.preprocess)


def _head(config: TrainConfig, backbone: Backbone, data: DataSet) -> Head:
    if config.head == "zero-shot":
        return backbone.zero_shot.head(data.labels, config.template or data.template)
    with torch.no_grad():
        image = torch.zeros(1, 3, *backbone.vit.spec.image_hw)
        width = backbone.vit(image).shape[1]
    weight = np.zeros((len(data.labels), width), np.float32)
    return Head.linear(weight, np.zeros(len(data.labels), np.float32), data.labels)


def _golden(data: DataSet) -> np.ndarray:
    images = data.validation.images
    return np.ascontiguousarray(images[spread(len(images), GOLDEN_FRAMES)])


def _summary(history: History) -> dict[str, Any]:
    best = history.best_epoch
    return {
        "epochs": len(history.loss),
        "best_epoch": best + 1,
        "validation_accuracy": history.validation[best],
    }
