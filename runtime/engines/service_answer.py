"""What an embedding service answers: vectors, or a refusal that is named."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from pgn_edge.errors import EngineError
from pgn_edge.redact import redact
from pgn_edge.runtime.http_client import RETRIED, HttpAnswer
from pgn_edge.runtime.retry import NoAnswerError

MOST_SAID = 200  # characters of a server's own words
MOST_VECTOR_BYTES, MOST_REST_BYTES = 1 << 20, 1 << 16  # of an answer: for each image, and beside them

Reason = Literal["size", "format", "request", "rights", "address", "redirect", "answer", "dimension"]
REASONS: Mapping[int, Reason] = {
    **{401: "rights", 403: "rights", 404: "address", 405: "address", 410: "address", 413: "size", 415: "format"},
    **dict.fromkeys(range(300, 400), "redirect"),
}
SIZE = re.compile(
    r"\b(sizes?|resolution|dimensions?|height|width|pixels?|px|too (large|small|big)|\d+ ?x ?\d+)\b", re.I
)
FORMAT = re.compile(r"\b(formats?|media.?types?|mime|content.?type|png|jpe?g|webp|decode|identify|unsupported)\b", re.I)
WORDS: Mapping[Reason, tuple[str, str]] = {
    "size": ("rejects the size of the image", "ask it which size it takes with: pgn-edge probe, and export for that"),
    "format": ("rejects the format of the image", "choose another transport, or field of the form"),
    "request": ("rejects the request", "compare the config with what the service documents"),
    "rights": ("refuses the token or what it may do", "check token and headers"),
    "address": ("does not know the address", "check the url"),
    "redirect": ("sends elsewhere, which is not followed", "write the address that answers"),
}


class ServiceError(EngineError):
    """A service refused, or its answer is none.

    Attributes:
        status: of HTTP; 200 where the body is wrong.
        reason: what it is about.
        said: the service's own words, shortened; empty where there are none.
    """

    status = 0
    reason: Reason = "answer"
    said = ""


@dataclass(frozen=True)
class Expected:
    """What the answer to one request should be.

    Args:
        name: of the service, for messages.
        path: keys, numbers and `*` that lead to the vectors.
        count: of the images.
        width: of the vectors; None where nobody knows.
    """

    name: str
    path: tuple[str, ...]
    count: int
    width: int | None

    @property
    def most_bytes(self) -> int:
        """Of the answer; more is not read."""
        return self.count * MOST_VECTOR_BYTES + MOST_REST_BYTES


def read_answer(answer: HttpAnswer, expected: Expected) -> np.ndarray:
    """The vectors in an answer.

    Args:
        answer: of one request.
        expected: what it should be.

    Returns:
        (n, D) float32, in the order of the images; NaN where the service says null.

    Raises:
        NoAnswerError: it cannot answer now, or not so often.
        ServiceError: it refuses, or its answer is none.
    """
    if not 200 <= answer.status < 300:
        raise _refusal(answer, expected)
    if not answer.whole:
        raise _wrong(expected, f"an answer of at most {expected.most_bytes} bytes", "a longer one", answer)
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError) as exc:
        if not answer.framed:
            raise NoAnswerError(
                expected.name, expected="JSON", got="half of it, or none", do="check the way to the service"
            ) from exc
        raise _wrong(expected, "JSON", _quoted(_printable(_text(answer.body))) or "nothing", answer) from exc
    rows = [row for node in _nodes(document, expected, answer) for row in _rows(node, expected, answer)]
    if len(rows) != expected.count:
        raise _wrong(expected, f"{expected.count} vectors, one for each image", str(len(rows)), answer)
    widths = sorted({len(row) for row in rows})
    if expected.width is not None and widths != [expected.width]:
        error = _wrong(expected, f"vectors of {expected.width} numbers, as the head of the task", f"{widths}", answer)
        error.reason = "dimension"
        raise error
    if len(widths) > 1:
        raise _wrong(expected, "vectors of one length", f"{widths}", answer)
    with np.errstate(over="ignore"):  # beyond float32 a number is infinite, and the runtime says of which frame
        return np.array(rows, np.float64).astype(np.float32)


def _nodes(document: Any, expected: Expected, answer: HttpAnswer) -> list[Any]:
    """What lies at the end of the path."""
    nodes = [document]
    for at, step in enumerate(expected.path):
        where = ".".join(expected.path[:at]) or "the answer"
        if step == "*" and all(isinstance(node, list) for node in nodes):
            nodes = [child for node in nodes for child in _in_order(node)]
            continue
        found = []
        for node in nodes:
            if isinstance(node, dict) and step in node:
                found.append(node[step])
            elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                found.append(node[int(step)])
            else:
                said = _printable(json.dumps(_outline(node)))
                raise _wrong(expected, f"{step} in {where}", _quoted(said), answer)
        nodes = found
    return nodes


def _in_order(items: list[Any]) -> list[Any]:
    """Entries by their own `index`, where each has one as OpenAI's do; else as they come."""
    places = [item.get("index") if isinstance(item, dict) else None for item in items]
    if not all(type(place) is int for place in places) or set(places) != set(range(len(items))):
        return items
    by_place = dict(zip(places, items, strict=True))
    return [by_place[place] for place in range(len(items))]


