"""What the drift alarm says of night, dirt, other cameras and another data set, on the demo's task.

    make demo
    python benchmarks/drift.py

Each scene is the demo's 400 test images, changed in one way, run through the demo's engine and bundle one frame after
another. The alarm should be silent where answers are as good as before, and sound where they are not. The embeddings of
some frames go to tests/runtime/drift_frames.npz, so that tests hold the result without a trained task.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import RESULTS, environment_table, markdown_table, write_results

from pgn_edge.files import write_bytes
from pgn_edge.nn.checkpoint import load_checkpoint
from pgn_edge.npz import npz_bytes
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.environment import describe_environment
from pgn_edge.train.data.samples import Samples
from pgn_edge.train.data.table import load_data

FIXTURE = Path(__file__).parents[1] / "tests/runtime/drift_frames.npz"
KEPT = 128  # frames of each scene in the fixture
USEFUL = 0.8  # share of the accuracy on unchanged images that a harmless change leaves
HEADER = ("scene", "top-1, %", "strange frames, %", "alarm from, %", "alarm", "entropy z", "usage divergence, bit")

Change = Callable[[np.ndarray], np.ndarray]


def _levels(images: np.ndarray) -> np.ndarray:
    return images.round().clip(0, 255).astype(np.uint8)


def _noise(images: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 4, images.shape)


def _blur(images: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(image, (0, 0), 3) for image in images])


def _grey(images: np.ndarray) -> np.ndarray:
    return np.repeat(images.mean(axis=3, keepdims=True), 3, axis=3)


SCENES: dict[str, Change] = {
    "unchanged": lambda images: images,
    "dusk": lambda images: 0.6 * images,
    "bright": lambda images: images + 90.0,
    "grey": _grey,
    "blurred": _blur,
    "night": lambda images: 0.15 * images + _noise(images),
    "black": lambda images: 0 * images,
    "upside down": lambda images: images[:, ::-1, ::-1],
    "camera turned away by a third": lambda images: np.roll(images, images.shape[2] // 3, axis=2),
}


def read_all(samples: Samples, most: int) -> np.ndarray:
    """The first images of a split, (n, H, W, 3) uint8 RGB."""
    return np.stack([samples.read(index) for index in range(min(len(samples), most))])


def watch(folder: Path, images: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Run one scene.

    Args:
        folder: Of the demo.
        images: (n, H, W, 3) uint8 RGB.
        labels: (n,) int64 classes.

    Returns:
        Numbers of the scene, embeddings (KEPT, D) float16, and best scores (KEPT,) float32.
    """
    embeddings, scores, right = [], [], 0
    with Runtime(folder / "vit.onnx", {"digits": folder / "task.pgn"}) as runtime:
        for image, label in zip(images, labels, strict=True):
            result = runtime.infer("digits", np.ascontiguousarray(image[..., ::-1]))
            right += result.label == str(label)
            embeddings.append(result.embedding)
            scores.append(result.score)
        drift = runtime.drift("digits")
    assert drift is not None
    assert drift.strange is not None, "the bundle holds held-out images"
    numbers = {
        "top1": right / len(images),
        "strange": drift.strange,
        "alarm_share": drift.alarm_share,
        "alarm": drift.alarm,
        "entropy_z": drift.entropy_z,
        "usage_divergence": drift.usage_divergence,
    }
    return numbers, np.stack(embeddings[:KEPT]).astype(np.float16), np.array(scores[:KEPT], np.float32)


def row(name: str, numbers: dict[str, Any]) -> tuple[str, ...]:
    """Cells under `HEADER`."""
    return (
        name,
        f"{100 * numbers['top1']:.1f}",
        f"{100 * numbers['strange']:.0f}",
        f"{100 * numbers['alarm_share']:.0f}",
        "yes" if numbers["alarm"] else "no",
        f"{numbers['entropy_z']:.2f}",
        f"{numbers['usage_divergence']:.3f}",
    )


def main() -> int:
    """Run all scenes; 1 if the alarm is wrong about one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of the demo; default: %(default)s")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results; default: %(default)s")
    given = parser.parse_args()
    data, other = load_data("digits"), load_data("counts")
    images, labels = read_all(data.test, len(data.test)), data.test.labels
    scenes = {name: _levels(change(images.astype(np.float64))) for name, change in SCENES.items()}
    scenes["another data set (counts)"] = read_all(other.test, len(images))
    found, arrays = {}, {}
    for number, (name, frames) in enumerate(scenes.items()):
        truth = labels if len(frames) == len(labels) and name in SCENES else np.full(len(frames), -1)
        found[name], embeddings, scores = watch(given.demo, frames, truth)
        arrays |= {f"embeddings_{number}": embeddings, f"scores_{number}": scores}
        print(*row(name, found[name]), sep=" | ", flush=True)
    held_out = load_checkpoint(given.demo / "ckpt.pt").held_out
    assert held_out is not None
    useful = [name for name, numbers in found.items() if numbers["top1"] >= USEFUL * found["unchanged"]["top1"]]
    wrong = [name for name, numbers in found.items() if numbers["alarm"] == (name in useful)]
    arrays |= {"embeddings_held_out": held_out.embeddings.astype(np.float16), "scores_held_out": held_out.scores}
    arrays["names"] = np.array(list(found))
    arrays["harmless"] = np.array([name in useful for name in found])
    write_bytes(FIXTURE, npz_bytes(arrays))
    write(found, wrong, given.output)
    return 1 if wrong else 0


def write(found: dict[str, dict[str, Any]], wrong: list[str], folder: Path) -> None:
    """Write drift.json and drift.md."""
    environment = {"command": "python benchmarks/drift.py", **describe_environment()}
    document = {"scenes": found, "wrong": wrong, "environment": environment}
    parts = (
        "# The drift alarm on the demo's task",
        "Each scene is the demo's 400 test images, changed in one way. A strange frame is stranger than 90 % of the "
        "held-out images. The alarm is set off by a share of the last 256 frames that chance reaches once in a million "
        "windows.",
        markdown_table(HEADER, [row(name, numbers) for name, numbers in found.items()]),
        f"Wrong: {', '.join(wrong) or 'none'}. An alarm is right where top-1 falls below {USEFUL:.0%} of its value on "
        "unchanged images.",
        environment_table(environment),
    )
    write_results(folder, "drift", document, "\n\n".join(parts))


if __name__ == "__main__":
    raise SystemExit(main())
