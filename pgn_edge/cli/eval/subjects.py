"""What `pgn-edge eval` judges: checkpoints in torch, and bundles with the ViT engine that they run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch

from pgn_edge.errors import DataError, PairingError
from pgn_edge.file_kind import require_kind
from pgn_edge.left_out import LeftOut, Reason
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.progress import Progress
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.engines import DeviceEngine, is_served
from pgn_edge.train.analysis.trained import Trained, load_trained
from pgn_edge.train.data.samples import Samples
from pgn_edge.train.evaluate import Answers, of_classes
from pgn_edge.train.loader import EVALUATION_BATCH, answers
from pgn_edge.train.pictures import Ahead, Picture, Pictures, thread_count, unreadable
from pgn_edge.transport import Transport

RUNTIME_BATCH = 8  # frames of one pass where a batch pays; on a CPU it does not

Row = tuple[int, np.ndarray | None]  # index of an image that was read, and its scores if it has an answer


class Subject(Protocol):
    """Something that answers images."""

    @property
    def path(self) -> str:
        """Its file."""

    @property
    def where(self) -> str:
        """What it runs in."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its classes."""

    def rows(self, samples: Samples, left_out: LeftOut) -> Iterator[Row]:
        """Answer every image that can be read, and count the others."""


@dataclass(frozen=True, eq=False)
class TorchSubject:
    """A checkpoint in torch, prompts given as tokens where its canvas goes through nothing."""

    trained: Trained

    @property
    def path(self) -> str:
        """As `Subject.path`."""
        return self.trained.name

    @property
    def where(self) -> str:
        """As `Subject.where`."""
        transport = self.trained.model.transport
        return f"torch on {self.trained.device.type}" + ("" if transport is None else f", {transport}")

    @property
    def labels(self) -> tuple[str, ...]:
        """As `Subject.labels`."""
        return self.trained.labels

    def rows(self, samples: Samples, left_out: LeftOut) -> Iterator[Row]:
        """As `Subject.rows`, in batches."""
        pictures = Pictures(samples, self.trained.checkpoint.preprocess, left_out)
        # No TF32: what is compared with an engine has to be float32 throughout.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for logits, indices in answers(self.trained.model, pictures, range(len(samples)), None, EVALUATION_BATCH):
                scores = logits.float().softmax(dim=1).cpu().numpy()
                finite = np.isfinite(scores).all(axis=1)
                for index, row, whole in zip(indices, scores, finite, strict=True):
                    yield int(index), row if whole else None


@dataclass(frozen=True, eq=False)
class RuntimeSubject:
    """A task of a Runtime, as it is deployed.

    Args:
        runtime: holds the task.
        path: of the bundle, and the name of the task there.
        batch: frames of one pass.
    """

    runtime: Runtime
    path: str
    batch: int

    @property
    def where(self) -> str:
        """As `Subject.where`."""
        return self.runtime.vit.device

    @property
    def labels(self) -> tuple[str, ...]:
        """As `Subject.labels`."""
        return self.runtime.tasks[self.path].head.labels

    def rows(self, samples: Samples, left_out: LeftOut) -> Iterator[Row]:
        """As `Subject.rows`; images are decoded ahead."""

        def read(index: int) -> Picture:
            try:
                return samples.read(index), index
            except DataError as exc:
                left_out.add(samples.name(index), Reason.UNREADABLE, exc)
                return None

        groups = (range(start, min(start + self.batch, len(samples))) for start in range(0, len(samples), self.batch))
        with Ahead(read, thread_count(None)) as ahead:
            for found in ahead.over(groups):
                pictures = [picture for picture in found if picture is not None]
                frames = [(self.path, image[..., ::-1]) for image, _ in pictures]
                results = self.runtime.infer_batch(frames)
                for (_, index), result in zip(pictures, results, strict=True):
                    yield index, None if result.degraded else result.scores


