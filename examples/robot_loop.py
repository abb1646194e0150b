"""A control loop without ROS: python examples/robot_loop.py SOURCE vit.onnx task.pgn [HZ], until SIGTERM or Ctrl-C.

Periods start at fixed times of the monotonic clock; a missed one is left out and counted. Without a fresh answer the
actuator holds its safe state. Give the actuator a watchdog of its own against a program that hangs."""

import signal
import sys
from collections import deque
from contextlib import ExitStack
from threading import Thread
from time import monotonic, sleep

from pgn_edge.errors import PgnEdgeError
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.sources import Frame, Source, open_source

FRESH_S, SURE, SAFE = 0.3, 0.0, "stop"  # choose them for your robot


def act(command: str) -> None:  # your part: one write to the actuator, which never blocks
    print(command, flush=True)


def grab(source: Source, newest: "deque[Frame]", running: set[str]) -> None:
    try:
        for frame in source:
            newest.append(frame)
            sleep(0 if frame.captured_s else 1 / source.fps)  # a file plays at its own rate
            if not running:
                break
    finally:
        running.clear()


name, vit, task, rate_hz = (*sys.argv[1:], "10")[:4] if len(sys.argv) > 3 else sys.exit(__doc__)
newest, running = deque[Frame](maxlen=1), {"yes"}  # to clear a set is safe in a signal handler, as no lock is
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: running.clear())
answer, seen_s, ticks, missed, held, failed = SAFE, 0.0, 0, 0, 0, 0
with Runtime(vit, {"task": task}) as runtime, open_source(name) as source, ExitStack() as stack:
    (grabber := Thread(target=grab, args=(source, newest, running))).start()  # the loop never waits for the camera
    for step in ((grabber.join, 1.0), (running.clear,), (act, SAFE)):  # however it ends, the last one first
        stack.callback(*step)
    start_s = monotonic()  # of this period
    while running:
        if newest:
            frame, answer = newest.pop(), SAFE
            seen_s = frame.captured_s or monotonic()
            try:
                result = runtime.infer("task", frame.image_bgr)
                answer = result.label if not result.degraded and result.score >= SURE else SAFE
            except PgnEdgeError:
                failed += 1
        act(command := answer if monotonic() - seen_s <= FRESH_S else SAFE)
        late = int((monotonic() - start_s) * float(rate_hz))
        ticks, missed, held = ticks + 1, missed + late, held + (command == SAFE)
        start_s += (late + 1) / float(rate_hz)
        sleep(max(start_s - monotonic(), 0.0))
print(f"{ticks} periods, {missed} missed, {held} held safe, {failed} failed", file=sys.stderr)
