"""The account of what was left out: files that were not read, counted by reason, and said in one line."""

from __future__ import annotations

import threading
from enum import Enum
from typing import Any

from pgn_edge.errors import DataError


class Reason(Enum):
    """Why a file or a folder was left out; the value is its key in JSON.

    The reasons of `BENIGN` lose no picture, so that a strict account passes over them.
    """

    UNREADABLE = "unreadable_image"
    UNSUPPORTED = "unsupported_format"
    EMPTY_CLASS = "class_without_readable_image"
    CLOSED = "unreadable_folder"
    LINKED_FOLDER = "linked_folder"
    DANGLING = "dangling_link"
    SUBFOLDER = "subfolder"
    HIDDEN = "hidden"
    OTHER = "other_file"


BENIGN = frozenset({Reason.SUBFOLDER, Reason.HIDDEN, Reason.OTHER})

# One of it, and several.
WORDS = {
    Reason.UNREADABLE: ("image that cannot be read", "images that cannot be read"),
    Reason.UNSUPPORTED: ("picture in an unsupported format", "pictures in unsupported formats"),
    Reason.EMPTY_CLASS: ("class without a readable image", "classes without a readable image"),
    Reason.CLOSED: ("folder that cannot be opened", "folders that cannot be opened"),
    Reason.LINKED_FOLDER: ("linked folder", "linked folders"),
    Reason.DANGLING: ("link to nothing", "links to nothing"),
    Reason.SUBFOLDER: ("folder that was not looked into", "folders that were not looked into"),
    Reason.HIDDEN: ("hidden or system file", "hidden or system files"),
    Reason.OTHER: ("file of another kind", "files of another kind"),
}
REMEDIES = {
    Reason.UNSUPPORTED: "convert it to PNG or JPEG",
    Reason.CLOSED: "give yourself the right to read it",
    Reason.LINKED_FOLDER: "copy the folder, or name it as a source of its own",
    Reason.DANGLING: "remove the link, or bring its target back",
    Reason.EMPTY_CLASS: "repair its images, or leave the class out",
}


class LeftOut:
    """What was left out, each name counted once; any number of threads may add to it.

    Args:
        strict: whether a lost picture raises at once. Hidden files and files of other kinds never do.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self._names: dict[Reason, dict[str, DataError | None]] = {reason: {} for reason in Reason}
        self._lock = threading.Lock()

    def add(self, name: str, reason: Reason, error: DataError | None = None) -> None:
        """Count one file, folder or class.

        Args:
            name: Name of the file, folder or class, for messages.
            reason: Reason why it was left out.
            error: Error that says more; None where the reason says it all.

        Raises:
            DataError: the account is strict and a picture is lost; `error` itself where there is one.
        """
        if self.strict and reason not in BENIGN:
            raise error or DataError(
                name,
                expected="an image or a folder of images, as --strict demands",
                got=f"a {WORDS[reason][0]}",
                do=REMEDIES.get(reason, "repair it, or remove it"),
            )
        with self._lock:
            self._names[reason].setdefault(name, error)

    def count(self, reason: Reason = Reason.UNREADABLE) -> int:
        """Number of names that were left out for one reason."""
        return len(self._names[reason])

    def error(self, name: str) -> str:
        """What is wrong with one image that cannot be read; empty where it was not left out."""
        error = self._names[Reason.UNREADABLE].get(name)
        return error.got if error is not None else ""

    def __len__(self) -> int:
        return sum(len(names) for names in self._names.values())

    def __bool__(self) -> bool:
        return True  # an empty account is still the one to write to

    def first(self, reason: Reason = Reason.UNREADABLE) -> str:
        """The first name in the order of names, and what is wrong with it; empty where there is none."""
        with self._lock:
            names = self._names[reason]
            name = min(names) if names else ""
            error = names.get(name)
            return name if error is None else f"{name}: {error.got}"

    def inside(self, folder: str) -> str:
        """What was left out below one folder, counted by reason, for messages; empty where nothing was."""
        with self._lock:
            counts = {reason: sum(name.startswith(folder) for name in self._names[reason]) for reason in Reason}
        return " and ".join(f"{count} {WORDS[reason][count > 1]}" for reason, count in counts.items() if count)

    def summary(self) -> str:
        """One line that counts everything by reason; empty where nothing was left out.

        >>> account = LeftOut()
        >>> account.add("cats/1.heic", Reason.UNSUPPORTED)
        >>> account.add("cats/2.heic", Reason.UNSUPPORTED)
        >>> account.summary()
        'left out: 2 pictures in unsupported formats (cats/1.heic, …)'
        """
        parts = []
        for reason in Reason:
            count = self.count(reason)
            if count:
                more = ", …" if count > 1 else ""
                parts.append(f"{count} {WORDS[reason][count > 1]} ({self.first(reason)}{more})")
        line = "; ".join(parts)
        return "left out: " + "".join(c if c.isprintable() else " " for c in line) if parts else ""

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Count and first name by the key of the reason, without the reasons that did not occur."""
        found = [reason for reason in Reason if self.count(reason)]
        return {reason.value: {"count": self.count(reason), "first": self.first(reason)} for reason in found}
