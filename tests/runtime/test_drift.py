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
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.drift import WINDOW, Drift, Monitor
from tests.conftest import TinyPair

PROFILE = Profile(32, (0.25,) * 4, 0.5, 0.1, 0.0)


def mixtures(count: int, seed: int = 0, prompts: int = 3, size: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(size), (count, prompts)).astype(np.float32)


def fed(frames: np.ndarray, window: int = WINDOW, profile: Profile = PROFILE) -> Drift:
    monitor = Monitor(profile, frames.shape[1], window)
    for frame in frames:
        monitor.observe(frame)
    drift = monitor.read()
    assert drift is not None
    return drift


@pytest.mark.parametrize(
    ("frame", "entropy", "bits"),
    [
        pytest.param(np.full((3, 4), 0.25, np.float32), 1, 0, id="all tokens alike, as in the profile"),
        pytest.param(np.eye(4, dtype=np.float32)[[0, 0, 0]], 0, 0.548795, id="one token alone"),
    ],
)
def test_one_frame(frame: np.ndarray, entropy: float, bits: float):
    drift = fed(frame[None])
    assert dataclasses.astuple(drift) == pytest.approx((1, entropy, (entropy - 0.5) / 0.1, bits), abs=1e-4)


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
    assert dataclasses.astuple(drift) == (2, 0, 0, 0)


def test_a_frame_leaves_nothing_in_memory():
    frames = mixtures(8, prompts=16, size=256)
    monitor = Monitor(dataclasses.replace(PROFILE, usage=(1 / 256,) * 256), 16)
    monitor.observe(frames[0])
    tracemalloc.start()
    try:
        for frame in frames:
            monitor.observe(frame)
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
        monitor.observe(kinds[index % 2])
    done.set()
    thread.join()
    for drift in filter(None, seen):
        share = 1 - drift.entropy  # of the frames of one token alone
        expected = divergence(np.array([share + (1 - share) / 4, *[(1 - share) / 4] * 3]), np.full(4, 0.25))
        assert drift.usage_divergence == pytest.approx(expected, abs=1e-5)


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


def test_each_task_of_a_batch_has_its_own(tiny_pair: TinyPair, decided: Path, golden_images: np.ndarray):
    with Runtime(tiny_pair.vit, {"t": decided, "u": tiny_pair.task}) as runtime:
        alone = shown(runtime, golden_images[:4])
        runtime.swap("t", decided)
        jobs = [(name, np.ascontiguousarray(image[:, :, ::-1])) for image in golden_images[:4] for name in "tu"]
        runtime.infer_batch(jobs)
        assert dataclasses.astuple(runtime.drift("t")) == pytest.approx(dataclasses.astuple(alone), abs=1e-4)
        assert runtime.drift("u").entropy > alone.entropy + 0.01
        assert runtime.drift("u").frames == 4
        with pytest.raises(PairingError, match="a loaded task"):
            runtime.drift("v")
    assert math.isfinite(alone.entropy_z)
