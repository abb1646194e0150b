"""Drift: moving means against sums written out, and a task that is shown other images than it was trained on."""

from __future__ import annotations

import dataclasses
import math
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import pgn_edge.nn.backbones
from pgn_edge.bundle import read_bundle
from pgn_edge.errors import PairingError
from pgn_edge.export.calibration import adversarial_images
from pgn_edge.export.task import export_task
from pgn_edge.mixtures import LEAST_STD, Profile, divergence, entropies, usage
from pgn_edge.nn.checkpoint import HeldOut, load_checkpoint, save_checkpoint
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.drift import WINDOW, Drift, Monitor
from pgn_edge.strangeness import Strangeness
from tests.conftest import TinyPair

PROFILE = Profile(32, (0.25,) * 4, 0.5, 0.1, 0.0)
EMBEDDING = np.ones(8, np.float32)


def mixtures(count: int, seed: int = 0, prompts: int = 3, size: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(size), (count, prompts)).astype(np.float32)


def fed(frames: np.ndarray, window: int = WINDOW, profile: Profile = PROFILE) -> Drift:
    monitor = Monitor(profile, frames.shape[1], window)
    for frame in frames:
        monitor.observe(frame, EMBEDDING, 0.9)
    drift = monitor.read()
    assert drift is not None
    return drift


def numbers(drift: Drift | None) -> tuple[float, ...]:
    """What is measured of the mixtures."""
    assert drift is not None
    return drift.frames, drift.entropy, drift.entropy_z, drift.usage_divergence


@pytest.mark.parametrize(
    ("frame", "entropy", "bits"),
    [
        pytest.param(np.full((3, 4), 0.25, np.float32), 1, 0, id="all tokens alike, as in the profile"),
        pytest.param(np.eye(4, dtype=np.float32)[[0, 0, 0]], 0, 0.548795, id="one token alone"),
    ],
)
def test_one_frame(frame: np.ndarray, entropy: float, bits: float):
    drift = fed(frame[None])
    assert numbers(drift) == pytest.approx((1, entropy, (entropy - 0.5) / 0.1, bits), abs=1e-4)


def test_a_library_that_shares_no_token_with_the_profile():
    profile = dataclasses.replace(PROFILE, usage=(0.0, 0.5, 0.5, 0.0))
    assert fed(np.eye(4, dtype=np.float32)[None, [0, 3, 0]], profile=profile).usage_divergence == pytest.approx(1)


@pytest.mark.parametrize(("count", "window"), [(1, 8), (5, 8), (40, 8), (3, 1), (20, 256)], ids=str)
def test_the_means_are_those_of_weights_that_fall(count: int, window: int):
    frames = mixtures(count)
    weights = ((window - 1) / (window + 1)) ** np.arange(count - 1, -1.0, -1)
    weights /= weights.sum()
    drift = fed(frames, window)
    assert drift.frames == count
    assert drift.entropy == pytest.approx(weights @ entropies(frames), abs=1e-6)
    expected = weights @ np.stack([usage(frame[None]) for frame in frames])
    assert drift.usage_divergence == pytest.approx(divergence(expected, np.full(4, 0.25)), abs=1e-6)


def test_a_window_is_as_steady_as_so_many_frames():
    # Variance of the mean against that of one frame: the sum of the squared weights.
    weights = ((WINDOW - 1) / (WINDOW + 1)) ** np.arange(20 * WINDOW)
    weights /= weights.sum()
    assert 1 / (weights**2).sum() == pytest.approx(WINDOW, rel=1e-3)


def test_what_is_long_ago_is_forgotten():
    quiet, other = np.eye(4, dtype=np.float32)[[0, 0, 0]], np.full((3, 4), 0.25, np.float32)
    drift = fed(np.stack([quiet] * 50 + [other] * 100), 10)
    assert drift.entropy == pytest.approx(1, abs=1e-6)


def test_nothing_was_seen_yet():
    assert Monitor(PROFILE, 3).read() is None


def test_a_library_of_one_token_does_not_drift():
    drift = fed(np.full((2, 3, 1), 0.9999999, np.float32), profile=Profile(1, (1.0,), 0.0, LEAST_STD, 0.0))
    assert numbers(drift) == (2, 0, 0, 0)


