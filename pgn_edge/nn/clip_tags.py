"""Activation and normalisation of an open_clip model: from its tag, the file of weights, or the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pgn_edge.errors import CheckpointError
from pgn_edge.nn.weight_file import WeightFile

# Tags of our own for --weights: they say the activation and nothing else.
ACTIVATION_TAGS = {"quickgelu": True, "gelu": False}
MOST_SHOWN = 3


@dataclass(frozen=True)
class Choice:
    """How an open_clip model is built.

    Args:
        published: What open_clip knows of the tag's download; empty without one.
        preprocess: Mean, standard deviation and resize mode, as open_clip names them.
        quick_gelu: Whether to build the model with QuickGELU.
        notes: Sentences about what was assumed, for the user.
    """

    published: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    quick_gelu: bool
    notes: tuple[str, ...]


def choose(name: str, architecture: str, tag: str, file: WeightFile | None) -> Choice:
    """Decide activation and normalisation, and say where they come from if a file brings the weights.

    Args:
        name: Name of the backbone, for messages.
        architecture: Name of open_clip's architecture.
        tag: One of open_clip's tags, `quickgelu`, `gelu`, or empty; the last three need a file.
        file: Weights that the user gave; None for the download.

    Raises:
        CheckpointError: an unknown architecture or tag, no tag and no file, or a tag that contradicts the file.
    """
    import open_clip

    known = architecture in open_clip.list_models()
    tags = open_clip.list_pretrained_tags_by_model(architecture) if known else []
    published: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag) if tag in tags else {}
    if not known or (file is None and not published) or not _is_allowed(tag, tags):
        _refuse_tag(name, architecture, tag, tags, file)
    built_in = bool(open_clip.get_model_config(architecture).get("quick_gelu", False))
    if published:
        quick = bool(published.get("quick_gelu", tag == "openai")) or built_in
        return _of_tag(name, tag, published, quick, file)
    assert file is not None
    preprocess = dict(file.normalisation or {}) or _common(architecture, tags)
    normalised = (
        f"normalisation of {file.said_by}" if file.normalisation else f"normalisation as published {architecture}"
    )
    if tag in ACTIVATION_TAGS:
        quick = ACTIVATION_TAGS[tag]
        if built_in and not quick:
            _refuse(name, "GELU", f"{architecture}, which has QuickGELU", architecture.removesuffix("-quickgelu"))
        _require_agreement(name, file, quick, architecture)
        return Choice({}, preprocess, quick, (f"{_activation(quick)} as the tag says, {normalised}",))
    if file.quick_gelu is not None:
        if built_in and not file.quick_gelu:
            _refuse(name, "QuickGELU", f"GELU in {file.said_by}", architecture.removesuffix("-quickgelu"))
        note = f"{_activation(file.quick_gelu)} as {file.said_by} says, {normalised}"
        return Choice({}, preprocess, file.quick_gelu, (note,))
    quick = built_in or tag == "openai"
    other = "quickgelu" if not quick else "gelu"
    note = (
        f"nothing beside the weights says the activation: {_activation(quick)} is assumed, {normalised}; if they were "
        f"fine-tuned from a model with {_activation(not quick)}, name open_clip:{architecture}/{other}"
    )
    return Choice({}, preprocess, quick, (note,))


def _is_allowed(tag: str, tags: list[str]) -> bool:
    # Architectures of the user's own have no published tags, so theirs may be named anything.
    return not tag or not tags or tag in tags or tag in ACTIVATION_TAGS


def _of_tag(name: str, tag: str, published: dict[str, Any], quick: bool, file: WeightFile | None) -> Choice:
    if file is None:
        return Choice(published, published, quick, ())
    _require_agreement(name, file, quick, name.removeprefix("open_clip:").partition("/")[0])
    note = f"{_activation(quick)} and normalisation are those of the tag {tag!r}; the weights are those of the file"
    return Choice(published, published, quick, (note,))


def _require_agreement(name: str, file: WeightFile, quick: bool, architecture: str) -> None:
    if file.quick_gelu is not None and file.quick_gelu != quick:
        _refuse(name, _activation(file.quick_gelu), f"{_activation(quick)} by the tag", architecture, file.said_by)


def _refuse(name: str, expected: str, got: str, architecture: str, said_by: str = "") -> NoReturn:
    raise CheckpointError(
        name,
        expected=f"{expected}, as {said_by} says" if said_by else expected,
        got=got,
        do=f"name it without a tag: open_clip:{architecture} --weights FILE",
    )


def _common(architecture: str, tags: list[str]) -> dict[str, Any]:
    """Preprocessing that all published weights of an architecture share; empty for open_clip's default, OpenAI's."""
    import open_clip

    keys = ("mean", "std", "resize_mode")
    configs = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    found = [{key: config[key] for key in keys if config.get(key)} for config in configs]
    return found[0] if found and all(each == found[0] for each in found) else {}


def _activation(quick: bool) -> str:
    return "QuickGELU" if quick else "GELU"


def _refuse_tag(name: str, architecture: str, tag: str, tags: list[str], file: WeightFile | None) -> NoReturn:
    if file is not None and tags:
        # A published tag would decide the activation, and a wrong one gives wrong embeddings without an error.
        advice = (
            f"leave the tag out, or say the activation of the file: open_clip:{architecture}/gelu, as LAION's models, "
            f"or open_clip:{architecture}/quickgelu, as OpenAI's"
        )
    else:
        shown = [f"open_clip:{architecture}/{each}" for each in sorted(tags, key=lambda each: each == "openai")]
        advice = "try " + (" or ".join(shown[-MOST_SHOWN:]) or "open_clip:ViT-B-32/openai")
    raise CheckpointError(
        name,
        expected="open_clip:ARCHITECTURE/TAG as in open_clip.list_pretrained(), or no tag and --weights FILE",
        got=repr(f"{architecture}/{tag}"),
        do=advice,
    )
