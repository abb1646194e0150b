"""The heads that a task can be trained with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from pgn_edge.errors import DataError
from pgn_edge.heads import Head
from pgn_edge.nn.dino import Prototypes
from pgn_edge.nn.vit import Backbone
from pgn_edge.train.model import HeadModule, require_outputs

if TYPE_CHECKING:
    from pgn_edge.train.data.dataset import DataSet, LabelSpace

LOG = logging.getLogger("pgn_edge.heads")
IMAGENET_CLASSES = 1000

HeadChoice = Literal["zero-shot", "tuned", "linear", "identity", "frequency", "iterative", "prototypes"]
HeadOption = Literal["auto", "zero-shot", "tuned", "linear", "identity", "frequency", "iterative", "prototypes"]
AUTOMATIC: dict[HeadChoice, str] = {
    "zero-shot": "the frozen model can name the classes",
    "iterative": "the frozen model cannot name the classes, so its outputs are mapped to them",
    "linear": "the frozen model can neither name the classes nor be mapped to them, so a new classifier learns",
}


def resolve_head(choice: HeadOption, backbone: Backbone, data: DataSet) -> HeadChoice:
    """The head that a choice stands for; the log says which one `auto` takes, and why.

    `auto` is the frozen model's own head where that can name the classes, else its outputs, mapped to classes anew
    before each epoch, else, for a model with embeddings alone, a new linear layer.

    Args:
        choice: Head that the user asks for.
        backbone: Frozen ViT with its own head.
        data: Data set whose classes the head tells apart.
    """
    if choice != "auto":
        return choice
    found = first_head(tuple(AUTOMATIC), backbone, data)
    LOG.info("head for %s: %s, since %s", data.name, found, AUTOMATIC[found])
    return found


def first_head(choices: Sequence[HeadChoice], backbone: Backbone, data: DataSet) -> HeadChoice:
    """The first head that the backbone can have; the last one if there is none, which then says what is missing."""
    for choice in choices[:-1]:
        try:
            make_head(choice, backbone, data.spaces, 0)
        except DataError:
            continue
        return choice
    return choices[-1]


def make_head(choice: HeadChoice, backbone: Backbone, spaces: Sequence[LabelSpace], seed: int) -> HeadModule:
    """The head of a task as training begins.

    Args:
        choice: `zero-shot`, the frozen model's own; `tuned`, the same, and it learns; `linear`, learns from zero;
            `identity`, class i is output i of the frozen model; `frequency` and `iterative`, outputs chosen by
            `HeadModule.remap`, once or anew before each epoch; `prototypes`, outputs of a DINO model drawn by chance.
        backbone: the frozen ViT and its own head.
        spaces: class names and templates, one entry for each data set; classes are counted through all of them.
        seed: of the draw of prototypes.

    Raises:
        DataError: a head that this backbone cannot have, or classes that it cannot tell apart.
    """
    labels = joined_labels(spaces)
    if choice in ("zero-shot", "tuned"):
        return HeadModule(_own(backbone, spaces, labels, tuned=choice == "tuned"), learns=choice == "tuned")
    if choice == "linear":
        return HeadModule(_zeros(backbone, labels), learns=True)
    if choice == "identity":
        return HeadModule(_select(backbone.zero_shot.outputs(), np.arange(len(labels)), labels))
    if choice == "frequency":
        return HeadModule(backbone.zero_shot.outputs(), mapping="once", labels=labels)
    if choice == "iterative":
        return HeadModule(backbone.zero_shot.outputs(), mapping="each epoch", labels=labels)
    if choice == "prototypes":
        return HeadModule(_drawn(backbone, labels, seed))
    raise DataError("head", expected=" or ".join(get_args(HeadChoice)), got=repr(choice), do="choose one of them")


def joined_labels(spaces: Sequence[LabelSpace]) -> tuple[str, ...]:
    """Class names of all spaces after one another; `set/label` where there is more than one space."""
    if len(spaces) == 1:
        return spaces[0].labels
    return tuple(f"{space.name}/{label}" for space in spaces for label in space.labels)


def _own(backbone: Backbone, spaces: Sequence[LabelSpace], labels: tuple[str, ...], *, tuned: bool) -> Head:
    """The frozen model's own head, that of each space beside the others."""
    heads = [_of_space(backbone, space, space.texts or space.labels) for space in spaces]
    if len(heads) == 1:
        return heads[0]
    if heads[0].kind != "text":
        return _select(backbone.zero_shot.outputs(), np.arange(len(labels)), labels)
    shared = _shared(heads)
    try:
        for number, space in enumerate(spaces):
            if shared[number].any():
                heads[number] = _of_space(backbone, space, _told_apart(space, shared[number]))
    except DataError as exc:
        if not tuned:
            raise DataError(
                backbone.vit.spec.backbone,
                expected="a row of its own for each class of the united data sets",
                got="classes of one name in two of them",
                do="give them other names or templates, or let the head learn: --head tuned",
            ) from exc
    return Head.text(np.concatenate([head.weight for head in heads]), labels, heads[0].scale)


