"""Results of runs, a file each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgn_edge.errors import DataError, OutputError
from pgn_edge.train.config import Schedule, TrainConfig
from pgn_edge.train.store import Job, Result, Store

JOB = Job("pgn", TrainConfig("some/where/my pets"), Schedule(lr=0.001, seed=3))
RESULT = Result(JOB.to_json(), {"my pets": 8}, {"my pets": 10}, 0.75, 1000, 4000, 1.5, 1, {"0.001": 0.75})


def test_what_is_kept_comes_back(tmp_path: Path):
    store = Store(tmp_path / "new" / "folder").make()
    assert store.result(JOB) is None
    store.keep(JOB, RESULT)
    assert store.result(JOB) == RESULT
    assert Store(tmp_path / "new" / "folder").make().result(JOB) == RESULT
    assert RESULT.accuracy("my pets") == 0.8


def test_the_seed_stands_beside_the_digest_of_all_else():
    other_seed = replace(JOB, schedule=replace(JOB.schedule, seed=4))
    assert JOB.name.startswith("pgn_my-pets_")
    assert JOB.name.removesuffix("_3") == other_seed.name.removesuffix("_4")


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, contender="constant"),
        replace(JOB, schedule=replace(JOB.schedule, lr=0.002)),
        replace(JOB, config=replace(JOB.config, root="elsewhere")),
    ],
    ids=["contender", "schedule", "configuration"],
)
def test_other_options_have_another_name(other: Job, tmp_path: Path):
    store = Store(tmp_path).make()
    store.keep(JOB, RESULT)
    assert other.name != JOB.name
    assert store.result(other) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: "{",
        lambda data: "[]",
        lambda data: json.dumps({**data, "format": "something else"}),
        lambda data: json.dumps({**data, "schema": 2}),
        lambda data: json.dumps({key: value for key, value in data.items() if key != "right"}),
        lambda data: json.dumps({**data, "right": {}}),
        lambda data: json.dumps({**data, "images": {"others": 10}}),
        lambda data: json.dumps({**data, "right": {"my pets": "8"}}),
        lambda data: json.dumps({**data, "images": {"my pets": 0}}),
        lambda data: json.dumps({**data, "validation": None}),
        lambda data: json.dumps({**data, "more": 1}),
        lambda data: json.dumps({**data, "job": {**data["job"], "contender": "constant"}}),
    ],
    ids=[
        *("torn", "no object", "another format", "another schema", "a field is missing", "no data set", "other sets"),
        *("a string", "no images", "no number", "a field too many", "of another job"),
    ],
)
def test_a_file_that_is_damaged_or_foreign_is_no_result(damage, tmp_path: Path):
    store = Store(tmp_path).make()
    store.keep(JOB, RESULT)
    file = tmp_path / "results" / f"{JOB.name}.json"
    file.write_text(damage(json.loads(file.read_text())))
    assert store.result(JOB) is None


def test_bytes_that_are_no_text_are_no_result(tmp_path: Path):
    store = Store(tmp_path).make()
    (tmp_path / "results" / f"{JOB.name}.json").write_bytes(b"\xff\xfe\x00")
    assert store.result(JOB) is None


def test_a_search_comes_back_and_a_damaged_one_does_not(tmp_path: Path):
    store = Store(tmp_path).make()
    assert store.search(JOB) is None
    store.keep_search(JOB, {"0.001": 0.5, "0.01": 0.75})
    assert store.search(JOB) == {"0.001": 0.5, "0.01": 0.75}
    file = tmp_path / "searches" / f"{JOB.name}.json"
    file.write_text(file.read_text().replace("0.75", '"much"'))
    assert store.search(JOB) is None


def test_seconds_are_counted_until_a_job_is_tidied(tmp_path: Path):
    store = Store(tmp_path).make()
    assert store.seconds(JOB) == 0
    store.keep_seconds(JOB, 12.25)
    assert store.seconds(JOB) == 12.25
    store.checkpoint(JOB).write_bytes(b"weights")
    store.checkpoint(JOB).with_suffix(".warm.pt").write_bytes(b"state")
    assert store.has_state(JOB)
    store.tidy(JOB, checkpoint=False)
    assert not store.has_state(JOB)
    assert (store.seconds(JOB), store.checkpoint(JOB).exists()) == (0, True)
    store.tidy(JOB, checkpoint=True)
    assert not store.checkpoint(JOB).exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a folder that can be made"):
        Store(tmp_path / "file").make()


def contents(labels: str = "aa") -> dict[str, Any]:
    return {"classes": ["ant", "bee"], "test": {"images": 4, "labels": labels}}


def test_results_of_data_that_changed_are_not_mixed_with_new_ones(tmp_path: Path):
    store = Store(tmp_path).make()
    store.require_data("photos", contents())
    store.require_data("photos", contents())
    store.require_data("other/photos", contents("bb"))
    says = r"photos: expected the test images that it began with, got other labels; choose another folder: -o"
    with pytest.raises(DataError, match=says):
        Store(tmp_path).require_data("photos", contents("bb"))


@pytest.mark.parametrize("text", ["", "{", "null", "\xff", "[" * 5000])
def test_a_damaged_description_of_the_data_is_written_anew(tmp_path: Path, text: str):
    store = Store(tmp_path).make()
    store.require_data("photos", contents())
    (path,) = store.contents.iterdir()
    path.write_text(text, encoding="latin-1")
    store.require_data("photos", contents())
    assert json.loads(path.read_text()) == contents()


@pytest.mark.parametrize("before", [[], 7, {"classes": 3, "test": {}}, {"classes": []}])
def test_a_description_of_another_form_is_refused(tmp_path: Path, before: object):
    store = Store(tmp_path).make()
    store.require_data("photos", contents())
    (path,) = store.contents.iterdir()
    path.write_text(json.dumps(before))
    with pytest.raises(DataError, match="without a description"):
        store.require_data("photos", contents())
