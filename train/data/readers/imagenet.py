"""ImageNet and its test sets A, R, V2 and Sketch: folders of classes by WordNet number."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import (
    Item,
    class_folders,
    class_items,
    damaged,
    find_folder,
    find_part,
    image_names,
    listed,
    numbered,
    read_lines,
    wrong_layout,
)
from pgn_edge.train.data.readers.mat import read_mat
from pgn_edge.train.data.samples import Files

LAYOUT = (
    "imagenet/ with train/nXXXXXXXX/*.JPEG and val/nXXXXXXXX/*.JPEG for 1000 classes (or val/*.JPEG with "
    "LOC_val_solution.csv or ILSVRC2012_devkit_t12/ beside it)"
)
PLACES = ("imagenet", "imagenet/images", "imagenet/ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC", "images", ".")
SOLUTION = "LOC_val_solution.csv"
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
META = "ILSVRC2012_devkit_t12/data/meta.mat"


def read(root: Path) -> Parts:
    """Read ImageNet-1k; its validation part is the test, as the labels of its test part were never published.

    Args:
        root: holds `imagenet`, or is it; CoOp's tree and Kaggle's are also found.

    Raises:
        DataError: not the 1000 classes, a class without images, or a flat `val` without its labels.

    Source: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015.
    """
    names = class_names()
    folder = find_folder(root, PLACES, ("train", "val"), LAYOUT)
    labels = _exactly(find_part(folder, ("train",), LAYOUT), LAYOUT, len(names))
    train = listed(folder / "train", class_items(folder / "train", labels))
    test = _validation(root, find_part(folder, ("val",), LAYOUT), labels)
    return _parts(tuple(names), train, test)


def read_a(root: Path) -> Parts:
    """Read ImageNet-A, natural images that mislead, of 200 classes.

    Args:
        root: holds `imagenet-a`, or is it; training images come from `imagenet` beside it, where that is.

    Raises:
        DataError: not 200 of ImageNet's classes, or one without images.

    Source: Hendrycks et al., "Natural Adversarial Examples", 2021.
    """
    layout = "imagenet-a/ with nXXXXXXXX/*.jpg for 200 classes"
    return _variant(root, ("imagenet-a", "imagenet-adversarial/imagenet-a"), 200, layout)


def read_r(root: Path) -> Parts:
    """Read ImageNet-R, drawings, toys and other renditions, of 200 classes; otherwise as `read_a`.

    Source: Hendrycks et al., "The Many Faces of Robustness", 2021.
    """
    layout = "imagenet-r/ with nXXXXXXXX/*.jpg for 200 classes"
    return _variant(root, ("imagenet-r", "imagenet-rendition/imagenet-r"), 200, layout)


def read_sketch(root: Path) -> Parts:
    """Read ImageNet-Sketch, drawings of the 1000 classes; otherwise as `read_a`.

    Source: Wang et al., "Learning Robust Global Representations by Penalizing Local Predictive Power", 2019.
    """
    layout = "imagenet-sketch/ or sketch/ with nXXXXXXXX/*.JPEG for 1000 classes"
    return _variant(
        root, ("imagenet-sketch/images", "imagenet-sketch/sketch", "imagenet-sketch", "sketch"), 1000, layout
    )


def read_v2(root: Path) -> Parts:
    """Read ImageNet-V2, a second test set of the 1000 classes, in folders named 0 to 999; otherwise as `read_a`.

    Source: Recht et al., "Do ImageNet Classifiers Generalize to ImageNet?", 2019.
    """
    release = "imagenetv2-matched-frequency-format-val"
    layout = f"{release}/ with 0/*.jpeg to 999/*.jpeg"
    places = (f"imagenetv2/{release}", f"imagenet-v2/{release}", release, "imagenetv2", "imagenet-v2", ".")
    folder = find_folder(root, places, ("0",), layout)
    names = class_names()
    labels = numbered(map(str, range(len(names))))  # by number: sorted as text, 10 comes before 2
    test = listed(folder, class_items(folder, labels))
    return _parts(tuple(names), _training(root, tuple(names)), test)


@cache
def class_names() -> Mapping[str, str]:
    """ImageNet's 1000 classes in the order of their labels: WordNet number -> the name that CLIP's authors gave it."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))


