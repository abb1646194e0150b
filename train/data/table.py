"""The one table of data sets, and what `--data` may name beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgn_edge.errors import DataError
from pgn_edge.file_kind import require_kind
from pgn_edge.images import require_white
from pgn_edge.labels import TEMPLATE, TEMPLATES, find_template
from pgn_edge.train.data.csv_file import read_csv
from pgn_edge.train.data.dataset import DataSet, LabelSpace, Parts, assemble, unite
from pgn_edge.train.data.embedded import read_counts, read_digits
from pgn_edge.train.data.folder import read_folder
from pgn_edge.train.data.readers import (
    cifar,
    clevr_counts,
    dtd,
    eurosat,
    flowers102,
    food101,
    imagenet,
    pets,
    resisc45,
    sun397,
    svhn,
    ucf101,
)
from pgn_edge.train.data.samples import Reading

FOLDER_TEMPLATE = "a photo of a {}"


@dataclass(frozen=True)
class DataSpec:
    """One published or embedded data set.

    Args:
        read: folder given by --root -> what lies there, listed and not decoded.
        template: sentence with `{}` for the class name, for text heads.
        licence: of the images; "see the source" where its home does not name one.
        source: address of its home.
        layout: what is expected under the root, as the reader says it; empty where nothing is.
        counts: classes, train, validation and test images as published; validation is 0 where it is cut from train.
    """

    read: Callable[[Path], Parts]
    template: str
    licence: str
    source: str
    layout: str
    counts: Mapping[str, int]


def load_data(
    name: str, root: str | Path | None = None, *, template: str | None = None, reading: Reading | None = None
) -> DataSet:
    """Load a data set, listing its files without decoding them.

    Args:
        name: a key of `TABLE`; the path of a folder of classes or of a `.csv`; or several of these with commas between
            them, whose label spaces are united.
        root: folder that published data sets lie in and that relative paths start from; None takes the current one.
        template: the user's own sentence with one `{}`; None takes that of the data set.
        reading: How files are listed and read; None reads as the defaults say.

    Raises:
        DataError: an unknown name, a layout that is wrong, a class without images, a label out of range, or a template
            without its `{}`.
    """
    base = Path(root or ".")
    alone = "," not in name or os.path.exists(base / name)  # False also for what no path can be
    reading = reading or Reading()
    require_white(reading.white)
    sets = [_load(each, base, template, reading) for each in ([name] if alone else name.split(","))]
    return sets[0] if alone else unite(sets)


def _load(name: str, base: Path, template: str | None, reading: Reading) -> DataSet:
    own = None if template is None else find_template(None, template)
    if name in TABLE:
        spec = TABLE[name]
        facts = {"licence": spec.licence, "source": spec.source, "published": dict(spec.counts)}
        try:
            parts = spec.read(base)
        except DataError as exc:
            if not os.path.isdir(base / name):
                raise
            do = f"{exc.do}; for a folder of your own write ./{name}"
            raise DataError(exc.subject, expected=exc.expected, got=exc.got, do=do) from exc
        space = LabelSpace(parts.labels, own or spec.template, name, parts.texts, parts.imagenet)
        return assemble(space, parts, facts)
    path = base / name
    if name and path.is_dir():
        parts, title = read_folder(path, reading), path.resolve().name
    elif path.suffix.lower() == ".csv" and path.is_file():
        parts, title = read_csv(path, base, reading.white), path.stem
    else:
        require_kind(path, "folder", error=DataError)
        raise DataError(
            "data",
            expected=f"{', '.join(TABLE)}, a folder of classes or a .csv",
            got=repr(str(path)) if name else "an empty name",
            do="check --data and --root",
        )
    return assemble(LabelSpace(parts.labels, own or FOLDER_TEMPLATE, title), parts, {"source": str(path)})


def markdown() -> str:
    """The table as docs/data.md shows it: the data sets, and where their files are expected."""
    head = ("data set", "classes", "train", "validation", "test", "template", "licence", "home")
    rows = [head, ("---", *["---:"] * 4, *["---"] * 3)]
    for name, spec in TABLE.items():
        counts = (f"{spec.counts[key]:,}" for key in head[1:5])
        rows.append((f"`{name}`", *counts, spec.template, spec.licence, spec.source))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.append("")
    for name, spec in TABLE.items():
        if spec.layout:
            lines.append(f"- **{name}**: `{spec.layout}`")
    return "\n".join(lines) + "\n"


def _sizes(classes: int, train: int, validation: int, test: int) -> dict[str, int]:
    return {"classes": classes, "train": train, "validation": validation, "test": test}


UNSTATED = "see the source"
IMAGENET_TERMS = "non-commercial research and education"

TABLE: dict[str, DataSpec] = {
    "cifar100": DataSpec(
        cifar.read_cifar100,
        TEMPLATES["cifar100"],
        UNSTATED,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-100-python/ with train, test, meta",
        _sizes(100, 50_000, 0, 10_000),
    ),
    "cifar10": DataSpec(
        cifar.read_cifar10,
        TEMPLATES["cifar10"],
        UNSTATED,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-10-batches-py/ with data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, "
        "test_batch, batches.meta",
        _sizes(10, 50_000, 0, 10_000),
    ),
    "flowers102": DataSpec(
        flowers102.read,
        TEMPLATES["flowers102"],
        UNSTATED,
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        flowers102.LAYOUT,
        _sizes(102, 1_020, 1_020, 6_149),
    ),
    "food101": DataSpec(
        food101.read,
        TEMPLATES["food101"],
        UNSTATED,
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        food101.LAYOUT,
        _sizes(101, 75_750, 0, 25_250),
    ),
    "eurosat": DataSpec(
        eurosat.read,
        TEMPLATES["eurosat"],
        "MIT",
        "https://github.com/phelber/EuroSAT",
        eurosat.LAYOUT,
        _sizes(10, 13_500, 5_400, 8_100),
    ),
    "sun397": DataSpec(
        sun397.read,
        TEMPLATES["sun397"],
        UNSTATED,
        "https://vision.princeton.edu/projects/2010/SUN/",
        sun397.LAYOUT,
        _sizes(397, 19_850, 0, 19_850),
    ),
    "ucf101": DataSpec(
        ucf101.read,
        TEMPLATES["ucf101"],
        UNSTATED,
        "https://www.crcv.ucf.edu/data/UCF101.php",
        ucf101.LAYOUT,
        _sizes(101, 9_537, 0, 3_783),
    ),
    "svhn": DataSpec(
        svhn.read,
        TEMPLATES["svhn"],
        "non-commercial use only",
        "http://ufldl.stanford.edu/housenumbers/",
        svhn.LAYOUT,
        _sizes(10, 73_257, 0, 26_032),
    ),
    "pets": DataSpec(
        pets.read,
        TEMPLATES["pets"],
        "CC BY-SA 4.0",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        pets.LAYOUT,
        _sizes(37, 3_680, 0, 3_669),
    ),
    "dtd": DataSpec(
        dtd.read,
        TEMPLATES["dtd"],
        UNSTATED,
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        dtd.LAYOUT,
        _sizes(47, 1_880, 1_880, 1_880),
    ),
    "resisc45": DataSpec(
        resisc45.read,
        TEMPLATES["resisc45"],
        UNSTATED,
        "https://gcheng-nwpu.github.io/",
        resisc45.LAYOUT,
        _sizes(45, 18_900, 6_300, 6_300),
    ),
    "clevr_counts": DataSpec(
        clevr_counts.read,
        TEMPLATES["clevr_counts"],
        "CC BY 4.0",
        "https://cs.stanford.edu/people/jcjohns/clevr/",
        clevr_counts.LAYOUT,
        _sizes(8, 70_000, 0, 15_000),
    ),
    "imagenet": DataSpec(
        imagenet.read,
        TEMPLATE,
        IMAGENET_TERMS,
        "https://www.image-net.org/",
        imagenet.LAYOUT,
        _sizes(1000, 1_281_167, 0, 50_000),
    ),
    "imagenet-a": DataSpec(
        imagenet.read_a,
        TEMPLATE,
        UNSTATED,
        "https://github.com/hendrycks/natural-adv-examples",
        "imagenet-a/ with nXXXXXXXX/*.jpg for 200 classes",
        _sizes(200, 0, 0, 7_500),
    ),
    "imagenet-r": DataSpec(
        imagenet.read_r,
        TEMPLATE,
        UNSTATED,
        "https://github.com/hendrycks/imagenet-r",
        "imagenet-r/ with nXXXXXXXX/*.jpg for 200 classes",
        _sizes(200, 0, 0, 30_000),
    ),
    "imagenet-v2": DataSpec(
        imagenet.read_v2,
        TEMPLATE,
        UNSTATED,
        "https://github.com/modestyachts/ImageNetV2",
        "imagenetv2-matched-frequency-format-val/ with 0/*.jpeg to 999/*.jpeg",
        _sizes(1000, 0, 0, 10_000),
    ),
    "imagenet-sketch": DataSpec(
        imagenet.read_sketch,
        TEMPLATE,
        UNSTATED,
        "https://github.com/HaohanWang/ImageNet-Sketch",
        "imagenet-sketch/ or sketch/ with nXXXXXXXX/*.JPEG for 1000 classes",
        _sizes(1000, 0, 0, 50_889),
    ),
    "digits": DataSpec(
        read_digits,
        "a photo of the number {}",
        "digits CC BY 4.0, photographs CC BY 2.0",
        "https://archive.ics.uci.edu/dataset/80",
        "",
        _sizes(10, 1_097, 300, 400),
    ),
    "counts": DataSpec(
        read_counts,
        "a photo of {}",
        "photographs CC BY 2.0",
        "made by pgn_edge.train.counts",
        "",
        _sizes(8, 1_600, 400, 800),
    ),
}
