"""A plan is code that the driver runs: nothing of it is used before the sidecar has vouched for it."""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, MissingExtraError, PgnEdgeError
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.sidecar import (
    SIZE_LIMIT,
    Sidecar,
    next_sidecar_path,
    read_sidecar,
    sidecar_path,
    verify_plan,
    write_sidecar,
)

PLAN = b"a plan, as far as this test is concerned"
FACTS = EngineFacts(
    "vit", "builtin", "ab" * 32, Geometry((64, 64), 8, 16), Preprocess((64, 64)), "fp16", 20, "embedding"
)
SIDECAR = Sidecar(
    plan_sha256=hashlib.sha256(PLAN).hexdigest(),
    onnx_sha256="cd" * 32,
    backend="tensorrt-rtx",
    backend_version="1.2.3",
    targets=("sm_86", "sm_120"),
    batch=(1, 1, 8),
    facts=FACTS,
    source="my vit.onnx",
    options=("--max-batch", "8", "--workspace", "512"),
)
COMMAND = "pgn-edge compile 'my vit.onnx' --backend tensorrt-rtx"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "vit.plan"
    path.write_bytes(PLAN)
    write_sidecar(path, SIDECAR)
    return path


def test_round_trip(plan: Path):
    assert read_sidecar(plan) == SIDECAR


def test_a_sidecar_of_an_earlier_version_is_read(plan: Path):
    path = sidecar_path(plan)
    data = json.loads(path.read_text())
    for key in ("version_compatible", "source", "options"):
        del data[key]
    path.write_text(json.dumps(data))
    assert read_sidecar(plan) == replace(SIDECAR, source="", options=())


def test_it_stands_beside_the_plan_and_leaves_it_alone(plan: Path):
    assert sidecar_path(plan) == plan.with_name("vit.plan.json")
    assert sorted(path.name for path in plan.parent.iterdir()) == ["vit.plan", "vit.plan.json"]
    assert plan.read_bytes() == PLAN


@pytest.mark.parametrize("offset", [0, len(PLAN) // 2, len(PLAN) - 1])
def test_a_changed_byte_is_refused_with_both_values(plan: Path, offset: int):
    data = bytearray(PLAN)
    data[offset] ^= 1
    plan.write_bytes(data)
    with pytest.raises(EngineError) as caught:
        read_sidecar(plan)
    assert SIDECAR.plan_sha256 in str(caught.value)
    assert hashlib.sha256(data).hexdigest() in str(caught.value)


@pytest.mark.parametrize("missing", ["vit.plan", "vit.plan.json"])
def test_one_without_the_other_is_refused(plan: Path, missing: str):
    (plan.parent / missing).unlink()
    with pytest.raises(EngineError, match=missing):
        read_sidecar(plan)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"format": "another"}, id="foreign format"),
        pytest.param({"schema": 2}, id="a later schema"),
        pytest.param({"batch": [1, 8]}, id="two batch sizes"),
        pytest.param({"batch": [1, 1, float("inf")]}, id="Infinity"),
        pytest.param({"targets": None}, id="null for a list"),
        pytest.param({"facts": {}}, id="no facts"),
        pytest.param({"facts": []}, id="facts are a list"),
        pytest.param({"plan_sha256": ""}, id="no hash"),
        pytest.param({"options": 3}, id="a number for options"),
    ],
)
def test_a_sidecar_that_makes_no_sense(plan: Path, change: dict[str, Any]):
    path = sidecar_path(plan)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PgnEdgeError):
        read_sidecar(plan)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="truncated"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[" * 100_000, id="nested without end"),
        pytest.param(b" " * (SIZE_LIMIT + 1), id="too large"),
    ],
)
def test_a_file_that_is_no_sidecar(plan: Path, data: bytes):
    sidecar_path(plan).write_bytes(data)
    with pytest.raises(EngineError):
        read_sidecar(plan)


