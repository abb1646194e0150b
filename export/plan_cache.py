"""Plans that were built before on this machine, so that the same build is not done twice.

An entry is a folder named by its key, with a plan and its sidecar. It is made under another name and renamed, and it is
renamed before it is removed: whoever looks sees a whole entry or none, however many processes write at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgn_edge.errors import OutputError, PgnEdgeError
from pgn_edge.files import atomic_folder, atomic_write
from pgn_edge.sidecar import Sidecar, read_sidecar, write_sidecar

CAP_BYTES = 4 << 30
PLAN = "engine.plan"


def cache_key(facts: Mapping[str, Any]) -> str:
    """sha256 over everything that a plan depends on, as 64 hexadecimal digits.

    Args:
        facts: values that JSON knows.
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PlanCache:
    """A folder of plans. Any number of processes may use it at a time.

    Args:
        folder: made at need.
        cap_bytes: size of all entries above which the oldest go.
    """

    folder: Path
    cap_bytes: int = CAP_BYTES

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            OutputError: it cannot be made or written.
        """
        reason = "a folder that cannot be written"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            reason = exc.strerror or str(exc)
        if not (self.folder.is_dir() and os.access(self.folder, os.W_OK)):
            raise OutputError(
                str(self.folder),
                expected="a folder for the plan cache",
                got=reason,
                do="choose another with --cache, or compile with --no-cache",
            )

    def fetch(self, key: str, to: Path) -> Sidecar | None:
        """Copy a plan out, after its sha256 was verified; an entry that is damaged is removed.

        Args:
            key: from `cache_key`.
            to: file to write.

        Returns:
            The sidecar of the plan; None where there is no good one.
        """
        entry = self.folder / key
        if not entry.is_dir():
            return None
        try:
            shutil.copyfile(entry / PLAN, to)
            # The copy is what is verified: another process may replace the entry at any time.
            return read_sidecar(entry / PLAN, to.read_bytes())
        except (FileNotFoundError, PgnEdgeError):  # damaged, or on its way out
            self._remove(entry)
            return None

    def store(self, key: str, plan: Path, sidecar: Sidecar) -> bool:
        """Keep a plan, and let the oldest entries go if the cap is passed.

        Args:
            key: from `cache_key`.
            plan: file to copy.
            sidecar: of it.

        Returns:
            Whether it is there now; a full disk, for one, must not cost the plan that was just built.
        """
        with contextlib.suppress(OSError, OutputError), atomic_folder(self.folder / key) as draft:
            with atomic_write(draft / PLAN) as temporary:
                shutil.copyfile(plan, temporary)
            write_sidecar(draft / PLAN, sidecar)
        self._evict()
        return (self.folder / key).is_dir()

    def _evict(self) -> None:
        try:
            entries = sorted((entry for entry in self.folder.iterdir() if entry.is_dir()), key=_age)
        except OSError:  # the folder itself has gone
            return
        sizes = [_size(entry) for entry in entries]
        excess = sum(sizes) - self.cap_bytes
        for entry, size in zip(entries, sizes, strict=True):
            if excess <= 0:
                return
            self._remove(entry)
            excess -= size

    def _remove(self, entry: Path) -> None:
        gone = self.folder / f".{entry.name.lstrip('.')[:64]}.{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):  # another process was faster
            entry.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _age(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def _size(entry: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for path in entry.iterdir():
            total += path.stat().st_size
    return total