def open_subjects(
    paths: Sequence[str],
    weights: str | None,
    vit: str | None,
    options: dict[str, Any],
    opened: ExitStack,
    transport: str | None = None,
) -> list[Subject]:
    """Open every subject before the first image is read, so that a wrong one costs no time.

    Args:
        paths: `.pt` checkpoints and `.pgn` bundles.
        weights: of the checkpoints' backbone.
        vit: engine for the bundles; one serves all of them.
        options: of the Runtime.
        opened: closes the engines.
        transport: of the checkpoints' canvases, as of `Question`.

    Raises:
        DataError: a file of another kind, one that is named twice, or a transport that no subject can take.
        PairingError: bundles without an engine, or an engine without a bundle.
        PgnEdgeError: as `load_trained` and `Runtime`.
    """
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise DataError(path, expected="each subject once", got="the same twice", do="name it once")
        if Path(path).suffix not in (".pt", ".pgn"):
            require_kind(path, "checkpoint", "bundle", error=DataError)
            raise DataError(
                path, expected="a checkpoint (.pt) or a bundle (.pgn)", got=repr(Path(path).suffix), do="name another"
            )
    bundles = [path for path in paths if Path(path).suffix == ".pgn"]
    if transport is not None and len(bundles) == len(paths):
        raise DataError(
            "transport",
            expected="a checkpoint (.pt), whose canvas is sent through it",
            got="bundles alone, whose engine says what it is behind",
            do="leave --transport out",
        )
    runtime = _open_runtime(bundles, vit, options, opened)
    load = cache(load_backbone)
    subjects: list[Subject] = []
    for path in paths:
        if path in bundles:
            assert runtime is not None
            subjects.append(RuntimeSubject(runtime, path, _batch(runtime, str(vit))))
        else:
            subjects.append(TorchSubject(_behind(load_trained(path, weights, load), transport)))
    return subjects


def answer(subject: Subject, samples: Samples, order: np.ndarray, left_out: LeftOut, progress: Progress) -> Answers:
    """Let one subject answer all images.

    Args:
        subject: who answers.
        samples: n images.
        order: (C,) which of its classes each class of the data is.
        left_out: counts images that cannot be read.
        progress: listener.

    Raises:
        DataError: not one image can be read.
        EngineError: an engine failed.
    """
    count, step = len(samples), Path(subject.path).name
    scores = np.zeros((count, len(subject.labels)), np.float32)
    read, degraded = np.zeros(count, bool), np.zeros(count, bool)
    began = perf_counter()
    for index, row in subject.rows(samples, left_out):
        read[index], degraded[index] = True, row is None
        if row is not None:
            scores[index] = row
        progress(step, index + 1, count)
    seconds = perf_counter() - began
    if not read.any():
        raise unreadable(left_out)
    progress(step, count, count)
    first = scores.argmax(axis=1) if len(order) < scores.shape[1] else None
    return Answers(of_classes(scores, order), read, degraded, seconds, first)


def _behind(trained: Trained, transport: str | None) -> Trained:
    """The same checkpoint, its canvases sent through `transport`; None leaves it as it was trained."""
    if transport is None:
        return trained
    chosen = None if transport == "none" else Transport.parse(transport)
    if chosen is not None and trained.checkpoint.pgn.config.space != "pixel":
        raise DataError(
            trained.name,
            expected=f"a pixel library, to send its canvas through {chosen}",
            got="a token library, which has no canvas before its export",
            do="train with --library-space pixel, or leave --transport out",
        )
    trained.model.transport = chosen
    return trained


def _open_runtime(bundles: list[str], vit: str | None, options: dict[str, Any], opened: ExitStack) -> Runtime | None:
    if bundles and vit is None:
        raise PairingError(
            bundles[0],
            expected="the ViT engine that it runs on",
            got="none",
            do="give it: --vit vit.onnx, from pgn-edge export-vit",
        )
    if vit is not None and not bundles:
        raise PairingError(
            vit, expected="a bundle (.pgn) to run on it", got="checkpoints alone", do="name one, or leave --vit out"
        )
    if vit is None:
        return None
    return opened.enter_context(Runtime(vit, {path: path for path in bundles}, **options))


def _batch(runtime: Runtime, vit: str) -> int:
    return RUNTIME_BATCH if isinstance(runtime.vit, DeviceEngine) or is_served(vit) else 1
