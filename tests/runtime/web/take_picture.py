"""Takes docs/images/live_page.png: the live page of a real run, after its first minute.

Usage: python -m tests.runtime.web.take_picture DEMO IMAGE.png
DEMO holds vit.onnx, task.pgn and constant.pgn: what `make demo` leaves in runs/demo, and the last one from
`pgn-edge export runs/demo/constant.pt`. Two cameras look at handwritten digits (scikit-learn's test digits) on two
photographs (scikit-learn's sample images, by danielbuechele and vultilion on Flickr, CC BY 2.0);
the engine and both tasks are real.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep

import cv2
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from pgn_edge.files import atomic_write
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.sources import Frame
from pgn_edge.runtime.web import LivePage, PageOptions
from tests.runtime.web.browser import chromium, look, require_chromium

SIZE_HW = (360, 640)
SECONDS, FPS = 59, 8
HOLD = 12  # frames that one digit is shown
INK = {"china.jpg": (70, 20, 60), "flower.jpg": (250, 245, 250)}  # BGR
# Left and top of the middle view, and how far the camera swings from there.
PANS = {"china.jpg": ((380, 430), (70, 50)), "flower.jpg": ((320, 240), (300, 200))}


def scene(photograph: str, seed: int) -> Iterator[np.ndarray]:
    """A camera that pans over a photograph; every now and then another digit stands in the middle."""
    wide_bgr = cv2.resize(load_sample_image(photograph)[..., ::-1], (1280, 854))
    digits, rng = load_digits().images, np.random.default_rng(seed)
    mask = np.zeros((8, 8))
    for index in range(SECONDS * FPS * 2):
        if index % HOLD == 0:
            mask = digits[rng.integers(len(digits))] / 16
        (middle_x, middle_y), (swing_x, swing_y) = PANS[photograph]
        left = round(middle_x + swing_x * np.sin(index / 90 + seed))
        top = round(middle_y + swing_y * np.cos(index / 70 + seed))
        view = wide_bgr[top : top + SIZE_HW[0], left : left + SIZE_HW[1]].astype(np.float32)
        large = cv2.resize(mask, (330, 330), interpolation=cv2.INTER_LINEAR)[..., None]
        y, x = (SIZE_HW[0] - 330) // 2, (SIZE_HW[1] - 330) // 2  # the task looks at the middle
        box = view[y : y + 330, x : x + 330]
        box += (INK[photograph] - box) * large
        yield view.astype(np.uint8)


def run(runtime: Runtime, page: LivePage, seconds: float) -> None:
    """Feed both cameras at `FPS` for so long."""
    scenes = {"gate": scene("china.jpg", 0), "greenhouse": scene("flower.jpg", 5)}
    start, index = monotonic(), 0
    while monotonic() - start < seconds:
        for camera, images in scenes.items():
            captured_s = monotonic()
            image_bgr = next(images)
            results = runtime.infer_batch([(task, image_bgr) for task in runtime.tasks])
            page.write(Frame(index, f"{camera}#{index}", index / FPS, image_bgr, captured_s), results)
        index += 1
        sleep(max(start + index / FPS - monotonic(), 0))


def main(demo: Path, image: Path) -> None:
    """Run for a minute with a browser open, and keep what it shows."""
    require_chromium()
    tasks = {"digits": demo / "task.pgn", "digits, constant prompts": demo / "constant.pgn"}
    with (
        Runtime(demo / "vit.onnx", tasks, threads=1, canvases=True) as runtime,
        LivePage(runtime, PageOptions(port=0, bundles=demo)) as page,
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile)) as browser,
    ):
        look(browser, 1200, 1650, "light")
        browser.get(page.url)
        run(runtime, page, SECONDS)
        picture = Image.open(BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    with atomic_write(image) as temporary:
        picture.quantize(256, dither=Image.Dither.NONE).save(temporary, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
