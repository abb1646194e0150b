"""`pgn-edge compare` and `pgn-edge ablate`, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgn_edge.cli.compare import CONTENDERS as TYPED_CONTENDERS
from pgn_edge.cli.compare import HEADS as TYPED_HEADS
from pgn_edge.cli.train import HEADS
from pgn_edge.train.baselines.contenders import CONTENDERS

QUICK = ("--epochs", 1, "--warm-start", 0, "--batch", 4, "--seeds", 1)
TOY = "library = 8\nresolution = 16\naugment = 'none'\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of a small PGN."""
    (tmp_path / "toy.toml").write_text(TOY)
    return tmp_path / "toy.toml"


def test_compare_prints_a_table_and_writes_three_files(
    call, class_folder: Path, recipe: Path, use_tiny_backbone, tmp_path: Path
):
    command = ("compare", "--data", class_folder, *QUICK, "--recipe", recipe, "--only", "zero-shot,pgn", "--rates", 1)
    done = call(*command, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "│ PGN" in done.stdout
    assert f"{tmp_path}/out/compare.html" in done.stdout.replace("\n", "")
    assert {path.name for path in (tmp_path / "out").glob("compare.*")} == {
        *("compare.html", "compare.json", "compare.md"),
    }
    again = call(*command, "-o", tmp_path / "out", "--json")
    assert json.loads(again.stdout) == json.loads((tmp_path / "out" / "compare.json").read_text())
    (section,) = json.loads(again.stdout)["sections"]
    assert [row["name"] for row in section["rows"]] == ["frozen ViT, zero-shot", "PGN"]
    (kept,) = (tmp_path / "out" / "results").glob("pgn_*.json")
    job = json.loads(kept.read_text())["job"]
    assert (job["config"]["library"], job["config"]["resolution"], job["schedule"]["augment"]) == (8, 16, "none")
    assert (job["schedule"]["epochs"], job["schedule"]["batch"]) == (1, 4), "typed options go before the recipe"


def test_compare_takes_a_head_for_each_data_set(call, class_folder: Path, recipe: Path, use_tiny_backbone, tmp_path):
    options = ("--recipe", recipe, "--only", "fixed-patch", "--rates", 1, "-o", tmp_path / "out", "--json")
    done = call("compare", "--data", class_folder, *QUICK, "--head", f"{class_folder}=identity", *options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sections"][0]["rows"][0]["head"] == "identity"


def test_a_head_of_the_recipe_is_that_of_all_data_sets(call, class_folder: Path, use_tiny_backbone, tmp_path: Path):
    (tmp_path / "toy.toml").write_text(TOY + "head = 'frequency'\n")
    options = ("--recipe", tmp_path / "toy.toml", "--only", "padding", "--rates", 1, "-o", tmp_path / "out", "--json")
    done = call("compare", "--data", class_folder, *QUICK, *options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sections"][0]["rows"][0]["head"] == "frequency"


def test_a_backbone_of_the_recipe_is_taken_unless_another_is_typed(refusal, tmp_path: Path):
    (tmp_path / "toy.toml").write_text("backbone = 'elsewhere'\n")
    command = ("compare", "--data", "digits", "--recipe", tmp_path / "toy.toml", "-o", tmp_path / "out")
    assert "got 'elsewhere'" in refusal(*command)
    assert "got 'typed'" in refusal(*command, "--backbone", "typed")


def test_a_contender_that_fails_is_told_after_the_tables(call, class_folder: Path, use_tiny_backbone, tmp_path: Path):
    (tmp_path / "wild.toml").write_text("clip = 0\nlr = 3e36\n")
    options = ("--recipe", tmp_path / "wild.toml", "--only", "zero-shot,padding", "--rates", 1, "-o", tmp_path / "out")
    done = call("compare", "--data", class_folder, *QUICK, *options)
    assert done.exit_code == 1
    assert "│ frozen ViT" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("pgn-edge: visual prompt, padding on ")
    assert "expected" in done.stderr.splitlines()[-1]
    assert (tmp_path / "out" / "compare.html").exists()


def test_ablate_has_a_table_for_each_grid(call, class_folder: Path, recipe: Path, use_tiny_backbone, tmp_path: Path):
    grids = ("--grid", "resolution=16,65", "--grid", "mixing=softmax,sigmoid")
    command = ("ablate", "--data", class_folder, *QUICK, "--recipe", recipe, *grids, "-o", tmp_path / "out")
    done = call(*command, "--json")
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)["sections"]
    assert [row["name"] for row in first["rows"]] == ["16 (default)", "65"]
    assert first["rows"][1]["problem"].startswith("not possible: generator resolution")
    assert [row["name"] for row in second["rows"]] == ["softmax (default)", "sigmoid"]
    assert second["rows"][0]["accuracies"] == first["rows"][0]["accuracies"]
    assert "mixing on" in call(*command).stdout


def test_an_interrupted_comparison_goes_on(call, class_folder: Path, recipe: Path, tmp_path: Path):
    options = ("--only", "fixed-patch", "--rates", "1", "--recipe", str(recipe), "-o", str(tmp_path / "out"))
    size = ("--epochs", "100000", "--warm-start", "0", "--batch", "4", "--seeds", "1", "--device", "cpu")
    command = [sys.executable, "-m", "pgn_edge", "compare", "--data", str(class_folder), *size, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        limit = time.monotonic() + 60
        while not list(tmp_path.glob("out/checkpoints/*.resume.pt")):
            assert time.monotonic() < limit
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    last = errors.strip().splitlines()[-1]
    assert last.startswith("pgn-edge: series: expected 1 runs, got SIGTERM after step "), errors
    assert last.endswith("start the same command again: it goes on where it stopped")
    assert not list(tmp_path.glob("out/results/*"))


def test_the_typed_names_are_those_of_the_library():
    assert tuple(CONTENDERS) == TYPED_CONTENDERS
    assert HEADS == TYPED_HEADS


def test_only_given_twice_takes_both(call, class_folder: Path, monkeypatch: pytest.MonkeyPatch):
    from pgn_edge.train import compare as module

    asked = []
    monkeypatch.setattr(module, "compare", lambda *given: asked.append(given[0]) or [])
    options = ("--only", "zero-shot", "--only", "pgn,cnn", "--rates", 1, "--rates", "3,1")
    assert call("compare", "--data", class_folder, *options).exit_code == 0
    assert (asked[0].only, asked[0].rates) == (("zero-shot", "pgn", "cnn"), (1.0, 3.0))
    assert call("compare", "--data", class_folder).exit_code == 0
    assert (asked[1].only, asked[1].rates) == ((), (0.03, 0.3, 1.0, 3.0))


# Refusals.


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--only", "pgns"), "'pgns' is not one of"),
        (("--rates", "fast"), "'fast' is not a valid float"),
        (("--head", "linear"), "'linear' is not NAME=HEAD"),
        (("--head", "digits=best"), "'best' is not one of"),
        (("--seeds", 0), "0 is not in the range"),
    ],
    ids=["contender", "rate", "head without a name", "head", "no seed"],
)
def test_wrong_usage(call, options: tuple, reason: str):
    done = call("compare", "--data", "digits", *options)
    assert done.exit_code == 2
    assert reason in done.stderr


def test_refused_in_one_line(refusal, tmp_path: Path):
    assert "each once, got a, a" in refusal("compare", "--data", "a", "--data", "a", "-o", tmp_path / "out")
    assert "did you mean prompts" in refusal("ablate", "--data", "a", "--grid", "promts=1", "-o", tmp_path / "out")
    assert "recipe: expected" in refusal("ablate", "--data", "a", "--grid", "prompts=1", "--recipe", "no.toml")


@pytest.mark.parametrize("command", [("compare",), ("ablate", "--grid", "prompts=1")], ids=lambda words: words[0])
def test_no_such_data_leaves_nothing_behind(refusal, command: tuple[str, ...], tmp_path: Path):
    line = refusal(*command, "--data", tmp_path / "none", "-o", tmp_path / "out")
    assert "a folder of classes or a .csv" in line


def test_a_folder_that_cannot_be_made(refusal, class_folder: Path, use_tiny_backbone, tmp_path: Path):
    (tmp_path / "file").write_text("")
    line = refusal("compare", "--data", class_folder, "--only", "zero-shot", "-o", tmp_path / "file" / "out")
    assert "expected a folder that can be made" in line
