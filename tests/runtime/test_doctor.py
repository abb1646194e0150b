"""The doctor against machines made of real files, real scripts and real child processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from pgn_edge.runtime import probes
from pgn_edge.runtime.doctor import JOBS, diagnose
from pgn_edge.runtime.probes import Finding, ask_module, jetson, machine, nvidia_gpus


def by_name(findings: list[Finding] | tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


# The machine itself.


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        pytest.param("flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8", "avx2, avx512f, avx512_vnni, amx_int8"),
        pytest.param("Features\t: fp asimd asimdhp asimddp", "asimd, asimdhp, asimddp"),
        pytest.param("flags\t\t: fpu sse2", "none known"),
    ],
    ids=["x86", "ARM", "old"],
)
def test_instruction_sets(tmp_path: Path, cpuinfo: str, expected: str):
    root = tree(tmp_path, {"proc/cpuinfo": f"processor : 0\nmodel name : avx512_fp16 in a name\n{cpuinfo}\n"})
    assert by_name(machine(root))["instruction sets"].value.startswith(expected)


def test_memory_is_in_gigabytes_and_free_is_what_is_available(tmp_path: Path):
    meminfo = "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n"
    found = by_name(machine(tree(tmp_path, {"proc/meminfo": meminfo})))
    assert found["memory"].value == "8.2 GB, of which 2.0 GB free"


@pytest.mark.parametrize(
    "files",
    [{}, {"proc/cpuinfo": b"\xff\x00flags", "proc/meminfo": b"\xfe MemTotal: many kB\n\nMemTotal:\n"}],
    ids=["nothing there", "garbage"],
)
def test_a_system_that_tells_nothing(tmp_path: Path, files: dict[str, bytes]):
    found = by_name(machine(tree(tmp_path, files)))
    assert found["memory"].value == "unknown, of which unknown free"
    assert all(finding.state == "ok" for finding in found.values())


def test_disk_is_that_of_the_folder_and_of_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = by_name(machine())
    assert found["disk of this folder"].value.endswith(f"GB free, {tmp_path}")
    assert "GB free" in found["disk for temporary files"].value


def test_a_working_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert by_name(machine())["disk of this folder"].state == "fault"


# GPUs.


def test_gpus(tmp_path: Path):
    lines = "NVIDIA A, 570.12, 8192 MiB, 8.6\nNVIDIA B, 570.12, [N/A], 8.7"
    found = nvidia_gpus(str(script(tmp_path / "smi", f"cat <<'END'\n{lines}\nEND")))
    assert [(one.name, one.state) for one in found] == [("NVIDIA GPU 0", "ok"), ("NVIDIA GPU 1", "ok")]
    assert found[0].value == "NVIDIA A, driver 570.12, 8192 MiB, compute capability 8.6"


def test_gpus_are_asked_for_what_is_shown(tmp_path: Path):
    nvidia_gpus(str(script(tmp_path / "smi", f'echo "$@" > {tmp_path}/asked')))
    query = "--query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader\n"
    assert (tmp_path / "asked").read_text() == query


def test_no_driver_at_all():
    assert nvidia_gpus("no-such-command") == [Finding("NVIDIA GPU", "missing", "none found")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("echo first; echo no driver >&2; exit 9", "no driver", id="a failure with its reason"),
        pytest.param("exit 3", "exit status 3", id="a silent failure"),
        pytest.param("echo No devices were found", "No devices were found", id="a sentence instead of a table"),
        pytest.param("true", "no answer", id="nothing"),
        pytest.param("printf '\\377\\000\\n'", "", id="bytes that are no text"),
        pytest.param("kill -SEGV $$", "SIGSEGV", id="a crash"),
    ],
)
def test_a_driver_that_does_not_work(tmp_path: Path, text: str, says: str):
    (found,) = nvidia_gpus(str(script(tmp_path / "smi", text)))
    assert found.state == "fault"
    assert says in found.value
    assert "install the NVIDIA driver" in found.do


def test_a_driver_that_hangs_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes, "TIMEOUT_S", 0.3)
    (found,) = nvidia_gpus(str(script(tmp_path / "smi", "sleep 60 & sleep 60")))
    assert (found.state, found.value) == ("fault", "no answer within 0.3 s")


def test_a_command_that_cannot_be_run(tmp_path: Path):
    path = tmp_path / "smi"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o755)
    (found,) = nvidia_gpus(str(path))
    assert found.state == "fault"


# Jetson.

ORIN = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n# and more\n",
    "proc/device-tree/model": b"NVIDIA Jetson Orin Nano Developer Kit\x00",
}


def test_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands = tmp_path / "bin"
    commands.mkdir()
    script(commands / "dpkg-query", '[ "$3" = nvidia-jetpack ] && echo 6.2+b77')
    script(commands / "nvpmodel", "echo 'NV Power Mode: MAXN_SUPER'; echo 2")
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    found = by_name(jetson(tree(tmp_path / "root", ORIN)))
    assert found["board"].value == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["L4T"].value.startswith("R36 (release), REVISION: 4.3")
    assert (found["JetPack"].state, found["JetPack"].value) == ("ok", "6.2+b77")
    assert found["power mode"].value == "NV Power Mode: MAXN_SUPER 2"


def test_a_jetson_without_its_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = by_name(jetson(tree(tmp_path / "root", {"etc/nv_tegra_release": b"\xff"})))
    assert found["board"].value == "unknown"
    assert found["JetPack"].state == "missing"
    assert "power mode" not in found


def test_other_machines_are_no_jetson(tmp_path: Path):
    assert jetson(tmp_path) == []


# Libraries that are imported elsewhere.


def test_onnxruntime_tells_its_providers():
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'pgn-edge[cpu]'")
    told, reason = ask_module("onnxruntime")
    assert reason == ""
    assert told == {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write the module `tensorrt`, the first that an import finds."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda text: tree(tmp_path, {"tensorrt.py": text})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            "import libnvinfer_that_is_absent", "No module named 'libnvinfer_that_is_absent'", id="no library"
        ),
        pytest.param("import os; os.abort()", "SIGABRT", id="a crash"),
        pytest.param("raise SystemExit('go away')", "go away", id="it leaves"),
        pytest.param("x = 1", "__version__", id="no such library after all"),
        pytest.param("import os; os._exit(0)", "it told nothing", id="it leaves without a word"),
    ],
)
def test_a_library_that_does_not_import(library: Callable[[str], Path], text: str, says: str):
    library(text)
    told, reason = ask_module("tensorrt")
    assert told == {}
    assert says in reason


def test_a_library_that_talks(library: Callable[[str], Path]):
    library("__version__ = '10.3.0'\nprint('a banner without an end', end='')")
    told, reason = ask_module("tensorrt")
    assert (told["version"], reason) == ("10.3.0", "")
    assert set(told) == {"version", "cuda_runtime", "cuda_driver"}


def test_a_library_that_hangs(library: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes, "TIMEOUT_S", 0.5)
    library("import time; time.sleep(60)")
    assert ask_module("tensorrt") == ({}, "no answer within 0.5 s")


# Packages and jobs, in a process that can find nothing but the standard library and what the test puts there.

REQUIRES = (
    "base-library>=2.1.0",
    'onnxruntime>=1.20; extra == "cpu"',
    'onnxruntime-gpu>=1.20; extra == "gpu"',
    'tensorrt>=10.3; extra == "tensorrt"',
    'graph-library[fast]>=1.9; extra == "export"',
    'pgn-edge[export]; extra == "train"',
    'loop-library>=1; extra == "train"',
)
READY = {"base-library": "2.10", "onnxruntime": "1.20.1", "graph-library": "1.10", "loop-library": "3"}
ORT = "__version__ = '9'\ndef get_available_providers(): return ['CPUExecutionProvider', 'Other']\n"
CV2 = "__version__ = '4'\ndef getBuildInformation(): return '  FFMPEG:   YES\\n  GStreamer:   NO\\n'\n"
RUN, EXPORT = "run, predict, bench", "export, export-vit, import"
DIAGNOSE = """
import json, sys
from pathlib import Path
from pgn_edge.runtime.doctor import diagnose
sys.path[:] = json.loads(sys.argv[1])
print(json.dumps(diagnose(root=Path(sys.argv[2]), nvidia_smi="no-such-command").to_json()))
"""


@pytest.fixture
def diagnosed(tmp_path: Path) -> Callable[..., dict]:
    """The diagnosis of a machine with these packages and modules."""

    def run(packages: dict[str, str], modules: dict[str, str], requires: tuple[str, ...] = REQUIRES) -> dict:
        files = {f"{name.replace('-', '_')}-{v}.dist-info/METADATA": about(name, v) for name, v in packages.items()}
        lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
        if requires:
            files["pgn_edge-0.dist-info/METADATA"] = about("pgn-edge", "0") + lines
        site = tree(tmp_path / "site", {**files, **{f"{name}.py": text for name, text in modules.items()}})
        standard = (sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED"))
        command = [sys.executable, "-c", DIAGNOSE, json.dumps([str(site), *standard]), str(tmp_path / "empty")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
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
    tensorrt = {"state": "missing", "value": "not installed", "do": "pip install 'pgn-edge[tensorrt]'", "blocks": []}
    assert found["packages"]["tensorrt"] == {"name": "tensorrt", **tensorrt}
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
        pytest.param("onnxruntime", "missing", "pip install 'pgn-edge[cpu]'", [RUN, EXPORT], ["train"], id="an engine"),
        pytest.param(
            "graph-library", "missing", "pip install 'pgn-edge[export]'", [EXPORT, "train"], [RUN], id="extra"
        ),
        pytest.param("loop-library", "missing", "pip install 'pgn-edge[train]'", ["train"], [RUN, EXPORT], id="train"),
        pytest.param("base-library", "fault", "pip install pgn-edge", list(JOBS), [], id="of every install"),
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
    assert jobs[RUN]["needs"] == "pip install 'pgn-edge[cpu]'"
    assert jobs[EXPORT]["needs"] == "pip install 'pgn-edge[cpu,export]'"
    assert jobs["train"]["needs"] == "pip install 'pgn-edge[train]'"


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
        assert package["do"].endswith(f"pip install 'pgn-edge[{extra}]'")
    assert found["jobs"][RUN]["ready"] is False


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
    assert found["jobs"][RUN]["needs"] == "mend onnxruntime"
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
    assert found["packages"]["pgn-edge"]["do"] == "pip install pgn-edge"


# This machine.


def test_every_requirement_of_ours_is_looked_up():
    found = diagnose()
    packages = by_name(found.sections["packages"])
    required = {re.match(r"[\w.-]+", line)[0] for line in metadata.requires("pgn-edge")} - {"pgn-edge"}
    assert required - set(packages) <= {"onnxruntime", "onnxruntime-gpu"}
    for name, finding in packages.items():
        if finding.state == "ok" and "not from pip" not in finding.value:
            assert finding.value == metadata.version(name)
    extras = set(metadata.metadata("pgn-edge").get_all("Provides-Extra"))
    needed = {extra for job in JOBS.values() for extra in "|".join(job).split("|")}
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
    assert set(json.loads(done.stdout)) <= {"numpy", "PIL", "pgn_edge"}
