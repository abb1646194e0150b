"""What the benchmarks of swaps and of long runs claim is what they saw."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pgn_edge.bundle import read_bundle, write_bundle
from pgn_edge.errors import BundleError
from pgn_edge.runtime import Result, Runtime

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GIVEN = argparse.Namespace(seed=0, threads=1, rounds=2, alone=6, warmup=2, frames=60, swaps=12, samples=3)

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import a script of `benchmarks/` by its name, as the scripts import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def files(load: Load, tiny_pair: Any, tmp_path: Path) -> Any:
    """Two tasks with heads of their own, and a file that is no bundle."""
    bundle, rng = read_bundle(tiny_pair.task), np.random.default_rng(0)
    made = {}
    for name in ("first", "second"):
        order = rng.permutation(len(bundle.head.labels))
        head = replace(
            bundle.head,
            labels=tuple(f"{name} {label}" for label in bundle.head.labels),
            weight=bundle.head.weight[order],
        )
        golden = replace(bundle.golden, top1=head.logits(bundle.golden.embedding).argmax(axis=1))
        made[name] = tmp_path / f"{name}.pgn"
        write_bundle(made[name], replace(bundle, head=head, golden=golden))
    damaged = tmp_path / "damaged.pgn"
    damaged.write_bytes(made["first"].read_bytes()[:-100])
    return load("swap_files").Files(tiny_pair.vit, made, {"cut short": damaged})


def result(labels: str, embedding: float = 1.0, score: float = 0.75, **more: Any) -> Result:
    names = (f"{labels} cat", f"{labels} owl")
    scores = np.float32([score, 1 - score])
    return Result("task", names[0], score, scores, names, np.full(4, embedding, np.float32), None, {}, **more)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        pytest.param(result("first"), "first, bit for bit", id="of the first"),
        pytest.param(result("second", 2.0), "second, bit for bit", id="of the second"),
        pytest.param(result("second", 2.00001), "second, within 0.0001", id="rounded otherwise"),
        pytest.param(result("second", 1.0), "of neither bundle", id="head of one, PGN of the other"),
        pytest.param(result("first", 1.0, 0.7), "of neither bundle", id="other scores"),
        pytest.param(result("third"), "of neither bundle", id="a stranger"),
        pytest.param(result("first", degraded="canvas"), "of neither bundle", id="degraded"),
    ],
)
def test_every_answer_is_judged(load: Load, answer: Result, verdict: str):
    expected = {"first": result("first"), "second": result("second", 2.0)}
    assert load("swap_files").judge(answer, expected) == verdict


def test_pauses_are_told_apart(load: Load):
    report = load("swap_report")
    gaps = {report.ALONE: 10.0, report.BESIDE: 18.0, report.SWAPPING: 21.0}
    phases = {name: report.Phase(gap_ms=[gap_ms] * 5) for name, gap_ms in gaps.items()}
    phases[report.SWAPPING].change_ms.append(23.0)
    assert list(report.pauses(phases).values()) == pytest.approx([11.0, 0.0, 8.0, 3.0, 11.0, 2.0])


def test_swaps_under_frames_are_all_accounted_for(load: Load, files: Any):
    report, swap = load("swap_report"), load("swap")
    phases, swaps = swap.measure(files, 20, 1, GIVEN)
    measured = report.document_of(phases, swaps)
    assert json.loads(json.dumps(measured)) == measured
    assert (measured["swaps"], measured["refused"], measured["accepted"]) == (20, {"cut short": 2}, 0)
    assert len(measured["samples_ms"]["swap"]) == 20
    for frames in measured["frames"].values():
        assert frames["offered"] == frames["answered"] > 0
        assert frames["lost"] == 0
    answers = measured["frames"][report.SWAPPING]["answers"]
    assert {who.partition(",")[0] for who in answers} <= {"first", "second"}
    targets = {target.name.partition(": ")[2]: target for target in report.targets_of("tiny", measured)}
    assert targets["frames lost in 20 swaps"].met
    assert targets["answers of neither bundle"].met
    assert "**MISSED**" not in report.markdown({"targets": [], "models": {"tiny": measured}, "environment": {}}, "It.")


def test_a_frame_that_is_lost_or_answered_wrongly_misses_its_target(load: Load):
    report = load("swap_report")
    frames = {"alone": {"offered": 5, "answered": 4, "answers": {"first, bit for bit": 3, "of neither bundle": 1}}}
    measured = {"frames": frames, "pauses_ms": {"all": 5.5}, "swaps": 7, "accepted": 1}
    assert [(target.value, target.met) for target in report.targets_of("it", measured)] == [
        (5.5, False),
        (1, False),
        (1, False),
        (1, False),
    ]


def test_a_swap_that_fails_ends_the_measurement(load: Load, files: Any):
    swap = load("swap")
    broken = replace(files, bundles={**files.bundles, "second": files.damaged["cut short"]})
    with Runtime(files.vit, {"task": files.bundles["first"]}, threads=1) as runtime:
        swaps = load("swap_files").Swaps(runtime, broken, ("task",))
        with pytest.raises(BundleError, match="expected a zip of the members"):
            swap._beside(lambda: swaps.run(1), lambda alive: [None for _ in iter(alive, False)])


# The long run.


def test_a_long_run_accounts_for_every_frame(load: Load, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    soak, frames = load("soak"), load("soak_frames")
    monkeypatch.setattr(frames, "LARGE_HW", (96, 128))
    for name, every in (("GARBAGE_EVERY", 5), ("WHITE_EVERY", 3), ("LARGE_EVERY", 7)):
        monkeypatch.setattr(frames, name, every)
    fragile = frames.fragile_bundle(files.bundles["first"], tmp_path / "fragile.pgn")
    account, samples, swaps = soak.run(files, fragile, GIVEN)
    outcomes = account.outcomes
    assert outcomes["offered"] == outcomes["answered"] + outcomes["degraded"] + outcomes["refused"]
    assert outcomes["offered"] >= GIVEN.frames + GIVEN.warmup
    assert min(outcomes["degraded"], outcomes["refused"]) > 0
    assert (account.missing, account.surprises, swaps.accepted) == (0, 0, 0)
    assert swaps.done >= GIVEN.swaps
    assert len(samples.resident_mb) == len(samples.frames) >= GIVEN.samples
    assert samples.files[0] == samples.files[-1]
    assert soak.plot_png(samples.frames, samples.resident_mb).startswith(b"\x89PNG")
    named = {target.name: target for target in soak._targets(account, samples, swaps)}
    assert named["frames nobody can account for"].met


@pytest.mark.parametrize(
    ("outcomes", "missing"),
    [
        pytest.param({"offered": 5, "answered": 3, "degraded": 1, "refused": 1}, 0, id="balanced"),
        pytest.param({"offered": 5, "answered": 3}, 2, id="two went nowhere"),
    ],
)
def test_what_went_nowhere_is_missed(load: Load, outcomes: dict[str, int], missing: int):
    soak = load("soak")
    account = soak.Account()
    account.outcomes.update(outcomes)
    assert account.missing == missing


def test_growth_is_that_of_medians(load: Load):
    samples = load("soak").Samples(resident_mb=[100.0, 150.0, 101.0, *[120.0] * 14, 90.0, *[106.0] * 12])
    assert samples.growth_mb == pytest.approx(5.0)


# Cameras.


def test_the_picture_of_lost_cameras_has_both_ways(load: Load):
    cameras = load("cameras")
    seconds = {f"{way}, {what}": [0.1, 0.2] for what in cameras.SERIES for way in cameras.WAYS}
    assert cameras.plot_png(seconds).startswith(b"\x89PNG")
    with pytest.raises(KeyError, match="frozen"):
        cameras.plot_png({name: series for name, series in seconds.items() if not name.startswith("frozen")})
