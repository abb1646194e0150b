"""Prompt inversion against algebra: what the frozen projection makes of the pixels is the token that was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn_edge.errors import InversionError
from pgn_edge.export.certificate import CONDITION_LIMIT, RESIDUAL_LIMIT, certify
from pgn_edge.export.inversion import (
    Inversion,
    Projection,
    adopt_pixels,
    choose_ridge,
    float32_tokens,
    invert_library,
    relative_error,
)
from pgn_edge.preprocess import Preprocess

PREPROCESS = Preprocess((8, 8), mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 0.2))


class Case(NamedTuple):
    """A patch projection, a library and the slots they are for.

    Args:
        weight: W (d, 3P²).
        bias: b (d,).
        library: T (N, d).
        slots: E (K, d).
        mixtures: c (K, N).
    """

    weight: np.ndarray
    bias: np.ndarray
    library: np.ndarray
    slots: np.ndarray
    mixtures: np.ndarray

    @property
    def projection(self) -> Projection:
        return Projection(self.weight, self.bias, self.slots)

    @property
    def inverted(self) -> Inversion:
        return invert_library(self.projection, self.library)

    @property
    def pixels(self) -> np.ndarray:
        """What is put into the slots, (K, 3P²)."""
        return self.inverted.patches(self.mixtures)

    @property
    def wanted(self) -> np.ndarray:
        """What W must make of it, (K, d): h - b - E."""
        return self.mixtures @ self.library - self.bias - self.slots


def make(
    patch: int = 4, width: int = 40, prompts: int = 5, count: int = 7, *, condition: float = 10.0, slots: str = "own"
) -> Case:
    """Random W of a given conditioning; the seed follows from the arguments."""
    rng = np.random.default_rng([patch, width, prompts, count])
    inputs = 3 * patch * patch
    rank = min(width, inputs)
    left, _ = np.linalg.qr(rng.standard_normal((width, rank)))
    right, _ = np.linalg.qr(rng.standard_normal((inputs, rank)))
    weight = (left * np.geomspace(1, 1 / condition, rank)) @ right.T
    scale = {"zero": 0.0, "shared": 1.0, "own": 1.0}[slots]
    position = scale * rng.standard_normal((1 if slots == "shared" else prompts, width))
    mixtures = rng.dirichlet(np.ones(count), prompts)
    return Case(
        weight,
        rng.standard_normal(width),
        rng.standard_normal((count, width)),
        np.broadcast_to(position, (prompts, width)),
        mixtures,
    )


@st.composite
def cases(draw: st.DrawFn) -> Callable[[str], Case]:
    """Any sizes and conditioning; each test asks for every kind of slot, so that none is left to chance."""
    patch = draw(st.integers(1, 6))
    width = draw(st.integers(1, 3 * patch * patch))
    prompts, count = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    condition = 10 ** draw(st.floats(0, 4))
    return lambda slots: make(patch, width, prompts, count, condition=condition, slots=slots)


for_all_cases = pytest.mark.parametrize("slots", ["zero", "shared", "own"])


@for_all_cases
@given(drawn=cases())
def test_project_then_invert_is_the_identity(slots: str, drawn: Callable[[str], Case]):
    case = drawn(slots)
    given_tokens = case.pixels @ case.weight.T
    error = np.linalg.norm(given_tokens - case.wanted, axis=1) / np.linalg.norm(case.wanted, axis=1)
    assert error.max() <= 1e-9


@for_all_cases
@given(drawn=cases())
def test_the_pixels_are_the_smallest_ones_that_do_it(slots: str, drawn: Callable[[str], Case]):
    # An independent oracle: LAPACK's least squares finds the solution of minimal norm.
    case = drawn(slots)
    oracle = np.linalg.lstsq(case.weight, case.wanted.T, rcond=None)[0].T
    np.testing.assert_allclose(case.pixels, oracle, rtol=0, atol=1e-9 * np.abs(oracle).max())


@for_all_cases
@given(drawn=cases())
def test_the_certificate_accepts_what_is_exact(slots: str, drawn: Callable[[str], Case]):
    case = drawn(slots)
    inversion = case.inverted
    assert inversion.rank == inversion.width == len(case.bias)
    assert inversion.residual <= 1e-9
    certificate = certify(inversion, case.mixtures[None], PREPROCESS)
    assert certificate.condition == pytest.approx(np.linalg.cond(case.weight), rel=1e-6)
    if certificate.condition <= CONDITION_LIMIT:
        certificate.check()


@for_all_cases
@given(drawn=cases())
def test_no_mixture_leaves_the_stated_range(slots: str, drawn: Callable[[str], Case]):
    case = drawn(slots)
    certificate = certify(case.inverted, case.mixtures[None], PREPROCESS)
    assert certificate.pixel_min <= case.pixels.min() + 1e-12
    assert certificate.pixel_max >= case.pixels.max() - 1e-12


@for_all_cases
@given(drawn=cases())
def test_share_of_illegal_pixels_by_hand(slots: str, drawn: Callable[[str], Case]):
    case = drawn(slots)
    legal = np.array([0.0, 255.0]).reshape(2, 1) / 255
    low, high = ((legal - PREPROCESS.mean) / PREPROCESS.std)[:, :, None]
    pixels = case.pixels.reshape(len(case.pixels), 3, -1)
    by_hand = ((pixels < low - 1e-6) | (pixels > high + 1e-6)).mean()
    certificate = certify(case.inverted, case.mixtures[None], PREPROCESS)
    assert certificate.share_illegal == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize(
    ("slots", "folds"),
    [("zero", True), ("shared", True), ("own", False)],
    ids=["append: zero in every slot", "one position for all", "inset: the table's own rows"],
)
def test_the_offset_folds_where_it_can(slots: str, folds: bool):
    assert (make(slots=slots).inverted.offset is None) is folds


def refuse(case: Case) -> str:
    certificate = certify(case.inverted, case.mixtures[None], PREPROCESS)
    with pytest.raises(InversionError) as caught:
        certificate.check()
    return str(caught.value)


def test_rank_deficient_is_refused():
    case = make()
    weight = case.weight.copy()
    weight[-1] = weight[0] + weight[1]
    assert "rank 39" in refuse(case._replace(weight=weight))


@pytest.mark.parametrize(
    ("patch", "width"), [(4, 49), (2, 64), (7, 256)], ids=["one too wide", "wide", "as wide as L/14, in small"]
)
def test_wider_tokens_than_patches_are_refused(patch: int, width: int):
    assert f"rank {3 * patch * patch}" in refuse(make(patch, width, 2, 3))


def test_ill_conditioned_is_refused():
    assert "condition at most 10000" in refuse(make(condition=1.1 * CONDITION_LIMIT))


def test_conditioning_at_the_limit_is_accepted():
    case = make(condition=0.99 * CONDITION_LIMIT)
    certify(case.inverted, case.mixtures[None], PREPROCESS).check()


def test_no_projection_at_all_is_refused():
    case = make()
    assert "rank 0" in refuse(case._replace(weight=np.zeros_like(case.weight)))


@pytest.mark.parametrize("sign", [1, -1], ids=["upwards", "downwards"])
def test_fp16_overflow_is_stated(sign: int):
    case = make(prompts=1, count=1, slots="zero")
    far = case._replace(library=sign * 1e6 * np.abs(case.library))
    assert certify(far.inverted, far.mixtures[None], PREPROCESS).fp16_overflow
    assert not certify(case.inverted, case.mixtures[None], PREPROCESS).fp16_overflow


def test_nan_in_the_library_is_refused():
    case = make()
    library = case.library.copy()
    library[2, 3] = np.nan
    refuse(case._replace(library=library))


def test_the_certificate_is_json_with_its_limits():
    case = make()
    certificate = certify(case.inverted, case.mixtures[None], PREPROCESS)
    data = json.loads(json.dumps(certificate.to_json()))
    assert (data["rank"], data["width"]) == (40, 40)
    assert (data["residual_limit"], data["condition_limit"]) == (RESIDUAL_LIMIT, CONDITION_LIMIT)


def test_inputs_of_float32_are_computed_in_float64():
    case = make()
    weight, bias, library, slots = (array.astype(np.float32) for array in case[:4])
    inversion = invert_library(Projection(weight, bias, slots), library)
    assert inversion.pixels.dtype == np.float64
    assert inversion.residual < 1e-12


# Ridge: for projections that the pseudo-inverse cannot serve.


@for_all_cases
@given(drawn=cases(), exponent=st.floats(-12, 0))
def test_ridge_solves_the_normal_equations(slots: str, drawn: Callable[[str], Case], exponent: float):
    case = drawn(slots)
    inversion = invert_library(case.projection, case.library, 10**exponent)
    gram = case.weight @ case.weight.T
    damped = gram + 10**exponent * np.linalg.eigvalsh(gram)[-1] * np.eye(len(gram))
    wanted = np.linalg.solve(damped, case.wanted.T).T @ case.weight
    np.testing.assert_allclose(inversion.patches(case.mixtures), wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def token_error(case: Case, inversion: Inversion) -> float:
    tokens = case.mixtures @ case.library
    return relative_error(tokens, float32_tokens(case.projection, inversion.patches(case.mixtures)))


@pytest.mark.parametrize("condition", [1e5, 1e7, 1e9])
def test_ridge_beats_the_pseudo_inverse_where_float32_drowns(condition: float):
    case = make(width=48, condition=condition)
    chosen = choose_ridge(case.projection, case.library, case.mixtures[None])
    assert chosen.ridge is not None
    assert 0 < chosen.ridge < 1
    assert np.abs(chosen.pixels).max() < np.abs(case.inverted.pixels).max()
    assert token_error(case, chosen) < token_error(case, case.inverted)
    certificate = certify(chosen, case.mixtures[None], PREPROCESS)
    assert certificate.ridge == chosen.ridge
    certificate.check()


def test_no_ridge_is_chosen_that_makes_things_worse():
    case = make(condition=2.0)
    assert token_error(case, choose_ridge(case.projection, case.library, case.mixtures[None])) < 1e-6


def test_a_refusal_names_both_ways_out():
    message = refuse(make(condition=1.1 * CONDITION_LIMIT))
    assert "--ridge" in message
    assert "--library-space pixel" in message


# A library that was learned as pixels.


@for_all_cases
@given(drawn=cases())
def test_pixels_are_adopted_as_they_are(slots: str, drawn: Callable[[str], Case]):
    case = drawn(slots)
    legal = np.random.default_rng(0).uniform(-1, 1, (case.library.shape[0], case.weight.shape[1]))
    inversion = adopt_pixels(case.projection, legal)
    np.testing.assert_array_equal(inversion.patches(case.mixtures), case.mixtures @ legal)
    assert inversion.offset is None
    assert inversion.residual == 0


def pixel_library(case: Case, spread: float) -> np.ndarray:
    """(N, 3P²) normalised pixels: 127.5 and as far around it as `spread`, where 1 reaches 0 and 255."""
    low, high = (np.repeat(side, case.weight.shape[1] // 3) for side in PREPROCESS.legal())
    shares = np.random.default_rng(1).uniform(-1, 1, (len(case.library), case.weight.shape[1]))
    return (low + high) / 2 + spread * np.sign(shares) * (high - low) / 2


@pytest.mark.parametrize("width", [40, 49, 64], ids=["narrow", "one too wide", "wide, as L/14"])
def test_legal_pixels_are_certified_for_every_width(width: int):
    case = make(width=width)
    certificate = certify(adopt_pixels(case.projection, pixel_library(case, 1.0)), case.mixtures[None], PREPROCESS)
    assert (certificate.library_space, certificate.proven_legal, certificate.share_illegal) == ("pixel", True, 0)
    certificate.check()
    json.loads(json.dumps(certificate.to_json()), parse_constant=pytest.fail)


def test_pixels_beyond_the_legal_are_refused():
    case = make()
    certificate = certify(adopt_pixels(case.projection, pixel_library(case, 1.01)), case.mixtures[None], PREPROCESS)
    with pytest.raises(InversionError, match="legal RGB"):
        certificate.check()


def test_a_token_wider_than_its_patch_has_no_smallest_singular_value():
    case = make(width=64)
    certificate = certify(case.inverted, case.mixtures[None], PREPROCESS)
    assert (certificate.rank, certificate.sigma_min) == (48, 0)
    assert certificate.to_json()["condition"] is None
