"""Optional packages of the core and the runtime: one place imports each of them, when it is first needed."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from pgn_edge.errors import EngineError, MissingExtraError


def import_onnxruntime(module: str = "onnxruntime") -> ModuleType:
    """Import ONNX Runtime with its telemetry switched off.

    Since release 1.30 ONNX Runtime writes a device id below the user's cache folder and looks up its vendor's host.
    It reads `ORT_DISABLE_TELEMETRY` once, when it is imported; `disable_telemetry_events()` comes too late. A value
    that the user has set stays.

    Args:
        module: Name of the module or of one below it, for example `onnxruntime.quantization`.

    Returns:
        The module.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise MissingExtraError("onnxruntime", "cpu") from exc


def import_opencv() -> ModuleType:
    """Import OpenCV.

    Returns:
        The module `cv2`.

    Raises:
        MissingExtraError: OpenCV is not installed.
        EngineError: OpenCV is installed and does not load, for example because the system has no libGL.
    """
    try:
        module = importlib.import_module("cv2")
        _ = module.__version__  # two wheels that overwrote each other can leave an empty module
    except ModuleNotFoundError as exc:
        raise MissingExtraError("OpenCV", "cv") from exc
    except (ImportError, AttributeError) as exc:
        raise EngineError(
            "OpenCV",
            expected="a module that loads",
            got=str(exc).split("\n")[0],
            do="install the library that it names (libGL: apt-get install libgl1), or replace it: "
            "pip uninstall -y opencv-python opencv-python-headless, then pip install opencv-python-headless",
        ) from exc
    return module


def import_tomllib() -> ModuleType:
    """Import the TOML parser: Python's own from 3.11 on, and `tomli`, which is the same, on 3.10.

    Raises:
        MissingExtraError: Python 3.10 without tomli.
    """
    try:
        return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError as exc:
        raise MissingExtraError("tomli", "cli") from exc


class _OpenCv:
    """The module `cv2`, which is imported when the first of its names is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_opencv(), name)


cv2: Any = _OpenCv()
