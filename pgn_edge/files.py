"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
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
        raise _unwritable(final, exc) from exc
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be what is missing
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it takes its place, on failure it is removed.

    What stood there before is moved aside and then removed, so that whoever looks sees a whole folder or, for a moment,
    none. Files inside are synced by whoever writes them, with `atomic_write`.

    Args:
        path: final name; folders above it are made at need, and go again on failure.

    Yields:
        The temporary name, an empty folder.

    Raises:
        OutputError: a file stands there, a folder above is not writable, or the disk is full.
    """
    final = Path(path)
    made, old = (final.with_name(f".{final.name}.{secrets.token_hex(4)}") for _ in range(2))
    parents = [parent for parent in final.parents if not parent.exists()]
    try:
        made.mkdir(parents=True)
        yield made
        _sync_folder(made)
        if final.is_dir():
            final.rename(old)
        made.rename(final)
        _sync_folder(final.parent)
        parents = []
    except OSError as exc:
        raise _unwritable(final, exc) from exc
    finally:
        if old.exists() and not final.exists():
            with contextlib.suppress(OSError):  # another process has put one there meanwhile
                old.rename(final)  # also when somebody interrupts between the two names
        for leftover in (made, old):
            shutil.rmtree(leftover, ignore_errors=True)
        for parent in parents:
            with contextlib.suppress(OSError):
                parent.rmdir()


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


def _unwritable(path: Path, reason: OSError) -> OutputError:
    return OutputError(
        str(path),
        expected="a path that can be written",
        got=reason.strerror or str(reason),
        do="check that the folder exists, is writable and has free space",
    )


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
