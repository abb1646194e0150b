"""What cameras give in a long run: batches of several tasks, and every kind of bad frame among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from swap_files import make_frames

from pgn_edge.bundle import read_bundle, write_bundle

SWAPPED, FRAGILE = ("door", "gate", "yard"), "fragile"
TASKS = (*SWAPPED, FRAGILE)
# Every so many calls, with numbers that have no common factor, so that all combinations come up.
GARBAGE_EVERY, WHITE_EVERY, LARGE_EVERY = 53, 31, 1999
LARGE_HW = (4320, 7680)
Frames = list[tuple[str, np.ndarray]]


def fragile_bundle(good: Path, path: Path) -> Path:
    """A bundle that passes its golden pair, and whose canvas is 0 / 0 for an all-white frame.

    Args:
        good: bundle that is changed.
        path: where the other one is written.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    bundle = read_bundle(good)
    model = onnx.load_from_string(bundle.pgn_onnx)
    for node in model.graph.node:
        node.output[:] = ["fragile whole" if name == "canvas" else name for name in node.output]
        node.input[:] = ["fragile whole" if name == "canvas" else name for name in node.input]
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(255, np.float32), "fragile white"),
            numpy_helper.from_array(np.array([1, 2, 3], np.int64), "fragile pixels"),
        ]
    )
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["image"], ["fragile light"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["fragile light", "fragile pixels"], ["fragile mean"], keepdims=1),
            helper.make_node("Sub", ["fragile white", "fragile mean"], ["fragile room"]),
            helper.make_node("Div", ["fragile room", "fragile room"], ["fragile one"]),
            helper.make_node("Mul", ["fragile whole", "fragile one"], ["canvas"]),
        ]
    )
    onnx.checker.check_model(model)
    write_bundle(path, replace(bundle, pgn_onnx=model.SerializeToString()))
    return path


def batches(seed: int) -> Iterator[Frames]:
    """What the cameras give, for ever."""
    rng, pictures = np.random.default_rng(seed), make_frames(seed)
    white, large = np.full((120, 160, 3), 255, np.uint8), np.zeros((*LARGE_HW, 3), np.uint8)
    garbage: list[np.ndarray] = [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((48, 64, 3), np.float32),
    ]
    # More kinds of batches than the runtime keeps bound, so that some make room for others.
    kinds = [[task] for task in TASKS] * 4 + [rng.choice(TASKS, size).tolist() for size in (2, 2, 3, 3, 4, 4, 6, 6, 8)]
    bad: list[tuple[int, list[np.ndarray]]]
    bad = [(GARBAGE_EVERY, garbage), (WHITE_EVERY, [white]), (LARGE_EVERY, [large])]
    call = 0
    while True:
        call += 1
        frames = [(task, pictures[int(rng.integers(len(pictures)))]) for task in kinds[int(rng.integers(len(kinds)))]]
        for every, images in bad:
            if call % every == 0:
                task = FRAGILE if images[0] is white else frames[0][0]
                frames[int(rng.integers(len(frames)))] = (task, images[call // every % len(images)])
        yield frames


def is_picture(image: np.ndarray) -> bool:
    """Whether a frame is one that a task can answer."""
    return image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size > 0
