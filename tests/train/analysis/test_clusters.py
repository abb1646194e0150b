"""Agreement of clusters, and the map."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from pgn_edge.train.analysis.clusters import agreement, clusters, maps, spaces_of, tsne
from pgn_edge.train.analysis.features import Features

LABELS = np.arange(30) % 3


def blobs(seed: int, labels: np.ndarray = LABELS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 10 * np.eye(4)[labels] + rng.normal(0, 0.1, (len(labels), 4))


def test_clusters_that_are_the_classes_agree_wholly_and_chance_hardly():
    shuffled = np.random.default_rng(1).permutation(LABELS)
    found = agreement({"same": blobs(0), "other": blobs(0, shuffled)}, LABELS)
    assert found["same | labels"] == pytest.approx(1)
    assert found["other | labels"] < 0.3
    assert found["same | other"] == pytest.approx(found["other | labels"])
    assert list(found) == ["same | labels", "other | labels", "same | other"]


def test_each_space_is_the_one_that_its_name_says(features: Features):
    spaces = spaces_of(features)
    assert features.coefficients is not None
    assert (spaces["PGN mixtures"] == features.coefficients.reshape(24, -1)).all()
    assert (spaces["PGN prompts"] == features.prompts.reshape(24, -1)).all()
    for name, embedding in (("frozen ViT", features.frozen), ("PGN + ViT", features.prompted)):
        length = np.linalg.norm(embedding, axis=1, keepdims=True)
        assert spaces[name] == pytest.approx(embedding / length, abs=1e-6)


def test_features_that_are_all_alike_say_nothing():
    assert agreement({"flat": np.ones((30, 4))}, LABELS)["flat | labels"] == 0


def test_four_spaces_make_ten_pairs(features: Features):
    section = clusters([features])
    assert section.table is not None
    pairs = [row[1:3] for row in section.table[1]]
    spaces = ["PGN mixtures", "PGN prompts", "frozen ViT", "PGN + ViT"]
    assert pairs == [(name, "labels") for name in spaces] + list(combinations(spaces, 2))
    value = section.facts["bars"]["PGN mixtures | labels"]
    assert value * 100 == pytest.approx(float(section.table[1][0][3]), abs=0.06)


def test_the_paper_clusters_prompts_and_the_page_says_which_row_is_which(features: Features):
    """Prompts that follow the class and mixtures that do not must end in different rows."""
    by_class = np.repeat(features.labels, 16 * 128).reshape(24, 16, 128).astype(np.float32)
    constant = np.full_like(features.coefficients, 1 / 32)
    section = clusters([replace(features, prompts=by_class, coefficients=constant)])
    assert section.facts["bars"]["PGN prompts | labels"] == pytest.approx(1)
    assert section.facts["bars"]["PGN mixtures | labels"] == 0
    assert "The paper's figure for the PGN clusters its prompts" in section.notes[0]


def test_clusters_of_wide_prompts_are_those_of_the_same_points_in_fewer_coordinates():
    narrow = blobs(2)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(200, 200)))[0][:4]
    wide = narrow @ turn + 5
    assert agreement({"a": wide}, LABELS) == pytest.approx(agreement({"a": narrow}, LABELS))


def test_the_pgns_own_space_is_left_out_where_it_mixes_nothing(features: Features):
    section = clusters([replace(features, coefficients=None, prompts=None)])
    assert section.table is not None
    assert len(section.table[1]) == 3
    assert [note.split(" are left out")[0] for note in section.notes[1:]] == ["PGN mixtures", "PGN prompts"]


def test_too_few_images_for_clusters(features: Features):
    few = replace(features, labels=features.labels[:2])
    section = clusters([few])
    assert section.table is None
    assert "2 images of 2 classes are too few" in section.notes[1]


def test_the_map_keeps_neighbours_and_is_the_same_each_time():
    # The classes part in the last coordinates; the first two alone are noise.
    noise = np.random.default_rng(5).normal(0, 1, (60, 2))
    points = np.concatenate([noise, np.concatenate([blobs(0), blobs(1)])], axis=1)
    labels = np.tile(LABELS, 2)
    places = tsne(points)
    assert (places == tsne(points)).all()
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + np.where(np.eye(60), np.inf, 0)
    assert (labels[distance.argmin(axis=1)] == labels).all()


def test_a_map_for_all_data_sets_and_one_for_each(features: Features):
    second = replace(features, data=replace(features.data, name="again"))
    assert [picture.name for picture in maps([features]).pictures] == ["map_by_class_0"]
    names = [picture.name for picture in maps([features, second]).pictures]
    assert names == ["map_by_data", "map_by_class_0", "map_by_class_1"]


def test_no_map_without_mixtures_or_of_too_few_images(features: Features):
    assert features.coefficients is not None
    for nothing in (
        replace(features, coefficients=None),
        replace(features, coefficients=features.coefficients[:3], labels=features.labels[:3]),
    ):
        section = maps([nothing])
        assert section.pictures == ()
        assert section.notes[0].startswith("Left out")
