"""Class names: those of the paper's 12 data sets, in the index order of published checkpoints, and a user's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pgn_edge.errors import DataError

TEMPLATE = "This is a photo of a {}"

# Source: jochemloedeman/PGN, pgn/datamodules: the sentence around the class name in training.
TEMPLATES = {
    "cifar100": "A photo of a {}",
    "cifar10": TEMPLATE,
    "flowers102": TEMPLATE,
    "food101": TEMPLATE,
    "eurosat": TEMPLATE,
    "sun397": TEMPLATE,
    "ucf101": TEMPLATE,
    "svhn": TEMPLATE,
    "pets": TEMPLATE,
    "dtd": TEMPLATE,
    "resisc45": TEMPLATE,
    "clevr_counts": "This is a photo of {} objects",
}
DATASETS = tuple(TEMPLATES)

SIZE_LIMIT_BYTES = 1 << 20


def load_labels(name: str) -> tuple[str, ...]:
    """Class names of one of the paper's data sets; label i is entry i.

    Args:
        name: one of `DATASETS`.

    Raises:
        DataError: another name.
    """
    if name not in TEMPLATES:
        raise DataError("labels", expected=f"one of {', '.join(DATASETS)}", got=repr(name), do="choose one of them")
    text = resources.files("pgn_edge.labels").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Class names from a text file, one a line; spaces around a name do not count.

    Args:
        path: UTF-8 text, at most 1 MiB; label i is line i, counted from 0.

    Raises:
        DataError: no such file, too large, not UTF-8, a blank line, a name twice, or a name that cannot be printed.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as exc:
        raise _bad(path, exc.strerror or str(exc)) from exc
    if len(data) > SIZE_LIMIT_BYTES:
        raise _bad(path, "more than 1 MiB")
    try:
        text = data.decode("utf-8-sig")  # some editors put a mark before the first name
    except UnicodeDecodeError as exc:
        raise _bad(path, f"{exc.reason} at byte {exc.start}") from exc
    names = [line.strip() for line in text.removesuffix("\n").split("\n")]
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise _bad(path, f"line {number} blank")
        if not name.isprintable():
            raise _bad(path, f"line {number} with a character that cannot be printed")
        if name in first:
            raise _bad(path, f"{name!r} in lines {first[name]} and {number}")
        first[name] = number
    return tuple(names)


def find_labels(name: str | None) -> tuple[str, ...]:
    """Class names as a user asks for them.

    Args:
        name: one of `DATASETS`, or the path of a file as in `read_labels`; a data set goes before a file of its name.

    Raises:
        DataError: neither, or a file that `read_labels` refuses.
    """
    if name in TEMPLATES:
        return load_labels(name)
    if name is None or not Path(name).is_file():
        raise DataError(
            "labels",
            expected=f"{', '.join(DATASETS)} or a file with one class name a line",
            got="none" if name is None else repr(name),
            do="pass --labels NAME or --labels FILE",
        )
    return read_labels(name)


def find_template(name: str | None, template: str | None) -> str:
    """The sentence around a class name.

    Args:
        name: of the labels, as in `find_labels`.
        template: the user's own, with one `{}`; None takes the data set's.

    Raises:
        DataError: no `{}`, or other braces.
    """
    sentence = template if template is not None else TEMPLATES.get(name or "", TEMPLATE)
    if sentence.count("{}") != 1 or set("{}") & set(sentence.replace("{}", "")):
        raise DataError(
            "template",
            expected="a sentence with one {} for the class",
            got=repr(sentence),
            do="put {} where the name goes",
        )
    return sentence


def _bad(path: str | Path, got: str) -> DataError:
    return DataError(
        str(path),
        expected="class names in UTF-8, one a line, each once and none blank",
        got=got,
        do="check the file",
    )
