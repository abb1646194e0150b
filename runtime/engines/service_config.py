"""The config of an embedding service: TOML, every table and key of it checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

from pgn_edge.documents import read_toml, warn_of_open_secrets
from pgn_edge.errors import DataError, EngineError
from pgn_edge.redact import keep_secret
from pgn_edge.runtime.engines.calls import CallOptions, is_loopback
from pgn_edge.runtime.engines.service_body import Body, FormBody, JsonBody
from pgn_edge.runtime.http_client import check_url, is_header
from pgn_edge.runtime.retry import Backoff
from pgn_edge.transport import Transport

KINDS: Mapping[str, type] = {
    **{"url": str, "request": str, "answer": str, "transport": str, "batch": int, "task": str},
    **{"body": dict, "field": str, "fields": dict, "headers": dict, "token": str, "ca_file": str},
    **{"deadline_s": float, "attempt_s": float, "retries": int, "in_flight": int},
    **{"breaker_failures": int, "breaker_pause_s": float},
}
WANTED = ("url", "request", "answer")
OWN = {"json": "body", "multipart": "field"}  # the key that each kind of request needs
FOREIGN = {"json": ("field", "fields"), "multipart": ("body",)}
NAMES = {str: "a string", int: "a whole number", float: "a number", dict: "a table"}
VARIABLE = re.compile(r"\$\{([^}]*)\}")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
OURS = frozenset({"content-type", "content-length", "transfer-encoding", "host", "connection", "accept-encoding"})
MOST_BATCH = 256
DEADLINE_S, FIRST_S, MOST_S = 10.0, 0.1, 2.0  # a service far away, whose limits count by the second


@dataclass(frozen=True)
class ServiceConfig:
    """Where an embedding service is, and how it is asked.

    Args:
        name: of the file and the server, for messages.
        url: http:// or https://.
        body: what a request looks like.
        answer: keys, numbers and `*` that lead to the vectors in an answer.
        transport: how a canvas becomes an image file.
        headers: of each request; never printed.
        options: deadline, attempts and limits.
        task: bundle made for the ViT that the service runs; None where nothing is known of it.
    """

    name: str
    url: SplitResult
    body: Body
    answer: tuple[str, ...]
    transport: Transport
    headers: Mapping[str, str] = field(repr=False)
    options: CallOptions
    task: Path | None

    @property
    def batch(self) -> int:
        """Most images in one request."""
        return self.body.batch


def read_service(path: str | Path) -> ServiceConfig:
    """Read and check a config.

    Args:
        path: of a TOML file; relative paths in it start from its folder.

    Raises:
        EngineError: a file that cannot be read, a key that is missing, unknown or of another type, a variable that is
            not set, or secrets that would travel in the clear. The message names the file and the key.
    """
    return _File(Path(path)).config()


@dataclass(frozen=True)
class _File:
    """One file; its methods name it in their errors."""

    path: Path

    def config(self) -> ServiceConfig:
        given = self.table(read_toml(self.path, EngineError))
        warn_of_open_secrets(self.path, given)
        request = given["request"]
        if request not in OWN:
            raise self.error("request", " or ".join(OWN), repr(request), "choose one of them")
        if OWN[request] not in given:
            raise self.error(OWN[request], f"this key for request = {request!r}", "none", "add it")
        for key in FOREIGN[request]:
            if key in given:
                raise self.error(key, f"no such key for request = {request!r}", "one", "leave it out")
        headers = self.headers(given)
        try:
            url = check_url(given["url"], "url", EngineError)
            config = ServiceConfig(
                name=f"{self.path} ({url.scheme}://{url.netloc})",
                url=url,
                body=self.body(given),
                answer=self.answer(given["answer"]),
                transport=Transport.parse(given.get("transport", "png")),
                headers=headers,
                options=self.options(given),
                task=self.path.parent / given["task"] if "task" in given else None,
            )
        except (DataError, EngineError) as exc:
            if exc.subject.startswith(str(self.path)):
                raise
            raise self.error(exc.subject, exc.expected, exc.got, exc.do) from exc
        self.check_secrecy(config)
        return config

    def table(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of the file, each known and of its type."""
        for key, value in values.items():
            if key not in KINDS:
                nearest = get_close_matches(key, KINDS, 1, 0)[0]
                raise self.error(key, f"a known key ({', '.join(KINDS)})", "an unknown one", f"did you mean {nearest}?")
            kind = KINDS[key]
            # A truth value is a whole number to Python. What stands there may be a secret, and is not repeated.
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise self.error(key, NAMES[kind], type(value).__name__, "change it")
            if key not in ("token", "headers") and (names := _variables(value)):
                raise self.error(key, "variables in token and headers only", f"${{{names[0]}}}", "write it out")
        for key in WANTED:
            if key not in values:
                raise self.error(key, "this key", "none", "add it")
        return values

    def headers(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Headers with the variables filled in; no message shows these variables from here on."""
        headers = {}
        for name, value in given.get("headers", {}).items():
            where = f"headers.{name}"
            if not isinstance(value, str):
                raise self.error(where, "a string", type(value).__name__, "change it")
            if not HEADER.fullmatch(name) or name.lower() in OURS:
                raise self.error(where, "a header that is free to choose", "another", "leave it out")
            headers[name] = self.filled(where, value)
            keep_secret(*(os.environ[variable] for variable in _variables(value)))
        if "token" in given:
            token = self.filled("token", given["token"])
            if any(name.lower() == "authorization" for name in headers):
                raise self.error("token", "a token or a header Authorization", "both", "leave one out")
            headers["Authorization"] = f"Bearer {token}"
            keep_secret(token)
        return headers

    def filled(self, where: str, text: str) -> str:
        """A text with the variables of the environment that it names."""
        for name in _variables(text):
            if not os.environ.get(name):
                raise self.error(where, f"the environment to hold {name}", "nothing", f"set {name} before the start")
        filled = VARIABLE.sub(lambda match: os.environ[match[1]], text)
        if not is_header(filled):
            raise self.error(where, "printable ASCII", "something else", "check where it is from")
        return filled

    def body(self, given: Mapping[str, Any]) -> Body:
        batch = given.get("batch", 1)
        if not 1 <= batch <= MOST_BATCH:
            raise self.error("batch", f"1 to {MOST_BATCH}", str(batch), "choose another")
        if given["request"] == "json":
            return JsonBody(given["body"], batch)
        fields = given.get("fields", {})
        if not all(isinstance(value, str) for value in fields.values()):
            raise self.error("fields", "strings", "other values", "write them as strings")
        return FormBody(given["field"], fields, batch)

    def answer(self, text: str) -> tuple[str, ...]:
        steps = tuple(text.split("."))
        if not all(steps):
            raise self.error("answer", "a path such as data.*.embedding", repr(text), "write it so")
        return steps

    def options(self, given: Mapping[str, Any]) -> CallOptions:
        names = ("attempt_s", "in_flight", "breaker_failures", "breaker_pause_s")
        return CallOptions(
            deadline_s=given.get("deadline_s", DEADLINE_S),
            backoff=Backoff(given.get("retries", 4), FIRST_S, MOST_S),
            ca_file=self.path.parent / given["ca_file"] if "ca_file" in given else None,
            **{name: given[name] for name in names if name in given},
        )

    def check_secrecy(self, config: ServiceConfig) -> None:
        """Refuse secrets and certificates that this address would not keep."""
        if config.url.scheme == "https":
            return
        if config.options.ca_file is not None:
            raise self.error("url", "https:// for certificates", "http://", "use https://, or leave ca_file out")
        if config.headers and not is_loopback(config.url.hostname or ""):
            raise self.error("url", "https:// for a token or headers", "http://", "use https://, or leave them out")

    def error(self, where: str, expected: str, got: str, do: str) -> EngineError:
        return EngineError(f"{self.path}: {where}", expected=expected, got=got, do=do)


def _variables(value: Any) -> list[str]:
    """Variables of the environment that the strings in a value name."""
    if isinstance(value, str):
        return VARIABLE.findall(value)
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [name for child in children for name in _variables(child)]