def _parts(wordnet: Sequence[str], train: Files, test: Files) -> Parts:
    """A data set of some of ImageNet's classes, each with a label of its own.

    CLIP's authors gave two pairs of classes one name ("missile", "sunglasses"). Their labels hold the WordNet number
    too, so that every class is found by name in all of ImageNet's test sets; text heads get the name alone.
    """
    names = class_names()
    numbers = {name: index for index, name in enumerate(names)}
    shared = {text for text, count in Counter(names.values()).items() if count > 1}
    texts = tuple(names[name] for name in wordnet)
    labels = []
    for name, text in zip(wordnet, texts, strict=True):
        labels.append(f"{text} ({name})" if text in shared else text)
    return Parts(tuple(labels), train, test, texts=texts, imagenet=tuple(numbers[name] for name in wordnet))


def _variant(root: Path, places: Sequence[str], classes: int, layout: str) -> Parts:
    names = class_names()
    folder = find_folder(root, (*places, "."), tuple(names), layout)
    labels = _exactly(folder, layout, classes)
    test = listed(folder, class_items(folder, labels))
    return _parts(tuple(labels), _training(root, tuple(labels)), test)


def _training(root: Path, wordnet: Sequence[str]) -> Files:
    """ImageNet's training images of these classes; none where there is no ImageNet at `root`."""
    for place in PLACES[:3]:
        folder = root / place / "train"
        if folder.is_dir():
            return listed(folder, class_items(folder, numbered(wordnet)))
    return listed(root, [])


def _exactly(folder: Path, layout: str, classes: int) -> dict[str, int]:
    """Labels of the class folders, which are `classes` of ImageNet's."""
    known = class_names()
    found = [name for name in class_folders(folder, layout) if name in known]
    if len(found) != classes:
        raise wrong_layout(folder, layout, f"{len(found)} folders of ImageNet's classes")
    return numbered(found)


def _validation(root: Path, folder: Path, labels: Mapping[str, int]) -> Files:
    images = image_names(folder)
    if not images:
        _exactly(folder, LAYOUT, len(labels))
        return listed(folder, class_items(folder, labels))
    for place in (folder.parent, root, root / "imagenet", *folder.parents[1:4]):
        if (place / SOLUTION).is_file():
            return listed(folder, _solved(place / SOLUTION, labels))
        if (place / TRUTH).is_file():
            return listed(folder, _true(place, images, labels))
    raise wrong_layout(folder, LAYOUT, f"{len(images)} images without class folders or labels")


def _solved(path: Path, labels: Mapping[str, int]) -> list[Item]:
    """Kaggle's labels: `ImageId,PredictionString` with the class before the box."""
    items: list[Item] = []
    for row in csv.DictReader(read_lines(path, LAYOUT)):
        image, boxes = row.get("ImageId") or "", (row.get("PredictionString") or "").split()
        if not image.isidentifier() or not boxes or boxes[0] not in labels:
            raise damaged(path, "ImageId,PredictionString with one of the classes", str(row)[:80])
        items.append((f"{image}.JPEG", labels[boxes[0]]))
    return items


def _true(place: Path, images: Sequence[str], labels: Mapping[str, int]) -> list[Item]:
    """The development kit's labels: line i is the number of the class of image i, and a table has the classes."""
    table = read_mat(place / META, ("synsets",), LAYOUT)["synsets"].reshape(-1)
    fields = table.dtype.names or ()
    if not {"ILSVRC2012_ID", "WNID"} <= set(fields):
        raise damaged(place / META, "'synsets' with ILSVRC2012_ID and WNID", ", ".join(fields) or "no fields")
    wordnet = {str(np.ravel(row["ILSVRC2012_ID"])[0]): str(np.ravel(row["WNID"])[0]) for row in table}
    lines = read_lines(place / TRUTH, LAYOUT)
    if len(lines) != len(images):
        raise damaged(place / TRUTH, f"a line for each of {len(images)} images", str(len(lines)))
    items: list[Item] = []
    for number, (line, image) in enumerate(zip(lines, images, strict=True), 1):
        label = labels.get(wordnet.get(line, ""))
        if label is None:
            raise damaged(place / TRUTH, "the number of one of the 1000 classes", f"{line[:80]!r} in line {number}")
        items.append((image, label))
    return items
