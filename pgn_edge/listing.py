"""Image files of a folder: which ones count, and an account of all others."""

from __future__ import annotations

import os
from pathlib import Path

from pgn_edge.errors import DataError
from pgn_edge.images import IMAGE_SUFFIXES
from pgn_edge.left_out import LeftOut, Reason
from pgn_edge.progress import Progress, silent

TOLD = 1000  # images between two reports of progress

# Pictures that other programs show and this one does not read: each of them is missed by somebody.
PICTURE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("heic", "heif", "avif", "gif", "jp2", "j2k", "jpx", "jpe", "jxl", "jxr", "tga", "psd", "exr", "hdr", "pfm"),
        *("pnm", "pbm", "ico", "svg", "dib", "raw", "dng", "cr2", "cr3", "nef", "nrw", "arw", "orf", "rw2", "raf"),
        *("srw", "pef", "x3f", "dcm", "npy", "mp4", "mov", "avi", "mkv"),
    )
)
# Folders that systems make beside photographs, some with thumbnails in them.
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to the system and not to the user's images."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def list_images(folder: Path, left_out: LeftOut, *, deep: bool = True, progress: Progress = silent) -> list[Path]:
    """List the images of a folder without opening them.

    Hidden names do not count, at any depth. Links to files are followed; links to folders are not, so that no link can
    lead in a circle.

    Args:
        folder: Folder to look into.
        left_out: Account that everything else is added to.
        deep: Whether folders below count too.
        progress: Listener that is told of every thousandth image.

    Returns:
        Paths below `folder`, sorted by the names on their way.

    Raises:
        DataError: the folder itself cannot be opened, or a picture is lost and the account is strict.
    """
    found: list[str] = []
    waiting = [os.fspath(folder)]
    while waiting:
        place = waiting.pop()
        try:
            entries = _entries(place)
        except OSError as exc:
            error = closed(place, exc)
            if place == os.fspath(folder):
                raise error from exc
            left_out.add(place, Reason.CLOSED, error)
            continue
        for entry in entries:
            kind = _kind(entry)
            if kind is None:
                found.append(entry.path)
                if len(found) % TOLD == 0:
                    progress("listing images", len(found), len(found))
            elif kind is Reason.SUBFOLDER and deep:
                waiting.append(entry.path)
            else:
                left_out.add(entry.path, kind)
    return [Path(each) for each in sorted(found, key=lambda path: path.split(os.sep))]


def list_folders(folder: Path, left_out: LeftOut) -> tuple[str, ...]:
    """Names of the folders right inside a folder, sorted; links to folders elsewhere count.

    A link to a folder beside it or above it is left out: its images would count twice.

    Args:
        folder: Folder to look into.
        left_out: Account of hidden folders and of links that lead nowhere, upwards or to a neighbour.

    Raises:
        DataError: the folder cannot be opened.
    """
    try:
        entries = _entries(os.fspath(folder))
    except OSError as exc:
        raise closed(os.fspath(folder), exc) from exc
    kinds = {entry.name: _kind(entry) for entry in entries}
    names = [name for name, kind in kinds.items() if kind is Reason.SUBFOLDER]
    own = os.path.realpath(folder)
    seen = {os.path.join(own, name) for name in names}
    for entry in sorted(entries, key=lambda entry: entry.name):
        kind, target = kinds[entry.name], os.path.realpath(entry.path)
        if kind is Reason.LINKED_FOLDER and target not in seen and os.path.commonpath([own, target]) != target:
            names.append(entry.name)
            seen.add(target)
        elif kind in (Reason.LINKED_FOLDER, Reason.DANGLING, Reason.HIDDEN):
            left_out.add(entry.path, kind)
    return tuple(sorted(names))


def closed(folder: str, reason: OSError) -> DataError:
    """The error of a folder that cannot be opened."""
    return DataError(
        folder,
        expected="a folder that can be opened",
        got=reason.strerror or str(reason),
        do="check that it exists and that you may read it",
    )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    # Not Path.iterdir and is_file: these ask the system for each of ImageNet's million images.
    with os.scandir(folder) as entries:
        return list(entries)


def _kind(entry: os.DirEntry[str]) -> Reason | None:
    """None for an image; SUBFOLDER for a folder of its own; else why the entry is left out."""
    if is_hidden(entry.name):
        return Reason.HIDDEN
    if entry.is_symlink():
        if not os.path.exists(entry.path):
            return Reason.DANGLING
        if os.path.isdir(entry.path):
            return Reason.LINKED_FOLDER
    if entry.is_dir():
        return Reason.SUBFOLDER
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in IMAGE_SUFFIXES and entry.is_file():
        return None
    return Reason.UNSUPPORTED if suffix in PICTURE_SUFFIXES else Reason.OTHER
