"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import OutputError
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import AnswerRecord, JsonlSink, Sink, VideoSink
from pgn_edge.runtime.sinks.base import OnError
from pgn_edge.runtime.sinks.video_track import Codec
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
    bundle="0123456789ab",
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


@pytest.mark.parametrize(
    ("name", "codec", "refusal"),
    [
        ("out.avi", "vp9", r"ends in \.mp4 or \.webm, got 'out\.avi'"),
        ("out.webm", "mp4v", r"the codec vp8 or vp9 in \.webm, got mp4v"),
        ("out.mp4", "h264", r"the codec vp9 or mp4v in \.mp4, got h264"),
    ],
)
def test_video_of_another_kind_is_refused(tmp_path: Path, name: str, codec: Codec, refusal: str) -> None:
    with pytest.raises(OutputError, match=refusal):
        VideoSink(tmp_path / name, FACTS, fps=25.0, codec=codec)


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
        sink.write(replace(frame_at(1), at_s=1772366401.5), [RESULT])
        assert not path.exists()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 3
    assert lines[2] == {
        "schema": 1,
        "run": frame_at(1).run,
        "at": "2026-03-01T12:00:01.500Z",
        "camera": "clip.mp4",
        "sequence": 1,
        "name": "clip.mp4#1",
        "time_s": 0.1,
        "task": "pets",
        "bundle": "0123456789ab",
        "label": "owl",
        "score": 0.75,
        "top": [
            {"label": "owl", "score": 0.75},
            {"label": "cat", "score": 0.125},
            {"label": "dog", "score": 0.0625},
        ],
        "degraded": None,
        "timings_ms": {"vit": 1.235, "total": 2.0},
    }


def test_a_degraded_frame_has_a_reason_and_no_label() -> None:
    bad = replace(RESULT, label="", score=0.0, scores=np.zeros(4, np.float32), degraded="embedding")
    line = AnswerRecord.of(frame_at(0), bad).to_json()
    assert {key: line[key] for key in ("label", "score", "top", "degraded")} == {
        "label": None,
        "score": 0.0,
        "top": [],
        "degraded": "embedding",
    }
    json.dumps(line, allow_nan=False)


def indices(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text().splitlines()]


