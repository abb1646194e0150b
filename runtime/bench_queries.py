"""What is timed: one query of a bare engine, and one of the whole chain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from pgn_edge.errors import DataError, EngineError
from pgn_edge.extras import cv2
from pgn_edge.images import read_image
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.engines import DeviceEngine, Engine, TensorSpec
from pgn_edge.runtime.runtime import Runtime

TASK = "bench"
JPEG_QUALITY = 90
COARSE = 8  # pixels of the random frame that share one random colour: pure noise is the worst case of a JPEG

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Query:
    """Something that is timed as a whole.

    Args:
        series: name of the whole query's latency.
        run: runs it once; gives the outputs by name, and milliseconds by series.
    """

    series: str
    run: Callable[[], tuple[Outputs, Mapping[str, float]]]


@dataclass(frozen=True)
class CameraFrame:
    """A frame as a camera delivers it.

    Args:
        data: bytes of an image file.
        size_hw: size (h, w) in pixels once decoded.
        png_bytes: size of the same frame as PNG.
    """

    data: bytes
    size_hw: tuple[int, int]
    png_bytes: int


def camera_frame(options: BenchOptions, rng: np.random.Generator) -> CameraFrame:
    """The file that was given, or a random frame as JPEG.

    Raises:
        DataError: the file is no image that OpenCV decodes.
    """
    if options.frame is None:
        height, width = options.frame_hw
        coarse = rng.integers(0, 256, (-(-height // COARSE), -(-width // COARSE), 3), np.uint8)
        frame = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        data = cv2.imencode(".jpg", frame, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()
    else:
        read_image(options.frame)  # OpenCV returns half a JPEG without a word
        data = options.frame.read_bytes()
    frame = _decoded(np.frombuffer(data, np.uint8), options.frame)
    png = cv2.imencode(".png", frame)[1]
    return CameraFrame(data, (frame.shape[0], frame.shape[1]), len(png))


def engine_query(
    engine: Engine, series: str, frames: int, rng: np.random.Generator, size_hw: tuple[int, int] | None = None
) -> Query:
    """A query of an engine alone, with random inputs.

    An engine of a fixed batch is called as often as the frames need, its last batch filled up; one whose pictures have
    no batch axis is called once a frame. On a GPU the inputs are there before, the outputs stay there, and calls are
    one CUDA graph where the engine can be captured.

    Args:
        engine: Any engine.
        series: Name of its latency.
        frames: Number of frames of one query.
        rng: Source of the inputs.
        size_hw: Size (H, W) for pictures whose own is free.

    Raises:
        EngineError: a size other than the batch is free.
    """
    fixed = _fixed_batch(engine)
    calls = 1 if fixed is None else -(-frames // fixed)
    feeds = random_feeds(engine, frames, rng, size_hw)
    if isinstance(engine, DeviceEngine):
        return _device_query(engine, series, feeds, calls)

    def run() -> tuple[Outputs, Mapping[str, float]]:
        start = perf_counter()
        for _ in range(calls):
            outputs = engine.infer(feeds)
        times = {series: (perf_counter() - start) * 1e3}
        if calls == 1:
            times |= {f"{series}.{stage}": value for stage, value in getattr(engine, "timings_ms", {}).items()}
        return outputs, times

    return Query(series, run)


def _device_query(engine: DeviceEngine, series: str, feeds: Mapping[str, np.ndarray], calls: int) -> Query:
    cuda = engine.cuda
    first = engine.infer(feeds)
    inputs = {name: cuda.empty(array.shape, array.dtype) for name, array in feeds.items()}
    outputs = {name: cuda.empty(array.shape, array.dtype) for name, array in first.items()}
    for name, array in feeds.items():
        cuda.upload(inputs[name], array)
    queue = engine.bind_device(inputs, outputs)

    def queue_all() -> None:
        for _ in range(calls):
            queue()

    queue_all()
    cuda.synchronize()
    launch = cuda.capture(queue_all).launch if engine.capturable else queue_all

    def run() -> tuple[Outputs, Mapping[str, float]]:
        start = perf_counter()
        launch()
        cuda.synchronize()
        spent_ms = (perf_counter() - start) * 1e3
        for name, array in first.items():
            cuda.download(array, outputs[name])
        cuda.synchronize()
        return first, {series: spent_ms}

    return Query(series, run)


def chain_query(runtime: Runtime, frame: CameraFrame, frames: int) -> Query:
    """A query of the whole chain: frames are decoded, then answered by the one task that is loaded.

    Args:
        runtime: with the task `TASK`.
        frame: sent `frames` times, and decoded each time.
        frames: of one query.

    Raises:
        EngineError: from the query, a frame that is degraded.
    """
    encoded = np.frombuffer(frame.data, np.uint8)

    def run() -> tuple[Outputs, Mapping[str, float]]:
        start = perf_counter()
        images = [_decoded(encoded, None) for _ in range(frames)]
        decode_ms = (perf_counter() - start) * 1e3
        if frames == 1:
            results = [runtime.infer(TASK, images[0])]
        else:
            results = runtime.infer_batch([(TASK, image) for image in images])
        degraded = next((result.degraded for result in results if result.degraded), "")
        if degraded:
            do = "check the precision of the engines"
            raise EngineError("chain", expected="finite outputs", got=f"NaN or Inf: {degraded}", do=do)
        outputs = {name: np.stack([getattr(result, name) for result in results]) for name in ("embedding", "scores")}
        stages = {"decode": decode_ms, **results[0].timings_ms}
        stages["total"] = stages.pop("total")  # the last, whatever stages the runtime has
        return outputs, {f"chain.{stage}": value for stage, value in stages.items()}

    return Query("chain.total", run)


def random_feeds(
    engine: Engine, frames: int, rng: np.random.Generator, size_hw: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """Random inputs as the engine's specs ask for them: normal floats, any byte, indices 0 or 1.

    Args:
        engine: Any engine.
        frames: Size of a free batch.
        rng: Source of the values.
        size_hw: Size (H, W) for pictures whose own is free.

    Raises:
        EngineError: a size other than the batch is free.
    """
    specs = _sized(engine, size_hw)
    return {name: _random(f"{engine.name}: {name}", spec, frames, rng) for name, spec in specs.items()}


def frame_bytes(engine: Engine, size_hw: tuple[int, int] | None = None) -> int:
    """Size in bytes of what the engine reads for one frame.

    Args:
        engine: Any engine.
        size_hw: Size (H, W) for pictures whose own is free.
    """
    total = 0
    for spec in _sized(engine, size_hw).values():
        sizes = spec.shape[1:] if spec.batched else spec.shape
        total += spec.dtype.itemsize * math.prod(size or 1 for size in sizes)
    return total


def _sized(engine: Engine, size_hw: tuple[int, int] | None) -> dict[str, TensorSpec]:
    if size_hw is None:
        return dict(engine.inputs)
    return {name: spec.with_size(size_hw) for name, spec in engine.inputs.items()}


def _decoded(encoded: np.ndarray, source: Path | None) -> np.ndarray:
    frame: np.ndarray | None = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if frame is None:
        raise DataError(
            str(source), expected="an image that OpenCV decodes", got="another one", do="give a JPEG or PNG"
        )
    return frame


def _fixed_batch(engine: Engine) -> int | None:
    """Frames of one call; None where the batch is free. Pictures decide where there are any."""
    specs = [spec for spec in engine.inputs.values() if spec.shape]
    pictures = [spec for spec in specs if len(spec.shape) > 2]
    sizes = [spec.frames for spec in pictures or specs]
    return None if None in sizes else max((size for size in sizes if size is not None), default=1)


def _random(subject: str, spec: TensorSpec, frames: int, rng: np.random.Generator) -> np.ndarray:
    if None in (spec.shape[1:] if spec.batched else spec.shape):
        picture = spec.with_size((1, 1))
        do = "export it with fixed sizes: the time depends on them"
        if picture != spec and None not in picture.shape[1:]:
            do = "name the size of its pictures, such as --size 224x224: the time depends on it"
        raise EngineError(
            subject, expected="an input whose sizes are fixed, but for the batch in front", got=str(spec), do=do
        )
    shape = tuple(frames if size is None else size for size in spec.shape)
    if spec.dtype.kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    return rng.integers(0, 256 if spec.dtype == np.uint8 else 2, shape).astype(spec.dtype)
