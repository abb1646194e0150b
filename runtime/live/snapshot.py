"""Pictures that a camera gives one by one over HTTP: asked for at a rate, and recognised by their content type.

The grabber loads this file by its path, so it imports the standard library and OpenCV alone.
"""

from __future__ import annotations

import base64
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

FPS = 1.0  # pictures a second where no rate is asked for
ANSWER_S = 4.0  # for one request
LARGEST_BYTES = 64 << 20
REFUSALS = (401, 403)


@dataclass(frozen=True)
class Answer:
    """What an address answered to a GET.

    Args:
        status: Status of HTTP; 0 where there was no answer in time.
        reason: Text of the status.
        kind: Media type, in lower case.
        body: Picture; empty for any other type.
    """

    status: int = 0
    reason: str = ""
    kind: str = ""
    body: bytes = b""

    @property
    def is_picture(self) -> bool:
        """Whether the address gives single pictures."""
        return self.status == 200 and self.kind.startswith("image/")


class Snapshots:
    """Asks one address for pictures, as `cv2.VideoCapture` gives frames.

    Args:
        address: http:// or https:// address, with user and password where the camera wants them.
        fps: Pictures to ask for in a second.
        beat: Function that is called while it waits for the time of the next picture.
    """

    def __init__(self, address: str, fps: float, beat: Callable[[], None]) -> None:
        self._url, self._login = _split_login(address)
        self._period_s, self._beat = 1 / fps, beat
        self._due_s = 0.0
        self._first: Answer | None = None
        self._image: Any = None
        # FFmpeg does not check the certificate of a camera either: nearly all of them are the camera's own.
        context = ssl._create_unverified_context()  # noqa: S323
        handlers = (urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.OpenerDirector()
        for handler in (*handlers, urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler()):
            self._opener.add_handler(handler)
        self._opener.add_handler(urllib.request.HTTPRedirectHandler())
        self.fps = fps

    def ask(self) -> Answer:
        """Send one request, and a second one with the password where the first is refused."""
        request = urllib.request.Request(self._url)  # noqa: S310  (the opener knows HTTP alone)
        answer, challenge = self._send(request)
        if answer.status == 401 and self._login is not None and challenge:
            header = self._authorization(request, challenge)
            if header:
                request.add_unredirected_header("Authorization", header)
                answer, _ = self._send(request)
        self._first = answer
        return answer

    def grab(self) -> bool:
        """Wait until the next picture is due, and ask for it."""
        import cv2
        import numpy as np

        while (ahead_s := self._due_s - time.monotonic()) > 0:
            time.sleep(min(ahead_s, 0.1))
            self._beat()
        self._due_s = max(self._due_s, time.monotonic()) + self._period_s
        answer = self._first or self.ask()
        self._first = None
        if not answer.is_picture:
            return False
        self._image = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
        return True

    def retrieve(self) -> tuple[bool, Any]:
        """Give the picture that was grabbed."""
        return self._image is not None, self._image

    def get(self, _property: int) -> float:
        """Give no property: a picture has no media time."""
        return 0.0

    def _send(self, request: urllib.request.Request) -> tuple[Answer, str]:
        try:
            with self._opener.open(request, timeout=ANSWER_S) as response:
                kind = response.headers.get_content_type().lower()
                body = response.read(LARGEST_BYTES) if kind.startswith("image/") else b""
                return Answer(response.status, response.reason, kind, body), ""
        except urllib.error.HTTPError as exc:
            with exc:
                return Answer(exc.code, str(exc.reason)), exc.headers.get("WWW-Authenticate", "")
        except (OSError, ValueError, urllib.error.URLError):
            return Answer(), ""

    def _authorization(self, request: urllib.request.Request, challenge: str) -> str:
        """Value of the header, computed once: a wrong password must not be sent twice."""
        user, password = self._login or ("", "")
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        if scheme.lower() != "digest":
            return ""
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, self._url, user, password)
        digest = urllib.request.HTTPDigestAuthHandler(passwords)
        fields = urllib.request.parse_keqv_list([part for part in urllib.request.parse_http_list(rest) if "=" in part])
        value = digest.get_authorization(request, fields)
        return f"Digest {value}" if value else ""


def _split_login(address: str) -> tuple[str, tuple[str, str] | None]:
    parts = urlsplit(address)
    user_part, at, host = parts.netloc.rpartition("@")
    url = urlunsplit((parts.scheme.lower(), host, parts.path or "/", parts.query.replace(" ", "%20"), ""))
    user, _, password = user_part.partition(":")
    return url, (unquote(user), unquote(password)) if at else None
