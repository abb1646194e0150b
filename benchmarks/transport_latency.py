"""Milliseconds a frame of both layouts, with a canvas of floats and one of 8 bits: `transport.py --latency`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch
from common import LIBRARY, PROMPTS, Rounds, Series, interleave

from pgn_edge.contract import CanvasType
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.synthetic import pictures
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.geometry import Layout
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import Checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.runtime import Result, Runtime
from pgn_edge.runtime.environment import describe_environment

FRAME_HW = (64, 64)  # the stock size: `append` resizes nothing, and `inset` little
GOLDEN, SEED, WARMUP = 8, 0, 20
CLOSE = 1e-4  # largest difference of the L2-normalised embedding of one frame, floats against 8 bits
ABOUT = (
    f"One frame of {FRAME_HW[1]} x {FRAME_HW[0]} through `Runtime.infer` on ONNX Runtime, CPU, batch 1: the embedded "
    f"ViT, {PROMPTS} prompts of a library of {LIBRARY} pixel patches, rounded; all in turns. A stage of a chain is "
    "behind its colon."
)


def measure_latency(samples: int) -> dict[str, Any]:
    """Time the four chains in turns.

    Args:
        samples: timed calls of each.

    Raises:
        RuntimeError: the chains of one layout do not agree.
    """
    frame = pictures(1, FRAME_HW, SEED)[0]
    with TemporaryDirectory() as folder, ExitStack() as opened:
        calls: dict[str, Callable[[], Result]] = {}
        for layout in get_args(Layout):
            for canvas in get_args(CanvasType):
                runtime = opened.enter_context(_runtime(Path(folder), layout, canvas))
                calls[f"{layout}, {canvas}"] = partial(runtime.infer, "task", frame)
            _require_same(*(calls[f"{layout}, {canvas}"]().embedding for canvas in get_args(CanvasType)))
        totals: Series = {name: [] for name in calls}
        stages: Series = {}
        for name, elapsed_ms, result in interleave(calls, Rounds(samples, WARMUP, SEED)):
            totals[name].append(elapsed_ms)
            for stage, value in result.timings_ms.items():
                stages.setdefault(f"{name}: {stage}", []).append(value)
    return {"about": ABOUT, "environment": describe_environment(), "samples_ms": totals | dict(sorted(stages.items()))}


def _runtime(folder: Path, layout: Layout, canvas: CanvasType) -> Runtime:
    """Both engines of an untrained task, exported by the functions behind the commands."""
    torch.manual_seed(SEED)
    backbone = load_backbone("builtin")
    vit, labels = backbone.vit, tuple("0123456789")
    geometry, patch = vit.geometry(PROMPTS, layout), vit.spec.patch
    shape = PgnConfig(
        "resnet10", PROMPTS, LIBRARY, 3 * patch**2, geometry.content_hw[1], "pixel", "softmax", 0, rounded=True
    )
    checkpoint = Checkpoint(
        name="untrained",
        backbone="builtin",
        fingerprint=vit.fingerprint(),
        weights_sha256=vit.weights_sha256(),
        geometry=geometry,
        preprocess=vit.spec.preprocess.with_size(geometry.content_hw),
        pgn=PGN(shape, 1.0, vit.spec.preprocess).eval(),
        head=backbone.zero_shot.head(labels, "{}"),
        golden_images=pictures(GOLDEN, geometry.content_hw, SEED),
    )
    engine, task, saved = (folder / f"{layout}-{canvas}.{kind}" for kind in ("onnx", "pgn", "pt"))
    save_checkpoint(saved, checkpoint)
    export_vit("builtin", engine, VitOptions(PROMPTS, layout, canvas=canvas))
    export_task(saved, task, ExportOptions(uint8=canvas == "uint8"))
    return Runtime(engine, {"task": task})


def _require_same(first: np.ndarray, second: np.ndarray) -> None:
    one, other = (each / np.linalg.norm(each) for each in (first, second))
    apart = float(np.abs(one - other).max())
    if not apart <= CLOSE:
        raise RuntimeError(f"expected one embedding for floats and 8 bits, got a difference of {apart:.1e}")
