"""Requests of one thread to a served model: one at a time, each answer checked."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from itertools import count
from math import prod
from time import monotonic, sleep
from typing import Any

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.base import TensorSpec
from pgn_edge.runtime.engines.triton_memory import SharedRegion, new_name, offsets
from pgn_edge.runtime.engines.triton_model import NAMES, ServedModel
from pgn_edge.runtime.engines.triton_options import TritonAddress, TritonOptions
from pgn_edge.runtime.engines.triton_wire import open_wire
from pgn_edge.runtime.retry import Deadline, NoAnswerError

Feeds = Mapping[str, np.ndarray]
READY_PAUSE_S = 0.05
FORGET_S = 0.05  # of a request that only tidies up
MOST_LEFT = 64  # names of regions to be forgotten; a server that is away for hours has forgotten them itself
# Both protocols connect again without a word. No server starts within this time, so whoever asks more often than that
# sees an attempt fail when it was replaced, and whoever does not asks what it serves.
QUIET_S = 0.5
FIRST_BYTES = 4096  # of the region that shows whether the server shares memory at all
FORGOTTEN = "Unable to find shared memory region"  # Triton's words after it was started again


class Session:
    """A connection and the memory that is shared over it; one thread uses it.

    Args:
        address: of the model.
        options: of its requests.

    Raises:
        MissingExtraError: tritonclient is not installed.
    """

    def __init__(self, address: TritonAddress, options: TritonOptions) -> None:
        self._address, self._options = address, options
        self._wire = open_wire(address, options)
        self._ids, self._prefix = count(), secrets.token_hex(4)
        self._doubt = False  # whether the server may have been replaced since the last answer
        self._answered_at = monotonic()
        self._region: SharedRegion | None = None
        self._left: deque[str] = deque(maxlen=MOST_LEFT)

    def open(self, deadline: Deadline) -> ServedModel:
        """Wait until server and model are ready, and read what the model is.

        Raises:
            EngineError: not ready in time, no such model, or none that an engine can be.
        """
        reason = "no answer"
        while deadline.left_s > 0:
            try:
                if not self._wire.call("is_server_ready", deadline.left_s):
                    reason = "a server that is not ready"
                elif not self._wire.call("is_model_ready", deadline.left_s, self._address.model, self._address.version):
                    reason = self._unready(deadline)
                else:
                    return self._read(deadline, self._address.version)
            except NoAnswerError as exc:
                reason = exc.got
                self._wire.close()
            sleep(min(READY_PAUSE_S, deadline.left_s))
        raise EngineError(
            str(self._address),
            expected=f"a model that is ready within {deadline.seconds:g} s",
            got=reason,
            do="start the server, see docs/remote.md; or wait longer with ready_s",
        )

    def _unready(self, deadline: Deadline) -> str:
        """Why a ready server has no ready model; one that it does not know will not become ready by waiting."""
        try:
            self._wire.metadata(max(deadline.left_s, 1e-3))
        except NoAnswerError:
            raise
        except EngineError as exc:
            if "not found" in exc.got:
                raise
            return exc.got
        return f"model {self._address.model}, which is not ready"

    def _read(self, deadline: Deadline, version: str) -> ServedModel:
        metadata = self._wire.metadata(max(deadline.left_s, 1e-3))
        config = self._wire.config(max(deadline.left_s, 1e-3))
        return ServedModel.read(metadata, config, str(self._address), version)

    def share(self, model: ServedModel, deadline: Deadline) -> str:
        """Try whether the server shares memory with this process.

        Returns:
            Why not; empty if it does.
        """
        if not self._address.loopback or not self._options.shared_memory:
            return "plain tensors"
        if any(None in spec.shape[1:] for spec in (*model.inputs.values(), *model.outputs.values())):
            return "plain tensors, as the model leaves sizes open"
        try:
            self._take_region(FIRST_BYTES, deadline)
        except NoAnswerError:
            raise
        except EngineError as exc:
            return f"plain tensors, as shared memory was refused: {exc.got}"
        return ""

    def infer(self, model: ServedModel, feeds: Feeds, shared: bool, timeout_s: float) -> dict[str, np.ndarray]:
        """Make one attempt.

        Args:
            model: as it was when the engine was opened.
            feeds: that fit it.
            shared: whether through shared memory.
            timeout_s: more than 0.

        Raises:
            NoAnswerError: none within `timeout_s`; another attempt may be made.
            EngineError: a refusal, or an answer that is not the model's.
            PairingError: another model since the last answer.
        """
        deadline = Deadline(timeout_s)
        try:
            if self._doubt or monotonic() - self._answered_at > QUIET_S:
                self._doubt = True
                model.check_same(self._read(deadline, model.version), str(self._address))
                self._doubt = False
            answer = self._attempt(model, feeds, shared, deadline)
        except EngineError as exc:
            self.abandon()
            if FORGOTTEN in exc.got:
                raise NoAnswerError(exc.subject, expected=exc.expected, got=exc.got, do=exc.do) from exc
            raise
        self._answered_at = monotonic()
        return answer

    def _attempt(self, model: ServedModel, feeds: Feeds, shared: bool, deadline: Deadline) -> dict[str, np.ndarray]:
        rows = len(next(iter(feeds.values())))
        shapes = {name: _shape(spec, rows) for name, spec in model.outputs.items()}
        places: dict[str, int] = {}
        if shared:
            places = self._place(model, feeds, shapes, deadline)
        request = f"{self._prefix}-{next(self._ids)}"
        result = self._wire.call(
            "infer",
            max(deadline.left_s, 1e-3),
            self._address.model,
            self._inputs(feeds, places),
            model_version=model.version,
            outputs=self._outputs(model.outputs, shapes, places),
            request_id=request,
        )
        self._check_header(result.get_response(), request, model.version)
        return {
            name: self._answer(result, name, spec, shapes[name], places.get(name))
            for name, spec in model.outputs.items()
        }

    def _place(
        self, model: ServedModel, feeds: Feeds, shapes: Mapping[str, tuple[int, ...]], deadline: Deadline
    ) -> dict[str, int]:
        """Write the inputs to the shared region, where each output has its place too."""
        sizes = {name: array.nbytes for name, array in feeds.items()}
        sizes |= {name: prod(shapes[name]) * spec.dtype.itemsize for name, spec in model.outputs.items()}
        places, size_bytes = offsets(sizes)
        region = self._region
        if region is None or region.size_bytes < size_bytes:
            self._leave_region()
            region = self._take_region(size_bytes, deadline)
        for name, array in feeds.items():
            region.write(array, places[name])
        for name, shape in shapes.items():
            # What an earlier answer left there must never pass for this one.
            if model.outputs[name].dtype.kind == "f":
                region.write(np.full(shape, np.nan, model.outputs[name].dtype), places[name])
        return places

    def _inputs(self, feeds: Feeds, places: Mapping[str, int]) -> list[Any]:
        inputs = []
        for name, array in feeds.items():
            tensor = self._wire.module.InferInput(name, list(array.shape), NAMES[array.dtype])
            if places and self._region is not None:
                tensor.set_shared_memory(self._region.name, array.nbytes, places[name])
            else:
                tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        return inputs

    def _outputs(
        self, specs: Mapping[str, TensorSpec], shapes: Mapping[str, tuple[int, ...]], places: Mapping[str, int]
    ) -> list[Any]:
        outputs = []
        for name, spec in specs.items():
            tensor = self._wire.module.InferRequestedOutput(name)
            if places and self._region is not None:
                tensor.set_shared_memory(self._region.name, prod(shapes[name]) * spec.dtype.itemsize, places[name])
            outputs.append(tensor)
        return outputs

    def _check_header(self, response: Any, request: str, version: str) -> None:
        for key, wanted in (("id", request), ("model_version", version)):
            found = response.get(key) if isinstance(response, dict) else getattr(response, key, None)
            if str(found) != wanted:
                raise self._wrong(f"{key} of the answer", wanted, f"{found!r:.80}")

    def _answer(
        self, result: Any, name: str, spec: TensorSpec, shape: tuple[int, ...], place: int | None
    ) -> np.ndarray:
        try:
            output = result.get_output(name)
            found, datatype = ((), "") if output is None else shape_and_type(output)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise self._wrong(name, str(spec), f"an unreadable answer ({type(exc).__name__})") from exc
        if output is None:
            raise self._wrong(name, str(spec), "an answer without it")
        if datatype != NAMES[spec.dtype] or not _fits(shape, found):
            raise self._wrong(name, f"{NAMES[spec.dtype]} {_sizes(shape)}", f"{datatype} {_sizes(found)}")
        if place is not None and self._region is not None:
            return self._region.read(spec.dtype, shape, place)
        try:
            array = result.as_numpy(name)
        except Exception as exc:
            # tritonclient trusts what the server says of its bytes; numpy does not.
            raise self._wrong(name, f"{_sizes(found)} numbers", f"{type(exc).__name__}: {exc}") from exc
        if array is None or array.shape != found or array.dtype != spec.dtype:
            raise self._wrong(name, f"{spec.dtype} {_sizes(found)}", "other bytes than it says")
        return np.array(array)

    def _wrong(self, what: str, expected: str, got: str) -> EngineError:
        return EngineError(
            f"{self._address}: {what}", expected=expected, got=got, do="serve the model that pgn-edge triton-repo wrote"
        )

    def abandon(self) -> None:
        """Leave what an attempt that failed may still use: its connection and its memory."""
        self._wire.close()
        self._leave_region()
        self._doubt = True

    def _take_region(self, size_bytes: int, deadline: Deadline) -> SharedRegion:
        name = new_name()
        self._left.append(name)  # the server may register it, and its answer be lost
        self._region = SharedRegion(self._wire, name, size_bytes, max(deadline.left_s, 1e-3))
        self._left.remove(name)
        return self._region

    def _leave_region(self) -> None:
        region, self._region = self._region, None
        if region is not None:
            region.destroy()
            self._left.append(region.name)

    def tidy(self, most: int = 1) -> None:
        """Have the server forget memory that was left; between requests, as nobody waits for it.

        Args:
            most: regions.
        """
        for name in list(self._left)[:most]:
            if self._doubt:
                return
            try:
                self._wire.call("unregister_system_shared_memory", FORGET_S, name)
            except NoAnswerError:
                self.abandon()
                return
            except EngineError:
                pass  # it was started again, and knows no such name
            self._left.remove(name)

    def close(self) -> None:
        """Give connection and memory back."""
        self._leave_region()
        self.tidy(MOST_LEFT)
        self._wire.close()


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    """With the batch in the first place; -1 where a size is open."""
    return tuple(
        rows if at == 0 and size is None else -1 if size is None else size for at, size in enumerate(spec.shape)
    )


def shape_and_type(output: Any) -> tuple[tuple[int, ...], str]:
    """Shape and type that a server states for an output, in JSON or as a message of gRPC.

    Raises:
        LookupError, TypeError, ValueError, AttributeError, OverflowError: the statement is not readable. Python reads
            Infinity as a number of JSON, and a server may write it.
    """
    said = output if isinstance(output, dict) else {"shape": output.shape, "datatype": output.datatype}
    return tuple(int(size) for size in said["shape"]), str(said["datatype"])


def _fits(shape: tuple[int, ...], found: tuple[int, ...]) -> bool:
    return len(shape) == len(found) and all(want in (-1, have) for want, have in zip(shape, found, strict=True))


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