def _told_apart(space: LabelSpace, shared: np.ndarray) -> tuple[str, ...]:
    """Names for a text encoder; classes that other data sets have too get the name of theirs: `airplane (resisc45)`."""
    pairs = zip(space.texts or space.labels, shared, strict=True)
    return tuple(f"{text} ({space.name})" if both else text for text, both in pairs)


def _of_space(backbone: Backbone, space: LabelSpace, texts: tuple[str, ...]) -> Head:
    """The frozen model's own head over one label space.

    Args:
        backbone: Frozen ViT with its own head.
        space: Classes.
        texts: Names for a text encoder, one for each class.
    """
    unique = tuple(dict.fromkeys(texts))
    head = backbone.zero_shot.head(unique if len(unique) < len(texts) else texts, space.template)
    if head.kind == "text":
        rows = head.weight[[head.labels.index(text) for text in texts]]
        return Head.text(rows, space.labels, head.scale)
    if space.imagenet:
        outputs = backbone.zero_shot.outputs()
        if len(outputs.labels) == IMAGENET_CLASSES:
            return _select(outputs, np.asarray(space.imagenet), space.labels)
    return backbone.zero_shot.head(space.labels, space.template)


def _shared(heads: Sequence[Head]) -> list[np.ndarray]:
    """Which rows of each head also stand in another one."""
    rows = [{row.tobytes() for row in head.weight} for head in heads]
    found = []
    for number, head in enumerate(heads):
        others = set().union(*(rows[other] for other in range(len(heads)) if other != number))
        found.append(np.array([row.tobytes() in others for row in head.weight]))
    return found


def _zeros(backbone: Backbone, labels: tuple[str, ...]) -> Head:
    with torch.no_grad():
        width = backbone.vit(torch.zeros(1, 3, *backbone.vit.spec.image_hw)).shape[1]
    return Head.linear(np.zeros((len(labels), width)), np.zeros(len(labels)), labels)


def _drawn(backbone: Backbone, labels: tuple[str, ...], seed: int) -> Head:
    if not isinstance(backbone.zero_shot, Prototypes):
        raise DataError(
            "head",
            expected="a DINO model with its projection head, dino:NAME, whose prototypes can be drawn",
            got=backbone.vit.spec.backbone,
            do="choose that backbone, or another --head",
        )
    outputs = backbone.zero_shot.outputs()
    require_outputs(labels, len(outputs.labels))
    return _select(outputs, np.random.default_rng(seed).permutation(len(outputs.labels))[: len(labels)], labels)


def _select(outputs: Head, index: np.ndarray, labels: tuple[str, ...]) -> Head:
    """Some outputs of a frozen model as the head of as many classes."""
    require_outputs(labels, len(outputs.labels))
    if outputs.kind == "text":
        return Head.text(outputs.weight[index], labels, outputs.scale)
    return Head.linear(outputs.weight[index], outputs.bias[index], labels)
