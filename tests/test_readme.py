"""The README's commands and programs run as they stand, in a folder like the one that the demo leaves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pgn_edge.export.frozen import VitOptions, export_vit
from pgn_edge.export.task import export_task
from pgn_edge.nn.backbones import load_backbone
from pgn_edge.nn.checkpoint import Checkpoint, save_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig

README = Path(__file__).parents[1] / "README.md"
MARK = "<!-- runnable -->"
BLOCKS = re.findall(rf"^{MARK}\n+```(\w+)\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
PROMPTS, LABELS = 16, tuple("0123456789")


def commands(language: str, text: str) -> list[str]:
    """The command line that runs one block."""
    if language == "python":
        return [sys.executable, "-W", "error", "-c", text]
    if language == "console":
        text = "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
    return ["bash", "-euo", "pipefail", "-c", text]


@pytest.fixture(scope="module")
def folder(golden_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ckpt.pt, task.pgn, vit.onnx, vit-stock.onnx, digit.png and clip.mp4, for the backbone that the package brings."""
    folder = tmp_path_factory.mktemp("demo")
    backbone = load_backbone("builtin")
    vit = backbone.vit
    torch.manual_seed(1)
    pgn = PGN(PgnConfig("resnet10", PROMPTS, 32, vit.width, 16)).eval()
    head = backbone.zero_shot.head(LABELS, "{}")
    identity = vit.fingerprint(), vit.weights_sha256()
    checkpoint = Checkpoint(
        "digits", "builtin", *identity, vit.geometry(PROMPTS), vit.spec.preprocess, pgn, head, golden_images
    )
    save_checkpoint(folder / "ckpt.pt", checkpoint)
    export_task(folder / "ckpt.pt", folder / "task.pgn")
    export_vit("builtin", folder / "vit.onnx", VitOptions(prompts=PROMPTS))
    export_vit("builtin", folder / "vit-stock.onnx", VitOptions(prompts=0))
    cv2.imwrite(str(folder / "digit.png"), golden_images[0])
    clip = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
    for image in golden_images[:6]:
        clip.write(image)
    clip.release()
    return folder


def test_every_mark_stands_before_a_block():
    assert len(BLOCKS) == README.read_text().count(MARK) > 0
    assert {language for language, _ in BLOCKS} <= {"python", "sh", "console"}


@pytest.mark.parametrize(("language", "text"), BLOCKS, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(BLOCKS)])
def test_block(folder: Path, language: str, text: str):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    child = subprocess.run(
        commands(language, text),
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr[-3000:]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        pytest.param("sh", "false\ntrue", id="a command in the middle"),
        pytest.param("sh", "false | true", id="the first of a pipe"),
        pytest.param("console", "$ false\noutput\n$ true", id="a command at a prompt"),
        pytest.param("python", "import pgn_edge.nothing", id="a program"),
    ],
)
def test_a_block_that_fails_is_seen(tmp_path: Path, language: str, text: str):
    child = subprocess.run(commands(language, text), cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert child.returncode != 0


def test_measured_numbers_are_those_of_the_committed_results(monkeypatch: pytest.MonkeyPatch):
    """`python benchmarks/readme.py` writes them; a number that is typed in is noticed."""
    monkeypatch.syspath_prepend(str(README.parent / "benchmarks"))
    import readme

    text = README.read_text()
    assert readme.filled(text, README.parent / "benchmarks/results") == text
    measured = re.compile(r"\d+\.\d+ ?(?:%|s\b|times|x\b|ms)")
    outside = re.sub(r"<!-- numbers: .*?<!-- end of numbers -->", "", text, flags=re.DOTALL)
    assert measured.findall(outside) == []
