"""What is left of a task when its canvas travels as 8 bits, or as a WebP or JPEG file, to an engine behind an API.

The embedded ViT, the embedded tasks `digits` (zero-shot head) and `counts` (linear head), 16 prompts, a library of 256
entries, three seeds; all with one schedule. Token libraries are inverted, and where the canvas has 8 bits clipped to
legal RGB; pixel libraries are legal by construction. Those trained for a transport saw every canvas, image and prompts
together, through that very codec, and kept the epoch that was best behind it. Test accuracy is of the ViT that is given
the canvas alone: as floats, as PNG (8 bits), and through WebP and JPEG of several qualities. Bytes are of one encoded
canvas, mean over the test images.

    python benchmarks/transport.py --train [--only-shard 0/12] [--device cuda]   # what is in --runs is not run again
    python benchmarks/transport.py --latency                                # on a machine that is idle
    python benchmarks/transport.py                                          # tables and the plot
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from common import parser
from transport_plan import FLOAT, LATENCY, TASKS, TRANSPORTS, Job, jobs
from transport_report import report

from pgn_edge.export.inversion import Projection, invert_library
from pgn_edge.files import write_text
from pgn_edge.geometry import Geometry
from pgn_edge.nn.canvas import assemble, carry, to_input, to_pixels
from pgn_edge.nn.pgn import PGN
from pgn_edge.nn.vit import CanvasViT, FrozenViT
from pgn_edge.runtime.environment import describe_environment
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.loader import read_all
from pgn_edge.train.model import PromptedViT
from pgn_edge.train.task import TrainReport, train_task
from pgn_edge.transport import Transport

BATCH = 200  # test images at a time
AGREE = 0.99  # least share of answers that a canvas has in common with the model in training


@dataclass(frozen=True)
class Budget:
    """Epochs with the ViT, and before them without it."""

    epochs: int
    warm_start: int


def run(job: Job, budget: Budget, device: str) -> dict[str, Any]:
    """Train and measure one job."""
    start = perf_counter()
    config = TrainConfig(
        job.task, layout=job.layout, library_space=job.space, transport=job.trained, head=TASKS[job.task]
    )
    schedule = Schedule(epochs=budget.epochs, warm_start=budget.warm_start, seed=job.seed)
    with tempfile.TemporaryDirectory() as folder:
        report = train_task(config, schedule, Path(folder) / "ckpt.pt", execution=Execution(device=device))
    trained_s = perf_counter() - start
    report.model.to(device).eval()
    # No TF32: the canvas of a token library is float32, and so is what is compared with it.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        measured = measure(report, torch.device(device))
    return {
        "job": asdict(job),
        "budget": asdict(budget),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
        "environment": describe_environment(),
        "best_epoch": report.history.best_epoch + 1,
        "validation": report.history.validation,
        "seconds": {"training": trained_s, "all": perf_counter() - start},
        **measured,
    }


def measure(report: TrainReport, device: torch.device) -> dict[str, Any]:
    """Accuracy on the test split and bytes of a canvas behind each transport.

    Raises:
        RuntimeError: a canvas does not give the answers of the model that was trained.
    """
    model, labels = report.model, report.data.test.labels
    assert model.pgn is not None
    engine = CanvasViT(model.vit, model.geometry).to(device).eval()
    preprocess = model.vit.spec.preprocess
    answers: dict[str, list[np.ndarray]] = {name: [] for name in (FLOAT, *TRANSPORTS, "trained")}
    size_bytes: dict[str, list[int]] = {name: [] for name in TRANSPORTS}
    illegal = []
    for canvas, image in canvases(model, report, device):
        pixels = to_pixels(canvas, preprocess)
        shown = {FLOAT: canvas}
        for name in TRANSPORTS:
            transport = Transport.parse(name)
            size_bytes[name] += [len(transport.encode(each)) for each in pixels.cpu().numpy()]
            shown[name] = to_input(carry(pixels, transport), preprocess, device)
        for name, each in shown.items():
            answers[name].append(model.head(engine(each)).argmax(dim=1).cpu().numpy())
        answers["trained"].append(model(image).argmax(dim=1).cpu().numpy())
        illegal.append(_illegal(canvas[:, :, model.geometry.content_hw[0] :], preprocess.legal()))
    chosen = {name: np.concatenate(parts) for name, parts in answers.items()}
    same = float((chosen[str(model.transport or FLOAT)] == chosen["trained"]).mean())
    if same < AGREE:
        raise RuntimeError(f"expected the answers of training, got {same:.1%} of them")
    return {
        "images": len(labels),
        "right": {name: int((chosen[name] == labels).sum()) for name in (FLOAT, *TRANSPORTS)},
        "bytes": {name: float(np.mean(sizes)) for name, sizes in size_bytes.items()},
        "canvas_hw": list(model.geometry.canvas_hw),
        "tokens": model.geometry.image_patches + model.geometry.prompts,
        "illegal": float(np.mean(illegal)),
        "agrees": same,
    }


def canvases(
    model: PromptedViT, report: TrainReport, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Float canvases (B, 3, H_c, W_c) of the test images as deployment makes them, and the images (B, 3, H, W)."""
    assert model.pgn is not None
    for images in np.array_split(read_all(report.data.test, report.preprocess), len(report.data.test) // BATCH):
        image = to_input(torch.from_numpy(images), report.preprocess, device)
        patches = _patches(model.pgn, model.vit, model.geometry, image)
        yield assemble(image, patches, model.geometry), image


def _patches(pgn: PGN, vit: FrozenViT, geometry: Geometry, image: torch.Tensor) -> torch.Tensor:
    """Pixels of the prompt slots (B, K, 3P²), those of a token library inverted as export does it."""
    if pgn.config.space == "pixel":
        prompts: torch.Tensor = pgn(image)
        return prompts
    inversion = invert_library(Projection.of(vit, geometry), pgn.entries().cpu().numpy())
    return torch.from_numpy(inversion.patches(pgn.codes(image).cpu().numpy())).float().to(image.device)


def _illegal(rows: torch.Tensor, legal: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of the prompts' pixels that lie half a level or more outside legal RGB."""
    low, high = (torch.from_numpy(side).to(rows.device).view(3, 1, 1) for side in legal)
    half = (high - low) / 510
    return float(((rows < low - half) | (rows > high + half)).float().mean())


def train(given: argparse.Namespace) -> None:
    """Run the jobs of this shard that have no result of this budget yet."""
    given.runs.mkdir(parents=True, exist_ok=True)
    first, step = given.only_shard
    own, budget = jobs()[first::step], Budget(given.epochs, given.warm_start)
    for index, job in enumerate(own):
        path = given.runs / f"{job.name}.json"
        if path.exists() and json.loads(path.read_text())["budget"] == asdict(budget):
            continue
        result = run(job, budget, given.device)
        write_text(path, json.dumps(result, indent=1) + "\n")
        accuracy = ", ".join(f"{name} {right / result['images']:.1%}" for name, right in result["right"].items())
        seconds = result["seconds"]["all"]
        print(f"{first}/{step}: {index + 1} of {len(own)}, {job.name}: {accuracy}; {seconds:.0f} s", flush=True)


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with 0 <= I < N, got {text!r}")
    return int(index), int(count)


def main() -> int:
    """Train, measure latency, or write the results."""
    arguments = parser("Accuracy of prompts behind 8 bits and codecs.")
    arguments.add_argument("--runs", type=Path, default=Path("runs/transport"), help="results so far; %(default)s")
    arguments.add_argument("--train", action="store_true", help="run the jobs that are not in --runs")
    arguments.add_argument("--only-shard", type=_shard, default=(0, 1), help="I/N: every N-th job, from I on")
    arguments.add_argument("--epochs", type=int, default=12)
    arguments.add_argument("--warm-start", type=int, default=10)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--latency", action="store_true", help="measure latency of both layouts")
    arguments.add_argument("--samples", type=int, default=300, help="timed calls of each; %(default)s")
    given = arguments.parse_args()
    if given.train:
        torch.set_num_threads(max(1, torch.get_num_threads() // given.only_shard[1]))
        train(given)
    if given.latency:
        from transport_latency import measure_latency  # the machine that trains need not have ONNX

        given.runs.mkdir(parents=True, exist_ok=True)
        write_text(given.runs / LATENCY, json.dumps(measure_latency(given.samples), indent=1) + "\n")
    if not given.train and not given.latency:
        report(given.runs, given.output, str(__doc__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
