"""Library usage and the token gallery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pgn_edge.errors import DataError
from pgn_edge.nn.pgn import PgnConfig
from pgn_edge.train.analysis.features import Features
from pgn_edge.train.analysis.tokens import (
    gallery,
    library_usage,
    require_tokens,
    shown,
    token_pixels,
    usage_facts,
)
from pgn_edge.train.analysis.trained import Trained


@pytest.mark.parametrize(
    ("coefficients", "effective", "dead", "most", "entropy"),
    [
        pytest.param(np.full((3, 2, 4), 0.25), 4.0, 0, 0.25, 1.0, id="all alike"),
        pytest.param(np.tile(np.eye(4)[2], (3, 2, 1)), 1.0, 3, 1.0, 0.0, id="one alone"),
        pytest.param(np.eye(4)[[[0, 1]]], 2.0, 2, 0.5, 0.0, id="two, one in each prompt"),
    ],
)
def test_usage_by_hand(coefficients: np.ndarray, effective: float, dead: int, most: float, entropy: float):
    facts = usage_facts(coefficients)
    assert (facts["effective"], facts["dead"], facts["most_used"]) == (pytest.approx(effective), dead, most)
    assert facts["entropy"] == pytest.approx(entropy)


def test_usage_is_shown_for_each_data_set(trained: Trained, features: Features):
    section = library_usage(trained, [features, replace(features, data=replace(features.data, name="again"))])
    assert section.table is not None
    assert [row[0] for row in section.table[1]] == ["bars", "again"]
    assert [picture.name for picture in section.pictures] == ["library_usage"]


@pytest.mark.parametrize(
    ("config", "usage_too"),
    [
        pytest.param(PgnConfig("constant", 8, 8, 128, 16), True, id="constant prompts"),
        pytest.param(PgnConfig("mlp", 8, 0, 128, 16), True, id="no library"),
        pytest.param(PgnConfig("mlp", 8, 16, 128, 16, mixing="sigmoid"), False, id="sigmoid mixtures"),
    ],
)
def test_what_does_not_apply_is_left_out(
    other: Callable[[PgnConfig], Trained], features: Features, config: PgnConfig, usage_too: bool
):
    trained = other(config)
    left = library_usage(trained, [features])
    assert left.pictures == ()
    assert left.notes[0].startswith("Left out for this PGN")
    if usage_too:
        assert gallery(trained, [features]).pictures == ()


def test_the_gallery_names_the_tokens_that_are_used_most(trained: Trained, features: Features):
    planted = np.full((24, 16, 32), 0.01, np.float32)
    planted[:, :, 7], planted[:, 3, 20] = 0.5, 0.4
    section = gallery(trained, [replace(features, coefficients=planted)])
    assert section.facts["tokens"][:2] == [7, 20]
    assert section.facts["mean_coefficient"][:2] == pytest.approx([0.5, 0.01 + 0.39 / 16])
    assert len(section.facts["tokens"]) == 8


def test_a_row_shows_the_images_of_every_data_set_that_use_its_token_most(trained: Trained, features: Features):
    again = replace(features, data=replace(features.data, name="again"))
    planted = [np.full((24, 16, 32), 0.01, np.float32) for _ in range(2)]
    planted[0][:, :, 7], planted[1][:, :, 7] = 0.2, 0.1
    planted[0][5, 2, 7], planted[1][11, 9, 7] = 0.8, 0.9
    sets = [replace(features, coefficients=planted[0]), replace(again, coefficients=planted[1])]
    facts = gallery(trained, sets).facts
    assert facts["tokens"][0] == 7
    assert facts["images"][0][:2] == [["again", 11], ["bars", 5]]
    assert len(facts["images"][0]) == 7


def test_tokens_of_the_gallery_can_be_chosen(trained: Trained, features: Features):
    assert gallery(trained, [features], (30, 2)).facts["tokens"] == [30, 2]
    require_tokens(trained.checkpoint.pgn, (30, 2))


@pytest.mark.parametrize("chosen", [(32,), (-1,), (3, 3)], ids=["beyond the library", "negative", "twice"])
def test_tokens_that_are_not_in_the_library_are_refused(trained: Trained, chosen: tuple[int, ...]):
    with pytest.raises(DataError, match="different numbers from 0 to 31"):
        require_tokens(trained.checkpoint.pgn, chosen)


def test_a_pgn_without_a_library_has_no_tokens_to_choose(other: Callable[[PgnConfig], Trained]):
    pgn = other(PgnConfig("mlp", 8, 0, 128, 16)).checkpoint.pgn
    require_tokens(pgn, ())
    with pytest.raises(DataError, match="mixes no library"):
        require_tokens(pgn, (0,))


def test_a_library_smaller_than_the_gallery(other: Callable[[PgnConfig], Trained], features: Features):
    small = replace(features, coefficients=np.full((24, 8, 3), 1 / 3, np.float32))
    section = gallery(other(PgnConfig("mlp", 8, 3, 128, 16)), [small])
    assert section.facts["tokens"] == [0, 1, 2]


def test_pixels_of_a_token_give_the_token_again(trained: Trained):
    vit, pgn = trained.backbone.vit, trained.checkpoint.pgn
    pixels = token_pixels(vit, pgn)
    with torch.no_grad():
        again = vit.patch_embed(torch.from_numpy(pixels).float())
    assert again.flatten(1).numpy() == pytest.approx(pgn.entries().detach().numpy(), abs=1e-5)


def test_pixels_of_a_pixel_library_are_its_own(other: Callable[[PgnConfig], Trained]):
    trained = other(PgnConfig("mlp", 8, 4, 192, 16, space="pixel"))
    pixels = token_pixels(trained.backbone.vit, trained.checkpoint.pgn)
    assert pixels.reshape(4, -1) == pytest.approx(trained.checkpoint.pgn.entries().detach().numpy())
    picture = shown(pixels, trained.checkpoint.preprocess, stretch=False)
    levels = trained.checkpoint.preprocess.normalise(picture)
    assert np.abs(levels - pixels).max() <= 1 / 255 + 1e-6  # half a level, which is 2 / 255 wide


def test_stretched_patches_take_the_whole_range(trained: Trained):
    pixels = np.random.default_rng(0).normal(0, 5, (3, 3, 8, 8))
    picture = shown(pixels, trained.checkpoint.preprocess, stretch=True)
    assert picture.shape == (3, 8, 8, 3)
    assert picture.min(axis=(1, 2, 3)).tolist() == [0, 0, 0]
    assert picture.max(axis=(1, 2, 3)).tolist() == [255, 255, 255]
