"""Optional packages: every import of one that needs care, in one place."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from pgn_edge.errors import MissingExtraError


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
