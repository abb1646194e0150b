"""Where a served model is, and how requests to it are made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.calls import CallOptions, check_pem, check_seconds, is_loopback, wrong_option

PREFIX = "triton+"
FORM = "triton+http://host:port/model, or https, grpc or grpcs, and /versions/N behind the model where one is meant"
MODEL = re.compile(r"/(?P<model>[\w.-]+)(/versions/(?P<version>[1-9]\d*))?")


@dataclass(frozen=True)
class TritonAddress:
    """Where a served model is.

    Args:
        protocol: `http` or `grpc`.
        tls: whether the connection is encrypted.
        host: name or number.
        port: from 1 to 65535.
        model: its name on the server.
        version: empty for the newest that is ready when the engine is opened.
    """

    protocol: Literal["http", "grpc"]
    tls: bool
    host: str
    port: int
    model: str
    version: str = ""

    @classmethod
    def parse(cls, url: str) -> TritonAddress:
        """Read `triton+http://host:port/model[/versions/N]`.

        Raises:
            EngineError: another scheme, or a part that is missing or unknown.
        """
        try:
            parts = urlsplit(url.removeprefix(PREFIX))
            port = parts.port
        except ValueError as exc:
            raise _no_address(url, str(exc)) from exc
        path = MODEL.fullmatch(parts.path)
        if not url.startswith(PREFIX) or parts.scheme not in ("http", "https", "grpc", "grpcs"):
            raise _no_address(url, f"scheme {url.partition('://')[0]!r}")
        if parts.username is not None or parts.password is not None:
            # Not repeated in the message: it may hold a password.
            raise _no_address("the address of a served model", "a user or a password in it")
        if not parts.hostname or not port:
            raise _no_address(url, "no host or no port")
        if path is None or parts.query or parts.fragment:
            raise _no_address(url, f"what follows the port: {url.partition('://')[2].partition('/')[2]!r}")
        protocol: Literal["http", "grpc"] = "http" if parts.scheme.startswith("http") else "grpc"
        return cls(protocol, parts.scheme.endswith("s"), parts.hostname, port, path["model"], path["version"] or "")

    def __str__(self) -> str:
        version = f"/versions/{self.version}" if self.version else ""
        return f"{PREFIX}{self.protocol}{'s' * self.tls}://{self.netloc}/{self.model}{version}"

    @property
    def netloc(self) -> str:
        """`host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether the server is on this machine, and memory can be shared with it."""
        return is_loopback(self.host)


@dataclass(frozen=True)
class TritonOptions(CallOptions):
    """How requests to a served model are made.

    Args:
        ready_s: most seconds to wait until server and model are ready.
        shared_memory: whether tensors go through the memory of this machine, where the server is on it.
        cert_file: the client's certificate, PEM.
        key_file: the key of that.

    Raises:
        EngineError: a number out of its range, a file that is missing, or a certificate without its key.
    """

    ready_s: float = 10.0
    shared_memory: bool = True
    cert_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seconds("ready_s", self.ready_s)
        if (self.cert_file is None) != (self.key_file is None):
            raise wrong_option("client certificate", "a certificate with its key", "one of the two")
        for path in (self.cert_file, self.key_file):
            check_pem(path)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> TritonOptions:
        """The defaults, with what `PGN_EDGE_TRITON_*` says: secrets on a command line are seen by every user.

        Raises:
            EngineError: as the class; or a deadline that is no number.
        """
        named = {
            name: environment.get(f"PGN_EDGE_TRITON_{name}") or None
            for name in ("TOKEN", "CA_FILE", "CERT_FILE", "KEY_FILE", "DEADLINE_S")
        }
        ca_file, cert_file, key_file = (
            None if path is None else Path(path) for path in (named[f"{kind}_FILE"] for kind in ("CA", "CERT", "KEY"))
        )
        try:
            deadline_s = float(named["DEADLINE_S"] or cls.deadline_s)
        except ValueError as exc:
            raise wrong_option("PGN_EDGE_TRITON_DEADLINE_S", "seconds", repr(named["DEADLINE_S"])) from exc
        return cls(deadline_s=deadline_s, ca_file=ca_file, cert_file=cert_file, key_file=key_file, token=named["TOKEN"])

    def check_against(self, address: TritonAddress) -> None:
        """Refuse secrets that this address would not keep.

        Raises:
            EngineError: certificates, or a token to another machine, without TLS.
        """
        secure = str(address).replace("://", "s://", 1)
        if not address.tls and (self.ca_file or self.cert_file):
            raise EngineError(str(address), expected="TLS for certificates", got="none", do=f"use {secure}")
        if not address.tls and self.token and not address.loopback:
            raise EngineError(str(address), expected="TLS for a token", got="none", do=f"use {secure}")


def _no_address(subject: str, got: str) -> EngineError:
    return EngineError(subject, expected=FORM, got=got, do="write the address in this form")
