"""Which images are wrong: a row for every image, and the most confident errors on the page."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_edge.cli.eval.predictions import confident_errors, gallery, rows, write_predictions
from pgn_edge.cli.eval.run import EvalReport, Judged, Question
from pgn_edge.errors import OutputError
from pgn_edge.left_out import LeftOut
from pgn_edge.train.data import DataSet, Files, LabelSpace
from pgn_edge.train.evaluate import Answers, measure

LABELS = ('cat, "tabby"', "dog", "カメラ", "fox", "owl", "pig")
TRUTH = np.array([0, 1, 2, 3, 0, 1])
CHOSEN = (0, 2, 2, 1, 3, 1)  # images 1, 3 and 4 are wrong
SCORES = (0.9, 0.5, 0.8, 0.7, 0.95, 0.6)


def answers() -> Answers:
    scores = np.zeros((6, 6), np.float32)
    for row, best, score in zip(scores, CHOSEN, SCORES, strict=True):
        row[:] = (1 - score) / 5
        row[best] = score
    return Answers(scores, np.array([True] * 5 + [False]), np.array([False] * 2 + [True] + [False] * 3), 1.0)


@pytest.fixture
def report(tmp_path: Path) -> EvalReport:
    """Image 2 is degraded, image 5 cannot be read."""
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    paths[1] = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    for index, path in enumerate(paths[:5]):
        Image.new("RGB", (200, 100), (index, 0, 0)).save(path)
    samples = Files(paths, TRUTH)
    data = DataSet("pets", (LabelSpace(LABELS, "{}"),), samples, samples, samples, {})
    judged = Judged("task.pgn", "cpu", 6, answers(), measure(answers(), TRUTH), None)
    return EvalReport(Question("pets"), data, samples, (judged,), LeftOut())


def test_every_image_has_a_row_with_what_was_said_and_what_is_right(report: EvalReport):
    found = list(rows(report))
    assert [row["status"] for row in found] == ["answered"] * 2 + ["degraded"] + ["answered"] * 2 + ["unreadable"]
    assert [row["right"] for row in found] == [True, False, None, False, False, None]
    assert [row["predicted"] for row in found] == [LABELS[0], LABELS[2], None, LABELS[1], LABELS[3], None]
    assert [row["truth"] for row in found] == [LABELS[label] for label in TRUTH]
    assert found[3]["score"] == pytest.approx(0.7)
    assert [each["label"] for each in found[3]["top"]] == [LABELS[1], LABELS[0], *LABELS[2:5]]
    assert found[2]["top"] == []


def test_a_csv_keeps_names_with_commas_quotes_and_foreign_bytes(report: EvalReport, tmp_path: Path):
    path = tmp_path / "answers.csv"
    write_predictions(path, report)
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["path"] for row in found] == [report.samples.name(index) for index in range(6)]
    assert found[0]["truth"] == LABELS[0]
    assert (found[1]["predicted"], found[1]["right"]) == (LABELS[2], "False")
    assert float(found[4]["score"]) == pytest.approx(0.95)
    assert (found[2]["predicted"], found[2]["score_5"], found[0]["predicted_5"]) == ("", "", LABELS[4])


def test_json_lines_hold_the_same_rows(report: EvalReport, tmp_path: Path):
    path = tmp_path / "answers.JSONL"
    write_predictions(path, report)
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    assert [json.loads(line) for line in text.splitlines()] == list(rows(report))


def test_the_most_confident_errors_come_first():
    assert confident_errors(answers(), TRUTH) == [4, 3, 1]
    assert confident_errors(answers(), TRUTH, most=2) == [4, 3]
    assert confident_errors(answers(), np.array([0, 2, 2, 1, 3, 1])) == []


def test_the_gallery_shows_them_with_truth_answer_and_file(report: EvalReport):
    page = "".join(gallery(report, report.subjects[0]))
    assert page.count("<figure>") == 3
    assert page.index("4.png") < page.index("3.png")
    assert "cat, &quot;tabby&quot;, taken for fox (95.0%)" in page


def test_an_image_that_is_gone_by_then_is_left_out_of_the_gallery(report: EvalReport):
    os.unlink(report.samples.name(4))
    assert "".join(gallery(report, report.subjects[0])).count("<figure>") == 2


def test_eval_writes_them_for_every_subject(
    call: Callable, tiny_pair, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone, tmp_path: Path
):
    done = call(
        *("eval", tiny_checkpoint, tiny_pair.task, "--data", class_folder, "--vit", tiny_pair.vit),
        *("--predictions", tmp_path / "answers.csv", "--html", tmp_path / "eval.html", "--json"),
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    with open(tmp_path / "answers.csv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 2 * document["images"]
    for subject in document["subjects"]:
        own = [row for row in found if row["subject"] == subject["subject"]]
        assert sum(row["right"] == "True" for row in own) / len(own) == pytest.approx(subject["top1"])
    wrong = sum(row["right"] == "False" for row in found)
    assert (tmp_path / "eval.html").read_text().count("taken for") == 2 * wrong, "in the caption and in its place"


def test_another_suffix_is_refused_before_the_work(refusal: Callable, tiny_checkpoint: Path, tmp_path: Path):
    line = refusal("eval", tiny_checkpoint, "--data", "digits", "--predictions", tmp_path / "answers.txt")
    assert "expected a name that ends in .csv or .jsonl, got '.txt'" in line


def test_a_folder_that_is_not_there_is_refused(report: EvalReport, tmp_path: Path):
    with pytest.raises(OutputError):
        write_predictions(tmp_path / "none" / "answers.csv", report)
