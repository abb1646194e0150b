"""The doctor against machines made of real files and real child processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from pgn_edge.errors import install_line as PIP
from pgn_edge.runtime.doctor import JOBS, diagnose

# Packages and jobs, in a process that can find nothing but the standard library and what the test puts there.

REQUIRES = (
    "base-library>=2.1.0",
    'onnxruntime>=1.20; extra == "cpu"',
    'onnxruntime-gpu>=1.20; extra == "gpu"',
    'command-library>=8; extra == "cli"',
    'opencv-python>=4.9; extra == "cv"',
    'opencv-python-headless>=4.9; extra == "cv-headless"',
    'tensorrt>=10.3; extra == "tensorrt"',
    'graph-library[fast]>=1.9; extra == "export"',
    'pgn-edge[export]; extra == "train"',
    'loop-library>=1; extra == "train"',
)
READY = {"base-library": "2.10", "onnxruntime": "1.20.1", "graph-library": "1.10", "loop-library": "3"}
READY |= {"command-library": "8.1", "opencv-python": "5.0"}
ORT = """
__version__ = '9'
LISTED = ['CPUExecutionProvider', 'Other']
OPEN = ['CPUExecutionProvider']
def get_available_providers():
    return LISTED
class InferenceSession:
    def __init__(self, model, providers):
        pass
    def get_providers(self):
        return OPEN
