"""`pgn-edge analyze`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path


def test_analyze_writes_a_page_and_says_where(
    call, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone, tmp_path: Path
):
    output = tmp_path / "runs" / "analysis"
    command = ("analyze", tiny_checkpoint, "--data", class_folder, "--split", "train", "--limit", 6, "-o", output)
    done = call(*command, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document == json.loads((output / "analysis.json").read_text())
    assert document["images"] == {class_folder.name: 6}
    assert all((output / name).stat().st_size for name in document["pictures"])
    assert (output / "index.html").is_file()


def test_what_is_no_checkpoint(refusal, class_folder: Path, tmp_path: Path):
    file = tmp_path / "ckpt.pt"
    file.write_text("no checkpoint")
    line = refusal("analyze", file, "--data", class_folder, "-o", tmp_path / "out")
    assert "ckpt.pt" in line
    assert "no such file" in refusal("analyze", tmp_path / "lost.pt", "--data", class_folder, "-o", tmp_path / "out")


def test_an_unknown_data_set(refusal, tiny_checkpoint: Path, use_tiny_backbone, tmp_path: Path):
    assert "no-such-data" in refusal("analyze", tiny_checkpoint, "--data", "no-such-data", "-o", tmp_path / "out")
