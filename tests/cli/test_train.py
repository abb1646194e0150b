"""`pgn-edge train`, as a user calls it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgn_edge.cli.train import GROUPS, train
from pgn_edge.nn.checkpoint import load_checkpoint

QUICK = ("--epochs", 1, "--warm-start", 1, "--batch", 4, "--resolution", 32)


def test_train_writes_a_checkpoint_and_says_what_comes_next(
    call, class_folder: Path, use_tiny_backbone, tmp_path: Path
):
    output = tmp_path / "ckpt.pt"
    done = call("train", "--data", class_folder, *QUICK, "-o", output)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{output}: validation accuracy ")
    assert len(done.stdout.splitlines()) == 1
    assert f"pgn-edge export {output}" in done.stdout
    assert load_checkpoint(output).head.labels == ("0", "1")


@pytest.fixture
def own_classes(class_folder: Path, tmp_path: Path, names: tuple[str, str]) -> Path:
    """`class_folder` with other names."""
    for number, name in enumerate(names):
        shutil.copytree(class_folder / str(number), tmp_path / "own" / name)
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("names", "head", "why"),
    [
        (("0", "1"), "zero-shot", "the frozen model can name the classes"),
        (("cat", "dog"), "iterative", "its outputs are mapped to them"),
    ],
    ids=["classes that the model names", "own classes"],
)
def test_train_on_own_classes_without_a_head_option_takes_one_that_fits_and_says_why(
    call, own_classes: Path, use_tiny_backbone, tmp_path: Path, head: str, why: str
):
    output = tmp_path / "ckpt.pt"
    done = call("train", "--data", own_classes, *QUICK, "-o", output, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["head"] == head
    assert load_checkpoint(output).provenance["config"]["head"] == head
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("head for ")]
    assert f": {head}, since" in said
    assert said.endswith(why)


def test_a_recipe_may_say_auto_and_a_finished_run_resumes(call, class_folder: Path, use_tiny_backbone, tmp_path: Path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('head = "auto"\n')
    command = ("train", "--data", class_folder, *QUICK, "--recipe", recipe, "-o", tmp_path / "ckpt.pt", "--json")
    assert [json.loads(call(*command, *more).stdout)["head"] for more in ((), ("--resume",))] == ["zero-shot"] * 2


def test_train_json_is_one_document(call, class_folder: Path, use_tiny_backbone, tmp_path: Path):
    output = tmp_path / "ckpt.pt"
    options = (
        "--generator",
        "constant",
        "--head",
        "linear",
        "--layout",
        "inset",
        "--optimizer",
        "sgd",
        "--augment",
        "none",
    )
    folder = ("--root", class_folder.parent, "--data", class_folder.name)
    done = call("train", *folder, "--epochs", 2, *options, "--augment", "none", "-o", output, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["path"] == str(output)
    assert len(document["loss"]) == len(document["validation"]) == 2
    assert document["validation_accuracy"] == document["validation"][document["best_epoch"] - 1]
    assert document["images_per_s"] > 0
    assert len(document["waiting"]) == 2
    assert (document["left_out"], len(document["notes"])) == ({}, 1)
    schedule = load_checkpoint(output).provenance["schedule"]
    assert (schedule["optimizer"], schedule["augment"], schedule["epochs"]) == ("sgd", "none", 2)


@pytest.mark.parametrize("layout", ["append", "inset"])
def test_a_pixel_library_trains_and_exports(call, class_folder: Path, use_tiny_backbone, tmp_path: Path, layout: str):
    options = ("--library-space", "pixel", "--prompts", "auto", "--layout", layout, "-o", tmp_path / "ckpt.pt")
    done = call("train", "--data", class_folder, *QUICK, *options)
    assert done.exit_code == 0, done.output
    config = load_checkpoint(tmp_path / "ckpt.pt").pgn.config
    assert (config.space, config.width, config.prompts) == ("pixel", 192, 16)
    done = call("export", tmp_path / "ckpt.pt", "--fp16", "--json")
    assert done.exit_code == 0, done.output
    certificate = json.loads(done.stdout)["certificate"]
    assert (certificate["library_space"], certificate["proven_legal"]) == ("pixel", True)


def test_transport_and_weights_are_said_and_name_the_export_that_fits(
    call, class_folder: Path, use_tiny_backbone, tmp_path: Path
):
    output = tmp_path / "ckpt.pt"
    hosted = ("--recipe", "hosted-api", "--transport", "jpeg:75")
    command = ("train", "--data", class_folder, *QUICK, *hosted, "--weights", "my vit.pt", "-o", output)
    said = call(*command).stdout
    assert " behind jpeg:75 after epoch " in said
    assert said.endswith(f"next: pgn-edge export {output} --uint8 --transport jpeg:75 --weights 'my vit.pt'\n")
    checkpoint = load_checkpoint(output)
    assert str(checkpoint.transport) == "jpeg:75"
    assert (checkpoint.pgn.config.space, checkpoint.geometry.layout) == ("pixel", "inset")
    assert json.loads(call(*command, "--json").stdout)["transport"] == "jpeg:75"


def test_resume_after_the_end_trains_nothing_and_answers_the_same(
    call, class_folder: Path, use_tiny_backbone, tmp_path: Path
):
    command = ("train", "--data", class_folder, *QUICK, "-o", tmp_path / "ckpt.pt", "--json")
    first = json.loads(call(*command).stdout)
    written = (tmp_path / "ckpt.pt").stat().st_mtime_ns
    second = json.loads(call(*command, "--resume").stdout)
    assert (first["loss"], first["validation"]) == (second["loss"], second["validation"])
    assert (tmp_path / "ckpt.pt").stat().st_mtime_ns == written


# Refusals.


def test_a_folder_without_classes(refusal, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "at least two class folders" in refusal("train", "--data", tmp_path / "empty", "-o", tmp_path / "ckpt.pt")


def test_a_transport_of_tokens(refusal, class_folder: Path, tmp_path: Path):
    line = refusal("train", "--data", class_folder, "--transport", "png", "-o", tmp_path / "ckpt.pt")
    assert "--library-space pixel" in line


def test_images_of_which_none_decodes(refusal, tmp_path: Path):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        for index in range(3):
            (tmp_path / name / f"{index}.png").write_bytes(b"no image")
    line = refusal("train", "--data", tmp_path, "-o", tmp_path / "ckpt.pt")
    assert str(tmp_path / "0" / "") in line
    assert "class 0: expected at least one image that can be read, got none of" in line


@pytest.fixture
def torn_folder(class_folder: Path, tmp_path: Path) -> Path:
    """`class_folder` with six torn images in class 0."""
    folder = tmp_path / "torn"
    shutil.copytree(class_folder, folder)
    for index in range(6):
        whole = (folder / "0" / f"{index}.png").read_bytes()
        (folder / "0" / f"torn{index}.png").write_bytes(whole[:-40])
    return folder


def test_images_that_do_not_decode_are_told_in_one_line(call, torn_folder: Path, use_tiny_backbone, tmp_path: Path):
    done = call("train", "--data", torn_folder, *QUICK, "-o", tmp_path / "ckpt.pt")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 1
    last = done.stderr.splitlines()[-1]
    assert "images that cannot be read (" in last
    document = json.loads(call("train", "--data", torn_folder, *QUICK, "-o", tmp_path / "ckpt.pt", "--json").stdout)
    lost = document["left_out"]["unreadable_image"]
    assert last.startswith(f"left out: {lost['count']} images")
    assert "torn" in lost["first"]


def test_strict_refuses_them(refusal, torn_folder: Path, use_tiny_backbone, tmp_path: Path):
    line = refusal("train", "--data", torn_folder, *QUICK, "-o", tmp_path / "ckpt.pt", "--strict")
    assert "torn" in line
    assert "whole to its last byte" in line


def test_a_typed_option_goes_before_the_recipe_and_the_recipe_before_the_default(
    call, class_folder: Path, use_tiny_backbone, tmp_path: Path
):
    recipe, output = tmp_path / "mine.toml", tmp_path / "ckpt.pt"
    recipe.write_text('epochs = 2\nwarm_start = 0\nprompts = 8\ngenerator = "constant"\n')
    done = call("train", "--data", class_folder, "--epochs", 1, "--recipe", recipe, "-o", output)
    assert done.exit_code == 0, done.output
    made = load_checkpoint(output).provenance
    assert (made["schedule"]["epochs"], made["schedule"]["warm_start"], made["schedule"]["batch"]) == (1, 0, 32)
    assert (made["config"]["prompts"], made["config"]["generator"]) == (8, "constant")


def test_a_recipe_that_is_wrong(refusal, class_folder: Path, tmp_path: Path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("epoch = 2")
    assert "did you mean epochs?" in refusal("train", "--data", class_folder, "--recipe", recipe)
    assert "paper, or a TOML file" in refusal("train", "--data", class_folder, "--recipe", "papre")


def test_the_help_has_every_option_in_one_group(call):
    text = call("train", "--help").stdout
    for param in train.params:
        assert text.count(f"  {param.opts[-1]}") + text.count(f", {param.opts[-1]} ") >= 1, param.name
    heads = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert heads == [*GROUPS, "Other"]


def test_the_curves_and_the_device(call, class_folder: Path, use_tiny_backbone, tmp_path: Path):
    options = ("--device", "cpu", "--workers", 1, "--log-dir", tmp_path / "log", "--precision", "bf16", "--patience", 1)
    done = call("train", "--data", class_folder, *QUICK, *options, "-o", tmp_path / "ckpt.pt")
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "log").glob("events.*"))
    assert list((tmp_path / "log" / "warm-start").glob("events.*"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(("--data", "nowhere"), "a folder of classes or a .csv", id="no such data"),
        pytest.param(("--backbone", "resnet"), "expected builtin, open_clip", id="no such backbone"),
        pytest.param(("--weights", "weights.pt"), "leave it out", id="weights for builtin"),
        pytest.param(("--resolution", "128"), "at most the image width", id="resolution"),
        pytest.param(("--rounded",), "--library-space pixel", id="rounded tokens"),
        pytest.param(("--device", "no-such-device"), "a device that is there", id="no such device"),
        pytest.param(("--precision", "fp16", "--device", "cpu"), "fp32 or bf16 on a CPU", id="fp16 on a CPU"),
        pytest.param(("--accumulate", "20"), "half of the batch", id="more parts than images"),
        pytest.param(("--generator", "constant", "--library", "3"), "leave --library out", id="library of constants"),
        pytest.param(("--layout", "inset", "--prompts", "100"), "at most 56", id="no room for the image"),
        pytest.param(("--lr", "0"), "positive learning rate", id="rate of zero"),
        pytest.param(("--lr", "nan"), "learning rate", id="rate that is no number"),
        pytest.param(("--weight-decay", "-1"), "weight decay", id="negative decay"),
    ],
)
def test_options_that_do_not_fit(refusal, class_folder: Path, tmp_path: Path, options: tuple[str, ...], says: str):
    assert says in refusal("train", "--data", class_folder, *QUICK[:4], "-o", tmp_path / "ckpt.pt", *options)


def test_names_that_builtin_cannot_read(refusal, class_folder: Path, tmp_path: Path):
    for source, name in (("0", "cat"), ("1", "dog")):
        (tmp_path / name).symlink_to(class_folder / source)
    command = ("train", "--data", tmp_path, "--head", "zero-shot", "-o", tmp_path / "ckpt.pt")
    assert "--head linear" in refusal(*command)


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_an_output_that_cannot_be_written(refusal, class_folder: Path, tmp_path: Path, folder: str):
    (tmp_path / "file").write_text("no folder")
    output = tmp_path / folder / "ckpt.pt"
    assert refusal("train", "--data", class_folder, *QUICK, "-o", output).startswith(f"pgn-edge: {output}: ")


def test_a_truncated_state_to_resume_from(refusal, class_folder: Path, use_tiny_backbone, tmp_path: Path):
    (tmp_path / "ckpt.resume.pt").write_bytes(b"PK\x03\x04 the beginning of a zip")
    line = refusal("train", "--data", class_folder, *QUICK, "-o", tmp_path / "ckpt.pt", "--resume")
    assert "ckpt.resume.pt" in line


def test_divergence_is_told_in_the_last_line(call, class_folder: Path, use_tiny_backbone, tmp_path: Path):
    options = (*QUICK, "--warm-start", 0, "--optimizer", "sgd", "--lr", 1e38)
    done = call("train", "--data", class_folder, *options, "-o", tmp_path / "ckpt.pt")
    assert done.exit_code == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("pgn-edge: training: expected a finite loss")
    assert "lower --lr" in last


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--data", "x", "--batch", "1"),
        ("--data", "x", "--generator", "vit"),
        ("--data", "x", "--epochs", "0"),
        ("--data", "x", "--lr", "fast"),
        ("--data", "x", "--no-such-option"),
    ],
    ids=["no data", "a batch of one", "unknown generator", "no epochs", "no number", "unknown option"],
)
def test_wrong_usage_is_status_2(call, options: tuple[str, ...]):
    done = call("train", *options)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr
    assert "Error: " in done.stderr
    assert done.stdout == ""


def test_sigterm_in_mid_training_leaves_whole_files_and_says_how_to_go_on(class_folder: Path, tmp_path: Path):
    # Epochs are short here, so the signal meets a file being written as well as a step.
    command = [
        sys.executable, "-m", "pgn_edge", "train", "--data", class_folder, "--generator", "constant",
        "--epochs", "100000", "-o", tmp_path / "ckpt.pt",
    ]  # fmt: skip
    wanted = {tmp_path / "ckpt.pt", tmp_path / "ckpt.resume.pt"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not all(path.exists() for path in wanted):
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, written = process.communicate(timeout=60)
    assert process.returncode == 143
    last = written.splitlines()[-1]
    assert last.startswith("pgn-edge: training: expected to reach step 100000, got SIGTERM after step ")
    assert last.endswith("; go on with the same command and --resume")
    assert set(tmp_path.iterdir()) == wanted
    assert load_checkpoint(tmp_path / "ckpt.pt").head.labels == ("0", "1")
