"""The host's side of an engine on a GPU: arrays go up, it runs, arrays come down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from weakref import WeakSet

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda import Cuda, DeviceArray
from pgn_edge.runtime.engines.base import DeviceEngine, TensorSpec, check_binding, check_feeds

Arrays = dict[str, np.ndarray]


class Queued:
    """What `bind_device` gives: a call that queues one run, until its engine is closed.

    The objects of a library must be gone before the GPU is; whoever holds this call does not keep them.

    Args:
        name: of the engine, for the message.
        run: queues one run; holds those objects.
    """

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._name = name
        self._run: Callable[[], None] | None = run

    def __call__(self) -> None:
        """Queue one run.

        Raises:
            EngineError: its engine is closed, or refuses.
        """
        if self._run is None:
            raise EngineError(self._name, expected="an open engine", got="a closed one", do="open it again")
        self._run()

    def release(self) -> None:
        """Let go of what queues."""
        self._run = None


class HostAccess:
    """`infer` and `bind` of a `DeviceEngine`, made of its `bind_device`; and the account of what it has bound.

    Args:
        engine: that computes; not closed here.
        cuda: where its tensors lie.
    """

    def __init__(self, engine: DeviceEngine, cuda: Cuda) -> None:
        self._engine, self._cuda = engine, cuda
        self._last: tuple[Arrays, Arrays, Callable[[], None]] | None = None
        self._of_last, self._bound = ExitStack(), ExitStack()
        self._queued: WeakSet[Queued] = WeakSet()

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """See `Engine.infer`; arrays on the GPU are kept for the next call of the same shapes."""
        check_feeds(self._engine, feeds)
        inputs, outputs, run = self._for({name: feeds[name].shape for name in feeds})
        for name, array in feeds.items():
            np.copyto(inputs[name], array)
        run()
        return {name: array.copy() for name, array in outputs.items()}

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `Engine.bind`; the arrays on the GPU live as long as the engine."""
        check_binding(self._engine, inputs, outputs)
        return self._bind(inputs, outputs, self._bound)

    def queued(self, run: Callable[[], None]) -> Queued:
        """`run` as `bind_device` gives it."""
        made = Queued(self._engine.name, run)
        self._queued.add(made)
        return made

    def close(self) -> None:
        """Let go of everything that was bound, and give the arrays on the GPU back."""
        for queued in self._queued:
            queued.release()
        self._last = None
        self._of_last.close()
        self._bound.close()

    def _for(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Arrays, Arrays, Callable[[], None]]:
        last = self._last
        if last is None or {name: array.shape for name, array in last[0].items()} != shapes:
            self._last = None
            self._of_last.close()
            batch = next((shape[0] for shape in shapes.values() if shape), 1)
            inputs = {name: np.zeros(shapes[name], spec.dtype) for name, spec in self._engine.inputs.items()}
            outputs = {
                name: np.zeros(_shape(f"{self._engine.name}: {name}", spec, batch), spec.dtype)
                for name, spec in self._engine.outputs.items()
            }
            last = self._last = inputs, outputs, self._bind(inputs, outputs, self._of_last)
        return last

    def _bind(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], owned: ExitStack
    ) -> Callable[[], None]:
        up, down = (
            {name: (array, self._array(array, owned)) for name, array in arrays.items()} for arrays in (inputs, outputs)
        )
        queue = self._engine.bind_device(
            {name: pair[1] for name, pair in up.items()}, {name: pair[1] for name, pair in down.items()}
        )
        return partial(self._run, list(up.values()), queue, list(down.values()))

    def _array(self, like: np.ndarray, owned: ExitStack) -> DeviceArray:
        array = self._cuda.empty(like.shape, like.dtype)
        owned.callback(array.close)
        return array

    def _run(
        self,
        up: list[tuple[np.ndarray, DeviceArray]],
        queue: Callable[[], None],
        down: list[tuple[np.ndarray, DeviceArray]],
    ) -> None:
        for host, device in up:
            self._cuda.upload(device, host)
        queue()
        for host, device in down:
            self._cuda.download(host, device)
        self._cuda.synchronize()


def _shape(subject: str, spec: TensorSpec, batch: int) -> tuple[int, ...]:
    if None in spec.shape[1:]:
        raise EngineError(
            subject, expected="sizes that are known, but for the batch", got=str(spec), do="export it with fixed sizes"
        )
    return tuple(batch if size is None else size for size in spec.shape)
