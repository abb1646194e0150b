"""Entropy, usage and divergence against cases that are known by hand, and what a profile makes of few frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn_edge.mixtures import LEAST_STD, Profile, divergence, entropies, usage


def one_hot(*tokens: int, size: int = 4) -> np.ndarray:
    """(K, N): each prompt is one token."""
    return np.eye(size, dtype=np.float32)[list(tokens)]


def even(prompts: int = 2, size: int = 4) -> np.ndarray:
    return np.full((prompts, size), 1 / size, np.float32)


@pytest.mark.parametrize(
    ("mixtures", "expected"),
    [
        pytest.param(even(), 1, id="all tokens alike"),
        pytest.param(one_hot(0, 3), 0, id="one token each"),
        pytest.param(np.float32([[0.5, 0.5, 0, 0]] * 2), 0.5, id="two of four tokens are half the bits"),
        pytest.param(np.stack([even()[0], one_hot(1)[0]]), 0.5, id="the mean over the prompts"),
        pytest.param(np.ones((3, 1), np.float32), 0, id="a library of one token"),
    ],
)
def test_entropy_of_a_frame(mixtures: np.ndarray, expected: float):
    assert entropies(mixtures[None]) == pytest.approx([expected], abs=1e-7)


def test_usage_counts_prompts_of_all_frames():
    frames = np.stack([one_hot(0, 0), one_hot(0, 3)])
    assert usage(frames).tolist() == [0.75, 0, 0, 0.25]


SHARES = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any).map(lambda n: np.array(n) / sum(n))


@pytest.mark.parametrize(
    ("p", "q", "bits"),
    [
        pytest.param([1, 0], [0, 1], 1, id="nothing in common"),
        pytest.param([0.25, 0.75], [0.25, 0.75], 0, id="the same"),
        # By hand: half of log2(4/3) + 1/2 log2(2/3) + 1/2 log2(2).
        pytest.param([1, 0], [0.5, 0.5], 0.311278, id="half in common"),
    ],
)
def test_divergence(p: list[float], q: list[float], bits: float):
    assert divergence(np.array(p, float), np.array(q, float)) == pytest.approx(bits, abs=1e-6)


@given(SHARES, SHARES)
def test_divergence_has_no_direction_and_stays_within_a_bit(p: np.ndarray, q: np.ndarray):
    assert 0 <= divergence(p, q) == pytest.approx(divergence(q, p), abs=1e-12)
    assert divergence(p, q) <= 1


def test_a_profile_of_frames_that_are_alike_has_the_least_spread():
    profile = Profile.measure(np.stack([one_hot(0, 1)] * 6))
    assert profile == Profile(6, (0.5, 0.5, 0.0, 0.0), 0.0, LEAST_STD, 0.0)


def test_a_profile_says_how_far_apart_its_halves_are():
    # Two kinds of frames: a half of one kind alone is a bit away from the other, and most halves are mixed.
    kinds = [one_hot(0, 0), one_hot(1, 1)]
    profile = Profile.measure(np.stack(kinds * 8))
    assert profile.usage == (0.5, 0.5, 0, 0)
    assert 0 < profile.halves < 0.3
    assert Profile.measure(np.stack(kinds * 64)).halves < profile.halves, "more frames say more"
    assert Profile.measure(np.stack(kinds)).halves == 1


def test_a_profile_of_one_frame():
    profile = Profile.measure(even()[None])
    assert (profile.frames, profile.entropy_mean, profile.entropy_std, profile.halves) == (1, 1.0, LEAST_STD, 0.0)


def test_a_profile_is_the_same_after_json():
    mixtures = np.random.default_rng(0).dirichlet(np.ones(300), (20, 16)).astype(np.float32)
    profile = Profile.measure(mixtures)
    assert Profile.from_json(profile.to_json()) == profile
    assert sum(profile.usage) == pytest.approx(1, abs=1e-4)
    assert profile.entropy_mean == pytest.approx(entropies(mixtures).mean(), abs=1e-6)
