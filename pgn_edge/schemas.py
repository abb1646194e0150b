"""The one schema of every JSON object that crosses from one program to another: facts, manifest, profile, sidecar.

Nothing is converted: a size is a whole number, a factor is a number, a name is a text, and no field is unknown.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

Side = Annotated[int, Meta(ge=1, le=1 << 14)]
Count = Annotated[int, Meta(ge=0, le=1 << 16)]
Batch = Annotated[int, Meta(ge=1, le=1 << 20)]
Name = Annotated[str, Meta(min_length=1, max_length=500)]
Text = Annotated[str, Meta(max_length=4096)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Finite = Annotated[float, Meta(ge=-1e38, le=1e38)]
Texts = Annotated[tuple[Text, ...], Meta(max_length=1000)]
Object = dict[str, Any]

Kind = TypeVar("Kind")


class GeometryJson(Struct, forbid_unknown_fields=True):
    """A canvas; see `Geometry`."""

    image_hw: tuple[Side, Side]
    patch: Side
    prompts: Count
    layout: Literal["append", "inset"]


class PreprocessJson(Struct, forbid_unknown_fields=True):
    """How a frame becomes an image; see `Preprocess`."""

    size_hw: tuple[Side, Side]
    fit: Literal["crop", "squash"]
    filter: Literal["antialiased-bicubic", "fast"]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Finite, Finite, Finite]


class FactsJson(Struct, forbid_unknown_fields=True):
    """Facts of an engine; see `EngineFacts`. Geometry and preprocessing are read by their own classes."""

    schema: int
    role: Literal["vit", "pgn"]
    backbone: Name
    fingerprint: Name
    geometry: Any
    preprocess: Any
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    opset: Annotated[int, Meta(ge=0, le=1000)]
    output: Literal["embedding", "logits", "canvas"]
    canvas: Literal["float32", "uint8"] = "float32"  # files from before there was another have none
    transport: Name = "lossless"


class ProfileJson(Struct, forbid_unknown_fields=True):
    """Statistics of a task on images like those of its training; see `Profile`."""

    frames: Annotated[int, Meta(ge=1, le=1 << 40)]
    usage: Annotated[tuple[Finite, ...], Meta(min_length=1, max_length=1 << 20)]
    entropy_mean: Finite
    entropy_std: Finite
    divergence_of_halves: Finite
    strangeness: Object | msgspec.UnsetType = msgspec.UNSET


class StrangenessJson(Struct, forbid_unknown_fields=True):
    """What frames are ranked against; see `Strangeness`."""

    centres: Annotated[tuple[Annotated[tuple[Finite, ...], Meta(max_length=1 << 14)], ...], Meta(max_length=64)]
    distances: Annotated[tuple[Finite, ...], Meta(max_length=4096)]
    doubts: Annotated[tuple[Finite, ...], Meta(max_length=4096)]
    limit: Finite


class MemberJson(Struct, forbid_unknown_fields=True):
    """Hash and size of a member of a bundle."""

    sha256: Digest
    bytes: Annotated[int, Meta(ge=0, le=1 << 40)]


class ManifestJson(Struct, forbid_unknown_fields=True):
    """The manifest of a bundle; see `Bundle`. Facts and profile are read by their own classes."""

    format: str
    schema: int
    name: Name
    engine: Object
    labels: Annotated[tuple[str, ...], Meta(min_length=1, max_length=1 << 16)]
    members: dict[str, MemberJson]
    certificate: Object
    parity: tuple[Object, ...]
    provenance: Object
    numerics: Object = {}
    profile: Object | msgspec.UnsetType = msgspec.UNSET


class SidecarJson(Struct, forbid_unknown_fields=True):
    """The sidecar of a plan; see `Sidecar`. Facts are read by their own class."""

    format: str
    schema: int
    plan_sha256: Digest
    onnx_sha256: Digest
    backend: Name
    backend_version: Name
    targets: Texts
    batch: tuple[Batch, Batch, Batch]
    facts: Object
    # Sidecars of earlier versions lack these.
    version_compatible: bool = False
    source: Text = ""
    options: Texts = ()


def conform(data: object, kind: type[Kind]) -> Kind:
    """A JSON value as an object of a schema.

    Args:
        data: Value as a JSON parser gives it; tuples may stand for lists.
        kind: Class of the schema.

    Raises:
        ValueError: The value is not of this schema.
    """
    try:
        return msgspec.convert(data, kind, strict=True)
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError) as exc:
        raise ValueError(str(exc)[:200]) from exc
