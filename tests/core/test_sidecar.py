"""A plan is code that the driver runs: nothing of it is used before the sidecar has vouched for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError, PgnEdgeError
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.sidecar import SIZE_LIMIT, Sidecar, read_sidecar, sidecar_path, write_sidecar

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
)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "vit.plan"
    path.write_bytes(PLAN)
    write_sidecar(path, SIDECAR)
    return path


def test_round_trip(plan: Path):
    assert read_sidecar(plan) == SIDECAR


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
