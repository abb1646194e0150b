"""Files of tensors from strangers: no code is run, and no tensor claims more bytes than the file holds."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgn_edge.errors import CheckpointError
from pgn_edge.files import write_bytes

# Names may share one tensor (tied weights). A file with more names than that for each byte is no set of weights.
MOST_SHARES = 4


def save_tensors(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write tensors and plain values with `torch.save`, whole or not at all.

    Raises:
        OutputError: the path cannot be written.
    """
    out = io.BytesIO()
    torch.save(dict(data), out)
    write_bytes(path, out.getvalue())


def load_tensors(path: str | Path) -> Any:
    """Read a torch file without running code from it, and check every tensor before anyone computes with it.

    Args:
        path: Path of the file.

    Returns:
        What was saved: plain values, and dense tensors on the CPU.

    Raises:
        CheckpointError: no such file, a damaged one, one with pickled code or with compressed parts, or a tensor that
            is not dense or claims more bytes than the file holds for it.
    """
    source = str(path)
    try:
        _require_stored(source, Path(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Foreign files cause them, and those files are refused in our own words.
            data = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as exc:
        raise CheckpointError(source, expected="a checkpoint", got="no such file", do="check the path") from exc
    except pickle.UnpicklingError as exc:
        raise refuse(source, "tensors and plain values only", "pickled code, or no checkpoint at all") from exc
    except Exception as exc:
        # A damaged byte can lead torch's reader anywhere, down to its own assertions.
        raise refuse(source, "a whole torch file", f"{type(exc).__name__}: {exc}".split("\n")[0]) from exc
    _require_honest(source, data)
    return data


def refuse(source: str, expected: str, got: str) -> CheckpointError:
    """Error about a file that claims to be a checkpoint."""
    return CheckpointError(
        source,
        expected=expected,
        got=got,
        do="copy the file again, or make it with: pgn-edge train -o ckpt.pt",
    )


def key_name(key: Any) -> str:
    """Key of a container from a file, for messages; Python refuses to print a number of 5,000 digits."""
    if isinstance(key, int):
        return str(key) if abs(key) < 1 << 64 else "a huge number"
    return key[:80] if isinstance(key, str) else type(key).__name__


def _require_stored(source: str, path: Path) -> None:
    """Refuse a zip whose parts are larger than the file: torch would inflate them, and never writes such files."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    size_bytes = path.stat().st_size
    if claimed > size_bytes:
        raise refuse(source, f"parts of at most {size_bytes} bytes, the size of the file", f"{claimed} bytes")


def _require_honest(source: str, data: Any) -> None:
    """Refuse tensors that are not dense, or that grow when they are copied."""
    held: dict[int, int] = {}
    claimed = 0
    for where, tensor in _tensors(data):
        kind = _odd_kind(tensor)
        if kind:
            raise refuse(source, "dense tensors", f"a {kind} tensor under {where}")
        storage = tensor.untyped_storage()
        size_bytes = tensor.numel() * tensor.element_size()
        if size_bytes > storage.nbytes():
            claim = f"one of {size_bytes} bytes under {where}, {tuple(tensor.shape)}"
            raise refuse(source, f"a tensor of at most the {storage.nbytes()} bytes that are stored for it", claim)
        claimed += size_bytes
        held[storage.data_ptr()] = storage.nbytes()
    most = MOST_SHARES * sum(held.values())
    if claimed > most:
        raise refuse(source, f"tensors of at most {most} bytes in all, for what is stored", f"{claimed} bytes")


def _odd_kind(tensor: Tensor) -> str:
    """Kind of a tensor that is not a dense one on the CPU; empty for a dense one."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantized"
    return "" if tensor.device.type == "cpu" else tensor.device.type


def _tensors(data: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors inside plain containers, each with the keys that lead to it; containers may hold themselves."""
    seen: set[int] = set()
    left: list[tuple[str, Any]] = [("the top", data)]
    while left:
        where, value = left.pop()
        if isinstance(value, Tensor):
            yield where, value
            continue
        if not isinstance(value, dict | list | tuple | set) or id(value) in seen:
            continue
        seen.add(id(value))
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        left.extend((key_name(key), each) for key, each in pairs)
