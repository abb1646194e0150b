"""The training checkpoint: all that export needs, but not the ViT. Never unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgn_edge.errors import CheckpointError, DataError, PgnEdgeError
from pgn_edge.file_kind import require_kind
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.tensor_file import key_name, load_tensors, refuse, save_tensors
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.nn.weight_file import split_key
from pgn_edge.preprocess import Preprocess
from pgn_edge.transport import Transport

FORMAT = "pgn-edge checkpoint"
SCHEMA = 3
GOLDEN_FRAMES = 32  # at 99 % agreement not one of them may flip


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a trained task makes of images that it did not learn from.

    Args:
        embeddings: (n, D) float32, with prompts, as the head gets them.
        scores: (n,) float32 best scores of the head, 0..1.
    """

    embeddings: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Checkpoint:
    """A trained task.

    Args:
        name: short name of the task.
        backbone: the frozen ViT it was trained with, as the user typed it.
        fingerprint: of that ViT.
        weights_sha256: Digest of all weights of that ViT, 64 hexadecimal digits; see `FrozenViT.weights_sha256`.
        geometry: the canvas.
        preprocess: frame -> image of the PGN.
        pgn: the trained PGN, in evaluation mode.
        head: the classifier on embeddings.
        golden_images: (M, H, W, 3) uint8 RGB validation images, for the parity ladder and the golden pair.
        provenance: data set, training configuration, seed and measured accuracies; JSON values only.
        held_out: What the trained task makes of validation images, for the drift alarm; None of an imported checkpoint,
            and of a run that was ended before its last epoch.
    """

    name: str
    backbone: str
    fingerprint: str
    weights_sha256: str
    geometry: Geometry
    preprocess: Preprocess
    pgn: PGN
    head: Head
    golden_images: np.ndarray
    provenance: Mapping[str, Any] = field(default_factory=dict)
    held_out: HeldOut | None = None

    @property
    def transport(self) -> Transport | None:
        """What its canvas went through in training; None for a canvas of floats.

        Raises:
            DataError: the provenance names none that there is.
        """
        config = self.provenance.get("config")
        name = config.get("transport") if isinstance(config, Mapping) else None
        return None if name is None else Transport.parse(str(name))

    @property
    def weights(self) -> str | None:
        """File of backbone weights that the training read, with its key; None after a download, or if it is gone.

        Commands read it unless they are given another. `require_vit` then proves that it is still the same file.
        """
        config = self.provenance.get("config")
        weights = config.get("weights") if isinstance(config, Mapping) else None
        if not isinstance(weights, str) or not split_key(Path(weights))[0].is_file():
            return None
        return weights

    def require_vit(self, vit: FrozenViT, source: str) -> None:
        """Refuse a frozen ViT that is not, to the last weight, the one of training.

        Args:
            vit: Frozen ViT that was loaded for this checkpoint.
            source: Path of the checkpoint, for the message.

        Raises:
            CheckpointError: another fingerprint, or the same one with other weights behind it.
        """
        own = {
            "fingerprint": (self.fingerprint, vit.fingerprint()),
            "weights of sha256": (self.weights_sha256, vit.weights_sha256()),
        }
        for what, (expected, got) in own.items():
            if expected != got:
                raise CheckpointError(
                    source,
                    expected=f"{self.backbone} with {what} {expected}, as in training",
                    got=got,
                    do="pass the very file that it was trained with, not another epoch of the model: --weights FILE",
                )


