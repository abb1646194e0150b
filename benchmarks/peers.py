"""What the chain is measured against: torch as the paper's code runs it, and a plain export of the same tower.

All of them, and the engines, are made from the same seeded random weights.
"""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import CLIP, PROMPTS, random_clip_task
from torch import Tensor, nn

from pgn_edge.bundle import read_bundle
from pgn_edge.contract import Precision
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.nn.checkpoint import Checkpoint, load_checkpoint

GOLDEN = 8


@dataclass(frozen=True)
class Files:
    """One random CLIP ViT-B/32 and one random task for it, in a folder."""

    folder: Path

    @property
    def weights(self) -> Path:
        """State of the whole CLIP model."""
        return self.folder / "weights.pt"

    @property
    def checkpoint(self) -> Path:
        """The task in torch."""
        return self.folder / "ckpt.pt"

    @property
    def task(self) -> Path:
        """The task as a bundle."""
        return self.folder / "task.pgn"

    @property
    def pgn(self) -> Path:
        """The bundle's PGN graph alone, for runtimes that know no bundles."""
        return self.folder / "pgn.onnx"

    @property
    def plain(self) -> Path:
        """The ViT as plain torch.onnx.export makes it."""
        return self.folder / "plain.onnx"

    def vit(self, precision: Precision = "fp32") -> Path:
        """Our ViT graph."""
        return self.folder / f"vit-{precision}.onnx"

    def make(self, seed: int, precisions: tuple[Precision, ...], task_precision: Precision = "fp32") -> None:
        """Make all of them but the plain export, through the same functions as the commands.

        Args:
            seed: of everything random.
            precisions: of the ViT graphs.
            task_precision: of the PGN graph.
        """
        random_clip_task(self.folder, GOLDEN, seed)
        for precision in precisions:
            options = VitOptions(PROMPTS, precision=precision, weights=self.weights)
            export_vit(CLIP, self.vit(precision), options)
        export_task(self.checkpoint, self.task, ExportOptions(task_precision, self.weights))
        self.pgn.write_bytes(read_bundle(self.task).pgn_onnx)


class PaperModel(nn.Module):
    """PGN and CLIP as the paper's code runs them: prompts as tokens behind the position table, logits at the end.

    In the paper's favour text features are there beforehand; its code encodes the text again in each forward pass.

    Args:
        visual: open_clip's image tower.
        checkpoint: the task; its PGN in token space, its head of text weights.
        sequence_first: run the transformer on (n, B, d) as the paper's code does; else on (B, n, d), which torch has a
            fused attention layer for.

    Source: jochemloedeman/PGN, pgn/lightning/pgn_clip.py and pgn/pgn_models/tlpgn.py.
    """

    def __init__(self, visual: Any, checkpoint: Checkpoint, *, sequence_first: bool = True) -> None:
        super().__init__()
        # The same parameters behind another layout: a tower has 350 MB of them.
        self.visual = copy.deepcopy(visual, {id(value): value for value in visual.parameters()})
        self.visual.transformer.batch_first = not sequence_first
        for block in self.visual.transformer.resblocks:
            block.attn.batch_first = not sequence_first
        self.config = checkpoint.pgn.config
        self.generator: nn.Module | None = checkpoint.pgn.generator
        self.library = checkpoint.pgn.library
        self.register_buffer("text", torch.from_numpy(checkpoint.head.weight))
        self.text: Tensor
        self.scale = checkpoint.head.scale

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised (B, 3, H, W) -> embedding (B, D) and logits (B, C)."""
        embedding = self._encode(images, self._prompts(images))
        unit = embedding / embedding.norm(dim=1, keepdim=True)
        return embedding, self.scale * unit @ self.text.t()

    def _prompts(self, images: Tensor) -> Tensor:
        from torchvision.transforms.functional import resize

        assert self.generator is not None
        logits = self.generator(resize(images, self.config.resolution))
        mixtures = logits.reshape(len(images), self.config.prompts, self.config.library).softmax(dim=-1)
        return torch.einsum("bkn,nd->bkd", mixtures, self.library)

    def _encode(self, images: Tensor, prompts: Tensor) -> Tensor:
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, 49, d)
        stem = visual.class_embedding.expand(len(images), 1, -1)
        tokens = torch.cat([stem, patches], dim=1) + visual.positional_embedding
        tokens = torch.cat([tokens, prompts], dim=1)
        tokens = visual.transformer(visual.ln_pre(tokens))
        embedding: Tensor = visual.ln_post(tokens[:, 0]) @ visual.proj
        return embedding


class PlainCanvas(nn.Module):
    """open_clip's own tower behind a canvas: the tokens of our ViT graph from a module that has nothing of ours."""

    def __init__(self, visual: Any, prompts: int) -> None:
        super().__init__()
        self.visual, self.prompts = visual, prompts

    def forward(self, canvas: Tensor) -> Tensor:
        """Normalised (B, 3, H + rP, W) -> (B, D)."""
        visual = self.visual
        table = nn.functional.pad(visual.positional_embedding, (0, 0, 0, self.prompts))
        patches = visual.conv1(canvas).flatten(2).transpose(1, 2)[:, : len(table) - 1]  # spare slots go
        stem = visual.class_embedding.expand(len(canvas), 1, -1)
        tokens = visual.transformer(visual.ln_pre(torch.cat([stem, patches], dim=1) + table))
        embedding: Tensor = visual.ln_post(tokens[:, 0]) @ visual.proj
        return embedding


def load_tower(weights: Path) -> Any:
    """open_clip's image tower of the random CLIP model, frozen."""
    import open_clip

    logging.getLogger().setLevel(logging.ERROR)  # else open_clip warns that the weights are random
    model = open_clip.create_model("ViT-B-32", pretrained=None, force_quick_gelu=True)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.visual.eval().requires_grad_(False)


def load_paper_model(files: Files, *, sequence_first: bool = True) -> PaperModel:
    """The paper's way to run the random task."""
    model = PaperModel(load_tower(files.weights), load_checkpoint(files.checkpoint), sequence_first=sequence_first)
    return model.eval().requires_grad_(False)


def export_plain(files: Files) -> None:
    """Plain `torch.onnx.export` of the tower, with its defaults."""
    canvas_hw = load_checkpoint(files.checkpoint).geometry.canvas_hw
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            PlainCanvas(load_tower(files.weights), PROMPTS).eval(),
            (torch.zeros(1, 3, *canvas_hw),),
            files.plain,
            dynamo=True,
            verbose=False,
            input_names=["canvas"],
            output_names=["embedding"],
        )
