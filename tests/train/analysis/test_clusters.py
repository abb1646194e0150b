"""Agreement of clusters, and the map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pgn_edge.train.analysis.clusters import agreement, clusters, maps, tsne
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


def test_features_that_are_all_alike_say_nothing():
    assert agreement({"flat": np.ones((30, 4))}, LABELS)["flat | labels"] == 0


def test_three_spaces_make_six_pairs(features: Features):
    section = clusters([features])
    assert section.table is not None
    assert [row[1:3] for row in section.table[1]] == [
        ("PGN", "labels"),
        ("frozen ViT", "labels"),
        ("PGN + ViT", "labels"),
        ("PGN", "frozen ViT"),
        ("PGN", "PGN + ViT"),
        ("frozen ViT", "PGN + ViT"),
    ]
    assert section.facts["bars"]["PGN | labels"] * 100 == pytest.approx(float(section.table[1][0][3]), abs=0.06)


def test_the_pgns_own_space_is_left_out_where_it_mixes_nothing(features: Features):
    section = clusters([replace(features, coefficients=None)])
    assert section.table is not None
    assert len(section.table[1]) == 3
    assert any("left out" in note for note in section.notes)


def test_too_few_images_for_clusters(features: Features):
    few = replace(features, labels=features.labels[:2])
    section = clusters([few])
    assert section.table is None
    assert "2 images of 2 classes are too few" in section.notes[1]


def test_the_map_keeps_neighbours_and_is_the_same_each_time():
    points = np.concatenate([blobs(0), blobs(1)])
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
