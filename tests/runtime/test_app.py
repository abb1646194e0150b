"""The loop, on a real Runtime with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pgn_edge.errors import DataError, EngineError, OutputError, PairingError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.app import CameraSummary, run_app
from pgn_edge.runtime.engines import FakeEngine, OnnxRuntimeEngine
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import CallbackSink, JsonlSink, Sink, VideoSink
from pgn_edge.runtime.sources import Frame, ImageSource, open_source

FRAMES = 4


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def runtime(tiny_pair) -> Iterator[Runtime]:
    with Runtime(tiny_pair.vit, {"a": tiny_pair.task, "b": tiny_pair.task}, threads=1, canvases=True) as opened:
        yield opened


def sinks_in(folder: Path, runtime: Runtime) -> list[Sink]:
    return [VideoSink(folder / "out.mp4", runtime.facts, 25.0), JsonlSink(folder / "out.jsonl")]


class Interrupted(ImageSource):
    """Gives two frames, then what a signal handler would raise."""

    def __init__(self, folder: Path, error: BaseException) -> None:
        super().__init__(str(folder), sorted(folder.iterdir()))
        self.error = error

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            if frame.index == 2:
                raise self.error
            yield frame


def test_every_frame_goes_through_every_task(runtime: Runtime, images: Path, out: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    with open_source(str(images)) as source:
        summary = run_app(
            runtime,
            source,
            sinks_in(out, runtime),
            lambda step, done, total, note="": steps.append((step, done, total)),
        )
        expected = [runtime.infer("a", frame.image_bgr).label for frame in source]
    assert (summary.frames, summary.missing_frames) == (FRAMES, 0)
    assert summary.fps == pytest.approx(FRAMES / summary.seconds)
    assert {task: sum(counts.values()) for task, counts in summary.counts.items()} == {"a": FRAMES, "b": FRAMES}
    assert list(summary.latency_ms) == ["preprocess", "pgn", "vit", "head", "total"]
    assert all(0 < value.p50 <= value.p95 for value in summary.latency_ms.values())
    assert steps == [("frames", done, FRAMES) for done in range(1, FRAMES + 1)]
    lines = [json.loads(line) for line in (out / "out.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == ["a", "b"] * FRAMES
    assert [line["label"] for line in lines[::2]] == expected
    assert (out / "out.mp4").stat().st_size > 0


def test_the_summary_holds_what_was_degraded_lost_and_how_the_source_fared(runtime: Runtime, images: Path) -> None:
    class Degraded(Runtime):
        def answer_batch(self, frames: Sequence[tuple[str, np.ndarray]]) -> list[Result]:
            first, *others = runtime.infer_batch(frames)
            return [replace(first, label="", degraded="embedding"), *others]

        tasks = runtime.tasks

    def fail(frame: Frame, results: Sequence[Result]) -> None:
        raise ValueError(frame.name)

    with open_source(str(images)) as source:
        summary = run_app(Degraded.__new__(Degraded), source, [CallbackSink(fail, "drop"), CallbackSink(print)])
    assert summary.degraded == {"a": FRAMES}
    assert summary.counts["a"] == {}
    assert sum(summary.counts["b"].values()) == FRAMES
    assert summary.lost == {"CallbackSink": FRAMES}
    assert summary.cameras == {str(images): CameraSummary(FRAMES, 0, 0, 0, None, "")}
    assert summary.batching is None


def test_summary_is_json(runtime: Runtime, images: Path) -> None:
    with open_source(str(images)) as source:
        summary = run_app(runtime, source)
    document = json.loads(json.dumps(summary.to_json()))
    assert document["frames"] == FRAMES
    assert set(document["latency_ms"]["vit"]) == {"p50", "p95"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)], ids=["ctrl-c", "sigterm"])
def test_interruption_discards_every_sink(runtime: Runtime, images: Path, out: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run_app(runtime, Interrupted(images, error), sinks_in(out, runtime))
    assert list(out.iterdir()) == []


def test_a_bad_image_in_the_middle_is_counted_and_the_others_are_answered(
    runtime: Runtime, images: Path, out: Path
) -> None:
    (images / "2.png").write_bytes(b"no image")
    with open_source(str(images)) as source:
        summary = run_app(runtime, source, sinks_in(out, runtime))
    lines = [json.loads(line) for line in (out / "out.jsonl").read_text().splitlines()]
    assert [(line["name"], line["sequence"]) for line in lines[::2]] == [("0.png", 0), ("1.png", 1), ("3.png", 3)]
    missing = summary.cameras[str(images)].missing
    assert (summary.frames, summary.missing_frames, missing.unreadable) == (3, 1, 1)
    assert missing.first.startswith(f"{images / '2.png'}: expected an image")


def test_a_bad_image_stops_a_strict_run_and_discards_every_sink(runtime: Runtime, images: Path, out: Path) -> None:
    (images / "2.png").write_bytes(b"no image")
    with open_source(str(images), strict=True) as source, pytest.raises(DataError, match=r"2\.png"):
        run_app(runtime, source, sinks_in(out, runtime))
    assert list(out.iterdir()) == []


def test_engine_that_fails_in_the_middle_discards_every_sink(tiny_pair, images: Path, out: Path) -> None:
    real = OnnxRuntimeEngine(tiny_pair.vit, "vit.onnx")
    vit = FakeEngine(real.inputs, real.outputs, real.infer, metadata=real.metadata)
    Runtime(vit, {"a": tiny_pair.task}).close()
    # So many calls go to the golden pair; the third frame after them is to fail.
    fail_at = frozenset({vit.calls + 2})
    failing = FakeEngine(real.inputs, real.outputs, real.infer, metadata=real.metadata, fail_at=fail_at)
    source = open_source(str(images))
    with (
        Runtime(failing, {"a": tiny_pair.task}, canvases=True) as runtime,
        pytest.raises(EngineError, match="failure on cue"),
    ):
        run_app(runtime, source, sinks_in(out, runtime))
    assert list(out.iterdir()) == []


def test_one_sink_that_cannot_open_discards_the_others(runtime: Runtime, images: Path, out: Path) -> None:
    sinks = [*sinks_in(out, runtime), JsonlSink(out / "missing" / "out.jsonl")]
    with open_source(str(images)) as source, pytest.raises(OutputError):
        run_app(runtime, source, sinks)
    assert list(out.iterdir()) == []


def test_runtime_without_tasks_is_refused(tiny_pair, images: Path) -> None:
    source = open_source(str(images))
    with Runtime(tiny_pair.vit) as runtime, pytest.raises(PairingError, match="at least one task"):
        run_app(runtime, source)
