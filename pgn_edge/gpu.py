"""Which NVIDIA GPUs this machine has. The driver is asked in child processes: no CUDA state is left in this one."""

from __future__ import annotations

import re
import sys

from pgn_edge.errors import EngineError
from pgn_edge.host import output_of

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")

# For a Jetson, whose nvidia-smi is absent or answers [N/A]. 75 and 76 are what the driver calls the two halves.
ASK_DRIVER = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
count, device, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()

def ask(status):
    if status != 0:
        raise SystemExit(1)

ask(cuda.cuInit(0))
ask(cuda.cuDeviceGetCount(ctypes.byref(count)))
for index in range(count.value):
    ask(cuda.cuDeviceGet(ctypes.byref(device), index))
    halves = []
    for attribute in (75, 76):
        ask(cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        halves.append(str(value.value))
    print(".".join(halves))
"""


def local_architectures() -> tuple[str, ...]:
    """Architectures of the GPUs here, each once, for example `("sm_87",)`; empty where there is no GPU or no driver."""
    for command in (NVIDIA_SMI, (sys.executable, "-I", "-c", ASK_DRIVER)):
        found = re.findall(r"^\s*(\d+)\.(\d+)\s*$", output_of(command)[0], re.MULTILINE)
        if found:
            return tuple(dict.fromkeys(f"sm_{major}{minor}" for major, minor in found))
    return ()


def require_architectures(subject: str, do: str) -> tuple[str, ...]:
    """`local_architectures`, where there must be some.

    Args:
        subject: what needs a GPU, for the message.
        do: what the user can do without one.

    Raises:
        EngineError: there is none.
    """
    found = local_architectures()
    if not found:
        raise EngineError(subject, expected="an NVIDIA GPU", got="no NVIDIA GPU or driver found", do=do)
    return found
