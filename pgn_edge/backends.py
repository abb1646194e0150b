"""The compilers behind plans: two Python modules of one interface, imported only where a plan is made or opened."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pgn_edge.errors import EngineError, MissingExtraError

TEGRA_RELEASE = Path("/etc/nv_tegra_release")


def load_backend(name: str) -> Any:
    """The module of a backend.

    Args:
        name: `tensorrt` or `tensorrt-rtx`.

    Raises:
        EngineError: another name; or the module is there and cannot be loaded.
        MissingExtraError: it is not installed.
    """
    modules = {"tensorrt": ("tensorrt", "tensorrt"), "tensorrt-rtx": ("tensorrt_rtx", "rtx")}
    if name not in modules:
        raise EngineError("backend", expected=" or ".join(modules), got=repr(name), do="choose one with --backend")
    module, extra = modules[name]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if name == "tensorrt" and TEGRA_RELEASE.exists():
            # The wheels of x86 do not run there: JetPack has a package of its own.
            raise EngineError(
                module,
                expected="JetPack's own Python package",
                got="no such module",
                do="run: sudo apt-get install python3-libnvinfer, and make the venv with --system-site-packages",
            ) from exc
        raise MissingExtraError(module, extra) from exc
    except (ImportError, OSError, RuntimeError) as exc:
        raise EngineError(
            module, expected="a module that loads", got=f"{exc}".split("\n")[0], do="see: pgn-edge doctor"
        ) from exc


def known_architectures(module: Any) -> tuple[str, ...]:
    """GPU architectures that a backend builds for without having them, for example `("sm_86", "sm_120")`, oldest first.

    Args:
        module: of the backend.
    """
    members = getattr(module, "ComputeCapability", None)
    names = members.__members__ if members is not None else ()
    numbers = sorted(int(name[2:]) for name in names if name.startswith("SM"))
    return tuple(f"sm_{number}" for number in numbers)
