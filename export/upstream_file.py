"""What a checkpoint of the paper's authors holds, under our names.

Source: jochemloedeman/PGN, pgn/pgn_models/tlpgn.py and resnet.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgn_edge.errors import CheckpointError
from pgn_edge.file_kind import require_kind
from pgn_edge.nn.pgn import PGN, PgnConfig
from pgn_edge.nn.tensor_file import key_name, load_tensors

RESOLUTION = 224

# Parts of our names, and what upstream calls them.
RENAMED = (
    ("library", "tl_vectors"),
    ("generator.stem.", "model.input_net."),
    ("generator.blocks.", "model.blocks."),
    ("generator.head.", "model.output_net.2."),
    (".shortcut.", ".downsample."),
)


def read_upstream(source: Path) -> tuple[PgnConfig, dict[str, Tensor]]:
    """Shape and weights of an upstream file.

    Args:
        source: a bare state_dict of a PGN with the resnet10 generator.

    Returns:
        The shape, at upstream's resolution of 224 pixels, and float32 weights for `PGN.load_state_dict`.

    Raises:
        CheckpointError: not such a file, or a weight that is missing, too many, of another shape or not finite.
    """
    require_kind(source, "weights", error=CheckpointError)
    state = load_tensors(source)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _refuse(source, "a bare state_dict", _kind(state))
    config = _shape(source, state)
    with torch.device("meta"):
        ours = PGN(config).state_dict()
    names = {_upstream_name(name): name for name in ours}
    odd = [name for name in (*names, *state) if name not in state or name not in names]
    if odd:
        difference = f"no {odd[0]}" if odd[0] in names else f"also {odd[0]}"
        raise _refuse(source, f"the {len(names)} tensors of a resnet10 generator", difference)
    for theirs, name in names.items():
        tensor, need = state[theirs], ours[name]
        if tensor.shape != need.shape or tensor.is_floating_point() != need.is_floating_point():
            raise _refuse(source, f"{theirs} {_form(need)}", _form(tensor))
        if not torch.isfinite(tensor).all():
            raise _refuse(source, "finite weights", f"NaN or Inf in {theirs}")
    # Copies: a view into a larger storage would drag all of it into our file.
    return config, {name: state[theirs].detach().to(ours[name].dtype, copy=True) for theirs, name in names.items()}


def _upstream_name(name: str) -> str:
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return name


def _shape(source: Path, state: Mapping[str, Tensor]) -> PgnConfig:
    """K, N and d from the token library and the last layer."""
    library, last = state.get("tl_vectors"), state.get("model.output_net.2.weight")
    if library is None or last is None:
        raise _refuse(source, "tl_vectors and a resnet10 generator", _kind(state))
    if library.ndim != 2 or last.ndim != 2 or 0 in library.shape or not len(last) or len(last) % len(library):
        expected = "tl_vectors (N, d) and a model.output_net.2.weight of K x N rows"
        raise _refuse(source, expected, f"{_form(library)} and {_form(last)}")
    count, width = library.shape
    return PgnConfig("resnet10", len(last) // count, count, width, RESOLUTION)


def _kind(data: Any) -> str:
    """What a file is that is no upstream resnet10, as far as its keys tell."""
    if not isinstance(data, dict):
        return type(data).__name__
    generator = [value for key, value in data.items() if str(key).startswith("model.") and isinstance(value, Tensor)]
    kinds = {
        "a checkpoint of pgn-edge, which needs no import": "fingerprint" in data,
        "a training checkpoint with more than the PGN in it": "state_dict" in data,
        "input-independent prompts": "pgn_vectors" in data,
        "a resnet18 generator": "model.conv1.weight" in data,
        "an mlp generator": bool(generator) and all(value.ndim < 4 for value in generator),
    }
    return next((kind for kind, found in kinds.items() if found), f"keys {sorted(map(key_name, data))[:4]}")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _refuse(source: Path, expected: str, got: str) -> CheckpointError:
    do = "pass a file from pretrained_pgns of jochemloedeman/PGN"
    return CheckpointError(str(source), expected=expected, got=got, do=do)
