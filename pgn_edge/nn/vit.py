"""The frozen ViT as pgn-edge sees it: a patch projection, a position table, prefix tokens and a body."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.fingerprint import vit_fingerprint, weights_sha256
from pgn_edge.geometry import Geometry, Layout, whole_rows
from pgn_edge.heads import Head
from pgn_edge.preprocess import Preprocess

Positions = Literal["bicubic", "bilinear"]
ACTIVATIONS = frozenset({"GELU", "GELUTanh", "QuickGELU", "QuickGELUActivation", "SiLU", "ReLU"})


@dataclass(frozen=True)
class VitSpec:
    """What the outside needs to know of a frozen ViT.

    Args:
        backbone: name as the user types it, for example `open_clip:ViT-B-32/openai`.
        image_hw: stock input size (H, W) in pixels.
        patch: patch size P in pixels.
        preprocess: how frames become the stock input.
    """

    backbone: str
    image_hw: tuple[int, int]
    patch: int
    preprocess: Preprocess


class FrozenViT(nn.Module):
    """A ViT whose parameters never change, with prompt tokens as a second input.

    Args:
        spec: name, sizes and preprocessing.
        patch_embed: the patch projection, weight (d, C, P, P), stride P.
        prefix: tokens before the patches with their positions added, (p, d); the class token for CLIP.
        position: position table E of the image patches, (G_h * G_w, d).
        body: (B, p + n, d) tokens before the pre-norm -> (B, D) embedding.
        pre_norm: the LayerNorm that the body applies first, or None where it has none.

    Source: Loedeman et al., BMVC 2024, section 3; prompts enter after the position table and before the pre-norm.
    """

    def __init__(
        self,
        spec: VitSpec,
        patch_embed: nn.Conv2d,
        prefix: Tensor,
        position: Tensor,
        body: nn.Module,
        pre_norm: nn.LayerNorm | None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.patch_embed = patch_embed
        self.body = body
        self.register_buffer("prefix", prefix.detach().clone())
        self.register_buffer("position", position.detach().clone())
        self.prefix: Tensor
        self.position: Tensor
        self._pre_norm = [pre_norm]  # in a list: the body owns the module, this is only a view of it
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenViT:
        """Stay in evaluation mode, whatever the training loop asks for: a frozen model has no other."""
        return super().train(False)

    @property
    def width(self) -> int:
        """Token width d."""
        return int(self.position.shape[1])

    def geometry(self, prompts: int | None, layout: Layout = "append") -> Geometry:
        """Canvas geometry of this ViT with `prompts` slots; None takes what fills whole rows, near 16.

        Raises:
            GeometryError: prompts that do not fit the layout.
        """
        size, patch = self.spec.image_hw, self.spec.patch
        return Geometry(size, patch, whole_rows(size, patch, layout) if prompts is None else prompts, layout)

    def projection(self) -> tuple[np.ndarray, np.ndarray]:
        """W (d, 3P²) and b (d,) as float64, pixels in the order (C, P, P)."""
        weight = self.patch_embed.weight.detach().double().cpu().numpy()
        bias = self.patch_embed.bias
        flat = weight.reshape(weight.shape[0], -1)
        return flat, np.zeros(len(flat)) if bias is None else bias.detach().double().cpu().numpy()

    def slot_position(self, geometry: Geometry) -> Tensor:
        """Position E_k (K, d) that the engine adds in each prompt slot.

        Zero for `append`; for `inset` the stock table's own rows, since E is untouched there.
        """
        if geometry.layout == "append":
            return self.position.new_zeros(geometry.prompts, self.width)
        return self.position[geometry.image_patches :][: geometry.prompts]

    def fingerprint(self) -> str:
        """sha256 over W, b, E and the pre-norm: two engines with one fingerprint take the same canvases."""
        norm = self._pre_norm[0]
        arrays = [*self.projection(), self.position.cpu().numpy()]
        if norm is not None:
            arrays += [norm.weight.detach().cpu().numpy(), norm.bias.detach().cpu().numpy()]
        return vit_fingerprint(arrays)

    def weights_sha256(self) -> str:
        """sha256 over all weights, the body included: it tells two epochs of one fine-tuning apart.

        The fingerprint cannot do that where the patch projection, the positions and the pre-norm were locked.
        """
        return weights_sha256({name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()})

    def stretched(self, geometry: Geometry, positions: Positions) -> FrozenViT:
        """The same ViT with its position table interpolated to the canvas of an append task.

        Libraries do this inside a stock model that gets a taller picture. Then the canvas is one picture to the ViT:
        its slots have positions as on an inset canvas.

        Args:
            geometry: Canvas of the append task.
            positions: Filter of the interpolation.
        """
        height, width = (side // geometry.patch for side in geometry.canvas_hw)
        table = self.position.T.reshape(1, self.width, *geometry.grid_hw)
        taller = F.interpolate(table, size=(height, width), mode=positions, align_corners=False)
        position = taller.flatten(2)[0].T.contiguous()
        spec = replace(self.spec, image_hw=geometry.canvas_hw)
        return FrozenViT(spec, self.patch_embed, self.prefix, position, self.body, self._pre_norm[0])

    def activation(self) -> str:
        """Name of the activation in its MLPs, for example `GELU` or `QuickGELU`; empty for one without a known name."""
        kinds = (type(module) for module in self.body.modules())
        found = [kind.__name__ for kind in kinds if kind.__name__ in ACTIVATIONS]
        return " and ".join(dict.fromkeys(found))

    def encode(self, tokens: Tensor) -> Tensor:
        """Patch and prompt tokens with positions added, (B, n, d) -> embedding (B, D)."""
        prefix = self.prefix.expand(tokens.shape[0], -1, -1)
        embedding: Tensor = self.body(torch.cat([prefix, tokens], dim=1))
        return embedding

    def patch_tokens(self, image: Tensor) -> Tensor:
        """Normalised pixels (B, 3, h, w) -> W x + b, (B, n, d), row by row, no position added."""
        projected: Tensor = self.patch_embed(image)
        return projected.flatten(2).transpose(1, 2)

    def slot_tokens(self, patches: Tensor, geometry: Geometry) -> Tensor:
        """Pixels of the prompt slots (B, K, 3P²), order (C, P, P) -> their tokens W x + b + E, (B, K, d)."""
        weight = self.patch_embed.weight.flatten(1)
        return F.linear(patches, weight, self.patch_embed.bias) + self.slot_position(geometry)

    def forward(self, image: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Embedding of an image, with prompt tokens beside it if there are any.

        Args:
            image: (B, 3, h, w) normalised; h may be smaller than the stock height (`inset`).
            prompts: (B, K, d) prompt tokens h, or None.

        Returns:
            (B, D) embedding.
        """
        tokens = self.patch_tokens(image)
        tokens = tokens + self.position[: tokens.shape[1]]
        if prompts is not None:
            tokens = torch.cat([tokens, prompts], dim=1)
        return self.encode(tokens)


