"""Kind of a file by its content, so that one in the wrong place is named, with the commands that take it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgn_edge.errors import PgnEdgeError

Kind = Literal[
    "bundle",
    "checkpoint",
    "resume",
    "torchscript",
    "weights",
    "vit",
    "pgn",
    "onnx",
    "plan",
    "sidecar",
    "image",
    "video",
    "folder",
]
HEAD_BYTES = 4096
TAIL_BYTES = 1 << 18  # An ONNX writer puts the metadata behind the graph.
INDEX_BYTES = 1 << 20  # Plain values come first in the index of a torch file.
CHECKPOINT_MARK, RESUME_MARK = b"pgn-edge checkpoint", b"pgn-edge training state"
SIDECAR_MARK = b"pgn-edge plan"
ROLES: dict[bytes, Kind] = {b'pgn_edge.role\x12\x05"vit"': "vit", b'pgn_edge.role\x12\x05"pgn"': "pgn"}
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
MATROSKA = b"\x1aE\xdf\xa3"


@dataclass(frozen=True)
class About:
    """Words about a kind.

    Args:
        name: Name with its article.
        use: What to do with such a file.
    """

    name: str
    use: str


ABOUT: dict[Kind, About] = {
    "bundle": About("a task bundle", "give it to predict, run or bench as --task, or to pgn-edge compile"),
    "checkpoint": About("a training checkpoint", "make a bundle of it first: pgn-edge export FILE -o task.pgn"),
    "resume": About("the state of a training run", "name the checkpoint beside it, or go on: pgn-edge train --resume"),
    "torchscript": About("a TorchScript archive", "give it as --weights, with the backbone that it belongs to"),
    "weights": About("a file of weights", "give it as --weights, or to pgn-edge import if it is a published PGN"),
    "vit": About("a ViT engine", "give it to predict or run as --vit, to bench as --engine, or to pgn-edge compile"),
    "pgn": About("a PGN engine without its task", "name the bundle that it came from"),
    "onnx": About("an ONNX model that pgn-edge did not export", "give it to bench or probe as --engine"),
    "plan": About("a compiled plan", "give it to predict or run as --vit, or to bench as --engine"),
    "sidecar": About("the sidecar of a plan", "name the plan beside it"),
    "image": About("an image", "give it to pgn-edge predict"),
    "video": About("a video", "give it to pgn-edge run as --source"),
    "folder": About("a folder", "name a file in it"),
}


def find_kind(path: str | Path) -> Kind | None:
    """Kind of a file, from its content; nothing in it is run or unpickled.

    Args:
        path: Path of any file.

    Returns:
        The kind; None for a file that cannot be read or is none of these.
    """
    path = Path(path)
    if path.is_dir():
        return "folder"
    try:
        with open(path, "rb") as file:
            start = file.read(HEAD_BYTES)
            if start.startswith(b"PK\x03\x04"):
                return _in_zip(path)
            if start.startswith(b"\x08") or (start and path.suffix == ".onnx"):
                file.seek(max(0, path.stat().st_size - TAIL_BYTES))
                return _onnx_kind(file.read())
    except (OSError, ValueError):
        return None
    return _by_start(path, start)


def require_kind(path: str | Path, *wanted: Kind, error: type[PgnEdgeError], expected: str = "") -> None:
    """Refuse a file of another kind than a command takes; files of no known kind are left to their reader.

    Args:
        path: Path of the file.
        wanted: Kinds that are taken here.
        error: Class of the error.
        expected: Name of the file that is wanted; empty for the names of the kinds.

    Raises:
        PgnEdgeError: of the given class, with the kind of the file and what to do with it.
    """
    kind = find_kind(path)
    if kind is None or kind in wanted:
        return
    raise error(
        str(path),
        expected=expected or " or ".join(ABOUT[each].name for each in wanted),
        got=ABOUT[kind].name,
        do=ABOUT[kind].use.replace("FILE", str(path)),
    )


def _in_zip(path: Path) -> Kind | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "pgn.onnx" in names or "manifest.json" in names:
                return "bundle"
            index = next((name for name in names if name.endswith("/data.pkl")), None)
            if index is None:
                return None
            with archive.open(index) as file:
                values = file.read(INDEX_BYTES)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        return None
    if CHECKPOINT_MARK in values:
        return "checkpoint"
    if RESUME_MARK in values:
        return "resume"
    folder = index.removesuffix("data.pkl")
    return "torchscript" if any(name.startswith(f"{folder}code/") for name in names) else "weights"


def _onnx_kind(tail: bytes) -> Kind:
    return next((kind for mark, kind in ROLES.items() if mark in tail), "onnx")


def _by_start(path: Path, start: bytes) -> Kind | None:
    if path.suffix == ".plan":
        return "plan"
    if start.lstrip()[:1] == b"{" and SIDECAR_MARK in start:
        return "sidecar"
    if start[8:9] == b"{" and path.suffix == ".safetensors":
        return "weights"
    if start.startswith(PICTURES) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP"):
        return "image"
    moving = start[4:8] == b"ftyp" or start.startswith(MATROSKA) or start[8:12] == b"AVI "
    return "video" if moving else None
