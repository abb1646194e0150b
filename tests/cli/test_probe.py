"""`pgn-edge probe` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest


def test_tables_of_a_whole_probe(call, tiny_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    page = tmp_path / "probe.html"
    done = call("probe", "--engine", tiny_pair.vit, "--task", tiny_pair.task, "--html", page)
    assert done.exit_code == 0, done.output
    for expected in ("colour order", "-1 to 1", "backbone", "Settings to train for", "--layout append", str(page)):
        assert expected in done.stdout
    assert done.stderr == "", "it is over at once"
    for expected in ("colour order", "-1 to 1", "golden pair", "pgn-edge train"):
        assert expected in page.read_text()


def test_json_is_one_document(call, tiny_pair):
    done = call("probe", "--engine", tiny_pair.stock, "--reference", tiny_pair.stock, "--json")
    document = json.loads(done.stdout)
    answers = {finding["what"]: finding["answer"] for finding in document["findings"]}
    assert (answers["backbone"], answers["size"], answers["canvas"]) == ("yes", "fixed", "64 x 64")
    assert all(0 <= finding["confidence"] <= 1 and finding["evidence"] for finding in document["findings"])
    assert document["settings"]["options"]["layout"] == "inset"
    assert (document["disagreements"], document["calls"]) == ([], 18)


def test_without_anything_known_it_says_what_to_give(call, tiny_pair, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = call("probe", "--engine", tiny_pair.vit)
    assert done.exit_code == 0, done.output
    assert "--reference" in done.stdout
    assert "disagreement" not in done.stdout


@pytest.mark.parametrize("size", ["224", "0x224", "224x224x3", "axb"])
def test_a_size_that_is_none(call, tiny_pair, size: str):
    done = call("probe", "--engine", tiny_pair.vit, "--size", size)
    assert done.exit_code == 2
    assert "HEIGHTxWIDTH" in done.stderr


def test_a_plan_is_code(refusal, tmp_path: Path):
    (tmp_path / "foreign.plan").write_bytes(b"plan")
    line = refusal("probe", "--engine", tmp_path / "foreign.plan")
    assert "--trust" in line


def test_what_cannot_be_probed(refusal, tiny_pair, tmp_path: Path):
    assert "missing.onnx" in refusal("probe", "--engine", "missing.onnx")
    assert "missing.toml" in refusal("probe", "--engine", tmp_path / "missing.toml")
    assert "one input for colour pictures" not in refusal("probe", "--engine", tiny_pair.task)
    assert "no such file" in refusal("probe", "--engine", tiny_pair.vit, "--task", tmp_path / "missing.pgn")


def test_facts_of_a_foreign_engine_are_written_or_the_reason_is_given(call, tiny_pair, tmp_path: Path):
    model = onnx.load(tiny_pair.stock)
    del model.metadata_props[:]
    foreign, facts = tmp_path / "foreign.onnx", tmp_path / "vit.facts.json"
    onnx.save(model, foreign)
    failed = call("probe", "--engine", foreign, "-o", facts)
    assert failed.exit_code == 1
    assert "colour order" in failed.stdout, "the findings are told all the same"
    assert "--reference" in failed.stderr
    assert not facts.exists()
    done = call("probe", "--engine", foreign, "--reference", tiny_pair.stock, "-o", facts)
    assert done.exit_code == 0, done.output
    assert json.loads(facts.read_text())["engine"] == "foreign.onnx"
