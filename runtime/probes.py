"""What a machine tells of itself: hardware, drivers, and whether libraries import.

Nothing here raises because something is absent or garbage, and nothing waits for ever. Libraries are imported in a
child process: a broken GPU library may print, hang, or take its process down.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pgn_edge.host import MOST_SAID, lines_of, output_of, sizes_bytes
from pgn_edge.runtime.environment import describe_environment

State = Literal["ok", "missing", "fault"]

# The kernel's names of what fast int8, fp16 and bf16 kernels are made of; x86 first, then ARM.
INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
)
GPU_QUERY = ("--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader")

# The child sees what this process would import, and leaves before a library's own goodbye can crash it.
CHILD = """
import ctypes, json, os, sys
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported
sys.path[:] = json.loads(sys.argv[1])

def cuda(libraries, function):
    for name in libraries:
        try:
            version = ctypes.c_int()
            if getattr(ctypes.CDLL(name), function)(ctypes.byref(version)) == 0:
                return f"{version.value // 1000}.{version.value % 1000 // 10}"
        except (OSError, AttributeError):
            pass

def tensorrt():
    runtimes = [f"libcudart.so{suffix}" for suffix in ("", ".13", ".12", ".11.0")]
    return {
        "cuda_runtime": cuda(runtimes, "cudaRuntimeGetVersion"),
        "cuda_driver": cuda(["libcuda.so.1"], "cuDriverGetVersion"),
    }

name = sys.argv[2]
module = __import__(name)

def opens(provider):
    try:
        opened = module.InferenceSession(bytes.fromhex(sys.argv[3]), providers=[provider]).get_providers()
    except Exception as exc:
        return " ".join(str(exc).split())[:200] or type(exc).__name__
    # Where its libraries are missing, ONNX Runtime logs it and goes on without the provider.
    return "" if provider in opened else "it does not open: its libraries or the driver are missing"

