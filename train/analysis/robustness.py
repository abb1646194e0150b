"""Accuracy under corruptions, of the frozen ViT and with the PGN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pgn_edge.errors import DataError
from pgn_edge.extras import cv2
from pgn_edge.nn.canvas import to_input
from pgn_edge.nn.checkpoint import spread
from pgn_edge.preprocess import Preprocess
from pgn_edge.progress import Progress
from pgn_edge.train.analysis.features import Features
from pgn_edge.train.analysis.figures import GREY, INK, SECOND, figure, png
from pgn_edge.train.analysis.section import Picture, Section
from pgn_edge.train.analysis.trained import Trained
from pgn_edge.train.baselines.probe import linear_probe
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.samples import Subset
from pgn_edge.train.evaluate import class_order, named_by_set, wilson
from pgn_edge.train.heads import make_head
from pgn_edge.train.model import HeadModule, PromptedViT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_IMAGES = 500
BATCH = 64
SEED = 0
GREY_LEVEL = 127
GAP = 12  # of the mosaic: a twelfth of an image
PGN_NAME, FROZEN_NAME, PROBE_NAME = "PGN + ViT", "frozen ViT", "linear probe"
COLOURS = {PGN_NAME: INK, FROZEN_NAME: SECOND, PROBE_NAME: GREY}

Corrupt = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # (H, W, 3) uint8 -> the same


@dataclass(frozen=True)
class Corruption:
    """One way to spoil an image.

    Args:
        words: a sentence with `{}` for the strength.
        strengths: three, mild first.
        apply: spoils one image.
    """

    words: str
    strengths: tuple[float, float, float]
    apply: Corrupt


def _noise(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return _pixels(image + random.normal(0, 255 * strength, image.shape))


def _blur(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), strength * image.shape[1]))


def _darken(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return _pixels(image * strength)


def _flatten(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    mean = image.mean(axis=(0, 1), keepdims=True)
    return _pixels(mean + (image - mean) * strength)


def _compress(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(strength)])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])


def _cover(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    high, wide = round(strength * height), round(strength * width)
    top, left = random.integers(0, height - high + 1), random.integers(0, width - wide + 1)
    covered = image.copy()
    covered[top : top + high, left : left + wide] = GREY_LEVEL
    return covered


def _turn(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    angle = strength if random.random() < 0.5 else -strength
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE))


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption("std {} of the range", (0.05, 0.1, 0.2), _noise),
    "blur": Corruption("std {} of the width", (0.01, 0.02, 0.04), _blur),
    "darker": Corruption("factor {}", (0.6, 0.35, 0.15), _darken),
    "contrast": Corruption("factor {}", (0.5, 0.3, 0.15), _flatten),
    "JPEG": Corruption("quality {}", (30, 15, 5), _compress),
    "occlusion": Corruption("side {} of the image's", (0.2, 0.35, 0.5), _cover),
    "rotation": Corruption("{} degrees to either side", (10, 20, 40), _turn),
}


def spoil(images: np.ndarray, name: str, strength: float) -> np.ndarray:
    """Corrupt images, each with random numbers of its own; the same on every call.

    Args:
        images: (n, H, W, 3) uint8 RGB.
        name: of `CORRUPTIONS`.
        strength: as its `words` say it.

    Returns:
        (n, H, W, 3) uint8 RGB.
    """
    apply = CORRUPTIONS[name].apply
    return np.stack(
        [apply(image, strength, np.random.default_rng((SEED, index))) for index, image in enumerate(images)]
    )


def robustness(trained: Trained, features: Features, number: int, progress: Progress, probe_images: int = 0) -> Section:
    """A table of accuracies, clean and under every corruption.

    Args:
        trained: the checkpoint.
        features: of one data set; the section is left out where its classes are not those of the checkpoint.
        number: of the data set among all, for names of files.
        progress: listener.
        probe_images: Training images of these data that a linear probe on the frozen ViT learns from; 0 for no probe.

    Source: Loedeman et al., BMVC 2024, who show a linear probe beside the PGN on ImageNet's test sets.
    """
    title = f"Robustness: {features.name}"
    try:
        names = named_by_set(trained.labels, features.data.labels, features.name)
        order = class_order(trained.name, trained.labels, names)
    except DataError:
        return Section(title, ("Left out: the checkpoint was not trained for the classes of these data.",))
    models: dict[str, tuple[nn.Module, np.ndarray]] = {PGN_NAME: (trained.model, order)}
    notes = []
    try:
        head = make_head("zero-shot", trained.backbone, features.data.spaces, SEED)
        models[FROZEN_NAME] = (_frozen(trained, head), np.arange(len(order)))
    except DataError as exc:
        notes.append(f"The frozen ViT alone is left out: {exc}")
    if probe_images:
        try:
            progress(f"linear probe for {features.name}", 0, 1)
            models[PROBE_NAME] = (_frozen(trained, _probe(trained, features.data, probe_images)), np.arange(len(order)))
            progress(f"linear probe for {features.name}", 1, 1)
        except DataError as exc:
            notes.append(f"The linear probe is left out: {exc}")
    some = spread(len(features.labels), MOST_IMAGES)
    images, labels = features.images[some], features.labels[some]

    def right(spoilt: np.ndarray) -> dict[str, float]:
        return {
            name: float((predict(model, spoilt, trained.checkpoint.preprocess, own) == labels).mean())
            for name, (model, own) in models.items()
        }

    clean, spoilt = right(images), dict[str, list[dict[str, float]]]()
    for done, (name, corruption) in enumerate(CORRUPTIONS.items()):
        spoilt[name] = [right(spoil(images, name, strength)) for strength in corruption.strengths]
        progress(f"robustness of {features.name}", done + 1, len(CORRUPTIONS))
    low, high = wilson(round(clean[PGN_NAME] * len(labels)), len(labels))
    read = (
        f"Top-1 of {len(labels)} images, at three strengths each; images are spoilt after resizing. With the PGN, the "
        f"interval of 95 % on clean images is {low:.1%} to {high:.1%}: smaller differences between cells mean little."
    )
    pictures = (
        Picture(f"robustness_{number}", png(_lines(clean, spoilt)), _caption()),
        Picture(f"corruptions_{number}", png(_examples(images[0])), "One image as it is, and under every corruption."),
    )
    facts = {"images": len(labels), "clean": clean, "spoilt": spoilt}
    return Section(title, (read, *notes), _table(clean, spoilt), pictures, facts)


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray, preprocess: Preprocess, order: np.ndarray) -> np.ndarray:
    """Class of each image (n,) int64 among those of `order`; images (n, H, W, 3) uint8 RGB are preprocessed already."""
    device = next(model.parameters()).device
    answers = []
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(images[start : start + BATCH])
        answers.append(model(to_input(batch, preprocess, device)).float().cpu().numpy()[:, order].argmax(axis=1))
    return np.concatenate(answers)


def _frozen(trained: Trained, head: HeadModule) -> PromptedViT:
    model = PromptedViT(trained.model.vit, None, head, trained.checkpoint.geometry)
    return model.eval().to(trained.device)


def _probe(trained: Trained, data: DataSet, most: int) -> HeadModule:
    """A linear probe on some training images of the data; ImageNet's test sets have ImageNet's, if it is there."""
    data.require_training()
    chosen = Subset(data.train, spread(len(data.train), most))
    return HeadModule(linear_probe(trained.model.vit, replace(data, train=chosen), trained.checkpoint.preprocess))


def _table(
    clean: Mapping[str, float], spoilt: Mapping[str, Sequence[Mapping[str, float]]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = [("none", "", *(f"{value:.1%}" for value in clean.values()))]
    for name, found in spoilt.items():
        corruption = CORRUPTIONS[name]
        for strength, values in zip(corruption.strengths, found, strict=True):
            rows.append(
                (name, corruption.words.format(f"{strength:g}"), *(f"{value:.1%}" for value in values.values()))
            )
    return ("corruption", "strength", *clean), rows


def _caption() -> str:
    return (
        "Top-1 against the strength, from the clean image (0) to the third strength of the table. A flat line is "
        "robust; where the lines meet, the prompts no longer help."
    )


def _lines(clean: Mapping[str, float], spoilt: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    drawn = figure(9, 4.6)
    grid = drawn.subplots(2, -(-len(spoilt) // 2), sharey=True, sharex=True).flat
    for axes, (name, found) in zip(grid, spoilt.items(), strict=False):
        for model, value in clean.items():
            values = [100 * value, *(100 * each[model] for each in found)]
            axes.plot(range(len(values)), values, marker=".", color=COLOURS[model], label=model)
        axes.set_title(name, fontsize=10)
        axes.set(ylim=(0, 102), xticks=range(4))
        axes.tick_params(labelbottom=True)
    for axes in grid[len(spoilt) :]:
        axes.axis("off")
    drawn.supxlabel("strength", fontsize=10)
    drawn.supylabel("top-1, %", fontsize=10)
    drawn.legend(*grid[0].get_legend_handles_labels(), loc="lower right", frameon=False)
    return drawn


def _examples(image: np.ndarray) -> Figure:
    """One mosaic: a column for each corruption, a row for each strength."""
    height, width = image.shape[:2]
    step_h, step_w = height + height // GAP, width + width // GAP
    mosaic = np.full((3 * step_h, (len(CORRUPTIONS) + 1) * step_w, 3), 255, np.uint8)
    mosaic[:height, :width] = image
    for column, (name, corruption) in enumerate(CORRUPTIONS.items(), start=1):
        for row, strength in enumerate(corruption.strengths):
            top, left = row * step_h, column * step_w
            mosaic[top : top + height, left : left + width] = spoil(image[None], name, strength)[0]
    drawn = figure(11, 11 * mosaic.shape[0] / mosaic.shape[1] + 0.4)
    axes = drawn.subplots()
    axes.imshow(mosaic)
    axes.set_xticks([width / 2 + step_w * column for column in range(len(CORRUPTIONS) + 1)], ["none", *CORRUPTIONS])
    axes.tick_params(labeltop=True, labelbottom=False, length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return drawn


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.round().clip(0, 255).astype(np.uint8))
