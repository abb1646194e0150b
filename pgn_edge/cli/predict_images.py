"""The images that `pgn-edge predict` is given: files, folders, patterns, lists and addresses."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgn_edge.errors import DataError
from pgn_edge.images import IMAGE_SUFFIXES, decode_image, read_image
from pgn_edge.left_out import LeftOut, Reason
from pgn_edge.listing import PICTURE_SUFFIXES, list_images
from pgn_edge.redact import redact_address

if TYPE_CHECKING:
    import numpy as np

    from pgn_edge.progress import Progress

STDIN = "-"
MAGIC = frozenset("*?[")


def is_endless(names: Sequence[str]) -> bool:
    """Whether images are answered while their list still grows, so that nobody knows how many there are."""
    return STDIN in names


def find_images(names: Sequence[str], left_out: LeftOut, progress: Progress) -> Iterator[str]:
    """Paths and addresses of images, in the order of their names on the command line.

    Args:
        names: Files, folders, glob patterns, addresses, `@FILE` for a file with one of them a line, and `-` for such a
            list on stdin.
        left_out: Account of files in folders and patterns that are no images.
        progress: Listener that is told how many images a large folder has so far.

    Raises:
        DataError: A folder, a pattern or a list without an image, or a list that cannot be read.
    """
    for name in names:
        if name == STDIN:
            yield from _listed("stdin", sys.stdin.buffer, left_out, progress)
        elif name.startswith("@") and not os.path.lexists(name):
            try:
                with open(name[1:], "rb") as lines:
                    yield from _listed(name, lines, left_out, progress)
            except OSError as exc:
                got = exc.strerror or str(exc)
                do = "check the path behind the @"
                raise DataError(name, expected="a text file with one image a line", got=got, do=do) from exc
        else:
            yield from _named(name, left_out, progress)


def _listed(source: str, lines: Iterator[bytes], left_out: LeftOut, progress: Progress) -> Iterator[str]:
    empty = True
    for line in lines:
        name = os.fsdecode(line.rstrip(b"\r\n"))
        if name.strip():
            empty = False
            yield from _named(name, left_out, progress)
    if empty:
        raise DataError(source, expected="a list of images, one a line", got="no name", do="write names into the list")


def _named(name: str, left_out: LeftOut, progress: Progress) -> Iterator[str]:
    if is_address(name):
        yield name
    elif os.path.isdir(name):
        yield from _inside(name, left_out, progress)
    elif MAGIC.intersection(name) and not os.path.lexists(name):
        yield from _matching(name, left_out, progress)
    else:
        yield name


def _inside(folder: str, left_out: LeftOut, progress: Progress) -> Iterator[str]:
    found = list_images(Path(folder), left_out, progress=progress)
    if not found:
        inside = left_out.inside(folder) or "an empty folder"
        raise DataError(folder, expected="a folder with images", got=inside, do="name a folder with PNG or JPEG files")
    yield from map(str, found)


def _matching(pattern: str, left_out: LeftOut, progress: Progress) -> Iterator[str]:
    found = False
    for path in sorted(glob.glob(pattern, recursive=True)):
        suffix = os.path.splitext(path)[1].lower()
        if os.path.isdir(path):
            if "**" not in pattern:  # which lists what is in the folder too
                found = True
                yield from _inside(path, left_out, progress)
        elif suffix in IMAGE_SUFFIXES:
            found = True
            yield path
        else:
            left_out.add(path, Reason.UNSUPPORTED if suffix in PICTURE_SUFFIXES else Reason.OTHER)
    if not found:
        do = "check the pattern, or quote the name of a single file"
        raise DataError(pattern, expected="images that match this pattern", got="none", do=do)


def is_address(name: str) -> bool:
    """Whether this names an image on a web server."""
    return name.lower().startswith(("http://", "https://"))


def shown(name: str) -> str:
    """The name of an image as answers hold it: an address without its secrets."""
    return redact_address(name) if is_address(name) else name


def read_named(name: str, white: int | None) -> np.ndarray:
    """Read one image from its file, or download it into memory.

    Args:
        name: Path or address, as `find_images` gives it.
        white: See `pgn_edge.images.read_image`.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        DataError: It cannot be downloaded or read.
    """
    if not is_address(name):
        return read_image(name, white)
    from pgn_edge.runtime.download import download

    return decode_image(download(name), shown(name), white)
