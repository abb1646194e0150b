"""Parts of a file behind http://, for what its container says about it."""

from __future__ import annotations

import base64
import io
import os
from typing import BinaryIO, cast
from urllib.error import URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

BLOCK_BYTES = 1 << 16
MOST_BYTES = 128 << 20  # in all; an index of a long video takes some MB
TIMEOUT_S = 5.0


class _NoRedirect(HTTPRedirectHandler):
    """The user and the password are for one server."""

    def redirect_request(self, *_: object) -> None:
        return None


OPENER = build_opener(_NoRedirect)


def open_remote(address: str) -> BinaryIO:
    """Open a file whose server answers requests for a range of bytes.

    Args:
        address: http:// or https:// address, with user and password where the server wants them.

    Raises:
        OSError: The server does not answer, or gives no ranges.
    """
    return cast("BinaryIO", io.BufferedReader(_Ranges(address), BLOCK_BYTES))


class _Ranges(io.RawIOBase):
    """Reads a file block by block, each with a request of its own."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
        self._headers = {}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
        self._at, self._left = 0, MOST_BYTES
        self._size = self._request(0, 1)[1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        data, _ = self._request(self._at, wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _request(self, start: int, length: int) -> tuple[bytes, int]:
        """Bytes of a range, and the size of the whole file."""
        self._left -= length
        if self._left < 0:
            raise OSError("more than an index of a video takes")
        headers = {**self._headers, "Range": f"bytes={start}-{start + length - 1}"}
        try:
            with OPENER.open(Request(self._url, headers=headers), timeout=TIMEOUT_S) as answer:  # noqa: S310
                size = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if answer.status != 206 or not size.isdecimal():
                    raise OSError("a server without ranges")
                return answer.read(length), int(size)
        except (URLError, ValueError) as exc:
            raise OSError(str(exc)) from exc
