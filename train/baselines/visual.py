"""Visual prompts: learned pixels that are added to every image, the same for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pgn_edge.errors import TrainingError
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.train.model import HeadModule, PromptedViT

VisualKind = Literal["padding", "fixed-patch", "random-patch"]
VISUAL_KINDS: tuple[VisualKind, ...] = get_args(VisualKind)
SHARE = 30 / 224  # width of the frame and side of the patches, of the smaller side of the image
LEVELS = 64  # steps between normalised values by which an image chooses the place of its patch


class VisuallyPrompted(PromptedViT):
    """A frozen ViT that sees each image with learned pixels added to it.

    Args:
        vit: the frozen ViT.
        kind: `padding`, a frame along the four edges; `fixed-patch`, a square in the upper left corner;
            `random-patch`, a square at a place that differs from image to image.
        head: the classifier.

    Raises:
        TrainingError: another kind.

    Source: Bahng et al., "Exploring Visual Prompts for Adapting Large-Scale Models", 2022, section 3.2.
    """

    def __init__(self, vit: FrozenViT, kind: VisualKind, head: HeadModule) -> None:
        super().__init__(vit, None, head, vit.geometry(0))
        kinds: dict[VisualKind, Callable[[tuple[int, int], int], nn.Module]] = {
            "padding": Frame,
            "fixed-patch": FixedPatch,
            "random-patch": RandomPatch,
        }
        if kind not in kinds:
            raise TrainingError("visual prompt", expected=" or ".join(kinds), got=repr(kind), do="choose one of them")
        side = max(1, round(SHARE * min(vit.spec.image_hw)))
        self.prompt = kinds[kind](vit.spec.image_hw, side)

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, D), what the head is given."""
        embedding: Tensor = self.vit(self.prompt(image))
        return embedding


class Frame(nn.Module):
    """Learned pixels along the edges; the middle of the image is left alone.

    Args:
        image_hw: size (H, W) in pixels.
        width: of the frame in pixels.
    """

    def __init__(self, image_hw: tuple[int, int], width: int) -> None:
        super().__init__()
        height, across = image_hw
        self.top, self.bottom = (nn.Parameter(torch.zeros(3, width, across)) for _ in range(2))
        self.left, self.right = (nn.Parameter(torch.zeros(3, height - 2 * width, width)) for _ in range(2))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same shape."""
        middle = self.left.new_zeros(3, self.left.shape[1], image.shape[3] - 2 * self.left.shape[2])
        belt = torch.cat([self.left, middle, self.right], dim=2)
        return image + torch.cat([self.top, belt, self.bottom], dim=1)


class FixedPatch(nn.Module):
    """A learned square in the upper left corner.

    Args:
        image_hw: size (H, W) in pixels.
        side: of the square in pixels.
    """

    def __init__(self, image_hw: tuple[int, int], side: int) -> None:
        super().__init__()
        self.patch = nn.Parameter(torch.zeros(3, side, side))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same shape."""
        side = self.patch.shape[1]
        return image + nn.functional.pad(self.patch, (0, image.shape[3] - side, 0, image.shape[2] - side))


class RandomPatch(nn.Module):
    """A learned square whose place is drawn from the pixels of each image.

    Augmentation changes the pixels, so an image's place changes from epoch to epoch. In use the same image always gets
    the same place, whatever batch it comes in, and a run that was interrupted goes on with the same bits.

    Args:
        image_hw: size (H, W) in pixels.
        side: of the square in pixels.
    """

    def __init__(self, image_hw: tuple[int, int], side: int) -> None:
        super().__init__()
        self.patch = nn.Parameter(torch.zeros(3, side, side))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same shape."""
        side = torch.arange(self.patch.shape[1], device=image.device)
        row, column = (start[:, None] + side for start in self.places(image))
        added = torch.zeros_like(image)
        each = torch.arange(len(image), device=image.device)[:, None, None]
        added[each, :, row[:, :, None], column[:, None, :]] = self.patch.permute(1, 2, 0).to(image.dtype)
        return image + added

    @torch.no_grad()
    def places(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column (B,) int64 of the square's upper left pixel in each image."""
        # Whole numbers: a sum of them is the same in any order, and its last digits are as good as a draw.
        pixels = (image.float() * LEVELS).round().long().flatten(1)
        weights = torch.arange(pixels.shape[1], device=image.device)
        height, width = image.shape[2:]
        side = self.patch.shape[1]
        rows = (pixels * (weights % 997 + 1)).sum(dim=1) % (height - side + 1)
        columns = (pixels * (weights % 1009 + 1)).sum(dim=1) % (width - side + 1)
        return rows, columns
