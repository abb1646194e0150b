"""The one redactor: takes users, passwords, tokens and queries out of every text that leaves the program.

Two lines of defence. `redact` reads a text as an address is read, and needs to know nothing about it. `keep_secret`
registers values that the user gave, and `redact` then replaces them wherever they occur, in any mixture of encodings.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import unquote

from pgn_edge.known_secrets import PERCENT, STARS, Registry

_SLASH = rf"(?:\\?/|{PERCENT}2[fF])"
_SCHEME = re.compile(rf"(?<![A-Za-z0-9+.-])[A-Za-z0-9+.-]+(?::|{PERCENT}3[aA]){_SLASH}{{2}}")
_AT = re.compile(rf"(?:@|{PERCENT}40)(?!\s)")
_ANY_AT = re.compile(rf"@|{PERCENT}40")
_COLON = re.compile(rf":|{PERCENT}3[aA]")
_AUTHORITY_END = re.compile(rf"[/?#\s\"'<>\\]|{PERCENT}(?:2[fF]|3[fF]|23)|$")
_HOST = re.compile(rf"(?:\[[^\]]*\]|[^:@\s%]+)(?:(?::|{PERCENT}3[aA])\d{{1,5}})?")
_QUERY = re.compile(rf"\?|{PERCENT}3[fF]|#")
_SEPARATOR = re.compile(rf"(&(?:amp;)?|[;#]|{PERCENT}26)")
_EQUALS = re.compile(rf"=|{PERCENT}3[dD]")
# Every other key of a query may hold a secret: cameras call it pwd, loginpas, usr, auth, key, sig, ...
_HARMLESS_KEYS = frozenset(
    (
        *("audio", "camera", "channel", "fps", "height", "media", "profile", "proto", "quality", "rate", "resolution"),
        *("stream", "subtype", "timeout", "unicast", "video", "width"),
    )
)
_HARMLESS_VALUE = re.compile(r"[\w.:-]{0,16}")
_KEY_NAME = (
    r"(?:pass(?:word|wd|phrase)?|passwort|pwd?|pas|token|(?:api|access|auth|secret|private)[-_]?key|(?<![A-Za-z])key"
    r"|secret|sig|signature|session(?:[-_]?id)?|sid|auth|authorization|credentials?|user-(?:pw|id)|jwt|apikey)"
)
_VALUE = rf"(?:\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?|(?!{re.escape(STARS)})(?:(?!{PERCENT}26)[^\s&])+)"
_ASSIGNED = re.compile(rf"({_KEY_NAME}\\?[\"']?\s?(?:=|{PERCENT}3[dD])\s?){_VALUE}", re.IGNORECASE)
_QUOTED_KEY = re.compile(rf"(([\"']){_KEY_NAME}\2\s*:\s*){_VALUE}", re.IGNORECASE)
_HEADER = re.compile(r"(authorization\s*:\s*)[^\r\n]+|\b((?:bearer|basic)\s+)(?=\S*[\d=])[\w.~+/=-]{8,}", re.I)
# Where the scheme was forgotten or mistyped: admin:password@10.0.0.2/stream, rtsp:/admin:password@10.0.0.2.
# A backbone with its image size looks the same, timm:test_vit@224, but what follows its @ is no host.
_BACKBONE = r"(?:open_clip|timm|torchvision|dino):[\w./-]*@\d{1,4}(?!\w|\.\w|:\d|-\w)"
_BARE_USER = re.compile(rf"(?<![^\s'\"(=])(?!{_BACKBONE})[^\s:@'\"=(]+:(?!//)[^\s@]*@(?=[\w\[])")


_REGISTRY = Registry()


def redact(text: str) -> str:
    """Give a text without the secrets in it; what is redacted already stays as it is.

    Args:
        text: Message that may quote addresses, pipelines, queries and headers.

    Example:
        >>> redact("rtsp://admin:two words@10.0.0.2/1?pwd=x failed")
        'rtsp://***@10.0.0.2/1?pwd=*** failed'
    """
    text = _REGISTRY.clean(text)
    text = _HEADER.sub(lambda match: f"{match[1] or match[2]}{STARS}", text)
    text = _BARE_USER.sub(f"{STARS}@", _without_assigned(text))
    parts, start = [], 0
    found = [(begin, quote) for begin, _, quote in _values(text)]
    ends = [*(begin for begin, _ in found[1:]), len(text)]
    for (begin, quote), end in zip(found, ends, strict=False):
        line, newline, rest = text[begin:end].partition("\n")
        parts += [text[start:begin], _redacted_line(line, quote), newline, rest]
        start = end
    return "".join(parts) + text[start:]


def redact_address(address: str) -> str:
    """Give the form of an address or a pipeline that may be shown.

    Args:
        address: Text that is one address from its first character to its last, whatever its password holds; or a
            GStreamer pipeline with addresses in it.

    Example:
        >>> redact_address("rtsp://admin:p@ss/word?@10.0.0.2/1?channel=2&pwd=x y")
        'rtsp://***@10.0.0.2/1?channel=2&pwd=***'
    """
    if _SCHEME.match(address) is None:
        address = _without_assigned(address)  # a password there may look like an address
    parts, start = [], 0
    for begin, end in _addresses(address):
        user, rest = _split_user(address[begin:end])
        path, query = _split_query(rest)
        shown_user = "" if user is None else f"{STARS}@"
        parts += [redact(address[start:begin]), shown_user, _without_assigned(path), _redacted_query(query)]
        start = end
    return "".join(parts) + redact(address[start:])


def public_name(name: str) -> str:
    """Give a name that may be shown: an address loses its secrets, any other name stays as it is.

    Args:
        name: Name of a camera, or of a frame with its `#number`.
    """
    if "://" not in name and " ! " not in name:
        return name
    camera, mark, number = name.rpartition("#")
    return f"{redact_address(camera)}#{number}" if mark and number.isdecimal() else redact_address(name)


def keep_secret(*secrets: str) -> None:
    """Let `redact` replace these values from now on, wherever they occur, encoded or not.

    Args:
        secrets: Passwords and tokens. Those under 4 characters are left out: they occur in ordinary words.
    """
    for secret in secrets:
        for form in {secret, unquote(secret)}:
            _REGISTRY.add(form)


def keep_address_secrets(address: str) -> None:
    """Let `redact` replace the secrets of an address from now on.

    Args:
        address: Address or pipeline as the user wrote it.
    """
    for begin, end in _addresses(address):
        user, rest = _split_user(address[begin:end])
        if user:
            _keep_user(user)
        _, query = _split_query(rest)
        for part in _SEPARATOR.split(query[1:]):
            key, value = _key_and_value(part)
            if not _is_harmless(key, value):
                keep_secret(value)
    for match in _ASSIGNED.finditer(address):
        value = address[match.end(1) : match.end()].strip("\"'")
        keep_secret(value, re.split(r"[_/?;&,]", value)[0])


def _keep_user(user_part: str) -> None:
    _REGISTRY.add(user_part, before="//", after="@")
    user, _, password = user_part.partition(":")
    keep_secret(password or user)
    if password:
        header = base64.b64encode(unquote(user_part).encode(errors="replace")).decode()
        keep_secret(user_part, header)


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of what stands behind each scheme, in a text that is one address or a pipeline."""
    first = _SCHEME.match(text)
    if first is not None:
        yield first.end(), len(text)
        return
    for begin, end, _ in _values(text):
        yield begin, end