class CanvasViT(nn.Module):
    """The frozen ViT with the canvas as its only input: what `export-vit` writes.

    Args:
        vit: the frozen ViT.
        geometry: canvas geometry; spare slots are dropped by a static slice.
    """

    def __init__(self, vit: FrozenViT, geometry: Geometry) -> None:
        super().__init__()
        self.vit = vit
        self.used = geometry.image_patches + geometry.prompts
        table = torch.cat([vit.position[: geometry.image_patches], vit.slot_position(geometry)])
        self.register_buffer("table", table)
        self.table: Tensor

    def forward(self, canvas: Tensor) -> Tensor:
        """Canvas (B, 3, H_c, W_c), normalised -> embedding (B, D)."""
        tokens = self.vit.patch_tokens(canvas)[:, : self.used]
        return self.vit.encode(tokens + self.table)


class ZeroShot:
    """Builds the frozen model's own head for a list of class names."""

    def head(self, labels: tuple[str, ...], template: str) -> Head:
        """Head over `labels`; `template` holds `{}` where the name goes.

        Raises:
            DataError: the model cannot name one of the classes.
        """
        raise NotImplementedError

    def outputs(self) -> Head:
        """Head over all outputs of the frozen model, whatever they stand for: what labels are mapped to.

        Raises:
            DataError: the model has embeddings alone.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Backbone:
    """A frozen ViT and the head that it classifies with on its own.

    Args:
        vit: the frozen ViT.
        zero_shot: class names -> the frozen model's own head over these classes (text weights for CLIP).
        notes: Sentences for the user about what was chosen, assumed or replaced while loading.
    """

    vit: FrozenViT
    zero_shot: ZeroShot
    notes: tuple[str, ...] = ()
