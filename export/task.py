"""`pgn-edge export`: a checkpoint becomes a task bundle, with proof that nothing was lost on the way."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgn_edge.bundle import Bundle, Golden, write_bundle
from pgn_edge.contract import EngineFacts, Precision
from pgn_edge.errors import CheckpointError
from pgn_edge.export.certificate import Certificate, certify
from pgn_edge.export.deployed import DeployedPGN
from pgn_edge.export.graph import OPSET
from pgn_edge.export.inversion import (
    Codes,
    Inversion,
    Projection,
    adopt_pixels,
    adopt_prompts,
    choose_ridge,
    invert_library,
    invert_prompts,
)
from pgn_edge.export.parity import Ladder, Rung, require_parity, run_onnx, run_torch
from pgn_edge.export.pgn_graph import PgnGraph, pgn_graphs
from pgn_edge.export.rounding import Mixing
from pgn_edge.export.synthetic import SYNTHETIC
from pgn_edge.export.ties import settled
from pgn_edge.files import require_writable, write_bytes
from pgn_edge.fingerprint import sha256_file
from pgn_edge.mixtures import Profile
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import Checkpoint, load_checkpoint, spread
from pgn_edge.nn.pgn import PGN
from pgn_edge.nn.prompted import embed
from pgn_edge.nn.vit import CanvasViT, FrozenViT

GOLDEN_FRAMES = 4
DISTANCE_FRAMES = 4  # for the float32 rungs, whose limit is a distance; a share of flips needs all frames


@dataclass(frozen=True)
class ExportOptions:
    """How to export a task.

    Args:
        precision: of the PGN engine; `fp32`, `fp16` or `bf16`.
        weights: of the backbone, where it is not downloaded.
        onnx_path: also write the PGN engine as ONNX there.
        allow_drift: write the bundle although a parity rung failed.
        ridge: trade exactness for smaller pixels where the projection is ill-conditioned; the ladder then judges.
        simplify: run onnxsim over the graph, and refuse if an output changes.
    """

    precision: Precision = "fp32"
    weights: str | Path | None = None
    onnx_path: str | Path | None = None
    allow_drift: bool = False
    ridge: bool = False
    simplify: bool = False


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote and measured.

    Args:
        path: of the bundle.
        size_bytes: of the bundle.
        precision: of the PGN engine inside.
        certificate: of the inversion.
        parity: the rungs of the ladder.
        numerics: which nodes stay float32 and why; empty for fp32.
    """

    path: Path
    size_bytes: int
    precision: Precision
    certificate: Certificate
    parity: tuple[Rung, ...]
    numerics: Mapping[str, Any]


def export_task(
    checkpoint_path: str | Path, output: str | Path, options: ExportOptions = ExportOptions()
) -> ExportReport:
    """Export a checkpoint as a task bundle.

    Args:
        checkpoint_path: from `pgn-edge train` or `pgn-edge import`.
        output: the bundle, usually `task.pgn`.
        options: how.

    Raises:
        CheckpointError: the checkpoint is damaged, or was trained with another backbone.
        InversionError: prompt inversion would not be exact.
        ParityError: a rung of the ladder failed.
        OutputError: an output cannot be written.
    """
    for path in (output, *([] if options.onnx_path is None else [options.onnx_path])):
        require_writable(path)
    checkpoint = load_checkpoint(checkpoint_path)
    vit = _matching_vit(checkpoint, options.weights, str(checkpoint_path))
    proof = _prove(checkpoint, vit, options)
    rungs = tuple(proof.ladder.rungs)
    if not options.allow_drift:
        require_parity(rungs)
    pgn_onnx = proof.graph.model.SerializeToString()
    bundle = Bundle(
        name=checkpoint.name,
        facts=proof.graph.facts,
        pgn_onnx=pgn_onnx,
        head=checkpoint.head,
        golden=proof.golden,
        certificate=proof.certificate.to_json(),
        parity=tuple(rung.to_json() for rung in rungs),
        numerics=proof.graph.numerics,
        profile=proof.profile,
        provenance={**checkpoint.provenance, "checkpoint_sha256": sha256_file(checkpoint_path)},
    )
    if options.onnx_path is not None:
        write_bytes(options.onnx_path, pgn_onnx)
    write_bundle(output, bundle)
    return ExportReport(
        path=Path(output),
        size_bytes=Path(output).stat().st_size,
        precision=options.precision,
        certificate=proof.certificate,
        parity=rungs,
        numerics=proof.graph.numerics,
    )


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


@dataclass(frozen=True)
class _Proof:
    """What export measured, and the graph that it measured.

    Args:
        certificate: of the inversion.
        ladder: its rungs; the reference is torch with the prompts as tokens.
        graph: the PGN engine in the precision asked for.
        golden: pair for the device.
        profile: of the mixtures on all golden images; None for prompts that are no shares of a library made for each
            image, and where the golden images are no images.
    """

    certificate: Certificate
    ladder: Ladder
    graph: PgnGraph
    golden: Golden
    profile: Profile | None


