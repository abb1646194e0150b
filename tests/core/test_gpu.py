"""Whatever nvidia-smi answers, a GPU is found or it is not; a Jetson's is asked of the driver."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pgn_edge import gpu
from pgn_edge.errors import EngineError
from pgn_edge.gpu import local_architectures, require_architectures

DRIVER = gpu.ASK_DRIVER
# As libcuda's: a GPU of compute capability 8.7, and a second one of the same kind.
LIBCUDA = """
int cuInit(unsigned flags) { return flags; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : 7;
    return (attribute == 75 || attribute == 76) && device >= 40 && device < 42 ? 0 : 1;
}
"""


@pytest.mark.parametrize(
    ("script", "found"),
    [
        pytest.param("echo 8.6", ("sm_86",), id="one"),
        pytest.param("echo 12.0", ("sm_120",), id="two digits"),
        pytest.param("printf '8.9\\n8.6\\n8.9\\n'", ("sm_89", "sm_86"), id="each once, in their order"),
        pytest.param("echo '[N/A]'", (), id="not supported"),
        pytest.param("echo 'No devices were found'", (), id="a driver without a device"),
        pytest.param("echo 8.6; exit 9", (), id="a failure"),
        pytest.param("printf '\\377\\376'", (), id="garbage"),
    ],
)
def test_what_nvidia_smi_answers(nvidia_smi, script: str, found: tuple[str, ...]):
    nvidia_smi(script)
    assert local_architectures() == found


@pytest.mark.skipif(shutil.which("cc") is None, reason="a made-up driver is compiled with cc")
def test_a_jetson_is_asked_of_its_driver(nvidia_smi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cuda.c").write_text(LIBCUDA)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "libcuda.so.1", "cuda.c"], cwd=tmp_path, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setattr(gpu, "ASK_DRIVER", DRIVER)
    nvidia_smi("echo '[N/A]'")
    assert local_architectures() == ("sm_87",)


@pytest.mark.usefixtures("nvidia_smi")
def test_no_gpu_is_refused_with_the_way_out():
    with pytest.raises(EngineError, match=r"^vit\.plan: .*no NVIDIA GPU or driver found; use the CPU"):
        require_architectures("vit.plan", "use the CPU")
