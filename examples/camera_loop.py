"""A camera app in ten lines: every frame goes through one frozen ViT and one task.

Usage: python examples/camera_loop.py vit.onnx task.pgn [CAMERA], CAMERA a number or a video file, 0 by default.
"""

import sys

import cv2

from pgn_edge.runtime import Runtime

if len(sys.argv) < 3:
    sys.exit(__doc__)
vit, task, source = (*sys.argv[1:], "0")[:3]
camera = cv2.VideoCapture(int(source) if source.isdigit() else source)
with Runtime(vit, tasks={"task": task}) as runtime:
    while True:
        ok, frame_bgr = camera.read()
        if not ok:
            break
        result = runtime.infer("task", frame_bgr)
        print(f"{result.label} {result.score:.0%}  {result.timings_ms['total']:.1f} ms")
camera.release()
