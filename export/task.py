"""`pgn-edge export`: a checkpoint becomes a task bundle, with proof that nothing was lost on the way."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from pgn_edge.bundle import Bundle, Golden, write_bundle
from pgn_edge.contract import CanvasType, EngineFacts, Precision
from pgn_edge.errors import ExportError, GeometryError, InversionError
from pgn_edge.export.certificate import WAY_OUT, Certificate, certify
from pgn_edge.export.deployed import DeployedPGN
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
from pgn_edge.export.legality import PROOF
from pgn_edge.export.parity import Ladder, Rung, require_parity
from pgn_edge.export.pgn_graph import PgnGraph
from pgn_edge.export.rounding import Mixing
from pgn_edge.export.synthetic import SYNTHETIC
from pgn_edge.export.task_ladder import DISTANCE_FRAMES, Deployment, climb, golden_pair
from pgn_edge.files import require_writable, write_bytes
from pgn_edge.fingerprint import sha256_file
from pgn_edge.geometry import whole_rows
from pgn_edge.heads import distinct_labels
from pgn_edge.mixtures import Profile
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import Checkpoint, load_checkpoint
from pgn_edge.nn.pgn import PGN
from pgn_edge.nn.vit import FrozenViT, Positions
from pgn_edge.strangeness import Strangeness
from pgn_edge.transport import Transport

RIDGE_COSTS = f"the ridge changes the prompts by more than the limit: {WAY_OUT}"


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
        uint8: whether the canvas is of 8 bits, for ViT engines that normalise it themselves; for a pixel library alone.
        transport: what such a canvas goes through on its way, see `Transport.parse`; empty for no loss.
        positions: Filter with which the engine interpolates its position table to a taller canvas; None for engines
            that pgn-edge exports, which leave the table alone. For append tasks whose prompts fill whole rows.

    Raises:
        ExportError: a transport of a canvas of floats.
        DataError: no transport that there is.
    """

    precision: Precision = "fp32"
    weights: str | Path | None = None
    onnx_path: str | Path | None = None
    allow_drift: bool = False
    ridge: bool = False
    simplify: bool = False
    uint8: bool = False
    transport: str = ""
    positions: Positions | None = None

    def __post_init__(self) -> None:
        if self.transport and not self.uint8:
            raise ExportError(
                "--transport", expected="a canvas of 8 bits", got="one of floats", do="export with --uint8 too"
            )
        self.codec()

    def codec(self) -> Transport:
        """What a canvas of 8 bits goes through."""
        return Transport.parse(self.transport or "png")


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote and measured.

    Args:
        path: of the bundle.
        size_bytes: of the bundle.
        facts: of the PGN engine inside.
        certificate: of the inversion.
        parity: the rungs of the ladder.
        numerics: which nodes stay float32 and why; empty for fp32.
    """

    path: Path
    size_bytes: int
    facts: EngineFacts
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
        InversionError: prompt inversion would not be exact, or prompts would not fit into 8 bits.
        ExportError: the ViT would normalise a canvas of 8 bits in another way than the task.
        ParityError: a rung of the ladder failed.
        OutputError: an output cannot be written.
    """
    for path in (output, *([] if options.onnx_path is None else [options.onnx_path])):
        require_writable(path)
    checkpoint = load_checkpoint(checkpoint_path)
    vit = _matching_vit(checkpoint, options.weights, str(checkpoint_path))
    if options.uint8:
        _require_pixels(checkpoint, vit)
    if options.positions is not None:
        checkpoint, vit = _stretched(checkpoint, vit, options.positions)
    proof = _prove(checkpoint, vit, options)
    rungs = tuple(proof.ladder.rungs)
    if options.ridge:
        rungs = tuple(replace(rung, way_out=RIDGE_COSTS) if rung.precision == "fp32" else rung for rung in rungs)
    if not options.allow_drift:
        require_parity(rungs)
    pgn_onnx = proof.graph.model.SerializeToString()
    bundle = Bundle(
        name=checkpoint.name,
        facts=proof.graph.facts,
        pgn_onnx=pgn_onnx,
        # Some data sets name two classes alike, ImageNet-1k among them.
        head=replace(checkpoint.head, labels=distinct_labels(checkpoint.head.labels)),
        golden=proof.golden,
        certificate=proof.certificate.to_json(),
        parity=tuple(rung.to_json() for rung in rungs),
        numerics=proof.graph.numerics,
        profile=proof.profile,
        provenance={**_shipped(checkpoint.provenance), "checkpoint_sha256": sha256_file(checkpoint_path)},
    )
    if options.onnx_path is not None:
        write_bytes(options.onnx_path, pgn_onnx)
    write_bundle(output, bundle)
    return ExportReport(
        path=Path(output),
        size_bytes=Path(output).stat().st_size,
        facts=proof.graph.facts,
        certificate=proof.certificate,
        parity=rungs,
        numerics=proof.graph.numerics,
    )


