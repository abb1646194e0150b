"""One connection to a server of the Open Inference Protocol, over HTTP or gRPC, made of tritonclient.

tritonclient has no deadline unless it is given one: over gRPC with each call, over HTTP for each read of the socket
only, so a server that drips would hold it for ever. There every call runs under a timer of gevent.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from pgn_edge.errors import EngineError, MissingExtraError
from pgn_edge.runtime.engines.triton_options import TritonAddress, TritonOptions
from pgn_edge.runtime.retry import NoAnswerError

MOST_SAID = 300  # characters of a server's own reasons
AGAIN = {"503", "StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"}
LIMIT = 2**31 - 1  # bytes of one gRPC message


class Wire:
    """One connection; made when it is first used, and only by the thread that does.

    Args:
        address: of the model.
        options: certificates and token.

    Raises:
        MissingExtraError: tritonclient is not installed.
    """

    def __init__(self, address: TritonAddress, options: TritonOptions) -> None:
        self.name = str(address)
        self._address, self._options = address, options
        self.module = import_tritonclient(address.protocol)
        self._client: Any = None
        self._headers = {"authorization": f"Bearer {options.token}"} if options.token else None

    def call(self, verb: str, timeout_s: float, *args: Any, **kwargs: Any) -> Any:
        """One call of the client.

        Args:
            verb: its name.
            timeout_s: more than 0.
            args, kwargs: of the call.

        Raises:
            NoAnswerError: the server was not reached, is not available, or did not answer in time.
            EngineError: it refused.
        """
        with self._mapped(timeout_s):
            if self._client is None:
                self._client = self._connect()
            return self._run(getattr(self._client, verb), timeout_s, *args, headers=self._headers, **kwargs)

    def config(self, timeout_s: float) -> Mapping[str, Any]:
        """The model's configuration; see `call`."""
        raise NotImplementedError

    def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        """The model's metadata; see `call`."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop the connection; the next call makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):  # a connection that is broken may refuse to be closed
                client.close()

    def _connect(self) -> Any:
        raise NotImplementedError

    def _run(self, call: Callable[..., Any], timeout_s: float, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    @contextmanager
    def _mapped(self, timeout_s: float) -> Iterator[None]:
        from http.client import HTTPException

        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as exc:
            said = said_by(exc)
            if exc.status() in AGAIN:
                raise self._no_answer(said, timeout_s) from exc
            raise EngineError(
                self.name, expected="an answer", got=said, do="check the model and the log of the server"
            ) from exc
        except (OSError, HTTPException) as exc:
            if _is_tls(exc):
                raise EngineError(
                    self.name, expected="a TLS handshake", got=said_by(exc), do="check the certificates of both sides"
                ) from exc
            raise self._no_answer(said_by(exc), timeout_s) from exc
        except EngineError:
            raise
        except Exception as exc:
            # What tritonclient makes of an answer that is none: JSON, key, value and unicode errors.
            raise self._no_answer(f"what cannot be read ({type(exc).__name__}: {said_by(exc)})", timeout_s) from exc

    def _no_answer(self, got: str, timeout_s: float) -> NoAnswerError:
        return NoAnswerError(
            self.name,
            expected=f"an answer within {timeout_s:.3g} s",
            got=got or "none",
            do="check that the server runs and is reached",
        )


class HttpWire(Wire):
    """See `Wire`; its sockets belong to the thread that made them."""

    def config(self, timeout_s: float) -> Mapping[str, Any]:
        """See `Wire.config`."""
        found: Mapping[str, Any] = self.call("get_model_config", timeout_s, *_model(self._address))
        return found

    def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        """See `Wire.metadata`."""
        found: Mapping[str, Any] = self.call("get_model_metadata", timeout_s, *_model(self._address))
        return found

    def _connect(self) -> Any:
        longest = self._options.deadline_s + self._options.ready_s  # the timer ends calls long before
        given: dict[str, Any] = {}
        if self._address.tls:
            given = {"ssl": True, "ssl_context_factory": self._context}
        return self.module.InferenceServerClient(
            self._address.netloc, connection_timeout=longest, network_timeout=longest, **given
        )

    def _context(self) -> Any:
        import gevent.ssl

        options = self._options
        context = gevent.ssl.create_default_context(cafile=options.ca_file)
        if options.cert_file:
            context.load_cert_chain(options.cert_file, options.key_file)
        return context

    def _run(self, call: Callable[..., Any], timeout_s: float, *args: Any, **kwargs: Any) -> Any:
        from gevent import Timeout

        timer = Timeout.start_new(timeout_s)
        try:
            return call(*args, **kwargs)
        except Timeout as exc:
            if exc is not timer:
                raise
            raise self._no_answer("none", timeout_s) from exc
        finally:
            timer.close()


class GrpcWire(Wire):
    """See `Wire`."""

    def config(self, timeout_s: float) -> Mapping[str, Any]:
        """See `Wire.config`."""
        found: Mapping[str, Any] = self.call("get_model_config", timeout_s, *_model(self._address), as_json=True)
        inner: Mapping[str, Any] = found["config"]
        return inner

    def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        """See `Wire.metadata`."""
        found: Mapping[str, Any] = self.call("get_model_metadata", timeout_s, *_model(self._address), as_json=True)
        return found

    def _connect(self) -> Any:
        options = self._options
        files = {
            "root_certificates": options.ca_file,
            "certificate_chain": options.cert_file,
            "private_key": options.key_file,
        }
        return self.module.InferenceServerClient(
            self._address.netloc,
            ssl=self._address.tls,
            channel_args=[
                ("grpc.max_send_message_length", LIMIT),
                ("grpc.max_receive_message_length", LIMIT),
                # A channel would wait longer and longer, up to minutes, before it connects again; and all channels of
                # a process to one server would wait together.
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.enable_retries", 0),
                ("grpc.enable_http_proxy", 0),
            ],
            **{name: None if path is None else str(path) for name, path in files.items()},
        )

    def _run(self, call: Callable[..., Any], timeout_s: float, *args: Any, **kwargs: Any) -> Any:
        return call(*args, client_timeout=timeout_s, **kwargs)


def open_wire(address: TritonAddress, options: TritonOptions) -> Wire:
    """A connection by the protocol of its address.

    Raises:
        MissingExtraError: tritonclient is not installed.
    """
    return (HttpWire if address.protocol == "http" else GrpcWire)(address, options)


def import_tritonclient(protocol: str) -> ModuleType:
    """The module of a protocol, `http` or `grpc`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(f"tritonclient.{protocol}")
    except (ImportError, RuntimeError) as exc:  # tritonclient raises the latter where gevent or grpc is missing
        raise MissingExtraError("tritonclient", "triton") from exc


def said_by(exc: BaseException) -> str:
    """The first line of what an exception says."""
    message = exc.message() if hasattr(exc, "message") and callable(exc.message) else str(exc)
    return " ".join(str(message or type(exc).__name__).split())[:MOST_SAID]


def _model(address: TritonAddress) -> tuple[str, str]:
    return address.model, address.version


def _is_tls(exc: BaseException) -> bool:
    from ssl import SSLError

    return isinstance(exc, SSLError)
