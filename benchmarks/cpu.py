"""The whole chain on a CPU against its peers, batch 1, all of them in one interleaved run.

CLIP ViT-B/32 with 16 prompts and a ResNet10 PGN (K = 16, N = 256), seeded random weights. The ratios are of medians,
from a 224 x 224 frame: the same tokens for all. Torch gets the normalised tensor, OpenVINO the RGB image and ONNX
Runtime alone the finished canvas, each prepared outside the timer, and torch's text features are computed once: favours
to the peers. `Runtime.infer` begins with the BGR frame and ends with scores. From 640 x 480 torch also runs the paper's
test transform, on a picture that is in PIL already. Graphs of the same tokens need not hold the same products, so those
of each are counted. Every answer is held against torch eager before, and against itself after.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calls import (
    CAMERA_HW,
    IMAGE_HW,
    TASK,
    Call,
    Frames,
    bare_calls,
    canvases_of,
    chain_calls,
    chains,
    embedding_of,
    openvino_calls,
    torch_calls,
)
from ceilings import COPY_BYTES, call_of, copier, products_of, square_products, whole_call
from children import first_results, resident_after_tasks
from common import Rounds, Series, interleave, parser, write_results
from cpu_report import (
    BARE,
    BATCH,
    CHAIN,
    CHAIN_INT8,
    COPY,
    EAGER,
    FROM_CAMERA,
    OPENVINO_INT8,
    SETTINGS,
    markdown,
    targets_of,
)
from peers import Files, export_plain, load_paper_model
from runtimes import bare_session
from stream import FRAMES, stream_calls

from pgn_edge.agreement import Agreement, compare
from pgn_edge.contract import Precision
from pgn_edge.errors import EngineError
from pgn_edge.export.synthetic import pictures
from pgn_edge.heads import Head
from pgn_edge.nn.checkpoint import load_checkpoint
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.bench_machine import describe_bench_environment, machine_state


@dataclass(frozen=True)
class Options:
    """What is measured, and how often.

    Args:
        samples: timed calls of each, batch 1 and in the roofline.
        warmup: rounds before them.
        batches: timed batches of 8.
        streams: timed streams of frames under each setting.
        starts: processes started.
        tasks: further tasks in one process.
        pictures: on which answers are compared.
        threads: of each runtime; 0 takes one for each core.
        seed: of weights, pictures and order.
    """

    samples: int
    warmup: int
    batches: int
    streams: int
    starts: int
    tasks: int
    pictures: int
    threads: int
    seed: int

    def rounds(self, samples: int) -> Rounds:
        """So many, in the order that the seed gives."""
        return Rounds(samples, self.warmup, self.seed)


def measure_latency(files: Files, options: Options) -> dict[str, Any]:
    """Milliseconds of each call by name, what was skipped and why, and how far the answers are apart."""
    checkpoint = load_checkpoint(files.checkpoint)
    frames, camera = (Frames(pictures(1, size_hw, options.seed)[0]) for size_hw in (IMAGE_HW, CAMERA_HW))
    skipped: dict[str, str] = {}
    model = load_paper_model(files)
    with torch.inference_mode(), chains(files, options.threads) as runtimes:
        calls = torch_calls(model, checkpoint, frames, camera, skipped)
        calls |= bare_calls(files, canvases_of(files, frames.image[None], options.threads), options.threads)
        calls |= openvino_calls(files, frames, options.threads, skipped)
        calls |= chain_calls(runtimes, frames, camera)
        agreement = _check(calls, checkpoint.head, skipped)
        before = {name: call() for name, call in calls.items()}
        samples: Series = {name: [] for name in calls}
        for name, elapsed_ms, answer in interleave(calls, options.rounds(options.samples)):
            samples[name].append(elapsed_ms)
            _require(name, "the answer that it gave before", compare(before[name][None], answer[None], checkpoint.head))
    return {
        "samples_ms": samples,
        "skipped": skipped,
        "agreement": {name: asdict(value) for name, value in agreement.items()},
    }


def _check(calls: dict[str, Call], head: Head, skipped: dict[str, str]) -> dict[str, Agreement]:
    """Hold every answer on the same tokens against torch eager; an int8 peer that fails is left out, and said so."""
    reference, agreement = calls[EAGER]()[None], {}
    for name in [name for name in calls if not name.endswith(FROM_CAMERA)]:
        found = compare(reference, calls[name]()[None], head)
        if name == OPENVINO_INT8 and not found.within("int8"):
            skipped[name] = f"its answer is not that of torch: {found}"
            del calls[name]
            continue
        _require(name, "the answer of torch eager", found, "int8" if name in (CHAIN_INT8, OPENVINO_INT8) else "fp32")
        agreement[name] = found
    return agreement


def _require(name: str, expected: str, found: Agreement, precision: Precision = "fp32") -> None:
    if not found.within(precision):
        do = "a latency of wrong answers means nothing: look for the fault first"
        raise EngineError(name, expected=expected, got=str(found), do=do)


def measure_accuracy(files: Files, options: Options) -> dict[str, Any]:
    """Embeddings of our chains against torch eager on many pictures."""
    checkpoint = load_checkpoint(files.checkpoint)
    many = [Frames(image) for image in pictures(options.pictures, IMAGE_HW, options.seed + 1)]
    model = load_paper_model(files)
    with torch.inference_mode(), chains(files, options.threads) as runtimes:
        reference = np.stack([model(frames.tensor(checkpoint.preprocess))[0][0].numpy() for frames in many])
        found = {}
        for name, runtime in runtimes.items():
            embeddings = np.stack([embedding_of(runtime, frames.bgr) for frames in many])
            found[name] = asdict(compare(reference, embeddings, checkpoint.head))
    return found


def measure_offline(files: Files, options: Options) -> dict[str, Any]:
    """Milliseconds of a batch of 8 through the chain, and of the ViT alone on the same canvases."""
    session = bare_session(files.vit(), options.threads)
    images = pictures(BATCH, IMAGE_HW, options.seed)
    frames, canvases = [(TASK, Frames(image).bgr) for image in images], canvases_of(files, images, options.threads)
    head = load_checkpoint(files.checkpoint).head
    with Runtime(files.vit(), {TASK: files.task}, threads=options.threads) as runtime:
        calls: dict[str, Callable[[], np.ndarray]] = {
            BARE: lambda: session.run(["embedding"], {"canvas": canvases})[0],
            CHAIN: lambda: np.stack([result.embedding for result in runtime.infer_batch(frames)]),
        }
        _require(CHAIN, "the answers of the ViT alone", compare(calls[BARE](), calls[CHAIN](), head))
        samples: Series = {name: [] for name in calls}
        for name, elapsed_ms, _ in interleave(calls, options.rounds(options.batches)):
            samples[name].append(elapsed_ms)
    return {"samples_ms": samples}


def measure_stream(files: Files, options: Options) -> dict[str, Any]:
    """Milliseconds of some frames in a row, under settings of the sessions and with two frames in flight."""
    checkpoint = load_checkpoint(files.checkpoint)
    frame_bgr = Frames(pictures(1, CAMERA_HW, options.seed)[0]).bgr
    with stream_calls(files, checkpoint.preprocess, frame_bgr, options.threads) as calls:
        reference = calls[SETTINGS[0]]()[None]
        samples: Series = {name: [] for name in calls}
        for name, elapsed_ms, answer in interleave(calls, options.rounds(options.streams)):
            samples[name].append(elapsed_ms)
            _require(name, "the answer of the first", compare(reference, answer[None], checkpoint.head))
    return {"samples_ms": samples, "frames": FRAMES}


def measure_ceilings(files: Files, options: Options) -> dict[str, Any]:
    """Milliseconds of the graphs, of each of their products alone, of large square ones, and of copying."""
    image = pictures(1, IMAGE_HW, options.seed)
    canvas = canvases_of(files, image, options.threads)
    graphs = {"pgn": (files.pgn, {"image": image})}
    vits = {"plain": files.plain, "vit": files.vit(), "vit int8": files.vit("int8")}
    graphs |= {graph: (path, {"canvas": canvas}) for graph, path in vits.items()}
    kinds = {graph: products_of(path, feeds) for graph, (path, feeds) in graphs.items()}
    kinds["square"] = list(square_products(options.seed))
    calls: dict[str, Callable[[], Any]] = {COPY: copier(options.threads or len(os.sched_getaffinity(0)))}
    for graph, products in kinds.items():
        calls |= {f"{graph}: {product.name}": call_of(product, options.threads) for product in products}
    calls |= {graph: whole_call(path, feeds, options.threads) for graph, (path, feeds) in graphs.items()}
    samples: Series = {name: [] for name in calls}
    for name, elapsed_ms, _ in interleave(calls, options.rounds(options.samples)):
        samples[name].append(elapsed_ms)
    return {
        "products": {
            f"{graph}: {product.name}": {
                "graph": graph,
                "count": product.count,
                "multiply_adds": product.multiply_adds,
                "integers": product.integers,
            }
            for graph, products in kinds.items()
            for product in products
        },
        "copy_bytes": COPY_BYTES,
        "file_bytes": {graph: _size_bytes(path) for graph, (path, _) in graphs.items()},
        "samples_ms": samples,
    }


def _size_bytes(path: Path) -> int:
    """Of a graph, with the file of its weights where they lie beside it."""
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))


def measure_first(files: Files, options: Options) -> dict[str, Any]:
    """Seconds to the first answer of a new process."""
    rounds = Rounds(options.starts, 1, options.seed)  # the first start of each fills the disk cache
    return {"samples_s": first_results(files.vit(), files.task, options.threads, rounds)}


def measure_memory(files: Files, options: Options) -> dict[str, Any]:
    """Resident memory after each further task."""
    return {"resident_bytes": resident_after_tasks(files.vit(), files.task, options.threads, options.tasks)}


PARTS: dict[str, Callable[[Files, Options], dict[str, Any]]] = {
    "latency": measure_latency,
    "accuracy": measure_accuracy,
    "offline": measure_offline,
    "stream": measure_stream,
    "memory": measure_memory,
    "first": measure_first,
    "roofline": measure_ceilings,
}


def _environment() -> dict[str, Any]:
    packages = ("torch", "torchvision", "open_clip_torch", "openvino")
    installed = {package.name: package.version for package in metadata.distributions() if package.name in packages}
    return {**describe_bench_environment(), **{name: installed.get(name) for name in packages}}


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("The whole chain on a CPU against its peers.")
    arguments.add_argument("--samples", type=int, default=200, help="timed calls of each; default: %(default)s")
    arguments.add_argument("--warmup", type=int, default=10, help="rounds before them; default: %(default)s")
    arguments.add_argument("--batches", type=int, default=100, help="timed batches of 8; default: %(default)s")
    arguments.add_argument("--streams", type=int, default=25, help="timed streams of 8 frames; default: %(default)s")
    arguments.add_argument("--starts", type=int, default=10, help="processes started; default: %(default)s")
    arguments.add_argument("--tasks", type=int, default=20, help="further tasks; default: %(default)s")
    arguments.add_argument("--pictures", type=int, default=64, help="compared in `accuracy`; default: %(default)s")
    arguments.add_argument("--threads", type=int, default=0, help="of each runtime; default: one for each core")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    given = vars(arguments.parse_args())
    output, parts = given.pop("output"), given.pop("parts")
    options = Options(**given)
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    document: dict[str, Any] = {"benchmark": "cpu", "environment": _environment(), "options": asdict(options)}
    document["before"] = machine_state()
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        print("exporting the ViT three times, and the task", file=sys.stderr)
        files.make(options.seed, ("fp32", "int8"))
        export_plain(files)
        for part in (part for part in PARTS if part in parts):
            print(part, file=sys.stderr)
            document[part] = PARTS[part](files, options)
    document["after"] = machine_state()
    targets = targets_of(document)
    document |= {"targets": [target.to_json() for target in targets], "passed": all(t.met for t in targets)}
    write_results(output, "cpu", document, markdown(document, __doc__ or ""))
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
