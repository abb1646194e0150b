"""The parity ladder of one task: from its prompts as tokens to the graph that ships, and the golden pair beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pgn_edge.bundle import Golden
from pgn_edge.contract import EngineFacts, Precision
from pgn_edge.export.deployed import DeployedPGN
from pgn_edge.export.graph import OPSET
from pgn_edge.export.legality import require_legal
from pgn_edge.export.parity import Ladder, normalised, run_onnx, run_torch
from pgn_edge.export.pgn_graph import PgnGraph, pgn_graphs
from pgn_edge.export.rounding import Mixing
from pgn_edge.export.ties import settled
from pgn_edge.nn.checkpoint import Checkpoint, spread
from pgn_edge.nn.prompted import embed
from pgn_edge.nn.vit import CanvasViT, FrozenViT
from pgn_edge.transport import Transport

GOLDEN_FRAMES = 4
DISTANCE_FRAMES = 4  # for the float32 rungs, whose limit is a distance; a share of flips needs all frames
EIGHT_BITS = "torch, prompts of 8 bits"


@dataclass(frozen=True)
class Deployment:
    """A task as it is deployed, and what it is measured with.

    Args:
        checkpoint: of the task.
        vit: the frozen ViT that it was trained for.
        pgn: with its inversion folded in.
        transport: what a canvas of uint8 goes through on its way.
    """

    checkpoint: Checkpoint
    vit: FrozenViT
    pgn: DeployedPGN
    transport: Transport

    def facts(self) -> EngineFacts:
        """Of the float32 PGN engine."""
        checkpoint = self.checkpoint
        return EngineFacts(
            role="pgn",
            backbone=checkpoint.backbone,
            fingerprint=checkpoint.fingerprint,
            geometry=checkpoint.geometry,
            preprocess=checkpoint.preprocess,
            precision="fp32",
            opset=OPSET,
            output="canvas",
            canvas=self.pgn.canvas,
            transport=self.transport.loss,
        )

    def tokens(self) -> np.ndarray:
        """The reference: embeddings (M, D) of the golden images, prompts concatenated as tokens, as in training."""
        return run_torch(_TokenPath(self.vit, self.checkpoint), self.checkpoint.golden_images)

    def embedding(self, canvas: np.ndarray) -> np.ndarray:
        """What the ViT makes of canvases of either type (M, ...): (M, D) float32."""
        checkpoint = self.checkpoint
        return run_torch(CanvasViT(self.vit, checkpoint.geometry), normalised(canvas, checkpoint.preprocess))

    def settled(self, canvas: np.ndarray, images: np.ndarray) -> np.ndarray:
        """The reference for prompts of 8 bits, see `ties`: canvases (M, ...) of images (M, H, W, 3) -> (M, D)."""
        checkpoint = self.checkpoint
        image, examined = (normalised(array, checkpoint.preprocess) for array in (images, canvas))
        return settled(self.vit, checkpoint.pgn, checkpoint.geometry, image, examined)


def climb(
    deployment: Deployment, mixing: Mixing | None, precision: Precision, onnxsim: bool
) -> tuple[Ladder, PgnGraph]:
    """All rungs, and the graph on the last of them.

    Args:
        deployment: of the task.
        mixing: as in `pgn_graphs`.
        precision: likewise.
        onnxsim: likewise.

    Raises:
        ExportError: no graph in this precision, or one that may leave legal RGB although its prompts are pixels.
    """
    pgn, config = deployment.pgn, deployment.checkpoint.pgn.config
    images = deployment.checkpoint.golden_images
    ladder = Ladder(deployment.tokens(), deployment.checkpoint.head)
    few = spread(len(images), DISTANCE_FRAMES)
    if pgn.rounded and not config.rounded:  # a loss of precision, as fp16 is one
        do = "train with --rounded, or export without --uint8"
        ladder.climb(EIGHT_BITS, "fp16", deployment.embedding(run_torch(pgn, images)), way_out=do)

    def add(name: str, kind: Precision, canvas: np.ndarray, frames: np.ndarray) -> None:
        own = deployment.settled(canvas, images[frames]) if pgn.rounded and kind == "fp32" else None
        ladder.climb(name, kind, deployment.embedding(canvas), frames, own)

    add("torch canvas", "fp32", run_torch(pgn, images[few]), few)
    for graph in pgn_graphs(pgn, deployment.facts(), images, mixing, precision, onnxsim):
        if config.space == "pixel":
            require_legal(graph.model, deployment.checkpoint.preprocess)
        kind = graph.facts.precision
        frames = few if kind == "fp32" else np.arange(len(images))
        add(f"onnxruntime {kind}", kind, run_onnx(graph.model, images[frames]), frames)
    return ladder, graph


def golden_pair(deployment: Deployment, reference: np.ndarray) -> Golden:
    """The surest of the golden images, and what a device must make of them.

    Args:
        deployment: of the task.
        reference: (M, D) embeddings of all golden images, prompts as tokens; of a canvas of uint8 counts what comes out
            at the other end of its transport.
    """
    checkpoint = deployment.checkpoint
    canvas = run_torch(deployment.pgn, checkpoint.golden_images)
    by_vit = canvas.dtype == np.uint8
    if by_vit:
        reference = deployment.embedding(np.stack([deployment.transport.carry(image) for image in canvas]))
    logits = checkpoint.head.logits(reference)
    # A flip of one of these on the device is a fault, not a close call.
    best_two = np.sort(logits, axis=1)[:, -2:]
    margin = best_two[:, -1] - best_two[:, 0]
    chosen = np.argsort(-margin, kind="stable")[:GOLDEN_FRAMES]
    rows = np.split(canvas[chosen], [checkpoint.geometry.content_hw[0]], axis=1 if by_vit else 2)[1]
    return Golden(
        images=checkpoint.golden_images[chosen],
        prompt_rows=np.ascontiguousarray(rows),
        embedding=reference[chosen],
        top1=logits[chosen].argmax(axis=1),
    )


class _TokenPath(torch.nn.Module):
    """As `embed`, from uint8 images."""

    def __init__(self, vit: FrozenViT, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.vit, self.pgn = vit, checkpoint.pgn
        self.preprocess, self.geometry = checkpoint.preprocess, checkpoint.geometry

    def forward(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        image = torch.from_numpy(self.preprocess.normalise(images_nhwc.numpy()))
        return embed(self.vit, self.pgn, self.geometry, image)
