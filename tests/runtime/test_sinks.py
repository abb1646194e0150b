"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import OutputError
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import JsonlSink, Sink, VideoSink
from pgn_edge.runtime.sources import Frame

FACTS = EngineFacts(
    "vit", "builtin", "0" * 64, Geometry((64, 64), 8, 16), Preprocess((64, 64)), "fp32", 17, "embedding"
)
RESULT = Result(
    task="pets",
    label="owl",
    score=0.75,
    scores=np.float32([0.125, 0.75, 0.0625, 0.0625]),
    labels=("cat", "owl", "dog", "yak"),
    embedding=np.zeros(8, np.float32),
    canvas=np.zeros((3, 80, 64), np.float32),
    timings_ms={"vit": 1.23456, "total": 2.0},
)


def frame_at(index: int, size_hw: tuple[int, int] = (48, 64)) -> Frame:
    rng = np.random.default_rng(index)
    return Frame(index, f"clip.mp4#{index}", index / 10, rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8))


def write_frames(sink: Sink, count: int, error: BaseException | None = None) -> None:
    with sink:
        for index in range(count):
            sink.write(frame_at(index), [RESULT])
        if error is not None:
            raise error


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """Writes beyond `size_bytes` of any file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_video_holds_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path, FACTS, fps=10.0) as sink:
        for index in range(4):
            sink.write(frame_at(index), [RESULT])
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == 10.0
    assert sum(capture.read()[0] for _ in range(6)) == 4
    capture.release()


def test_video_of_images_of_many_sizes_and_two_tasks(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path, FACTS, fps=25.0) as sink:
        for index, size_hw in enumerate([(48, 64), (200, 30), (1, 1)]):
            sink.write(frame_at(index, size_hw), [RESULT, RESULT])
    capture = cv2.VideoCapture(str(path))
    shapes = [capture.read()[1].shape for _ in range(3)]
    capture.release()
    assert len(set(shapes)) == 1
    assert shapes[0][0] >= 2 * 384


def test_video_needs_an_mp4_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.mp4, got 'out\.avi'"):
        VideoSink(tmp_path / "out.avi", FACTS, fps=25.0)


def test_video_without_frames_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="video of 1 frames"), VideoSink(tmp_path / "o.mp4", FACTS, fps=25.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_video_on_a_full_disk_is_an_error_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "-8")
    with full_disk(20_000), pytest.raises(OutputError):
        write_frames(VideoSink(tmp_path / "o.mp4", FACTS, 25.0), 4)
    assert list(tmp_path.iterdir()) == []


def test_jsonl_has_a_line_for_each_frame_and_task(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonlSink(path) as sink:
        sink.write(frame_at(0), [RESULT, RESULT])
        sink.write(frame_at(1), [RESULT])
        assert not path.exists()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 3
    assert lines[2] == {
        "index": 1,
        "name": "clip.mp4#1",
        "time_s": 0.1,
        "task": "pets",
        "label": "owl",
        "score": 0.75,
        "top": [
            {"label": "owl", "score": 0.75},
            {"label": "cat", "score": 0.125},
            {"label": "dog", "score": 0.0625},
        ],
        "timings_ms": {"vit": 1.235, "total": 2.0},
    }


def test_jsonl_on_stdout_is_sent_line_by_line(capfd: pytest.CaptureFixture[str]) -> None:
    with JsonlSink("-") as sink:
        sink.write(frame_at(0), [RESULT])
        # Below Python's own buffers, as the reader of a pipe sees it.
        assert json.loads(capfd.readouterr().out)["label"] == "owl"


def test_jsonl_on_a_full_disk_is_an_error_and_no_file(tmp_path: Path) -> None:
    with full_disk(100), pytest.raises(OutputError):
        write_frames(JsonlSink(tmp_path / "out.jsonl"), 1)
    assert list(tmp_path.iterdir()) == []


def make_video(path: Path) -> Sink:
    return VideoSink(path.with_suffix(".mp4"), FACTS, fps=25.0)


@pytest.mark.parametrize("make", [make_video, JsonlSink], ids=["video", "jsonl"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError])
def test_abort_leaves_nothing_and_keeps_an_old_file(
    tmp_path: Path, make: Callable[[Path], Sink], kind: type[BaseException]
) -> None:
    for suffix in (".mp4", ".jsonl"):
        (tmp_path / f"out{suffix}").write_bytes(b"from an earlier run")
    with pytest.raises(kind):
        write_frames(make(tmp_path / "out.jsonl"), 1, kind())
    assert {file.name for file in tmp_path.iterdir()} == {"out.mp4", "out.jsonl"}
    assert all(file.read_bytes() == b"from an earlier run" for file in tmp_path.iterdir())


@pytest.mark.parametrize("make", [make_video, JsonlSink], ids=["video", "jsonl"])
@pytest.mark.parametrize("folder", ["missing", "file"])
def test_folder_that_cannot_be_written_fails_before_the_first_frame(
    tmp_path: Path, make: Callable[[Path], Sink], folder: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="a path that can be written"), make(tmp_path / folder / "out.jsonl"):
        pass
