"""Why a camera gives no frame, how long it may be silent, and what a person can do about it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pgn_edge.errors import DataError
from pgn_edge.runtime.live.address import Address
from pgn_edge.runtime.live.options import LiveOptions

STALL_S = 1.8
HLS_STALL_S = 20.0  # segments of a playlist last up to ten seconds
MOST_STALL_S = 30.0
PAUSES = 3  # times the longest pause between two frames that was seen
MEMORY_S = 60.0


@dataclass(frozen=True)
class Loss:
    """Why a connection is over.

    Args:
        counter: Counter that it belongs to, `stalls` or `errors`.
        reason: Reason for a message.
        is_refusal: Whether the camera refused user and password.
        is_missing: Whether the device is not there, or may not be opened.
    """

    counter: str
    reason: str
    is_refusal: bool = False
    is_missing: bool = False


class Pause:
    """How long a camera may be silent, from the pauses between its frames.

    Args:
        options: Options of the source; a stated `stall_s` is taken as it is.
        address: Address of the camera.
    """

    def __init__(self, options: LiveOptions, address: Address) -> None:
        self._options, self._least_s = options, HLS_STALL_S if address.is_hls else STALL_S
        self._before_s: float | None = None
        self._seen_s, self._seen_at_s = 0.0, 0.0

    def sign(self, now_s: float) -> None:
        """Learn from a frame.

        Args:
            now_s: Time of the frame on the monotonic clock.
        """
        if self._before_s is not None:
            pause_s = now_s - self._before_s
            if pause_s >= self._seen_s or now_s - self._seen_at_s > MEMORY_S:
                self._seen_s, self._seen_at_s = pause_s, now_s
        self._before_s = now_s

    @property
    def longest_s(self) -> float:
        """Seconds without a frame after which the camera counts as lost."""
        if self._options.stall_s is not None:
            return self._options.stall_s
        if not self._seen_s:  # one frame tells nothing about the rate
            return max(self._least_s, self._options.connect_s)
        return max(self._least_s, min(PAUSES * self._seen_s, MOST_STALL_S))


def missing_device(address: Address) -> str:
    """Say why a device cannot be opened; empty where it can be tried.

    Args:
        address: Address of the camera.
    """
    path = address.device_path
    if not path:
        return ""
    if not os.path.exists(path):
        others = ", ".join(sorted(str(other) for other in Path("/dev").glob("video*"))) or "none"
        return f"no device {path} (there are: {others})"
    return "" if os.access(path, os.R_OK | os.W_OK) else f"no permission for {path}"


def first_frame_error(address: Address, options: LiveOptions, loss: Loss | None, attempts: int) -> DataError:
    """Make the error of a source that has given no frame yet.

    Args:
        address: Address of the camera.
        options: Options of the source.
        loss: Reason of the last failure; None where the first attempt is under way.
        attempts: Number of attempts so far.
    """
    expected, do = f"a first frame within {options.connect_s:g} s", _remedy(address)
    got = "no answer" if loss is None else loss.reason
    if loss is not None and loss.is_missing:
        expected, do = "a camera at this device", "plug the camera in, or name another device"
        if loss.reason.startswith("no permission"):
            do = "add the user to the group video, or give the container the device"
        return DataError(address.label, expected=expected, got=got, do=do)
    if loss is not None and loss.is_refusal:
        expected, do = (
            "a camera that takes this user and password",
            "correct both; each wrong attempt may lock the account",
        )
    got = f"{got} ({attempts} attempt{'' if attempts == 1 else 's'})"
    return DataError(address.label, expected=expected, got=got, do=do)


def _remedy(address: Address) -> str:
    wait = "wait longer with --connect-s (connect_s in a config)"
    if address.kind == "device":
        return f"check that no other program reads the camera, or {wait}"
    return f"check that the camera is on, its address, user and password, or {wait}"
