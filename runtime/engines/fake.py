"""An engine made of a Python function, for tests of apps and for failures on cue."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.base import TensorSpec, check_binding, check_feeds


class FakeEngine:
    """A real `Engine` that computes with a function and fails when told to.

    One thread at a time may call `infer`.

    Args:
        inputs: as an engine has them; feeds are checked as in any other.
        outputs: likewise.
        function: feeds -> outputs.
        metadata: facts, as `EngineFacts.to_metadata` gives them.
        fail_at: numbers of the calls of `infer`, counted from 0, that raise EngineError instead.
    """

    def __init__(
        self,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        function: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
        *,
        metadata: Mapping[str, str] | None = None,
        fail_at: frozenset[int] = frozenset(),
    ) -> None:
        self.name, self.device = "fake engine", "python"
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.calls = 0
        self.closed = False
        self._function, self._fail_at = function, fail_at

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.infer`."""
        check_feeds(self, feeds)
        call, self.calls = self.calls, self.calls + 1
        if self.closed or call in self._fail_at:
            raise EngineError(
                self.name,
                expected="a run without errors",
                got="a closed engine" if self.closed else f"a failure on cue at call {call}",
                do="this engine is a stand-in: use a real one",
            )
        return dict(self._function(feeds))

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `Engine.bind`."""
        check_binding(self, inputs, outputs)

        def run() -> None:
            for name, value in self.infer(inputs).items():
                np.copyto(outputs[name], value)

        return run

    def close(self) -> None:
        """See `Engine.close`."""
        self.closed = True
