"""A backend is loaded, or its absence says what to install on this kind of machine."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pgn_edge import backends
from pgn_edge.backends import known_architectures, load_backend
from pgn_edge.errors import EngineError, MissingExtraError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """First on the path of imports, where neither backend is installed."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(backends, "TEGRA_RELEASE", tmp_path / "nv_tegra_release")
    return tmp_path


def test_a_module_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    assert load_backend("tensorrt-rtx") is module


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx")])
def test_a_missing_one_names_its_extra(folder: Path, name: str, extra: str):
    with pytest.raises(MissingExtraError, match=rf"pgn-edge\[{extra}\]"):
        load_backend(name)


def test_on_a_jetson_it_is_a_package_of_the_system(folder: Path):
    (folder / "nv_tegra_release").write_text("# R36 (release)\n")
    with pytest.raises(EngineError, match="apt-get install python3-libnvinfer"):
        load_backend("tensorrt")
    with pytest.raises(MissingExtraError):
        load_backend("tensorrt-rtx")


def test_one_that_does_not_load_is_not_called_missing(folder: Path):
    (folder / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    with pytest.raises(EngineError, match=r"libnvinfer\.so\.10"):
        load_backend("tensorrt")


def test_another_name():
    with pytest.raises(EngineError, match="tensorrt or tensorrt-rtx, got 'cuda'"):
        load_backend("cuda")


def test_architectures_are_those_of_the_module_oldest_first():
    names = dict.fromkeys(("NONE", "CURRENT", "SM120", "SM75", "SM86"))
    module = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=names))
    assert known_architectures(module) == ("sm_75", "sm_86", "sm_120")
    assert known_architectures(SimpleNamespace()) == ()