def _prove(checkpoint: Checkpoint, vit: FrozenViT, options: ExportOptions) -> _Proof:
    """From inversion to the top of the ladder.

    Raises:
        InversionError: prompt inversion would not be exact.
    """
    images = torch.from_numpy(checkpoint.preprocess.normalise(checkpoint.golden_images))
    with torch.no_grad():
        codes = checkpoint.pgn.codes(images).numpy()
    projection = Projection.of(vit, checkpoint.geometry)
    inversion = _invert(checkpoint.pgn, projection, codes, options.ridge)
    certificate = certify(inversion, codes, checkpoint.preprocess, checkpoint.pgn.config.rounded)
    certificate.check()
    deployed = DeployedPGN(checkpoint.pgn, checkpoint.geometry, checkpoint.preprocess, inversion).eval()
    ladder = Ladder(run_torch(_TokenPath(vit, checkpoint), checkpoint.golden_images), checkpoint.head)
    mixing = None if inversion.pixels is None else Mixing(projection, codes[:DISTANCE_FRAMES], inversion.pixels)
    graph = _climb(ladder, checkpoint, vit, deployed, mixing, options)
    # Pictures made by arithmetic say nothing of what the task is shown in use.
    measured = deployed.more_outputs and checkpoint.provenance.get("golden") != SYNTHETIC
    profile = Profile.measure(codes) if measured else None
    return _Proof(certificate, ladder, graph, _golden(checkpoint, ladder.reference, deployed), profile)


def _invert(pgn: PGN, projection: Projection, codes: np.ndarray, ridge: bool) -> Inversion:
    config = pgn.config
    # In float64: what is stored as float32 later is rounded once.
    exact = copy.deepcopy(pgn).double()
    with torch.no_grad():
        library = exact.entries().numpy() if config.library else np.eye(config.width)
    if config.space == "pixel":
        if config.library:
            return adopt_pixels(projection, library)
        low, high = (side.numpy() for side in exact.legal())
        return adopt_prompts(projection, low, high)
    kind: Codes = "free" if not config.library else "shares" if config.mixing == "softmax" else "gates"
    if ridge:
        return choose_ridge(projection, library, codes, kind)
    return invert_library(projection, library, codes=kind) if config.library else invert_prompts(projection, codes)


def _climb(
    ladder: Ladder,
    checkpoint: Checkpoint,
    vit: FrozenViT,
    deployed: DeployedPGN,
    mixing: Mixing | None,
    options: ExportOptions,
) -> PgnGraph:
    """Add the rungs, and return the graph on the last of them."""
    images, frozen = checkpoint.golden_images, CanvasViT(vit, checkpoint.geometry)
    few = spread(len(images), DISTANCE_FRAMES)

    def climb(name: str, precision: Precision, canvas: np.ndarray, frames: np.ndarray) -> None:
        own = None
        if checkpoint.pgn.config.rounded and precision == "fp32":
            normalised = checkpoint.preprocess.normalise(images[frames])
            own = settled(vit, checkpoint.pgn, checkpoint.geometry, normalised, canvas)
        ladder.climb(name, precision, run_torch(frozen, canvas), frames, own)

    climb("torch canvas", "fp32", run_torch(deployed, images[few]), few)
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
    for graph in pgn_graphs(deployed, facts, images, mixing, options.precision, options.simplify):
        precision = graph.facts.precision
        frames = few if precision == "fp32" else np.arange(len(images))
        climb(f"onnxruntime {precision}", precision, run_onnx(graph.model, images[frames]), frames)
    return graph


class _TokenPath(torch.nn.Module):
    """The reference: prompts concatenated as tokens, as in training."""

    def __init__(self, vit: FrozenViT, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.vit, self.pgn = vit, checkpoint.pgn
        self.preprocess, self.geometry = checkpoint.preprocess, checkpoint.geometry

    def forward(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        image = torch.from_numpy(self.preprocess.normalise(images_nhwc.numpy()))
        return embed(self.vit, self.pgn, self.geometry, image)


def _golden(checkpoint: Checkpoint, reference: np.ndarray, deployed: DeployedPGN) -> Golden:
    logits = checkpoint.head.logits(reference)
    # The surest frames: a flip of one of these on the device is a fault, not a close call.
    best_two = np.sort(logits, axis=1)[:, -2:]
    margin = best_two[:, -1] - best_two[:, 0]
    chosen = np.argsort(-margin, kind="stable")[:GOLDEN_FRAMES]
    images = checkpoint.golden_images[chosen]
    return Golden(
        images=images,
        prompt_rows=np.ascontiguousarray(run_torch(deployed, images)[:, :, checkpoint.geometry.content_hw[0] :]),
        embedding=reference[chosen],
        top1=logits[chosen].argmax(axis=1),
    )
