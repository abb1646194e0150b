"""The parity ladder: from prompt tokens in torch, step by step, to the engine that ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch

from pgn_edge.agreement import Agreement, compare, limits
from pgn_edge.contract import Precision
from pgn_edge.errors import ParityError
from pgn_edge.export.rounding import emulate_half, has_half
from pgn_edge.extras import import_onnxruntime
from pgn_edge.heads import Head
from pgn_edge.preprocess import Preprocess

BATCH = 16
_WRONG = "check the backbone's weights and the checkpoint"
_WAYS_OUT: dict[Precision, str] = {precision: f"export without --{precision}" for precision in ("fp16", "bf16", "int8")}


@dataclass(frozen=True)
class Rung:
    """One step of the ladder against the reference, torch with the prompts given as tokens.

    Args:
        name: what was run, for example `onnxruntime fp16`.
        precision: whose limits it is held against.
        agreement: what was measured on the golden frames.
        way_out: what to do where it failed; empty for what its precision says.
    """

    name: str
    precision: Precision
    agreement: Agreement
    way_out: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is within the limits."""
        return self.agreement.within(self.precision)

    def to_json(self) -> dict[str, Any]:
        """A JSON object for manifests and reports."""
        agreement = self.agreement
        return {
            "rung": self.name,
            "max_abs": agreement.max_abs,
            "cosine": agreement.cosine,
            "top1_flips": agreement.top1_flips,
            "frames": agreement.frames,
            "passed": self.passed,
        }


class Ladder:
    """Collects rungs against one reference.

    Args:
        reference: (M, D) float32 embeddings.
        head: says what a top-1 flip is.
    """

    def __init__(self, reference: np.ndarray, head: Head) -> None:
        self.reference, self.head = reference, head
        self.rungs: list[Rung] = []

    def climb(
        self,
        name: str,
        precision: Precision,
        embedding: np.ndarray,
        frames: np.ndarray | None = None,
        reference: np.ndarray | None = None,
        way_out: str = "",
    ) -> None:
        """Add one rung.

        Args:
            name: of what computed it.
            precision: whose limits it is held against.
            embedding: (M, D) float32.
            frames: (M,) which frames of the reference these are; None for all.
            reference: (M, D) of these frames, where this rung has one of its own.
            way_out: as in `Rung`.
        """
        if reference is None:
            reference = self.reference if frames is None else self.reference[frames]
        self.rungs.append(Rung(name, precision, compare(reference, embedding, self.head), way_out))


def require_parity(rungs: Sequence[Rung]) -> None:
    """Name the first rung that failed.

    Raises:
        ParityError: one did.
    """
    for rung in rungs:
        if not rung.passed:
            raise ParityError(
                f"parity rung '{rung.name}'",
                expected=limits(rung.precision),
                got=str(rung.agreement),
                do=f"{rung.way_out or _WAYS_OUT.get(rung.precision, _WRONG)}, or accept it with --allow-drift",
            )


def normalised(canvas: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """A canvas of either type (M, ...) as the patch projection sees it, (M, 3, H_c, W_c) float32."""
    return preprocess.normalise(canvas) if canvas.dtype == np.uint8 else canvas


def run_onnx(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """The first output of a graph with one input, on ONNX Runtime's CPU provider, a few frames at a time.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    return run_all(model, batch)[0]


def run_all(model: onnx.ModelProto, batch: np.ndarray) -> list[np.ndarray]:
    """As `run_onnx`, every output in order."""
    session = open_session(model)
    name = session.get_inputs()[0].name
    answers = [session.run(None, {name: part}) for part in pieces(batch)]
    return [np.concatenate(output) for output in zip(*answers, strict=True)]


def open_session(model: onnx.ModelProto) -> Any:
    """An ONNX Runtime session on the CPU; 16-bit graphs run with every rounding that a GPU makes.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if has_half(model):
        model = emulate_half(model)
        # Whoever optimises takes a rounding for a pair of casts that cancel.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def run_torch(module: torch.nn.Module, batch: np.ndarray) -> np.ndarray:
    """The first output, or the only one, of a module with one input on the CPU, a few frames at a time."""
    answers = [module(torch.from_numpy(part)) for part in pieces(batch)]
    return np.concatenate([(answer[0] if isinstance(answer, tuple) else answer).numpy() for answer in answers])


def pieces(batch: np.ndarray) -> list[np.ndarray]:
    """Cut a batch into parts of at most `BATCH` frames."""
    return [batch[start : start + BATCH] for start in range(0, len(batch), BATCH)]
