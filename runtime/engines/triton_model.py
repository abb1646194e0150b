"""What a server says of a model: tensors, version and facts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgn_edge.contract import PREFIX
from pgn_edge.errors import EngineError, PairingError
from pgn_edge.runtime.engines.base import TensorSpec

TYPES = {
    "FP32": np.float32,
    "FP16": np.float16,
    "FP64": np.float64,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "UINT16": np.uint16,
    "INT16": np.int16,
    "UINT32": np.uint32,
    "INT32": np.int32,
    "UINT64": np.uint64,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}


@dataclass(frozen=True)
class ServedModel:
    """A model as it was when the engine was opened.

    Args:
        version: that every request names.
        inputs: by name.
        outputs: by name.
        facts: parameters of its configuration that `pgn-edge triton-repo` wrote, as an ONNX has them.
    """

    version: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    facts: Mapping[str, str]

    @classmethod
    def read(cls, metadata: Mapping[str, Any], config: Mapping[str, Any], name: str, version: str) -> ServedModel:
        """Read what a server says.

        Args:
            metadata: of the model.
            config: of the model.
            name: of the engine, for messages.
            version: that is wanted; empty for the newest.

        Raises:
            EngineError: no tensors, types that an engine has not, or no such version.
        """
        try:
            versions = sorted((str(each) for each in metadata["versions"]), key=int)
            most = int(config.get("max_batch_size", 0))
            parameters = config.get("parameters") or {}
            facts = {
                str(key): str(value["string_value"]) for key, value in parameters.items() if key.startswith(PREFIX)
            }
            inputs = _specs(metadata["inputs"], most)
            outputs = _specs(metadata["outputs"], 0)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise EngineError(
                name,
                expected=f"a model with versions, and tensors of {', '.join(TYPES)}",
                got=f"{type(exc).__name__}: {exc}",
                do="make its folder with: pgn-edge triton-repo vit.onnx",
            ) from exc
        if not versions or (version and version not in versions):
            got = f"only {', '.join(versions)}" if versions else "none"
            raise EngineError(name, expected=f"version {version or 1}", got=got, do="choose another version")
        return cls(version or versions[-1], inputs, outputs, facts)

    def check_same(self, now: ServedModel, name: str) -> None:
        """Refuse a model that has changed behind its address.

        Args:
            now: as it is.
            name: of the engine, for messages.

        Raises:
            PairingError: another fingerprint, other facts, tensors or version.
        """
        pairs = {
            "ViT fingerprint": tuple(_fingerprint(each.facts) for each in (self, now)),
            "facts": (dict(self.facts), dict(now.facts)),
            "tensors": (_text(self), _text(now)),
            "version": (self.version, now.version),
        }
        for what, (before, after) in pairs.items():
            if before != after:
                raise PairingError(
                    f"{name}: {what}",
                    expected=f"{before}, as when it was opened",
                    got=f"{after}",
                    do="serve the model that the tasks were checked with, or open it again",
                )


def _specs(tensors: Iterable[Mapping[str, Any]], most: int) -> dict[str, TensorSpec]:
    specs = {}
    for tensor in tensors:
        sizes = [int(size) for size in tensor["shape"]]
        shape = tuple(None if size < 0 else size for size in sizes)
        free = bool(shape) and shape[0] is None
        kind = np.dtype(TYPES[tensor["datatype"]])
        specs[str(tensor["name"])] = TensorSpec(shape, kind, most if free and most else None)
    if not specs:
        raise ValueError("no tensors")
    return specs


def _fingerprint(facts: Mapping[str, str]) -> str:
    try:
        return str(json.loads(facts[f"{PREFIX}fingerprint"]))
    except (KeyError, ValueError, RecursionError):
        return "none"


def _text(model: ServedModel) -> str:
    return "; ".join(f"{name} {spec}" for name, spec in {**model.inputs, **model.outputs}.items())
