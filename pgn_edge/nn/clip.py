"""Image towers of open_clip's CLIP and SigLIP models as frozen ViTs, with text weights as their head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.errors import DataError, MissingExtraError
from pgn_edge.heads import Head
from pgn_edge.nn.clip_body import ClipBody
from pgn_edge.nn.clip_tags import choose
from pgn_edge.nn.layouts import CLIP_TOWER, HUGGING_FACE_CLIP, OPEN_CLIP, from_hugging_face_clip, under_prefix
from pgn_edge.nn.timm_vit import freeze_timm, require_vit
from pgn_edge.nn.vit import Backbone, FrozenViT, VitSpec, ZeroShot
from pgn_edge.nn.weight_file import WeightFile, read_weights
from pgn_edge.nn.weights import (
    HUB,
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

Tokenizer = Callable[[list[str]], Tensor]
# OpenAI's files hold these beside the weights: three numbers, and the masks of causal attention.
NO_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size", "attn_mask"})


def load_clip(rest: str, weights: Path | None, most_bytes: int | None = None) -> Backbone:
    """`ARCHITECTURE/TAG` or `ARCHITECTURE/TAG@SIZE` of open_clip as a frozen ViT.

    Args:
        rest: Name such as `ViT-B-32/openai`; open_clip resamples the positions to the size. The tag says which
            normalisation and activation the weights were trained with. With a file it may be left out, or be
            `quickgelu` or `gelu`.
        weights: Path of a file instead of the download: the whole model or its image tower, in the names of open_clip
            or of Hugging Face's CLIP, or OpenAI's own TorchScript.
        most_bytes: Largest image tower in bytes of float32; None for any.

    Raises:
        CheckpointError: unknown architecture or tag, an image tower of another kind, no download, or weights that do
            not fit.
        GeometryError: a size that the patch does not divide.
        MissingExtraError: open_clip is not installed.
    """
    try:
        import open_clip
    except ImportError as exc:
        raise MissingExtraError("open_clip", "export") from exc
    name = f"open_clip:{rest}"
    plain, image_hw = split_size(rest)
    architecture, _, tag = plain.partition("/")
    if architecture in open_clip.list_models():
        plainly = sketch(name, lambda: open_clip.create_model(architecture, device="meta", pretrained_text=False))
        require_bytes(name, plainly.visual, most_bytes)
    file = None if weights is None else read_weights(weights)
    choice = choose(name, architecture, tag, file)
    with_timm = "timm_model_name" in open_clip.get_model_config(architecture)["vision_cfg"]
    options = {
        "force_image_size": None if with_timm else image_hw,
        # Some weights were trained with QuickGELU; no file of plain tensors says so.
        "force_quick_gelu": choice.quick_gelu,
        "force_preprocess_cfg": choice.preprocess,
        "pretrained_text": False,
    }
    model = sketch(name, lambda: open_clip.create_model(architecture, device="meta", **options))
    _require_tower(name, model, image_hw)
    if file is None:
        with downloading(name, "open_clip", HUB):
            path = open_clip.download_pretrained(choice.published)
        file = read_weights(path)
    state, notes = _in_own_names(file)
    notes = (*file.notes, *choice.notes, *notes)
    if any(not each.startswith("visual.") and each != "logit_scale" for each in state):
        _fill(model, state, name, file.source, image_hw)
        backbone = clip_backbone(model, name, _tokenizer(name, architecture))
        return replace(backbone, notes=notes)
    _fill(model, state, name, file.source, image_hw, tower_alone=True)
    return Backbone(clip_backbone(model, name, None).vit, NoText(name, file.source), notes)


def _in_own_names(file: WeightFile) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """State in open_clip's names, and sentences about what was translated or left out."""
    state, prefix, outside = under_prefix(file.state, (*OPEN_CLIP, *HUGGING_FACE_CLIP, *CLIP_TOWER), file.source)
    notes = []
    if HUGGING_FACE_CLIP[0] in state:
        state = from_hugging_face_clip(state)
        notes.append("names of Hugging Face's CLIP are translated to open_clip's")
    elif CLIP_TOWER[0] in state:
        state = {f"visual.{key}": tensor for key, tensor in state.items()}
    if outside:
        notes.append(f"{outside} tensors outside {prefix!r} are left out")
    weights = {key: tensor for key, tensor in state.items() if key.rpartition(".")[2] not in NO_WEIGHTS}
    return weights, tuple(notes)


def _fill(
    model: Any,
    state: dict[str, Tensor],
    name: str,
    source: str,
    image_hw: tuple[int, int] | None,
    *,
    tower_alone: bool = False,
) -> None:
    """Fill a sketched model; positions of another size become those of `image_hw` by open_clip's own rule."""
    import open_clip

    for module in model.modules():
        # The one kind of tensor that no file holds: the causal mask of a text tower.
        mask = getattr(module, "attn_mask", None)
        if isinstance(mask, Tensor):
            causal = nn.Transformer.generate_square_subsequent_mask(len(mask))
            module.register_buffer("attn_mask", causal, persistent=False)
    trunk = getattr(model.visual, "trunk", None)
    if image_hw and trunk is not None:
        table = state.get("visual.trunk.pos_embed")
        if table is not None and table.shape != trunk.pos_embed.shape:
            model.visual.set_input_size(image_hw)
        _fill_parts(model, state, name, source, tower_alone)
        model.visual.set_input_size(image_hw)
        return
    if image_hw:
        with mapped(source, f"the weights of {name}", "check that the file belongs to this backbone"):
            open_clip.model.resize_pos_embed(state, model)
    _fill_parts(model, state, name, source, tower_alone)


