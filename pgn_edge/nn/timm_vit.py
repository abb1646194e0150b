"""Plain vision transformers from timm as frozen ViTs, alone or as the image tower of another model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError, DataError, MissingExtraError
from pgn_edge.nn.layouts import TIMM, under_prefix
from pgn_edge.nn.timm_body import TimmBody
from pgn_edge.nn.vit import Backbone, FrozenViT, VitSpec
from pgn_edge.nn.weight_file import read_weights
from pgn_edge.nn.weights import (
    HUB,
    FrozenClassifier,
    downloading,
    fill,
    mapped,
    refuse_part,
    require_bytes,
    require_patches,
    require_size,
    sketch,
    split_size,
)
from pgn_edge.preprocess import Preprocess

DIFFERS = "so its accuracy alone differs from the published figure"


def load_timm(rest: str, weights: Path | None, most_bytes: int | None = None) -> Backbone:
    """`NAME` or `NAME@SIZE` of timm as a frozen ViT.

    Args:
        rest: for example `vit_small_patch14_reg4_dinov2.lvd142m@224`; timm resamples the positions to the size.
        weights: a local file instead of the download; with a size, its positions may already have that size.
        most_bytes: Largest image tower in bytes of float32; None for any.

    Raises:
        CheckpointError: an unknown name, a model of another kind, no download, or weights that do not fit.
        GeometryError: a size that the patch does not divide.
        MissingExtraError: timm is not installed.
    """
    try:
        import timm
    except ImportError as exc:
        raise MissingExtraError("timm", "export") from exc
    name = f"timm:{rest}"
    plain, image_hw = split_size(rest)
    if not plain or not timm.is_model(plain):
        raise CheckpointError(
            name,
            expected="timm:NAME as in timm.list_models()",
            got=repr(plain),
            do="try timm:vit_base_patch32_224.augreg_in21k_ft_in1k",
        )
    model = sketch(name, lambda: timm.create_model(plain))
    require_vit(name, model, image_hw)
    require_bytes(name, model, most_bytes)
    if weights:
        file = read_weights(weights)
        state, prefix, outside = under_prefix(file.state, TIMM, file.source)
        model = _sketch_for(plain, state, name, model)
        fill_timm(model, state, name, file.source, image_hw)
        notes = [*file.notes, *([f"{outside} tensors outside {prefix!r} are left out"] if outside else [])]
    else:
        with downloading(name, "timm", HUB):
            model = timm.create_model(plain, pretrained=True)
        notes = []
    if image_hw:
        model.set_input_size(image_hw)
    backbone = timm_backbone(model, name)
    return replace(backbone, notes=(*notes, *_own_notes(plain, model)))


def _sketch_for(plain: str, state: Mapping[str, Tensor], name: str, model: Any) -> Any:
    """The stock model, or one with the classes and the pooling of a file: a fine-tuning changes them, not the name."""
    import timm

    if TIMM[0] not in state:  # Names that timm translates; such files have the stock classes and pooling.
        return model
    head = state.get("head.weight")
    options: dict[str, Any] = {"num_classes": 0 if head is None else len(head)}
    averaged = "fc_norm.weight" in state
    if averaged != isinstance(model.fc_norm, nn.LayerNorm):
        options["global_pool"] = "avg" if averaged else "token"
    return sketch(name, lambda: timm.create_model(plain, **options))


def _own_notes(plain: str, model: Any) -> list[str]:
    """What the library does in another way than the frozen ViT here."""
    import timm
    from timm.data import resolve_model_data_config

    config, notes = resolve_model_data_config(model), []
    replaced = [] if config["interpolation"] == "bicubic" else [config["interpolation"]]
    replaced += [] if config["crop_pct"] == 1 else [f"a crop of {config['crop_pct']:.3g}"]
    if replaced:
        notes.append(
            f"timm evaluates it with {' and '.join(replaced)}; here images are bicubic and uncropped, {DIFFERS}"
        )
    architecture, _, tag = plain.partition(".")
    if "QuickGELU" in str(model.pretrained_cfg.get("notes", "")):
        quick = f"{architecture.replace('_clip_', '_clip_quickgelu_')}.{tag}"
        choice = f"; name timm:{quick} for that" if timm.is_model(quick) and quick != plain else ""
        notes += (
            [f"the weights were trained with QuickGELU, and timm builds this name with GELU{choice}"] if choice else []
        )
    return notes


def fill_timm(model: Any, state: dict[str, Tensor], name: str, source: str, image_hw: tuple[int, int] | None) -> None:
    """Fill a sketched model of the stock size from a state dict in timm's names, or in others that timm can translate.

    Args:
        model: from `sketch`.
        state: of the stock size; where `image_hw` is given, its positions may have that size instead.
        name: of the backbone, for messages.
        source: of the state, for messages.
        image_hw: the size (H, W) in pixels that the model will be used with, if it is not the stock size.

    Raises:
        CheckpointError: the weights do not fit.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    if set(state) != set(model.state_dict()):
        with mapped(source, f"the weights of {name}", "check that the file belongs to this backbone"):
            state = checkpoint_filter_fn(state, model)
    table = state.get("pos_embed")
    if image_hw and table is not None and table.shape != model.pos_embed.shape:
        model.set_input_size(image_hw)
    fill(model, state, name, source)


