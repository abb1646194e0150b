"""The embedded counts: as many objects as the label says, each to be seen, and nothing else that tells the number."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pgn_edge.train.backgrounds import crop
from pgn_edge.train.counts import LABELS, SPLITS, Scene, count_frames, draw
from pgn_edge.train.data import Arrays, load_data

DRAWN = [*range(0, 800), *range(2000, 2400)]  # the training and the test images that are looked into


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw(index) for index in DRAWN]


def numbers() -> np.ndarray:
    return np.array(DRAWN) % 8 + 1


def painted_share_right(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the last third of the best of a tree's guesses from one number an image."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=30, random_state=0)
    model.fit(features[:800, None], labels[:800])
    return float(model.score(features[800:, None], labels[800:]))


def test_the_three_splits_hold_every_number_equally_often():
    data = load_data("counts")
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, count in {"train": 1600, "validation": 400, "test": 800}.items():
        samples = parts[name]
        assert isinstance(samples, Arrays)
        assert np.bincount(samples.labels).tolist() == [count // 8] * 8
        assert (samples.images.shape, samples.images.dtype) == ((count, 64, 64, 3), np.uint8)
    assert data.labels == LABELS
    assert (data.labels[0], data.labels[7]) == ("one object", "eight objects")
    assert data.spaces[0].template.format(data.labels[2]) == "a photo of three objects"


def test_each_image_is_drawn_from_its_index_alone():
    frames, labels = count_frames()
    for index in (2799, 0, 1601):
        np.testing.assert_array_equal(frames[index], draw(index).paint())
        assert len(draw(index).masks) == labels[index] + 1


def test_no_image_is_there_twice():
    frames, _ = count_frames()
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def test_as_many_separate_objects_as_the_label_says(scenes: list[Scene]):
    for scene, number in zip(scenes, numbers(), strict=True):
        assert (scene.masks > 0).sum(axis=0).max() == 1, "no two share a pixel"
        parts, _ = cv2.connectedComponents((scene.masks.max(axis=0) > 0).astype(np.uint8), connectivity=8)
        assert parts - 1 == number == len(scene.colours)


def test_objects_stay_inside_and_can_be_seen(scenes: list[Scene]):
    for scene in scenes:
        assert not scene.masks[:, [0, -1]].any()
        assert not scene.masks[:, :, [0, -1]].any()
        assert scene.masks.sum(axis=(1, 2)).min() > 12


def test_each_object_stands_out_from_what_it_covers(scenes: list[Scene]):
    gaps = [
        np.quantile(np.linalg.norm(scene.background[mask > 0.5] - colour, axis=1), 0.1)
        for scene in scenes
        for mask, colour in zip(scene.masks, scene.colours, strict=True)
    ]
    assert min(gaps) > 50
    assert np.quantile(gaps, 0.05) > 100


def test_what_is_painted_is_what_was_drawn(scenes: list[Scene]):
    for scene in scenes[:50]:
        image = scene.paint()
        np.testing.assert_array_equal(
            image[scene.masks.max(axis=0) == 0], scene.background[scene.masks.max(axis=0) == 0]
        )
        for mask, colour in zip(scene.masks, scene.colours, strict=True):
            assert np.abs(image[mask == 1] - colour).max() <= 0.5


def test_area_does_not_give_the_number_away(scenes: list[Scene]):
    areas = np.array([scene.masks.sum() for scene in scenes])
    biggest = np.array([scene.masks.sum(axis=(1, 2)).max() for scene in scenes])
    assert np.corrcoef(areas, numbers())[0, 1] < 0.7
    for name, feature in {"painted": areas, "biggest object": biggest, "mean object": areas / numbers()}.items():
        assert painted_share_right(feature, numbers()) < 0.35, name


def test_colour_of_the_whole_image_does_not_either():
    frames, labels = count_frames()
    chosen = frames[DRAWN].astype(np.float32)
    for feature in (chosen.mean(axis=(1, 2, 3)), chosen.std(axis=(1, 2, 3))):
        assert painted_share_right(feature, labels[DRAWN]) < 0.25


def test_backgrounds_of_the_splits_come_from_different_thirds():
    assert [end for _, end in SPLITS.values()] == [1600, 2000, 2800]
    for part, index in enumerate((1599, 1600, 2000)):
        random = np.random.default_rng((8, index))
        np.testing.assert_array_equal(draw(index).background, crop((0, 1, 2)[part], random))
