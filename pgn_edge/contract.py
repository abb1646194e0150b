"""The facts that travel with every engine, so that two files can be checked against each other before they run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pgn_edge.documents import parse_json
from pgn_edge.errors import DataError, EngineError
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess
from pgn_edge.schemas import FactsJson, conform
from pgn_edge.transport import LOSSLESS, Transport

PREFIX = "pgn_edge."
MORE_METADATA = ("numerics",)  # what a graph says beside the facts
SCHEMA = 1
EXPORT_AGAIN = "export the file again with this version"
Role = Literal["vit", "pgn"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Output = Literal["embedding", "logits", "canvas"]
CanvasType = Literal["float32", "uint8"]


@dataclass(frozen=True)
class EngineFacts:
    """Facts of a ViT engine, or of a PGN engine and the ViT it was made for.

    Args:
        role: which of the two.
        backbone: the ViT's name as the user typed it.
        fingerprint: sha256 over W, b, E and the pre-norm of the ViT.
        geometry: the canvas.
        preprocess: how a frame becomes the image on the canvas, and its normalisation.
        precision: of the arithmetic inside; it says nothing of the canvas.
        opset: of the ONNX graph.
        output: what the engine returns.
        canvas: `float32`, (B, 3, H_c, W_c) in normalised units; or `uint8`, (B, H_c, W_c, 3) RGB pixels, which the ViT
            engine normalises itself.
        transport: what the canvas loses on its way: `lossless`, or a lossy `Transport` such as `jpeg:75`. Of a task,
            what its golden pair went through.
    """

    role: Role
    backbone: str
    fingerprint: str
    geometry: Geometry
    preprocess: Preprocess
    precision: Precision
    opset: int
    output: Output
    canvas: CanvasType = "float32"
    transport: str = LOSSLESS

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {
            "schema": SCHEMA,
            "role": self.role,
            "backbone": self.backbone,
            "fingerprint": self.fingerprint,
            "geometry": self.geometry.to_json(),
            "preprocess": self.preprocess.to_json(),
            "precision": self.precision,
            "opset": self.opset,
            "output": self.output,
            "canvas": self.canvas,
            "transport": self.transport,
        }

    def to_metadata(self) -> dict[str, str]:
        """The same as ONNX metadata_props: one `pgn_edge.<field>` key each, values in JSON."""
        return {PREFIX + key: json.dumps(value) for key, value in self.to_json().items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str) -> EngineFacts:
        """Read what `to_json` wrote.

        Args:
            data: the JSON object.
            source: the file it came from, for messages.

        Raises:
            EngineError: a field is missing, unknown, or of another schema.
            GeometryError: geometry or preprocessing do not make sense.
        """
        if data.get("schema") != SCHEMA:
            raise EngineError(
                source,
                expected=f"an engine exported by pgn-edge (facts of schema {SCHEMA})",
                got=f"schema {data['schema']!r}" if "schema" in data else "no pgn_edge facts",
                do="make it with: pgn-edge export-vit BACKBONE; or describe a foreign engine: pgn-edge probe -o FILE",
            )
        try:
            found = conform(data, FactsJson)
            return cls(
                role=found.role,
                backbone=found.backbone,
                fingerprint=found.fingerprint,
                geometry=Geometry.from_json(found.geometry),
                preprocess=Preprocess.from_json(found.preprocess),
                precision=found.precision,
                opset=found.opset,
                output=found.output,
                canvas=found.canvas,
                transport=_loss(found.transport),
            )
        except ValueError as exc:
            raise _unreadable(source, str(exc)) from exc
        except DataError as exc:
            raise _unreadable(source, f"transport {exc.got}") from exc

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> EngineFacts:
        """Read what `to_metadata` wrote.

        Raises:
            EngineError: as `from_json`, or a value is not JSON.
        """
        try:
            ours = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
        except TypeError as exc:  # protobuf gives bytes where a text is not UTF-8
            raise _unreadable(source, "metadata that is not UTF-8") from exc
        data = {
            key: parse_json(value, f"{source}: pgn_edge.{key}", EngineError, EXPORT_AGAIN)
            for key, value in ours.items()
            if key not in MORE_METADATA
        }
        return cls.from_json(data, source)


def _loss(text: str) -> str:
    return text if text == LOSSLESS else Transport.parse(text).loss


def _unreadable(source: str, got: str) -> EngineError:
    return EngineError(source, expected="readable pgn_edge facts", got=got, do=EXPORT_AGAIN)