def timm_backbone(model: Any, name: str) -> Backbone:
    """A timm model that is already in memory as a frozen ViT.

    Args:
        model: `timm.models.VisionTransformer`; its normalisation is the one in its `pretrained_cfg`.
        name: stands in checkpoints and engines.

    Raises:
        CheckpointError: a model of another kind.
        GeometryError: an image size that the patch does not divide.
    """
    from timm.data import resolve_model_data_config

    require_vit(name, model)
    config = resolve_model_data_config(model)
    preprocess = Preprocess(
        tuple(model.patch_embed.img_size),
        fit="squash" if config["crop_mode"] == "squash" else "crop",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    vit = freeze_timm(name, model, preprocess)
    if _projects(name, model.head):
        return Backbone(vit, TextProjection(name, None))
    classifier = model.head if isinstance(model.head, nn.Linear) else None
    return Backbone(vit, FrozenClassifier(name, classifier))


def _projects(name: str, head: nn.Module) -> bool:
    """Whether the head of a CLIP tower projects to the space of texts: it has no bias, or timm gave it zeros."""
    return "_clip_" in name and isinstance(head, nn.Linear) and (head.bias is None or not head.bias.any())


class TextProjection(FrozenClassifier):
    """Stands for the head of a CLIP tower in timm, which is no classifier: its outputs are no classes."""

    def _refuse(self, expected: str, got: str) -> DataError:
        return DataError(
            self.name,
            expected="a model with a classifier of its own",
            got="a CLIP tower, whose last layer projects to the space of texts",
            do="train with --head linear, or name the model open_clip:ARCHITECTURE/TAG for heads from class names",
        )


def freeze_timm(name: str, model: Any, preprocess: Preprocess, *tail: nn.Module) -> FrozenViT:
    """A model that `require_vit` let pass as a frozen ViT.

    Args:
        name: of the backbone.
        model: `timm.models.VisionTransformer`; what it gives before its classifier is the embedding.
        preprocess: how frames become its input.
        tail: what stands behind that, in the order that it runs.
    """
    embed = model.patch_embed
    spec = VitSpec(name, tuple(embed.img_size), embed.patch_size[0], preprocess)
    table = model.pos_embed.detach()[0]
    tokens = [token.detach()[0] for token in (model.cls_token, model.reg_token) if token is not None]
    prefix = torch.cat([table[:0], *tokens])
    if not model.no_embed_class:
        prefix = prefix + table[: len(prefix)]
        table = table[len(prefix) :]
    pre_norm = model.norm_pre if isinstance(model.norm_pre, nn.LayerNorm) else None
    body = TimmBody(model)
    return FrozenViT(spec, embed.proj, prefix, table, nn.Sequential(body, *tail) if tail else body, pre_norm)


def require_vit(name: str, model: Any, image_hw: tuple[int, int] | None = None) -> None:
    """Refuse what is not a timm `VisionTransformer` of parts that this module repeats exactly.

    Args:
        name: of the backbone, for the message.
        model: any timm model.
        image_hw: size (H, W) in pixels that it will be used with; None for its own.

    Raises:
        CheckpointError: it names the first part that is of another kind.
        GeometryError: a size that the patch does not divide.
    """
    for part, module, kinds in _parts(model):
        if type(module) not in kinds:
            expected = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds))
            refuse_part(name, part, expected, type(module).__name__)
    if model.pos_embed is None:
        refuse_part(name, "pos_embed", "a position table", "none")
    if model.attn_pool is None and model.global_pool not in ("token", "avg"):
        refuse_part(name, "global_pool", "token, avg or map", repr(model.global_pool))
    pool = model.attn_pool
    if pool is not None and (pool.latent_len != 1 or pool.pool not in ("token", "avg")):
        refuse_part(name, "attn_pool", "one latent that becomes the embedding", f"{pool.latent_len}, {pool.pool!r}")
    require_patches(name, model.patch_embed.proj)
    require_size(name, image_hw or model.patch_embed.img_size, model.patch_embed.patch_size[0])


def _parts(model: Any) -> Iterator[tuple[str, Any, tuple[type, ...]]]:
    """Every part with the kinds that it may be of; subclasses are other kinds, since they compute something else."""
    from timm import layers
    from timm.models import vision_transformer as timm_vit

    none, scales = (type(None),), (timm_vit.LayerScale, nn.Identity)
    norms = (nn.LayerNorm, layers.LayerNorm, nn.Identity)
    yield "the model", model, (timm_vit.VisionTransformer,)
    yield "patch_embed", model.patch_embed, (timm_vit.PatchEmbed,)
    yield "patch_embed.norm", model.patch_embed.norm, (nn.Identity,)
    yield from _named("", model, norms, "norm_pre", "norm", "fc_norm")
    for index, block in enumerate(model.blocks):
        at = f"blocks.{index}"
        yield at, block, (timm_vit.Block,)
        yield from _named(f"{at}.", block, norms, "norm1", "norm2")
        yield from _named(f"{at}.", block, scales, "ls1", "ls2")
        yield f"{at}.mlp", block.mlp, (timm_vit.Mlp, layers.GluMlp, layers.SwiGLU)
        yield f"{at}.attn", block.attn, (timm_vit.Attention,)
        yield f"{at}.attn.gate", getattr(block.attn, "gate", None), none
        yield from _named(f"{at}.attn.", block.attn, norms, "q_norm", "k_norm", "norm")
    yield "attn_pool", model.attn_pool, (*none, timm_vit.AttentionPoolLatent)
    if model.attn_pool is not None:
        yield "attn_pool.pos_embed", model.attn_pool.pos_embed, none
        yield from _named("attn_pool.", model.attn_pool, (nn.Identity,), "q_norm", "k_norm")


def _named(at: str, module: Any, kinds: tuple[type, ...], *parts: str) -> Iterator[tuple[str, Any, tuple[type, ...]]]:
    for part in parts:
        yield f"{at}{part}", getattr(module, part), kinds
