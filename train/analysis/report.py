"""`pgn-edge analyze`: one folder of pictures, their numbers, and a page that shows all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pgn_edge import __version__, html
from pgn_edge.errors import DataError, OutputError
from pgn_edge.files import write_bytes, write_text
from pgn_edge.left_out import LeftOut
from pgn_edge.progress import Progress, silent
from pgn_edge.train.analysis.attention import attention
from pgn_edge.train.analysis.clusters import clusters, maps
from pgn_edge.train.analysis.features import Features, choose, gather
from pgn_edge.train.analysis.figures import require_matplotlib
from pgn_edge.train.analysis.robustness import robustness
from pgn_edge.train.analysis.section import Section
from pgn_edge.train.analysis.tokens import gallery, library_usage, require_tokens
from pgn_edge.train.analysis.trained import Trained, load_trained
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.samples import Reading, Samples
from pgn_edge.train.data.table import load_data

INTRODUCTION = (
    "A frozen ViT answers; a small PGN looks at each image first, and mixes prompts for it out of a library of tokens. "
    "This page shows what it mixes, for which images, and what that changes."
)


@dataclass(frozen=True)
class Looked:
    """What is analysed.

    Args:
        checkpoint: the file.
        data: data sets, as `load_data` takes them.
        root: folder that they are looked up in.
        split: `test`, `validation` or `train`.
        limit: most images of each, evenly from the split.
        weights: of the backbone.
        tokens: Library tokens of the gallery; empty for the most used ones.
        probe_images: Training images of each data set for a linear probe in the tables of robustness; 0 for no probe.
        white: Value of white in image files of 16 bits a channel; None as for `pgn_edge.images.read_image`.
    """

    checkpoint: Path
    data: tuple[str, ...]
    root: str | None = None
    split: str = "validation"
    limit: int = 1000
    weights: str | None = None
    tokens: tuple[int, ...] = ()
    probe_images: int = 0
    white: int | None = None


def analyze(
    looked: Looked, folder: Path, progress: Progress = silent, left_out: LeftOut | None = None
) -> dict[str, Any]:
    """Analyse a checkpoint on data, and write the pictures, `analysis.json` and `index.html`.

    Args:
        looked: what is analysed.
        folder: made if it is not there.
        progress: listener.
        left_out: Account of files that do not count; None for one of its own.

    Returns:
        What `analysis.json` holds.

    Raises:
        CheckpointError: the checkpoint or its backbone cannot be loaded.
        DataError: data that cannot be read, or a split without images.
        OutputError: the folder cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    trained = load_trained(looked.checkpoint, looked.weights)
    require_tokens(trained.checkpoint.pgn, looked.tokens)
    left_out = left_out or LeftOut()
    sets = _load(looked, Reading(left_out, looked.white, progress))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(
            str(folder), expected="a folder that can be made", got=exc.strerror or str(exc), do="choose another"
        ) from exc
    features = [gather(trained, data, samples, progress, left_out) for data, samples in sets]
    sections = _sections(trained, features, looked, progress)
    pictures = [picture for section in sections for picture in section.pictures]
    for picture in pictures:
        write_bytes(folder / f"{picture.name}.png", picture.png)
    results = {
        "checkpoint": str(looked.checkpoint),
        "split": looked.split,
        "images": {each.name: len(each.labels) for each in features},
        "unreadable": {each.name: each.unreadable for each in features},
        "left_out": left_out.to_json(),
        "notes": [note for data, _ in sets for note in data.notes],
        **{section.title: dict(section.facts) for section in sections if section.facts},
        "pictures": [f"{picture.name}.png" for picture in pictures],
        "version": __version__,
    }
    write_text(folder / "analysis.json", json.dumps(results, indent=2) + "\n")
    write_text(folder / "index.html", _page(trained, looked, features, sections))
    return results


def _load(looked: Looked, reading: Reading) -> list[tuple[DataSet, Samples]]:
    sets = []
    for name in looked.data:
        data = load_data(name, looked.root, reading=reading)
        sets.append((data, choose(data, looked.split, looked.limit)))
    names = [data.name for data, _ in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError("data", expected="data sets of different names", got=f"{twice!r} twice", do="name each once")
    return sets


def _sections(trained: Trained, features: Sequence[Features], looked: Looked, progress: Progress) -> list[Section]:
    probe_images = looked.probe_images
    spoilt = [robustness(trained, each, number, progress, probe_images) for number, each in enumerate(features)]
    done = []
    looks = [partial(attention, trained, each, number) for number, each in enumerate(features)]
    makers: tuple[Callable[[], Section], ...] = (
        lambda: clusters(features),
        lambda: maps(features),
        lambda: library_usage(trained, features),
        lambda: gallery(trained, features, looked.tokens),
        *looks,
    )
    for number, make in enumerate(makers):
        done.append(make())
        progress("pictures", number + 1, len(makers))
    return [*done, *spoilt]


def _page(trained: Trained, looked: Looked, features: Sequence[Features], sections: Sequence[Section]) -> str:
    config, backbone = trained.checkpoint.pgn.config, trained.checkpoint.backbone
    sizes = ", ".join(f"{len(each.labels)} images of {each.name}" for each in features)
    lost = sum(each.unreadable for each in features)
    parts = [
        html.paragraph(INTRODUCTION),
        html.paragraph(
            f"{looked.checkpoint}: {config.generator} for {backbone}, {config.prompts} prompts, library of "
            f"{config.library}. {looked.split} split: {sizes}." + (f" {lost} could not be read." if lost else "")
        ),
    ]
    for section in sections:
        parts += [html.heading(section.title), *(html.paragraph(note) for note in section.notes)]
        if section.table is not None:
            parts.append(html.table(*section.table))
        parts += [html.picture(picture.png, picture.caption) for picture in section.pictures]
    return html.page(f"pgn-edge analyze: {trained.checkpoint.name}", parts)
