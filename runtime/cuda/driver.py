"""NVIDIA's driver library: the functions that are called, and the one place where their answers are checked.

Source: NVIDIA, CUDA Driver API.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from ctypes import CDLL, POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong
from typing import Any

from pgn_edge.errors import EngineError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_Word = c_size_t  # a handle, an address of the host or of the GPU, or a size: all are as wide as a pointer

# Types of the arguments; each gives a status. Where the driver has versions of a function, the suffix pins the one
# with these arguments, as its own header does for programs in C.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(_Word), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (_Word,),
    "cuMemGetInfo_v2": (POINTER(_Word), POINTER(_Word)),
    "cuMemAlloc_v2": (POINTER(_Word), _Word),
    "cuMemFree_v2": (_Word,),
    "cuMemHostAlloc": (POINTER(_Word), _Word, c_uint),
    "cuMemFreeHost": (_Word,),
    "cuMemcpyHtoDAsync_v2": (_Word, _Word, _Word, _Word),
    "cuMemcpyDtoHAsync_v2": (_Word, _Word, _Word, _Word),
    "cuMemcpyDtoDAsync_v2": (_Word, _Word, _Word, _Word),
    "cuStreamCreate": (POINTER(_Word), c_uint),
    "cuStreamSynchronize": (_Word,),
    "cuStreamDestroy_v2": (_Word,),
    "cuStreamBeginCapture_v2": (_Word, c_int),
    "cuStreamEndCapture": (_Word, POINTER(_Word)),
    "cuGraphInstantiateWithFlags": (POINTER(_Word), _Word, c_ulonglong),
    "cuGraphDestroy": (_Word,),
    "cuGraphLaunch": (_Word, _Word),
    "cuGraphExecDestroy": (_Word,),
    "cuEventCreate": (POINTER(_Word), c_uint),
    "cuEventRecordWithFlags": (_Word, _Word, c_uint),
    "cuEventSynchronize": (_Word,),
    "cuEventElapsedTime": (POINTER(c_float), _Word, _Word),
    "cuEventDestroy_v2": (_Word,),
}

OUT_OF_MEMORY, INVALID_HANDLE = "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_INVALID_HANDLE"

Instead = Mapping[str, Callable[[], EngineError]]

# After one of these the context is lost: whatever is called next fails too, and only a new process helps.
_FATAL = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        *("ASSERT", "ECC_UNCORRECTABLE", "HARDWARE_STACK_ERROR", "ILLEGAL_ADDRESS", "ILLEGAL_INSTRUCTION"),
        *("INVALID_ADDRESS_SPACE", "INVALID_PC", "LAUNCH_FAILED", "LAUNCH_TIMEOUT", "MISALIGNED_ADDRESS"),
    )
)

NO_ROOM = "close what else uses the GPU, or take a smaller batch"

_DO = {
    OUT_OF_MEMORY: NO_ROOM,
    "CUDA_ERROR_NOT_INITIALIZED": "after a fork CUDA cannot be used: start child processes with spawn",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "do this before the capture: it may only queue work",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": "capture only work that queues and never waits",
}


class Driver:
    """The driver library, loaded and started. Any thread may call it.

    `lost` says which call was the first to report that the context is lost; it is empty as long as none has.

    Args:
        library: file to load, by name or by path; None for its own name on this system.

    Raises:
        EngineError: there is no driver, it is too old, or it has no GPU.
    """

    def __init__(self, library: str | None) -> None:
        self.lost = ""
        try:
            self._library = CDLL(library or LIBRARY)
        except OSError as exc:
            raise EngineError(
                "CUDA", expected="an NVIDIA driver", got=str(exc), do="install the driver; see: pgn-edge doctor"
            ) from exc
        for function, arguments in FUNCTIONS.items():
            try:
                getattr(self._library, function).argtypes = arguments
            except AttributeError as exc:
                raise EngineError(
                    "CUDA",
                    expected="an NVIDIA driver for CUDA 11.4 or later",
                    got=f"one without {function}",
                    do="update the driver; see: pgn-edge doctor",
                ) from exc
            getattr(self._library, function).restype = c_int
        try:
            self.call("cuInit", 0)
        except EngineError as exc:
            raise EngineError("CUDA", expected="an NVIDIA driver with a GPU", got=exc.got, do=exc.do) from exc

    def call(self, function: str, *arguments: Any, instead: Instead | None = None) -> None:
        """Call one of `FUNCTIONS`.

        Args:
            function: its name.
            arguments: as it takes them.
            instead: by the driver's name of an error, what makes a better one of it.

        Raises:
            EngineError: it did not succeed; `got` begins with the driver's name of the error.
        """
        status = getattr(self._library, function)(*arguments)
        if status == 0:
            return
        name = self._say("cuGetErrorName", status) or f"status {status}"
        if instead and name in instead and not self.lost:
            raise instead[name]()
        text, earlier = self._say("cuGetErrorString", status) or "no text", self.lost
        if name in _FATAL and not earlier:
            self.lost = f"{function} failed with {name}"
        raise EngineError(
            "CUDA",
            expected=f"{function} to succeed",
            got=f"{name} ({text})" + (f" after {earlier}" if earlier else ""),
            do="start the process again" if self.lost else _DO.get(name, "see: pgn-edge doctor"),
        )

    def new(self, function: str, *arguments: Any, instead: Instead | None = None) -> int:
        """Call one of `FUNCTIONS` whose first argument is where it puts a handle, an address or a number.

        Returns:
            What it put there.

        Raises:
            EngineError: as `call`.
        """
        made = FUNCTIONS[function][0]._type_()
        self.call(function, byref(made), *arguments, instead=instead)
        return int(made.value)

    def _say(self, function: str, status: int) -> str:
        said = c_char_p()
        getattr(self._library, function)(status, byref(said))  # an unknown status leaves NULL
        return (said.value or b"").decode(errors="replace")
