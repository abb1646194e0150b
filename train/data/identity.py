"""What makes two data sets the same: classes, and the names, labels and sizes of the files of each split."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.data.samples import Arrays, Files, Joined, Samples, Subset

ABSENT = -1  # size of a file that is not there


def identity(data: DataSet, *, test: bool = False) -> dict[str, Any]:
    """Describe the data that a run learns from, so that it can tell whether they changed.

    Names are relative to the folder that all of a split share: a data set may move as a whole.

    Args:
        data: Data set of the run.
        test: Whether the test split belongs to it.

    Returns:
        A JSON object: class names, the number of images of each split, and digests.
    """
    splits = {"training": data.train, "validation": data.validation, **({"test": data.test} if test else {})}
    return {"classes": list(data.labels), **{name: _split(samples) for name, samples in splits.items()}}


def difference(before: Any, now: Mapping[str, Any]) -> tuple[str, str] | None:
    """Say how data differ from those that a run began with.

    Args:
        before: What `identity` gave then; anything, since it comes from a file.
        now: What it gives now.

    Returns:
        What it was and what it is, in words; None where nothing differs.
    """
    if before == now:
        return None
    if not isinstance(before, dict) or _types(before) != _types(now):
        return "data that it describes", "a state without a description of its data"
    if before["classes"] != now["classes"]:
        return _classes(before["classes"], now["classes"])
    for part in [name for name in now if name != "classes"]:
        for key in now[part]:
            if before[part].get(key) != now[part][key]:
                if key == "images":
                    return f"{before[part][key]} {part} images", str(now[part][key])
                return f"the {part} images that it began with", f"other {key}"
    return None


def _types(contents: Mapping[str, Any]) -> dict[str, type]:
    return {key: type(each) for key, each in contents.items()}


def _classes(before: list[str], now: list[str]) -> tuple[str, str]:
    if len(before) != len(now):
        return f"{len(before)} classes", str(len(now))
    place = next(index for index, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
    return f"class {before[place]!r} in place {place + 1}", repr(now[place])


def _split(samples: Samples) -> dict[str, Any]:
    names = [samples.name(index) for index in range(len(samples))]
    shared = os.path.commonprefix(names).rpartition(os.sep)[0]  # noqa: RUF071 - cut at a folder right away
    sizes = (_size(samples, index) for index in range(len(samples)))
    return {
        "images": len(names),
        "file names": _digest(name[len(shared) :] for name in names),
        "labels": _digest(str(label) for label in samples.labels.tolist()),
        "file sizes": _digest(str(size) for size in sizes),
    }


def _size(samples: Samples, index: int) -> int:
    """Bytes of a file, or a checksum of an image in memory; 0 of anything else."""
    if isinstance(samples, Subset):
        return _size(samples.source, int(samples.indices[index]))
    if isinstance(samples, Joined):
        return _size(*samples.find(index))
    if isinstance(samples, Arrays):
        return zlib.crc32(samples.images[index].tobytes())
    if isinstance(samples, Files):
        try:
            return os.stat(samples.paths[index]).st_size
        except OSError:
            return ABSENT
    return 0


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