def spread(count: int, most: int) -> np.ndarray:
    """Which of `count` things stand for all of them: at most `most` indices, first and last included, evenly apart.

    Args:
        count: how many there are.
        most: how many are wanted, 2 or more.

    Returns:
        Ascending indices (min(count, most),) int64.
    """
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` whole or not at all.

    Raises:
        OutputError: the path cannot be written.
    """
    head = {name: torch.from_numpy(a) for name, a in checkpoint.head.to_arrays().items() if name != "kind"}
    data = {
        "format": FORMAT,
        "schema": SCHEMA,
        "name": checkpoint.name,
        "backbone": checkpoint.backbone,
        "fingerprint": checkpoint.fingerprint,
        "weights_sha256": checkpoint.weights_sha256,
        "geometry": checkpoint.geometry.to_json(),
        "preprocess": checkpoint.preprocess.to_json(),
        "pgn": asdict(checkpoint.pgn.config),
        "state": {name: tensor.cpu() for name, tensor in checkpoint.pgn.state_dict().items()},
        "head": {**head, "kind": checkpoint.head.kind, "labels": list(checkpoint.head.labels)},
        "golden_images": torch.from_numpy(checkpoint.golden_images),
        "provenance": dict(checkpoint.provenance),
    }
    if checkpoint.held_out is not None:
        held_out = checkpoint.held_out
        arrays = {"embeddings": held_out.embeddings, "scores": held_out.scores}
        data["held_out"] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_tensors(path, data)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: no such file, truncated, holds pickled code, not from pgn-edge, of another schema, or holds
            values that are not finite.
    """
    source = str(path)
    require_kind(path, "checkpoint", "weights", error=CheckpointError)  # what weights lack is said below
    data = load_tensors(path)
    if not isinstance(data, dict) or not _is_ours(data):
        got = sorted(map(key_name, data))[:4] if isinstance(data, dict) else type(data).__name__
        raise refuse(source, f"a {FORMAT} of schema {SCHEMA}", f"{got}")
    try:
        with torch.device("meta"):  # sizes are claims until the tensors bear them out: nothing is allocated for them
            pgn = PGN(PgnConfig.from_json(data["pgn"]))
        pgn.load_state_dict(data["state"], assign=True)
        pgn.float()
        raw = dict(data["head"])
        kind, labels = np.array(raw.pop("kind")), tuple(str(label) for label in raw.pop("labels"))
        head = Head.from_arrays({"kind": kind, **{k: v.numpy() for k, v in raw.items()}}, labels)
        checkpoint = Checkpoint(
            name=str(data["name"]),
            backbone=str(data["backbone"]),
            fingerprint=str(data["fingerprint"]),
            weights_sha256=str(data["weights_sha256"]),
            geometry=Geometry.from_json(data["geometry"]),
            preprocess=Preprocess.from_json(data["preprocess"]),
            pgn=pgn.eval(),
            head=head,
            golden_images=data["golden_images"].numpy(),
            provenance=data["provenance"],
            held_out=_held_out(data.get("held_out")),
        )
    except PgnEdgeError as exc:
        raise refuse(source, "a checkpoint that makes sense", str(exc)) from exc
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as exc:
        raise refuse(source, "a whole checkpoint", f"{type(exc).__name__}: {exc}".split("\n")[0]) from exc
    _check_parts(checkpoint, source)
    bad = [name for name, tensor in pgn.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise refuse(source, "finite weights", f"NaN or Inf in {bad[0]}")
    return checkpoint


def _held_out(data: Mapping[str, Any] | None) -> HeldOut | None:
    """Read what `save_checkpoint` wrote.

    Raises:
        ValueError: arrays of other types or shapes, or values that are not finite.
    """
    if data is None:
        return None
    embeddings, scores = data["embeddings"].numpy(), data["scores"].numpy()
    floats = embeddings.dtype == scores.dtype == np.float32
    if not floats or embeddings.ndim != 2 or scores.shape != embeddings.shape[:1]:
        raise ValueError(f"held-out embeddings of {embeddings.dtype} {embeddings.shape}, scores of {scores.shape}")
    if not np.isfinite(embeddings).all() or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("held-out embeddings that are not finite, or scores outside 0..1")
    return HeldOut(embeddings, scores)


def _is_ours(data: Mapping[Any, Any]) -> bool:
    # The types come first: to compare a tensor gives a tensor, which has no single truth value.
    pairs = (data.get("format"), FORMAT), (data.get("schema"), SCHEMA)
    return all(type(found) is type(own) and found == own for found, own in pairs)


def _check_parts(checkpoint: Checkpoint, source: str) -> None:
    """Refuse parts that do not fit each other."""
    geometry, images = checkpoint.geometry, checkpoint.golden_images
    shape = (max(len(images), 1) if images.ndim else 1, *geometry.content_hw, 3)
    config = checkpoint.pgn.config
    pixels = 3 * geometry.patch**2 if config.space == "pixel" else config.width
    pairs = {
        "library entries of width": (pixels, config.width),
        "golden images": (f"uint8 {shape}", f"{images.dtype} {images.shape}"),
        "image size": (geometry.content_hw, checkpoint.preprocess.size_hw),
        "prompts": (geometry.prompts, config.prompts),
        "provenance": (dict, type(checkpoint.provenance)),
    }
    for what, (expected, got) in pairs.items():
        if expected != got:
            raise refuse(source, f"{what} {expected}", f"{got}")
    try:
        transport = checkpoint.transport
    except DataError as exc:
        raise refuse(source, f"a transport, {exc.expected}", exc.got) from exc
    if transport is not None and config.space != "pixel":
        raise refuse(source, f"a pixel library behind {transport}", f"a {config.space} library")
