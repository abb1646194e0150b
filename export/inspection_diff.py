"""Two inspections side by side: only what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pgn_edge.export.inspection import Inspection

NOT_COMPARED = frozenset({"path", "notes"})  # of the call and this machine, not of the file
LABELS = ("rung", "node")  # keys that name an entry of a list better than its place does


class Absent(Enum):
    """The value of a path that one of the files does not have; None is a value of JSON."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


@dataclass(frozen=True)
class Difference:
    """One value that differs.

    Args:
        path: of the value, for example `facts.geometry.prompts` or `parity[onnxruntime fp16].cosine`.
        a: value in the first file, or ABSENT.
        b: value in the second file, or ABSENT.
    """

    path: str
    a: Any
    b: Any

    def to_json(self) -> dict[str, Any]:
        """A JSON object without the side that is absent."""
        sides = {"a": self.a, "b": self.b}
        return {"path": self.path, **{side: value for side, value in sides.items() if value is not ABSENT}}


def diff(a: Inspection, b: Inspection) -> tuple[Difference, ...]:
    """Every value that is not the same in both files; of what only one file has, the whole of it as one."""
    first, second = ({key: value for key, value in one.to_json().items() if key not in NOT_COMPARED} for one in (a, b))
    return tuple(_compare(first, second, ""))


def _compare(a: Any, b: Any, path: str) -> Iterator[Difference]:
    if a == b:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            yield from _compare(a.get(key, ABSENT), b.get(key, ABSENT), f"{path}.{key}" if path else key)
    elif isinstance(a, list) and isinstance(b, list) and not _is_vector([*a, *b]):
        first, second = _labelled(a, b)
        for label in {**first, **second}:
            yield from _compare(first.get(label, ABSENT), second.get(label, ABSENT), f"{path}[{label}]")
    else:
        yield Difference(path, a, b)


def _is_vector(values: list[Any]) -> bool:
    # A shape or a mean says nothing number by number.
    return any(isinstance(value, (int, float)) for value in values)


def _labelled(a: list[Any], b: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Entries by name where each has one of its own, so that one more is one difference; else by place."""
    for key in LABELS:
        first, second = (
            {str(entry[key]): entry for entry in side if isinstance(entry, Mapping) and key in entry} for side in (a, b)
        )
        if (len(first), len(second)) == (len(a), len(b)):
            return first, second
    by_place = [{str(place): entry for place, entry in enumerate(side)} for side in (a, b)]
    return by_place[0], by_place[1]
