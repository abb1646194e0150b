"""`pgn-edge import`: a PGN that the paper's authors published becomes a checkpoint of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgn_edge.errors import CheckpointError, DataError, OutputError
from pgn_edge.export.head_file import read_head
from pgn_edge.export.synthetic import SYNTHETIC, pictures
from pgn_edge.export.upstream_file import read_upstream
from pgn_edge.files import require_writable
from pgn_edge.fingerprint import sha256_file
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head, HeadKind
from pgn_edge.images import read_image
from pgn_edge.labels import DATASETS, find_labels, find_template
from pgn_edge.left_out import LeftOut
from pgn_edge.listing import list_images
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import GOLDEN_FRAMES, Checkpoint, save_checkpoint, spread
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.vit import Backbone, FrozenViT
from pgn_edge.preprocess import Preprocess

SEED = 0

# Every data set and every backbone, DINO and the supervised ViT too. Source: jochemloedeman/PGN, pgn/datamodules.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

LOOKS_LIKE = {
    384: "ViT-S/16, for example timm:vit_small_patch16_224.dino",
    768: "ViT-B/32, for example open_clip:ViT-B-32/openai or torchvision:vit_b_32",
    1024: "ViT-L/14, for example open_clip:ViT-L-14/openai",
}


@dataclass(frozen=True)
class ImportOptions:
    """What an upstream file does not say.

    Args:
        labels: one of `pgn_edge.labels.DATASETS`, or a file with one class name a line; needed.
        template: sentence with `{}` for the class name, for text heads; None takes the data set's own.
        head: file with `weight` (C, D) and perhaps `bias` (C,); None takes the frozen model's own head.
        images: folder of golden images; None makes synthetic ones.
        prompts: K that the file must have.
        library: N that the file must have.
    """

    labels: str | None = None
    template: str | None = None
    head: Path | None = None
    images: Path | None = None
    prompts: int | None = None
    library: int | None = None


@dataclass(frozen=True)
class ImportReport:
    """What an import found and wrote.

    Args:
        path: of the checkpoint.
        config: shape of the PGN.
        parameters: number of its parameters.
        geometry: the canvas.
        head: kind of the classifier.
        classes: number of them.
        golden: `synthetic`, or how many images of the folder.
    """

    path: Path
    config: PgnConfig
    parameters: int
    geometry: Geometry
    head: HeadKind
    classes: int
    golden: str | int


def import_upstream(
    path: str | Path,
    output: str | Path,
    *,
    backbone: str,
    weights: str | Path | None = None,
    options: ImportOptions,
) -> ImportReport:
    """Turn a bare upstream state_dict into a checkpoint that `pgn-edge export` takes.

    Args:
        path: the published file.
        output: the checkpoint, usually `ckpt.pt`.
        backbone: the frozen ViT that the PGN was trained for, as in `load_backbone`.
        weights: of the backbone, where it is not downloaded.
        options: what the file does not say.

    Raises:
        CheckpointError: no upstream file, one of another kind, one that contradicts an option, or another backbone.
        DataError: labels, template, images or head that cannot be used, or a head that is needed and was not given.
        OutputError: the output cannot be written.
    """
    source, target = Path(path), Path(output)
    _require_output(source, target)
    labels, template = find_labels(options.labels), find_template(options.labels, options.template)
    config, state = read_upstream(source)
    _require_sizes(source, config, options)
    files = _image_files(options.images)
    given = None if options.head is None else read_head(options.head, labels)
    frozen = load_backbone(backbone, weights)
    vit = frozen.vit
    _require_width(source, config.width, backbone, vit)
    head = _own_head(frozen, labels, template) if given is None else _fitting(given, backbone, vit)
    geometry = vit.geometry(config.prompts)
    preprocess = replace(vit.spec.preprocess, mean=MEAN, std=STD)
    pgn = _build(replace(config, resolution=geometry.content_hw[1]), state)
    checkpoint = Checkpoint(
        name=options.labels if options.labels and options.labels in DATASETS else source.stem,
        backbone=backbone,
        fingerprint=vit.fingerprint(),
        weights_sha256=vit.weights_sha256(),
        geometry=geometry,
        preprocess=preprocess,
        pgn=pgn,
        head=head,
        golden_images=_golden(files, preprocess),
        provenance={
            **_provenance(source, config, options, template if head.kind == "text" else None, len(files)),
            "activation": vit.activation(),
        },
    )
    save_checkpoint(target, checkpoint)
    parameters = sum(parameter.numel() for parameter in pgn.parameters())
    golden = checkpoint.provenance["golden"]
    return ImportReport(target, pgn.config, parameters, geometry, head.kind, len(labels), golden)


def _build(config: PgnConfig, state: Mapping[str, Tensor]) -> PGN:
    with torch.device("meta"):
        pgn = PGN(config)
    pgn.load_state_dict(state, assign=True)
    return pgn.eval()


def _require_output(source: Path, target: Path) -> None:
    require_writable(target)
    if target.resolve() == source.resolve():
        raise OutputError(str(target), expected="another file than the input", got="the same", do="choose another -o")


def _require_sizes(source: Path, config: PgnConfig, options: ImportOptions) -> None:
    for option, wanted, found in (
        ("--prompts", options.prompts, config.prompts),
        ("--library", options.library, config.library),
    ):
        if wanted not in (None, found):
            raise CheckpointError(
                str(source), expected=f"{wanted}, as {option} says", got=str(found), do=f"leave {option} out"
            )


def _require_width(source: Path, width: int, backbone: str, vit: FrozenViT) -> None:
    if width != vit.width:
        like = LOOKS_LIKE.get(width, f"a ViT of width {width}")
        raise CheckpointError(
            str(source),
            expected=f"library tokens of width {vit.width}, as {backbone} has",
            got=str(width),
            do=f"choose the backbone that it was trained for: it looks like {like}",
        )


def _image_files(folder: Path | None) -> list[Path]:
    """At most `GOLDEN_FRAMES` images, spread over all that lie below the folder; none where no folder was given."""
    if folder is None:
        return []
    found = list_images(folder, LeftOut()) if folder.is_dir() else []
    if not found:
        raise DataError(str(folder), expected="a folder with images", got="none below it", do="check --images")
    return [found[index] for index in spread(len(found), GOLDEN_FRAMES)]


def _golden(files: list[Path], preprocess: Preprocess) -> np.ndarray:
    if not files:
        return pictures(GOLDEN_FRAMES, preprocess.size_hw, SEED)
    return np.stack([preprocess(read_image(file)) for file in files])


def _own_head(backbone: Backbone, labels: tuple[str, ...], template: str) -> Head:
    try:
        return backbone.zero_shot.head(labels, template)
    except DataError as exc:
        do = "pass the head that the PGN was trained with, which is not in an upstream file: --head FILE"
        raise DataError(exc.subject, expected=exc.expected, got=exc.got, do=do) from exc


def _fitting(head: Head, backbone: str, vit: FrozenViT) -> Head:
    with torch.no_grad():
        width = vit(torch.zeros(1, 3, *vit.spec.image_hw)).shape[1]
    if head.weight.shape[1] != width:
        raise DataError(
            "head",
            expected=f"a weight (C, {width}) for the embeddings of {backbone}",
            got=str(head.weight.shape),
            do="pass the head that was trained on this backbone: --head FILE",
        )
    return head


def _provenance(
    source: Path, config: PgnConfig, options: ImportOptions, template: str | None, images: int
) -> dict[str, Any]:
    head = options.head
    return {
        "upstream": {
            "file": source.name,
            "sha256": sha256_file(source),
            "prompts": config.prompts,
            "library": config.library,
            "width": config.width,
        },
        "labels": Path(options.labels or "").name,
        "template": template,
        "head": "the frozen model's own" if head is None else {"file": head.name, "sha256": sha256_file(head)},
        "golden": images or SYNTHETIC,
    }
