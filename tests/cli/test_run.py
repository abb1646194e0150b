"""`pgn-edge run` and `pgn-edge predict`, as a user calls them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from pgn_edge.cli import cli
from pgn_edge.cli.run_plan import CameraPlan, RunPlan, SinkPlan
from pgn_edge.cli.run_report import print_summary
from pgn_edge.cli.run_sinks import make_sinks
from pgn_edge.errors import OutputError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.app import CameraSummary, Latency, RunSummary
from pgn_edge.runtime.events import EventLog
from pgn_edge.runtime.live import LiveSource
from pgn_edge.runtime.result import Result as AnswerResult
from pgn_edge.runtime.scheduler import BatchCounts
from pgn_edge.runtime.sinks import Sink, jsonl
from pgn_edge.runtime.sources import Frame, ImageSource
from tests.runtime.live.live_cameras import HttpCamera, free_port


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
    assert [json.loads(line)["sequence"] for line in done.stdout.splitlines()] == [0, 1, 2]
    assert "3 frames in" in done.stderr


def test_run_tells_of_missing_frames(tmp_path: Path, tiny_pair) -> None:
    path = write_clip(tmp_path / "clip.avi", 12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    command = ("run", "--source", path, "--vit", tiny_pair.vit, "--task", tiny_pair.task)
    done, strict = call(*command, "--json"), call(*command, "--strict")
    assert (done.exit_code, strict.exit_code) == (0, 1), done.output
    document = json.loads(done.stdout)
    missing = document["cameras"][str(path)]["missing"]
    assert 0 < document["missing_frames"] == missing["cut_short"] == 12 - document["frames"]
    said = f"pgn-edge: {path}: missing frames: {missing['cut_short']} ({missing['cut_short']} cut short at the end)"
    for result in (done, strict):
        assert result.stderr.strip().splitlines()[-1] == f"{said}; the first: clip.avi#{document['frames']}"


def test_run_answers_the_readable_images_of_a_folder(tmp_path: Path, tiny_pair) -> None:
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(folder / name), np.zeros((48, 64, 3), np.uint8))
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:40])
    (folder / "below").mkdir()
    (folder / ".b.png.part").write_bytes(b"")
    command = ("run", "--source", folder, "--vit", tiny_pair.vit, "--task", tiny_pair.task, "--jsonl")
    done, strict = call(*command, tmp_path / "out.jsonl"), call(*command, tmp_path / "strict.jsonl", "--strict")
    assert done.exit_code == 0, done.output
    assert [line["name"] for line in lines_of((tmp_path / "out.jsonl").read_text())] == ["a.png", "c.png"]
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"left out: 1 image that cannot be read ({folder / 'b.png'}: ")
    assert said.endswith(f"1 hidden or system file ({folder / '.b.png.part'})")
    assert f"1 folder that was not looked into ({folder / 'below'})" in said
    assert strict.exit_code == 1
    assert strict.stderr.splitlines()[-1].startswith(f"pgn-edge: {folder / 'b.png'}: expected")
    assert not (tmp_path / "strict.jsonl").exists()


def test_run_counts_photographs_that_it_does_not_read(tmp_path: Path, tiny_pair) -> None:
    folder = tmp_path / "phone"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((48, 64, 3), np.uint8))
    (folder / "b.HEIC").write_bytes(b"")
    command = ("run", "--source", folder, "--vit", tiny_pair.vit, "--task", tiny_pair.task, "--json")
    done, strict = call(*command), call(*command, "--strict")
    assert (done.exit_code, strict.exit_code) == (0, 1), done.output
    assert json.loads(done.stdout)["left_out"] == {"unsupported_format": {"count": 1, "first": str(folder / "b.HEIC")}}
    assert "b.HEIC: expected" in strict.stderr


def test_run_reads_12_bits_as_white_says(tmp_path: Path, tiny_pair) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (48, 64)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "x-ray.png"), values)
    cv2.imwrite(str(tmp_path / "same.png"), (values >> 4).astype(np.uint8))
    engines = ("--vit", tiny_pair.vit, "--task", tiny_pair.task, "--jsonl", "-")
    scores = []
    for name in ("x-ray.png", "same.png"):
        done = call("run", "--source", tmp_path / name, *engines, "--white", 4095)
        scores.append(json.loads(done.stdout.splitlines()[0])["score"])
    assert scores[0] == scores[1]
    refused = call("run", "--source", tmp_path / "x-ray.png", *engines)
    assert refused.exit_code == 1
    assert "--white 4095" in refused.stderr


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_in_mid_file_keeps_all_answers_so_far(tmp_path: Path, tiny_pair, number: signal.Signals) -> None:
    clip, out = write_clip(tmp_path / "long.mp4", 400), tmp_path / "out"
    out.mkdir()
    command = [
        sys.executable, "-m", "pgn_edge", "run", "--source", clip, "--vit", tiny_pair.vit, "--task", tiny_pair.task,
        "--output", out / "out.mp4", "--codec", "mp4v", "--jsonl", "-",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["sequence"] == 0
        assert len(list(out.iterdir())) == 1
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    frames = 1 + len(rest.splitlines())
    assert frames < 400
    said = f"pgn-edge: stopped by {number.name} after {frames} frames, whose answers are kept"
    assert errors.decode().splitlines()[-1] == said
    capture = cv2.VideoCapture(str(out / "out.mp4"))
    assert [file.name for file in out.iterdir()] == ["out.mp4"]
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == frames


def test_nohup_goes_on_after_its_terminal(tmp_path: Path, tiny_pair) -> None:
    clip = write_clip(tmp_path / "long.mp4", 60)
    command = [
        "nohup", sys.executable, "-m", "pgn_edge", "run", "--source", clip, "--vit", tiny_pair.vit,
        "--task", tiny_pair.task, "--jsonl", "-",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        rest, _ = process.communicate(timeout=60)
    assert (process.returncode, len(rest.splitlines())) == (0, 59)


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


# Several sources, and a config.


@pytest.fixture
def http() -> Iterator[HttpCamera]:
    camera = HttpCamera()
    yield camera
    camera.close()


def lines_of(text: str | bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_several_sources_have_names_of_their_own(clip: Path, tiny_pair) -> None:
    sources = ("--source", clip, "--source", f"door={clip}")
    done = call("run", *sources, "--vit", tiny_pair.vit, "--task", tiny_pair.task, "--jsonl", "-")
    assert done.exit_code == 0, done.output
    names = [line["name"] for line in lines_of(done.stdout)]
    assert sorted(names) == [f"{camera}#{index}" for camera in ("camera1", "door") for index in range(3)]
    assert "6 frames in" in done.stderr
    assert "Cameras" in done.stderr


def test_a_camera_that_fails_is_status_1_and_the_others_are_answered(clip: Path, tiny_pair, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    sources = ("--source", f"bad={tmp_path / 'bad'}", "--source", f"good={clip}")
    done = call("run", *sources, "--vit", tiny_pair.vit, "--task", tiny_pair.task, "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert {name: camera["frames"] for name, camera in document["cameras"].items()} == {"bad": 0, "good": 3}
    assert done.stderr.startswith("pgn-edge: bad: x.png: expected") or "x.png: expected" in done.stderr


def write_config(folder: Path, tiny_pair, cameras: str, more: str = "") -> Path:
    path = folder / "app.toml"
    tasks = f"[tasks]\na = '{tiny_pair.task}'\nb = '{tiny_pair.task_fp16}'\n"
    path.write_text(f"vit = '{tiny_pair.vit}'\nthreads = 1\n{tasks}{cameras}\n{more}")
    return path


def test_a_config_runs_cameras_through_their_own_tasks(clip: Path, tiny_pair, tmp_path: Path) -> None:
    cameras = "[cameras.x]\nsource = 'clip.mp4'\ntasks = ['b']\n[cameras.y]\nsource = 'clip.mp4'\n"
    more = "[batching]\nmax_batch = 3\n[sinks]\njsonl = 'out.jsonl'\n"
    done = call("run", "--config", write_config(tmp_path, tiny_pair, cameras, more), "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["batching"]["frames"] == 9
    lines = lines_of((tmp_path / "out.jsonl").read_text())
    assert {(line["name"], line["task"]) for line in lines} == {
        *((f"x#{index}", "b") for index in range(3)),
        *((f"y#{index}", task) for index in range(3) for task in "ab"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "app.toml", "--vit", "x", "--max-fps", "1"), "--config holds what --max-fps, --vit would say"),
        (("--source", "a", "--task", "t"), "Missing option '--vit'"),
        (("--vit", "v", "--task", "t"), "Missing option '--source'"),
        (("--source", "a", "--vit", "v"), "Missing option '--task'"),
        (("--source", "x=a", "--source", "x=b", "--vit", "v", "--task", "t"), "two sources of one name"),
        (("--source", "a", "--source", "b", "--vit", "v", "--task", "t", "--window"), "--window is for one"),
        (("--source", "a", "--source", "b", "--vit", "v", "--task", "t", "--output", "o.mp4"), "--output is for one"),
        (("--source", "a", "--vit", "v", "--task", "t", "--bundles", "."), "--bundles is for --web"),
        (("--source", "a", "--vit", "v", "--task", "t", "--web", "host:port"), "neither HOST, HOST:PORT nor PORT"),
    ],
    ids=[
        *("a config and options", "no engine", "no source", "no task", "one name twice", "a window of two"),
        *("a video of two", "bundles without a page", "no address"),
    ],
)
def test_wrong_usage_of_several_sources_is_status_2(arguments: tuple[str, ...], message: str) -> None:
    done = call("run", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_app_of_two_cameras_ends_with_a_signal_and_its_files_are_whole(
    http: HttpCamera, tiny_pair, tmp_path: Path, number: signal.Signals
) -> None:
    cameras = (
        f"[cameras.front]\nsource = '{http.url}?key=${{CAMERA_KEY}}'\n"
        f"[cameras.back]\nsource = '{http.url}'\ntasks = ['a']\nmax_fps = 20\n"
    )
    port = free_port()
    more = f"[sinks]\njsonl = 'out.jsonl'\n[metrics]\nlisten = '{port}'\n[web]\nlisten = '{free_port()}'\n"
    command = [sys.executable, "-m", "pgn_edge", "run", "--config", write_config(tmp_path, tiny_pair, cameras, more)]
    environment = {**os.environ, "CAMERA_KEY": "se-cret"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        try:
            text = eventually_scraped(port, 'frames_total{camera="front",task="b"}', 'frames_total{camera="back"')
            start = monotonic()
            child.send_signal(number)
            out, errors = child.communicate(timeout=60)
            elapsed_s = monotonic() - start
        finally:
            child.kill()
    assert child.returncode == 0, errors
    assert elapsed_s < 10  # 2 s and a frame, on a busy machine
    assert 'pgn_edge_reconnects_total{camera="front"} 0' in text
    assert "page at http://127.0.0.1:" in errors.decode()
    assert "frames in" in out.decode()
    lines = lines_of((tmp_path / "out.jsonl").read_text())
    cameras_seen = {line["name"].partition("#")[0] for line in lines}
    assert cameras_seen == {"front", "back"}
    assert "se-cret" not in (out + errors).decode() + (tmp_path / "out.jsonl").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.toml", "out.jsonl"]


def test_what_a_webhook_does_not_take_is_told_at_the_end_and_holds_nobody_up(http: HttpCamera, tiny_pair) -> None:
    files = ("--vit", str(tiny_pair.vit), "--task", f"a={tiny_pair.task}", "--threads", "1", "--jsonl", "-")
    nobody = f"http://127.0.0.1:{free_port()}/"
    command = [sys.executable, "-m", "pgn_edge", "run", "--source", f"x={http.url}", *files, "--webhook", nobody]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            names = [json.loads(child.stdout.readline())["name"] for _ in range(3)]
            start = monotonic()
            child.send_signal(signal.SIGTERM)
            errors = child.communicate(timeout=60)[1].decode()
            elapsed_s = monotonic() - start
        finally:
            child.kill()
    assert child.returncode == 0, errors
    assert all(name.startswith("x#") for name in names)
    assert "WebhookSink: " in errors
    assert elapsed_s < 5 + 1  # a webhook alone would wait 5 s and more


@pytest.mark.parametrize(("live", "on_error"), [(True, None), (False, "drop")], ids=["a camera", "files that may lose"])
def test_a_full_disk_does_not_stop_a_run_that_may_lose(
    tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool, on_error: str | None
) -> None:
    monkeypatch.setattr(jsonl, "_append", full)
    with jsonl_of(tiny_pair, tmp_path, live, on_error) as sink:
        sink.write(FRAME, [RESULT])
    assert sink.counts.lost == 1


@pytest.mark.parametrize(("live", "on_error"), [(True, "raise"), (False, None)], ids=["a camera if told so", "files"])
def test_a_full_disk_stops_a_run_that_must_be_whole(
    tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool, on_error: str | None
) -> None:
    monkeypatch.setattr(jsonl, "_append", full)
    with jsonl_of(tiny_pair, tmp_path, live, on_error) as sink, pytest.raises(OutputError, match="no room"):
        sink.write(FRAME, [RESULT])


FRAME = Frame(0, "x#0", 0.0, np.zeros((8, 8, 3), np.uint8))
RESULT = AnswerResult("a", "one", 1.0, np.ones(1, np.float32), ("one",), np.ones(4, np.float32), None, {})


def full(file: object, line: bytes) -> None:
    raise OutputError("disk", expected="room", got="no room", do="free some space")


@contextlib.contextmanager
def jsonl_of(tiny_pair, folder: Path, live: bool, on_error: str | None) -> Iterator[Sink]:
    """The JSONL sink of a plan, whose only source is a camera or a folder."""
    plan = RunPlan("vit.onnx", {}, (CameraPlan("x", ""),), sinks=SinkPlan(str(folder / "out.jsonl"), on_error=on_error))
    source = LiveSource(f"http://127.0.0.1:{free_port()}/") if live else ImageSource("folder", [])
    with source, Runtime(tiny_pair.vit) as runtime:
        (sink,) = make_sinks(plan, runtime, {"x": source}, EventLog()).values()
        with sink:
            yield sink


def test_the_summary_tells_of_every_loss(capsys: pytest.CaptureFixture[str]) -> None:
    summary = RunSummary(
        run="0123456789ab", frames=3, missing_frames=0, seconds=1.0, fps=3.0,
        counts={"a": {"one": 1}}, degraded={"a": 2}, latency_ms={"vit": Latency(1.0, 2.0)},
        cameras={
            "front": CameraSummary(3, 4, 5, 6, Latency(7.0, 8.0), ""),
            "back": CameraSummary(0, 0, 0, 0, None, "broken"),
        },
        lost={"MqttSink": 9}, batching=BatchCounts(2, 3, 1.5, 0, 4.0),
    )  # fmt: skip
    print_summary(summary)
    out = capsys.readouterr().out
    for told in ("100.0%", "2 degraded", "MqttSink: 9 lost", "2 passes of 1.5 frames", "waited at most 4.0 ms"):
        assert told in out
    front = next(line for line in out.splitlines() if "front" in line)
    assert [word for word in front.split() if word.replace(".", "").isdigit()] == ["3", "4", "5", "6", "7.0", "8.0"]


def eventually_scraped(port: int, *wanted: str) -> str:
    """The metrics once they hold these texts."""
    until_s, text = monotonic() + 60, ""
    while not all(one in text for one in wanted):
        assert monotonic() < until_s, text
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer,
        ):
            text = answer.read().decode()
        sleep(0.05)
    return text


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


@pytest.mark.parametrize("broken", ["torn.png", "missing.png"])
def test_predict_answers_the_good_images_beside_one_that_cannot_be_read(tiny_pair, tmp_path: Path, broken: str) -> None:
    for name in ("good.png", "torn.png", "good2.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    images = [tmp_path / name for name in ("good.png", broken, "good2.png")]
    engines = ("--vit", tiny_pair.vit, "--task", tiny_pair.task)
    done = call("predict", *images, *engines, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [Path(answer["image"]).name for answer in document["images"]] == ["good.png", "good2.png"]
    assert document["left_out"]["unreadable_image"]["count"] == 1
    assert f"left out: 1 image that cannot be read ({tmp_path / broken}: " in done.stderr
    strict = call("predict", *images, *engines, "--strict")
    assert strict.exit_code == 1
    assert broken in strict.stderr


@pytest.mark.parametrize("command", ["run", "predict"])
def test_help(command: str) -> None:
    done = call(command, "--help")
    assert done.exit_code == 0
    assert "--vit" in done.stdout


def test_ctrl_c_in_predict_prints_the_answers_so_far(
    tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [tmp_path / f"{name}.png" for name in "abc"]
    for image in images:
        cv2.imwrite(str(image), np.zeros((48, 64, 3), np.uint8))
    infer = Runtime.infer

    def interrupted(runtime: Runtime, task: str, frame_bgr: np.ndarray) -> AnswerResult:
        answered.append(task)
        if len(answered) == 3:
            raise KeyboardInterrupt
        return infer(runtime, task, frame_bgr)

    answered: list[str] = []
    monkeypatch.setattr(Runtime, "infer", interrupted)
    done = call("predict", *images, "--vit", tiny_pair.vit, "--task", tiny_pair.task, "--json")
    assert done.exit_code == 130
    assert [answer["image"] for answer in json.loads(done.stdout)["images"]] == [str(image) for image in images[:2]]
    assert done.stderr.splitlines()[-1] == "pgn-edge: interrupted"


def test_a_broker_has_its_user_tls_and_topic_on_the_command_line_and_its_password_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans: list[RunPlan] = []

    def refuse(plan: RunPlan, _left_out: object) -> None:
        plans.append(plan)
        raise OutputError("run", expected="x", got="y", do="z")

    monkeypatch.setattr("pgn_edge.cli.run.execute", refuse)
    monkeypatch.setenv("PGN_EDGE_MQTT_PASSWORD", "s3cret")
    files = ("run", "--source", "rtsp://cam/1", "--vit", "vit.onnx", "--task", "task.pgn")
    mqtt = ("--mqtt", "broker:8883", "--mqtt-user", "edge", "--mqtt-tls", "--mqtt-topic", "home/{camera}")
    live = ("--connect-s", "60", "--stall-s", "5", "--rtsp-transport", "udp")
    CliRunner().invoke(cli, [*files, *mqtt, *live])
    assert plans[0].sinks.mqtt == {
        **{"host": "broker", "port": 8883, "user": "edge", "password": "s3cret", "tls": True},
        "topic": "home/{camera}",
    }
    assert plans[0].cameras[0].live == {"connect_s": 60.0, "stall_s": 5.0, "rtsp_transport": "udp"}
    refused = CliRunner().invoke(cli, [*files, "--mqtt-user", "edge"])
    assert (refused.exit_code, "--mqtt-user is for --mqtt" in refused.output) == (2, True)
