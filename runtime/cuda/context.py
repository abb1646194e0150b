"""The context of one GPU, its one stream, and everything that has to be given back."""

from __future__ import annotations

from ctypes import create_string_buffer
from typing import Any

from pgn_edge.errors import EngineError
from pgn_edge.runtime.cuda.driver import Driver, Instead

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, which cannot be captured


class Context:
    """Retains a GPU's primary context, the one that TensorRT and ONNX Runtime use as well.

    Args:
        device: index of the GPU, as CUDA counts them.
        library: the driver's, None for its own name on this system.

    Raises:
        EngineError: no driver, no such GPU, or no memory for a context.
    """

    def __init__(self, device: int, library: str | None) -> None:
        self.closed = self.capturing = False
        self.stream = 0
        # Calls that give everything back, last first; and what each keeps alive until then.
        self._held: dict[tuple[str, int], object] = {}
        self.driver = Driver(library)
        version = self.driver.new("cuDriverGetVersion")
        self.driver_version = (version // 1000, version % 1000 // 10)
        index = self._find(device)
        self.name = self._name(index)
        self.subject = f"GPU {device} ({self.name})"
        self._handle = self.driver.new("cuDevicePrimaryCtxRetain", index)
        self._held["cuDevicePrimaryCtxRelease_v2", index] = None
        self._held["cuCtxSetCurrent", 0] = None  # else the thread that closes would keep a context that may be gone
        try:
            self.use()
            self.stream = self.hold("cuStreamDestroy_v2", "cuStreamCreate", NON_BLOCKING)
        except BaseException:
            self.release_all()
            raise

    def use(self) -> None:
        """Make the context current in this thread.

        Raises:
            EngineError: it is closed, or lost.
        """
        if self.closed:
            raise EngineError(self.subject, expected="an open GPU", got="one that is closed", do="open it again")
        self.driver.call("cuCtxSetCurrent", self._handle)

    def hold(
        self, release: str, create: str, *arguments: Any, instead: Instead | None = None, keep: object = None
    ) -> int:
        """Make something that `release` gives back, at the latest when the context is closed.

        Args:
            release: function that takes what `create` made.
            create: function that makes it.
            arguments: of `create`, after the place for the result.
            instead: as in `Driver.call`.
            keep: kept alive until it is given back.

        Returns:
            Its handle or address.

        Raises:
            EngineError: it cannot be made.
        """
        made = self.driver.new(create, *arguments, instead=instead)
        self._held[release, made] = keep
        return made

    def holds(self, release: str, made: int) -> bool:
        """Whether `release` has still to give this back."""
        return (release, made) in self._held

    def release(self, release: str, made: int) -> None:
        """Wait for what is queued, then give back what `hold` made; what was lost with the context needs neither.

        Raises:
            EngineError: the driver refuses; then it is held as before.
        """
        if self.driver.lost:
            return
        self.use()
        self.driver.call("cuStreamSynchronize", self.stream)
        self.driver.call(release, made)
        del self._held[release, made]

    def release_all(self) -> EngineError | None:
        """Give everything back, last things first, whatever fails on the way.

        Returns:
            The first failure that nobody has been told of.
        """
        if self.closed:
            return None
        known, first = self.driver.lost, None
        if self.stream:  # first of all: queued work uses the rest
            self._held["cuStreamSynchronize", self.stream] = None
        self._held["cuCtxSetCurrent", self._handle] = None
        while self._held:
            (function, argument), _ = self._held.popitem()
            try:
                self.driver.call(function, argument)
            except EngineError as error:
                first = first or error
        self.closed = True
        return None if known else first

    def _find(self, device: int) -> int:
        count = self.driver.new("cuDeviceGetCount")
        if not 0 <= device < count:
            raise EngineError(
                f"GPU {device}",
                expected=f"an index from 0 to {count - 1}" if count else "a GPU",
                got=f"{count} GPUs that CUDA sees",
                do="choose another, or see CUDA_VISIBLE_DEVICES",
            )
        return self.driver.new("cuDeviceGet", device)

    def _name(self, index: int) -> str:
        name = create_string_buffer(256)
        self.driver.call("cuDeviceGetName", name, len(name), index)
        return name.value.decode(errors="replace")
