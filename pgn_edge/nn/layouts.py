"""Names of the same weights in the files of different libraries, and the way from one to the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pgn_edge.errors import CheckpointError

OPEN_CLIP = ("visual.conv1.weight", "visual.trunk.patch_embed.proj.weight")
HUGGING_FACE_CLIP = ("vision_model.embeddings.patch_embedding.weight",)
HUGGING_FACE_VIT = ("embeddings.patch_embeddings.projection.weight",)
TIMM = ("patch_embed.proj.weight",)
TORCHVISION = ("conv_proj.weight",)
CLIP_TOWER = ("conv1.weight",)
# A file is named by the first of these that it holds; the last column is the remedy.
KNOWN = (
    (OPEN_CLIP, "open_clip", "name the backbone open_clip:ARCHITECTURE"),
    (HUGGING_FACE_CLIP, "Hugging Face's CLIP", "name the backbone open_clip:ARCHITECTURE"),
    (HUGGING_FACE_VIT, "Hugging Face's ViT", "save the model in the names of timm, which docs/backbones.md lists"),
    (TIMM, "timm", "name the backbone timm:NAME"),
    (TORCHVISION, "torchvision", "name the backbone torchvision:NAME"),
)
BLOCK_PARTS = (
    ("self_attn.out_proj.", "attn.out_proj."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
)
CLIP_PARTS = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "logit_scale": "logit_scale",
    **{f"vision_model.pre_layrnorm.{part}": f"visual.ln_pre.{part}" for part in ("weight", "bias")},
    **{f"vision_model.post_layernorm.{part}": f"visual.ln_post.{part}" for part in ("weight", "bias")},
    **{f"text_model.final_layer_norm.{part}": f"ln_final.{part}" for part in ("weight", "bias")},
}
TRANSPOSED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}


def layout_of(names: Iterable[str]) -> tuple[str, str]:
    """Library whose names these are, and the remedy for a backbone of another one; empty texts for unknown names."""
    names = tuple(names)
    for signatures, library, remedy in KNOWN:
        if any(name == each or name.endswith(f".{each}") for name in names for each in signatures):
            return library, remedy
    return "", ""


def under_prefix(
    state: Mapping[str, Tensor], signatures: Sequence[str], source: str
) -> tuple[dict[str, Tensor], str, int]:
    """Part of a state dict that is one model: training loops put names such as `model.` or `module.` before it.

    Args:
        state: Tensors by name.
        signatures: Names of which a model of the wanted layout has one.
        source: Path of the file, for the message.

    Returns:
        The tensors without the prefix, the prefix, and the number of tensors outside it. A state without any of the
        signatures comes back as it is.

    Raises:
        CheckpointError: more than one model of this layout is in the file.
    """
    # torch.compile puts this one before the parts that it compiled, wherever they are.
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    for signature in signatures:
        found = sorted(name.removesuffix(signature) for name in state if name == signature or _ends(name, signature))
        if len(found) > 1 and found[0]:
            raise CheckpointError(
                source,
                expected="the weights of one model",
                got=f"those of {len(found)}, under {' and '.join(map(repr, found))}",
                do=f"choose one of them: --weights-key {found[0].rstrip('.')}",
            )
        if found:
            prefix = found[0]
            inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
            return inside, prefix, len(state) - len(inside)
    return state, "", 0


def _ends(name: str, signature: str) -> bool:
    return name.endswith(f".{signature}")


def from_hugging_face_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes of open_clip for a state of `CLIPModel` or `CLIPVisionModelWithProjection`."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".position_ids"):  # a count from 0 that older releases saved
            continue
        if name in TRANSPOSED:
            out[TRANSPOSED[name]] = tensor.T.contiguous()
        elif name in CLIP_PARTS:
            out[CLIP_PARTS[name]] = tensor
        elif ".self_attn." in name and "out_proj" not in name:
            continue
        else:
            out[_clip_block(name)] = tensor
    for block, part, parts in _attention(state):
        out[f"{_clip_block(block)}attn.in_proj_{part}"] = torch.cat(parts)
    return out


def _clip_block(name: str) -> str:
    name = name.replace("vision_model.encoder.layers.", "visual.transformer.resblocks.")
    name = name.replace("text_model.encoder.layers.", "transformer.resblocks.")
    for theirs, ours in BLOCK_PARTS:
        name = name.replace(theirs, ours)
    return name


def _attention(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, list[Tensor]]]:
    """Query, key and value of each block, which open_clip keeps in one tensor."""
    for name in state:
        match = re.fullmatch(r"(.*\.)self_attn\.q_proj\.(weight|bias)", name)
        names = [name.replace(".q_proj.", f".{part}.") for part in ("q_proj", "k_proj", "v_proj")]
        if match and all(each in state for each in names):
            yield match[1], match[2], [state[each] for each in names]