def _rows(node: Any, expected: Expected, answer: HttpAnswer) -> list[list[float | None]]:
    """One vector, or a list of them."""
    rows = node if isinstance(node, list) and node and isinstance(node[0], list) else [node]
    for row in rows:
        # A truth value is a number to Python, and so is a string of digits to numpy.
        if not isinstance(row, list) or not row or not all(each is None or type(each) in (int, float) for each in row):
            said = _printable(json.dumps(_outline(row)))
            raise _wrong(expected, f"a list of numbers at {'.'.join(expected.path)}", _quoted(said), answer)
        if any(type(each) is int and abs(each) > 1e300 for each in row):
            raise _wrong(expected, "numbers that float64 holds", "larger ones", answer)
    return rows


def _outline(node: Any) -> Any:
    """What a value is, without all that it holds."""
    if isinstance(node, dict):
        return dict.fromkeys(list(node)[:8], "…")
    return [*node[:3], "…"] if isinstance(node, list) and len(node) > 3 else node


def _refusal(answer: HttpAnswer, expected: Expected) -> EngineError:
    said = _said(answer.body, expected)
    if answer.status in RETRIED:
        wait = f", asks to wait {answer.retry_after_s:.3g} s" if answer.retry_after_s else ""
        limit = answer.status == 429
        error = NoAnswerError(
            expected.name,
            expected="an answer",
            got=f"status {answer.status}{', the limit of its rate' * limit}{wait}{_quoted(said, ': ')}",
            do="ask less often, or raise the deadline" if limit else "check that the service is well",
        )
        error.status, error.retry_after_s = answer.status, answer.retry_after_s
        return error
    reason = REASONS.get(answer.status) or (
        "size" if SIZE.search(said) else "format" if FORMAT.search(said) else "request"
    )
    what, do = WORDS[reason]
    if reason == "redirect":
        said = _server(answer.location)
    refusal = ServiceError(
        expected.name,
        expected="an embedding",
        got=f"status {answer.status}: the service {what}{_quoted(said, ': ')}",
        do=do,
    )
    refusal.status, refusal.reason, refusal.said = answer.status, reason, said
    return refusal


def _wrong(expected: Expected, wanted: str, got: str, answer: HttpAnswer) -> ServiceError:
    error = ServiceError(
        f"{expected.name}: the answer", expected=wanted, got=got, do="check `answer` in the config, and the service"
    )
    error.status = answer.status
    return error


def _said(body: bytes, expected: Expected) -> str:
    """A service's own words: of the usual places in JSON, else the body itself."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return _printable(_text(body))
    while isinstance(document, (dict, list)) and document:
        if isinstance(document, list):
            document = document[0]
            continue
        key = next((key for key in ("error", "detail", "message", "msg", "title") if key in document), None)
        if key is None:
            break
        document = document[key]
    text = document if isinstance(document, str) else json.dumps(document)
    return _printable(text)


def _text(body: bytes) -> str:
    return body[:MOST_REST_BYTES].decode(errors="replace")


def _printable(text: str) -> str:
    """One short line without secrets."""
    line = " ".join("".join(c if c.isprintable() else " " for c in redact(text)).split())
    return line if len(line) <= MOST_SAID else f"{line[:MOST_SAID]}…"


def _quoted(said: str, before: str = "") -> str:
    return f"{before}{said!r}" if said else ""


def _server(location: str) -> str:
    """Where a redirect points to, without a path that may hold a secret."""
    try:
        parts = urlsplit(location)
        return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another path"
    except ValueError:
        return ""
