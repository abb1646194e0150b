"""The comparison: who takes part with which head, and what its tables say."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgn_edge.errors import DataError, TrainingError
from pgn_edge.heads import Head
from pgn_edge.nn.vit import Backbone, ZeroShot
from pgn_edge.train.baselines.contenders import CONTENDERS
from pgn_edge.train.compare import Contest, choose_head, compare, complete, own_config
from pgn_edge.train.compare_report import HEADER, Section, cells, markdown, over_seeds, page, summary
from pgn_edge.train.config import Execution, Schedule, TrainConfig
from pgn_edge.train.data.dataset import LabelSpace
from pgn_edge.train.data.table import load_data
from pgn_edge.train.heads import resolve_head
from pgn_edge.train.series import Base, Row
from pgn_edge.train.store import Job, Result

SHORT = Schedule(epochs=1, warm_start=0, batch=9, augment="none")
BASE = Base(TrainConfig("any", resolution=16, library=8), SHORT, 2, Execution("cpu"))


class NoOutputs(ZeroShot):
    """Of a model that has embeddings alone."""

    def head(self, labels: tuple[str, ...], template: str) -> Head:
        raise DataError("model", expected="classes that it can name", got="others", do="train a head")

    def outputs(self) -> Head:
        return self.head((), "")


def test_every_contender_has_its_row(bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    contest = Contest((str(bar_folder),), ("zero-shot", "linear-probe", "fixed-patch", "constant", "pgn"), rates=(1.0,))
    (section,) = compare(contest, BASE, tmp_path / "out")
    assert section.title == str(bar_folder)
    titles = ["frozen ViT, zero-shot", "linear probe", "visual prompt, fixed patch", "constant prompts", "PGN"]
    assert [row.name for row in section.rows] == titles
    assert [row.head for row in section.rows] == ["zero-shot", "linear", "zero-shot", "zero-shot", "zero-shot"]
    assert [len(row.results) for row in section.rows] == [1, 1, 2, 2, 2]
    assert not any(row.problem for row in section.rows)
    found = {row.name: row.results[0].parameters for row in section.rows}
    assert found["frozen ViT, zero-shot"] == 0
    assert found["linear probe"] == 3 * 128 + 3
    assert found["visual prompt, fixed patch"] == 3 * 9 * 9
    assert found["constant prompts"] == 16 * 128
    document = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["parameters"] for row in document["sections"][0]["rows"]] == list(found.values())
    assert {path.name for path in (tmp_path / "out").glob("compare.*")} == {
        f"compare.{x}" for x in ("json", "md", "html")
    }


def test_a_pgn_for_all_is_trained_once_and_counted_in_each_table(
    bar_folder: Path, class_copy: Path, use_tiny_backbone: Backbone, tmp_path: Path
):
    told: list[tuple[int, int]] = []

    def listen(step: str, done: int, total: int, note: str = "") -> None:
        if step == "runs":
            told.append((done, total))

    contest = Contest((str(bar_folder), str(class_copy)), ("multi-pgn",), rates=(1.0,))
    first, second = compare(contest, BASE, tmp_path / "out", listen)
    assert told[-1] == (2, 2)
    assert first.rows[0].results == second.rows[0].results
    assert (first.rows[0].data, second.rows[0].data) == (bar_folder.name, "copy")
    assert len(list((tmp_path / "out" / "results").iterdir())) == 2


@pytest.fixture
def class_copy(bar_folder: Path, tmp_path: Path) -> Path:
    """`bar_folder` under another name."""
    return Path(shutil.copytree(bar_folder, tmp_path / "copy"))


# Heads.


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (("0", "1", "2"), ("zero-shot", "zero-shot", "tuned")),
        (("one", "two", "three"), ("iterative", "frequency", "linear")),
    ],
    ids=["classes that the model can name", "classes that it cannot"],
)
def test_the_head_of_a_data_set(
    labels: tuple[str, ...], wanted: tuple[str, str, str], tiny_backbone: Backbone, bar_folder: Path
):
    data = replace(load_data(str(bar_folder)), spaces=(LabelSpace(labels, "{}"),))
    head = resolve_head("auto", tiny_backbone, data)
    others = (choose_head(name, head, tiny_backbone, data) for name in ("zero-shot", "full-fine-tuning"))
    assert (head, *others) == wanted
    assert {choose_head(name, head, tiny_backbone, data) for name in ("linear-probe", "cnn")} == {"linear"}
    assert {choose_head(name, head, tiny_backbone, data) for name in ("padding", "constant", "pgn")} == {head}


def test_a_model_with_embeddings_alone_gets_a_linear_head(tiny_backbone: Backbone, bar_folder: Path):
    bare = replace(tiny_backbone, zero_shot=NoOutputs())
    assert resolve_head("auto", bare, load_data(str(bar_folder))) == "linear"


def test_a_chosen_head_is_the_frozen_models_too_where_it_can_be(tiny_backbone: Backbone, bar_folder: Path):
    data = load_data(str(bar_folder))
    assert choose_head("zero-shot", "identity", tiny_backbone, data) == "identity"
    assert choose_head("zero-shot", "tuned", tiny_backbone, data) == "zero-shot"


# Options.


def test_a_contender_depends_on_its_own_options_alone():
    wide = TrainConfig("a", prompts=8, library=32, resolution=32, generator="resnet18", hidden=4)
    narrow = TrainConfig("a", prompts=4)
    for name in ("zero-shot", "linear-probe", "full-fine-tuning", "padding"):
        assert own_config(name, wide) == own_config(name, narrow), name
    assert own_config("constant", wide) == TrainConfig("a", prompts=8, generator="constant")
    assert own_config("cnn", wide) == TrainConfig("a", resolution=32, generator="resnet18", hidden=4)
    assert own_config("pgn", wide) == wide


def test_defaults_and_the_same_values_typed_are_one_run(tiny_backbone: Backbone):
    typed = TrainConfig("a", prompts=16, library=256, resolution=64)
    for usual in (TrainConfig("a"), TrainConfig("a", prompts=None)):
        assert complete(usual, tiny_backbone) == typed
    constant = complete(TrainConfig("a", prompts=4, generator="constant", resolution=9), tiny_backbone)
    assert (constant.library, constant.resolution) == (4, None)
    assert complete(TrainConfig("a", generator="mlp"), tiny_backbone).resolution is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Contest(("a",), ("pgns",)), "contender: expected zero-shot, .* got 'pgns'"),
        (lambda: Contest(()), "data: expected data sets, each once, got none"),
        (lambda: Contest(("a", "a")), "each once, got a, a"),
        (lambda: Contest(("a",), heads={"b": "linear"}), "head: expected one of a, got 'b'"),
        (lambda: Contest(("a",), rates=()), "rates: expected positive factors"),
        (lambda: Contest(("a",), rates=(1.0, -1.0)), "rates: expected positive factors"),
        (lambda: Contest(("a",), rates=(1.0, 1.0)), "each once, got"),
        (lambda: Contest(("a",), rates=(float("nan"),)), "rates: expected positive factors"),
    ],
    ids=["contender", "no data", "data twice", "head of another", "no rate", "negative", "twice", "not a number"],
)
def test_refusals(make: Any, reason: str):
    with pytest.raises((DataError, TrainingError), match=reason):
        make()


def test_one_data_set_has_no_pgn_for_all(bar_folder: Path, use_tiny_backbone: Backbone, tmp_path: Path):
    assert "multi-pgn" not in Contest(("a",)).contenders()
    assert Contest(("a", "b")).contenders() == list(CONTENDERS)
    with pytest.raises(TrainingError, match="at least two data sets"):
        compare(Contest((str(bar_folder),), ("multi-pgn",)), BASE, tmp_path / "out")


def test_a_union_is_no_data_set_of_a_comparison(bar_folder: Path, class_copy: Path, tmp_path: Path):
    with pytest.raises(DataError, match="one data set at a time"):
        compare(Contest((f"{bar_folder},{class_copy}",)), BASE, tmp_path / "out")


# Tables.


def result(right: int, seed: int = 0, contender: str = "pgn") -> Result:
    job = Job(contender, TrainConfig("pets"), Schedule(seed=seed, lr=0.002))
    return Result(job.to_json(), {"pets": right}, {"pets": 100}, 0.5, 1234567, 2048, 60.2)


def test_the_interval_over_seeds_is_students():
    # Mean 0.5, standard deviation 0.1, three values: 4.303 of the table for 2 degrees of freedom, times 0.1 / sqrt(3).
    low, high = over_seeds([0.4, 0.5, 0.6])
    assert (low, high) == pytest.approx((0.5 - 0.24841, 0.5 + 0.24841), abs=1e-4)
    assert over_seeds([1.0, 0.9]) == pytest.approx((0.95 - 12.706 * 0.05, 1.0), abs=1e-3)


def test_a_row_of_several_runs():
    row = Row("PGN", "pets", "zero-shot", (result(40), result(50, 1), result(60, 2)))
    found = summary(row)
    assert (found["accuracy"], found["runs"], found["interval_of"]) == (pytest.approx(0.5), 3, "seeds")
    wanted = ("PGN", "zero-shot", "50.0", "25.2 to 74.8", "1,234,567", "2.0", "60", "0.002", "50.0", "3")
    assert cells(found) == wanted
    assert len(wanted) == len(HEADER)


def test_a_row_of_one_run_has_the_interval_of_the_test_images():
    found = summary(Row("linear probe", "pets", "linear", (result(80, contender="linear-probe"),)))
    assert found["interval"] == pytest.approx([0.7112, 0.8666], abs=1e-4)  # Wilson's, 80 of 100
    assert cells(found)[3] == "71.1 to 86.7*"
    assert cells(found)[7] == "", "nothing that has a learning rate"


def test_a_row_without_results_says_why():
    row = Row("PGN", "pets", "zero-shot", problem="not possible: a|b")
    assert cells(summary(row)) == ("PGN", "zero-shot", "not possible: a|b", *[""] * 7)
    assert "not possible: a\\|b" in markdown("Title", [Section("pets", (row,))])
    drawn = page("Title", [Section("pets", (row,))])
    assert "not possible: a|b" in drawn
    assert "<img" not in drawn


def test_a_seed_that_failed_stands_beside_those_that_did_not():
    row = Row("PGN", "pets", "zero-shot", (result(40),), "training: expected a finite loss", failed=True)
    assert cells(summary(row))[2] == "40.0 (training: expected a finite loss)"


def test_the_page_and_the_tables_have_all_rows():
    sections = [Section("pets", (Row("PGN", "pets", "zero-shot", (result(40), result(50, 1))),))] * 2
    text, drawn = markdown("Comparison", sections), page("Comparison", sections)
    assert len(re.findall(r"^\| PGN \| zero-shot \| 45\.0 \|", text, re.MULTILINE)) == 2
    rows = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert rows == {len(HEADER) + 1}
    assert drawn.count('<img alt="pets: top-1') == 2
    assert drawn.count("<td>PGN</td>") == 2