# Before a plan is opened.


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A backend of the version that compiled the plan."""
    known = SimpleNamespace(__members__=dict.fromkeys(("NONE", "SM75", "SM80", "SM86", "SM120")))
    module = SimpleNamespace(__version__="1.2.3", ComputeCapability=known)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def machine(installed: SimpleNamespace, nvidia_smi) -> SimpleNamespace:
    """The same, with a GPU that the plan is for."""
    nvidia_smi("echo 8.6")
    return installed


def refusal(plan: Path, sidecar: Sidecar = SIDECAR, **asked: Any) -> str:
    write_sidecar(plan, sidecar)
    with pytest.raises(EngineError) as caught:
        verify_plan(plan, **asked)
    return str(caught.value)


@pytest.mark.usefixtures("machine")
def test_a_plan_for_this_machine(plan: Path):
    assert verify_plan(plan) == SIDECAR
    assert verify_plan(plan, fingerprint=FACTS.fingerprint, geometry=FACTS.geometry) == SIDECAR


def test_the_hash_comes_before_everything_else(plan: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError):
        verify_plan(plan)
    plan.write_bytes(b"something else")
    assert f"compile it again: {COMMAND} --target sm_86 --target sm_120 --max-batch 8 --workspace 512 -o {plan}" in (
        refusal(plan)
    )


def test_another_version(plan: Path, machine: SimpleNamespace):
    machine.__version__ = "1.2.4"
    said = refusal(plan)
    assert "expected tensorrt-rtx 1.2.3, which compiled it, got 1.2.4 on this machine" in said
    assert said.endswith(f"{COMMAND} --target sm_86 --target sm_120 --max-batch 8 --workspace 512 -o {plan}")


@pytest.mark.parametrize(
    ("version", "fits"),
    [("1.2.3", True), ("1.10.0", True), ("1.2.3.4", True), ("1.1.9", False), ("2.0.0", False)],
    ids=["the same", "a later minor release", "a later build", "an earlier release", "another major version"],
)
def test_a_version_compatible_plan(plan: Path, machine: SimpleNamespace, version: str, fits: bool):
    machine.__version__ = version
    sidecar = replace(SIDECAR, version_compatible=True)
    if fits:
        write_sidecar(plan, sidecar)
        assert verify_plan(plan) == sidecar
    else:
        assert "or a later release of the same major version" in refusal(plan, sidecar)


@pytest.mark.usefixtures("machine")
def test_an_unknown_backend(plan: Path):
    assert "got 'tensorrt-xyz'" in refusal(plan, replace(SIDECAR, backend="tensorrt-xyz"))


@pytest.mark.usefixtures("installed")
def test_another_gpu(plan: Path, nvidia_smi):
    nvidia_smi("echo 8.9")
    said = refusal(plan)
    assert "expected a GPU of sm_86 or sm_120, got sm_89" in said
    assert f"{COMMAND} --target sm_89 --max-batch 8" in said
    said = refusal(plan, replace(SIDECAR, backend="tensorrt"))
    assert "--backend tensorrt --max-batch 8" in said, "it compiles for the GPU at hand, and has no --target"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("gpu", "fits"), [("8.6", True), ("12.0", True), ("7.5", False), ("8.7", False)])
def test_the_default_set_is_the_backends_own_without_turing(plan: Path, nvidia_smi, gpu: str, fits: bool):
    nvidia_smi(f"echo {gpu}")
    sidecar = replace(SIDECAR, targets=())
    if fits:
        write_sidecar(plan, sidecar)
        assert verify_plan(plan) == sidecar
    else:
        assert "expected a GPU of sm_80 or sm_86 or sm_120" in refusal(plan, sidecar)


@pytest.mark.usefixtures("installed", "nvidia_smi")
def test_no_gpu(plan: Path):
    assert "no NVIDIA GPU or driver found" in refusal(plan)


@pytest.mark.usefixtures("machine")
def test_another_vit(plan: Path):
    said = refusal(plan, fingerprint="ee" * 32)
    assert f"ViT fingerprint: expected {'ee' * 32}, got {FACTS.fingerprint}" in said
    said = refusal(plan, geometry=Geometry((64, 64), 8, 8))
    assert "canvas: expected " in said
    assert "got append of 16 prompts" in said


def test_the_command_is_safe_to_paste():
    sidecar = replace(SIDECAR, source="$(rm -rf x); 'a'.onnx", targets=(), options=())
    words = shlex.split(sidecar.rebuild("my plan"))
    assert words == ["pgn-edge", "compile", sidecar.source, "--backend", "tensorrt-rtx", "-o", "my plan"]
    nameless = replace(SIDECAR, source="", facts=replace(FACTS, role="pgn"))
    assert nameless.rebuild("x").startswith("pgn-edge compile task.pgn ")


# A plan and its sidecar are replaced as one pair.

STEPS = """
import hashlib, os, signal, sys
from dataclasses import replace
from pgn_edge.sidecar import atomic_plan, read_sidecar
plan, kill_at, after = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "after"
real, step = os.replace, 0
def killing(source, target, **more):
    global step
    step += 1
    if step == kill_at and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target, **more)
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
old = read_sidecar(plan)
os.replace = killing
with atomic_plan(plan) as draft:
    draft.path.write_bytes(b"the new plan")
    draft.sidecar = replace(old, plan_sha256=hashlib.sha256(b"the new plan").hexdigest(), backend_version="9.9.9")
print(step)
"""


def replace_plan(plan: Path, step: int, moment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STEPS, str(plan), str(step), moment]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_kill_at_any_step_of_replacing_a_plan_leaves_the_old_pair_or_the_new_one(plan: Path, step: int, moment: str):
    done = replace_plan(plan, step, moment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = read_sidecar(plan)
    is_new = plan.read_bytes() == b"the new plan"
    assert found.backend_version == ("9.9.9" if is_new else SIDECAR.backend_version)
    assert is_new == ((step, moment) not in {(1, "before"), (1, "after"), (2, "before")})
    assert read_sidecar(plan, plan.read_bytes()) == found
    # The next compile tidies up, whatever was left.
    assert replace_plan(plan, 0, "").stdout == "3\n"
    assert sorted(path.name for path in plan.parent.iterdir()) == ["vit.plan", "vit.plan.json"]
    assert read_sidecar(plan).backend_version == "9.9.9"


def test_a_first_plan_whose_writer_was_killed_before_the_sidecar_had_its_name_can_be_read(plan: Path):
    sidecar_path(plan).rename(next_sidecar_path(plan))
    assert read_sidecar(plan) == SIDECAR


def test_a_next_sidecar_of_another_plan_vouches_for_nothing(plan: Path):
    sidecar_path(plan).rename(next_sidecar_path(plan))
    plan.write_bytes(b"changed")
    with pytest.raises(EngineError, match="a plan with its sidecar beside it"):
        read_sidecar(plan)
