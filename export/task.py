"""`pgn-edge export`: a checkpoint becomes a task bundle, with proof that nothing was lost on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch

from pgn_edge.bundle import Bundle, Golden, write_bundle
from pgn_edge.contract import EngineFacts, Precision
from pgn_edge.errors import CheckpointError
from pgn_edge.export.deployed import DeployedPGN
from pgn_edge.export.graph import OPSET, finish, to_onnx
from pgn_edge.export.inversion import Certificate, certify, invert_library
from pgn_edge.export.parity import Ladder, Rung, require_parity, run_onnx, run_torch
from pgn_edge.export.precision import to_fp16
from pgn_edge.files import write_bytes
from pgn_edge.fingerprint import sha256_file
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import Checkpoint, load_checkpoint
from pgn_edge.nn.vit import CanvasViT, FrozenViT

GOLDEN_FRAMES = 4


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote and measured.

    Args:
        path: of the bundle.
        size_bytes: of the bundle.
        precision: of the PGN engine inside.
        certificate: of the inversion.
        parity: the rungs of the ladder.
    """

    path: Path
    size_bytes: int
    precision: Precision
    certificate: Certificate
    parity: tuple[Rung, ...]


def export_task(
    checkpoint_path: str | Path,
    output: str | Path,
    *,
    precision: Precision = "fp32",
    weights: str | Path | None = None,
    onnx_path: str | Path | None = None,
    allow_drift: bool = False,
) -> ExportReport:
    """Export a checkpoint as a task bundle.

    Args:
        checkpoint_path: from `pgn-edge train`.
        output: the bundle, usually `task.pgn`.
        precision: of the PGN engine.
        weights: of the backbone, where it is not downloaded.
        onnx_path: also write the PGN engine as ONNX there.
        allow_drift: write the bundle although a parity rung failed.

    Raises:
        CheckpointError: the checkpoint is damaged, or was trained with another backbone.
        InversionError: prompt inversion would not be exact.
        ParityError: a rung of the ladder failed.
        OutputError: an output cannot be written.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    vit = _matching_vit(checkpoint, weights, str(checkpoint_path))
    deployed, certificate = _invert(checkpoint, vit, precision)
    facts = EngineFacts(
        role="pgn",
        backbone=checkpoint.backbone,
        fingerprint=checkpoint.fingerprint,
        geometry=checkpoint.geometry,
        preprocess=checkpoint.preprocess,
        precision="fp32",
        opset=OPSET,
        output="canvas",
    )
    ladder, canvas, graph = _climb(checkpoint, vit, deployed, facts, precision)
    if not allow_drift:
        require_parity(ladder.rungs)
    pgn_onnx = graph.SerializeToString()
    if onnx_path is not None:
        write_bytes(onnx_path, pgn_onnx)
    bundle = Bundle(
        name=checkpoint.name,
        facts=replace(facts, precision=precision),
        pgn_onnx=pgn_onnx,
        head=checkpoint.head,
        golden=_golden(checkpoint, ladder.reference, canvas),
        certificate=certificate.to_json(),
        parity=tuple(rung.to_json() for rung in ladder.rungs),
        provenance={**checkpoint.provenance, "checkpoint_sha256": sha256_file(checkpoint_path)},
    )
    write_bundle(output, bundle)
    size = Path(output).stat().st_size
    return ExportReport(Path(output), size, precision, certificate, tuple(ladder.rungs))


def _matching_vit(checkpoint: Checkpoint, weights: str | Path | None, source: str) -> FrozenViT:
    vit = load_backbone(checkpoint.backbone, weights).vit
    if vit.fingerprint() != checkpoint.fingerprint:
        raise CheckpointError(
            source,
            expected=f"{checkpoint.backbone} with fingerprint {checkpoint.fingerprint}",
            got=vit.fingerprint(),
            do="pass the weights that it was trained with: --weights FILE",
        )
    return vit


def _invert(checkpoint: Checkpoint, vit: FrozenViT, precision: Precision) -> tuple[DeployedPGN, Certificate]:
    pgn, geometry, preprocess = checkpoint.pgn, checkpoint.geometry, checkpoint.preprocess
    library = pgn.library.detach().double().numpy()
    inversion = invert_library(*vit.projection(), library, vit.slot_position(geometry))
    images = torch.from_numpy(preprocess.normalise(checkpoint.golden_images))
    with torch.no_grad():
        coefficients = pgn.coefficients(images).numpy()
    certificate = certify(inversion, coefficients, preprocess)
    certificate.check(precision)
    return DeployedPGN(pgn, geometry, preprocess, inversion).eval(), certificate


def _climb(
    checkpoint: Checkpoint, vit: FrozenViT, deployed: DeployedPGN, facts: EngineFacts, precision: Precision
) -> tuple[Ladder, np.ndarray, onnx.ModelProto]:
    """The ladder, the float32 canvas of the golden frames, and the graph in the precision asked for."""
    images = checkpoint.golden_images
    head, geometry = checkpoint.head, checkpoint.geometry
    tokens = _TokenPath(vit, checkpoint)
    frozen = CanvasViT(vit, geometry)
    ladder = Ladder(run_torch(tokens, images), head)
    canvas = run_torch(deployed, images)
    ladder.climb("torch canvas", "fp32", run_torch(frozen, canvas))
    graph = to_onnx(deployed, torch.from_numpy(images[:1]).repeat(2, 1, 1, 1), facts)
    ladder.climb("onnxruntime fp32", "fp32", run_torch(frozen, run_onnx(graph, images)))
    if precision == "fp16":
        graph = finish(to_fp16(graph), replace(facts, precision="fp16"))
        ladder.climb("onnxruntime fp16", "fp16", run_torch(frozen, run_onnx(graph, images)))
    return ladder, canvas, graph


class _TokenPath(torch.nn.Module):
    """The reference: prompts concatenated as tokens, as in training."""

    def __init__(self, vit: FrozenViT, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.vit, self.pgn = vit, checkpoint.pgn
        self.preprocess = checkpoint.preprocess

    def forward(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        image = torch.from_numpy(self.preprocess.normalise(images_nhwc.numpy()))
        embedding: torch.Tensor = self.vit(image, self.pgn(image))
        return embedding


def _golden(checkpoint: Checkpoint, reference: np.ndarray, canvas: np.ndarray) -> Golden:
    logits = checkpoint.head.logits(reference)
    # The surest frames: a flip of one of these on the device is a fault, not a close call.
    best_two = np.sort(logits, axis=1)[:, -2:]
    margin = best_two[:, -1] - best_two[:, 0]
    chosen = np.argsort(-margin, kind="stable")[:GOLDEN_FRAMES]
    return Golden(
        images=checkpoint.golden_images[chosen],
        prompt_rows=np.ascontiguousarray(canvas[chosen, :, checkpoint.geometry.content_hw[0] :]),
        embedding=reference[chosen],
        top1=logits[chosen].argmax(axis=1),
    )
