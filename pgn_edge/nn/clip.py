"""CLIP image towers from open_clip as frozen ViTs, with text weights as their head."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError, DataError, MissingExtraError
from pgn_edge.heads import Head
from pgn_edge.nn.attention import attend
from pgn_edge.nn.vit import Backbone, FrozenViT, VitSpec, ZeroShot
from pgn_edge.preprocess import Preprocess


def load_clip(rest: str, weights: Path | None) -> Backbone:
    """`ARCHITECTURE/TAG` of open_clip as a frozen ViT.

    Args:
        rest: for example `ViT-B-32/openai`.
        weights: a local file instead of the download.

    Raises:
        CheckpointError: unknown architecture or tag, no download, or weights that do not fit.
        MissingExtraError: open_clip is not installed.
    """
    try:
        import open_clip
    except ImportError as exc:
        raise MissingExtraError("open_clip", "export") from exc
    architecture, _, tag = rest.partition("/")
    if architecture not in open_clip.list_models() or not tag:
        raise CheckpointError(
            f"open_clip:{rest}",
            expected="open_clip:ARCHITECTURE/TAG as in open_clip.list_pretrained()",
            got=repr(rest),
            do="try open_clip:ViT-B-32/openai",
        )
    try:
        with _silence():
            model = open_clip.create_model(
                architecture,
                pretrained=str(weights) if weights else tag,
                # OpenAI's weights were trained with QuickGELU; open_clip knows it by the tag, not by a file.
                force_quick_gelu=tag == "openai",
                weights_only=True,
            )
    except Exception as exc:
        # open_clip, its hub client and torch raise dozens of types here, down to bare RuntimeError.
        raise CheckpointError(
            f"open_clip:{rest}",
            expected=f"weights from {weights or 'the download of open_clip'}",
            got=f"{type(exc).__name__}: {exc}".split("\n")[0][:200],
            do="pass a local copy with --weights FILE",
        ) from exc
    return clip_backbone(model, f"open_clip:{rest}", open_clip.get_tokenizer(architecture))


@contextmanager
def _silence() -> Iterator[None]:
    # Offline, the hub's client logs each of its tries, twice; the error that follows says it once.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def clip_backbone(model: Any, name: str, tokenizer: Any) -> Backbone:
    """An open_clip model that is already in memory as a frozen ViT.

    Args:
        model: `open_clip.CLIP` with a ViT image tower that pools the class token.
        name: stands in checkpoints and engines.
        tokenizer: the model's tokenizer.

    Raises:
        CheckpointError: an image tower of another kind.
    """
    visual = model.visual
    needs = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
    missing = [part for part in needs if not hasattr(visual, part)]
    if missing or visual.attn_pool is not None or visual.pool_type != "tok" or visual.final_ln_after_pool:
        raise CheckpointError(
            name,
            expected="a ViT image tower that pools the class token",
            got=f"no {missing[0]}" if missing else "another pooling",
            do="choose a model such as open_clip:ViT-B-32/openai",
        )
    height, width = visual.image_size
    config = visual.preprocess_cfg
    preprocess = Preprocess((height, width), mean=tuple(config["mean"]), std=tuple(config["std"]))
    spec = VitSpec(name, (height, width), int(visual.conv1.stride[0]), preprocess)
    table = visual.positional_embedding.detach()
    prefix = visual.class_embedding.detach()[None] + table[:1]
    pre_norm = visual.ln_pre if isinstance(visual.ln_pre, nn.LayerNorm) else None
    vit = FrozenViT(spec, visual.conv1, prefix, table[1:], ClipBody(visual), pre_norm)
    return Backbone(vit, TextHead(model, tokenizer))


class ClipBlock(nn.Module):
    """One of open_clip's residual blocks, its attention in the form that exports to a small graph."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention: nn.MultiheadAttention = block.attn
        width = attention.embed_dim
        self.heads = attention.num_heads
        self.norm_1, self.norm_2 = block.ln_1, block.ln_2
        self.scale_1, self.scale_2 = block.ls_1, block.ls_2
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv.weight, self.qkv.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out = attention.out_proj
        self.mlp = block.mlp

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, d) -> (B, n, d)."""
        x = x + self.scale_1(self.out(attend(self.qkv(self.norm_1(x)), self.heads)))
        out: Tensor = x + self.scale_2(self.mlp(self.norm_2(x)))
        return out


class ClipBody(nn.Module):
    """Pre-norm, transformer, post-norm of the class token, projection: open_clip's tower after its embedding."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.pre_norm = visual.ln_pre
        self.blocks = nn.Sequential(*(ClipBlock(block) for block in visual.transformer.resblocks))
        self.post_norm = visual.ln_post
        self.project = visual.proj

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + n, d) -> (B, D)."""
        x = self.blocks(self.pre_norm(tokens))
        pooled: Tensor = self.post_norm(x[:, 0])
        return pooled if self.project is None else pooled @ self.project


class TextHead(ZeroShot):
    """CLIP's text encoder as the maker of heads."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def head(self, labels: tuple[str, ...], template: str) -> Head:
        """One unit row for each label: the text embedding of `template` with the label in it."""
        if "{}" not in template:
            raise DataError(
                "template", expected="a sentence with {} for the class", got=repr(template), do="put {} in it"
            )
        tokens = self.tokenizer([template.format(label.lower().replace("_", " ")) for label in labels])
        rows = F.normalize(self.model.encode_text(tokens), dim=-1)
        return Head.text(rows.numpy(), labels, float(self.model.logit_scale.exp()))
