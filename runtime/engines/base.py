"""What every engine is: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pgn_edge.errors import EngineError


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of one tensor of an engine.

    Args:
        shape: sizes; None where the size is free (the batch).
        dtype: numpy type.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype

    def accepts(self, array: object) -> bool:
        """Whether `array` is one, of this type, and of this shape where it is fixed."""
        return (
            isinstance(array, np.ndarray)
            and array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(want in (None, have) for want, have in zip(self.shape, array.shape, strict=True))
        )

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('batch' if size is None else str(size) for size in self.shape)})"


class Engine(Protocol):
    """A compiled network. One thread at a time may call it; outputs belong to the caller."""

    @property
    def name(self) -> str:
        """The file it came from, for messages."""

    @property
    def device(self) -> str:
        """Where and with what it runs, for reports."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Its inputs by name."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Its outputs by name."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Facts that the file carries about itself."""

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            feeds: one array for each input, of its type and shape.

        Returns:
            Every output by name, in arrays that the caller owns.

        Raises:
            EngineError: wrong names, types or shapes, or the engine failed.
        """

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Fix the arrays that the engine reads and writes, so that a run neither allocates nor copies.

        The output of one engine may be the input of the next. Arrays stay the caller's, who keeps other threads from
        them while it runs.

        Args:
            inputs: one contiguous array for each input, of its type and shape.
            outputs: one contiguous, writable array for each output, with every size known.

        Returns:
            A call that runs once, from what the inputs hold by then; it raises EngineError if the engine fails.

        Raises:
            EngineError: wrong names, types or shapes, or arrays that are not contiguous.
        """

    def close(self) -> None:
        """Give its memory back; calling twice does no harm."""


def check_binding(engine: Engine, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays that an engine cannot read or write in place.

    Raises:
        EngineError: a name, type or shape is wrong, or an array is not contiguous or not writable.
    """
    check_feeds(engine, inputs)
    if outputs.keys() != engine.outputs.keys():
        raise EngineError(
            engine.name, expected=f"outputs {sorted(engine.outputs)}", got=f"{sorted(outputs)}", do="name each once"
        )
    for name, array in (*inputs.items(), *outputs.items()):
        spec = engine.outputs[name] if name in outputs else engine.inputs[name]
        usable = spec.accepts(array) and array.flags.c_contiguous and (array.flags.writeable or name in inputs)
        if not usable:
            raise EngineError(
                f"{engine.name}: {name}",
                expected=f"{spec}, contiguous and writable",
                got=f"{array.dtype} {array.shape}",
                do="bind an array made with numpy.zeros",
            )


def infer_all(engine: Engine, name: str, batch: np.ndarray) -> dict[str, np.ndarray]:
    """Run any number of frames, also through an engine whose batch is fixed: in parts, the last one filled up.

    Args:
        engine: with one input.
        name: of its input.
        batch: at least one frame, of the input's type and shape.

    Returns:
        Every output by name, one row for each frame, in arrays that the caller owns.

    Raises:
        EngineError: as `infer`.
    """
    size = engine.inputs[name].shape[0]
    if size in (None, len(batch)):
        return engine.infer({name: batch})
    parts = []
    for start in range(0, len(batch), size):
        part = np.zeros((size, *batch.shape[1:]), batch.dtype)
        given = batch[start : start + size]
        part[: len(given)] = given
        outputs = engine.infer({name: part})
        parts.append({key: value[: len(given)] for key, value in outputs.items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def check_feeds(engine: Engine, feeds: Mapping[str, np.ndarray]) -> None:
    """Refuse feeds that do not fit, with both shapes in the message.

    Raises:
        EngineError: a name, type or shape is wrong.
    """
    if feeds.keys() != engine.inputs.keys():
        raise EngineError(
            engine.name,
            expected=f"inputs {sorted(engine.inputs)}",
            got=f"{sorted(feeds)}",
            do="name each input once",
        )
    for name, array in feeds.items():
        spec = engine.inputs[name]
        if not spec.accepts(array):
            raise EngineError(
                f"{engine.name}: {name}",
                expected=str(spec),
                got=f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__,
                do="give it the shape and type that it was exported for",
            )
