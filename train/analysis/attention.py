"""Where the class token looks in the last layer, with and without prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pgn_edge.extras import cv2
from pgn_edge.geometry import Geometry
from pgn_edge.nn.attention import ClassTokenBlock
from pgn_edge.nn.canvas import to_input
from pgn_edge.nn.checkpoint import spread
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.train.analysis.features import Features
from pgn_edge.train.analysis.figures import GREY, INK, figure, png
from pgn_edge.train.analysis.section import Picture, Section
from pgn_edge.train.analysis.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6  # images in the picture
MEASURED = 128  # images of the bars
MOST_TICKS = 32
IMAGE_SHARE = 0.35  # of the picture; the rest is the colour of the attention


@torch.no_grad()
def attention(trained: Trained, features: Features, number: int) -> Section:
    """Attention of the class token over the image and over each prompt.

    Args:
        trained: Checkpoint with its ViT.
        features: Images of one data set.
        number: Number of the data set among all, for names of files.
    """
    title = f"Attention of the class token: {features.name}"
    vit, pgn = trained.model.vit, trained.model.pgn
    assert pgn is not None
    block = last_block(vit)
    if block is None:
        return Section(title, ("Left out: this ViT's answer is not read from its class token.",))
    geometry = trained.checkpoint.geometry
    chosen = features.images[spread(len(features.images), MEASURED)]
    x = to_input(torch.from_numpy(chosen), trained.checkpoint.preprocess, trained.device)
    prompts = pgn(x)
    if pgn.config.space == "pixel":
        prompts = vit.slot_tokens(prompts, geometry)
    alone, _ = class_attention(vit, block, geometry, x)
    beside, on_prompts = class_attention(vit, block, geometry, x, prompts)
    shown = spread(len(chosen), SHOWN)
    shares = {
        "images": len(chosen),
        "image_patches_alone": float(alone.sum(axis=(1, 2)).mean()),
        "image_patches": float(beside.sum(axis=(1, 2)).mean()),
        "prompts": float(on_prompts.sum(axis=1).mean()),
        "each_prompt": on_prompts.mean(axis=0).tolist(),
    }
    pictures = (
        Picture(
            f"attention_maps_{number}",
            png(_maps(chosen[shown], alone[shown], beside[shown], on_prompts[shown])),
            "From top to bottom: the image, where the class token looks without prompts, where it looks with them, and "
            "its attention to each prompt for this image. Last layer, mean of its heads. From dark over red to yellow "
            "the attention grows; each map has a scale of its own, and all bars share one.",
        ),
        Picture(
            f"attention_prompts_{number}",
            png(_bars(on_prompts, 1 / (vit.prefix.shape[0] + geometry.image_patches + geometry.prompts))),
            f"Attention of the class token on each prompt, mean of {len(chosen)} images, whiskers one standard "
            "deviation. The dotted line is what a token would get if all were looked at alike.",
        ),
    )
    read = (
        f"{features.name}: with prompts, {shares['prompts']:.1%} of the class token's attention goes to the "
        f"{geometry.prompts} prompts and {shares['image_patches']:.1%} to the image; without them the image has "
        f"{shares['image_patches_alone']:.1%}. The rest is on the class token itself, and on registers."
    )
    return Section(title, (read,), None, pictures, shares)


def last_block(vit: FrozenViT) -> ClassTokenBlock | None:
    """The last block of a ViT that reads its class token; None for one that pools its tokens."""
    blocks = [module for module in vit.body.modules() if isinstance(module, ClassTokenBlock)]
    return blocks[-1] if blocks else None


def class_attention(
    vit: FrozenViT, block: ClassTokenBlock, geometry: Geometry, image: Tensor, prompts: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Attention of the class token in the last block, mean of its heads.

    Args:
        vit: the frozen ViT.
        block: its last one.
        geometry: of the canvas.
        image: (B, 3, H, W) normalised.
        prompts: (B, K, d) tokens, or None.

    Returns:
        On image patches (B, h, w), and on prompts (B, K), K = 0 without them; float32, each row sums to at most 1.
    """
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handle = block.register_forward_pre_hook(keep)
    try:
        vit(image, prompts)
    finally:
        handle.remove()
    weights = weights_of(block, seen[0]).mean(dim=1)[:, vit.prefix.shape[0] :].float().cpu().numpy()
    patches, on_prompts = weights[:, : geometry.image_patches], weights[:, geometry.image_patches :]
    height, width = (side // geometry.patch for side in geometry.content_hw)
    return patches.reshape(-1, height, width), on_prompts


def weights_of(block: ClassTokenBlock, x: Tensor) -> Tensor:
    """What the block's first token attends to.

    Args:
        block: computes the first token alone.
        x: (B, n, d), its input.

    Returns:
        (B, heads, n), each row sums to 1.
    """
    normed = block.norm_1(x)
    key = block.key_value(normed).chunk(2, dim=-1)[0]
    query, key = (
        norm(part.unflatten(-1, (block.heads, -1))).transpose(1, 2)
        for norm, part in ((block.query_norm, block.query(normed[:, :1])), (block.key_norm, key))
    )
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    weights: Tensor = scores.softmax(dim=-1)[:, :, 0]
    return weights


def _maps(images: np.ndarray, alone: np.ndarray, beside: np.ndarray, on_prompts: np.ndarray) -> Figure:
    rows = {
        "image": images,
        "without\nprompts": _heated(images, alone),
        "with\nprompts": _heated(images, beside),
    }
    drawn = figure(1.5 * len(images) + 0.9, 5.8)
    grid = drawn.subplots(len(rows) + 1, len(images), squeeze=False, height_ratios=[1, 1, 1, 0.6])
    highest = 100 * float(on_prompts.max(initial=0.0))
    for axes, shares in zip(grid[-1], 100 * on_prompts, strict=True):
        axes.bar(range(1, len(shares) + 1), shares, color=INK)
        axes.set(ylim=(0, max(1.05 * highest, 1e-3)), xticks=[1, len(shares)])
        axes.tick_params(labelsize=7)
        axes.label_outer()
    grid[-1][0].set_ylabel("on each\nprompt, %", rotation=0, ha="right", va="center", fontsize=9)
    for line, (name, pictures) in zip(grid, rows.items(), strict=False):
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return drawn


def _heated(images: np.ndarray, weights: np.ndarray) -> Sequence[np.ndarray]:
    """Grey images under the colours of the attention."""
    from matplotlib import colormaps

    size_wh, heated = (images.shape[2], images.shape[1]), []
    for image, weight in zip(images, weights, strict=True):
        heat = cv2.resize(weight / max(float(weight.max()), 1e-12), size_wh, interpolation=cv2.INTER_LINEAR)
        grey = image.mean(axis=2, keepdims=True) / 255
        colour = colormaps["inferno"](0.15 + 0.8 * heat)[..., :3]
        heated.append((255 * (IMAGE_SHARE * grey + (1 - IMAGE_SHARE) * colour)).round().astype(np.uint8))
    return heated


def _bars(on_prompts: np.ndarray, even: float) -> Figure:
    count = on_prompts.shape[1]
    drawn = figure(max(5.0, 0.28 * count + 1.5), 3.2)
    axes = drawn.subplots()
    mean, deviation = 100 * on_prompts.mean(axis=0), 100 * on_prompts.std(axis=0)
    low = np.minimum(deviation, mean)  # attention is not negative
    axes.bar(range(1, count + 1), mean, yerr=(low, deviation), color=INK, ecolor=GREY, capsize=2)
    axes.axhline(100 * even, color="#57606a", linestyle=":", linewidth=1)
    axes.set(xlabel="prompt", ylabel="attention, %", xlim=(0.3, count + 0.7))
    if count <= MOST_TICKS:
        axes.set_xticks(range(1, count + 1))
    return drawn
