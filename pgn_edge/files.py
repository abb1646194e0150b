"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from pgn_edge.errors import OutputError

MARK = "pgn-edge-"  # in the temporary names of ours
SHOWN = 40  # characters of the final name in a temporary one, which may not be longer than a file system takes
ASIDE = ".old"  # ends the name of a folder that is being replaced


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it is synced and renamed, on failure removed.

    The temporary name keeps the suffix of `path`, since some writers choose the format by it. A file that is replaced
    hands on its mode and owner. A symbolic link stays, and the file behind it is replaced. What a writer of the same
    file left when it was killed is removed.

    Args:
        path: Final name; its folder must exist.

    Yields:
        The temporary name, an empty file.

    Raises:
        OutputError: the folder does not exist or is not writable, the disk is full, or the name belongs to a device.
    """
    final = _target(path)
    temporary, handle = final, -1
    try:
        before = _regular(final)
        remove_leftovers(final)
        temporary, handle = _claim(final, lambda name: os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        if before is not None:
            os.fchmod(handle, stat.S_IMODE(before.st_mode) & 0o600)  # nobody else reads a private file on its way
        yield temporary
        with open(temporary, "rb+") as file:
            if before is not None:
                _inherit(file.fileno(), before)
            os.fsync(file.fileno())
        temporary.replace(final)
        temporary = final
        _sync_folder(final.parent)
    except OSError as exc:
        raise _unwritable(final, exc) from exc
    finally:
        if temporary != final:
            with contextlib.suppress(OSError):  # the folder itself may be what is missing
                temporary.unlink()
        if handle >= 0:
            os.close(handle)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it takes its place, on failure it is removed.

    The folder that was there before is moved aside and then removed, so readers see a whole folder or, for a moment,
    none. After a kill in that moment the next call puts the old one back first. Files inside are synced by their
    writers, with `atomic_write`.

    Args:
        path: Final name; folders above it are made if needed, and are removed again on failure.

    Yields:
        The temporary name, an empty folder.

    Raises:
        OutputError: a file has that name, a folder above is not writable, or the disk is full.
    """
    final = _target(path)
    made, old, handle = final, final, -1
    parents = [parent for parent in final.parents if not parent.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        made, handle = _claim(final, _make_folder)
        old = made.with_name(f"{made.name}{ASIDE}")
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
        if old != final and old.exists() and not final.exists():
            with contextlib.suppress(OSError):  # another process has put one there meanwhile
                old.rename(final)  # also after an interruption between the two names
        for leftover in {made, old} - {final}:
            shutil.rmtree(leftover, ignore_errors=True)
        for parent in parents:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if handle >= 0:
            os.close(handle)


def _target(path: str | Path) -> Path:
    """The file that a name stands for, behind symbolic links."""
    named = Path(path)
    if not named.name or "\0" in named.name:
        raise OutputError(str(named), expected="the name of a file", got=repr(str(path)), do="choose another path")
    return Path(os.path.realpath(named)) if os.path.islink(named) else named


def _regular(final: Path) -> os.stat_result | None:
    """Mode and owner of the file that will be replaced; None if there is none."""
    try:
        found = final.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):  # a folder is refused by the rename
        return found if stat.S_ISREG(found.st_mode) else None
    got = "a symbolic link to itself" if stat.S_ISLNK(found.st_mode) else "a device, a pipe or a socket"
    raise OutputError(str(final), expected="a regular file or a new name", got=got, do="choose another path")


def _inherit(handle: int, before: os.stat_result) -> None:
    now = os.fstat(handle)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        # The owner may differ where only root gives files away. The group alone can still be kept.
        for owner in (before.st_uid, -1):
            with contextlib.suppress(PermissionError):
                os.fchown(handle, owner, before.st_gid)
                break
    os.fchmod(handle, stat.S_IMODE(before.st_mode))


def _claim(final: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new temporary file or folder, and a handle whose lock shows that its writer lives."""
    while True:
        name = final.with_name(f".{final.stem[:SHOWN]}.{MARK}{secrets.token_hex(4)}{final.suffix}")
        handle = make(name)
        if _lock(handle) is not False and _is_at(name, handle):
            return name, handle
        os.close(handle)  # A writer that removes leftovers was faster than the lock.


def _make_folder(name: Path) -> int:
    name.mkdir()
    return os.open(name, os.O_RDONLY)


def _lock(handle: int) -> bool | None:
    """Whether the lock was free and is held now; None on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(name: Path, handle: int) -> bool:
    try:
        return os.path.samestat(name.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def remove_leftovers(final: Path, more: str = "") -> None:
    """Remove temporary names of a file whose writers were killed; a living writer holds a lock on its own.

    Args:
        final: Path of the file.
        more: Regular expression for what the names of its kind have after the stem of `final`; empty for its own name.
    """
    stem = re.escape(final.stem[:SHOWN]) + more
    ours = re.compile(rf"\.{stem}\.{MARK}[0-9a-f]{{8}}{re.escape(final.suffix)}({ASIDE})?")
    with os.scandir(final.parent) as entries:
        names = [Path(entry.path) for entry in entries if ours.fullmatch(entry.name)]
    for name in names:
        with contextlib.suppress(OSError):  # another writer removes it at the same time
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if _lock(handle) and not _put_back(name, final):
                    shutil.rmtree(name) if name.is_dir() else name.unlink()
            finally:
                os.close(handle)


def _put_back(name: Path, final: Path) -> bool:
    """Whether this is the old folder of a writer that was killed between two renames, and has its name again."""
    if not name.name.endswith(ASIDE) or final.exists():
        return False
    name.rename(final)
    return True


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
