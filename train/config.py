"""What a training run is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pgn_edge.errors import TrainingError
from pgn_edge.geometry import Layout
from pgn_edge.nn.pgn import GeneratorName, LibrarySpace

HeadChoice = Literal["zero-shot", "linear"]
Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Args:
        epochs: passes over the training split, at least 1.
        warm_start: passes before these in which the generator's CNN learns the labels on its own. They are cheap, since
            the ViT is not run, and the prompts start out from features that tell the classes apart.
        batch: images in a step.
        optimizer: `adamw`, or `sgd` with momentum 0.9 as in the paper.
        lr: peak learning rate, reached after the warm-up, then down a cosine to a hundredth of it.
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        weight_decay: of AdamW, on matrices only.
        augment: whether images are shifted, turned, scaled and re-lit a little.
        seed: of initialisation, order and augmentation.
    """

    epochs: int = 40
    warm_start: int = 20
    batch: int = 32
    optimizer: Optimizer = "adamw"
    lr: float = 3e-3
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            raise TrainingError(
                "optimizer",
                expected=" or ".join(get_args(Optimizer)),
                got=repr(self.optimizer),
                do="choose one",
            )
        if self.epochs < 1 or self.warm_start < 0 or self.batch < 2 or not 0 < self.lr < math.inf:
            raise TrainingError(
                "schedule",
                expected="at least 1 epoch, no negative warm start, 2 images in a batch and a positive learning rate",
                got=f"{self.epochs}, {self.warm_start}, {self.batch} and {self.lr}",
                do="choose other values",
            )
        if not 0 <= self.seed < 2**32:
            raise TrainingError("seed", expected="0 to 2^32 - 1", got=str(self.seed), do="choose another")
        if not (0 <= self.warmup_epochs < math.inf and 0 <= self.weight_decay < math.inf):
            raise TrainingError(
                "schedule",
                expected="no negative warm-up and no negative weight decay",
                got=f"{self.warmup_epochs} and {self.weight_decay}",
                do="choose other values",
            )


@dataclass(frozen=True)
class TrainConfig:
    """A PGN to train.

    Args:
        data: `digits`, or a folder of classes.
        backbone: the frozen ViT, for example `builtin` or `open_clip:ViT-B-32/openai`.
        root: where the data set lies, for those that are not embedded.
        weights: backbone weights to read instead of downloading them.
        prompts: K; None takes what fills whole rows, near 16.
        library: N; None takes 256, or K for `constant`.
        generator: `resnet10`, or `constant` for input-independent prompts.
        resolution: width in pixels at which the generator looks; None takes the image width.
        layout: `append` or `inset`.
        library_space: `token` as in the paper; `pixel` for patches of legal RGB, which every projection takes.
        head: `zero-shot` keeps the frozen model's own head; `linear` trains one beside the PGN.
        template: sentence around the class name for text heads; None takes the data set's own.
    """

    data: str
    backbone: str = "builtin"
    root: str | None = None
    weights: str | None = None
    prompts: int | None = 16
    library: int | None = None
    generator: GeneratorName = "resnet10"
    resolution: int | None = None
    layout: Layout = "append"
    library_space: LibrarySpace = "token"
    head: HeadChoice = "zero-shot"
    template: str | None = None

    def to_json(self) -> Mapping[str, Any]:
        """A JSON object for checkpoints."""
        return asdict(self)
