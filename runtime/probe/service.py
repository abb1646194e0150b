"""An embedding service as what is probed: one that takes image files and gives vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import sleep

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.service_client import ServiceClient, ServiceError
from pgn_edge.runtime.engines.service_config import read_service
from pgn_edge.runtime.probe.finding import EXACT
from pgn_edge.runtime.probe.own_size import own_size
from pgn_edge.runtime.probe.pictures import pictures
from pgn_edge.runtime.probe.subject import MOST_CALLS, USUAL_SIZES, spent, to_levels
from pgn_edge.runtime.retry import Backoff, NoAnswerError
from pgn_edge.transport import Transport

FORMATS = (Transport("png"), Transport("webp"), Transport("jpeg", 95))
TOO_MANY, BROKE = 429, 500  # of HTTP: some servers break at what they do not expect
FIRST_PAUSE_S, MOST_PAUSE_S, PAUSES = 0.5, 30.0, 6  # after an answer that there were too many


class ServiceSubject:
    """See `Subject`. One request at a time; where the service limits their rate, the probe waits and counts it.

    Args:
        path: of the config, see `read_service`; deadline and limits are its own.
        likely: sizes (H, W) to try first.
        most_calls: requests, after which none is made any more.
        pause: waits so many seconds.

    Raises:
        EngineError: the config is wrong; or the service takes no picture of ours, with what it said.
    """

    eight_bit, fixed = True, False

    def __init__(
        self,
        path: str | Path,
        likely: Sequence[tuple[int, int]] = (),
        most_calls: int = MOST_CALLS,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        config = read_service(path)
        # A refusal is an answer here, and a wait is counted: neither is repeated behind the probe's back.
        options = replace(config.options, backoff=Backoff(0), breaker_failures=most_calls + 1)
        self.config = replace(config, options=options)
        self.name, self.device = config.name, f"service, {config.url.scheme}"
        self._most_calls, self._pause, self.calls = most_calls, pause, 0
        self.waits: list[float] = []
        self.formats: dict[str, str] = {}
        self.refusals: dict[tuple[int, int], str] = {}
        self.size_confidence = 1.0
        self.why_size = "the first of the sizes tried that it takes"
        self._client = ServiceClient(self.config)
        try:
            self.size_hw, self.transport = self._find_size(likely)
            if not likely:
                self._find_own_size()
            self._try_formats()
        except BaseException:
            self.close()
            raise

    def answer(self, values: np.ndarray) -> np.ndarray:
        """See `Subject.answer`."""
        return self.answer_files([self.transport.encode(levels) for levels in to_levels(values)])

    def answer_files(self, files: Sequence[bytes], content_type: str = "") -> np.ndarray:
        """One vector for each image file, (M, D) float64.

        Args:
            files: of one type.
            content_type: of them; empty for that of `transport`.

        Raises:
            EngineError: as `Subject.answer`.
        """
        size, kind = self.config.batch, content_type or self.transport.content_type
        rows = [self._ask(files[at : at + size], kind) for at in range(0, len(files), size)]
        if len({row.shape[1] for row in rows}) > 1:
            widths = ", ".join(str(row.shape[1]) for row in rows)
            raise EngineError(self.name, expected="vectors of one width", got=widths, do="ask who runs the service")
        return np.concatenate(rows).astype(np.float64)

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _ask(self, files: Sequence[bytes], content_type: str) -> np.ndarray:
        pauses = [min(FIRST_PAUSE_S * 2**index, MOST_PAUSE_S) for index in range(PAUSES)]
        while True:
            if self.calls >= self._most_calls:
                raise spent(self.name, self._most_calls)
            self.calls += 1
            try:
                return self._client.embed(files, content_type)
            except NoAnswerError as exc:
                if exc.status != TOO_MANY or not pauses or exc.retry_after_s > MOST_PAUSE_S:
                    raise
                self.waits.append(max(exc.retry_after_s, pauses.pop(0)))
                self._pause(self.waits[-1])

    def _find_size(self, likely: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], Transport]:
        """The first size that is taken, and the first format."""
        first: EngineError | None = None
        for size_hw in dict.fromkeys([*likely, *((side, side) for side in USUAL_SIZES)]):
            levels = pictures(1, size_hw, 0)[0]
            for transport in FORMATS:
                try:
                    self._ask([transport.encode(levels)], transport.content_type)
                except (ServiceError, NoAnswerError) as exc:
                    first = first or exc
                    reason = exc.reason if isinstance(exc, ServiceError) else "request" * (exc.status >= BROKE)
                    if reason == "format":
                        self.formats[transport.codec] = _words(exc)
                        continue
                    if reason in ("size", "request"):
                        self.refusals[size_hw] = _words(exc)
                        break
                    raise
                return size_hw, transport
            else:
                break  # no format is taken, whatever the size
        assert first is not None
        raise first

    def _find_own_size(self) -> None:
        sizes = [(side, side) for side in USUAL_SIZES if (side, side) not in self.refusals]
        try:
            found, confidence = own_size(self, sizes, 0)
        except ServiceError:
            return  # it does not take large pictures, and so does not resample them
        if confidence >= EXACT:
            self.size_hw, self.size_confidence = found, confidence
            self.why_size = "of the usual sizes the one at which a large picture is answered as in its full size"

    def _try_formats(self) -> None:
        """Fill `formats`: what it said of each that it refuses, empty for those that it takes."""
        levels = pictures(1, self.size_hw, 0)[0]
        for transport in FORMATS:
            if transport.codec in self.formats:
                continue
            try:
                self._ask([transport.encode(levels)], transport.content_type)
            except (ServiceError, NoAnswerError) as exc:
                self.formats[transport.codec] = _words(exc)
            else:
                self.formats[transport.codec] = ""


def _words(exc: EngineError) -> str:
    """The server's own, where it has any."""
    said = exc.said if isinstance(exc, ServiceError) else ""
    return said or exc.got
