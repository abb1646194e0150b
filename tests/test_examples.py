"""The examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

EXAMPLES = Path(__file__).parents[1] / "examples"
FRAMES = 5


def test_the_camera_loop_prints_one_line_for_each_frame(tiny_pair, tmp_path: Path):
    clip, rng = tmp_path / "clip.mp4", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for _ in range(FRAMES):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    command = [sys.executable, "-W", "error", EXAMPLES / "camera_loop.py", tiny_pair.vit, tiny_pair.task, clip]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == FRAMES
    for line in lines:
        assert re.fullmatch(r"\d \d+%  \d+\.\d ms", line), line


def test_every_example_is_tried_here():
    assert [path.name for path in EXAMPLES.glob("*.py")] == ["camera_loop.py"]
