"""`pgn-edge import`, as a user calls it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from pgn_edge.nn.checkpoint import load_checkpoint
from pgn_edge.nn.pgn import PGN, PgnConfig

PROMPTS, LIBRARY = 5, 6
UPSTREAM_NAMES = (
    ("library", "tl_vectors"),
    ("generator.stem", "model.input_net"),
    ("generator.blocks", "model.blocks"),
    ("generator.head", "model.output_net.2"),
    ("shortcut", "downsample"),
)


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A file as the paper's authors publish it, for the tiny `builtin`."""
    torch.manual_seed(0)
    state = {}
    for name, tensor in PGN(PgnConfig("resnet10", PROMPTS, LIBRARY, 128, 64)).state_dict().items():
        for ours, theirs in UPSTREAM_NAMES:
            name = name.replace(ours, theirs)  # noqa: PLW2901
        state[name] = tensor
    path = tmp_path / "pgn_fake.pt"
    torch.save(state, path)
    return path


def test_import_makes_a_checkpoint_and_says_what_comes_next(call, upstream: Path, use_tiny_backbone, tmp_path: Path):
    output = tmp_path / "my ckpt.pt"
    done = call("import", upstream, "--backbone", "builtin", "--labels", "svhn", "-o", output)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    rows = [[cell.strip() for cell in line.strip(" │").split("│")] for line in done.stdout.splitlines()]
    cells = {row[0]: row[1] for row in rows if len(row) == 2}
    assert cells["backbone"] == "builtin"
    assert cells["prompts K"] == "5"
    assert cells["library N"] == "6"
    assert cells["token width d"] == "128"
    assert cells["layout"] == "append"
    assert cells["prompt rows"] == "1 of 8, 3 spare"
    assert cells["head"] == "text, 10 classes"
    assert cells["golden images"] == "synthetic"
    checkpoint = load_checkpoint(output)
    assert int(cells["parameters"].replace(",", "")) == sum(p.numel() for p in checkpoint.pgn.parameters())
    assert f"next: pgn-edge export '{output}'" in done.stdout


def test_what_comes_next_names_the_weights_too(call, upstream: Path, tiny_backbone, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pgn_edge.export.upstream.load_backbone", lambda name, weights: tiny_backbone)
    monkeypatch.chdir(tmp_path)
    done = call("import", upstream.name, "--backbone", "fake", "--weights", "vit.pt", "--labels", "svhn")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("next: pgn-edge export ckpt.pt --weights vit.pt\n")
    assert (tmp_path / "ckpt.pt").exists()


def test_json_is_one_document(call, upstream: Path, use_tiny_backbone, class_folder: Path, tmp_path: Path):
    output = tmp_path / "ckpt.pt"
    options = ("--labels", "svhn", "--prompts", PROMPTS, "--library", LIBRARY, "--images", class_folder)
    done = call("import", upstream, "--backbone", "builtin", *options, "-o", output, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    checkpoint = load_checkpoint(output)
    assert document.pop("parameters") == sum(math.prod(p.shape) for p in checkpoint.pgn.parameters())
    assert document == {
        "path": str(output),
        "prompts": PROMPTS,
        "library": LIBRARY,
        "width": 128,
        "geometry": {**checkpoint.geometry.to_json(), "rows": 1, "spare": 3},
        "head": {"kind": "text", "classes": 10},
        "golden": 12,
    }


def test_a_file_of_names_a_template_and_a_head(call, upstream: Path, use_tiny_backbone, tmp_path: Path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    torch.save({"weight": torch.ones(2, 128)}, tmp_path / "head.pt")
    options = ("--labels", tmp_path / "names.txt", "--template", "a drawing of a {}", "--head", tmp_path / "head.pt")
    done = call("import", upstream, "--backbone", "builtin", *options, "-o", tmp_path / "ckpt.pt", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["head"] == {"kind": "linear", "classes": 2}
    assert load_checkpoint(tmp_path / "ckpt.pt").head.labels == ("cat", "dog")


# Refusals.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param((), "cifar100, cifar10", id="no labels"),
        pytest.param(("--labels", "imagenet"), "'imagenet'", id="an unknown data set"),
        pytest.param(("--labels", "cifar10"), "--head FILE", id="names that the backbone does not know"),
        pytest.param(("--labels", "svhn", "--prompts", "16"), "expected 16, as --prompts says, got 5", id="K"),
        pytest.param(("--labels", "svhn", "--library", "7"), "expected 7, as --library says, got 6", id="N"),
        pytest.param(("--labels", "svhn", "--head", "head.npz"), "head.npz", id="no such head"),
        pytest.param(("--labels", "svhn", "--images", "nowhere"), "nowhere", id="no such images"),
        pytest.param(("--labels", "svhn", "--template", "a photo"), "one {} for the class", id="no place for the name"),
    ],
)
def test_import_refuses(refusal, upstream: Path, use_tiny_backbone, tmp_path: Path, options, says: str):
    line = refusal("import", upstream, "--backbone", "builtin", *options, "-o", tmp_path / "ckpt.pt")
    assert says in line


def test_a_file_that_is_none(refusal, use_tiny_backbone, tmp_path: Path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    for name in ("text.pt", "missing.pt"):
        options = ("--backbone", "builtin", "--labels", "svhn", "-o", tmp_path / "ckpt.pt")
        assert refusal("import", tmp_path / name, *options).startswith(f"pgn-edge: {tmp_path / name}: expected")


def test_an_output_that_cannot_be_written(refusal, upstream: Path, tmp_path: Path):
    output = tmp_path / "missing" / "ckpt.pt"
    options = ("--backbone", "builtin", "--labels", "svhn", "-o", output)
    assert refusal("import", upstream, *options).startswith(f"pgn-edge: {output}: ")


@pytest.mark.parametrize(
    "arguments",
    [(), ("a.pt",), ("a.pt", "--backbone", "builtin", "--prompts", "0"), ("a.pt", "b.pt", "--backbone", "builtin")],
    ids=["nothing", "no backbone", "no prompts", "two files"],
)
def test_wrong_usage_is_status_2(call, arguments: tuple[str, ...]):
    done = call("import", *arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr
