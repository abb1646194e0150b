"""torchvision's supervised vision transformers as frozen ViTs, with their classifier as head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pgn_edge.errors import CheckpointError, MissingExtraError
from pgn_edge.nn.attention import Block, stack
from pgn_edge.nn.layouts import TORCHVISION, under_prefix
from pgn_edge.nn.timm_vit import DIFFERS
from pgn_edge.nn.vit import Backbone, FrozenViT, VitSpec
from pgn_edge.nn.weight_file import read_weights
from pgn_edge.nn.weights import (
    FrozenClassifier,
    downloading,
    fill,
    linear_of,
    mapped,
    refuse_part,
    require_bytes,
    require_patches,
    require_size,
    sketch,
    split_size,
)
from pgn_edge.preprocess import Preprocess


def load_torchvision(rest: str, weights: Path | None, most_bytes: int | None = None) -> Backbone:
    """`NAME` or `NAME@SIZE` of torchvision as a frozen ViT.

    Args:
        rest: for example `vit_b_32`; the stock size is that of the library's default weights.
        weights: a local file instead of the download; with a size, its positions may already have that size.
        most_bytes: Largest image tower in bytes of float32; None for any.

    Raises:
        CheckpointError: an unknown name, no download, or weights that do not fit.
        GeometryError: a size that the patch does not divide.
        MissingExtraError: torchvision is not installed.
    """
    try:
        import torchvision
    except ImportError as exc:
        raise MissingExtraError("torchvision", "train") from exc
    name = f"torchvision:{rest}"
    plain, image_hw = split_size(rest)
    names = torchvision.models.list_models(include="vit_*")
    if plain not in names:
        raise CheckpointError(
            name, expected="torchvision:" + " or ".join(names), got=repr(plain), do="try torchvision:vit_b_32"
        )
    published = torchvision.models.get_model_weights(plain).DEFAULT
    stock, patch = published.meta["min_size"][0], int(plain.rpartition("_")[2])
    side = stock if image_hw is None else image_hw[0]
    require_size(name, (side, side), patch)
    stock_model = sketch(name, lambda: torchvision.models.get_model(plain, weights=None, image_size=side))
    require_bytes(name, stock_model, most_bytes)
    notes = [
        "torchvision evaluates it with bilinear resizing and a crop; here images are bicubic and uncropped, " + DIFFERS
    ]
    if weights:
        file = read_weights(weights)
        state, prefix, outside = under_prefix(file.state, TORCHVISION, file.source)
        notes += [*file.notes, *([f"{outside} tensors outside {prefix!r} are left out"] if outside else [])]
    else:
        with downloading(name, "torchvision", published.url):
            state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    model = sketch(name, lambda: _build(plain, state, side))
    source = str(weights or name)
    if image_hw:
        with mapped(source, f"the weights of {name}", "check that the file belongs to this backbone"):
            resample = torchvision.models.vision_transformer.interpolate_embeddings
            state = resample(image_size=side, patch_size=patch, model_state=state)
    fill(model, state, name, source)
    return replace(torchvision_backbone(model, name), notes=tuple(notes))


def _build(plain: str, state: Mapping[str, Tensor], side: int) -> Any:
    """A model with the classes of a state: a fine-tuning changes them, and the name does not say it."""
    import torchvision

    head, hidden = state.get("heads.head.weight"), state.get("heads.pre_logits.weight")
    options = {
        "num_classes": 1 if head is None else len(head),
        "representation_size": None if hidden is None else len(hidden),
    }
    model = torchvision.models.get_model(plain, weights=None, image_size=side, **options)
    if head is None:
        model.heads.head = nn.Identity()
    return model


def torchvision_backbone(model: Any, name: str) -> Backbone:
    """A torchvision model that is already in memory as a frozen ViT.

    Args:
        model: `torchvision.models.VisionTransformer`; its normalisation is taken to be the one that all of
            torchvision's published ViTs have.
        name: stands in checkpoints and engines.

    Raises:
        CheckpointError: a model of another kind, or with a stem of several convolutions.
    """
    from torchvision.models import VisionTransformer, ViT_B_32_Weights

    if type(model) is not VisionTransformer:
        refuse_part(name, "the model", "VisionTransformer of torchvision", type(model).__name__)
    image_hw = (model.image_size, model.image_size)
    require_patches(name, model.conv_proj)
    for part, norm in (("encoder.ln", model.encoder.ln), *_norms(model)):
        if type(norm) is not nn.LayerNorm:
            refuse_part(name, part, "LayerNorm", type(norm).__name__)
    published = ViT_B_32_Weights.DEFAULT.transforms()
    preprocess = Preprocess(image_hw, mean=tuple(published.mean), std=tuple(published.std))
    spec = VitSpec(name, image_hw, model.patch_size, preprocess)
    table = model.encoder.pos_embedding.detach()[0]
    prefix = model.class_token.detach()[0] + table[:1]
    vit = FrozenViT(spec, model.conv_proj, prefix, table[1:], TorchvisionBody(model.encoder), None)
    # With a hidden layer before it, the last layer says nothing about the embedding.
    linear = model.representation_size is None and isinstance(model.heads.head, nn.Linear)
    return Backbone(vit, FrozenClassifier(name, model.heads.head if linear else None))


def _norms(model: Any) -> list[tuple[str, Any]]:
    blocks = model.encoder.layers.named_children()
    return [(f"encoder.layers.{at}.{part}", getattr(block, part)) for at, block in blocks for part in ("ln_1", "ln_2")]


class TorchvisionBlock(Block):
    """One of torchvision's residual blocks."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention: nn.MultiheadAttention = block.self_attention
        self.heads = attention.num_heads
        self.norm_1, self.norm_2 = block.ln_1, block.ln_2
        self.qkv = linear_of(attention.in_proj_weight, attention.in_proj_bias)
        self.out = attention.out_proj
        self.mlp = block.mlp


class TorchvisionBody(nn.Module):
    """Blocks and the last norm of the class token: torchvision's encoder after its position table."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.blocks = stack([TorchvisionBlock(block) for block in encoder.layers], class_token=True)
        self.norm = encoder.ln

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + n, d) -> (B, d)."""
        embedding: Tensor = self.norm(self.blocks(tokens)[:, 0])
        return embedding
