"""What a training run is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pgn_edge.errors import TrainingError
from pgn_edge.geometry import Layout
from pgn_edge.nn.pgn import GeneratorName, LibrarySpace, Mixing
from pgn_edge.train.heads import HeadOption
from pgn_edge.transport import Transport

Optimizer = Literal["adamw", "sgd"]
Augment = Literal["none", "light", "paper"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Args:
        epochs: passes over the training split, at least 1.
        warm_start: passes before these in which the generator's CNN learns the labels on its own. They are cheap, since
            the ViT is not run, and the prompts start out from features that tell the classes apart.
        batch: images in a step of the optimiser, over all processes.
        accumulate: parts that a step is cut into, for batches that do not fit into memory.
        optimizer: `adamw`, or `sgd` as in the paper.
        lr: Peak learning rate, reached after the warm-up.
        lr_end: Share of the peak at the end of the cosine, 0..1; 0 as in the paper.
        momentum: of SGD.
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        weight_decay: of AdamW, on matrices only.
        clip: longest gradient; a longer one is shortened to it. 0 for none.
        augment: `light` shifts, turns, scales and re-lights each image a little; `paper` is the paper's, which mirrors
            images and so is wrong for text and digits; `none`.
        precision: of the arithmetic; weights stay fp32. `fp16` needs a GPU.
        patience: epochs without a better validation accuracy after which training ends; 0 for never.
        seed: of initialisation, order and augmentation.
    """

    epochs: int = 40
    warm_start: int = 20
    batch: int = 32
    accumulate: int = 1
    optimizer: Optimizer = "adamw"
    lr: float = 3e-3
    lr_end: float = 0.01
    momentum: float = 0.9
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    clip: float = 1.0
    augment: Augment = "light"
    precision: Precision = "fp32"
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _require_choice("optimizer", self.optimizer, Optimizer)
        _require_choice("augment", self.augment, Augment)
        _require_choice("precision", self.precision, Precision)
        limits = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "warm_start": (self.warm_start >= 0, "at least 0"),
            "batch": (self.batch >= 2, "at least 2 images"),
            "accumulate": (1 <= self.accumulate <= self.batch // 2, "1 up to half of the batch"),
            "lr": (0 < self.lr < math.inf, "a positive learning rate"),
            "momentum": (0 <= self.momentum < 1, "0 up to below 1"),
            "lr_end": (0 <= self.lr_end <= 1, "a share of the peak, 0 to 1"),
            "warmup_epochs": (0 <= self.warmup_epochs < math.inf, "no negative warm-up"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "no negative weight decay"),
            "clip": (0 <= self.clip < math.inf, "a length, or 0 for none"),
            "patience": (self.patience >= 0, "at least 0"),
            "seed": (0 <= self.seed < 2**32, "0 to 2^32 - 1"),
        }
        for name, (fits, expected) in limits.items():
            if not fits:
                raise TrainingError(name, expected=expected, got=str(getattr(self, name)), do="choose another value")


@dataclass(frozen=True)
class TrainConfig:
    """A PGN to train.

    Args:
        data: name of a data set, a folder of classes, a .csv, or several of them with commas between.
        backbone: the frozen ViT, for example `builtin` or `open_clip:ViT-B-32/openai`.
        root: where the data set lies, for those that are not embedded.
        weights: backbone weights to read instead of downloading them.
        prompts: K; None takes what fills whole rows, near 16.
        library: N; 0 for prompts straight from the generator; None takes 256, or K for `constant`.
        generator: `resnet10`, `resnet18`, `mlp`, or `constant` for input-independent prompts.
        mixing: `softmax`, or `sigmoid` for sums that are no mean.
        hidden: width of a hidden layer in the generator's head; 0 for none.
        resolution: width in pixels at which the generator looks; None takes the image width, and 10 for `mlp`.
        layout: `append` or `inset`.
        library_space: `token` as in the paper; `pixel` for patches of legal RGB, which every projection takes.
        library_std: of the library's first tokens; None for as large as the ViT's own positions. The paper has 0.02. A
            library of pixels begins as the patches of legal RGB that the projection makes about these tokens of. Where
            it is for a lossy transport, or where pixels have no library, of what goes into the sigmoid; None for 1.
        rounded: whether the prompts' pixels are rounded to 256 levels, in training as on a device; `pixel` only.
        transport: what the canvas goes through in training as on its way to the engine, such as `png`, `webp:80` or
            `jpeg:75` (`pgn_edge.transport`), with its pixels rounded; `pixel` only. None for a canvas of floats.
        head: Classifier on embeddings (`pgn_edge.train.heads`); checkpoints hold the one that `auto` stands for.
        template: sentence around the class name for text heads; None takes the data set's own.
        white: Value of white in image files of 16 bits a channel; None as for `pgn_edge.images.read_image`.
    """

    data: str
    backbone: str = "builtin"
    root: str | None = None
    weights: str | None = None
    prompts: int | None = 16
    library: int | None = None
    generator: GeneratorName = "resnet10"
    mixing: Mixing = "softmax"
    hidden: int = 0
    resolution: int | None = None
    layout: Layout = "append"
    library_space: LibrarySpace = "token"
    library_std: float | None = None
    rounded: bool = False
    transport: str | None = None
    head: HeadOption = "auto"
    template: str | None = None
    white: int | None = None

    def __post_init__(self) -> None:
        if self.library_std is not None and not 0 < self.library_std < math.inf:
            raise TrainingError(
                "library_std", expected="a positive number", got=str(self.library_std), do="choose another value"
            )
        if self.carrier is not None and self.library_space != "pixel":
            raise TrainingError(
                "transport",
                expected="a pixel library: the canvas of a token library is made at export",
                got=f"{self.transport} for {self.library_space}",
                do="train with --library-space pixel",
            )

    @property
    def carrier(self) -> Transport | None:
        """The transport that is named.

        Raises:
            DataError: there is none of this name.
        """
        return None if self.transport is None else Transport.parse(self.transport)

    def to_json(self) -> Mapping[str, Any]:
        """A JSON object for checkpoints."""
        return asdict(self)


@dataclass(frozen=True)
class Execution:
    """Where a run is computed and how it is watched; none of it changes what is learned, but for rounding.

    Args:
        device: a torch device such as `cpu` or `cuda:1`; None for the best there is.
        workers: threads that decode images ahead; None for as many as there are cores, at most 8, and none for data
            that lies in memory.
        channels_last: whether convolutions keep the channels of a pixel together.
        compile: whether the model is compiled first, which takes minutes and pays in long runs.
        log_dir: folder for TensorBoard; None for none.
        strict: whether an image that cannot be read ends the run; else it is skipped and counted.
        save_minutes: longest time between two states to resume from, beside the one after each epoch.
    """

    device: str | None = None
    workers: int | None = None
    channels_last: bool = False
    compile: bool = False
    log_dir: Path | None = None
    strict: bool = False
    save_minutes: float = 10.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise TrainingError("workers", expected="at least 0", got=str(self.workers), do="choose another number")
        if not self.save_minutes >= 0:
            raise TrainingError(
                "save_minutes", expected="at least 0", got=str(self.save_minutes), do="choose another number"
            )


def _require_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise TrainingError(name, expected=" or ".join(get_args(choices)), got=repr(value), do="choose one")