def test_a_frame_leaves_nothing_in_memory():
    frames = mixtures(8, prompts=16, size=256)
    monitor = Monitor(dataclasses.replace(PROFILE, usage=(1 / 256,) * 256), 16)
    monitor.observe(frames[0], EMBEDDING, 0.9)
    tracemalloc.start()
    try:
        for frame in frames:
            monitor.observe(frame, EMBEDDING, 0.9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < frames[0].nbytes / 4, "a frame has arrays of its own"


def test_reading_beside_the_frames_sees_whole_frames():
    # Two kinds of frames whose entropy and usage move together: a half-taken frame would show.
    kinds = np.stack([np.eye(4, dtype=np.float32)[[0, 0, 0]], np.full((3, 4), 0.25, np.float32)])
    monitor, done, seen = Monitor(PROFILE, 3, 4), threading.Event(), []

    def read() -> None:
        while not done.is_set():
            seen.append(monitor.read())

    thread = threading.Thread(target=read)
    thread.start()
    for index in range(3000):
        monitor.observe(kinds[index % 2], EMBEDDING, 0.9)
    done.set()
    thread.join()
    for drift in filter(None, seen):
        share = 1 - drift.entropy  # of the frames of one token alone
        expected = divergence(np.array([share + (1 - share) / 4, *[(1 - share) / 4] * 3]), np.full(4, 0.25))
        assert drift.usage_divergence == pytest.approx(expected, abs=1e-5)


# The alarm.


KNOWN = Strangeness.measure(
    np.random.default_rng(0).normal(1, 0.3, (64, 8)).astype(np.float32), np.linspace(0.6, 1, 64)
)
LIKE = np.ones(8, np.float32), 0.95
UNLIKE = -np.ones(8, np.float32), 0.3


def watched(frames: list[tuple[np.ndarray, float]], window: int = 64) -> Drift:
    monitor = Monitor(dataclasses.replace(PROFILE, strangeness=KNOWN), 3, window)
    for embedding, score in frames:
        monitor.observe(np.full((3, 4), 0.25, np.float32), embedding, score)
    drift = monitor.read()
    assert drift is not None
    return drift


def test_a_camera_that_is_covered_sets_off_the_alarm_and_a_clean_one_ends_it():
    covered = watched([LIKE] * 200 + [UNLIKE] * 48)
    assert (covered.strange, covered.alarm) == (0.75, True)
    clean = watched([LIKE] * 200 + [UNLIKE] * 48 + [LIKE] * 64)
    assert (clean.strange, clean.alarm) == (0, False)


def test_a_few_strange_frames_are_no_alarm():
    assert not watched([UNLIKE] * 4).alarm, "four frames cannot tell"
    assert watched([UNLIKE] * 4).alarm_share is None
    assert not watched([LIKE] * 60 + [UNLIKE] * 4).alarm


def test_a_bundle_without_held_out_images_has_no_alarm():
    monitor = Monitor(PROFILE, 3)
    for _ in range(300):
        monitor.observe(np.full((3, 4), 0.25, np.float32), *UNLIKE)
    drift = monitor.read()
    assert drift is not None
    assert (drift.strange, drift.alarm_share, drift.alarm) == (None, None, False)


# The demo's task: embeddings and scores of its frames in several scenes, as benchmarks/drift.py kept them.


def scenes() -> dict[str, tuple[bool, list[tuple[np.ndarray, float]]]]:
    """Frames by scene, and whether answers stay right there."""
    found = {}
    with np.load(Path(__file__).with_name("drift_frames.npz")) as kept:
        for number, (name, harmless) in enumerate(zip(kept["names"], kept["harmless"], strict=True)):
            embeddings = kept[f"embeddings_{number}"].astype(np.float32)
            frames = list(zip(embeddings, kept[f"scores_{number}"].tolist(), strict=True))
            found[str(name)] = bool(harmless), frames
    return found


@pytest.fixture(scope="module")
def trained() -> Strangeness:
    with np.load(Path(__file__).with_name("drift_frames.npz")) as kept:
        known = Strangeness.measure(kept["embeddings_held_out"].astype(np.float32), kept["scores_held_out"])
    assert known is not None
    return known


SCENES = scenes()


def test_night_black_frames_upside_down_and_another_data_set_are_among_the_scenes():
    harmful = {name for name, (harmless, _) in SCENES.items() if not harmless}
    assert {"night", "black", "upside down", "another data set (counts)"} <= harmful
    assert {"unchanged", "dusk"} <= SCENES.keys() - harmful


@pytest.mark.parametrize("scene", SCENES)
def test_the_alarm_sounds_where_answers_go_wrong_and_nowhere_else(trained: Strangeness, scene: str):
    """Unchanged, dark, black, turned, shifted, blurred and foreign frames of the demo's task, on which
    `entropy_z` stays between -1 and 1."""
    harmless, frames = SCENES[scene]
    monitor = Monitor(dataclasses.replace(PROFILE, strangeness=trained), 3)
    for embedding, score in frames:
        monitor.observe(np.full((3, 4), 0.25, np.float32), embedding, score)
    drift = monitor.read()
    assert drift is not None
    assert drift.alarm != harmless, drift


# A task, from its export to its frames.


@pytest.fixture(scope="module")
def decided(tiny_backbone, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny task with mixtures that depend on the image, as training makes them."""
    folder = tmp_path_factory.mktemp("decided")
    checkpoint = load_checkpoint(tiny_checkpoint)
    with torch.no_grad():
        checkpoint.pgn.generator.head.weight.mul_(60)
    save_checkpoint(folder / "decided.pt", checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pgn_edge.nn.backbones, "_load_builtin", lambda rest, weights: tiny_backbone)
        export_task(folder / "decided.pt", folder / "decided.pgn")
    return folder / "decided.pgn"


def shown(runtime: Runtime, images_rgb: np.ndarray) -> Drift:
    """The drift of the task `t`, new, after some images."""
    for image in images_rgb:
        runtime.infer("t", np.ascontiguousarray(image[:, :, ::-1]))
    drift = runtime.drift("t")
    assert drift is not None
    return drift


def test_other_images_than_those_of_the_training(tiny_pair: TinyPair, decided: Path, golden_images: np.ndarray):
    profile = read_bundle(decided).profile
    with Runtime(tiny_pair.vit, {"t": decided}) as runtime:
        assert runtime.drift("t") is None
        same = shown(runtime, golden_images)
        runtime.swap("t", decided)
        assert runtime.drift("t") is None, "a swap begins anew"
        others = shown(runtime, np.repeat(adversarial_images((64, 64)), 5, axis=0))
    assert (same.frames, others.frames) == (len(golden_images), 25)
    assert abs(same.entropy_z) < 0.5, "the very images of the profile, forgotten a little"
    assert same.usage_divergence < profile.halves
    assert abs(others.entropy_z) > 2 * abs(same.entropy_z)
    assert others.usage_divergence > max(profile.halves, 5 * same.usage_divergence)


def test_export_calibrates_on_held_out_images_and_on_golden_ones_if_there_are_no_others(
    tiny_pair: TinyPair, tiny_checkpoint: Path, use_tiny_backbone, golden_images: np.ndarray, tmp_path: Path
):
    assert read_bundle(tiny_pair.task).profile.strangeness.images == len(golden_images)
    rng = np.random.default_rng(0)
    embeddings, scores = rng.normal(5, 0.1, (40, 128)), rng.uniform(0.9, 1, 40)
    held_out = HeldOut(embeddings.astype(np.float32), scores.astype(np.float32))
    checkpoint = dataclasses.replace(load_checkpoint(tiny_checkpoint), held_out=held_out)
    save_checkpoint(tmp_path / "more.pt", checkpoint)
    export_task(tmp_path / "more.pt", tmp_path / "more.pgn")
    found = read_bundle(tmp_path / "more.pgn").profile.strangeness
    expected = Strangeness.measure(held_out.embeddings, held_out.scores)
    assert found.to_json() == expected.to_json()
    with Runtime(tiny_pair.vit, {"t": tmp_path / "more.pgn"}) as runtime:
        drift = shown(runtime, golden_images)
    assert drift.strange == 1, "no image is like these, and the untrained head is sure of nothing"
    assert drift.alarm


def test_each_task_of_a_batch_has_its_own(tiny_pair: TinyPair, decided: Path, golden_images: np.ndarray):
    with Runtime(tiny_pair.vit, {"t": decided, "u": tiny_pair.task}) as runtime:
        alone = shown(runtime, golden_images[:4])
        runtime.swap("t", decided)
        jobs = [(name, np.ascontiguousarray(image[:, :, ::-1])) for image in golden_images[:4] for name in "tu"]
        runtime.infer_batch(jobs)
        assert numbers(runtime.drift("t")) == pytest.approx(numbers(alone), abs=1e-4)
        assert runtime.drift("u").entropy > alone.entropy + 0.01
        assert runtime.drift("u").frames == 4
        with pytest.raises(PairingError, match="a loaded task"):
            runtime.drift("v")
    assert math.isfinite(alone.entropy_z)
