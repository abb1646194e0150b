"""What PGN and ViT make of the images of one data set, gathered in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pgn_edge.errors import DataError
from pgn_edge.left_out import LeftOut
from pgn_edge.nn.canvas import to_input
from pgn_edge.nn.checkpoint import spread
from pgn_edge.progress import Progress
from pgn_edge.train.analysis.trained import Trained
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.samples import Joined, Samples, Subset
from pgn_edge.train.loader import in_order
from pgn_edge.train.pictures import unreadable

BATCH = 64


@dataclass(frozen=True, eq=False)
class Features:
    """Of n images that could be read.

    Args:
        data: the data set that they are of.
        labels: (n,) int64 classes of the data.
        images: (n, H, W, 3) uint8 RGB, preprocessed.
        coefficients: (n, K, N) float32 mixture coefficients; None for a PGN that mixes nothing.
        prompts: (n, K, width) float32 prompts as the PGN emits them, tokens or pixels; None if they are constant.
        frozen: (n, D) float32, what the ViT alone makes of them.
        prompted: (n, D) float32, what it makes of them beside the PGN's prompts.
        unreadable: images that could not be read.
    """

    data: DataSet
    labels: np.ndarray
    images: np.ndarray
    coefficients: np.ndarray | None
    prompts: np.ndarray | None
    frozen: np.ndarray
    prompted: np.ndarray
    unreadable: int

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.data.name


def choose(data: DataSet, split: str, limit: int | None) -> Samples:
    """The images of a split, or some of them from its beginning to its end.

    Args:
        data: the data set.
        split: `test`, `validation`, `train` or `all`.
        limit: most images, at least 2; None for all.

    Raises:
        DataError: the split has none.
    """
    splits: dict[str, Samples] = {"train": data.train, "validation": data.validation, "test": data.test}
    samples = Joined(list(splits.values()), [0] * len(splits)) if split == "all" else splits[split]
    if not len(samples):
        raise DataError(
            data.name, expected=f"images in the split {split}", got="none", do="choose another: --split test"
        )
    return samples if limit is None else Subset(samples, spread(len(samples), limit))


@torch.no_grad()
def gather(
    trained: Trained, data: DataSet, samples: Samples, progress: Progress, left_out: LeftOut | None = None
) -> Features:
    """Run all images of a split through PGN and ViT.

    Args:
        trained: the checkpoint.
        data: the data set.
        samples: those of its images that are looked at.
        progress: listener.
        left_out: Account of images that cannot be read; None for one of its own.

    Raises:
        DataError: not one image can be read.
    """
    model, preprocess = trained.model, trained.checkpoint.preprocess
    pgn = trained.checkpoint.pgn
    left_out, found = left_out or LeftOut(), list[dict[str, np.ndarray]]()
    for images, indices in in_order(samples, preprocess, batch=BATCH, left_out=left_out):
        x = to_input(torch.from_numpy(images), preprocess, trained.device)
        parts = {"frozen": model.vit(x), "prompted": model.embed(x)}
        if pgn.mixes:
            parts["coefficients"] = pgn.coefficients(x)
        if pgn.generator is not None:
            parts["prompts"] = pgn(x)
        arrays = {name: part.float().cpu().numpy() for name, part in parts.items()}
        found.append({"images": images, "labels": samples.labels[indices], **arrays})
        progress(f"features of {data.name}", int(indices[-1]) + 1, len(samples))
    if not found:
        raise unreadable(left_out)
    whole = {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}
    data.count_empty(samples, whole["labels"], left_out)
    return Features(
        data=data,
        labels=whole["labels"],
        images=whole["images"],
        coefficients=whole.get("coefficients"),
        prompts=whole.get("prompts"),
        frozen=whole["frozen"],
        prompted=whole["prompted"],
        unreadable=len(samples) - len(whole["labels"]),
    )


def flat_mixtures(features: Sequence[Features]) -> list[np.ndarray]:
    """(n, K·N) coefficients of each data set; none for a PGN that mixes nothing."""
    return [each.coefficients.reshape(len(each.labels), -1) for each in features if each.coefficients is not None]
