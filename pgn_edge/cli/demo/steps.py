"""The main job from end to end: train, export, compile, run, bench, and only then a look at the test split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from pgn_edge.cli.demo.report import Sample, canvas_strip, demo_html
from pgn_edge.errors import OutputError
from pgn_edge.export.compile import compile_plan
from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.task import ExportOptions, ExportReport, export_task
from pgn_edge.extras import cv2
from pgn_edge.files import atomic_write, write_bytes, write_text
from pgn_edge.heads import Head
from pgn_edge.progress import Progress
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.app import run_app
from pgn_edge.runtime.bench import run_bench
from pgn_edge.runtime.bench_html import bench_html
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.bench_report import bench_json
from pgn_edge.runtime.sinks import JsonlSink, VideoSink
from pgn_edge.runtime.sources import open_source
from pgn_edge.train.baselines import cnn_alone, embed, linear_probe
from pgn_edge.train.config import Schedule, TrainConfig
from pgn_edge.train.loader import read_all
from pgn_edge.train.loop import Listeners, predict
from pgn_edge.train.task import TrainReport, train_task

PROMPTS = 16
CLIP_FRAMES, CLIP_REPEAT, CLIP_SIDE, CLIP_FPS = 24, 4, 384, 12
BENCH_SAMPLES = 200
SAMPLES = 8


@dataclass(frozen=True)
class Trained:
    """What training left in memory.

    Args:
        pgn: the PGN.
        constant: the input-independent prompts.
        cnn: the PGN's CNN as a plain classifier.
        probe: linear probe on the frozen ViT.
    """

    pgn: TrainReport
    constant: TrainReport
    cnn: nn.Module
    probe: Head


def run_demo(folder: Path, epochs: int, seed: int, progress: Progress) -> dict[str, Any]:
    """Run everything, and write the report.

    Args:
        folder: made if it is not there.
        epochs: of each training.
        seed: of each training.
        progress: listener.

    Returns:
        What `results.json` holds.

    Raises:
        PgnEdgeError: a step failed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(
            str(folder), expected="a folder that can be made", got=exc.strerror or str(exc), do="choose another"
        ) from exc
    began, step = perf_counter(), _Steps(progress, total=8)
    trained = _train(folder, Schedule(epochs=epochs, seed=seed), step)
    with step("export"):
        exported = _export(folder)
    with step("compile"):
        compile_plan(folder / "vit.onnx", folder / "vit.plan")
        compile_plan(folder / "task.pgn", folder / "task.plan")
    with step("run on video"):
        _run_on_clip(folder, read_all(trained.pgn.data.validation, trained.pgn.preprocess))
    with step("bench"):
        bench = run_bench(
            folder / "vit.onnx",
            task=folder / "task.pgn",
            stock=folder / "vit-stock.onnx",
            options=BenchOptions(samples=BENCH_SAMPLES),
            progress=progress,
        )
        write_text(folder / "bench.html", bench_html(bench))
    with step("look at the test split"):
        answers, samples = _test(folder, trained)
    write_bytes(folder / "canvas.png", canvas_strip(samples))
    document = bench_json(bench)
    labels = trained.pgn.data.test.labels
    results = {
        "accuracy": {name: float((answer == labels).mean()) for name, answer in answers.items()},
        "parity": [rung.to_json() for rung in exported.parity],
        "certificate": exported.certificate.to_json(),
        "latency_ms": document["stats_ms"],
        "tax": {key: document[key] for key in ("adaptation_tax", "extra_token_ms", "bytes_per_frame")},
        "environment": document["environment"],
        "seconds": perf_counter() - began,
    }
    clip = (folder / "annotated.mp4").read_bytes()
    write_text(folder / "report.html", demo_html(results, trained.pgn, answers["pgn_fp16"], samples, bench, clip))
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def _train(folder: Path, schedule: Schedule, step: _Steps) -> Trained:
    with step("train the PGN"):
        config = TrainConfig("digits", prompts=PROMPTS)
        pgn = train_task(config, schedule, folder / "ckpt.pt", progress=step.inner("PGN"))
    with step("train constant prompts"):
        config = TrainConfig("digits", prompts=PROMPTS, generator="constant")
        constant = train_task(config, schedule, folder / "constant.pt", progress=step.inner("constant prompts"))
    with step("train the baselines"):
        data, preprocess = pgn.data, pgn.preprocess
        cnn = cnn_alone(data, preprocess, schedule, Listeners(step.inner("CNN alone")))
        probe = linear_probe(pgn.model.vit, data, preprocess)
    return Trained(pgn, constant, cnn, probe)


