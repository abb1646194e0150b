"""The live page over HTTP: who may ask, and for what."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from importlib import resources
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pgn_edge.runtime.http_server import MOST_CONNECTIONS, QuietHandler, same
from pgn_edge.runtime.web.pictures import MOST_FPS, Pictures

MOST_STREAMS = MOST_CONNECTIONS // 2  # the rest is for the page itself and its numbers
MOST_BODY = 4096  # bytes
MOST_READ = 1 << 16  # bytes of a longer one that are read and thrown away
RESEND_S = 2.0  # a picture is sent again after that long, or nobody would notice that a viewer went away
SEND_BUFFER = 1 << 17  # bytes; a larger one would hold seconds of old pictures for a slow viewer
BOUNDARY = "pgn-edge-picture"
COOKIE = "pgn_edge_page"
JSON, TEXT = "application/json", "text/plain; charset=utf-8"

SCRIPT = "text/javascript; charset=utf-8"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{name}": (name, SCRIPT) for name in ("page.js", "camera.js", "plot.js", "dom.js")},
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RequestError(Exception):
    """A request that is answered with one line of text.

    Args:
        status: of HTTP.
        text: the line, without its end.
        headers: more of them, `_` for `-`.
    """

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


@dataclass(frozen=True)
class Site:
    """What the handler of a request needs.

    Args:
        pictures: of all cameras.
        document: gives the JSON object of `/api/state`, with the rows after a number.
        swap: puts a bundle in the place of a task; gives a status of HTTP and one line.
        token: that viewers must know; empty for none.
        closed: set when streams are to end.
    """

    pictures: Pictures
    document: Callable[[int], dict[str, Any]]
    swap: Callable[[str, str], tuple[int, str]]
    token: str = field(repr=False)
    closed: threading.Event
    streams: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MOST_STREAMS))

    @cached_property
    def cookie(self) -> str:
        """What a browser keeps in place of the token: the same after a restart, and of no use elsewhere."""
        return hmac.new(self.token.encode(), b"pgn-edge live page", hashlib.sha256).hexdigest()


def handler(site: Site) -> type[QuietHandler]:
    """The class that answers the requests of a site."""
    return type("SiteHandler", (_Handler,), {"site": site})


class _Handler(QuietHandler):
    site: Site

    def do_GET(self) -> None:  # noqa: N802
        self.heard()
        self._guarded(self._get)

    def do_POST(self) -> None:  # noqa: N802
        # Read before anything is refused: what is left unread would break the connection, and the refusal with it.
        length = self.headers.get("Content-Length", "0")
        length_bytes = int(length) if length.isdecimal() and len(length) < 15 else 0
        body = self.rfile.read(min(length_bytes, MOST_READ))
        self.heard()
        self._guarded(lambda path, _: self._post(path, body))

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _guarded(self, act: Callable[[str, dict[str, list[str]]], None]) -> None:
        path, _, query_text = self.path.partition("?")
        try:
            query = _query(query_text)
            self._authorise(path, query)
            self.admit()
            act(path, query)
        except RequestError as refusal:
            self.answer(refusal.status, TEXT, f"{refusal.text}\n".encode(errors="replace"), **refusal.headers)

    def _authorise(self, path: str, query: dict[str, list[str]]) -> None:
        token = self.site.token
        if not token:
            if not self.is_for_us():
                raise RequestError(403, "this page is for this machine: open it as localhost, or start it with a token")
            return
        if same(self.headers.get("Authorization", ""), f"Bearer {token}"):
            return
        if path == "/" and "token" in query:
            if not same(query["token"][0], token):
                raise RequestError(401, "that is not the token", WWW_Authenticate="Bearer")
            secure = "; Secure" if self.headers.get("X-Forwarded-Proto") == "https" else ""
            # A reverse proxy may take a prefix off: the place is relative, and the cookie belongs to the page's folder.
            cookie = f"{COOKIE}={self.site.cookie}; HttpOnly; SameSite=Strict{secure}"
            raise RequestError(303, "welcome", Location="./", Set_Cookie=cookie)
        if not same(_cookie(self.headers.get("Cookie", "")), self.site.cookie):
            raise RequestError(401, "a token is wanted: open /?token=TOKEN once", WWW_Authenticate="Bearer")

    def _get(self, path: str, query: dict[str, list[str]]) -> None:
        if path in FILES:
            name, kind = FILES[path]
            self.answer(200, kind, resources.files(__package__).joinpath(name).read_bytes())
            return
        parts = _parts(path)
        if path == "/favicon.ico":  # browsers ask for it, whatever the page says
            self.answer(204, TEXT, b"")
        elif path == "/api/state":
            self._state(query)
        elif len(parts) == 2 and parts[0] == "picture":
            self._picture("image/jpeg", self.site.pictures.frame(parts[1]))
        elif len(parts) == 3 and parts[0] == "canvas":
            self._picture("image/png", self.site.pictures.canvas(parts[1], parts[2]))
        elif len(parts) == 2 and parts[0] == "stream":
            self._stream(parts[1])
        else:
            raise RequestError(404, "no such page")

    def _state(self, query: dict[str, list[str]]) -> None:
        after = query.get("after", ["-1"])[0]
        if len(after) > 15 or not after.removeprefix("-").isdecimal():
            raise RequestError(400, "after: expected the number of a row")
        self.answer(200, JSON, json.dumps(self.site.document(int(after)), allow_nan=False).encode())

    def _picture(self, kind: str, picture: tuple[int, bytes] | None) -> None:
        if picture is None:
            raise RequestError(404, "no such camera or task, or no picture of it yet")
        self.answer(200, kind, picture[1])

    def _stream(self, camera: str) -> None:
        picture = self.site.pictures.frame(camera)
        if picture is None:
            raise RequestError(404, "no such camera, or no picture of it yet")
        if not self.site.streams.acquire(blocking=False):
            raise RequestError(503, f"{MOST_STREAMS} streams are watched already", Retry_After="5")
        try:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(f"--{BOUNDARY}\r\n".encode())
            self._send_pictures(camera, picture)
        finally:
            self.site.streams.release()

    def _send_pictures(self, camera: str, picture: tuple[int, bytes] | None) -> None:
        sent, sent_s = -1, 0.0
        while picture is not None:
            number, data = picture
            if number != sent or monotonic() - sent_s > RESEND_S:
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                # The boundary comes after the picture: browsers show one when they see that it has ended.
                self.wfile.write(head + data + f"\r\n--{BOUNDARY}\r\n".encode())
                sent, sent_s = number, monotonic()
            if self.site.closed.wait(1 / MOST_FPS):
                return
            picture = self.site.pictures.frame(camera)

    def _post(self, path: str, body: bytes) -> None:
        if path != "/api/swap":
            raise RequestError(404, "no such page")
        # A form of another site can send neither: the first asks the browser for leave, the second it writes itself.
        if self.headers.get_content_type() != JSON:
            raise RequestError(415, f"expected a body of type {JSON}")
        origin = self.headers.get("Origin")
        if origin is not None and _place(origin) != self.headers.get("Host", ""):
            raise RequestError(403, "another site asks: only this page may swap")
        if len(body) > MOST_BODY:
            raise RequestError(413, f"expected at most {MOST_BODY} bytes")
        task, bundle = _swap(body)
        status, text = self.site.swap(task, bundle)
        self.answer(status, TEXT, f"{text}\n".encode(errors="replace"))


def _parts(path: str) -> list[str]:
    """Of a path, with the names in it as they are."""
    try:
        return [unquote(part, errors="surrogatepass") for part in path.split("/")[1:]]
    except UnicodeDecodeError as exc:
        raise RequestError(404, "no such page") from exc


def _query(text: str) -> dict[str, list[str]]:
    try:
        return parse_qs(text, max_num_fields=8)
    except ValueError as exc:
        raise RequestError(400, "too many parameters") from exc


def _place(origin: str) -> str:
    """Host and port of an Origin header; empty for a header that is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _swap(body: bytes) -> tuple[str, str]:
    """Task and bundle of a request to swap."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise RequestError(400, "expected a JSON object, got something else") from exc
    values = [document.get(key) for key in ("task", "bundle")] if isinstance(document, dict) else []
    match values:
        case [str() as task, str() as bundle]:
            return task, bundle
    raise RequestError(400, "expected a JSON object with the texts task and bundle")
