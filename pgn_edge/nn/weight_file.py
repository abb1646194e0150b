"""Files of backbone weights, as training loops and other libraries leave them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from pgn_edge.errors import CheckpointError
from pgn_edge.file_kind import require_kind
from pgn_edge.nn.tensor_file import load_tensors
from pgn_edge.nn.torchscript import is_torchscript, read_torchscript
from pgn_edge.nn.weights import brief

# The libraries evaluate and publish the averaged weights where a training kept both.
EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PLAIN_KEYS = ("state_dict", "model", "model_state_dict", "module", "net")
MOST_NESTED = 4
BESIDE = ("open_clip_config.json", "config.json")
MOST_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class WeightFile:
    """Weights from a file, and what else it says of its model.

    Args:
        source: Path of the file as the user gave it, for messages.
        state: Dense tensors by name.
        notes: Sentences about a choice that was made while reading.
        quick_gelu: Whether the model has QuickGELU; None where neither the file nor a config beside it says so.
        normalisation: Mean and standard deviation of a config beside it, under `mean` and `std`; else empty.
        said_by: Name of the file that says the activation.
    """

    source: str
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    quick_gelu: bool | None = None
    normalisation: Mapping[str, Any] | None = None
    said_by: str = ""


def read_weights(weights: str | Path) -> WeightFile:
    """Read backbone weights without running code from the file.

    Args:
        weights: Path of a `.safetensors`, a torch file or a TorchScript archive. `PATH#KEY` takes the state under KEY
            where a file holds several; a path that exists is always taken whole.

    Raises:
        CheckpointError: no such file, a damaged one, pickled code, anything but dense tensors, or no such key.
    """
    path, key = split_key(Path(weights))
    source, notes = str(path), []
    require_kind(path, "weights", "torchscript", error=CheckpointError)
    if path.suffix != ".safetensors" and is_torchscript(path):
        script = read_torchscript(path)
        return WeightFile(source, script.tensors, (), script.quick_gelu, None, path.name)
    data = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    data, note = _under_key(path, data, key) if key else _chosen(path, data)
    notes += [note] if note else []
    state = _require_tensors(path, data)
    if all(name.startswith("module.") or name == "n_averaged" for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
    activation, normalisation, said_by = _beside(path)
    return WeightFile(source, state, tuple(notes), activation, normalisation, said_by)


def split_key(path: Path) -> tuple[Path, str]:
    """Path and key of `PATH#KEY`; the key is empty where there is none, or where a file has the whole name."""
    name, mark, key = path.name.rpartition("#")
    if not mark or not name or path.exists():
        return path, ""
    return path.with_name(name), key


def _under_key(path: Path, data: Any, key: str) -> tuple[Any, str]:
    """State under a key that the user chose: one of the file's parts, or the beginning of its names."""
    if isinstance(data, dict) and isinstance(data.get(key), dict):
        return data[key], ""
    inner, _ = _chosen(path, data)
    if isinstance(inner, dict):
        state = {name[len(key) + 1 :]: value for name, value in inner.items() if str(name).startswith(f"{key}.")}
        if state:
            return state, ""
    held = [repr(name) for name, value in data.items() if isinstance(value, dict)] if isinstance(data, dict) else []
    raise CheckpointError(
        str(path),
        expected=f"weights under the key {key!r}",
        got=", ".join(held[:8]) or "a file without keys",
        do="choose one of the file's own keys: --weights-key KEY",
    )


def _chosen(path: Path, data: Any) -> tuple[Any, str]:
    """The state inside the parts of a training's file; averaged weights go before plain ones."""
    note = ""
    for _ in range(MOST_NESTED):
        if not isinstance(data, dict):
            break
        parts = [key for key in (*EMA_KEYS, *PLAIN_KEYS) if isinstance(data.get(key), dict) and data[key]]
        if not parts:
            break
        others = [key for key in parts if key not in EMA_KEYS]
        if parts[0] in EMA_KEYS:
            choice = f"; --weights-key {others[0]} takes the plain ones" if others else ""
            note = f"{path.name}: the averaged (EMA) weights under {parts[0]!r} are taken{choice}"
        data = data[parts[0]]
    return data, note


def _require_tensors(path: Path, data: Any) -> dict[str, Tensor]:
    if not isinstance(data, dict) or not data:
        _refuse_file(path, "a state dict", f"an empty or other {type(data).__name__}")
    for key, value in data.items():
        dense = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
        if not isinstance(key, str) or not dense:
            models = [name for name, each in data.items() if isinstance(each, dict) and each]
            if models and isinstance(value, dict):
                got = ", ".join(repr(name) for name in models[:8])
                _refuse_file(path, "a state dict of dense tensors", f"parts of other names: {got}", key=str(models[0]))
            _refuse_file(path, "a state dict of dense tensors", f"{type(value).__name__} under {key!r}")
    return dict(data)


def _beside(path: Path) -> tuple[bool | None, dict[str, Any], str]:
    """Activation and normalisation in the config that open_clip or Hugging Face saves beside the weights."""
    for name in BESIDE:
        config = _read_json(path.with_name(name))
        if name == "open_clip_config.json" and isinstance(config.get("model_cfg"), dict):
            cfg = config.get("preprocess_cfg")
            shown = {key: cfg[key] for key in ("mean", "std", "resize_mode") if key in cfg} if cfg else {}
            return bool(config["model_cfg"].get("quick_gelu", False)), shown, name
        if str(config.get("model_type", "")).startswith("clip"):
            vision = config.get("vision_config", config)
            activation = str(vision.get("hidden_act", "quick_gelu"))  # the default of transformers
            _require_exact(path.with_name(name), vision, activation)
            images = _read_json(path.with_name("preprocessor_config.json"))
            pairs = {"mean": images.get("image_mean"), "std": images.get("image_std")}
            return activation == "quick_gelu", {key: value for key, value in pairs.items() if value}, name
    return None, {}, ""


def _require_exact(path: Path, vision: Mapping[str, Any], activation: str) -> None:
    """Refuse a tower of Hugging Face that open_clip's ViT does not repeat exactly."""
    epsilon = vision.get("layer_norm_eps", 1e-5)
    if activation not in ("gelu", "quick_gelu") or epsilon != 1e-5:
        raise CheckpointError(
            str(path),
            expected="hidden_act gelu or quick_gelu, and layer_norm_eps 1e-05",
            got=f"{activation} and {epsilon}",
            do="choose a model with the parts of CLIP",
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            return {}
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        _refuse_file(path, "a file of weights", "no such file")
    except (SafetensorError, OSError, ValueError) as exc:
        _refuse_file(path, "a whole safetensors file", brief(exc), exc)
    return tensors


def _read_torch(path: Path) -> Any:
    try:
        # timm and Lightning keep a training's options beside the weights; a Namespace is attributes and nothing else.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return load_tensors(path)
    except CheckpointError as exc:
        # Its advice is for checkpoints of our own training.
        _refuse_file(path, exc.expected.replace("a checkpoint", "a file of weights"), exc.got, exc)


def _refuse_file(path: Path, expected: str, got: str, cause: Exception | None = None, key: str = "") -> NoReturn:
    choose = f"choose a part: --weights-key {key}"
    raise CheckpointError(
        str(path),
        expected=expected,
        got=got,
        do=choose if key else "pass safetensors, or a .pt with the model's state_dict alone",
    ) from cause
