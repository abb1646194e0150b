"""From a backbone's name to a frozen ViT."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pgn_edge.errors import CheckpointError
from pgn_edge.nn.vit import Backbone

LOG = logging.getLogger("pgn_edge.backbones")


def load_backbone(name: str, weights: str | Path | None = None, most_bytes: int | None = None) -> Backbone:
    """Load a frozen ViT and its own head.

    Args:
        name: `builtin`, `open_clip:ARCHITECTURE/TAG`, `timm:NAME`, `torchvision:NAME` or `dino:NAME`; all but the
            first take an image size in pixels at their end, for example `timm:vit_small_patch14_dinov2.lvd142m@224`.
        weights: Path of a file to read instead of downloading: safetensors, a .pt without pickled code, or a
            TorchScript archive. `PATH#KEY` takes the weights under KEY where a file holds several.
        most_bytes: Largest image tower in bytes of float32; a larger one is refused before its weights are read.
            None for any.

    Raises:
        CheckpointError: an unknown name, a model of another kind, weights that cannot be had, do not fit or are not
            finite.
        GeometryError: an image size that the patch does not divide.
        MissingExtraError: the library behind the name is not installed.
    """
    family, _, rest = name.partition(":")
    loaders: dict[str, Callable[[str, Path | None, int | None], Backbone]] = {
        "builtin": lambda rest, weights, most: _load_builtin(rest, weights),  # of 5 MB
        "open_clip": _load_open_clip,
        "timm": _load_timm,
        "torchvision": _load_torchvision,
        "dino": _load_dino,
    }
    if family not in loaders:
        raise CheckpointError(
            "backbone",
            expected="builtin, open_clip:ARCHITECTURE/TAG, timm:NAME, torchvision:NAME or dino:NAME",
            got=repr(name),
            do="choose one: builtin, open_clip:ViT-B-32/openai, timm:vit_small_patch16_224.dino, torchvision:vit_b_32, "
            "dino:vit_small_patch16_224",
        )
    backbone = loaders[family](rest, Path(weights) if weights else None, most_bytes)
    _require_finite(name, backbone)
    _tell(name, backbone)
    return backbone


def _tell(name: str, backbone: Backbone) -> None:
    """Log what decides the embeddings and stands in no error: activation, normalisation, and what was assumed."""
    if name == "builtin":  # There is one, and nothing to choose.
        return
    preprocess = backbone.vit.spec.preprocess
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (preprocess.mean, preprocess.std))
    activation = backbone.vit.activation() or "an activation without a name"
    LOG.info("%s: %s; normalisation mean %s, std %s", name, activation, mean, std)
    for note in backbone.notes:
        LOG.warning("%s: %s", name, note)


def _require_finite(name: str, backbone: Backbone) -> None:
    # What the head is made from counts as well; of a tensor that stands in both, the file's own name is the later one.
    makers = [part for part in vars(backbone.zero_shot).values() if isinstance(part, nn.Module)]
    states = (module.state_dict(keep_vars=True) for module in (backbone.vit, *makers))
    tensors = {id(tensor): (key, tensor) for state in states for key, tensor in state.items()}
    for key, tensor in tensors.values():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                name,
                expected="finite weights",
                got=f"NaN or Inf in {key}",
                do="get the file again, or choose another",
            )


def _load_builtin(rest: str, weights: Path | None) -> Backbone:
    from pgn_edge.nn.builtin import load_builtin

    if rest or weights:
        raise CheckpointError(
            "builtin",
            expected="no weights file: the package brings its own",
            got=rest or str(weights),
            do="leave it out",
        )
    return load_builtin()


def _load_open_clip(rest: str, weights: Path | None, most_bytes: int | None) -> Backbone:
    from pgn_edge.nn.clip import load_clip

    return load_clip(rest, weights, most_bytes)


def _load_timm(rest: str, weights: Path | None, most_bytes: int | None) -> Backbone:
    from pgn_edge.nn.timm_vit import load_timm

    return load_timm(rest, weights, most_bytes)


def _load_torchvision(rest: str, weights: Path | None, most_bytes: int | None) -> Backbone:
    from pgn_edge.nn.torchvision_vit import load_torchvision

    return load_torchvision(rest, weights, most_bytes)


def _load_dino(rest: str, weights: Path | None, most_bytes: int | None) -> Backbone:
    from pgn_edge.nn.dino import load_dino

    return load_dino(rest, weights, most_bytes)
