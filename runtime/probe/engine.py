"""An engine as what is probed: its image-like input found, its answers made vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines import Engine, TensorSpec
from pgn_edge.runtime.probe.pictures import pictures
from pgn_edge.runtime.probe.subject import MOST_CALLS, USUAL_SIZES, spent, to_levels

Layout = Literal["NCHW", "NHWC"]
Size = tuple[int, int]
AXES: dict[Layout, tuple[int, int, int]] = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}  # of channels, rows and columns
# Usual names of an embedding, the likeliest first.
VECTORS = ("embedding", "image_embeds", "image_features", "pooler_output", "logits")


class EngineSubject:
    """See `Subject`. Found by running it: facts that its file carries are not read.

    Args:
        engine: Engine with one image-like input, closed with this. Other inputs are filled with ones.
        likely: Sizes (H, W) to try first where its own is free.
        most_calls: Number of runs after which it is not run any more.
        output: Name of the output that holds the embedding; empty to look for it.
        widths: Widths of the answers that are known, for outputs whose names say nothing.

    Attributes:
        candidates: Outputs that may be the embedding, the likeliest first.
        named: Whether the output was chosen by the user, by its name, by its width, or as the only one.

    Raises:
        EngineError: no input, or several, that take colour pictures; no size that it takes; no vectors.
    """

    def __init__(
        self,
        engine: Engine,
        likely: Sequence[Size] = (),
        most_calls: int = MOST_CALLS,
        output: str = "",
        widths: Sequence[int] = (),
    ) -> None:
        self._engine, self._most_calls = engine, most_calls
        self.name, self.device, self.calls = engine.name, engine.device, 0
        self.input, self.spec = _image_input(engine)
        self.single = len(engine.inputs[self.input].shape) == 3  # one picture a call, without a batch axis
        self.eight_bit = self.spec.dtype.kind in "ui"
        self.refusals: dict[str, str] = {}
        self.layouts: list[Layout] = []
        self.size_hw = self._find_size(likely)
        self.layout = self.layouts[0]
        _, rows, columns = AXES[self.layout]
        self.fixed = None not in (self.spec.shape[rows], self.spec.shape[columns])
        self.batch = self._find_batch()
        self.candidates, self.named = self._find_outputs(output, widths)
        self.output = self.candidates[0]

    def answer(self, values: np.ndarray) -> np.ndarray:
        """See `Subject.answer`."""
        size = self.batch or min(self.spec.most or len(values), len(values))
        rows = []
        for start in range(0, len(values), size):
            part = values[start : start + size]
            filled = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            rows.append(_vectors(self._run(self.layout, filled)[self.output])[: len(part)])
        return np.concatenate(rows)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _run(self, layout: Layout, values: np.ndarray) -> dict[str, np.ndarray]:
        if self.calls >= self._most_calls:
            raise spent(self.name, self._most_calls)
        self.calls += 1
        frames = (to_levels(values) if self.eight_bit else values).astype(self.spec.dtype)
        if layout == "NCHW":
            frames = frames.transpose(0, 3, 1, 2)
        others = {name: _ones(spec) for name, spec in self._engine.inputs.items() if name != self.input}
        frames = np.ascontiguousarray(frames[0] if self.single else frames)
        outputs = self._engine.infer({self.input: frames, **others})
        return {name: _with_batch(array) for name, array in outputs.items()} if self.single else outputs

    def _find_size(self, likely: Sequence[Size]) -> Size:
        """The first size that runs; fills `layouts` with those that take it."""
        sizes = [*likely, *((side, side) for side in USUAL_SIZES)]
        layouts = _layouts(self.spec)
        wanted = {layout: _declared(self.spec, layout, sizes) for layout in layouts}
        for index in range(max(map(len, wanted.values()))):
            for layout in layouts:
                for size_hw in wanted[layout][index : index + 1]:
                    try:
                        self._run(layout, self._pictures(self.spec.shape[0] or 1, size_hw))
                    except EngineError as exc:
                        self.refusals.setdefault(layout, exc.got)
                    else:
                        self.layouts.append(layout)
                        found = size_hw
            if self.layouts:
                return found
        raise EngineError(
            self.name,
            expected=f"a size of {', '.join(f'{h} x {w}' for h, w in sizes)} that it takes",
            got=f"none; the first time it said: {next(iter(self.refusals.values()))}",
            do="give a --task or a --reference of its size",
        )

    def _find_batch(self) -> int | None:
        """Frames of one call; None where they are free, and 1 where it says so but does not take two."""
        if self.spec.shape[0] is not None:
            return self.spec.shape[0]
        try:
            self._run(self.layout, self._pictures(2, self.size_hw))
        except EngineError:
            return 1
        return None

    def _find_outputs(self, wanted: str, widths: Sequence[int]) -> tuple[list[str], bool]:
        """Outputs that are a vector for each picture, the likeliest first, and whether the first is certain."""
        frames = self._pictures(2, self.size_hw)
        one, other = (self._run(self.layout, np.repeat(frames[[i]], self.batch or 1, axis=0)) for i in (0, 1))
        count = self.batch or 1
        vectors = [name for name, array in one.items() if array.ndim > 1 and array.shape[0] == count]
        if not vectors:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in one.items())
            raise EngineError(
                self.name, expected="an output with one row a picture", got=shapes, do="export the encoder alone"
            )

        if wanted and wanted not in vectors:
            expected = f"an output with one row a picture ({', '.join(vectors)})"
            raise EngineError(f"{self.name}: --output", expected=expected, got=wanted, do="name one of these")

        def rank(name: str) -> tuple[bool, bool, bool, int]:
            known = VECTORS.index(name) if name in VECTORS else len(VECTORS)
            other_width = bool(widths) and _vectors(one[name]).shape[1] not in widths
            return np.array_equal(one[name], other[name]), other_width, one[name].ndim != 2, known

        ranked = [wanted] if wanted else sorted(vectors, key=rank)
        best = rank(ranked[0])
        equal = [name for name in ranked if rank(name)[:3] == best[:3]]
        return equal, len(equal) == 1 or ranked[0] in VECTORS

    def _pictures(self, count: int, size_hw: Size) -> np.ndarray:
        levels = pictures(count, size_hw, 0)
        return levels if self.eight_bit else levels / 127.5 - 1

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Of the engine, by name."""
        return self._engine.outputs

    @property
    def metadata(self) -> Mapping[str, str]:
        """Of the engine: what it says of itself, which no question may read."""
        return self._engine.metadata


