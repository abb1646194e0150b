"""Linear heads from files that nobody vouches for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pgn_edge.errors import DataError, PgnEdgeError
from pgn_edge.heads import Head
from pgn_edge.nn.tensor_file import load_tensors
from pgn_edge.npz import user_npz_arrays


def read_head(path: Path, labels: tuple[str, ...]) -> Head:
    """A linear head from a file.

    Args:
        path: .npz, .safetensors, or .pt without pickled code, with `weight` (C, D) and perhaps `bias` (C,).
        labels: C class names.

    Raises:
        DataError: no such file, another suffix, other arrays, another number of classes, or values that are not finite.
    """
    readers: dict[str, Callable[[Path], Any]] = {
        ".npz": lambda file: user_npz_arrays(file.read_bytes(), str(file)),
        ".safetensors": _read_safetensors,
        ".pt": load_tensors,
        ".pth": load_tensors,
    }
    expected = f"weight ({len(labels)}, D) and at most bias ({len(labels)},), floating point, in {', '.join(readers)}"
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise _bad(path, expected, f"suffix {suffix!r}")
    try:
        arrays = {str(name): torch.as_tensor(value).detach() for name, value in readers[suffix](path).items()}
    except PgnEdgeError as exc:
        raise _bad(path, expected, exc.got) from exc
    except (OSError, AttributeError, TypeError, ValueError, RuntimeError, OverflowError) as exc:
        raise _bad(path, expected, str(exc).split("\n")[0]) from exc
    weight, bias = arrays.get("weight"), arrays.get("bias", torch.zeros(len(labels)))
    known = arrays.keys() <= {"weight", "bias"} and all(array.is_floating_point() for array in arrays.values())
    if weight is None or not known or weight.ndim != 2 or {len(weight), *bias.shape} != {len(labels)} or bias.ndim != 1:
        raise _bad(path, expected, ", ".join(f"{name} {tuple(a.shape)}" for name, a in arrays.items()) or "nothing")
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise _bad(path, "finite values", "NaN or Inf")
    return Head.linear(weight.float().numpy(), bias.float().numpy(), labels)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except SafetensorError as exc:
        raise _bad(path, "a whole safetensors file", str(exc)) from exc
    return tensors


def _bad(path: Path, expected: str, got: str) -> DataError:
    return DataError(str(path), expected=expected, got=got, do="check --head and --labels")