def _matching_vit(checkpoint: Checkpoint, weights: str | Path | None, source: str) -> FrozenViT:
    vit = load_backbone(checkpoint.backbone, weights or checkpoint.weights).vit
    checkpoint.require_vit(vit, source)
    return vit


def _stretched(checkpoint: Checkpoint, vit: FrozenViT, positions: Positions) -> tuple[Checkpoint, FrozenViT]:
    """Task and ViT for an engine that interpolates its positions: it takes the whole canvas for one picture.

    Inversion then subtracts the positions that the engine adds in the prompt slots, as for an inset canvas.

    Raises:
        GeometryError: no append task, or prompts that do not fill whole rows: such an engine reads every slot.
    """
    own = checkpoint.geometry
    if own.layout != "append" or own.spare:
        whole = whole_rows(own.image_hw, own.patch, "append", own.prompts)
        raise GeometryError(
            "--positions",
            expected=f"an append task with whole rows of {own.grid_hw[1]} prompts, as the engine reads every slot",
            got=str(own),
            do=f"train with --layout append --prompts {whole}",
        )
    taller = vit.stretched(own, positions)
    geometry = replace(own, image_hw=own.canvas_hw, layout="inset")
    return replace(checkpoint, geometry=geometry, fingerprint=taller.fingerprint()), taller


def _require_pixels(checkpoint: Checkpoint, vit: FrozenViT) -> None:
    """Refuse what no canvas of 8 bits can hold, and what the ViT would read as something else."""
    if checkpoint.pgn.config.space != "pixel":
        raise InversionError(
            "--uint8",
            expected="prompts that are legal RGB",
            got="a token library, whose prompts are floats of any size",
            do="train with --library-space pixel",
        )
    own, task = (
        f"mean {preprocess.mean}, std {preprocess.std}" for preprocess in (vit.spec.preprocess, checkpoint.preprocess)
    )
    if own != task:
        raise ExportError("--uint8", expected=f"the ViT's own {own}", got=task, do="export without --uint8")


def _shipped(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle tells of its training: names of files and data, without the folders of the user's machine."""
    config, facts = provenance.get("config"), provenance.get("facts")
    shipped = dict(provenance)
    if isinstance(config, Mapping):
        places = {name: _names(config[name]) for name in ("data", "root", "weights") if name in config}
        shipped["config"] = {**config, **places}
    if isinstance(facts, Mapping) and "source" in facts and "://" not in str(facts["source"]):
        shipped["facts"] = {**facts, "source": _names(facts["source"])}
    return shipped


def _names(paths: object) -> object:
    """Last parts of some paths with commas between them; anything but a text as it is."""
    if not isinstance(paths, str):
        return paths
    return ",".join(PurePath(path).name or path for path in paths.split(","))


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
        ExportError: as `climb`.
    """
    images = torch.from_numpy(checkpoint.preprocess.normalise(checkpoint.golden_images))
    with torch.no_grad():
        codes = checkpoint.pgn.codes(images).numpy()
    projection = Projection.of(vit, checkpoint.geometry)
    inversion = _invert(checkpoint.pgn, projection, codes, options.ridge)
    rounded = checkpoint.pgn.config.rounded or options.uint8
    certificate = certify(inversion, codes, checkpoint.preprocess, rounded)
    certificate.check()
    canvas: CanvasType = "uint8" if options.uint8 else "float32"
    pgn = DeployedPGN(checkpoint.pgn, checkpoint.geometry, checkpoint.preprocess, inversion, canvas).eval()
    deployment = Deployment(checkpoint, vit, pgn, options.codec())
    mixing = None
    if inversion.pixels is not None and not inversion.legal:
        mixing = Mixing(projection, codes[:DISTANCE_FRAMES], inversion.pixels)
    ladder, graph = climb(deployment, mixing, options.precision, options.simplify)
    if inversion.legal:
        proven = " and ".join(dict.fromkeys(("fp32", options.precision)))
        certificate = replace(certificate, proof=f"{proven}: {PROOF}")
    # Pictures made by arithmetic say nothing of what the task is shown in use.
    measured = pgn.more_outputs and checkpoint.provenance.get("golden") != SYNTHETIC
    profile = Profile.measure(codes) if measured else None
    if profile is not None:
        profile = replace(profile, strangeness=_strangeness(checkpoint, ladder.reference))
    return _Proof(certificate, ladder, graph, golden_pair(deployment, ladder.reference), profile)


def _strangeness(checkpoint: Checkpoint, golden_embeddings: np.ndarray) -> Strangeness | None:
    """Strangeness of held-out images; of the golden images if the checkpoint has no others.

    Args:
        checkpoint: Task that is exported.
        golden_embeddings: (M, D) float32 reference embeddings of its golden images.
    """
    if checkpoint.head.kind == "mapping":
        return None  # its engine answers with logits
    if checkpoint.held_out is not None:
        return Strangeness.measure(checkpoint.held_out.embeddings, checkpoint.held_out.scores)
    return Strangeness.measure(golden_embeddings, checkpoint.head.scores(golden_embeddings).max(axis=1))


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
