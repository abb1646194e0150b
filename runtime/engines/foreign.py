"""A foreign engine behind the names and types of ours: input `canvas`, output `embedding`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.base import Engine, TensorSpec, check_binding, check_feeds
from pgn_edge.runtime.engines.facts_file import PROBE_AGAIN, FactsFile

TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


class ForeignEngine:
    """An engine that pgn-edge did not export, with the facts that a probe proved.

    The engine itself is not modified. Canvases and embeddings pass through the memory of the host, where names, axes
    and types are translated. Inputs beside the pictures are filled with ones, as in the probe. The golden pair of a
    task decides whether it belongs to this engine, as everywhere.

    One thread at a time may call it; the arrays that it returns belong to the caller.

    Args:
        engine: Engine as it is, closed with this.
        file: Facts of the engine.

    Raises:
        EngineError: the engine has other tensors than the facts say.
    """

    def __init__(self, engine: Engine, file: FactsFile) -> None:
        self._engine, self._file = engine, file
        self.name, self.device = engine.name, engine.device
        self._spec = self._tensor("input", file.tensors.input, engine.inputs)
        output = self._tensor("output", file.tensors.output, engine.outputs)
        canvas = file.facts.geometry.canvas_hw
        shape = (3, *canvas) if file.facts.canvas == "float32" else (*canvas, 3)
        batch, most = self._spec.frames, self._spec.most
        self.inputs = {"canvas": TensorSpec((batch, *shape), np.dtype(file.facts.canvas), most)}
        width = output.shape[-1] if output.shape else None
        self.outputs: Mapping[str, TensorSpec] = {
            file.facts.output: TensorSpec((batch, width), np.dtype(np.float32)),
        }
        self.metadata: Mapping[str, str] = file.facts.to_metadata()

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.infer`."""
        check_feeds(self, feeds)
        canvas = feeds["canvas"]
        ours = "NCHW" if self._file.facts.canvas == "float32" else "NHWC"
        if ours != self._file.tensors.axes:
            canvas = canvas.transpose(TO_NHWC if ours == "NCHW" else TO_NCHW)
        canvas = np.ascontiguousarray(canvas, self._spec.dtype)
        picture = canvas if self._spec.batched else canvas[0]
        others = {
            name: np.ones([size or 1 for size in spec.shape], spec.dtype)
            for name, spec in self._engine.inputs.items()
            if name != self._file.tensors.input
        }
        answer = self._engine.infer({self._file.tensors.input: picture, **others})[self._file.tensors.output]
        if not self._spec.batched and not (answer.ndim > 1 and len(answer) == 1):
            answer = answer[None]
        vectors = answer[:, 0] if answer.ndim == 3 else answer.reshape(len(answer), -1)
        return {self._file.facts.output: np.ascontiguousarray(vectors, np.float32)}

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `Engine.bind`; each run copies the answer."""
        check_binding(self, inputs, outputs)
        output = self._file.facts.output

        def run() -> None:
            answer = self.infer(inputs)[output]
            if answer.shape != outputs[output].shape:
                got, expected = str(answer.shape), str(outputs[output].shape)
                raise EngineError(f"{self.name}: {output}", expected=expected, got=got, do=PROBE_AGAIN)
            np.copyto(outputs[output], answer)

        return run

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()

    def _tensor(self, kind: str, name: str, found: Mapping[str, TensorSpec]) -> TensorSpec:
        if name not in found:
            expected = f"{kind} {name!r}, by its facts"
            raise EngineError(self.name, expected=expected, got=", ".join(found), do=PROBE_AGAIN)
        return found[name]