def onnxruntime():
    listed = [str(provider) for provider in module.get_available_providers()]
    ours = [f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt")]
    return {"providers": listed, "opens": {name: opens(name) for name in ours if name in listed}}

def torch():
    reason = "" if module.cuda.is_available() else "it sees no GPU that it can use"
    try:
        import torchvision
    except ModuleNotFoundError:
        return {"cuda": reason, "torchvision": ""}
    except Exception as exc:
        return {"cuda": reason, "torchvision": f"its import fails: {exc}"}
    return {"cuda": reason, "torchvision": ""}

tell = {
    "onnxruntime": onnxruntime,
    "torch": torch,
    "cv2": lambda: {"build": str(module.getBuildInformation())},
}.get(name, tensorrt)
print("\\n" + json.dumps({"version": str(module.__version__), **tell()}), flush=True)
os._exit(0)
"""

# y = x in ONNX, for a session that proves that a provider opens.
IDENTITY = (
    "080712003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a00100d"
)

ASK_DRIVER = """
import ctypes
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as exc:
    raise SystemExit("no libcuda.so.1" if "cannot open shared object" in str(exc) else str(exc))
version, count = ctypes.c_int(), ctypes.c_int()
for status in (
    cuda.cuInit(0), cuda.cuDriverGetVersion(ctypes.byref(version)), cuda.cuDeviceGetCount(ctypes.byref(count))
):
    if status == 100:
        raise SystemExit("no GPU")
    if status != 0:
        raise SystemExit(f"libcuda.so.1 loads, and gives CUDA error {status}")
print(version.value, count.value)
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Args:
        name: of it.
        state: `missing` is optional and absent; `fault` keeps something from working that is there or must be.
        value: what was found.
        do: what the user can do, where there is something.
        blocks: jobs that cannot be done as it is.
    """

    name: str
    state: State
    value: str
    do: str = ""
    blocks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "blocks": list(self.blocks)}


def machine(root: Path = Path("/")) -> list[Finding]:
    """Python, processor, memory and free disk.

    Args:
        root: folder that /proc is looked up in.
    """
    about = describe_environment()
    memory = sizes_bytes(root / "proc/meminfo")
    amounts = (memory.get(key) for key in ("MemTotal", "MemAvailable"))
    total, free = (f"{amount / 1e9:.1f} GB" if amount is not None else "unknown" for amount in amounts)
    return [
        Finding("pgn-edge", "ok", about["pgn_edge"]),
        Finding("Python", "ok", f"{about['python']}, {sys.executable}"),
        Finding("system", "ok", about["os"]),
        Finding("CPU", "ok", about["cpu"]),
        Finding("cores", "ok", f"{about['cores']}, of which {about['usable_cores']} usable"),
        Finding("instruction sets", "ok", _instruction_sets(root)),
        Finding("memory", "ok", f"{total}, of which {free} free"),
        _disk("disk of this folder", os.getcwd, "go to a folder that exists"),
        _disk("disk for temporary files", tempfile.gettempdir, "point TMPDIR at a folder that can be written"),
    ]


def _instruction_sets(root: Path) -> str:
    lines = lines_of(root / "proc/cpuinfo")
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return ", ".join(name for name in INSTRUCTION_SETS if name in flags) or "none known to this system"


def _disk(name: str, folder: Callable[[], str], do: str) -> Finding:
    try:
        place = folder()
        return Finding(name, "ok", f"{shutil.disk_usage(place).free / 1e9:.1f} GB free, {place}")
    except OSError as exc:
        return Finding(name, "fault", exc.strerror or str(exc), do)


def nvidia_gpus(command: str = "nvidia-smi") -> list[Finding]:
    """GPUs that the NVIDIA driver sees.

    Args:
        command: name or path of nvidia-smi.
    """
    if shutil.which(command) is None:
        return [Finding("NVIDIA GPU", "missing", "none found")]
    output, reason = output_of([command, *GPU_QUERY])
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines() if line.strip()]
    if reason or not rows or any(len(row) != 4 for row in rows):
        said = reason or " ".join(output.split())[:MOST_SAID] or "no answer"
        return [Finding("NVIDIA GPU", "fault", said, f"make {command} work: load or install the NVIDIA driver")]
    return [
        Finding(f"NVIDIA GPU {index}", "ok", f"{name}, driver {driver}, {memory}, compute capability {capability}")
        for index, (name, driver, memory, capability) in enumerate(rows)
    ]


def ask_driver() -> Finding:
    """Whether the CUDA driver loads and has a device; it is asked in a child process."""
    output, reason = output_of([sys.executable, "-I", "-c", ASK_DRIVER])
    if reason:
        state: State = "missing" if reason in {"no libcuda.so.1", "no GPU"} else "fault"
        return Finding("CUDA", state, reason, "install the NVIDIA driver, and give a container its GPU")
    version, count = map(int, output.split())
    if count == 0:
        return Finding("CUDA", "missing", "no GPU", "give this machine or container a GPU")
    return Finding("CUDA", "ok", f"CUDA {version // 1000}.{version % 1000 // 10}, GPUs: {count}")


def jetson(root: Path = Path("/")) -> list[Finding]:
    """Board, JetPack, L4T and power mode of a Jetson; nothing on other machines.

    Args:
        root: folder that /etc and /proc are looked up in.
    """
    release = lines_of(root / "etc/nv_tegra_release")
    if not release:
        return []
    board = " ".join(lines_of(root / "proc/device-tree/model")) or "unknown"
    jetpack, _ = output_of(["dpkg-query", "--showformat=${Version}", "--show", "nvidia-jetpack"])
    found = [
        Finding("board", "ok", board),
        Finding("L4T", "ok", release[0].lstrip("# ")),
        Finding("JetPack", "ok" if jetpack else "missing", jetpack or "package nvidia-jetpack is not installed"),
    ]
    mode, _ = output_of(["nvpmodel", "-q"])
    return [*found, Finding("power mode", "ok", " ".join(mode.split()))] if mode else found


def ask_module(name: str) -> tuple[dict[str, Any], str]:
    """Import a library in a child process.

    Args:
        name: of the module; `onnxruntime`, `cv2`, `torch`, `tensorrt` and `tensorrt_rtx` tell of themselves.

    Returns:
        What it tells, empty if it failed; and the reason for that.
    """
    path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
    output, reason = output_of([sys.executable, "-c", CHILD, path, name, IDENTITY])
    try:
        told = json.loads(output.splitlines()[-1]) if output else {}
    except ValueError:
        told = {}
    return (told, "") if isinstance(told, dict) and told else ({}, reason or "it told nothing")
