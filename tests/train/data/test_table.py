"""The table of data sets, what `--data` may name, and the page that shows the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_edge.errors import DataError
from pgn_edge.labels import DATASETS, load_labels
from pgn_edge.train.data import TABLE, DataSpec, load_data
from pgn_edge.train.data.table import markdown

Fill = Callable[..., Path]
PUBLISHED = [name for name in TABLE if name not in ("digits", "counts")]
IMAGENETS = ("imagenet", "imagenet-a", "imagenet-r", "imagenet-v2", "imagenet-sketch")


def test_the_table_has_the_sets_of_the_paper_imagenet_and_what_is_embedded():
    assert set(TABLE) == {*DATASETS, *IMAGENETS, "digits", "counts"}


@pytest.mark.parametrize("name", DATASETS)
def test_as_many_classes_as_there_are_names(name: str):
    assert TABLE[name].counts["classes"] == len(load_labels(name))


@pytest.mark.parametrize("spec", TABLE.values(), ids=list(TABLE))
def test_every_entry_is_whole(spec: DataSpec):
    assert set(spec.counts) == {"classes", "train", "validation", "test"}
    assert spec.template.count("{}") == 1
    assert spec.licence
    assert spec.source


def test_the_page_shows_the_table():
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    assert markdown() in page


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("root", ["empty", "missing"])
def test_a_layout_that_is_wrong_says_what_was_expected(tmp_path: Path, name: str, root: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        load_data(name, tmp_path / root)
    assert caught.value.expected == TABLE[name].layout
    assert str(tmp_path) in caught.value.subject
    assert "--root" in caught.value.do


@pytest.mark.parametrize("name", ["digits", "counts"])
def test_embedded_sets_need_no_root_and_are_as_large_as_the_table_says(name: str):
    data = load_data(name, "/nowhere")
    assert data.facts["sizes"] == data.facts["published"] == TABLE[name].counts
    assert (data.name, data.facts["licence"]) == (name, TABLE[name].licence)
    data.require_training()


def test_a_published_set_from_its_files_to_its_facts(tmp_path: Path):
    for name in ("banded", "lacelike"):
        (tmp_path / "dtd" / "images" / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "dtd/images" / name / f"{name}_{index}.jpg")
    (tmp_path / "dtd" / "labels").mkdir()
    for part, chosen in {"train": (0, 1), "val": (2, 3), "test": (4, 5)}.items():
        rows = [f"{name}/{name}_{index}.jpg" for name in ("banded", "lacelike") for index in chosen]
        (tmp_path / "dtd" / "labels" / f"{part}1.txt").write_text("\n".join(rows) + "\n")
    data = load_data("dtd", tmp_path)
    assert data.labels == ("banded", "lacelike")
    assert data.facts["sizes"] == {"classes": 2, "train": 4, "validation": 4, "test": 4}
    assert data.facts["published"]["classes"] == 47
    assert data.spaces[0].template == TABLE["dtd"].template
    assert data.validation.read(3).shape == (8, 8, 3)


def test_a_union_of_embedded_sets():
    data = load_data("digits,counts")
    assert data.name == "digits,counts"
    assert data.labels[8:12] == ("digits/8", "digits/9", "counts/one object", "counts/two objects")
    assert [space.name for space in data.spaces] == ["digits", "counts"]
    assert (len(data.train), len(data.validation), len(data.test)) == (2697, 700, 1200)
    assert np.bincount(data.test.labels).tolist()[10:] == [100] * 8
    np.testing.assert_array_equal(data.train.read(1097), load_data("counts").train.read(0))
    assert data.train.name(1097) == "counts/train[0]"


def test_a_union_may_hold_a_folder_and_a_csv(tmp_path: Path, fill: Fill):
    fill(tmp_path / "animals", {"cat": 4, "dog": 4})
    rows = "".join(f"animals/{name}/{index:02}.png,{name}\n" for name in ("cat", "dog") for index in range(4))
    (tmp_path / "list.csv").write_text("path,label\n" + rows)
    data = load_data("animals,list.csv", tmp_path)
    assert data.labels == ("animals/cat", "animals/dog", "list/cat", "list/dog")
    assert data.train.read(len(data.train) - 1).shape == (10, 10, 3)


def test_a_folder_may_have_a_comma_in_its_name(tmp_path: Path, fill: Fill):
    fill(tmp_path / "digits,counts", {"a": 3, "b": 3})
    assert load_data("digits,counts", tmp_path).labels == ("a", "b")


def test_a_folder_with_the_name_of_a_set_is_reached_by_its_path(tmp_path: Path, fill: Fill):
    fill(tmp_path / "digits", {"a": 3, "b": 3})
    assert load_data("digits", tmp_path).labels == tuple("0123456789")
    assert load_data("./digits", tmp_path).labels == ("a", "b")


def test_a_folder_that_is_taken_for_a_set_says_how_to_name_it(tmp_path: Path, fill: Fill):
    fill(tmp_path / "pets", {"cat": 3, "dog": 3})
    with pytest.raises(DataError, match=r"expected oxford_pets/.* for a folder of your own write \./pets"):
        load_data("pets", tmp_path)
    assert load_data("./pets", tmp_path).labels == ("cat", "dog")


def test_a_template_of_the_users_own_is_for_all_label_spaces():
    spaces = load_data("digits,counts", template="a drawing of {}").spaces
    assert [space.template for space in spaces] == ["a drawing of {}"] * 2


@pytest.mark.parametrize("template", ["", "a photo", "{} and {}", "a {label}"])
def test_templates_that_are_refused(template: str):
    with pytest.raises(DataError, match="expected a sentence with one"):
        load_data("digits", template=template)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param("cifar", "cifar100, cifar10, .* a folder of classes or a .csv, got '.*cifar'", id="unknown name"),
        pytest.param("digits,", "got an empty name", id="a comma too many"),
        pytest.param("", "got an empty name", id="nothing"),
        pytest.param("digits,digits", "got 'digits' twice", id="a set twice"),
        pytest.param("none.csv", "got '.*none.csv'", id="a CSV that is not there"),
        pytest.param("x," * 200, "got '.*x'", id="longer than any path may be"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: str, says: str):
    with pytest.raises(DataError, match=says):
        load_data(name, tmp_path)