def test_jsonl_that_is_appended_to_can_be_read_at_once_and_stays_after_an_abort(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for start in (0, 2):
        sink = JsonlSink(path, append=True)
        with suppress(KeyboardInterrupt), sink:
            for index in (start, start + 1):
                sink.write(frame_at(index), [RESULT])
                assert indices(path)[-1] == index
            raise KeyboardInterrupt
        assert (sink.counts.sent, sink.counts.lost) == (2, 0)
    assert indices(path) == [0, 1, 2, 3]


def test_jsonl_that_is_rotated_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path, rotated = tmp_path / "out.jsonl", tmp_path / "out.jsonl.1"
    with JsonlSink(path, append=True) as sink:
        sink.write(frame_at(0), [RESULT])
        path.rename(rotated)
        sink.write(frame_at(1), [RESULT])
        path.write_bytes(b"")  # logrotate's copytruncate
        sink.write(frame_at(2), [RESULT])
    assert (indices(rotated), indices(path)) == ([0], [2])
    assert sink.counts.sent == 3


def test_jsonl_leaves_half_a_line_of_before_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"index": 0}\n{"ind')
    with JsonlSink(path, append=True) as sink:
        sink.write(frame_at(1), [RESULT])
    first, half, second = path.read_text().splitlines()
    assert (first, half) == ('{"index": 0}', '{"ind')
    assert json.loads(second)["sequence"] == 1


def test_jsonl_that_is_appended_to_on_a_full_disk_holds_whole_lines(tiny_disk: Path) -> None:
    path, ballast = tiny_disk / "out.jsonl", tiny_disk / "ballast"
    with JsonlSink(path, on_error="drop", append=True) as sink:
        sink.write(frame_at(0), [RESULT])
        fill(ballast)
        for index in range(1, 60):
            sink.write(frame_at(index), [RESULT])
        ballast.unlink()
        sink.write(frame_at(60), [RESULT])
    assert indices(path)[-1] == 60
    assert len(indices(path)) == sink.counts.sent == 61 - sink.counts.lost


def test_jsonl_in_a_folder_that_is_away_for_a_while(tmp_path: Path) -> None:
    folder, away = tmp_path / "disk", tmp_path / "away"
    folder.mkdir()
    with JsonlSink(folder / "out.jsonl", on_error="drop", append=True) as sink:
        sink.write(frame_at(0), [RESULT])
        folder.rename(away)
        sink.write(frame_at(1), [RESULT])
        away.rename(folder)
        sink.write(frame_at(2), [RESULT])
    assert indices(folder / "out.jsonl") == [0, 2]
    assert (sink.counts.sent, sink.counts.lost) == (2, 1)


def test_jsonl_that_cannot_be_appended_to_fails_before_the_first_frame(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a file that can be written, got Is a directory"):
        JsonlSink(tmp_path, append=True).__enter__()


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


# What happens to a loop that goes on.


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root mounts a disk of 256 kB, and not in every container")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_jsonl_on_a_full_disk_that_is_freed_again_holds_whole_lines_and_counts_the_others(tiny_disk: Path) -> None:
    ballast = tiny_disk / "ballast"
    with JsonlSink(tiny_disk / "out.jsonl", on_error="drop") as sink:
        sink.write(frame_at(0), [RESULT])
        fill(ballast)
        for index in range(1, 60):
            sink.write(frame_at(index), [RESULT])
        ballast.unlink()
        sink.write(frame_at(60), [RESULT])
        counts = sink.counts
    kept = [json.loads(line)["sequence"] for line in (tiny_disk / "out.jsonl").read_text().splitlines()]
    assert 1 < len(kept) < 61, "the first page of the file was there before the disk was full"
    assert (kept[0], kept[-1]) == (0, 60)
    assert (counts.offered, counts.sent, counts.lost, counts.errors) == (61, len(kept), 61 - len(kept), 61 - len(kept))
    assert counts.last_error == "No space left on device"


def test_jsonl_on_a_disk_that_stays_full_ends_with_a_whole_line(tiny_disk: Path) -> None:
    with JsonlSink(tiny_disk / "out.jsonl", on_error="drop") as sink:
        for index in range(3000):
            sink.write(frame_at(index, (2, 2)), [RESULT])
    kept = [json.loads(line)["sequence"] for line in (tiny_disk / "out.jsonl").read_text().splitlines()]
    assert kept == list(range(sink.counts.sent))
    assert 0 < sink.counts.lost == 3000 - sink.counts.sent


def test_jsonl_on_a_full_disk_ends_the_run_where_nothing_else_was_said(tiny_disk: Path) -> None:
    sink = JsonlSink(tiny_disk / "out.jsonl")
    with pytest.raises(OutputError, match="a place to write to, got No space left on device; free some space"):
        write_frames(sink, 2000)
    assert list(tiny_disk.iterdir()) == []
    assert (sink.counts.sent, sink.counts.waiting) == (0, 0)
    assert sink.counts.lost == sink.counts.offered


@pytest.mark.parametrize("on_error", ["raise", "drop"])
def test_video_without_room_on_its_disk(tiny_disk: Path, on_error: OnError) -> None:
    sink = VideoSink(tiny_disk / "o.mp4", FACTS, 25.0, on_error)
    if on_error == "raise":
        with pytest.raises(OutputError, match=r"room on the disk, got \d+ bytes free; free some space"):
            write_frames(sink, 3)
    else:
        write_frames(sink, 3)
    assert list(tiny_disk.iterdir()) == []
    offered = 1 if on_error == "raise" else 3
    assert (sink.counts.offered, sink.counts.sent, sink.counts.lost) == (offered, 0, offered)


def test_video_whose_file_does_not_open_is_lost_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "-8")
    sink = VideoSink(tmp_path / "o.mp4", FACTS, 25.0, "drop")
    with full_disk(20_000):
        write_frames(sink, 4)
    assert list(tmp_path.iterdir()) == []
    assert (sink.counts.offered, sink.counts.sent, sink.counts.lost) == (4, 0, 4)
    assert sink.counts.last_error


def test_what_is_kept_is_sent_and_what_an_abort_removes_is_lost(tmp_path: Path) -> None:
    kept, removed = make_video(tmp_path / "kept"), make_video(tmp_path / "removed")
    write_frames(kept, 2)
    with pytest.raises(KeyboardInterrupt):
        write_frames(removed, 2, KeyboardInterrupt())
    assert [(sink.counts.sent, sink.counts.lost) for sink in (kept, removed)] == [(2, 0), (0, 2)]


STDOUT = """
import sys, numpy as np
from pgn_edge.errors import OutputError
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import JsonlSink
from pgn_edge.runtime.sources import Frame
result = Result("pets", "owl", 1.0, np.ones(1, np.float32), ("owl",), np.zeros(8), None, {})
with JsonlSink("-", on_error=sys.argv[1]) as sink:
    try:
        for index in range(3):
            sink.write(Frame(index, "a.png", 0.0, np.zeros((4, 4, 3), np.uint8)), [result])
    except OutputError as exc:
        print(exc, file=sys.stderr)
counts = sink.counts
print(counts.offered, counts.sent, counts.lost, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("on_error", "said"),
    [
        ("raise", ["jsonl -: expected {expected}, got {got}; {do}", "1 0 1"]),
        ("drop", ["3 0 3"]),
    ],
)
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/dev/full", ("a place to write to", "No space left on device", "free some space")),
        ("a closed pipe", ("a reader of stdout", "a closed pipe", "keep the reader running")),
    ],
)
def test_stdout_that_takes_nothing(place: str, words: tuple[str, str, str], on_error: str, said: list[str]) -> None:
    if place == "/dev/full":
        target = os.open(place, os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    child = subprocess.run(
        [sys.executable, "-c", STDOUT, on_error], stdout=target, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(target)
    expected, got, do = words
    assert child.stderr.splitlines() == [line.format(expected=expected, got=got, do=do) for line in said]
    assert child.returncode == 0


def test_another_way_with_errors_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(OutputError, match="on_error raise or drop, got 'ignore'")
    with refused:
        VideoSink(tmp_path / "out.mp4", FACTS, 25.0, "ignore")  # type: ignore[arg-type]
    with refused:
        JsonlSink(tmp_path / "out.jsonl", "ignore")  # type: ignore[arg-type]
