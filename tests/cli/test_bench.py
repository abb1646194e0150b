"""`pgn-edge bench` as a user calls it: what it prints, writes and refuses, never how fast anything is."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_edge.runtime import bench_queries

QUICK = ("--warmup", 1, "--samples", 3, "--threads", 1, "--frame", "16x9")


def earlier(path: Path, factor: float, source: Path) -> Path:
    """A copy of a report whose samples are `factor` times as long."""
    document = json.loads(source.read_text())
    document["samples_ms"] = {
        name: [factor * value for value in values] for name, values in document["samples_ms"].items()
    }
    path.write_text(json.dumps(document))
    return path


def test_tables_of_a_whole_run(call, tiny_pair):
    files = ("--engine", tiny_pair.vit, "--engine", tiny_pair.vit, "--stock", tiny_pair.stock, "--task", tiny_pair.task)
    done = call("bench", *files, *QUICK, "--tasks", 7)
    assert done.exit_code == 0, done.output
    for expected in ("Latency", "Side by side", "Adaptation tax", "Three ways to 7 tasks", "Inside the timer", "vit.2"):
        assert expected in done.stdout
    assert "measured rounds: 3 of 3" in done.stderr


def test_an_engine_alone_says_what_was_not_measured(call, tiny_pair):
    done = call("bench", "--engine", tiny_pair.vit, *QUICK)
    assert "not measured: give --stock" in done.stdout
    assert "not measured: give --task" in done.stdout


def test_warm_up_by_default_says_how_it_ended(call, tiny_pair):
    done = call("bench", "--engine", tiny_pair.stock, "--samples", 1, "--threads", 1)
    assert "warm-up rounds at most: 10 of 200" in done.stderr
    assert "settled" in " ".join(done.stdout.split())


def test_json_on_stdout_and_nothing_else(call, tiny_pair):
    done = call("bench", "--engine", tiny_pair.vit, *QUICK, "--seed", 5, "--json")
    document = json.loads(done.stdout)
    assert len(document["samples_ms"]["vit"]) == 3
    assert (document["options"]["seed"], document["options"]["warmup"]) == (5, 1)
    assert document["options"]["frame_hw"] == [9, 16]


def test_every_output_holds_the_same_samples(call, tiny_pair, tmp_path: Path):
    pytest.importorskip("matplotlib")
    outputs = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "markdown", "html")}
    names = {"json": "--json-file"}
    options = [part for name, path in outputs.items() for part in (names.get(name, f"--{name}"), path)]
    done = call("bench", "--engine", tiny_pair.vit, "--task", tiny_pair.task, *QUICK, *options)
    assert done.exit_code == 0, done.output
    document = json.loads(outputs["json"].read_text())
    with open(outputs["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    totals = [float(row["ms"]) for row in rows if row["series"] == "chain.total"]
    assert totals == document["samples_ms"]["chain.total"]
    p50 = f"{document['stats_ms']['chain.total']['p50']:.3f}"
    assert f"| {p50} |" in outputs["markdown"].read_text()
    assert f'<td class="n">{p50}</td>' in outputs["html"].read_text()
    for path in outputs.values():
        assert str(path) in done.stdout


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        (("--scenario", "multi-stream", "--cameras", 2), 2),
        (("--scenario", "offline", "--batch", 3), 3),
        (("--scenario", "offline"), 8),
        ((), 1),
    ],
    ids=["cameras", "batch", "as many as MLPerf's multi-stream", "one by default"],
)
def test_scenarios(call, tiny_pair, options: tuple, frames: int):
    files = ("--engine", tiny_pair.vit, "--task", tiny_pair.task)
    document = json.loads(call("bench", *files, *QUICK, *options, "--json").stdout)
    assert document["options"]["frames"] == frames
    assert bool(document["frames_per_s"]) is ("offline" in options)


def test_a_duration_and_a_frame_of_its_own(call, tiny_pair, tmp_path: Path):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "frame.png")
    files = ("--engine", tiny_pair.vit, "--task", tiny_pair.task, "--frame", tmp_path / "frame.png")
    document = json.loads(call("bench", *files, "--duration", 0.05, "--warmup", 0, "--json").stdout)
    # The last round is let through before the time is up; a busy machine may take a while to begin it.
    assert all(start < 0.05 for start in document["starts_s"]["vit"][:-1])
    assert document["options"]["frame_hw"] == [20, 30]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frame", "640"), "WIDTHxHEIGHT"),
        (("--frame", "0x4"), "WIDTHxHEIGHT"),
        (("--frame", "640X480"), "WIDTHxHEIGHT"),
        (("--frame", "none.png"), "WIDTHxHEIGHT"),
        (("--samples", 0), "--samples"),
        (("--duration", 0), "--duration"),
        (("--samples", 2, "--duration", 2), "exclude each other"),
        (("--cameras", 2), "--cameras is for"),
        (("--batch", 2), "--batch is for"),
        (("--scenario", "offline", "--cameras", 2), "--cameras is for"),
        (("--scenario", "server"), "--scenario"),
        (("--fail-if-slower",), "needs --compare"),
        (("--frame", __file__), "needs --task"),
    ],
    ids=lambda value: " ".join(Path(str(part)).name for part in value) if isinstance(value, tuple) else "",
)
def test_wrong_usage(call, tiny_pair, options: tuple, message: str):
    done = call("bench", "--engine", tiny_pair.vit, *options)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize("option", ["--json-file", "--csv", "--markdown", "--html"])
def test_outputs_are_checked_before_the_engine_is_opened(refusal, tmp_path: Path, option: str):
    line = refusal("bench", "--engine", tmp_path / "none.onnx", option, tmp_path / "no" / "out")
    assert "a folder that exists" in line


@pytest.mark.parametrize("text", [None, "no JSON", '{"schema": 1}'], ids=["no file", "no JSON", "another version"])
def test_what_it_is_compared_with_is_checked_before_the_engine_is_opened(refusal, tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "before.json").write_text(text)
    line = refusal("bench", "--engine", tmp_path / "none.onnx", "--compare", tmp_path / "before.json")
    assert "before.json: expected a report" in line


def test_an_engine_that_is_not_there(refusal, tmp_path: Path):
    assert "none.onnx" in refusal("bench", "--engine", tmp_path / "none.onnx")


def test_slower_than_before(call, tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A clock of its own: on a busy machine samples drift together, count as few, and have no verdict.
    steps = np.random.default_rng(0)
    clock = itertools.accumulate(iter(lambda: steps.uniform(0.9e-3, 1.1e-3), None))
    monkeypatch.setattr(bench_queries, "perf_counter", lambda: next(clock))
    command = ("bench", "--engine", tiny_pair.stock, "--warmup", 5, "--samples", 30, "--threads", 1)
    assert call(*command, "--json-file", tmp_path / "now.json").exit_code == 0
    faster = earlier(tmp_path / "faster.json", 0.5, tmp_path / "now.json")
    slower = earlier(tmp_path / "slower.json", 2.0, tmp_path / "now.json")
    told, failed = (call(*command, "--compare", faster, *more) for more in ((), ("--fail-if-slower",)))
    passed = call(*command, "--compare", slower, "--fail-if-slower")
    assert (told.exit_code, failed.exit_code, passed.exit_code) == (0, 1, 0)
    assert "slower" in told.stdout
    assert failed.stderr.splitlines()[-1] == f"pgn-edge: slower than {faster}"
    assert "faster" in passed.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--scenario", "server"), "needs --qps or --bound-ms"),
        (("--qps", 5), "are for --scenario server"),
        (("--scenario", "server", "--qps", 0), "--qps"),
    ],
)
def test_wrong_usage_of_server(call, tiny_pair, options: tuple[object, ...], says: str):
    done = call("bench", "--engine", tiny_pair.vit, *options)
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_server_that_is_asked_at_a_rate(call, tiny_pair):
    done = call(
        *("bench", "--engine", tiny_pair.stock, "--scenario", "server", "--qps", 2000, "--samples", 662),
        *("--warmup", 0, "--threads", 1, "--json"),
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["server"]["vit"]["qps"] == 2000
