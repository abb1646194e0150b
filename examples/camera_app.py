"""A camera app to start from: python examples/camera_app.py SOURCE vit.onnx URL|answers.jsonl NAME=task.pgn ...

SIGHUP loads the bundles anew; SIGTERM and Ctrl-C end the app. $HOOK_TOKEN is the webhook's; $METRICS_PORT is 9464."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from time import monotonic

from pgn_edge.errors import PgnEdgeError
from pgn_edge.runtime import Result, Runtime
from pgn_edge.runtime.live import LiveOptions, LiveSource
from pgn_edge.runtime.metrics import Metrics
from pgn_edge.runtime.metrics_server import MetricsServer
from pgn_edge.runtime.sinks import JsonlSink, Sink, WebhookOptions, WebhookSink
from pgn_edge.runtime.sources import open_source

STALE_S = 0.5  # answers about older frames are recorded, and not acted upon


def act(result: Result) -> None:  # your part
    print(f"{result.task}: {result.label} {result.score:.0%}", flush=True)


def swap(runtime: Runtime, bundles: dict[str, str], orders: "SimpleQueue[bool]") -> None:
    while orders.get():
        for task, path in bundles.items():
            try:
                runtime.swap(task, path)  # frames go on meanwhile
                print(f"{task}: swapped", file=sys.stderr, flush=True)
            except PgnEdgeError as exc:
                print(f"{task}: the old one stays: {exc}", file=sys.stderr, flush=True)


source, vit, target, *tasks = sys.argv[1:] if len(sys.argv) > 4 else sys.exit(__doc__)
bundles = dict(task.split("=", 1) if "=" in task else sys.exit(__doc__) for task in tasks)
orders, metrics = SimpleQueue[bool](), Metrics()
signal.signal(signal.SIGHUP, lambda *_: orders.put(True))  # a signal may come within any call; this queue takes that
hook = WebhookOptions(token=os.environ.get("HOOK_TOKEN", ""))
with Runtime(vit, bundles) as runtime, ExitStack() as stack:
    camera = stack.enter_context(open_source(source, LiveOptions(policy="latest")))
    assert isinstance(camera, LiveSource)  # these options are refused for anything else
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: camera.close())
    sink: Sink = WebhookSink(target, hook) if "://" in target else JsonlSink(target, on_error="drop", append=True)
    metrics.watch("answers", stack.enter_context(sink))
    metrics.watch_runtime(runtime)
    stack.enter_context(MetricsServer(metrics, port=int(os.environ.get("METRICS_PORT", "9464"))))
    stack.enter_context(ThreadPoolExecutor(1)).submit(swap, runtime, bundles, orders)
    stack.callback(orders.put, False)
    for frame in camera:
        results = runtime.infer_batch([(task, frame.image_bgr) for task in bundles])
        sink.write(frame, results)
        for result in results:
            metrics.observe(result, frame)
            if not result.degraded and monotonic() - (frame.captured_s or 0.0) <= STALE_S:
                act(result)
