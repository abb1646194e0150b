"""A machine whose GPUs the test chooses, and a small bundle with what it takes to forge one."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pgn_edge import gpu
from pgn_edge.bundle import Bundle, Golden, read_bundle, write_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import BundleError
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head
from pgn_edge.mixtures import Profile
from pgn_edge.preprocess import Preprocess
from tests.hostile import toy_graph

NvidiaSmi = Callable[[str], None]
Zipped = Callable[..., bytes]
Refusal = Callable[[bytes], str]


@pytest.fixture
def nvidia_smi(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> NvidiaSmi:
    """Put an nvidia-smi on PATH whose body is this shell script; the real driver is silent."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(gpu, "ASK_DRIVER", "")

    def install(script: str) -> None:
        path: Path = folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    install("exit 9")
    return install


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """Two golden frames, two classes, and the least engine that there is."""
    rng = np.random.default_rng(0)
    geometry, preprocess = Geometry((16, 16), 8, 3), Preprocess((16, 16))
    facts = EngineFacts("pgn", "builtin", "ab" * 32, geometry, preprocess, "fp32", 20, "canvas")
    golden = Golden(
        images=rng.integers(0, 256, (2, 16, 16, 3), np.uint8),
        prompt_rows=rng.standard_normal((2, 3, 16, 16)).astype(np.float32),
        embedding=rng.standard_normal((2, 4)).astype(np.float32),
        top1=np.array([1, 0]),
    )
    return Bundle(
        name="pets",
        facts=facts,
        pgn_onnx=toy_graph(facts),
        head=Head.linear(rng.standard_normal((2, 4)), np.zeros(2), ("cat", "dög")),
        golden=golden,
        certificate={"rank": 128, "residual": 1e-15},
        parity=({"rung": "torch canvas", "passed": True},),
        profile=Profile(32, (0.25, 0.5, 0.25, 0.0), 0.75, 0.0625, 0.03125),
        provenance={"data": "pets", "accuracy": 0.9},
    )


@pytest.fixture(scope="session")
def good(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """`bundle` as a file."""
    path = tmp_path_factory.mktemp("bundle") / "good.pgn"
    write_bundle(path, bundle)
    return path.read_bytes()


@pytest.fixture
def parts(good: bytes) -> dict[str, bytes]:
    """The members of `good` by name, to be changed."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def zipped() -> Zipped:
    """Make a zip of any members."""

    def pack(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compression) as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        return out.getvalue()

    return pack


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """Read a bundle that must be refused, and return the line; any other exception escapes and fails the test."""

    def read(data: bytes) -> str:
        path = tmp_path / "bad.pgn"
        path.write_bytes(data)
        with pytest.raises(BundleError) as caught:
            read_bundle(path)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert "bad.pgn" in message
        return message

    return read
