"""What a training step costs: `pgn_edge.train.loop.fit` against the least that any such loop must do.

CLIP ViT-B/32 with seeded random weights, 16 prompts, ResNet10 at 224 px, 100 classes, `light` augmentation. All three
take turns within one process, in a new random order for each step:

- the floor: the frozen ViT forward and backward with given prompts, and the loss;
- a whole step of `fit`: images from memory, augmentation, PGN, ViT, loss, clipping, AdamW;
- the paper's loop re-enacted in plain torch (`paper_loop.py`), which is given images that are ready.

Then how long training stands still for images: JPEG files of 500 x 375, decoded, cut and augmented as in the paper,
while steps of batch 128 are taken.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from common import (
    CLASSES,
    CLIP,
    HEADER,
    LIBRARY,
    PROMPTS,
    Series,
    Target,
    environment_table,
    markdown_table,
    parser,
    stats_row,
    targets_table,
    write_results,
)
from paper_loop import PaperLoop, PaperModel
from torch import Tensor

from pgn_edge.export.synthetic import pictures
from pgn_edge.heads import Head
from pgn_edge.nn.clip import clip_backbone
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.runtime.bench_machine import describe_bench_environment
from pgn_edge.train.config import Execution, Schedule
from pgn_edge.train.data import Arrays, DataSet, Files, LabelSpace, Samples
from pgn_edge.train.loop import Listeners, fit
from pgn_edge.train.model import HeadModule, PromptedViT

FLOOR, OURS, PAPER = "the floor: ViT and loss alone", "a step of `fit`", "the paper's loop, re-enacted"
OVERHEAD, SPEEDUP, WAITING = 1.10, 1.3, 0.05
CLOSE = 1e-4  # largest difference of logits between the two models before anything is learned, relative
FILE_HW = 375, 500
LABELS = tuple(f"class {index}" for index in range(CLASSES))


@dataclass(frozen=True)
class Parts:
    """What all contenders are made of.

    Args:
        clip: open_clip's model.
        vit: the same, frozen.
        head: text weights of the class names.
        tokens: (C, 77) of the class names.
        device: where it is computed.
    """

    clip: Any
    vit: FrozenViT
    head: Head
    tokens: Tensor
    device: torch.device

    def pgn(self) -> PGN:
        """The PGN that training begins with; the same each time."""
        torch.manual_seed(1)
        return PGN(PgnConfig("resnet10", PROMPTS, LIBRARY, self.vit.width, self.vit.spec.image_hw[1]))

    def model(self) -> PromptedViT:
        """The model that `fit` trains."""
        return PromptedViT(self.vit, self.pgn(), HeadModule(self.head), self.vit.geometry(PROMPTS))


def build(device: str, seed: int) -> Parts:
    """CLIP ViT-B/32 with random weights, and text weights that are its own."""
    import open_clip

    logging.getLogger().setLevel(logging.ERROR)  # else open_clip warns that the weights are random, as they should be
    torch.manual_seed(seed)
    model = open_clip.create_model("ViT-B-32", pretrained=None, force_quick_gelu=True).eval().requires_grad_(False)
    tokens = open_clip.get_tokenizer("ViT-B-32")([f"a photo of a {label}" for label in LABELS])
    with torch.no_grad():
        text = F.normalize(model.encode_text(tokens), dim=-1).numpy()
    head = Head.text(text, LABELS, float(model.logit_scale.exp()))
    vit = clip_backbone(model, CLIP, None).vit
    place = torch.device(device)
    return Parts(model.to(place), vit.to(place), head, tokens.to(place), place)


def floor_step(parts: Parts, image: Tensor, label: Tensor) -> Callable[[], None]:
    """The ViT's forward and backward with prompts that are there already."""
    prompts = parts.pgn().to(parts.device)(image).detach().requires_grad_()
    head = HeadModule(parts.head).to(parts.device)

    def step() -> None:
        prompts.grad = None
        F.cross_entropy(head(parts.vit(image, prompts)), label).backward()  # type: ignore[no-untyped-call]

    return step


