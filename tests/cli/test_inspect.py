"""`pgn-edge inspect`, as a user calls it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pgn_edge.bundle import read_bundle, write_bundle
from pgn_edge.export.inspection import inspect_file
from pgn_edge.sidecar import Sidecar, sidecar_path, write_sidecar


@pytest.fixture(autouse=True)
def _narrow_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def plan(tiny_pair, tmp_path: Path) -> Path:
    path = tmp_path / "task.plan"
    path.write_bytes(b"no plan of any backend")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = read_bundle(tiny_pair.task).facts
    write_sidecar(path, Sidecar(digest, "ab" * 32, "tensorrt-rtx", "1.2.3", ("sm_86",), (1, 1, 8), facts))
    return path


@pytest.fixture
def files(tiny_pair, tiny_vit_fp16: Path, tiny_checkpoint: Path, plan: Path) -> dict[str, Path]:
    return {"bundle": tiny_pair.task_fp16, "onnx": tiny_vit_fp16, "plan": plan, "checkpoint": tiny_checkpoint}


@pytest.mark.parametrize("kind", ["bundle", "onnx", "plan", "checkpoint"])
def test_json_is_one_document_with_all_that_the_library_tells(call, files: dict[str, Path], kind: str):
    done = call("inspect", files[kind], "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document == json.loads(json.dumps(inspect_file(files[kind]).to_json()))
    assert document["kind"] == kind


SHOWN = {
    "bundle": ["fp16", "Certificate", "condition", "Parity ladder", "onnxruntime fp16", "10 labels: 0, 1", "float16"],
    "onnx": ["fp16", "canvas (input)", "float32 (batch, 3, 80, 64)", "opset", "LayerNormalization", "Largest tensors"],
    "plan": ["tensorrt-rtx", "1.2.3", "sm_86", "1, 1, 8", "fp32"],
    "checkpoint": ["resnet10", "10 labels: 0, 1", "noise"],
}


def test_the_type_of_a_canvas_is_shown(call, pixel_pair):
    for path in (pixel_pair.vit, pixel_pair.task):
        shown = " ".join(call("inspect", path).stdout.split())
        assert "uint8 (batch, 80, 64, 3)" in shown
        facts = json.loads(call("inspect", path, "--json").stdout)["facts"]
        assert (facts["canvas"], facts["transport"]) == ("uint8", "lossless")
        assert "transport" in shown


@pytest.mark.parametrize("kind", SHOWN)
def test_text_is_whole_at_80_columns(call, files: dict[str, Path], kind: str):
    done = call("inspect", files[kind])
    assert (done.exit_code, done.stderr) == (0, "")
    found = inspect_file(files[kind])
    for text in (*SHOWN[kind], kind, found.sha256, "64 x 64", "80 x 64"):
        assert text in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    # Folded over two lines by the table, and whole.
    letters = "".join(character for character in done.stdout if character.isalnum())
    assert found.sections["facts"]["fingerprint"][:50] in letters
    assert found.sections["facts"]["fingerprint"][50:] in letters


def test_a_foreign_onnx_says_so(call, tmp_path: Path):
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "foreign", [x], [y]))
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    done = call("inspect", tmp_path / "foreign.onnx")
    assert done.exit_code == 0
    assert "not exported by pgn-edge" in done.stdout
    assert "x (input)" in done.stdout
    assert "float32 (n, 3)" in done.stdout


def test_names_from_a_file_cannot_write_on_the_terminal(call, tiny_pair, tmp_path: Path):
    bundle = read_bundle(tiny_pair.task)
    labels = ("[bold]", "[/red]", *bundle.head.labels[2:])  # with escapes, a bundle is refused
    provenance = {"[/]\x1b": "[link=x]\x1b[1m", "steps": [{"\x1b[3m": "\r"}]}
    odd = replace(bundle, name="[red]\x1b]0;x\x07", head=replace(bundle.head, labels=labels), provenance=provenance)
    write_bundle(tmp_path / "odd.pgn", odd)
    done = call("inspect", tmp_path / "odd.pgn")
    assert done.exit_code == 0, done.output
    for text in ("[red]", "[bold]", "[/]", "[link=x]"):
        assert text in done.stdout
    assert not {character for character in done.stdout if not character.isprintable()} - {"\n"}
    difference = call("inspect", tiny_pair.task, "--diff", tmp_path / "odd.pgn")
    assert "labels[0]: 0 -> [bold]" in difference.stdout
    assert not {character for character in difference.stdout if not character.isprintable()} - {"\n"}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"parity": ({}, {"rung": None, "cosine": [1, {"x": None}]})}, id="rungs of anything"),
        pytest.param({"certificate": {"": {}, "condition": [], "residual": {"a": None}}}, id="an odd certificate"),
        pytest.param({"numerics": {"kept_float32": {"node": [[]]}}}, id="odd numerics"),
        pytest.param({"provenance": {"size_hw": 5, "": [], "a": [{"b": [{}]}], "c": [1, "x"]}}, id="odd provenance"),
    ],
)
def test_json_of_another_form_is_shown_all_the_same(call, tiny_pair, tmp_path: Path, changes: dict):
    with zipfile.ZipFile(tiny_pair.task) as whole, zipfile.ZipFile(tmp_path / "odd.pgn", "w") as odd:
        for name in whole.namelist():
            manifest = {**json.loads(whole.read(name)), **changes} if name == "manifest.json" else None
            odd.writestr(zipfile.ZipInfo(name), json.dumps(manifest) if manifest else whole.read(name))
    assert call("inspect", tmp_path / "odd.pgn").exit_code == 0
    assert call("inspect", tiny_pair.task, "--diff", tmp_path / "odd.pgn").exit_code == 1
    document = json.loads(call("inspect", tmp_path / "odd.pgn", "--json").stdout)
    for name, value in changes.items():
        assert document[name] == json.loads(json.dumps(value))


def test_lists_of_objects_are_tables(call, tiny_vit_fp16: Path, tmp_path: Path):
    import onnx

    kept = [{"node": "/blocks.0/attention/MatMul", "reason": "range", "max_abs": 70000.0, "rounding": 0.001}]
    numerics = {"kept_float32": kept, "frames": 24}
    model = onnx.load(tiny_vit_fp16)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**metadata, "pgn_edge.numerics": json.dumps(numerics)})
    (tmp_path / "vit.onnx").write_bytes(model.SerializeToString())
    done = call("inspect", tmp_path / "vit.onnx")
    assert "Numerics: kept float32" in done.stdout
    for text in ("/blocks.0/attention/MatMul", "range", "70000", "0.001"):
        assert text in done.stdout


# Differences.


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["for people", "for programs"])
def test_the_same_content_is_status_0(call, tiny_pair, tmp_path: Path, options: tuple[str, ...]):
    shutil.copy(tiny_pair.task, tmp_path / "copy.pgn")
    done = call("inspect", tiny_pair.task, "--diff", tmp_path / "copy.pgn", *options)
    assert (done.exit_code, done.stderr) == (0, "")
    if options:
        assert json.loads(done.stdout)["differences"] == []
    else:
        assert done.stdout == ""


def test_a_difference_is_status_1_and_a_line(call, tiny_pair):
    done = call("inspect", tiny_pair.task, "--diff", tiny_pair.task_fp16)
    assert (done.exit_code, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert "facts.precision: fp32 -> fp16" in lines
    assert [line for line in lines if line.startswith("graph.arithmetic.Conv.float16: absent -> ")]
    assert not [line for line in lines if line.startswith(("facts.geometry", "labels"))]


def test_every_digit_of_a_difference(call, tiny_pair, tmp_path: Path):
    bundle = read_bundle(tiny_pair.task)
    for name, seed in {"a": 0.123456789, "b": 0.123456788}.items():
        write_bundle(tmp_path / name, replace(bundle, provenance={"seed": seed}))
    done = call("inspect", tmp_path / "a", "--diff", tmp_path / "b")
    assert "provenance.seed: 0.123456789 -> 0.123456788" in done.stdout.splitlines()


def test_differences_as_json(call, tiny_pair):
    done = call("inspect", tiny_pair.task, "--diff", tiny_pair.task_fp16, "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert (document["a"], document["b"]) == (str(tiny_pair.task), str(tiny_pair.task_fp16))
    by_path = {entry["path"]: entry for entry in document["differences"]}
    assert by_path["facts.precision"] == {"path": "facts.precision", "a": "fp32", "b": "fp16"}
    assert set(by_path["parity[onnxruntime fp16]"]) == {"path", "b"}


# Refusals.


@pytest.mark.parametrize("options", [(), ("--json",), ("--diff",)], ids=["for people", "for programs", "difference"])
@pytest.mark.parametrize("spoil", ["bundle", "onnx", "plan", "lonely plan", "checkpoint", "text", "empty", "folder"])
def test_files_that_are_refused(refusal, files: dict[str, Path], tmp_path: Path, spoil: str, options: tuple[str, ...]):
    path = tmp_path / "bad" / "file"
    path.mkdir(parents=True)
    if spoil != "folder":
        path = path / {"lonely plan": "a.plan"}.get(spoil, "a")
        whole = {**files, "lonely plan": files["plan"]}.get(spoil)
        data = {"text": b"words", "empty": b""}.get(spoil)
        path.write_bytes(whole.read_bytes()[:-7] if whole else data or b"")
    if spoil == "plan":
        shutil.copy(sidecar_path(files["plan"]), sidecar_path(path))
    against = (files["bundle"],) if options == ("--diff",) else ()
    assert refusal("inspect", path, *options, *against).startswith(f"pgn-edge: {path}")


def test_no_such_file(refusal, tiny_pair, tmp_path: Path):
    for arguments in (("missing",), (tiny_pair.task, "--diff", "missing")):
        assert "missing: expected a file that can be read" in refusal("inspect", *arguments)


def test_the_help_tells_the_exit_status(call):
    done = call("inspect", "--help")
    assert done.exit_code == 0
    assert "status is 0 where both files hold the same and 1 where they differ" in " ".join(done.stdout.split())


# Without torch and onnx, in a child process.

BLOCKED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxruntime", "timm", "open_clip"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from pgn_edge.cli import main
main()
"""


def blocked(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("kind", ["bundle", "plan"])
def test_the_base_install_inspects_bundles_and_plans(files: dict[str, Path], kind: str):
    done = blocked("inspect", files[kind], "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document, whole = json.loads(done.stdout), inspect_file(files[kind]).to_json()
    if kind == "bundle":
        assert "pip install 'pgn-edge[compile]'" in document["notes"][0]
        del whole["graph"]
    assert {**document, "notes": []} == json.loads(json.dumps(whole))


def test_a_graph_needs_onnx_and_no_torch(files: dict[str, Path]):
    lines = BLOCKED.replace('"onnx", ', "")
    assert lines != BLOCKED
    command = [sys.executable, "-c", lines, "inspect", str(files["onnx"]), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["graph"]


@pytest.mark.parametrize(("kind", "package", "extra"), [("onnx", "onnx", "compile"), ("checkpoint", "torch", "export")])
def test_what_needs_an_extra_names_its_pip_line(files: dict[str, Path], kind: str, package: str, extra: str):
    done = blocked("inspect", files[kind])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"pgn-edge: {package}: expected")
    assert f"pip install 'pgn-edge[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
