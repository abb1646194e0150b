"""Secrets that the user gave, found in a text in any mixture of encodings."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Iterator

STARS = "***"
SHORTEST_SECRET = 4  # characters; shorter values occur in ordinary words, and only their place in an address hides them
WHOLE_WORD = 8  # characters; a shorter secret is replaced only where no letter or digit touches it

# A percent sign may be encoded itself, once or more: %253A is %3A is a colon.
PERCENT = "%(?:25)*"
_ESCAPE = rf"{PERCENT}([0-9A-Fa-f]{{2}})"
_SPELLING = re.compile(
    rf"(?:{PERCENT}[0-9A-Fa-f]{{2}})+|&(?:amp|lt|gt|quot|apos|#\d{{1,7}}|#[xX][0-9A-Fa-f]{{1,6}});|\\"
)


class Registry:
    """Known secrets in their plain spelling, each with what must stand before and after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secrets: tuple[tuple[str, str, str], ...] = ()

    def add(self, secret: str, before: str = "", after: str = "") -> None:
        """Know a secret from now on.

        Args:
            secret: Value that no text may hold.
            before: Text that must stand before it, if only its place there is secret.
            after: Text that must stand after it.
        """
        forms = {secret, *(escape(secret)[1:-1] for escape in (json.dumps, _unicode_json, repr, ascii))}
        plain = {_plain(form)[0].strip() for form in forms}
        known = {(before, form, after) for form in plain if before or len(form) >= SHORTEST_SECRET}
        with self._lock:
            self._secrets = tuple({*self._secrets, *known})

    def clean(self, text: str) -> str:
        """Give a text with stars in the place of every known secret."""
        if not self._secrets:
            return text
        plain, spans = _plain(text)
        hidden = sorted(place for known in self._secrets for place in _places(plain, *known))
        parts, end = [], 0
        for first, last in hidden:
            start, stop = spans[first][0], spans[last - 1][1]
            if start >= end:
                parts += [text[end:start], STARS]
            end = max(end, stop)
        return "".join(parts) + text[end:]


def _unicode_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _places(plain: str, before: str, secret: str, after: str) -> Iterator[tuple[int, int]]:
    """Start and end of a secret in a plain text, wherever it occurs."""
    whole, start = before + secret + after, 0
    while (found := plain.find(whole, start)) >= 0:
        first, last = found + len(before), found + len(before) + len(secret)
        start = found + 1
        touched = plain[max(first - 1, 0) : first].isalnum() or plain[last : last + 1].isalnum()
        if before or len(secret) >= WHOLE_WORD or not touched:
            yield first, last


def _plain(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A text with every character in its plain spelling, and where each of them was: encoded or not, once or twice."""
    spans = [(at, at + 1) for at in range(len(text))]
    changed = True
    while changed:
        plain, places = _decoded(text, spans)
        changed, text, spans = plain != text, plain, places
    return text, spans


def _decoded(text: str, spans: list[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
    plain: list[str] = []
    places: list[tuple[int, int]] = []
    start = 0
    for match in _SPELLING.finditer(text):
        pieces = [(text[at], spans[at]) for at in range(start, match.start())]
        pieces += _characters(match[0], spans[match.start() : match.end()])
        start = match.end()
        for character, place in pieces:
            _append(plain, places, character, place)
    for at in range(start, len(text)):
        _append(plain, places, text[at], spans[at])
    return "".join(plain), places


def _append(plain: list[str], places: list[tuple[int, int]], character: str, place: tuple[int, int]) -> None:
    shown = character if character.isprintable() and character != "+" else " "
    if shown == " " and plain and plain[-1] == " ":
        places[-1] = places[-1][0], place[1]  # messages shorten white space as they like
    else:
        plain.append(shown)
        places.append(place)


def _characters(spelled: str, spans: list[tuple[int, int]]) -> list[tuple[str, tuple[int, int]]]:
    """What a run of %XX, an entity of HTML or a backslash stands for, and where."""
    whole = spans[0][0], spans[-1][1]
    if spelled.startswith("&"):
        return [(character, whole) for character in html.unescape(spelled)]
    if spelled == "\\":
        return []
    escapes = list(re.finditer(_ESCAPE, spelled))
    data = bytes(int(escape[1], 16) for escape in escapes)
    characters, at = [], 0
    for character in data.decode(errors="surrogateescape"):
        end = at + len(character.encode(errors="surrogateescape"))
        first, last = escapes[at], escapes[end - 1]
        characters.append((character, (spans[first.start()][0], spans[last.end() - 1][1])))
        at = end
    return characters
