"""The contenders of a comparison: how each is built and trained, under one roof and one budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pgn_edge.left_out import LeftOut
from pgn_edge.nn.generator import make_generator
from pgn_edge.nn.vit import Backbone, FrozenViT
from pgn_edge.preprocess import Preprocess
from pgn_edge.progress import Progress
from pgn_edge.train.baselines.cnn import whole
from pgn_edge.train.baselines.probe import linear_probe
from pgn_edge.train.baselines.visual import VisualKind, VisuallyPrompted
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.distributed import make_accelerator
from pgn_edge.train.heads import make_head, resolve_head
from pgn_edge.train.loop import Listeners, fit
from pgn_edge.train.model import HeadModule, PromptedViT
from pgn_edge.train.start import MLP_SIDE
from pgn_edge.train.task import Remap, build_model, train_task

HeadRule = Literal["task", "frozen", "tuned", "linear"]


@dataclass(frozen=True)
class Setting:
    """One run of one contender.

    Args:
        contender: key of `CONTENDERS`.
        config: data, backbone, head and, for PGNs, their shape.
        schedule: the budget and the seed.
        backbone: the frozen ViT, already loaded.
        data: already loaded.
        path: of the checkpoint; states to resume from lie beside it.
        progress: listener.
        execution: device and threads.
    """

    contender: str
    config: TrainConfig
    schedule: Schedule
    backbone: Backbone
    data: DataSet
    path: Path
    progress: Progress
    execution: Execution

    @property
    def state(self) -> Path:
        """What an interrupted run goes on from."""
        return self.path.with_name(f"{self.path.stem}.resume{self.path.suffix}")

    def head(self) -> HeadModule:
        """The head as training begins."""
        head = resolve_head(self.config.head, self.backbone, self.data)
        return make_head(head, self.backbone, self.data.spaces, self.schedule.seed)

    def preprocess(self, model: nn.Module) -> Preprocess:
        """What the images of `model` go through first."""
        preprocess = self.backbone.vit.spec.preprocess
        return preprocess.with_size(model.geometry.content_hw) if isinstance(model, PromptedViT) else preprocess


@dataclass(frozen=True)
class Contender:
    """One row of a comparison.

    Args:
        title: in tables.
        build: the model before training: normalised (B, 3, H, W) -> logits (B, C). It refuses what cannot be.
        train: trains it, or another one like it, and returns it in evaluation mode on the CPU.
        head: `task`, the head that the data set is compared with; `frozen`, one that is never trained; `tuned`, the
            frozen model's own, trained on; `linear`, from zero.
        learns: whether a schedule trains it, so that it has a learning rate and a seed.
    """

    title: str
    build: Callable[[Setting], nn.Module]
    train: Callable[[Setting, nn.Module], nn.Module]
    head: HeadRule = "task"
    learns: bool = True


def _build_frozen(setting: Setting) -> nn.Module:
    vit = setting.backbone.vit
    return PromptedViT(vit, None, setting.head(), vit.geometry(0))


def _build_thawed(setting: Setting) -> nn.Module:
    vit = thaw(setting.backbone.vit)
    return PromptedViT(vit, None, setting.head(), vit.geometry(0))


def _build_visual(setting: Setting) -> nn.Module:
    return VisuallyPrompted(setting.backbone.vit, cast("VisualKind", setting.contender), setting.head())


def _build_cnn(setting: Setting) -> nn.Module:
    config, preprocess = setting.config, setting.backbone.vit.spec.preprocess
    assert config.generator != "constant"
    side = MLP_SIDE if config.generator == "mlp" else preprocess.size_hw[1]
    torch.manual_seed(setting.schedule.seed)
    return make_generator(config.generator, len(setting.data.labels), config.resolution or side, config.hidden)


def _build_prompted(setting: Setting) -> nn.Module:
    config, vit = setting.config, setting.backbone.vit
    geometry = vit.geometry(config.prompts, config.layout)
    geometry.require_engine()
    return build_model(config, setting.backbone, geometry, setting.data, setting.schedule.seed)


def _map(setting: Setting, model: nn.Module) -> nn.Module:
    """Nothing is trained; a head that maps chooses its outputs once."""
    assert isinstance(model, PromptedViT)
    device = make_accelerator("fp32", setting.execution).device
    Remap(model.to(device), setting.data, setting.preprocess(model), setting.execution.workers)(0)
    return model.cpu().eval()


def _probe(setting: Setting, model: nn.Module) -> nn.Module:
    assert isinstance(model, PromptedViT)
    device = make_accelerator("fp32", setting.execution).device
    head = linear_probe(model.vit.to(device), setting.data, setting.preprocess(model))
    model.head = HeadModule(head, learns=True)
    return model.cpu().eval()


def _fit(setting: Setting, model: nn.Module) -> nn.Module:
    """The common loop, for as many passes as a PGN has with its warm start."""
    preprocess = setting.preprocess(model)
    listeners = Listeners(
        setting.progress,
        resume=setting.state,
        about={**setting.config.to_json(), "contender": setting.contender},
        left_out=LeftOut(setting.execution.strict),
    )
    if isinstance(model, PromptedViT):
        remap = Remap(model, setting.data, preprocess, setting.execution.workers)
        listeners = replace(listeners, before_epoch=remap)
    fit(model, setting.data, preprocess, whole(setting.schedule), listeners, setting.execution)
    return model


def _train_task(setting: Setting, model: nn.Module) -> nn.Module:
    """As `pgn-edge train` does it; prompts that look at nothing have no warm start, and train on through its passes."""
    config, schedule = setting.config, setting.schedule
    if config.generator == "constant":
        schedule = whole(schedule)
    report = train_task(
        config, schedule, setting.path, resume=True, progress=setting.progress, execution=setting.execution
    )
    return report.model


def thaw(vit: FrozenViT) -> FrozenViT:
    """A copy of which everything is trained, class token and positions too."""
    copy = deepcopy(vit)
    for name in ("prefix", "position"):
        tensor: Tensor = getattr(copy, name)
        delattr(copy, name)
        copy.register_parameter(name, nn.Parameter(tensor))
    return copy.requires_grad_(True)


CONTENDERS: Mapping[str, Contender] = {
    "zero-shot": Contender("frozen ViT, zero-shot", _build_frozen, _map, head="frozen", learns=False),
    "linear-probe": Contender("linear probe", _build_frozen, _probe, head="linear", learns=False),
    "full-fine-tuning": Contender("full fine-tuning", _build_thawed, _fit, head="tuned"),
    "padding": Contender("visual prompt, padding", _build_visual, _fit),
    "fixed-patch": Contender("visual prompt, fixed patch", _build_visual, _fit),
    "random-patch": Contender("visual prompt, random patch", _build_visual, _fit),
    "constant": Contender("constant prompts", _build_prompted, _train_task),
    "cnn": Contender("the PGN's CNN alone", _build_cnn, _fit, head="linear"),
    "pgn": Contender("PGN", _build_prompted, _train_task),
    "multi-pgn": Contender("PGN for all data sets", _build_prompted, _train_task),
}
