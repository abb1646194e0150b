"""What turns embeddings into class scores: text weights, a linear layer, or a mapping of the frozen model's outputs."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pgn_edge.errors import BundleError

MOST_LABELS, LONGEST_LABEL = 1 << 16, 256
HEAD_TYPES = {"weight": np.float32, "bias": np.float32, "scale": np.float32, "index": np.int64}
HeadKind = Literal["text", "linear", "mapping"]


@dataclass(frozen=True)
class Head:
    """A classifier on embeddings.

    Args:
        kind: `text`, cosine with unit rows times a scale; `linear`, weight and bias; `mapping`, class i is output
            `index[i]` of a frozen model whose engine gives logits.
        labels: C class names.
        weight: (C, D) float32; empty for `mapping`.
        bias: (C,) float32; zero but for `linear`.
        scale: factor of the cosines; 1 but for `text`.
        index: (C,) int64; empty but for `mapping`.
    """

    kind: HeadKind
    labels: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    scale: float
    index: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.labels)
        shapes = {
            "text": self.weight.ndim == 2 and len(self.weight) == count,
            "linear": self.weight.ndim == 2 and len(self.weight) == count and self.bias.shape == (count,),
            "mapping": self.index.shape == (count,) and self.index.dtype == np.int64 and (self.index >= 0).all(),
        }
        if self.kind not in shapes or not shapes[self.kind] or count == 0:
            raise BundleError(
                "head",
                expected=f"{' or '.join(get_args(HeadKind))}, one row for each of {count} labels",
                got=f"{self.kind!r} with weight {self.weight.shape} and index {self.index.shape}",
                do="export the task again",
            )
        if not all(np.isfinite(value).all() for value in (self.weight, self.bias, self.scale)):
            raise BundleError("head", expected="finite weights", got="NaN or Inf", do="train the task again")

    @classmethod
    def text(cls, weight: np.ndarray, labels: tuple[str, ...], scale: float) -> Head:
        """Cosine head: unit rows (C, D) and the logit scale."""
        return cls("text", labels, np.asarray(weight, np.float32), _none(), float(scale), _no_index())

    @classmethod
    def linear(cls, weight: np.ndarray, bias: np.ndarray, labels: tuple[str, ...]) -> Head:
        """Linear head: weight (C, D), bias (C,)."""
        return cls("linear", labels, np.asarray(weight, np.float32), np.asarray(bias, np.float32), 1.0, _no_index())

    @classmethod
    def mapping(cls, index: np.ndarray, labels: tuple[str, ...]) -> Head:
        """Label mapping: class i is output `index[i]` of the frozen model."""
        return cls("mapping", labels, _none(), _none(), 1.0, np.asarray(index, np.int64))

    def logits(self, embedding: np.ndarray) -> np.ndarray:
        """Class logits.

        Args:
            embedding: (B, D) float32; for `mapping` the frozen model's logits.

        Returns:
            (B, C) float32.

        Raises:
            BundleError: D is not what the head was made for.
        """
        need = int(self.index.max()) + 1 if self.kind == "mapping" else self.weight.shape[1]
        have = embedding.shape[-1]
        if have < need or (self.kind != "mapping" and have != need):
            raise BundleError(
                "head",
                expected=f"embeddings of width {need}",
                got=str(have),
                do="use the ViT it was made for",
            )
        if self.kind == "mapping":
            return embedding[:, self.index]
        if self.kind == "text":
            norm = np.linalg.norm(embedding, axis=-1, keepdims=True)
            embedding = embedding * (self.scale / np.maximum(norm, 1e-12))
            return np.asarray(embedding @ self.weight.T)
        return np.asarray(embedding @ self.weight.T + self.bias)

    def scores(self, embedding: np.ndarray) -> np.ndarray:
        """Softmax of `logits`: (B, C) float32, each row sums to 1."""
        logits = self.logits(embedding)
        power = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(power / power.sum(axis=-1, keepdims=True))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Named arrays for `head.npz`; labels live in the manifest."""
        return {
            "kind": np.array(self.kind),
            "weight": self.weight,
            "bias": self.bias,
            "scale": np.array([self.scale], np.float32),
            "index": self.index,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], labels: tuple[str, ...]) -> Head:
        """Read what `to_arrays` wrote.

        Raises:
            BundleError: an array is missing or the shapes do not agree.
        """
        try:
            _check_arrays(arrays)
            return cls(
                str(arrays["kind"]),  # type: ignore[arg-type]  # checked in __post_init__
                labels,
                arrays["weight"],
                arrays["bias"],
                float(arrays["scale"][0]),
                arrays["index"],
            )
        except (KeyError, IndexError, TypeError, ValueError) as exc:
            raise BundleError(
                "head.npz",
                expected="kind, weight, bias, scale and index",
                got=f"{sorted(arrays)}"[:200] if isinstance(exc, KeyError) else str(exc),
                do="export the task again",
            ) from exc


def check_labels(labels: Sequence[str], source: str) -> None:
    """Refuse class names that no answer should carry.

    Args:
        labels: Class names in order.
        source: Name of the file for messages.

    Raises:
        BundleError: No label, too many, an empty or overlong one, one with control characters, or one twice.
    """
    seen: set[str] = set()
    problem = "" if 1 <= len(labels) <= MOST_LABELS else f"{len(labels)} of them"
    for index, label in enumerate(labels):
        if not label.strip() or len(label) > LONGEST_LABEL:
            problem = f"label {index} of {len(label)} characters"
        elif any(unicodedata.category(character) in ("Cc", "Cs") for character in label):
            problem = f"label {index} with control characters"
        elif label in seen:
            problem = f"label {index} a second time: {label!r}"
        if problem:
            break
        seen.add(label)
    if problem:
        raise BundleError(
            f"{source}: labels",
            expected=f"1 to {MOST_LABELS} different class names of 1 to {LONGEST_LABEL} characters",
            got=problem,
            do="rename the class, and train and export again",
        )


def distinct_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Class names of which none stands twice: the second `crane` becomes `crane (2)`.

    Args:
        labels: Class names in order.
    """
    taken = set(labels)
    found: list[str] = []
    used: set[str] = set()
    for label in labels:
        name, number = label, 1
        while name in used or (name != label and name in taken):
            number += 1
            name = f"{label} ({number})"
        found.append(name)
        used.add(name)
    return tuple(found)


def _check_arrays(arrays: Mapping[str, np.ndarray]) -> None:
    if arrays.keys() - {"kind", *HEAD_TYPES}:
        raise KeyError("an unknown array")
    for name, dtype in HEAD_TYPES.items():
        if arrays[name].dtype != dtype:
            raise TypeError(f"{name} of type {arrays[name].dtype}")
    if arrays["kind"].shape != () or arrays["scale"].shape != (1,):
        raise TypeError(f"kind {arrays['kind'].shape} and scale {arrays['scale'].shape}")


def _none() -> np.ndarray:
    return np.zeros(0, np.float32)


def _no_index() -> np.ndarray:
    return np.zeros(0, np.int64)