def _image_input(engine: Engine) -> tuple[str, TensorSpec]:
    specs = {name: _as_batch(spec) for name, spec in engine.inputs.items()}
    found = {name: spec for name, spec in specs.items() if spec.dtype.kind in "fui" and _layouts(spec)}
    if len(found) != 1:
        inputs = ", ".join(f"{name} {spec}" for name, spec in engine.inputs.items())
        raise EngineError(
            engine.name, expected="one input for colour pictures", got=inputs, do="probe the image encoder alone"
        )
    return next(iter(found.items()))


def _as_batch(spec: TensorSpec) -> TensorSpec:
    """A picture without a batch axis as a batch of one."""
    return TensorSpec((1, *spec.shape), spec.dtype) if len(spec.shape) == 3 else spec


def _with_batch(array: np.ndarray) -> np.ndarray:
    """An answer to one picture as that to a batch of one."""
    return array if array.ndim > 1 and len(array) == 1 else array[None]


def _layouts(spec: TensorSpec) -> list[Layout]:
    """Where the three channels may be; a stated 3 goes before a size that is free."""
    if len(spec.shape) != 4:
        return []
    channels = {layout: spec.shape[axes[0]] for layout, axes in AXES.items()}
    stated = [layout for layout, size in channels.items() if size == 3]
    return stated or [layout for layout, size in channels.items() if size is None]


def _declared(spec: TensorSpec, layout: Layout, sizes: Sequence[Size]) -> list[Size]:
    """Sizes with those sides in the place of which the engine declares its own, each once."""
    _, rows, columns = AXES[layout]
    height, width = spec.shape[rows], spec.shape[columns]
    return list(dict.fromkeys((height or h, width or w) for h, w in sizes))


def _ones(spec: TensorSpec) -> np.ndarray:
    return np.ones([size or 1 for size in spec.shape], spec.dtype)


def _vectors(output: np.ndarray) -> np.ndarray:
    """(M, D); of tokens (M, T, D) the first."""
    return np.asarray(output[:, 0] if output.ndim == 3 else output.reshape(len(output), -1), np.float64)
