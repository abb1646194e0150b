"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pgn_edge.errors import OutputError


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it is synced and renamed, on failure removed.

    The temporary name keeps the suffix of `path`, since some writers choose the format by it.

    Args:
        path: final name; its folder must exist.

    Yields:
        The temporary name, an empty file.

    Raises:
        OutputError: the folder does not exist, is not writable, or the disk is full.
    """
    final = Path(path)
    if not final.name or "\0" in final.name:
        raise OutputError(str(final), expected="the name of a file", got=repr(str(path)), do="choose another path")
    temporary = final.with_name(f".{final.stem}.{secrets.token_hex(4)}{final.suffix}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(final)
        _sync_folder(final.parent)
    except OSError as exc:
        raise OutputError(
            str(final),
            expected="a path that can be written",
            got=exc.strerror or str(exc),
            do="check that the folder exists, is writable and has free space",
        ) from exc
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be what is missing
            temporary.unlink()


def require_writable(path: str | Path) -> None:
    """Refuse at once what `atomic_write` would refuse after minutes of work.

    Raises:
        OutputError: a folder, or a name in a folder that does not exist or cannot be written.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(
            str(path),
            expected="a file in a folder that exists and can be written",
            got="a folder" if path.is_dir() else str(path.parent),
            do="create the folder or choose another path",
        )


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all.

    Raises:
        OutputError: as `atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` whole or not at all.

    Raises:
        OutputError: as `atomic_write`.
    """
    write_bytes(path, text.encode())


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only once the folder itself is on disk.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_folder(kind: str) -> Path:
    """Folder for what can be made again: `kind` inside `$PGN_EDGE_CACHE`, or inside `~/.cache/pgn-edge`."""
    named = os.environ.get("PGN_EDGE_CACHE")
    return (Path(named) if named else Path("~/.cache/pgn-edge").expanduser()) / kind
