"""JSON and TOML from outside: whatever a parser raises becomes one error of the caller's kind."""

from __future__ import annotations

import json
import re
import stat
import warnings
from pathlib import Path
from typing import Any, NoReturn

from pgn_edge.errors import PgnEdgeError
from pgn_edge.extras import import_tomllib
from pgn_edge.file_kind import require_kind

SECRET_KEYS = frozenset({"token", "password", "authorization", "x-api-key", "api-key"})
PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")  # of a camera, in its address

# TOML promises 64 bits. A longer number would pass the parser and overflow wherever it meets a float.
LEAST_NUMBER, MOST_NUMBER = -(1 << 63), (1 << 64) - 1
MOST_DIGITS = len(str(MOST_NUMBER)) + 1  # with a sign


class PgnEdgeWarning(UserWarning):
    """A risk that does not stop the program: one line that says what was found and what to do."""


def parse_json(data: bytes | str, subject: str, error: type[PgnEdgeError], do: str) -> Any:
    """Parse one JSON document.

    Args:
        data: Bytes in UTF-8, or text.
        subject: Name of the file or of the answer, for messages.
        error: Kind of the error.
        do: Remedy, for messages.

    Returns:
        The document. Its numbers are finite floats, or whole numbers of 64 bits.

    Raises:
        PgnEdgeError: of the given kind; no JSON, nested too deeply, not in UTF-8, one key twice in an object, NaN,
            Infinity, or a number of more than 64 bits.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_int=_whole, parse_float=_real
        )
    except (ValueError, RecursionError) as exc:
        raise error(subject, expected="a JSON document", got=_reason(exc), do=do) from exc


def read_toml(path: Path, error: type[PgnEdgeError], expected: str = "a config") -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: Path of the file.
        error: Kind of the error.
        expected: Name of what the file should be, for messages.

    Raises:
        PgnEdgeError: of the given kind; no file, not in UTF-8, no TOML, nested too deeply, or a number of more than 64
            bits or that is not finite. The message names the file.
        MissingExtraError: Python 3.10 without tomli.
    """
    tomllib = import_tomllib()
    try:
        values: dict[str, Any] = tomllib.loads(path.read_bytes().decode("utf-8-sig"), parse_float=_real)
        _require_numbers(values)
    except OSError as exc:
        raise error(str(path), expected=expected, got=exc.strerror or str(exc), do="check the path") from exc
    except (ValueError, RecursionError) as exc:
        require_kind(path, error=error, expected=f"{expected} in TOML")
        do = "correct this place in the file"
        raise error(str(path), expected="TOML in UTF-8", got=_reason(exc), do=do) from exc
    return values


def warn_of_open_secrets(path: Path, values: dict[str, Any]) -> None:
    """Warn if a config holds a secret and others on this machine may read or change the file.

    A secret that is written as `${VARIABLE}` is not in the file.

    Args:
        path: Path of the config.
        values: Its tables and keys.
    """
    key = _secret_key(values)
    mode = path.stat().st_mode
    if not key or not mode & (stat.S_IROTH | stat.S_IWOTH):
        return
    may = "change" if mode & stat.S_IWOTH else "read"
    line = (
        f"{path}: everybody on this machine may {may} this file, and it holds a secret ({key}); run: chmod 600 {path}"
    )
    warnings.warn("".join(c if c.isprintable() else " " for c in line), PgnEdgeWarning, stacklevel=3)


def _secret_key(values: dict[str, Any], before: str = "") -> str:
    for key, value in values.items():
        if isinstance(value, dict):
            found = _secret_key(value, f"{before}{key}.")
        else:
            written_out = isinstance(value, str) and value and "${" not in value
            is_secret = written_out and (key.lower() in SECRET_KEYS or PASSWORD.search(value))
            found = before + key if is_secret else ""
        if found:
            return found
    return ""


def _require_numbers(values: dict[str, Any]) -> None:
    left: list[Any] = [values]
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            left.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, int) and not LEAST_NUMBER <= value <= MOST_NUMBER:
            raise ValueError("a number of more than 64 bits")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:80]!r} twice")
    return found


def _whole(text: str) -> int:
    value = int(text) if len(text) <= MOST_DIGITS else MOST_NUMBER + 1
    if not LEAST_NUMBER <= value <= MOST_NUMBER:
        raise ValueError("a number of more than 64 bits")
    return value


def _real(text: str) -> float:
    value = float(text)
    if value - value != 0:  # infinity, also that of 1e400, and NaN
        raise ValueError(f"the number {text[:20]}, which is not finite")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")


def _reason(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "brackets nested too deeply"
    return str(exc).split("\n")[0][:200] or type(exc).__name__
