"""`pgn-edge eval`, as a user calls it: torch and deployed side by side."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_edge.cli.eval.subjects import RuntimeSubject, answer
from pgn_edge.errors import DataError
from pgn_edge.heads import Head
from pgn_edge.left_out import LeftOut
from pgn_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from pgn_edge.progress import silent
from pgn_edge.runtime import Runtime, pairing
from pgn_edge.runtime.chain import HostChain
from pgn_edge.train.data.samples import Arrays, Files
from pgn_edge.train.evaluate import compare


def test_torch_and_deployed_agree_on_digits(call, tiny_pair, tiny_checkpoint: Path, use_tiny_backbone):
    options = ("--data", "digits", "--limit", 40, "--vit", tiny_pair.vit, "--json")
    done = call("eval", tiny_checkpoint, tiny_pair.task, tiny_pair.task_fp16, *options)
    assert done.exit_code == 0, done.output
    torch, fp32, fp16 = json.loads(done.stdout)["subjects"]
    assert torch["flips"] is None
    assert (fp32["flips"]["count"], fp32["flips"]["images"]) == (0, 40)
    assert fp32["flips"]["max_abs_score"] <= 1e-4
    assert fp32["top1"] == torch["top1"]
    assert fp32["calibration_error"] == pytest.approx(torch["calibration_error"], abs=1e-4)
    assert 1e-6 < fp16["flips"]["max_abs_score"] < 0.02
    assert "CPUExecutionProvider" in fp32["where"]
    assert torch["where"].startswith("torch on ")


def test_every_subject_is_compared_with_the_first_one(
    call, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone, tmp_path: Path
):
    """The third subject is a copy of the second: against its neighbour it would differ in nothing."""
    first = load_checkpoint(tiny_checkpoint)
    weight = np.random.default_rng(0).normal(0, 1, (10, 128))
    second = replace(first, head=Head.linear(weight, np.zeros(10), first.head.labels))
    save_checkpoint(tmp_path / "second.pt", second)
    shutil.copy(tmp_path / "second.pt", tmp_path / "third.pt")
    subjects = tiny_checkpoint, tmp_path / "second.pt", tmp_path / "third.pt"
    done = call("eval", *subjects, "--data", class_folder, "--split", "train", "--json")
    flips = [subject["flips"] for subject in json.loads(done.stdout)["subjects"]]
    assert flips[0] is None
    assert flips[1]["max_abs_score"] > 0.01
    assert flips[2] == flips[1]


def test_train_eval_export_eval(call, class_folder: Path, tiny_pair, use_tiny_backbone, tmp_path: Path):
    checkpoint, data = tmp_path / "ckpt.pt", ("--data", class_folder)
    quick = ("--epochs", 2, "--warm-start", 1, "--batch", 4, "--resolution", 32, "-o", checkpoint, "--json")
    trained = json.loads(call("train", *data, *quick).stdout)
    (found,) = json.loads(call("eval", checkpoint, *data, "--split", "validation", "--json").stdout)["subjects"]
    assert found["top1"] == trained["validation_accuracy"]
    assert call("export", checkpoint).exit_code == 0
    bundle = checkpoint.with_suffix(".pgn")
    done = call("eval", checkpoint, bundle, *data, "--split", "train", "--vit", tiny_pair.vit, "--json")
    torch, deployed = json.loads(done.stdout)["subjects"]
    assert deployed["flips"]["count"] == 0
    assert deployed["flips"]["max_abs_score"] <= 1e-4
    assert deployed["class_accuracy"] == torch["class_accuracy"]


def test_a_pgn_for_two_data_sets_is_judged_on_one_of_them_and_says_where_images_went(
    call, class_folder: Path, use_tiny_backbone, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "300")
    other, checkpoint = tmp_path / "other", tmp_path / "both.pt"
    shutil.copytree(class_folder, other)
    quick = ("--epochs", 1, "--warm-start", 0, "--batch", 4, "--resolution", 32, "-o", checkpoint)
    done = call("train", "--data", f"{class_folder},{other}", "--head", "tuned", *quick)
    assert done.exit_code == 0, done.output
    alone = json.loads(call("eval", checkpoint, "--data", other, "--split", "train", "--json").stdout)
    (found,) = alone["subjects"]
    assert found["routing"]["asked"] == ["other"]
    assert found["routing"]["sets"] == [class_folder.name, "other"]
    assert sum(found["routing"]["counts"][0]) == found["images"]
    both = call("eval", checkpoint, "--data", f"{class_folder},{other}", "--split", "train")
    assert both.exit_code == 0, both.output
    assert "Data sets told apart" in both.stdout
    assert "top-1 among its 4 classes of all data sets" in both.stdout


@pytest.fixture
def hosted(call, class_folder: Path, use_tiny_backbone, tmp_path: Path) -> Path:
    """A checkpoint that was trained for canvases as PNG."""
    quick = ("--epochs", 1, "--warm-start", 0, "--batch", 4, "--resolution", 32, "-o", tmp_path / "hosted.pt")
    done = call("train", "--data", class_folder, *quick, "--recipe", "hosted-api")
    assert done.exit_code == 0, done.output
    return tmp_path / "hosted.pt"


def test_eight_bits_in_torch_and_deployed_agree(call, hosted: Path, class_folder: Path, tmp_path: Path):
    bundle, engine = hosted.with_suffix(".pgn"), tmp_path / "vit.onnx"
    for command in (
        ("export", hosted, "--uint8", "--transport", "png"),
        ("export-vit", "builtin", "--layout", "inset", "--input", "uint8", "-o", engine),
    ):
        done = call(*command)
        assert done.exit_code == 0, done.output
    data = ("--data", class_folder, "--split", "train", "--json")
    torch, deployed = json.loads(call("eval", hosted, bundle, *data, "--vit", engine).stdout)["subjects"]
    assert re.fullmatch(r"torch on \w+, png", torch["where"])
    assert deployed["flips"]["count"] == 0
    assert deployed["flips"]["max_abs_score"] <= 1e-3


def test_a_checkpoint_is_judged_behind_the_transport_that_is_asked_for(call, hosted: Path, class_folder: Path):
    found = {}
    for name in (None, "none", "png", "jpeg:20"):
        options = () if name is None else ("--transport", name)
        done = call("eval", hosted, "--data", class_folder, "--split", "train", *options, "--json")
        document = json.loads(done.stdout)
        assert document["transport"] == name
        (found[name],) = document["subjects"]
    assert {name: each["where"].partition(", ")[2] for name, each in found.items()} == {
        **{None: "png", "none": "", "png": "png", "jpeg:20": "jpeg:20"}
    }
    likelihood = {name: each["negative_log_likelihood"] for name, each in found.items()}
    assert likelihood[None] == likelihood["png"] == pytest.approx(likelihood["none"], abs=1e-4)
    assert abs(likelihood["jpeg:20"] - likelihood["png"]) > 1e-3


def test_transports_that_no_subject_takes(
    refusal, tiny_pair, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone
):
    data = ("--data", class_folder, "--transport", "jpeg:75")
    assert "--library-space pixel" in refusal("eval", tiny_checkpoint, *data)
    assert "leave --transport out" in refusal("eval", tiny_pair.task, "--vit", tiny_pair.vit, *data)
    assert "jpeg:QUALITY" in refusal("eval", tiny_checkpoint, "--data", class_folder, "--transport", "jpeg")


def test_what_is_printed(call, tiny_pair, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    options = ("--data", class_folder, "--vit", tiny_pair.vit, "--split", "train", "--per-class")
    done = call("eval", tiny_checkpoint, tiny_pair.task, *options)
    assert done.exit_code == 0, done.output
    for words in ("top-1", "95 % interval", "calibration error", "Against the first", "0 of 8 (0.00%) differ"):
        assert words in done.stdout
    assert "Accuracy of each class" in done.stdout
    assert "of its 10 classes it chose among the 2 of the data" in done.stdout
    assert "worst classes" in done.stdout
    assert "top-5" in done.stdout


def test_the_page_is_whole(call, tiny_pair, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone, tmp_path):
    page, numbers = tmp_path / "eval.html", tmp_path / "eval.json"
    options = ("--data", class_folder, "--vit", tiny_pair.vit, "--html", page, "--json-file", numbers)
    done = call("eval", tiny_checkpoint, tiny_pair.task, *options)
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.count("<img") - text.count('width="128"') == 4, "plots, without the gallery of errors"
    assert re.search(r'(src|href)="(?!data:)', text) is None
    (torch, _) = json.loads(numbers.read_text())["subjects"]
    assert f'<td class="n">{torch["top1"]:.2%}</td>' in text


def test_classes_in_another_order_are_the_same_classes(
    call, tiny_checkpoint: Path, use_tiny_backbone, class_folder: Path, tmp_path: Path
):
    data, old = tmp_path / "data", load_checkpoint(tiny_checkpoint)
    shutil.copytree(class_folder / "0", data / "cat")
    shutil.copytree(class_folder / "1", data / "dog")
    rows, found = old.head.weight, []
    for name, index, labels in (("plain.pt", [0, 1], ("cat", "dog")), ("turned.pt", [1, 0], ("dog", "cat"))):
        head = Head.text(rows[index], labels, old.head.scale)
        save_checkpoint(tmp_path / name, replace(old, head=head))
        done = call("eval", tmp_path / name, "--data", data, "--split", "train", "--json")
        assert done.exit_code == 0, done.output
        found += json.loads(done.stdout)["subjects"]
    plain, turned = found
    assert 0 < plain["top1"] < 1
    assert turned["class_accuracy"] == plain["class_accuracy"]
    assert turned["negative_log_likelihood"] == pytest.approx(plain["negative_log_likelihood"])


def test_images_that_cannot_be_read_are_left_out_and_said(
    call, tiny_pair, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone, tmp_path: Path
):
    for label in "01":
        for split, count in (("train", 3), ("test", 3)):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.open(class_folder / label / f"{index}.png").save(folder / f"{index}.png")
    (tmp_path / "data" / "test" / "0" / "1.png").write_bytes(b"no image")
    options = ("--data", tmp_path / "data", "--vit", tiny_pair.vit)
    done = call("eval", tiny_checkpoint, tiny_pair.task, *options, "--json")
    document = json.loads(done.stdout)
    assert (document["images"], document["unreadable"]) == (6, 1)
    assert [subject["images"] for subject in document["subjects"]] == [5, 5]
    printed = call("eval", tiny_checkpoint, tiny_pair.task, *options).stderr
    assert "left out: 1 image that cannot be read (" in printed


def test_a_class_none_of_whose_images_can_be_read_is_counted(
    call, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone, tmp_path: Path
):
    shutil.copytree(class_folder, tmp_path / "data")
    for path in (tmp_path / "data" / "1").iterdir():
        path.write_bytes(b"")
    done = call("eval", tiny_checkpoint, "--data", tmp_path / "data", "--json")
    assert done.exit_code == 0, done.output
    left_out = json.loads(done.stdout)["left_out"]
    assert left_out["class_without_readable_image"] == {"count": 1, "first": "1"}
    assert "1 class without a readable image (1)" in done.stderr


def test_all_images_of_a_folder_are_judged_where_all_are_asked_for(
    call, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone
):
    done = call("eval", tiny_checkpoint, "--data", class_folder, "--split", "all", "--json")
    document = json.loads(done.stdout)
    assert document["images"] == len(list(class_folder.rglob("*.png")))
    assert sum(document["subjects"][0]["class_images"]) == document["images"]
    assert "a fifth of each class is the test split" in done.stderr


def test_a_frame_without_an_answer_is_wrong(
    call, tiny_pair, tiny_checkpoint: Path, class_folder: Path, use_tiny_backbone, monkeypatch
):
    monkeypatch.setattr(pairing, "_check_other_size", lambda *_: None)  # the task was loaded while all was well
    monkeypatch.setattr(HostChain, "flaws", lambda chain: ["embedding"] * len(chain.images))
    options = ("--data", class_folder, "--vit", tiny_pair.vit, "--json")
    torch, deployed = json.loads(call("eval", tiny_checkpoint, tiny_pair.task, *options).stdout)["subjects"]
    assert (deployed["top1"], deployed["degraded"], deployed["negative_log_likelihood"]) == (
        0,
        deployed["images"],
        None,
    )
    assert deployed["flips"]["count"] == deployed["images"]
    assert deployed["flips"]["broken"] == round(torch["top1"] * torch["images"])


def test_batches_answer_as_single_frames_do(tiny_pair, golden_images: np.ndarray, tmp_path: Path):
    samples, order, answers = Arrays(golden_images[:11], np.zeros(11, np.int64), "golden"), np.arange(10), []
    with Runtime(tiny_pair.vit, {"task": tiny_pair.task}) as runtime:
        for batch in (1, 4):
            told = []
            subject = RuntimeSubject(runtime, "task", batch)
            answers.append(answer(subject, samples, order, LeftOut(), lambda *what, told=told: told.append(what)))
            assert told[-1] == ("task", 11, 11)
        nothing = Files([tmp_path / "lost.png"] * 3, np.zeros(3, np.int64))
        with pytest.raises(DataError, match=r"lost\.png"):
            answer(RuntimeSubject(runtime, "task", 2), nothing, order, LeftOut(), silent)
    flips = compare(*answers, samples.labels)
    assert (flips.images, flips.count) == (11, 0)
    assert flips.max_abs <= 1e-5


# Refusals.


def test_bundles_need_an_engine_and_an_engine_a_bundle(refusal, tiny_pair, tiny_checkpoint: Path):
    assert "give it: --vit vit.onnx" in refusal("eval", tiny_pair.task, "--data", "digits")
    line = refusal("eval", tiny_checkpoint, "--data", "digits", "--vit", tiny_pair.vit)
    assert "leave --vit out" in line


def test_subjects_of_another_kind_or_twice(refusal, tiny_pair, tiny_checkpoint: Path):
    line = refusal("eval", tiny_pair.vit, "--data", "digits")
    assert "expected a training checkpoint or a task bundle, got a ViT engine" in line
    assert "name it once" in refusal("eval", tiny_checkpoint, tiny_checkpoint, "--data", "digits")


def test_data_with_a_class_that_the_subject_lacks(
    refusal, class_folder: Path, tiny_checkpoint: Path, use_tiny_backbone, tmp_path: Path
):
    shutil.copytree(class_folder, tmp_path / "data")
    (tmp_path / "data" / "1").rename(tmp_path / "data" / "dog")
    assert "expected a class 'dog'" in refusal("eval", tiny_checkpoint, "--data", tmp_path / "data")


def test_a_checkpoint_of_another_vit(refusal, tiny_checkpoint: Path):
    assert "--weights FILE" in refusal("eval", tiny_checkpoint, "--data", "digits")


def test_outputs_are_checked_before_the_work(refusal, tiny_checkpoint: Path, tmp_path: Path):
    for option in ("--json-file", "--html"):
        line = refusal("eval", tiny_checkpoint, "--data", "digits", option, tmp_path / "no" / "file")
        assert "a file in a folder that exists" in line


def test_images_of_which_none_can_be_read(refusal, class_folder: Path, tiny_checkpoint, use_tiny_backbone, tmp_path):
    for label in "01":
        for index in range(3):
            (tmp_path / "bad" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "bad" / label / f"{index}.png").write_bytes(b"no image")
    assert "at least one that can be read" in refusal("eval", tiny_checkpoint, "--data", tmp_path / "bad")
