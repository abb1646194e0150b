"""What holds for every command: one line for an error, the traceback only when asked for, and the exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from PIL import Image

from pgn_edge import __version__
from pgn_edge.cli import cli
from pgn_edge.errors import InterruptedRunError
from pgn_edge.runtime import pairing
from pgn_edge.runtime.chain import HostChain


def child(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pgn_edge", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.full((16, 16, 3), 128, np.uint8)).save(path)
    return path


# A child process, as in a shell.


def test_version(tmp_path: Path):
    done = child("--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith(__version__)


def test_an_error_is_one_line_and_debug_shows_where_it_came_from(tmp_path: Path):
    arguments = ("predict", "x.png", "--vit", "missing.onnx", "--task", "missing.pgn")
    short, long = child(*arguments, cwd=tmp_path), child("--debug", *arguments, cwd=tmp_path)
    assert (short.returncode, long.returncode) == (1, 1)
    assert short.stdout == long.stdout == ""
    assert short.stderr.startswith("pgn-edge: missing.onnx: expected")
    assert len(short.stderr.splitlines()) == 1
    assert "Traceback (most recent call last)" in long.stderr
    assert short.stderr.removeprefix("pgn-edge: ").strip() in long.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("clip.mp4", b"\x00\x00\x00\x18ftypmp42 and no frames", id="the beginning of an mp4"),
        pytest.param("clip.avi", b"no video", id="text"),
        pytest.param("image.png", b"\x89PNG\r\n\x1a\n and no pixels", id="the beginning of a png"),
    ],
)
def test_a_source_that_does_not_decode(tiny_pair, tmp_path: Path, name: str, data: bytes):
    (tmp_path / name).write_bytes(data)
    options = ("--vit", tiny_pair.vit, "--task", tiny_pair.task, "--output", "out.mp4", "--jsonl", "out.jsonl")
    done = child("run", "--source", name, *options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("pgn-edge: ")
    assert name in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert os.listdir(tmp_path) == [name]


def test_no_command_shows_the_commands(call):
    done = call()
    assert done.exit_code == 2
    for name in (
        *("demo", "train", "import", "export", "export-vit", "compile"),
        *("predict", "run", "bench", "inspect", "doctor", "triton-repo"),
    ):
        assert name in done.stderr


def test_a_command_that_reached_a_network_would_be_seen(reached: list[str]):
    sys.audit("socket.getaddrinfo", "weights.example.org", 443, 0, 0, 0)
    sys.audit("socket.connect", None, ("192.0.2.1", 443))
    sys.audit("socket.connect", None, ("127.0.0.1", 443))
    assert reached == ["socket.getaddrinfo 'weights.example.org'", "socket.connect '192.0.2.1'"]
    reached.clear()


@pytest.mark.parametrize(
    "arguments", [("--no-such-option",), ("predict",), ("no-such-command",)], ids=["option", "argument", "command"]
)
def test_wrong_usage_is_status_2(call, arguments: tuple[str, ...]):
    done = call(*arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr
    assert done.stdout == ""


# Bundles that nobody vouches for.


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


def a_changed_byte(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    return bytes(data)


def a_missing_member(path: Path) -> bytes:
    return zipped({name: data for name, data in members(path).items() if name != "golden.npz"})


def a_path_that_climbs(path: Path) -> bytes:
    return zipped({**members(path), "../climbed": b"out of the folder"})


def a_path_that_climbs_in_place_of_a_member(path: Path) -> bytes:
    return zipped({name.replace("head", "../head"): data for name, data in members(path).items()})


def an_oversized_manifest(path: Path) -> bytes:
    return zipped({**members(path), "manifest.json": b" " * ((4 << 20) + 1)})


def a_bomb(path: Path) -> bytes:
    return zipped({**members(path), "pgn.onnx": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)


def half_a_file(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


def a_changed_label(path: Path) -> bytes:
    parts = members(path)
    manifest = json.loads(parts["manifest.json"])
    manifest["labels"] = manifest["labels"][:-1]
    return zipped({**parts, "manifest.json": json.dumps(manifest).encode()})


@pytest.mark.parametrize(
    "spoil",
    [
        a_changed_byte,
        a_missing_member,
        a_path_that_climbs,
        a_path_that_climbs_in_place_of_a_member,
        an_oversized_manifest,
        a_bomb,
        half_a_file,
        a_changed_label,
    ],
    ids=lambda spoil: spoil.__name__.replace("_", " "),
)
def test_a_bundle_that_was_tampered_with(
    refusal, tiny_pair, image: Path, tmp_path: Path, spoil: Callable[[Path], bytes]
):
    task = tmp_path / "inside" / "task.pgn"
    task.parent.mkdir()
    task.write_bytes(spoil(tiny_pair.task))
    line = refusal("predict", image, "--vit", tiny_pair.vit, "--task", task)
    assert line.startswith(f"pgn-edge: {task}: expected") or line.startswith(f"pgn-edge: {task}: ")
    assert not (tmp_path / "climbed").exists()


def test_the_bundle_of_these_tests_is_good_until_it_is_spoiled(call, tiny_pair, image: Path, tmp_path: Path):
    (tmp_path / "task.pgn").write_bytes(zipped(members(tiny_pair.task)))
    done = call("predict", image, "--vit", tiny_pair.vit, "--task", tmp_path / "task.pgn", "--json")
    assert done.exit_code == 0, done.output


def test_a_frame_without_an_answer_is_no_answer(call, tiny_pair, image: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pairing, "_check_other_size", lambda *_: None)  # the task was loaded while all was well
    monkeypatch.setattr(HostChain, "flaws", lambda chain: ["embedding"] * len(chain.images))
    arguments = ("predict", image, "--vit", tiny_pair.vit, "--task", tiny_pair.task)
    (answer,) = json.loads(call(*arguments, "--json").stdout)["images"]
    assert (answer["label"], answer["top"], answer["degraded"]) == (None, [], "embedding")
    monkeypatch.setenv("COLUMNS", "300")
    printed = call(*arguments).stdout
    assert "degraded: embedding: NaN or Inf" in printed
    assert "%" not in printed


# ViT engines that do not belong.


def foreign_graph(path: Path) -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "foreign", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def another_fingerprint(path: Path) -> bytes:
    model = onnx.load(path)
    for prop in model.metadata_props:
        if prop.key == "pgn_edge.fingerprint":
            prop.value = json.dumps("ab" * 32)
    return model.SerializeToString()


def no_graph(path: Path) -> bytes:
    return b"no ONNX at all"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(foreign_graph, "pgn-edge export-vit", id="an ONNX that is no ViT export"),
        pytest.param(another_fingerprint, "ab" * 32, id="a ViT of another fingerprint"),
        pytest.param(no_graph, "vit.onnx", id="text"),
    ],
)
def test_a_vit_that_does_not_belong(
    refusal, tiny_pair, image: Path, tmp_path: Path, spoil: Callable[[Path], bytes], says: str
):
    (tmp_path / "vit.onnx").write_bytes(spoil(tiny_pair.vit))
    assert says in refusal("predict", image, "--vit", tmp_path / "vit.onnx", "--task", tiny_pair.task)


def test_files_in_each_others_place(refusal, tiny_pair, image: Path):
    refusal("predict", image, "--vit", tiny_pair.task, "--task", tiny_pair.vit)


@pytest.mark.parametrize(
    "data", [b"no image", b"\x89PNG\r\n\x1a\n", b""], ids=["text", "the beginning of a png", "empty"]
)
def test_an_image_that_does_not_decode(refusal, tiny_pair, tmp_path: Path, data: bytes):
    (tmp_path / "bad.png").write_bytes(data)
    line = refusal("predict", tmp_path / "bad.png", "--vit", tiny_pair.vit, "--task", tiny_pair.task)
    assert "bad.png: expected an image" in line


@pytest.mark.parametrize(("got", "status"), [("SIGINT after step 3", 130), ("SIGHUP after step 3", 129), ("a rock", 1)])
def test_the_status_of_an_interrupted_run_names_its_signal(
    monkeypatch: pytest.MonkeyPatch, got: str, status: int
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise InterruptedRunError("training", expected="to reach step 9", got=got, do="go on with --resume")

    monkeypatch.setattr(cli, "commands", {"go": click.Command("go", callback=interrupted)})
    assert CliRunner().invoke(cli, ["go"]).exit_code == status


def test_ctrl_c_is_one_line_and_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "commands", {"go": click.Command("go", callback=interrupted)})
    done = CliRunner().invoke(cli, ["go"])
    assert (done.exit_code, done.stderr) == (130, "pgn-edge: interrupted\n")
