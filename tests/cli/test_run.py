"""`pgn-edge run` and `pgn-edge predict`, as a user calls them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from pgn_edge.cli import cli


@pytest.fixture(autouse=True)
def quiet_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "-8")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", 3)


def write_clip(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_run_prints_a_summary_and_writes_both_files(clip: Path, tiny_pair, tmp_path: Path) -> None:
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    done = call(
        "run", "--source", clip, "--vit", tiny_pair.vit, "--task", tiny_pair.task,
        "--output", video, "--jsonl", lines, "--threads", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "3 frames in" in done.stdout
    assert "Latency" in done.stdout
    assert video.stat().st_size > 0
    assert len(lines.read_text().splitlines()) == 3


def test_run_json_is_one_document(clip: Path, tiny_pair) -> None:
    tasks = ("--task", tiny_pair.task, "--task", f"second={tiny_pair.task}")
    done = call("run", "--source", clip, "--vit", tiny_pair.vit, *tasks, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["frames"] == 3
    assert list(document["counts"]) == [tiny_pair.task.stem, "second"]


def test_run_jsonl_on_stdout_leaves_the_summary_to_stderr(clip: Path, tiny_pair) -> None:
    done = call("run", "--source", clip, "--vit", tiny_pair.vit, "--task", tiny_pair.task, "--jsonl", "-")
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == [0, 1, 2]
    assert "3 frames in" in done.stderr


def test_run_tells_of_missing_frames(tmp_path: Path, tiny_pair) -> None:
    path = write_clip(tmp_path / "clip.avi", 12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = call("run", "--source", path, "--vit", tiny_pair.vit, "--task", tiny_pair.task)
    assert done.exit_code == 0, done.output
    assert "of the 12 frames it states are missing" in done.stdout


def test_task_name_comes_before_an_equals_sign_but_not_from_a_folder(tmp_path: Path, clip: Path, tiny_pair) -> None:
    folder = tmp_path / "run=1"
    folder.mkdir()
    (folder / "pets.pgn").write_bytes(tiny_pair.task.read_bytes())
    done = call(
        "run", "--source", clip, "--vit", tiny_pair.vit, "--task", folder / "pets.pgn", "--json"
    )  # fmt: skip
    assert list(json.loads(done.stdout)["counts"]) == ["pets"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--jsonl", "-", "--json"), "both want stdout"),
        (("--task", "elsewhere/task.pgn"), "two tasks of one name"),
        (("--task", "=task.pgn"), "neither FILE nor NAME=FILE"),
        (("--output", "clip.mp4"), "different files"),
        (("--output", "same.mp4", "--jsonl", "same.mp4"), "different files"),
        (("--threads", "-1"), "--threads"),
    ],
    ids=["two documents on stdout", "one name twice", "no name", "onto the source", "two into one", "threads"],
)
def test_wrong_usage_is_status_2(extra: tuple[str, ...], message: str) -> None:
    done = call("run", "--source", "clip.mp4", "--vit", "vit.onnx", "--task", "task.pgn", *extra)
    assert done.exit_code == 2
    assert message in done.stderr


def test_bad_source_is_status_1_and_one_line(tiny_pair) -> None:
    done = call("run", "--source", "missing.mp4", "--vit", tiny_pair.vit, "--task", tiny_pair.task)
    assert done.exit_code == 1
    assert done.stderr.startswith("pgn-edge: missing.mp4: expected")
    assert len(done.stderr.splitlines()) == 1


def test_output_into_a_missing_folder_is_status_1(clip: Path, tiny_pair, tmp_path: Path) -> None:
    files = sorted(tmp_path.iterdir())
    output = tmp_path / "missing" / "out.mp4"
    done = call("run", "--source", clip, "--vit", tiny_pair.vit, "--task", tiny_pair.task, "--output", output)
    assert done.exit_code == 1
    assert "a path that can be written" in done.stderr
    assert sorted(tmp_path.iterdir()) == files


def test_sigterm_in_mid_run_leaves_no_file(tmp_path: Path, tiny_pair) -> None:
    clip, out = write_clip(tmp_path / "long.mp4", 400), tmp_path / "out"
    out.mkdir()
    command = [
        sys.executable, "-m", "pgn_edge", "run", "--source", clip, "--vit", tiny_pair.vit, "--task", tiny_pair.task,
        "--output", out / "out.mp4", "--jsonl", "-",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["index"] == 0
        assert len(list(out.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert list(out.iterdir()) == []


def test_closed_pipe_is_one_line_and_status_1(tmp_path: Path, tiny_pair) -> None:
    clip = write_clip(tmp_path / "long.mp4", 400)
    command = [
        sys.executable, "-m", "pgn_edge", "run", "--source", clip, "--vit", tiny_pair.vit, "--task", tiny_pair.task,
        "--jsonl", "-",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        messages = process.stderr.read().decode()
    assert process.returncode == 1
    assert "a closed pipe" in messages
    assert "Exception ignored" not in messages


def test_predict_prints_label_and_probabilities(clip: Path, tiny_pair, tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("x.png", "y.png")]
    for image in images:
        cv2.imwrite(str(image), np.zeros((20, 30, 3), np.uint8))
    table = call("predict", *images, "--vit", tiny_pair.vit, "--task", tiny_pair.task, "--top", 2)
    assert table.exit_code == 0, table.output
    assert table.stdout.count("%") == 4
    done = call("predict", *images, "--vit", tiny_pair.vit, "--task", tiny_pair.task, "--json")
    document = json.loads(done.stdout)
    assert document["task"] == tiny_pair.task.stem
    assert [answer["image"] for answer in document["images"]] == [str(image) for image in images]
    answer = document["images"][0]
    assert answer["top"][0] == {"label": answer["label"], "score": answer["score"]}
    assert len(answer["top"]) == 3


def test_predict_names_an_image_that_does_not_decode(tiny_pair, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    done = call("predict", tmp_path / "bad.png", "--vit", tiny_pair.vit, "--task", tiny_pair.task)
    assert done.exit_code == 1
    assert "bad.png: expected an image" in done.stderr


@pytest.mark.parametrize("command", ["run", "predict"])
def test_help(command: str) -> None:
    done = call(command, "--help")
    assert done.exit_code == 0
    assert "--vit" in done.stdout
