"""The whole analysis: files, page and numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pgn_edge.errors import DataError, OutputError
from pgn_edge.train.analysis.report import Looked, analyze


def test_every_picture_is_a_file_and_in_the_page(
    tiny_checkpoint: Path, bar_folder: Path, use_tiny_backbone, tmp_path: Path
):
    told = []
    looked = Looked(tiny_checkpoint, (str(bar_folder),), split="train")
    results = analyze(looked, tmp_path / "out", lambda *what: told.append(what))
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {*results["pictures"], "index.html", "analysis.json"}
    assert len(results["pictures"]) == 7
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<img") == 7
    assert re.search(r'(src|href)="(?!data:)', page) is None
    assert "<script" not in page
    assert json.loads((tmp_path / "out" / "analysis.json").read_text()) == results
    assert results["images"] == {bar_folder.name: 15}
    assert {what[0].split(" of ")[0] for what in told} == {"features", "pictures", "robustness"}


def test_one_data_set_twice_is_refused(tiny_checkpoint: Path, bar_folder: Path, use_tiny_backbone, tmp_path: Path):
    looked = Looked(tiny_checkpoint, (str(bar_folder), str(bar_folder)))
    with pytest.raises(DataError, match="twice"):
        analyze(looked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tiny_checkpoint: Path, bar_folder: Path, use_tiny_backbone, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError):
        analyze(Looked(tiny_checkpoint, (str(bar_folder),)), tmp_path / "file" / "out")
