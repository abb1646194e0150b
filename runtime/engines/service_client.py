"""An embedding service that takes image files and returns vectors, over HTTP."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import partial
from types import TracebackType

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.calls import Calls
from pgn_edge.runtime.engines.lanes import Pending
from pgn_edge.runtime.engines.service_answer import Expected, ServiceError, read_answer
from pgn_edge.runtime.engines.service_config import ServiceConfig
from pgn_edge.runtime.http_client import FAULTS, HttpClient, fault_name, tls_context
from pgn_edge.runtime.retry import NoAnswerError

__all__ = ["ServiceClient", "ServiceError"]


class ServiceClient:
    """Asks a service of which nothing more than its config is known. Nothing is sent before it is asked.

    Attempts without an answer (refused, reset, too late, 408, 425, 429 and 5xx) are repeated within the deadline, after
    the pause that the service asks for where it does; whatever else it answers is final. Any thread may call, and
    several at once, up to `in_flight`; each request in flight keeps a connection, which is used again.

    Args:
        config: of the service.

    Raises:
        EngineError: certificates that cannot be read.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        context = None
        if config.url.scheme == "https":
            context = tls_context(str(config.options.ca_file or ""), EngineError)
        self._calls = Calls(config.name, config.options, partial(_Session, config, context))

    def embed(self, files: Sequence[bytes], content_type: str, deadline_s: float | None = None) -> np.ndarray:
        """Embed image files, in as many requests as they need, one after the other.

        Args:
            files: of one type.
            content_type: such as `image/png`.
            deadline_s: of each request; None for that of the config.

        Returns:
            (n, D) float32, in order; NaN where the service says null.

        Raises:
            ServiceError: the service refuses, or its answer is none.
            NoAnswerError: none within the deadline.
            EngineError: no file, too many requests in flight, or a service that has not answered lately.
        """
        size = self._config.batch
        parts = [files[at : at + size] for at in range(0, len(files), size)] or [files]
        answers: list[np.ndarray] = []
        for part in parts:
            width = answers[0].shape[1] if answers else None
            answers.append(self.start(part, content_type, width, deadline_s).result())
        return np.concatenate(answers)

    def start(
        self, files: Sequence[bytes], content_type: str, width: int | None, deadline_s: float | None = None
    ) -> Pending[np.ndarray]:
        """Make one request.

        Args:
            files: of one type, no more than `batch` of the config.
            content_type: such as `image/png`.
            width: D, that the answer must have; None for any.
            deadline_s: None for that of the config.

        Returns:
            What waits for the answer, as `embed` returns it.

        Raises:
            EngineError: as `embed`; errors of the service come with the result.
        """
        if not 1 <= len(files) <= self._config.batch:
            raise EngineError(
                self._config.name,
                expected=f"1 to {self._config.batch} images in a request",
                got=str(len(files)),
                do="send fewer at a time, or raise batch in the config",
            )
        config = self._config
        kind, body = config.body.encode(files, content_type)
        expected = Expected(config.name, config.answer, len(files), width)
        headers = {"Accept": "application/json", **config.headers, "Content-Type": kind}
        return self._calls.start(lambda session, timeout_s: session.ask(body, headers, expected, timeout_s), deadline_s)

    def close(self) -> None:
        """Hang up; calling twice does no harm."""
        self._calls.close()

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Session:
    """One connection; one thread uses it."""

    def __init__(self, config: ServiceConfig, context: ssl.SSLContext | None) -> None:
        self._name = config.name
        self._client = HttpClient(config.url, context)

    def ask(self, body: bytes, headers: dict[str, str], expected: Expected, timeout_s: float) -> np.ndarray:
        try:
            answer = self._client.post(body, headers, timeout_s, expected.most_bytes)
        except ssl.SSLCertVerificationError as exc:
            raise EngineError(
                self._name, expected="a certificate that is known", got=fault_name(exc), do="check ca_file and the url"
            ) from exc
        except FAULTS as exc:
            raise NoAnswerError(
                self._name,
                expected=f"an answer within {timeout_s:.3g} s",
                got=fault_name(exc),
                do="check that the service runs and is reached",
            ) from exc
        return read_answer(answer, expected)

    def tidy(self) -> None:
        """Nothing waits to be done."""

    def close(self) -> None:
        self._client.close()
