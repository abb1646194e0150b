"""Upstream files as their authors would write them, and the one way in which import refuses them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgn_edge.errors import PgnEdgeError
from pgn_edge.export.upstream import ImportOptions, import_upstream

PROMPTS, LIBRARY, WIDTH = 5, 6, 128
CHANNELS = (16, 32, 64, 128)
DIGITS = ImportOptions(labels="svhn")  # the names that `builtin` knows

State = Callable[..., dict[str, Tensor]]
Write = Callable[..., Path]
Refused = Callable[..., str]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape) / math.sqrt(math.prod(shape[1:]))


def batch_norm(name: str, channels: int) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": 0.1 * torch.randn(channels),
        f"{name}.running_mean": 0.1 * torch.randn(channels),
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


@pytest.fixture
def upstream_state() -> State:
    """Make a state_dict with upstream's names and shapes, nothing in it zero or one: K = 5, N = 6, for `builtin`."""

    def make(prompts: int = PROMPTS, library: int = LIBRARY, width: int = WIDTH) -> dict[str, Tensor]:
        torch.manual_seed(0)
        state = {"tl_vectors": torch.randn(library, width), "model.input_net.0.weight": normal(16, 3, 3, 3)}
        state |= batch_norm("model.input_net.1", 16)
        inside = CHANNELS[0]
        for index, outside in enumerate(CHANNELS):
            block = f"model.blocks.{index}"
            state[f"{block}.net.0.weight"] = normal(outside, inside, 3, 3)
            state |= batch_norm(f"{block}.net.1", outside)
            state[f"{block}.net.3.weight"] = normal(outside, outside, 3, 3)
            state |= batch_norm(f"{block}.net.4", outside)
            if index:
                state[f"{block}.downsample.weight"] = normal(outside, inside, 1, 1)
                state[f"{block}.downsample.bias"] = 0.1 * torch.randn(outside)
            inside = outside
        state["model.output_net.2.weight"] = 4 * normal(prompts * library, 128)
        state["model.output_net.2.bias"] = torch.randn(prompts * library)
        return state

    return make


@pytest.fixture
def write() -> Write:
    """Save something as torch does."""

    def save(folder: Path, state: Any, name: str = "upstream.pt") -> Path:
        path = folder / name
        torch.save(state, path)
        return path

    return save


@pytest.fixture
def upstream(tmp_path: Path, upstream_state: State, write: Write) -> Path:
    """A small upstream file for `builtin`."""
    return write(tmp_path, upstream_state())


@pytest.fixture
def refused() -> Refused:
    """Import what must be refused, and return the line; the folder is as it was before."""

    def run(path: Path, output: Path, options: ImportOptions = DIGITS) -> str:
        before = sorted(output.parent.iterdir()) if output.parent.is_dir() else None
        with pytest.raises(PgnEdgeError) as caught:
            import_upstream(path, output, backbone="builtin", options=options)
        assert before is None or sorted(output.parent.iterdir()) == before
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)

    return run
