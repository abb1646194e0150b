"""Each answer as a JSON document in an HTTP POST."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType

from pgn_edge.errors import OutputError
from pgn_edge.redact import keep_address_secrets, keep_secret
from pgn_edge.runtime.http_client import FAULTS, RETRIED, HttpAnswer, HttpClient, check_url, fault_name, tls_context
from pgn_edge.runtime.record import AnswerRecord
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks.base import Counts
from pgn_edge.runtime.sinks.outbox import Document, Outbox
from pgn_edge.runtime.sources import Frame

MOST_ANSWER_BYTES = 65536  # a longer answer costs the connection, not our time


@dataclass(frozen=True)
class WebhookOptions:
    """How hard a webhook tries.

    Args:
        token: sent as `Authorization: Bearer`; never shown.
        ca_file: certificates that the server's must follow from, .pem; empty takes the system's.
        queue: documents that may wait; then the oldest is dropped.
        deadline_s: seconds for one request, from the connection to the last byte of the answer.
        budget_s: seconds for one document, all attempts and the waits between them.
        wait_s: seconds before the second attempt; they double with each further one.
        most_wait_s: seconds that they double to, and the most that a server's Retry-After is followed.
        flush_s: seconds for what still waits when the sink is closed.
    """

    token: str = field(default="", repr=False)
    ca_file: str = ""
    queue: int = 256
    deadline_s: float = 5.0
    budget_s: float = 60.0
    wait_s: float = 0.2
    most_wait_s: float = 10.0
    flush_s: float = 5.0


class WebhookSink:
    """Posts one JSON document for each frame and task, from a thread of its own; `write` never waits.

    Connections that fail, timeouts, 408, 425, 429 and 5xx are tried again with growing, random waits. Any other answer
    than 2xx is final. A document may arrive twice, when its answer got lost: its `Idempotency-Key` stays the same.

    Args:
        url: http:// or https://, without a password.
        options: how hard it tries.

    Raises:
        OutputError: another kind of address, certificates that cannot be read, or an option out of its range.
    """

    def __init__(self, url: str, options: WebhookOptions | None = None) -> None:
        self._options = options or WebhookOptions()
        keep_secret(self._options.token)
        keep_address_secrets(url)
        address = check_url(url, "webhook", OutputError)
        _check_options(self._options)
        context = tls_context(self._options.ca_file, OutputError) if address.scheme == "https" else None
        self._client = HttpClient(address, context)
        self._series, self._number = secrets.token_hex(8), 0
        self._outbox = Outbox(self._work, self._options.queue)

    @property
    def counts(self) -> Counts:
        """See `Sink.counts`; a document is sent when it was answered with 2xx."""
        return self._outbox.counts

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """See `Sink.write`; it never raises."""
        for result in results:
            self._number += 1
            self._outbox.offer(
                (f"{self._series}-{self._number}", json.dumps(AnswerRecord.of(frame, result).to_json()).encode())
            )

    def __enter__(self) -> WebhookSink:
        self._outbox.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.close(self._options.flush_s)

    def _work(self) -> None:
        while (document := self._outbox.take()) is not None:
            self._outbox.settle(self._deliver(document))
        self._client.close()

    def _deliver(self, document: Document) -> bool:
        end, wait_s, fault = monotonic() + self._options.budget_s, self._options.wait_s, ""
        while (left_s := min(end - monotonic(), self._outbox.left_s)) > 0:
            asked_s = 0.0
            try:
                answer = self._post(document, min(left_s, self._options.deadline_s))
                if 200 <= answer.status < 300:
                    return True
                fault, asked_s = f"status {answer.status}", answer.retry_after_s
                if answer.status not in RETRIED:
                    self._outbox.fail(fault)
                    return False
            except FAULTS as exc:
                # An attempt that the end of the budget cut short says less than those before it.
                cut_short = isinstance(exc, TimeoutError) and left_s < self._options.deadline_s
                fault = fault if fault and cut_short else fault_name(exc)
            self._outbox.fail(fault)
            # Random, so that many cameras do not come back all at once.
            self._outbox.rest(max(min(asked_s, self._options.most_wait_s), wait_s * random.uniform(0.5, 1)))  # noqa: S311
            wait_s = min(2 * wait_s, self._options.most_wait_s)
        return False

    def _post(self, document: Document, deadline_s: float) -> HttpAnswer:
        key, body = document
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._options.token:
            headers["Authorization"] = f"Bearer {self._options.token}"
        return self._client.post(body, headers, deadline_s, MOST_ANSWER_BYTES)


def _check_options(options: WebhookOptions) -> None:
    token = options.token
    if not token.isascii() or not token.isprintable() or " " in token:
        raise OutputError("webhook", expected="a token of plain characters", got="others", do="check where it is from")
    if options.queue < 1 or min(options.deadline_s, options.budget_s, options.wait_s) <= 0 or options.flush_s < 0:
        raise OutputError(
            "webhook",
            expected="a queue of 1 or more and times above 0",
            got=f"queue {options.queue}, deadline {options.deadline_s:g} s, budget {options.budget_s:g} s, "
            f"wait {options.wait_s:g} s, flush {options.flush_s:g} s",
            do="choose others",
        )
