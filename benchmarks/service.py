"""A PGN adapts an untouched ViT behind a real HTTP server that accepts PNG only.

The server is a process of its own with nothing of ours on it (`tests/runtime/embedding_server.py`: FastAPI): it decodes
a PNG, resizes, crops and normalises it with Pillow as CLIP's users do, and runs the stock graph of `builtin`, which has
no prompts, in ONNX Runtime. It sees pictures and nothing else. A PGN of layout `inset` with a pixel library, trained in
torch on `digits`, answers the whole test split through it, and through the same ViT as an engine in this process.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from common import (
    HEADER,
    Rounds,
    Series,
    Target,
    environment_table,
    interleave,
    markdown_table,
    parser,
    stats_row,
    targets_table,
    write_results,
)

from pgn_edge.cli.eval.subjects import RuntimeSubject, Subject, TorchSubject, answer
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.task import ExportOptions, export_task
from pgn_edge.files import write_text
from pgn_edge.left_out import LeftOut
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import load_checkpoint
from pgn_edge.progress import silent
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.environment import describe_environment
from pgn_edge.train.analysis.trained import load_trained
from pgn_edge.train.config import Schedule, TrainConfig
from pgn_edge.train.data.samples import Samples, Subset
from pgn_edge.train.data.table import load_data
from pgn_edge.train.evaluate import Answers, compare, measure
from pgn_edge.train.task import train_task
from pgn_edge.transport import Transport

BACKBONE, DATA, TASK = "builtin", "digits", "digits"
PNG = "png"
TORCH, LOCAL, SERVICE = "torch", "ViT in this process", "ViT behind HTTP"
MOST_POINTS = 0.5
CONFIG = """\
url = "{url}"
task = "{task}"
request = "json"
body = {{ model = "{backbone}", input = ["{{data_url}}"] }}
answer = "data.*.embedding"
transport = "png"
deadline_s = 30
"""


def _tools() -> ModuleType:
    """The server of the tests."""
    path = Path(__file__).parents[1] / "tests/runtime/embedding_server.py"
    spec = importlib.util.spec_from_file_location("embedding_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["embedding_server"] = module  # FastAPI looks for the types of its own functions there
    spec.loader.exec_module(module)
    return module


TOOLS = _tools()


@dataclass(frozen=True)
class Options:
    """What is measured.

    Args:
        epochs: of the training, after half as many for the CNN alone.
        prompts: K; None for the whole rows of prompts nearest to 16.
        frames: of the test split; 0 for all.
        samples: timed frames of each way.
        warmup: rounds before them.
        seed: of everything random.
    """

    epochs: int
    prompts: int | None
    frames: int
    samples: int
    warmup: int
    seed: int


def trained(folder: Path, options: Options) -> Path:
    """A checkpoint that saw in training what the server will see."""
    path = folder / "ckpt.pt"
    config = TrainConfig(
        data=DATA,
        backbone=BACKBONE,
        prompts=options.prompts,
        layout="inset",
        library_space="pixel",
        rounded=True,
        transport=PNG,
    )
    train_task(config, Schedule(epochs=options.epochs, warm_start=options.epochs // 2, seed=options.seed), path)
    return path


@contextmanager
def served(folder: Path) -> Iterator[Any]:
    """The stock ViT behind HTTP, of a graph without prompts."""
    stock = folder / "stock.onnx"
    export_vit(BACKBONE, stock, VitOptions(prompts=0))
    preprocess = load_backbone(BACKBONE).vit.spec.preprocess
    normalisation = ("--mean", *preprocess.mean, "--std", *preprocess.std)
    with TOOLS.EmbeddingServer("--onnx", stock, *normalisation) as server:
        yield server


def exported(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """The task, and the same ViT as an engine that reads 8 bits."""
    geometry, task, vit = load_checkpoint(checkpoint).geometry, folder / "task.pgn", folder / "vit.onnx"
    export_task(checkpoint, task, ExportOptions(uint8=True, transport=PNG))
    export_vit(BACKBONE, vit, VitOptions(geometry.prompts, "inset", canvas="uint8"))
    return task, vit


def answers(subjects: Mapping[str, Subject], images: Samples) -> dict[str, Answers]:
    """What each says to every image; none may be left out."""
    found = {}
    for name, subject in subjects.items():
        print(f"{len(images)} images: {name}", file=sys.stderr)
        found[name] = answer(subject, images, np.arange(len(subject.labels)), LeftOut(), silent)
        assert found[name].answered.all(), name
    return found


def latency(runtimes: Mapping[str, Runtime], frame: np.ndarray, options: Options) -> tuple[Series, Series]:
    """Milliseconds of one frame each way, all in turns, and of their ViT alone; answers are compared."""
    samples: Series = {name: [] for name in runtimes}
    stages: Series = {f"{name}: ViT alone": [] for name in runtimes}
    calls = {name: (lambda runtime=runtime: runtime.infer(TASK, frame)) for name, runtime in runtimes.items()}
    labels = set()
    for name, elapsed_ms, result in interleave(calls, Rounds(options.samples, options.warmup, options.seed)):
        samples[name].append(elapsed_ms)
        stages[f"{name}: ViT alone"].append(result.timings_ms["vit"])
        labels.add(result.label)
    assert len(labels) == 1, labels
    return samples, stages


def sizes(runtime: Runtime, images: Samples, options: Options) -> dict[str, float]:
    """Mean bytes of what travels for a frame."""
    canvases = [
        runtime.infer(TASK, images.read(index)[..., ::-1]).kept_canvas()
        for index in range(min(len(images), options.samples))
    ]
    png = Transport.parse(PNG)
    return {
        "canvas, fp32": float(np.mean([4 * canvas.size for canvas in canvases])),
        "canvas, uint8": float(np.mean([canvas.nbytes for canvas in canvases])),
        "canvas, PNG": float(np.mean([len(png.encode(canvas)) for canvas in canvases])),
    }


def measured(checkpoint: Path, folder: Path, options: Options) -> dict[str, Any]:
    """Everything that is reported but the environment."""
    task, vit = exported(checkpoint, folder)
    images: Samples = load_data(DATA).test
    if options.frames:
        images = Subset(images, np.arange(min(options.frames, len(images))))
    with ExitStack() as opened:
        server = opened.enter_context(served(folder))
        service = folder / "service.toml"
        write_text(service, CONFIG.format(url=server.url(), task=task, backbone=BACKBONE))
        near = opened.enter_context(Runtime(vit, {TASK: task}, threads=1, canvases=True))
        far = opened.enter_context(Runtime(service, {TASK: task}, threads=1))
        subjects: dict[str, Subject] = {
            TORCH: TorchSubject(load_trained(checkpoint)),
            LOCAL: RuntimeSubject(near, TASK, 1),
            SERVICE: RuntimeSubject(far, TASK, 1),
        }
        found = answers(subjects, images)
        samples, stages = latency({LOCAL: near, SERVICE: far}, images.read(0)[..., ::-1], options)
        travelled = sizes(near, images, options)
    labels = np.asarray(images.labels)
    top1 = {name: measure(each, labels).top1 for name, each in found.items()}
    flips = {name: compare(found[TORCH], found[name], labels).count for name in (LOCAL, SERVICE)}
    return {
        "images": len(images),
        "top1": top1,
        "flips": flips,
        "bytes": travelled,
        "samples_ms": samples,
        "stages_ms": stages,
        "geometry": str(load_checkpoint(checkpoint).geometry),
    }


def _targets(document: Mapping[str, Any]) -> list[Target]:
    top1 = document["top1"]
    points = abs(top1[SERVICE] - top1[TORCH]) * 100
    share = document["flips"][SERVICE] / document["images"] * 100
    return [
        Target("accuracy through the service against torch", points, MOST_POINTS, False, "points"),
        Target("images whose class changes from torch to the service", share, MOST_POINTS, False, "%"),
    ]


def _markdown(document: Mapping[str, Any]) -> str:
    top1, samples = document["top1"], document["samples_ms"]
    local = float(np.median(samples[LOCAL]))
    rows = [
        (*stats_row(name, series), f"{np.median(series) - local:+.2f} ms" if name in samples else "")
        for name, series in {**samples, **document["stages_ms"]}.items()
    ]
    right = [(name, f"{value:.2%}", str(document["flips"].get(name, "-"))) for name, value in top1.items()]
    return "\n".join(
        [
            "# An untouched ViT behind an HTTP service\n",
            f"{__doc__}".strip() + "\n",
            f"`{DATA}`, {document['images']} test images, {document['geometry']}:\n",
            markdown_table(("", "top-1", "classes that differ from torch"), right),
            "One frame at a time, milliseconds; server and client on one machine, one thread each:\n",
            markdown_table((*HEADER, "over local"), rows),
            markdown_table(
                ("a frame", "bytes"), [(name, f"{value:,.0f}") for name, value in document["bytes"].items()]
            ),
            targets_table(document["targets"]),
            environment_table(document["environment"]),
        ]
    )


def main() -> int:
    """Measure, write, and give exit status 1 where a target is missed."""
    arguments = parser("A PGN before a stock ViT behind an HTTP service, against torch and the local engine.")
    arguments.add_argument("--checkpoint", type=Path, help="trained already: inset, pixel, rounded, --transport png")
    arguments.add_argument("--epochs", type=int, default=40)
    arguments.add_argument("--prompts", type=int)
    arguments.add_argument("--frames", type=int, default=0, help="of the test split; 0 for all")
    arguments.add_argument("--samples", type=int, default=200, help="timed frames of each way")
    arguments.add_argument("--warmup", type=int, default=20, help="rounds before them")
    arguments.add_argument("--seed", type=int, default=0)
    given = vars(arguments.parse_args())
    output, checkpoint, options = given.pop("output"), given.pop("checkpoint"), Options(**given)
    environment = describe_environment()
    with TemporaryDirectory() as name:
        folder = Path(name)
        document = {
            "benchmark": "service",
            "environment": environment,
            **measured(checkpoint or trained(folder, options), folder, options),
        }
    targets = _targets(document)
    document["targets"] = [target.to_json() for target in targets]
    write_results(output, "service", document, _markdown(document))
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
