"""Plans of TensorRT-RTX, which compiles kernels on the user's GPU when a plan is first run, and can keep them.

Source: TensorRT-RTX's documentation of runtime caches; the Python module's `IRuntimeConfig` and `IRuntimeCache`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pgn_edge.errors import OutputError
from pgn_edge.files import cache_folder, write_bytes
from pgn_edge.runtime.engines.plan import Plan
from pgn_edge.runtime.engines.tensorrt import TensorRtEngine


class TensorRtRtxEngine(TensorRtEngine):
    """See `TensorRtEngine`; compiled kernels are kept in the user's cache folder from one process to the next."""

    _kept: Path
    _cache: Any = None
    _before = b""

    def _prepare(self, plan: Plan) -> None:
        """Read the kernels that were compiled for this plan, GPU, driver and release before."""
        facts = (plan.sha256, self._trt.__version__, self.cuda.name, str(self.cuda.driver_version))
        self._kept = cache_folder("kernels") / hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self._config = self._engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        if self._kept.is_file():
            self._before = self._kept.read_bytes()
            self._cache.deserialize(self._before)  # one that it refuses is written anew
        self._config.set_runtime_cache(self._cache)

    def _context(self) -> Any:
        return self._engine.create_execution_context(runtime_config=self._config)

    def close(self) -> None:
        """See `Engine.close`; what was compiled meanwhile is kept, where the folder can be written."""
        if self._engine is not None and self._cache is not None:
            self._keep()
        self._cache = self._config = None
        super().close()

    def _keep(self) -> None:
        kernels = bytes(self._cache.serialize() or b"")
        if kernels and kernels != self._before:
            try:
                self._kept.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(self._kept, kernels)
            except (OSError, OutputError):
                return  # the next process compiles again: slower to start, and nothing else