def time_steps(parts: Parts, batch: int, samples: int, seed: int) -> Series:
    """Seconds of each step: `fit` runs, and after each of its steps the others take one of theirs.

    Raises:
        RuntimeError: the paper's model and ours do not give the same logits.
    """
    warmup = 1
    images = pictures(batch, parts.vit.spec.image_hw, seed)
    labels = np.arange(batch * (samples + warmup)) % CLASSES
    image = torch.from_numpy(parts.vit.spec.preprocess.normalise(images)).to(parts.device)
    label = torch.from_numpy(labels[:batch]).to(parts.device)
    paper = PaperModel(parts.clip, parts.pgn().to(parts.device), parts.tokens)
    _require_same(parts.model().to(parts.device), paper, image)
    loop = PaperLoop(paper, rate=0.1)
    peers = {FLOOR: floor_step(parts, image, label), PAPER: lambda: loop.step(image, label)}
    times: Series = {FLOOR: [], OURS: [], PAPER: []}
    order = np.random.default_rng(seed)
    mark = perf_counter()

    def after_step(step: str, done: int, total: int, note: str = "") -> None:
        nonlocal mark
        taken = {OURS: perf_counter() - mark}
        for name in order.permutation(list(peers)):
            taken[str(name)] = _timed(peers[name], parts.device)
        if done > warmup:
            for name, seconds in taken.items():
                times[name].append(seconds)
        print(f"step {done} of {total}", file=sys.stderr)
        mark = perf_counter()

    data = _data(Arrays(np.tile(images, (samples + warmup, 1, 1, 1)), labels, "pictures"))
    schedule = Schedule(epochs=1, warm_start=0, batch=batch, seed=seed)
    fit(parts.model(), data, parts.vit.spec.preprocess, schedule, Listeners(after_step), _execution(parts))
    return times


def time_waiting(parts: Parts, batch: int, steps: int, seed: int) -> dict[str, float]:
    """Share of an epoch's time spent waiting for images that are decoded from JPEG files, and images in a second."""
    with tempfile.TemporaryDirectory() as name:
        files = []
        for index, picture in enumerate(pictures(batch, FILE_HW, seed)):
            files.append(Path(name) / f"{index}.jpg")
            cv2.imwrite(str(files[-1]), picture[..., ::-1])
        paths = files * steps
        data = _data(Files(paths, np.arange(len(paths)) % CLASSES))
        schedule = Schedule(epochs=1, warm_start=0, batch=batch, augment="paper", seed=seed)
        history = fit(parts.model(), data, parts.vit.spec.preprocess, schedule, execution=_execution(parts))
    return {"waiting": history.waiting[0], "images_per_s": history.images_per_s[0], "batch": batch, "steps": steps}


def _data(train: Samples) -> DataSet:
    """Training alone is of interest; two black images stand for the other splits."""
    blank = Arrays(np.zeros((2, 224, 224, 3), np.uint8), np.arange(2), "blank")
    return DataSet("pictures", (LabelSpace(LABELS, "a photo of a {}"),), train, blank, blank, {})


def _execution(parts: Parts) -> Execution:
    return Execution(device=str(parts.device))


def _timed(step: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    start = perf_counter()
    step()
    _wait(device)
    return perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def _require_same(ours: PromptedViT, paper: PaperModel, image: Tensor) -> None:
    """The two must compute the same function before their speeds are compared."""
    one, other = ours.eval()(image[:4]), paper.eval()(image[:4])
    apart = float((one - other).abs().max() / other.abs().max())
    if apart > CLOSE:
        raise RuntimeError(f"expected the same logits, got a relative difference of {apart:.1e}")


def targets_of(document: Mapping[str, Any]) -> list[Target]:
    """The ratios of medians, and the share of waiting, against their limits."""
    median = {name: float(np.median(series)) for name, series in document["samples_s"].items()}
    batch, waiting = document["batch"], document["waiting"]
    return [
        Target(f"a step of `fit` / the floor, batch {batch}", median[OURS] / median[FLOOR], OVERHEAD, False, "x"),
        Target(f"the paper's loop / a step of `fit`, batch {batch}", median[PAPER] / median[OURS], SPEEDUP, True, "x"),
        Target(f"waiting for images, batch {waiting['batch']}", waiting["waiting"], WAITING, False, ""),
    ]


def _markdown(document: Mapping[str, Any]) -> str:
    rows = [stats_row(name, series, 3) for name, series in document["samples_s"].items()]
    parts = [
        f"# Training\n\n{__doc__}".rstrip() + "\n",
        f"`python benchmarks/{document['environment']['command']}`\n",
        targets_table(document["targets"]),
        "Seconds a step:\n",
        markdown_table(HEADER, rows),
        f"With images from files: {document['waiting']['images_per_s']:.1f} images a second.\n",
        environment_table(document["environment"]),
    ]
    return "\n".join(parts)


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("What a training step costs.")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--samples", type=int, default=15)
    arguments.add_argument("--waiting-batch", type=int, default=128)
    arguments.add_argument("--waiting-steps", type=int, default=4)
    arguments.add_argument("--device", default="cpu", help="torch device; default: %(default)s")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    environment = {**describe_bench_environment(), "torch": torch.__version__}
    parts = build(options.device, options.seed)
    document: dict[str, Any] = {
        "benchmark": "training",
        "environment": environment,
        "batch": options.batch,
        "device": options.device,
        "samples_s": time_steps(parts, options.batch, options.samples, options.seed),
        "waiting": time_waiting(parts, options.waiting_batch, options.waiting_steps, options.seed),
    }
    targets = targets_of(document)
    document["targets"] = [target.to_json() for target in targets]
    write_results(options.output, "training", document, _markdown(document))
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