def _values(text: str) -> Iterator[tuple[int, int, str]]:
    """Of each address in a text: start and end of what stands behind its scheme, and the character before it."""
    match = _SCHEME.search(text)
    while match is not None:
        quote = text[match.start() - 1 : match.start()]
        end = _end_of_value(text, match.end(), quote)
        yield match.end(), end, quote
        match = _SCHEME.search(text, end)


def _split_user(rest: str) -> tuple[str | None, str]:
    """The user part of what stands behind a scheme, None where there is none, and what follows its last `@`."""
    matches = list(_ANY_AT.finditer(rest))
    if not matches:
        return None, rest
    before = rest[: matches[-1].start()]
    if before.endswith("/") and not _COLON.search(before) and not _ANY_AT.search(before):
        return None, rest  # http://host/@name/picture.jpg
    return before, rest[matches[-1].end() :]


def _redacted_line(line: str, before: str) -> str:
    """The rest of a line behind a scheme, of which `before` is the character in front of the scheme."""
    end = _end_of_value(line, 0, before)
    word = line[:end]
    matches = list(_AT.finditer(line))
    if matches and not line.startswith(f"{STARS}@"):
        authority = _AUTHORITY_END.split(line, maxsplit=1)[0]
        # A sign in a later word belongs to the text behind the address, unless the address looks cut at a space.
        if _split_user(word)[0] is not None or not _HOST.fullmatch(authority):
            line = f"{STARS}@{line[matches[-1].end() :]}"
            word = line[: _end_of_value(line, 0, before)]
    path, query = _split_query(word)
    return path + _redacted_query(query) + line[len(word) :]


def _end_of_value(text: str, start: int, before: str) -> int:
    """Where a value ends: at the quote that it began with, or else at a space."""
    is_quoted = before in ("'", '"') and before != ""
    match = re.compile(rf"(?<!\\){before}" if is_quoted else r"\s").search(text, start)
    return len(text) if match is None else match.start()


def _without_assigned(text: str) -> str:
    return _ASSIGNED.sub(rf"\1{STARS}", _QUOTED_KEY.sub(rf"\1{STARS}", text))


def _split_query(rest: str) -> tuple[str, str]:
    match = _QUERY.search(rest)
    return (rest, "") if match is None else (rest[: match.start()], rest[match.start() :])


def _redacted_query(query: str) -> str:
    match = _QUERY.match(query)
    if match is None:
        return query
    shown, separator = [match[0]], match[0]
    for index, part in enumerate(_SEPARATOR.split(query[match.end() :])):
        if index % 2:
            separator = part
            shown.append(part)
        else:
            is_anchor = separator == "#" and _EQUALS.search(part) is None  # or the number of a frame
            shown.append(part if is_anchor else _redacted_part(part))
    return "".join(shown)


def _redacted_part(part: str) -> str:
    key, value = _key_and_value(part)
    if not part or part.startswith(STARS) or value.startswith(STARS) or _is_harmless(key, value):
        return part
    equals = _EQUALS.search(part)
    return STARS if equals is None else f"{part[: equals.end()]}{STARS}"


def _key_and_value(part: str) -> tuple[str, str]:
    match = _EQUALS.search(part)
    return (part, "") if match is None else (part[: match.start()], part[match.end() :])


def _is_harmless(key: str, value: str) -> bool:
    return key.lower() in _HARMLESS_KEYS and _HARMLESS_VALUE.fullmatch(value) is not None
