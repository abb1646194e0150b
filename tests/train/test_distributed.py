"""Two processes are one: real ones, on the CPU, started as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from pgn_edge.cli import cli
from pgn_edge.nn.checkpoint import load_checkpoint
from pgn_edge.nn.tensor_file import load_tensors
from pgn_edge.preprocess import Preprocess
from pgn_edge.train.config import Execution, Schedule
from pgn_edge.train.data.dataset import DataSet, LabelSpace
from pgn_edge.train.data.samples import Arrays
from pgn_edge.train.loop import History, fit

LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)
# 23 images in steps of 6, 6, 6 and 5, each in two parts: no share is as large as the other one's.
ODD = Schedule(epochs=2, batch=7, accumulate=2, optimizer="sgd", lr=0.05)
WORKER = """
import sys
import torch
from pgn_edge.nn.tensor_file import save_tensors
from pgn_edge.train.distributed import is_first
sys.path.insert(0, {folder!r})
from test_distributed import odd_run
model, history = odd_run({images!r})
# Both processes must end with the same weights.
torch.save(model.state_dict(), {out!r} + ("0" if is_first() else "1"))
if is_first():
    print(history.validation, history.loss)
"""


def odd_run(path: str) -> tuple[nn.Module, History]:
    """Train a net with batch norm on images of a file."""
    data = torch.load(path, weights_only=True)
    parts = [Arrays(data[name].numpy(), data[name + " labels"].numpy(), name) for name in ("train", "validation")]
    space = LabelSpace(("0", "1"), "{}", "bars")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    preprocess = Preprocess((16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    history = fit(net, DataSet("bars", (space,), *parts, parts[1], {}), preprocess, ODD, execution=Execution("cpu"))
    return net, history


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*LAUNCH, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)


def test_two_processes_with_odd_shares_learn_what_one_does(bar_data: DataSet, tmp_path: Path):
    images, out, script = tmp_path / "images.pt", tmp_path / "out", tmp_path / "worker.py"
    train, validation = bar_data.train, bar_data.validation
    stored = {"train": train, "validation": validation}
    tensors = {name: torch.from_numpy(split.images[:23]) for name, split in stored.items()}  # type: ignore[attr-defined]
    labels = {f"{name} labels": torch.from_numpy(split.labels[:23]) for name, split in stored.items()}
    torch.save({**tensors, **labels}, images)
    alone, told = odd_run(str(images))
    assert len(set(told.validation)) > 1 or told.loss[0] != told.loss[1]

    script.write_text(WORKER.format(folder=str(Path(__file__).parent), images=str(images), out=str(out)))
    done = launch(script)
    assert done.returncode == 0, done.stderr
    first, second = (load_tensors(f"{out}{process}") for process in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=2e-6, msg=name)
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    validation_seen, loss_seen = json.loads(f"[{lines[0].replace('] [', '], [')}]")
    assert validation_seen == told.validation
    assert loss_seen == pytest.approx(told.loss, abs=1e-5)


def test_the_command_prints_and_writes_once(bar_folder: Path, tmp_path: Path):
    options = (
        *("train", "--data", bar_folder, "--epochs", 1, "--warm-start", 1, "--batch", 5, "--resolution", 32),
        *("--optimizer", "sgd", "--device", "cpu", "--json"),
    )
    done = launch("-m", "pgn_edge", *options, "-o", tmp_path / "two.pt")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(tmp_path / "two.pt")
    assert done.stderr.count("warm start: 1 of") == 1
    assert done.stderr.count("a fifth of each class is the test split") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"two.pt", "two.resume.pt"}

    alone = CliRunner().invoke(cli, [*map(str, options), "-o", str(tmp_path / "one.pt")])
    assert alone.exit_code == 0, alone.output
    two, one = (load_checkpoint(tmp_path / name).pgn.state_dict() for name in ("two.pt", "one.pt"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-4, msg=name)
