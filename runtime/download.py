"""One file from a web server, into memory, within a size and a time."""

from __future__ import annotations

import ssl
import urllib.request
from http.client import HTTPException
from time import monotonic
from urllib.error import HTTPError, URLError

from pgn_edge.errors import DataError
from pgn_edge.redact import keep_address_secrets, redact_address
from pgn_edge.runtime.http_client import check_url, fault_name

MOST_BYTES = 64 << 20
SILENCE_S = 10.0  # longest wait for the next bytes
DEADLINE_S = 60.0  # for the whole file
CHUNK_BYTES = 1 << 16


def download(address: str, *, most_bytes: int = MOST_BYTES, deadline_s: float = DEADLINE_S) -> bytes:
    """Download a file that the user named.

    Redirects are followed to http and https alone, and certificates are checked.

    Args:
        address: http:// or https:// address without a user or a password.
        most_bytes: Size of the largest file.
        deadline_s: Seconds until its last byte.

    Returns:
        Content of the file.

    Raises:
        DataError: An address that is none, no answer in time, a status of failure, or a file that is too large.
    """
    keep_address_secrets(address)
    subject, end_s = redact_address(address), monotonic() + deadline_s
    check_url(address, subject, DataError)
    try:
        with _opener().open(address, timeout=min(SILENCE_S, deadline_s)) as response:
            data = bytearray()
            while chunk := response.read1(CHUNK_BYTES):
                data += chunk
                if len(data) > most_bytes:
                    got = f"more than {most_bytes} bytes"
                    raise _refuse(subject, f"an image of at most {most_bytes} bytes", got, "download it yourself")
                if monotonic() > end_s:
                    raise TimeoutError("timed out")
            if response.length:  # http.client counts down what is still to come
                raise _refuse(subject, "a whole image", f"{len(data)} bytes and a closed connection", "try again")
            return bytes(data)
    except HTTPError as exc:
        with exc:
            do = "open the address in a browser to see what it answers"
            raise _refuse(subject, "an image", f"HTTP status {exc.code}", do) from exc
    except (OSError, HTTPException) as exc:
        cause = exc.reason if isinstance(exc, URLError) and isinstance(exc.reason, OSError) else exc
        got = fault_name(cause)
        raise _refuse(subject, "an image from a server that answers", got, "check address and network") from exc


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and nothing else: a redirect to a file of this machine finds no handler."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _refuse(subject: str, expected: str, got: str, do: str) -> DataError:
    return DataError(subject, expected=expected, got=got, do=do)
