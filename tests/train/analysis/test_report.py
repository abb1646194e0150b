"""The whole analysis: files, page and numbers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from pgn_edge.errors import DataError, OutputError
from pgn_edge.train.analysis.report import Looked, analyze


def test_every_picture_is_a_file_and_in_the_page(
    tiny_checkpoint: Path, bar_folder: Path, use_tiny_backbone, tmp_path: Path
):
    told = []
    second = tmp_path / "second"
    shutil.copytree(bar_folder, second)
    looked = Looked(tiny_checkpoint, (str(bar_folder), str(second)), split="train", limit=8)
    results = analyze(looked, tmp_path / "out", lambda *what: told.append(what))
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {*results["pictures"], "index.html", "analysis.json"}
    for each in range(2):
        names = ("map_by_class", "attention_maps", "attention_prompts", "robustness", "corruptions")
        assert {f"{name}_{each}.png" for name in names} <= files
    assert {"map_by_data.png", "library_usage.png", "token_gallery.png"} <= files
    assert len(results["pictures"]) == 13
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<img") == 13
    assert re.search(r'(src|href)="(?!data:)', page) is None
    assert "<script" not in page
    assert json.loads((tmp_path / "out" / "analysis.json").read_text()) == results
    assert results["images"] == {bar_folder.name: 8, "second": 8}
    titles = [f"Attention of the class token: {name}" for name in (bar_folder.name, "second")]
    assert results[titles[0]]["prompts"] == pytest.approx(results[titles[1]]["prompts"]), "the same images"
    assert {what[0].split(" of ")[0] for what in told} == {"features", "pictures", "robustness"}


def test_gallery_tokens_beyond_the_library_are_refused_before_anything_is_computed(
    tiny_checkpoint: Path, bar_folder: Path, use_tiny_backbone, tmp_path: Path
):
    with pytest.raises(DataError, match="different numbers from 0 to 31, got 99"):
        analyze(Looked(tiny_checkpoint, (str(bar_folder),), tokens=(99,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_data_set_twice_is_refused(tiny_checkpoint: Path, bar_folder: Path, use_tiny_backbone, tmp_path: Path):
    looked = Looked(tiny_checkpoint, (str(bar_folder), str(bar_folder)))
    with pytest.raises(DataError, match="twice"):
        analyze(looked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tiny_checkpoint: Path, bar_folder: Path, use_tiny_backbone, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError):
        analyze(Looked(tiny_checkpoint, (str(bar_folder),)), tmp_path / "file" / "out")
