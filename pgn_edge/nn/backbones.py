"""From a backbone's name to a frozen ViT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pgn_edge.errors import CheckpointError
from pgn_edge.nn.vit import Backbone


def load_backbone(name: str, weights: str | Path | None = None) -> Backbone:
    """Load a frozen ViT and its own head.

    Args:
        name: `builtin`, or `open_clip:ARCHITECTURE/TAG`, for example `open_clip:ViT-B-32/openai`.
        weights: a file to read instead of downloading: safetensors, or .pt without pickled code.

    Raises:
        CheckpointError: an unknown name, weights that cannot be had or do not fit.
        MissingExtraError: the library behind the name is not installed.
    """
    family, _, rest = name.partition(":")
    loaders: dict[str, Callable[[str, Path | None], Backbone]] = {
        "builtin": _load_builtin,
        "open_clip": _load_open_clip,
    }
    if family not in loaders:
        raise CheckpointError(
            "backbone",
            expected="builtin or open_clip:ARCHITECTURE/TAG",
            got=repr(name),
            do="choose one, for example open_clip:ViT-B-32/openai",
        )
    return loaders[family](rest, Path(weights) if weights else None)


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


def _load_open_clip(rest: str, weights: Path | None) -> Backbone:
    from pgn_edge.nn.clip import load_clip

    return load_clip(rest, weights)