"""
ORT_GPU = ORT.replace("LISTED = [", "LISTED = ['TensorrtExecutionProvider', 'CUDAExecutionProvider', ")
CV2 = "__version__ = '4'\ndef getBuildInformation(): return '  FFMPEG:   YES\\n  GStreamer:   NO\\n'\n"
RUN, EXPORT = "run and predict on images", "export, export-vit, import"
VIDEO, PLAN, CUDA = "run on videos and cameras, --output, --web, bench", "run a .plan", "--provider cuda"
DIAGNOSE = """
import json, sys
from pathlib import Path
from pgn_edge.runtime.doctor import diagnose
sys.path[:] = json.loads(sys.argv[1])
print(json.dumps(diagnose(root=Path(sys.argv[2]), nvidia_smi="no-such-command").to_json()))
"""


@pytest.fixture
def diagnosed(tree, tmp_path: Path) -> Callable[..., dict]:
    """The diagnosis of a machine with these packages and modules."""

    def run(
        packages: dict[str, str],
        modules: dict[str, str],
        requires: tuple[str, ...] = REQUIRES,
        gpu: tuple[str, int] | None = None,
    ) -> dict:
        files = {f"{name.replace('-', '_')}-{v}.dist-info/METADATA": about(name, v) for name, v in packages.items()}
        lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
        if requires:
            files["pgn_edge-0.dist-info/METADATA"] = about("pgn-edge", "0") + lines
        site = tree(tmp_path / "site", {**files, **{f"{name}.py": text for name, text in modules.items()}})
        standard = (sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED"))
        command = [sys.executable, "-c", DIAGNOSE, json.dumps([str(site), *standard]), str(tmp_path / "empty")]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "driver")}
        if gpu is not None:
            (tmp_path / "driver").mkdir()
            (tmp_path / "driver" / "libcuda.so.1").symlink_to(gpu[0])
            environment["STANDIN_DEVICES"] = str(gpu[1])
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        document: dict = json.loads(done.stdout)
        for section in ("packages", "libraries", "jobs"):
            document[section] = {entry["name"]: entry for entry in document[section]}
        return document

    return run


def about(name: str, version: str) -> str:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


def without(name: str) -> dict[str, str]:
    return {package: version for package, version in READY.items() if package != name}


def test_a_machine_that_is_ready(diagnosed):
    found = diagnosed(READY, {"onnxruntime": ORT, "cv2": CV2})
    assert found["healthy"] is True
    assert {name: found["packages"][name]["value"] for name in READY} == READY
    tensorrt = found["packages"]["tensorrt"]
    assert (tensorrt["state"], tensorrt["value"], tensorrt["do"]) == ("missing", "not installed", PIP("tensorrt"))
    assert tensorrt["blocks"] == ["compile with TensorRT"]
    assert set(found["jobs"]) == set(JOBS)
    for job in (RUN, EXPORT, "train"):
        assert found["jobs"][job] == {"name": job, "ready": True, "blocked_by": [], "needs": ""}
    assert "onnxruntime-gpu" not in found["packages"], "to install the twin as well would break both"
    assert found["libraries"]["ONNX Runtime providers"]["value"] == "CPUExecutionProvider, Other"
    assert found["libraries"]["OpenCV with FFMPEG"]["state"] == "ok"
    assert found["libraries"]["OpenCV with GStreamer"]["state"] == "missing"


@pytest.mark.parametrize(
    ("absent", "state", "line", "blocked", "free"),
    [
        pytest.param("onnxruntime", "missing", PIP("cpu"), [RUN, EXPORT], ["train"], id="an engine"),
        pytest.param("graph-library", "missing", PIP("export"), [EXPORT, "train"], [RUN], id="extra"),
        pytest.param("loop-library", "missing", PIP("train"), ["train"], [RUN, EXPORT], id="train"),
        pytest.param("base-library", "fault", "pip install .", list(JOBS), [], id="of every install"),
    ],
)
def test_what_is_missing_names_its_pip_line_and_its_jobs(diagnosed, absent, state, line, blocked, free):
    found = diagnosed(without(absent), {"cv2": CV2} if absent == "onnxruntime" else {"onnxruntime": ORT})
    package = found["packages"][absent]
    assert (package["state"], package["do"]) == (state, line)
    assert set(package["blocks"]) >= set(blocked)
    for job in blocked:
        assert absent in found["jobs"][job]["blocked_by"]
        assert found["jobs"][job]["needs"]
    assert [found["jobs"][job]["ready"] for job in free] == [True] * len(free)
    assert found["healthy"] is (state == "missing")


def test_a_job_names_every_extra_that_it_needs_and_no_other(diagnosed):
    jobs = diagnosed({"base-library": "2.1"}, {})["jobs"]
    assert jobs[RUN]["needs"] == PIP("cli", "cpu")
    assert jobs[EXPORT]["needs"] == PIP("cpu", "export")
    assert jobs["train"]["needs"] == PIP("train")


def test_the_gpu_build_takes_the_place_of_the_other(diagnosed):
    found = diagnosed({**without("onnxruntime"), "onnxruntime-gpu": "1.21"}, {"onnxruntime": ORT})
    assert found["packages"]["onnxruntime-gpu"]["value"] == "1.21"
    assert "onnxruntime" not in found["packages"]
    assert found["jobs"][RUN]["ready"] is True


def test_two_packages_of_one_module_are_a_fault(diagnosed):
    found = diagnosed({**READY, "onnxruntime-gpu": "1.21"}, {"onnxruntime": ORT})
    assert found["healthy"] is False
    for name, extra in {"onnxruntime": "cpu", "onnxruntime-gpu": "gpu"}.items():
        package = found["packages"][name]
        assert package["state"] == "fault"
        assert package["do"].startswith("run: pip uninstall -y onnxruntime")
        assert package["do"].endswith(PIP(extra))
    assert found["jobs"][RUN]["ready"] is False


@pytest.mark.parametrize("absent", ["opencv-python", "opencv-python-headless"])
def test_one_opencv_wheel_takes_the_place_of_the_other(diagnosed, absent: str):
    there = ({"opencv-python", "opencv-python-headless"} - {absent}).pop()
    found = diagnosed({**without("opencv-python"), there: "5.0"}, {"onnxruntime": ORT, "cv2": CV2})
    assert found["packages"][there]["state"] == "ok"
    assert absent not in found["packages"]
    assert found["jobs"][VIDEO]["ready"] is True


@pytest.mark.parametrize("other", ["opencv-python-headless", "opencv-contrib-python"])
def test_two_opencv_wheels_at_once_destroy_each_other_and_are_a_fault(diagnosed, other: str):
    found = diagnosed({**READY, other: "5.0"}, {"onnxruntime": ORT, "cv2": CV2})
    package = found["packages"]["opencv-python"]
    assert package["state"] == "fault"
    assert other in package["value"]
    assert package["do"].startswith(f"run: pip uninstall -y opencv-python {other}")
    assert found["healthy"] is False
    assert found["jobs"][VIDEO]["ready"] is False
    assert found["jobs"][RUN]["ready"] is True, "images need no OpenCV"


def test_without_opencv_images_run_and_videos_do_not(diagnosed):
    jobs = diagnosed(without("opencv-python"), {"onnxruntime": ORT})["jobs"]
    assert jobs[RUN]["ready"] is True
    assert jobs[VIDEO]["needs"] == PIP("cv")


def test_an_opencv_without_libgl_is_a_fault_with_its_reason(diagnosed):
    broken = "raise ImportError('libGL.so.1: cannot open shared object file')"
    package = diagnosed(READY, {"onnxruntime": ORT, "cv2": broken})["packages"]["opencv-python"]
    assert package["state"] == "fault"
    assert "libGL.so.1" in package["value"]


# Ready means that it was tried: packages alone prove nothing.


def test_on_a_machine_without_a_gpu_plans_and_cuda_are_not_ready_though_every_package_is_there(diagnosed):
    packages = {**without("onnxruntime"), "onnxruntime-gpu": "1.21", "tensorrt": "10.3"}
    found = diagnosed(packages, {"onnxruntime": ORT_GPU, "cv2": CV2, "tensorrt": "__version__ = '10.3'"}, gpu=None)
    for job in (PLAN, CUDA, "--provider tensorrt", "compile with TensorRT"):
        assert found["jobs"][job]["ready"] is False
        assert found["jobs"][job]["blocked_by"] == ["NVIDIA driver"]
        assert found["jobs"][job]["needs"] == "NVIDIA driver: no libcuda.so.1"
    assert found["libraries"]["CUDAExecutionProvider"]["state"] == "missing"
    assert found["jobs"][RUN]["ready"] is True
    assert found["healthy"] is True, "a GPU is optional"


@pytest.mark.parametrize("devices", [0, 2])
def test_a_driver_needs_a_device_too(diagnosed, cuda_library: str, devices: int):
    packages, modules = {**READY, "tensorrt": "10.3"}, {"onnxruntime": ORT, "tensorrt": "__version__ = '10.3'"}
    found = diagnosed(packages, modules, gpu=(cuda_library, devices))
    assert found["jobs"][PLAN]["ready"] is (devices > 0)
    driver = next(finding for finding in found["gpu"] if finding["name"] == "NVIDIA driver")
    assert driver["state"] == ("ok" if devices else "missing")
    assert driver["value"].endswith("GPUs: 2" if devices else "no GPU")


@pytest.mark.parametrize("opens", [True, False], ids=["it opens", "ONNX Runtime goes on without it"])
def test_a_provider_is_ready_when_a_session_opened_on_it(diagnosed, cuda_library: str, opens: bool):
    packages = {**without("onnxruntime"), "onnxruntime-gpu": "1.21"}
    module = ORT_GPU.replace("OPEN = [", "OPEN = ['CUDAExecutionProvider', ") if opens else ORT_GPU
    found = diagnosed(packages, {"onnxruntime": module, "cv2": CV2}, gpu=(cuda_library, 1))
    assert found["jobs"][CUDA]["ready"] is opens
    provider = found["libraries"]["CUDAExecutionProvider"]
    assert provider["state"] == ("ok" if opens else "fault"), "there is a GPU, so something is broken"
    assert provider["blocks"] == ([] if opens else [CUDA])


def test_the_cpu_build_of_onnx_runtime_has_no_cuda(diagnosed, cuda_library: str):
    job = diagnosed(READY, {"onnxruntime": ORT}, gpu=(cuda_library, 1))["jobs"][CUDA]
    assert job["ready"] is False
    assert "not in this build of ONNX Runtime" in job["needs"]


def test_a_torch_that_sees_no_gpu_trains_on_the_cpu_alone(diagnosed):
    torch = "__version__ = '2.9'\nclass cuda:\n    is_available = staticmethod(lambda: False)\n"
    jobs = diagnosed(READY, {"onnxruntime": ORT, "torch": torch}, gpu=None)["jobs"]
    assert jobs["train"]["ready"] is True
    assert jobs["train on an NVIDIA GPU"]["ready"] is False


@pytest.mark.parametrize(
    ("version", "state"), [("1.9", "fault"), ("2.1", "ok"), ("2.10.0rc1", "ok"), ("2.0.9", "fault")], ids=str
)
def test_a_version_below_ours_is_a_fault(diagnosed, version: str, state: str):
    package = diagnosed({**READY, "base-library": version}, {"onnxruntime": ORT})["packages"]["base-library"]
    assert (package["state"], package["value"].startswith(version)) == (state, True)


def test_a_library_that_does_not_import_blocks_its_jobs(diagnosed):
    found = diagnosed(READY, {"onnxruntime": "raise ImportError('libcudart.so.12: cannot open')"})
    package = found["packages"]["onnxruntime"]
    assert package["state"] == "fault"
    assert "libcudart.so.12: cannot open" in package["value"]
    assert "pip install --force-reinstall --no-deps onnxruntime" in package["do"]
    assert found["jobs"][RUN]["needs"] == "repair onnxruntime"
    assert found["jobs"]["train"]["ready"] is True


def test_a_library_from_the_system_is_there_without_pip(diagnosed):
    found = diagnosed(READY, {"onnxruntime": ORT, "tensorrt": "__version__ = '10.3.0'"})
    package = found["packages"]["tensorrt"]
    assert (package["state"], package["value"]) == ("ok", "10.3.0, not from pip")
    assert found["libraries"]["CUDA for tensorrt"]["value"].startswith("runtime ")


def test_a_folder_of_that_name_is_no_library(diagnosed, tmp_path: Path):
    (tmp_path / "site" / "tensorrt").mkdir(parents=True)
    assert diagnosed(READY, {"onnxruntime": ORT})["packages"]["tensorrt"]["state"] == "missing"


def test_a_copy_without_metadata_is_a_fault_and_promises_nothing(diagnosed):
    found = diagnosed({}, {"onnxruntime": ORT}, requires=())
    assert (found["packages"]["pgn-edge"]["state"], found["jobs"]) == ("fault", {})
    assert found["packages"]["pgn-edge"]["do"] == "pip install ."


def test_what_only_another_python_needs_is_not_missed(diagnosed):
    here, last = (f"{sys.version_info[0]}.{sys.version_info[1] + more}" for more in (0, 1))
    markers = {"older": here, "newer": last}
    requires = tuple(f'{name}>=2.0; python_version < "{before}"' for name, before in markers.items())
    found = diagnosed({}, {"onnxruntime": ORT}, requires=requires)["packages"]
    assert "older" not in found
    assert found["newer"]["state"] == "fault"


# This machine.


def test_every_requirement_of_ours_is_looked_up():
    found = diagnose()
    packages = {finding.name: finding for finding in found.sections["packages"]}
    old = sys.version_info < (3, 11)
    unmarked = [line for line in metadata.requires("pgn-edge") if "python_version <" not in line or old]
    lines = [line for line in unmarked if "python_version >=" not in line or not old]
    required = {re.match(r"[\w.-]+", line)[0] for line in lines} - {"pgn-edge"}
    assert required - set(packages) <= {"onnxruntime", "onnxruntime-gpu", "opencv-python", "opencv-python-headless"}
    for name, finding in packages.items():
        if finding.state == "ok" and "not from pip" not in finding.value:
            assert finding.value == metadata.version(name)
    extras = set(metadata.metadata("pgn-edge").get_all("Provides-Extra"))
    needed = {extra for job in JOBS.values() for extra in "|".join(job.extras).split("|")}
    assert needed <= extras, "a job that needs an extra that is none"


PULLED_IN = """
import json, sys
before = set(sys.modules)
import pgn_edge.runtime.doctor
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(names - set(sys.stdlib_module_names))))
"""


def test_the_doctor_itself_needs_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", PULLED_IN], capture_output=True, text=True, check=True, timeout=120)
    assert set(json.loads(done.stdout)) <= {"numpy", "PIL", "msgspec", "typing_extensions", "pgn_edge"}
