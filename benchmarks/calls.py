"""The calls that benchmarks/cpu.py times, each from what its runtime wants to an embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from cpu_report import (
    BARE,
    CHAIN,
    CHAIN_INT8,
    COMPILED,
    EAGER,
    EAGER_BATCH_FIRST,
    FROM_CAMERA,
    OPENVINO,
    OPENVINO_INT8,
    PLAIN,
)
from peers import Files, PaperModel
from runtimes import bare_session, openvino_chain

from pgn_edge.contract import Precision
from pgn_edge.errors import PgnEdgeError
from pgn_edge.nn.checkpoint import Checkpoint
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime import Runtime

IMAGE_HW, CAMERA_HW = (224, 224), (480, 640)
TASK = "task"

Call = Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class Frames:
    """One picture in the forms that the peers want it in.

    Args:
        image: (H, W, 3) uint8 RGB.
    """

    image: np.ndarray

    @property
    def bgr(self) -> np.ndarray:
        """As a camera gives it."""
        return np.ascontiguousarray(self.image[..., ::-1])

    def tensor(self, preprocess: Preprocess) -> torch.Tensor:
        """(1, 3, H, W), normalised."""
        return torch.from_numpy(preprocess.normalise(self.image[None]))


@contextmanager
def chains(files: Files, threads: int) -> Iterator[dict[str, Runtime]]:
    """Our chain on the float32 and on the int8 ViT."""
    with (
        Runtime(files.vit("fp32"), {TASK: files.task}, threads=threads) as exact,
        Runtime(files.vit("int8"), {TASK: files.task}, threads=threads) as small,
    ):
        yield {CHAIN: exact, CHAIN_INT8: small}


def canvases_of(files: Files, images: np.ndarray, threads: int) -> np.ndarray:
    """What the PGN graph makes of (B, H, W, 3) uint8 RGB images, (B, 3, H_c, W_c)."""
    canvases: np.ndarray = bare_session(files.pgn, threads).run(None, {"image": images})[0]
    return canvases


def embedding_of(runtime: Runtime, frame_bgr: np.ndarray) -> np.ndarray:
    """What our chain makes of a frame, (D,)."""
    return runtime.infer(TASK, frame_bgr).embedding


def chain_calls(runtimes: Mapping[str, Runtime], frames: Frames, camera: Frames) -> dict[str, Call]:
    """Our chains, on both frames."""
    calls: dict[str, Call] = {}
    for name, runtime in runtimes.items():
        calls[name] = partial(embedding_of, runtime, frames.bgr)
        calls[name + FROM_CAMERA] = partial(embedding_of, runtime, camera.bgr)
    return calls


def torch_calls(
    model: PaperModel, checkpoint: Checkpoint, frames: Frames, camera: Frames, skipped: dict[str, str]
) -> dict[str, Call]:
    """The paper's way in torch: eager in both layouts, and compiled where the compiler works.

    Args:
        model: sequence first.
        checkpoint: of the task.
        frames, camera: a frame of the PGN's size, and one of a camera's.
        skipped: gets the reason where there is no compiled one.
    """
    from PIL import Image

    transform, picture = _test_transform(checkpoint.preprocess), Image.fromarray(camera.image)
    tensor = frames.tensor(checkpoint.preprocess)

    def run(module: Any) -> np.ndarray:
        embedding: np.ndarray = module(tensor)[0][0].numpy()
        return embedding

    def run_from_camera(module: Any) -> np.ndarray:
        embedding: np.ndarray = module(transform(picture)[None])[0][0].numpy()
        return embedding

    batch_first = PaperModel(model.visual, checkpoint, sequence_first=False).eval()
    calls: dict[str, Call] = {EAGER: partial(run, model), EAGER_BATCH_FIRST: partial(run, batch_first)}
    calls[EAGER + FROM_CAMERA] = partial(run_from_camera, model)
    compiled = torch.compile(model)
    try:
        run(compiled)
    except Exception as exc:
        # A compiler that is absent, too old, or fails: every one of them raises another kind.
        skipped[COMPILED] = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
    else:
        calls |= {COMPILED: partial(run, compiled), COMPILED + FROM_CAMERA: partial(run_from_camera, compiled)}
    return calls


def _test_transform(preprocess: Preprocess) -> Callable[[Any], torch.Tensor]:
    """The paper's test transform: shorter side to 224, centre crop, tensor, normalise."""
    from torchvision import transforms

    side = IMAGE_HW[0]
    steps = [transforms.Resize(side), transforms.CenterCrop(side), transforms.ToTensor()]
    made: Callable[[Any], torch.Tensor] = transforms.Compose(
        [*steps, transforms.Normalize(preprocess.mean, preprocess.std)]
    )
    return made


def bare_calls(files: Files, canvas: np.ndarray, threads: int) -> dict[str, Call]:
    """ONNX Runtime alone on a finished canvas: our graph, and the plain export."""
    sessions = {PLAIN: bare_session(files.plain, threads), BARE: bare_session(files.vit(), threads)}

    def run(session: Any) -> np.ndarray:
        embedding: np.ndarray = session.run(["embedding"], {"canvas": canvas})[0][0]
        return embedding

    return {name: partial(run, session) for name, session in sessions.items()}


def openvino_calls(files: Files, frames: Frames, threads: int, skipped: dict[str, str]) -> dict[str, Call]:
    """OpenVINO on our graphs; `skipped` gets the reason where it is not installed, or does not take one."""
    precisions: dict[str, Precision] = {OPENVINO: "fp32", OPENVINO_INT8: "int8"}
    calls: dict[str, Call] = {}
    for name, precision in precisions.items():
        try:
            calls[name] = partial(openvino_chain(files.pgn, files.vit(precision), threads), frames.image[None])
        except PgnEdgeError as exc:
            skipped[name] = str(exc)
    return calls
