"""What kind of camera an address names, and how it may be shown."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from pgn_edge.errors import DataError
from pgn_edge.redact import keep_address_secrets, redact_address

SCHEMES = ("rtsp", "rtsps", "http", "https")


@dataclass(frozen=True)
class Address:
    """Where a live source is.

    Args:
        kind: `device` for V4L2 and its like, `stream` for what FFmpeg reads, `pipeline` for GStreamer.
        text: as the user wrote it, with any password in it.
    """

    kind: Literal["device", "stream", "pipeline"]
    text: str

    @property
    def label(self) -> str:
        """Name for messages, results and logs, without users, passwords and the secrets of queries."""
        return redact_address(self.text)

    @property
    def may_end(self) -> bool:
        """Whether it can be a file behind an address, which ends; what speaks RTSP is a camera."""
        return self.kind == "pipeline" or self.text.lower().startswith("http")

    @property
    def device_path(self) -> str:
        """Path of a device by its number or its own path, on Linux; empty of anything else."""
        if self.kind != "device" or not sys.platform.startswith("linux"):
            return ""
        path = f"/dev/video{self.text}" if self.text.isdigit() else self.text
        return path if re.fullmatch(r"/dev/video\d+|/dev/v4l/.+", path) else ""

    @property
    def is_hls(self) -> bool:
        """Whether it is a playlist, whose frames come in segments of some seconds."""
        return self.suffix == ".m3u8"

    @property
    def suffix(self) -> str:
        """Of the file that a stream's path names, in lower case; empty where it names none."""
        path = re.split(r"[?#]", self.text.rpartition("@")[2], maxsplit=1)[0]
        return PurePosixPath(path).suffix.lower() if self.kind == "stream" else ""


def live_address(source: str) -> Address | None:
    """The live source that `source` names; None for what is left, files and folders.

    No message shows the secrets of the source from here on.

    Args:
        source: number of a camera, /dev/videoN, an address, or a GStreamer pipeline that ends in an appsink.

    Raises:
        DataError: an address of another scheme or one that cannot be read, or a pipeline without an appsink.
    """
    keep_address_secrets(source)
    if (source.isascii() and source.isdigit()) or source.startswith(("/dev/video", "/dev/v4l/")):
        return Address("device", source)
    if " ! " in source and not os.path.exists(source):
        if "appsink" not in source.rpartition("!")[2]:
            raise DataError(
                redact_address(source),
                expected="a pipeline that ends in an appsink",
                got="another last element",
                do="end it with: ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1",
            )
        return Address("pipeline", source)
    scheme, separator, _ = source.partition("://")
    if not separator:
        return None
    if scheme.lower() not in SCHEMES:
        raise DataError(
            redact_address(source),
            expected=f"an address that starts with one of {', '.join(f'{name}://' for name in SCHEMES)}",
            got=f"{scheme}://",
            do="give a path for a file, or read other streams with a GStreamer pipeline",
        )
    try:
        _ = urlsplit(source).port
    except ValueError as exc:
        expected, do = (
            f"an address such as {scheme}://host:554/path",
            "check the port in it, and write / ? # @ [ of a password as %XX",
        )
        raise DataError(f"{scheme}:// address", expected=expected, got="one that cannot be read", do=do) from exc
    return Address("stream", source)
