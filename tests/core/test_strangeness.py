"""Strangeness: ranks against held-out images, and an alarm whose rate of false alarms is the stated one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import betabinom

from pgn_edge.errors import BundleError
from pgn_edge.strangeness import LEAST_IMAGES, Strangeness, alarm_share, strange_rank

Sample = tuple[np.ndarray, np.ndarray]


def sample(count: int, seed: int, around: int = 4) -> Sample:
    """Embeddings (count, 8) around some directions, and scores that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    ways = np.eye(8)[:around] * 4
    embeddings = ways[rng.integers(0, around, count)] + rng.normal(0, 1, (count, 8))
    return embeddings.astype(np.float32), rng.beta(8, 2, count).astype(np.float32)


def strange_share(known: Strangeness, frames: Sample) -> float:
    return float(np.mean([known.of(*frame) > known.limit for frame in zip(*frames, strict=True)]))


def measured(count: int = 200, seed: int = 0) -> Strangeness:
    known = Strangeness.measure(*sample(count, seed))
    assert known is not None
    return known


def test_a_tenth_of_new_images_of_the_same_kind_is_strange():
    shares = [strange_share(measured(200, seed), sample(300, 100 + seed)) for seed in range(6)]
    assert np.mean(shares) == pytest.approx(0.1, abs=0.03)


def test_one_signal_alone_makes_a_frame_strange():
    """A dark picture lies near a centre, and a picture that is turned over keeps a high score."""
    embeddings, scores = sample(100, 1)
    assert strange_share(measured(), (embeddings, np.full(100, 0.2, np.float32))) > 0.95
    assert strange_share(measured(), (np.full((100, 8), -1, np.float32), scores)) > 0.95


def test_what_is_strange_by_both_signals_is_as_strange_as_can_be():
    known = measured()
    assert known.of(np.full(8, -1, np.float32), 0.01) == pytest.approx(1 - 1 / 201**2)
    assert known.of(4 * known.centres[0], 1.0) == pytest.approx(0)


@pytest.mark.parametrize(("frames", "images"), [(256, 300), (256, 32), (64, 512), (20, 100)], ids=str)
@pytest.mark.parametrize("rate", [1e-2, 1e-6])
def test_the_share_of_the_alarm_is_that_of_the_exact_distribution(frames: int, images: int, rate: float):
    k = strange_rank(images)
    tails = betabinom.sf(np.arange(frames + 1) - 1, frames, images - k + 1, k)
    allowed = np.flatnonzero(tails <= rate)
    expected = allowed[0] / frames if len(allowed) else (frames + 1) / frames
    assert alarm_share(frames, images, rate) == pytest.approx(expected)


def test_frames_like_the_held_out_images_set_off_no_more_alarms_than_stated():
    """A rate that can be counted: at most 5 % of windows, over many held-out sets and windows of new images."""
    frames, images, rate, alarms, windows = 40, 60, 0.05, 0, 0
    limit = alarm_share(frames, images, rate)
    for seed in range(40):
        known = measured(images, seed)
        for window in range(10):
            alarms += strange_share(known, sample(frames, 1000 + 10 * seed + window)) >= limit
            windows += 1
    # Three standard deviations above the stated rate; windows of one held-out set go together.
    assert alarms / windows <= rate + 3 * np.sqrt(rate * (1 - rate) / 40)


@pytest.mark.parametrize("frames", [1, 4])
def test_a_few_frames_cannot_set_off_the_alarm(frames: int):
    assert alarm_share(frames, 300) > 1


def test_fewer_images_need_a_larger_share():
    shares = [alarm_share(256, images) for images in (500, 100, 32)]
    assert shares == sorted(shares)
    assert shares[-1] < 0.55


def test_too_few_held_out_images_give_no_measure():
    assert Strangeness.measure(*sample(LEAST_IMAGES - 1, 0)) is None
    assert Strangeness.measure(*sample(LEAST_IMAGES, 0)) is not None


def test_what_a_manifest_holds_is_read_back():
    known = measured()
    again = Strangeness.from_json(known.to_json())
    for field in dataclasses.fields(Strangeness):
        assert np.array_equal(getattr(again, field.name), getattr(known, field.name)), field.name


def test_the_same_images_give_the_same_measure():
    assert measured().to_json() == measured().to_json()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        pytest.param({"centres": np.zeros((2, 8), np.float32)}, "centres", id="centres without a length"),
        pytest.param({"centres": np.full((2, 8), np.nan, np.float32)}, "centres", id="centres that are not finite"),
        pytest.param({"distances": np.arange(200.0)[::-1]}, "values", id="distances that fall"),
        pytest.param({"doubts": np.zeros(3, np.float32)}, "images", id="another number of doubts"),
        pytest.param({"distances": np.zeros(5000), "doubts": np.zeros(5000)}, "images", id="too many images"),
        pytest.param({"limit": 1.5}, "limit", id="a limit beyond 1"),
        pytest.param({"limit": float("nan")}, "limit", id="a limit that is not a number"),
    ],
)
def test_numbers_that_no_measurement_gives_are_refused(changes: dict, what: str):
    with pytest.raises(BundleError, match=f"strangeness: {what}"):
        dataclasses.replace(measured(), **changes)
