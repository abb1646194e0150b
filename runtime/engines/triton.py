"""A ViT engine on a Triton server, near or far, over the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.base import check_binding, check_feeds
from pgn_edge.runtime.engines.calls import Calls
from pgn_edge.runtime.engines.lanes import Pending
from pgn_edge.runtime.engines.triton_model import ServedModel
from pgn_edge.runtime.engines.triton_options import TritonAddress, TritonOptions
from pgn_edge.runtime.engines.triton_session import Feeds, Session
from pgn_edge.runtime.retry import Deadline

Outputs = dict[str, np.ndarray]


class TritonEngine:
    """A model that a server runs. No call waits longer than the deadline of its options, whatever the server does.

    Attempts without an answer (refused, reset, unavailable, too late) are repeated within the deadline; an answer is
    checked for the request that it is for, for version, names, types and shapes, and refused if one is wrong. Numbers
    that are not finite are passed on, as by every engine: they belong to one frame of the batch, and the runtime says
    which. After a connection is lost the server is asked again which model it serves, before it is sent a frame.

    Any thread may call it, and several at once, up to `in_flight`. Outputs belong to the caller.

    Args:
        url: `triton+http://host:port/model[/versions/N]`, or with `https`, `grpc` or `grpcs`.
        options: deadline, attempts, limits and secrets.

    Raises:
        EngineError: no such address, not ready in time, or no model that an engine can be.
        MissingExtraError: tritonclient is not installed.
    """

    def __init__(self, url: str, options: TritonOptions | None = None) -> None:
        self._options = options or TritonOptions()
        address = TritonAddress.parse(url)
        self._options.check_against(address)
        self.name = str(address)
        self._calls = Calls(self.name, self._options, partial(Session, address, self._options))
        deadline = Deadline(self._options.ready_s)
        try:
            self._model, refused = self._calls.open(partial(_open, deadline=deadline), deadline)
        except BaseException:
            self.close()
            raise
        self._shared = not refused
        how = refused or "shared memory"
        self.device = f"triton {address.protocol}{' with TLS' * address.tls} at {address.netloc}, {how}"
        self.inputs, self.outputs = self._model.inputs, self._model.outputs
        self.metadata: Mapping[str, str] = self._model.facts

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Outputs:
        """See `Engine.infer`."""
        return self._start(feeds).result()

    def infer_async(self, feeds: Mapping[str, np.ndarray]) -> Pending[Outputs]:
        """Ask, and do something else until the answer is there.

        Args:
            feeds: as in `infer`; copied, so that they may be changed at once.

        Returns:
            What waits for the answer, until the deadline, which begins now.

        Raises:
            EngineError: wrong names, types or shapes, too many in flight, or a server that has not answered lately.
        """
        check_feeds(self, feeds)
        return self._start({name: array.copy() for name, array in feeds.items()})

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `Engine.bind`; each run sends the inputs and copies the answer."""
        check_binding(self, inputs, outputs)

        def run() -> None:
            for name, value in self.infer(inputs).items():
                if value.shape != outputs[name].shape:
                    raise EngineError(
                        f"{self.name}: {name}",
                        expected=str(outputs[name].shape),
                        got=str(value.shape),
                        do="serve the model that pgn-edge triton-repo wrote",
                    )
                np.copyto(outputs[name], value)

        return run

    def close(self) -> None:
        """See `Engine.close`."""
        self._calls.close()

    def _start(self, feeds: Feeds) -> Pending[Outputs]:
        check_feeds(self, feeds)
        if not len(next(iter(feeds.values()))):
            raise EngineError(self.name, expected="at least one frame", got="none", do="leave the call out")
        return self._calls.start(lambda session, timeout_s: session.infer(self._model, feeds, self._shared, timeout_s))


def _open(session: Session, deadline: Deadline) -> tuple[ServedModel, str]:
    model = session.open(deadline)
    return model, session.share(model, deadline)
