"""DINO models with their projection head, from the full checkpoint of their training.

`timm:vit_small_patch16_224.dino` is the same backbone without that head. With it, the unit vector before the prototypes
is the embedding, so one engine serves label mappings over all prototypes and any few of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError, DataError, MissingExtraError
from pgn_edge.heads import Head
from pgn_edge.nn.tensor_file import load_tensors
from pgn_edge.nn.timm_vit import fill_timm, freeze_timm, require_vit
from pgn_edge.nn.vit import Backbone
from pgn_edge.nn.weights import FrozenClassifier, fill, linear_of, require_bytes, sketch, split_size
from pgn_edge.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ADVICE = "pass the full checkpoint of the training, not the backbone alone"
TEMPERATURE = 0.1  # of the student's softmax over its prototypes
PROJECTION, PROTOTYPES = ("mlp.0", "mlp.2", "mlp.4"), ("last_layer.weight_g", "last_layer.weight_v")


class Projection(nn.Module):
    """DINO's projection head up to its prototypes: an MLP of three layers, then the unit vector.

    Args:
        sizes: widths of the input, of the two hidden layers and of the output.

    Source: Caron et al., ICCV 2021, section 3.1; the names of its parameters are those of facebookresearch/dino.
    """

    def __init__(self, sizes: tuple[int, int, int, int]) -> None:
        super().__init__()
        first, second, third = (nn.Linear(inside, outside) for inside, outside in pairwise(sizes))
        self.mlp = nn.Sequential(first, nn.GELU(), second, nn.GELU(), third)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d) -> (B, D), each row of length 1."""
        return F.normalize(self.mlp(x), dim=-1)


class Prototypes(FrozenClassifier):
    """Prototypes of a DINO model as outputs: they have no names, and mean whatever self-distillation made of them."""

    def head(self, labels: tuple[str, ...], template: str) -> Head:
        """None: nothing says which prototype a class is."""
        raise DataError(
            self.name,
            expected="a model that can name its outputs",
            got="prototypes",
            do="choose --head prototypes, identity, frequency, iterative or linear",
        )


def load_dino(rest: str, weights: Path | None, most_bytes: int | None = None) -> Backbone:
    """`NAME` or `NAME@SIZE` of timm, with the weights of a full DINO checkpoint.

    The backbone is the teacher's, as in the published backbone alone, and the projection head the student's, as in the
    paper's own code.

    Args:
        rest: architecture, for example `vit_small_patch16_224`.
        weights: the checkpoint, with `teacher` and `student`.
        most_bytes: Largest image tower in bytes of float32; None for any.

    Raises:
        CheckpointError: no file or no such file, one of another layout, or weights that do not fit.
        GeometryError: a size that the patch does not divide.
        MissingExtraError: timm is not installed.

    Source: facebookresearch/dino, main_dino.py; jochemloedeman/PGN, pgn/lightning/pgn_dino.py.
    """
    try:
        import timm
    except ImportError as exc:
        raise MissingExtraError("timm", "export") from exc
    name = f"dino:{rest}"
    plain, image_hw = split_size(rest)
    if not plain or not timm.is_model(plain):
        raise CheckpointError(
            name, expected="dino:NAME, a ViT of timm", got=repr(plain), do="try dino:vit_small_patch16_224"
        )
    if weights is None:
        raise CheckpointError(
            name,
            expected="the full checkpoint of a DINO training, which is not downloaded",
            got="no file",
            do="pass it with --weights FILE, or use the backbone alone: timm:vit_small_patch16_224.dino",
        )
    source = str(weights)
    model = sketch(name, lambda: timm.create_model(plain, num_classes=0))
    require_vit(name, model, image_hw)
    require_bytes(name, model, most_bytes)
    backbone, head = _read(weights)
    fill_timm(model, backbone, name, source, image_hw)
    if image_hw:
        model.set_input_size(image_hw)
    preprocess = Preprocess(tuple(model.patch_embed.img_size), mean=MEAN, std=STD)
    projection = _projection(head, model.num_features, name, source)
    prototypes = linear_of(nn.Parameter(_rows(head) / TEMPERATURE, requires_grad=False), None)
    return Backbone(freeze_timm(name, model, preprocess, projection), Prototypes(name, prototypes))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State of the teacher's backbone and of the student's head."""
    # Its options are the one thing in the file that is no tensor and no plain value.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            data = load_tensors(path)
        except CheckpointError as exc:
            expected = exc.expected.replace("a checkpoint", "a full DINO checkpoint")
            raise CheckpointError(str(path), expected=expected, got=exc.got, do=ADVICE) from exc
    backbone, head = _part(data, "teacher", "backbone."), _part(data, "student", "head.")
    dimensions = {f"{layer}.{part}": 2 - (part == "bias") for layer in PROJECTION for part in ("weight", "bias")}
    wanted = dimensions | dict.fromkeys(PROTOTYPES, 2)
    wrong = next((key for key in wanted if key not in head), "") or next((key for key in head if key not in wanted), "")
    wrong = wrong or next((key for key in wanted if head[key].ndim != wanted[key]), "")
    if wrong or not backbone:
        found = f"{'another' if wrong in head else 'no'} {wrong} in the head"
        raise CheckpointError(
            str(path),
            expected="a full DINO checkpoint: teacher with a backbone, student with a projection head of three layers",
            got="no such parts" if not (head and backbone) else found,
            do=ADVICE,
        )
    return backbone, head


def _part(data: Any, net: str, part: str) -> dict[str, Tensor]:
    """Tensors of one part of one of the two nets, without its prefix."""
    state = data.get(net) if isinstance(data, Mapping) else None
    if not isinstance(state, Mapping):
        return {}
    plain = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    return {key.removeprefix(part): value for key, value in plain.items() if key.startswith(part)}


def _projection(head: Mapping[str, Tensor], width: int, name: str, source: str) -> Projection:
    first, second, third = (len(head[f"{layer}.weight"]) for layer in PROJECTION)
    with torch.device("meta"):
        projection = Projection((width, first, second, third))
    state = {key: value for key, value in head.items() if key not in PROTOTYPES}
    fill(projection, state, name, source)
    length, direction = (tuple(head[key].shape) for key in PROTOTYPES)
    if direction[1] != third or length != (direction[0], 1):
        raise CheckpointError(
            source,
            expected=f"prototypes of width {third} and a length for each",
            got=f"{direction} and {length}",
            do="get the file again",
        )
    return projection


def _rows(head: Mapping[str, Tensor]) -> Tensor:
    """The last layer, (prototypes, D): direction and length of its rows are parameters of their own."""
    length, direction = (head[key].float() for key in PROTOTYPES)
    return length * F.normalize(direction, dim=1)
