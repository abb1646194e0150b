"""The grabber: a process of its own that reads one camera and writes its frames into shared memory.

It is started as a script, not as a part of the package: all that it loads is OpenCV, so that it starts fast and holds
no engine. Both pipes carry one JSON value a line.

- stdin: the order (kind, address, policy, max_fps); then `{"memory": name, "slots": n}` as an answer to `size`, and
  `{"free": slot, "memory": name}` for a slot that may be written again. Where stdin ends, so does the grabber.
- stdout: `["opened", fps, count]`, `["size", h, w]`, `["attached"]`, `["frame", slot, sequence, captured_ns,
  thinned, media]`, `["alive", thinned]`, and at last `["ended", frames, damaged]`, `["failed", reason]` or
  `["refused", status]`. `media` is null for a camera, and of a file `[time_s, damaged]`: media time of the frame,
  and how many before it did not decode.

A slot belongs to one side at a time, and changes hands with a line in a pipe. So a frame that is half written, also by
a grabber that was killed, is never read, on processors of any memory order.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NoReturn

MOST_FAILURES = 1000  # in a row, in a file: OpenCV reports a damaged packet and the end alike
HERE = os.path.dirname(os.path.abspath(__file__))
CAPTURE_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
BEAT_S = 0.2  # between two signs of life while no frame is handed over
CHANNELS = 3
# In one TCP connection no packet is lost. Without the rest FFmpeg holds frames back, to probe and to reorder them, and
# reads 20 of them to guess the rate; of a stream that may be a file it would throw away the first frame.
CAMERA_OPTIONS = "rtsp_transport;{}|fflags;nobuffer|flags;low_delay|fpsprobesize;0"


class Parent:
    """Both pipes to the process that started this one."""

    def __init__(self) -> None:
        # Libraries that print to stdout would write between our lines.
        self._events_fd = os.dup(1)
        os.dup2(2, 1)
        self.memories: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.free: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._last_tell_s = time.monotonic()

    def order(self) -> dict[str, Any]:
        """Wait for the order, and listen from then on; a parent that goes away first ends the process."""
        line = sys.stdin.buffer.readline()
        if not line:
            os._exit(0)
        threading.Thread(target=self._listen, daemon=True).start()
        order: dict[str, Any] = json.loads(line)
        return order

    def tell(self, *event: object) -> None:
        """Send one event."""
        try:
            os.write(self._events_fd, json.dumps(event).encode() + b"\n")
        except OSError:
            os._exit(0)
        self._last_tell_s = time.monotonic()

    def beat(self, thinned: int) -> None:
        """Say that frames come, though none is handed over."""
        if time.monotonic() - self._last_tell_s >= BEAT_S:
            self.tell("alive", thinned)

    def _listen(self) -> NoReturn:
        # OpenCV may hang in the main thread for ever, without the interpreter's lock: this thread ends the process.
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if "free" in message:
                self.free.put((message["memory"], message["free"]))
            else:
                self.memories.put(message)
        os._exit(0)


class Slots:
    """The shared memory that frames of one size are written to."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._memory: SharedMemory | None = None
        self._name = ""
        self._images: list[Any] = []
        self._size_hw = (0, 0)

    def fit(self, size_hw: tuple[int, int]) -> None:
        """Ask for memory of another size, where the camera's has changed."""
        if size_hw == self._size_hw:
            return
        self._images.clear()
        if self._memory is not None:
            self._memory.close()
        self._parent.tell("size", *size_hw)
        message = self._parent.memories.get()
        self._name, self._size_hw = message["memory"], size_hw
        self._memory = attach(self._name)
        self._parent.tell("attached")
        self._images = slot_images(self._memory, size_hw, message["slots"])
        for slot in range(message["slots"]):
            self._parent.free.put((self._name, slot))

    def write(self, image: Any, wait: bool) -> int | None:
        """Copy a frame of 1, 3 or 4 channels into a free slot; None where there is none and it may not wait."""
        name = ""
        while name != self._name:  # what was given back of memory that is no more in use
            try:
                name, slot = self._parent.free.get(block=wait)
            except queue.Empty:
                return None
        self._images[slot][...] = image[..., None] if image.ndim == 2 else image[..., :CHANNELS]
        return slot


def slot_images(memory: SharedMemory, size_hw: tuple[int, int], slots: int) -> list[Any]:
    """Views on every slot: (h, w, 3) uint8 BGR, one after the other from the start of the memory."""
    import numpy as np

    shape = (*size_hw, CHANNELS)
    step = int(np.prod(shape))
    return [np.ndarray(shape, np.uint8, memory.buf, slot * step) for slot in range(slots)]


def attach(name: str) -> SharedMemory:
    """Open the parent's memory without a claim on it."""
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    # Before 3.13 whoever opens a memory also removes it, through a tracker process started for that alone.
    resource_tracker.register = lambda name, rtype: None
    return SharedMemory(name)


