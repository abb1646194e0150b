"""What is sent to an embedding service: images in a JSON document, or as files of a form."""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgn_edge.errors import EngineError

DATA_URL, BASE64 = "{data_url}", "{base64}"
PLACEHOLDERS = (DATA_URL, BASE64)


@dataclass(frozen=True)
class JsonBody:
    """A JSON document with a place for an image.

    Args:
        template: holds `{data_url}` or `{base64}` once, within a string; for several images it stands in a list alone,
            and the outermost such list gets an entry for each.
        batch: most images in one request.

    Raises:
        EngineError: no place or several, no list for several images, or values that JSON has not.
    """

    template: Mapping[str, Any]
    batch: int = 1

    def __post_init__(self) -> None:
        try:
            text = json.dumps(self.template, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise _wrong("body", "values that JSON has", str(exc), "write them as strings") from exc
        count = sum(text.count(each) for each in PLACEHOLDERS)
        if count != 1 or not _holds(dict(self.template)):
            raise _wrong("body", f"one {DATA_URL} or {BASE64} among its values", str(count), "write one")
        if self.batch > 1 and not _repeats(self.template):
            got = "one that does not stand in a list alone"
            raise _wrong(
                "body", f"a list with the image for a batch of {self.batch}", got, "write a list, or batch = 1"
            )

    def encode(self, files: Sequence[bytes], content_type: str) -> tuple[str, bytes]:
        """Content type and bytes of a request for some image files of one type."""
        texts = [b64encode(file).decode() for file in files]
        values = [{BASE64: text, DATA_URL: f"data:{content_type};base64,{text}"} for text in texts]
        document = _filled(self.template, values) if self.batch > 1 else _replaced(self.template, values[0])
        return "application/json", json.dumps(document).encode()


@dataclass(frozen=True)
class FormBody:
    """A form with image files, `multipart/form-data`.

    Args:
        name: of the field with the files.
        fields: further fields, by name.
        batch: most images in one request.

    Raises:
        EngineError: a name that a form cannot hold.
    """

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)
    batch: int = 1

    def __post_init__(self) -> None:
        for name in (self.name, *self.fields):
            if not name.isascii() or not name.isprintable() or '"' in name or not name:
                raise _wrong("field", "a name of plain characters", repr(name), "choose another")

    def encode(self, files: Sequence[bytes], content_type: str) -> tuple[str, bytes]:
        """Content type and bytes of a request for some image files of one type."""
        mark, suffix = secrets.token_hex(16), content_type.rpartition("/")[2]
        parts = [(f'name="{name}"', value.encode()) for name, value in self.fields.items()]
        parts += [
            (f'name="{self.name}"; filename="{index}.{suffix}"\r\nContent-Type: {content_type}', file)
            for index, file in enumerate(files)
        ]
        lines = b"".join(
            f"--{mark}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
            for head, value in parts
        )
        return f"multipart/form-data; boundary={mark}", lines + f"--{mark}--\r\n".encode()


Body = JsonBody | FormBody


def _holds(node: Any) -> bool:
    if isinstance(node, str):
        return any(each in node for each in PLACEHOLDERS)
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    return any(_holds(child) for child in children)


def _repeats(node: Any) -> bool:
    """Whether the outermost list with the image holds nothing else."""
    if isinstance(node, list):
        return len(node) == 1
    return isinstance(node, Mapping) and _repeats(next(child for child in node.values() if _holds(child)))


def _filled(node: Any, values: Sequence[Mapping[str, str]]) -> Any:
    """With an entry for each image in the outermost list that has a place for one."""
    if not _holds(node):
        return node
    if isinstance(node, list):
        return [_replaced(node[0], value) for value in values]
    return {key: _filled(child, values) for key, child in node.items()}


def _replaced(node: Any, value: Mapping[str, str]) -> Any:
    """With one image in its place."""
    if isinstance(node, str):
        for placeholder, text in value.items():
            if placeholder in node:
                return node.replace(placeholder, text)
        return node
    if isinstance(node, list):
        return [_replaced(child, value) for child in node]
    return {key: _replaced(child, value) for key, child in node.items()} if isinstance(node, Mapping) else node


def _wrong(subject: str, expected: str, got: str, do: str) -> EngineError:
    return EngineError(subject, expected=expected, got=got, do=do)
