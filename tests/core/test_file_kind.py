"""Files in the wrong place: every command says which kind of file it got, and which command takes it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pgn_edge.cli import cli
from pgn_edge.file_kind import ABOUT, find_kind
from tests.conftest import TinyPair


class Script(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@pytest.fixture(scope="module")
def files(tiny_pair: TinyPair, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "picture.png")
    torch.save({"a": torch.ones(2)}, folder / "weights.pt")
    torch.save({"format": "pgn-edge training state"}, folder / "ckpt.resume.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what such files are made with
        torch.jit.script(Script()).save(folder / "script.pt")
    (folder / "clip.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    (folder / "vit.plan").write_bytes(b"ftrt" + bytes(100))
    (folder / "vit.plan.json").write_text(json.dumps({"format": "pgn-edge plan", "schema": 1}))
    (folder / "other.onnx").write_bytes(b"\x08\x09" + bytes(100))
    names = {"image": "picture.png", "weights": "weights.pt", "resume": "ckpt.resume.pt", "torchscript": "script.pt"}
    names |= {"video": "clip.mp4", "plan": "vit.plan", "sidecar": "vit.plan.json", "onnx": "other.onnx"}
    made = {kind: folder / name for kind, name in names.items()}
    return {**made, "bundle": tiny_pair.task, "vit": tiny_pair.vit, "checkpoint": tiny_checkpoint, "folder": folder}


def test_every_kind_is_told_by_its_content(files: dict[str, Path], tmp_path: Path):
    for kind, path in files.items():
        assert find_kind(path) == kind
    (tmp_path / "noise.bin").write_bytes(b"\xff\x01 no file of ours")
    assert find_kind(tmp_path / "noise.bin") is None
    assert find_kind(tmp_path / "missing.pt") is None


WRONG = {
    "export task.pgn": (["export", "{bundle}"], "bundle"),
    "export vit.onnx": (["export", "{vit}"], "vit"),
    "export of a run's state": (["export", "{resume}"], "resume"),
    "compile ckpt.pt": (["compile", "{checkpoint}", "--backend", "tensorrt-rtx"], "checkpoint"),
    "predict --task vit.onnx": (["predict", "{image}", "--vit", "{vit}", "--task", "{vit}"], "vit"),
    "predict --task ckpt.pt": (["predict", "{image}", "--vit", "{vit}", "--task", "{checkpoint}"], "checkpoint"),
    "predict --vit task.pgn": (["predict", "{image}", "--vit", "{bundle}", "--task", "{bundle}"], "bundle"),
    "predict --vit ckpt.pt": (["predict", "{image}", "--vit", "{checkpoint}", "--task", "{bundle}"], "checkpoint"),
    "train --data file.pgn": (["train", "--data", "{bundle}", "-o", "{folder}/new.pt"], "bundle"),
    "train --data clip.mp4": (["train", "--data", "{video}", "-o", "{folder}/new.pt"], "video"),
    "train --weights ckpt.pt": (
        [
            "train",
            "--data",
            "digits",
            "--backbone",
            "timm:test_vit",
            "--weights",
            "{checkpoint}",
            "-o",
            "{folder}/n.pt",
        ],
        "checkpoint",
    ),
    "import of our own checkpoint": (
        ["import", "{checkpoint}", "--backbone", "builtin", "--labels", "cifar100", "-o", "{folder}/new.pt"],
        "checkpoint",
    ),
    "predict task.pgn": (["predict", "{bundle}", "--vit", "{vit}", "--task", "{bundle}"], "bundle"),
    "predict vit.onnx": (["predict", "{vit}", "--vit", "{vit}", "--task", "{bundle}"], "vit"),
    "run --source ckpt.pt": (["run", "--source", "{checkpoint}", "--vit", "{vit}", "--task", "{bundle}"], "checkpoint"),
    "run --config task.pgn": (["run", "--config", "{bundle}"], "bundle"),
    "train --recipe ckpt.pt": (["train", "--data", "digits", "--recipe", "{checkpoint}"], "checkpoint"),
    "eval vit.onnx": (["eval", "{vit}", "--data", "digits", "--vit", "{vit}"], "vit"),
    "inspect picture.png": (["inspect", "{image}"], "image"),
    "inspect script.pt": (["inspect", "{torchscript}"], "torchscript"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_in_the_wrong_place_is_named_with_the_command_that_takes_it(files: dict[str, Path], case: str):
    words, kind = WRONG[case]
    result: Any = CliRunner().invoke(cli, [word.format(**files) for word in words])
    assert result.exit_code == 1
    [line] = [line for line in result.stderr.splitlines() if line.startswith("pgn-edge: ")]
    assert f"got {ABOUT[kind].name}; {ABOUT[kind].use.split('FILE')[0].strip()}" in line
    assert "protobuf" not in line