def _fill_parts(model: Any, state: dict[str, Tensor], name: str, source: str, tower_alone: bool) -> None:
    if not tower_alone:
        fill(model, state, name, source)
        return
    inner = {key.removeprefix("visual."): tensor for key, tensor in state.items() if key.startswith("visual.")}
    fill(model.visual, inner, name, source)


def _tokenizer(name: str, architecture: str) -> Tokenizer:
    advice = "install transformers and go online once, or train with a linear head: --head linear"

    def tokenize(texts: list[str]) -> Tensor:
        # Only when a text head is asked for: some tokenizers are downloads of their own.
        import open_clip

        with mapped(name, "the tokenizer of its text tower", advice, DataError):
            tokens: Tensor = open_clip.get_tokenizer(architecture)(texts)
        return tokens

    return tokenize


def clip_backbone(model: Any, name: str, tokenizer: Tokenizer | None) -> Backbone:
    """An open_clip model that is already in memory as a frozen ViT.

    Args:
        model: `open_clip.CLIP` or `open_clip.CustomTextCLIP` whose image tower is open_clip's own ViT, or a timm ViT
            as in SigLIP.
        name: stands in checkpoints and engines.
        tokenizer: sentences -> (B, n) tokens; needed for text heads alone.

    Raises:
        CheckpointError: an image tower of another kind.
        GeometryError: an image size that the patch does not divide.
    """
    visual = model.visual
    _require_tower(name, model)
    config, trunk = visual.preprocess_cfg, getattr(visual, "trunk", None)
    preprocess = Preprocess(
        tuple(visual.image_size if trunk is None else trunk.patch_embed.img_size),
        fit="squash" if config.get("resize_mode") == "squash" else "crop",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    if trunk is not None:
        return Backbone(freeze_timm(name, trunk, preprocess, trunk.head, visual.head), TextHead(model, tokenizer))
    spec = VitSpec(name, preprocess.size_hw, int(visual.conv1.stride[0]), preprocess)
    table = visual.positional_embedding.detach()
    prefix = visual.class_embedding.detach()[None] + table[:1]
    pre_norm = visual.ln_pre if isinstance(visual.ln_pre, nn.LayerNorm) else None
    vit = FrozenViT(spec, visual.conv1, prefix, table[1:], ClipBody(visual), pre_norm)
    return Backbone(vit, TextHead(model, tokenizer))


def _require_tower(name: str, model: Any, image_hw: tuple[int, int] | None = None) -> None:
    """Refuse an image tower that this module does not repeat exactly."""
    from open_clip import CoCa
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    visual = model.visual
    if isinstance(model, CoCa):
        refuse_part(name, "the model", "CLIP or CustomTextCLIP of open_clip", type(model).__name__)
    if type(visual) is TimmModel:
        require_vit(name, visual.trunk, image_hw)
        return
    if type(visual) is not VisionTransformer:
        refuse_part(name, "the image tower", "VisionTransformer or TimmModel of open_clip", type(visual).__name__)
    if visual.attn_pool is not None:
        refuse_part(name, "the pooling of the image tower", "tok or avg", type(visual.attn_pool).__name__)
    if visual.pool_type not in ("tok", "avg"):
        refuse_part(name, "the pooling of the image tower", "tok or avg", repr(visual.pool_type))
    for block in visual.transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            refuse_part(name, "the blocks of the image tower", "ResidualAttentionBlock", type(block).__name__)
    require_patches(name, visual.conv1)
    require_size(name, image_hw or tuple(visual.image_size), visual.conv1.stride[0])


class NoText(ZeroShot):
    """Stands where a file of weights holds an image tower without its text tower.

    Args:
        name: Name of the backbone.
        source: Path of the file.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def head(self, labels: tuple[str, ...], template: str) -> Head:
        """Always refused: class names need a text tower."""
        raise self._refusal()

    def outputs(self) -> Head:
        """Always refused, as `head`."""
        raise self._refusal()

    def _refusal(self) -> DataError:
        return DataError(
            self.name,
            expected="a text tower, to make a head from class names",
            got=f"the image tower alone, from {self.source}",
            do="train with a linear head, --head linear, or pass the weights of the whole model",
        )


class TextHead(ZeroShot):
    """The text encoder of CLIP or SigLIP as the maker of heads.

    SigLIP adds one bias to every logit. A softmax does not see it, so the head leaves it out.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer | None) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def head(self, labels: tuple[str, ...], template: str) -> Head:
        """One unit row for each label: the text embedding of `template` with the label in it."""
        if "{}" not in template:
            raise DataError(
                "template", expected="a sentence with {} for the class", got=repr(template), do="put {} in it"
            )
        if self.tokenizer is None:
            raise DataError("text head", expected="a tokenizer", got="none", do="give one to clip_backbone")
        tokens = self.tokenizer([template.format(label.lower().replace("_", " ")) for label in labels])
        rows = F.normalize(self.model.encode_text(tokens), dim=-1)
        return Head.text(rows.numpy(), labels, float(self.model.logit_scale.exp()))

    def outputs(self) -> Head:
        """None: its text encoder names any classes, and its image tower ends in an embedding."""
        raise DataError(
            "label mapping",
            expected="a model with a classifier of its own",
            got="one that compares images with texts",
            do="choose another --head, such as zero-shot or tuned",
        )
