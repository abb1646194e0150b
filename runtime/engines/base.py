"""What every engine is: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda import Cuda, DeviceArray

Provider = Literal["cpu", "cuda", "tensorrt"]


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is opened.

    Args:
        provider: of ONNX Runtime, for an `.onnx`; never replaced by another behind the user's back.
        threads: on the CPU; 0 takes one for each core.
        gpu: number of the GPU, counted from 0.
        trusted: sha256 of plans without a sidecar that the user vouches for: a plan is code.
        deadline_s: Seconds that one frame may take in the PGN engine of a task in ONNX Runtime; 0 for no limit. ViT
            engines have no limit.

    Raises:
        EngineError: an unknown provider, or a negative number.
    """

    provider: Provider = "cpu"
    threads: int = 0
    gpu: int = 0
    trusted: frozenset[str] = frozenset()
    deadline_s: float = 10.0

    def __post_init__(self) -> None:
        if self.provider not in get_args(Provider):
            names = ", ".join(get_args(Provider))
            do = "choose one of them; cuda and tensorrt run on an NVIDIA GPU"
            raise EngineError("provider", expected=f"one of {names}", got=repr(self.provider), do=do)
        for name, value in (("threads", self.threads), ("gpu", self.gpu)):
            if not isinstance(value, int) or value < 0:
                raise EngineError(name, expected="a whole number from 0 on", got=repr(value), do=f"correct {name}")


CHANNELS = (1, 3, 4)  # of pictures: grey, RGB, RGB with alpha


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of one tensor of an engine.

    Args:
        shape: Sizes; None where the size is free (the batch).
        dtype: numpy type.
        most: Largest batch where that is free; None for any.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype
    most: int | None = None

    @property
    def batched(self) -> bool:
        """Whether the first axis is the batch; a picture of three axes, (C, H, W) or (H, W, C), has none."""
        if len(self.shape) != 3:
            return len(self.shape) > 0
        return self.shape[0] not in CHANNELS and self.shape[-1] not in CHANNELS

    @property
    def frames(self) -> int | None:
        """Number of frames in one call: a fixed batch, or 1 without a batch axis; None where the batch is free."""
        return self.shape[0] if self.batched else 1

    def with_size(self, size_hw: tuple[int, int]) -> TensorSpec:
        """The same picture with its free height and width filled in; any other tensor as it is."""
        lead = 1 if len(self.shape) == 4 else 0
        axes = self.shape[lead:]
        if len(axes) != 3 or (lead == 0 and self.batched):
            return self
        first = axes[0] in CHANNELS or (axes[0] is not None and axes[2] not in CHANNELS)
        rows = lead + (1 if first else 0)
        sizes = list(self.shape)
        for axis, size in zip((rows, rows + 1), size_hw, strict=True):
            sizes[axis] = sizes[axis] or size
        return TensorSpec(tuple(sizes), self.dtype, self.most)

    def accepts(self, array: object) -> bool:
        """Whether `array` is one, on the host or on a GPU, of this type, and of this shape where it is fixed."""
        return (
            isinstance(array, np.ndarray | DeviceArray)
            and array.dtype == self.dtype
            and len(array.shape) == len(self.shape)
            and all(want in (None, have) for want, have in zip(self.shape, array.shape, strict=True))
            and (self.most is None or array.shape[0] <= self.most)
        )

    def __str__(self) -> str:
        batch = "batch" if self.most is None else f"batch up to {self.most}"
        return f"{self.dtype} ({', '.join(batch if size is None else str(size) for size in self.shape)})"


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


@runtime_checkable
class DeviceEngine(Engine, Protocol):
    """An engine whose tensors lie in the memory of a GPU."""

    @property
    def cuda(self) -> Cuda:
        """The GPU; all that the engine does is queued on its stream."""

    @property
    def capturable(self) -> bool:
        """Whether a bound call may be recorded into a CUDA graph."""

    def bind_device(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> Callable[[], None]:
        """As `bind`, with arrays on the GPU: the output of one engine may be the input of the next.

        Returns:
            A call that queues one run and comes back at once; it raises EngineError if the engine refuses.

        Raises:
            EngineError: wrong names, types or shapes, or no memory.
        """


Arrays = Mapping[str, np.ndarray] | Mapping[str, DeviceArray]


def check_binding(engine: Engine, inputs: Arrays, outputs: Arrays, kind: type = np.ndarray) -> None:
    """Refuse arrays that an engine cannot read or write in place.

    Args:
        engine: that will.
        inputs: by name.
        outputs: by name.
        kind: what the arrays must be: `numpy.ndarray`, or `DeviceArray`.

    Raises:
        EngineError: a name, type or shape is wrong, or an array is not contiguous or not writable.
    """
    check_feeds(engine, inputs, kind)
    if outputs.keys() != engine.outputs.keys():
        raise EngineError(
            engine.name, expected=f"outputs {sorted(engine.outputs)}", got=f"{sorted(outputs)}", do="name each once"
        )
    arrays: list[tuple[str, np.ndarray | DeviceArray]] = [*inputs.items(), *outputs.items()]
    for name, array in arrays:
        spec = engine.outputs[name] if name in outputs else engine.inputs[name]
        if not (isinstance(array, kind) and spec.accepts(array) and _in_place(array, name in outputs)):
            raise EngineError(
                f"{engine.name}: {name}",
                expected=f"{kind.__name__} of {spec}, contiguous and writable",
                got=_described(array),
                do="bind an array of that kind, new from numpy.zeros or Cuda.empty",
            )


def parts(spec: TensorSpec, start: int, stop: int) -> list[slice]:
    """Frames `start` to `stop` in calls that an input accepts: a fixed batch as it is, else no more than it takes.

    The last part of a fixed batch goes beyond `stop` where the frames do not fill it.
    """
    size = spec.shape[0] or spec.most or max(stop - start, 1)
    last = size if spec.shape[0] else 0
    return [slice(at, max(min(at + size, stop), at + last)) for at in range(start, stop, size)]


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
    answers = []
    for part in parts(engine.inputs[name], 0, len(batch)):
        frames = batch[part]
        if len(frames) < part.stop - part.start:
            frames = np.zeros((part.stop - part.start, *batch.shape[1:]), batch.dtype)
            frames[: len(batch[part])] = batch[part]
        outputs = engine.infer({name: frames})
        answers.append({key: value[: len(batch[part])] for key, value in outputs.items()})
    if len(answers) == 1:
        return answers[0]
    return {key: np.concatenate([answer[key] for answer in answers]) for key in answers[0]}


def _in_place(array: np.ndarray | DeviceArray, written: bool) -> bool:
    if not isinstance(array, np.ndarray):
        return True  # memory on a GPU has no gaps, and is always writable
    return array.flags.c_contiguous and (array.flags.writeable or not written)


def _described(array: object) -> str:
    return f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray | DeviceArray) else type(array).__name__


def check_feeds(engine: Engine, feeds: Arrays, kind: type = np.ndarray) -> None:
    """Refuse feeds that do not fit, with both shapes in the message.

    Args:
        engine: that is fed.
        feeds: by name.
        kind: what they must be: `numpy.ndarray`, or `DeviceArray`.

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
        if not (isinstance(array, kind) and spec.accepts(array)):
            raise EngineError(
                f"{engine.name}: {name}",
                expected=str(spec),
                got=_described(array),
                do="give it the shape and type that it was exported for",
            )