def open_capture(order: dict[str, Any]) -> Any:
    """Open what the order names with the one backend that is meant for it."""
    import cv2

    address: str = order["address"]
    if order["kind"] == "device":
        device = int(address) if address.isdigit() else address
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture
    if order["kind"] == "pipeline":
        return cv2.VideoCapture(address, cv2.CAP_GSTREAMER)
    if not order["may_end"]:
        transport = order.get("rtsp_transport")
        given = os.environ.get(CAPTURE_OPTIONS)
        if given is None:
            os.environ[CAPTURE_OPTIONS] = CAMERA_OPTIONS.format(transport or "tcp")
        elif transport:
            os.environ[CAPTURE_OPTIONS] = f"{given}|rtsp_transport;{transport}"
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG)


def ask_for_picture(parent: Parent, order: dict[str, Any]) -> tuple[Any, str, str]:
    """Ask an http address once, which tells single pictures from streams, and a refusal from an address that is wrong.

    Returns:
        The source of pictures, None for a stream; the event and the reason of a failure, empty if there is none.
    """
    spec = importlib.util.spec_from_file_location("snapshot", os.path.join(HERE, "snapshot.py"))
    assert spec is not None
    assert spec.loader is not None
    snapshot = importlib.util.module_from_spec(spec)
    sys.modules["snapshot"] = snapshot
    spec.loader.exec_module(snapshot)
    source = snapshot.Snapshots(order["address"], order["max_fps"] or snapshot.FPS, lambda: parent.beat(0))
    answer = source.ask()
    status = f"{answer.status} {answer.reason}".strip()
    if answer.status in snapshot.REFUSALS:
        return None, "refused", status
    if answer.status >= 400:
        return None, "failed", f"it answers {status}"
    return (source if answer.is_picture else None), "", ""


def is_picture(image: Any) -> bool:
    """Whether an array is a frame: 8 bits, not empty, grey or with 1, 3 or 4 channels."""
    if image is None or image.dtype != "uint8" or not image.size:
        return False
    return image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))


def grab(parent: Parent, capture: Any, order: dict[str, Any], count: int, wait: bool) -> tuple[int, int, str]:
    """Hand over frames until none comes; a file goes on after a frame that does not decode, a camera starts again.

    Args:
        parent: Pipes to the process that gets the frames.
        capture: Open `cv2.VideoCapture`.
        order: Order of the parent; `max_fps` is a number or None.
        count: Number of frames of a file; 0 for a camera.
        wait: Whether to wait for a free slot and for the time of the next frame, instead of leaving frames out.

    Returns:
        Number of frames read, number of damaged ones between them, and why no more are read.
    """
    import cv2

    slots = Slots(parent)
    period_s = 1 / order["max_fps"] if order["max_fps"] else 0.0
    due_s, thinned, sequence, damaged, failures = time.monotonic(), 0, 0, 0, 0
    while True:
        while wait and (ahead_s := due_s - time.monotonic()) > 0:
            time.sleep(min(ahead_s, BEAT_S))
            parent.beat(thinned)
        if not capture.grab():
            failures += 1
            if failures > min(max(count - sequence - damaged, 0), MOST_FAILURES):
                return sequence, damaged, "no more frames"
            continue
        captured_ns = time.monotonic_ns()
        if captured_ns / 1e9 < due_s:
            thinned += 1
            parent.beat(thinned)
            continue
        # On the grid of the rate while the camera keeps up with it, so that the mean is the rate.
        due_s = max(due_s + period_s, captured_ns / 1e9 - period_s)
        decoded, image = capture.retrieve()
        if not decoded or not is_picture(image):
            failures += 1
            if failures > min(max(count - sequence - damaged, 0), MOST_FAILURES):
                return sequence, damaged, "a frame that is no picture"
            continue
        damaged, failures = damaged + failures, 0
        media = (capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3, damaged) if count else None
        slots.fit(image.shape[:2])
        slot = slots.write(image, wait)
        if slot is None:
            parent.beat(thinned)
        else:
            parent.tell("frame", slot, sequence, captured_ns, thinned, media)
        sequence += 1


def serve(parent: Parent) -> None:
    """Carry out one order, from opening to the last frame."""
    import cv2

    order = parent.order()
    try:
        if order["kind"] == "stream" and order["may_end"]:
            pictures, event, reason = ask_for_picture(parent, order)
            if event:
                parent.tell(event, reason)
                return
            if pictures is not None:
                parent.tell("opened", pictures.fps, 0)
                parent.tell("failed", grab(parent, pictures, {**order, "max_fps": None}, 0, False)[2])
                return
        capture = open_capture(order)
        if not capture.isOpened():
            parent.tell("failed", "it does not open")
            return
        # Of a stream without an end FFmpeg says 0 or less.
        count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) if order["may_end"] else 0
        parent.tell("opened", float(capture.get(cv2.CAP_PROP_FPS)), count)
        wait = order["policy"] == "wait" or (order["policy"] is None and count > 0)
        frames, damaged, reason = grab(parent, capture, order, count, wait)
    except cv2.error as exc:
        parent.tell("failed", str(exc))
        return
    if count:
        parent.tell("ended", frames, damaged)
    else:
        parent.tell("failed", reason)


def main() -> NoReturn:
    """Serve until the camera or the parent ends."""
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # This folder, where a script finds its modules first, must not hide any of OpenCV's.
    sys.path[:] = [entry for entry in sys.path if entry != HERE]
    serve(Parent())
    # The listening thread still reads stdin, which an ordinary exit would trip over.
    os._exit(0)


if __name__ == "__main__":
    main()