def _export(folder: Path) -> ExportReport:
    export_task(folder / "ckpt.pt", folder / "task-fp32.pgn")
    report = export_task(folder / "ckpt.pt", folder / "task.pgn", ExportOptions(precision="fp16"))
    export_vit("builtin", folder / "vit.onnx", VitOptions(prompts=PROMPTS))
    export_vit("builtin", folder / "vit-stock.onnx", VitOptions(prompts=0))
    return report


def _run_on_clip(folder: Path, images: np.ndarray) -> None:
    """Write a clip of validation images (n, H, W, 3) and one image of it, and annotate the clip."""
    write_bytes(folder / "digit.png", cv2.imencode(".png", images[0][..., ::-1])[1].tobytes())
    with atomic_write(folder / "clip.mp4") as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), CLIP_FPS, (CLIP_SIDE, CLIP_SIDE))
        for image in images[:CLIP_FRAMES]:
            large = cv2.resize(image, (CLIP_SIDE, CLIP_SIDE), interpolation=cv2.INTER_CUBIC)
            for _ in range(CLIP_REPEAT):
                writer.write(large[..., ::-1])
        writer.release()
    with (
        Runtime(folder / "vit.onnx", {"digits": folder / "task.pgn"}, canvases=True) as runtime,
        open_source(str(folder / "clip.mp4")) as source,
    ):
        video = VideoSink(folder / "annotated.mp4", runtime.facts, source.fps)
        run_app(runtime, source, [video, JsonlSink(folder / "frames.jsonl")])


def _test(folder: Path, trained: Trained) -> tuple[dict[str, np.ndarray], list[Sample]]:
    """Class indices that each contender gives for the test split; nothing is chosen by them."""
    data, preprocess = trained.pgn.data, trained.pgn.preprocess
    model, images = trained.pgn.model, read_all(data.test, preprocess)
    embedding = embed(model.vit, data.test, preprocess)
    answers = {
        "frozen": model.head.to_head().logits(embedding).argmax(axis=1),
        "linear_probe": trained.probe.logits(embedding).argmax(axis=1),
        "cnn_alone": predict(trained.cnn, data.test, preprocess),
        "constant": predict(trained.constant.model, data.test, preprocess),
        "pgn_torch": predict(model, data.test, preprocess),
    }
    for name, task in (("pgn_fp32", "task-fp32.pgn"), ("pgn_fp16", "task.pgn")):
        with Runtime(folder / "vit.onnx", {"digits": folder / task}, canvases=True) as runtime:
            results = [runtime.infer("digits", image[..., ::-1]) for image in images]
            facts = runtime.facts
        # A degraded frame has no label, and counts as wrong.
        answers[name] = np.array([-1 if result.degraded else data.labels.index(result.label) for result in results])
    shown = np.linspace(0, len(results) - 1, SAMPLES).round().astype(int)
    samples = [Sample(results[i], data.labels[data.test.labels[i]], facts) for i in shown]
    return answers, samples


class _Steps:
    """One bar over the steps of the demo, beside the bars that long steps show of themselves."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.progress("demo", self.done, self.total, name)
        yield
        self.done += 1
        self.progress("demo", self.done, self.total, name)

    def inner(self, name: str) -> Progress:
        """A listener for the bars of step `name`."""

        def listen(step: str, done: int, total: int, note: str = "") -> None:
            self.progress(f"{step}: {name}", done, total, note)

        return listen
