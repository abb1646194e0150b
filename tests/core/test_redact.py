"""No text that leaves the program holds a secret: any password, any shape of address, any encoding."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgn_edge.redact
from pgn_edge.errors import DataError
from pgn_edge.known_secrets import Registry
from pgn_edge.redact import keep_address_secrets, keep_secret, public_name, redact, redact_address

SCHEMES = st.sampled_from(["rtsp", "RTSP", "rtsps", "http", "https", "mqtt"])
HOSTS = st.sampled_from(["10.0.0.2", "gate.local:8554", "[fe80::1]:554", "käfer.example"])
PATHS = st.sampled_from(["", "/", "/stream/1", "/snap.jpg", "/x?channel=2&subtype=0"])
AWKWARD = st.text(st.sampled_from(" /?#@:\"'\\&%+!=;<>{}$é\t") | st.characters(codec="utf-8"), max_size=20)
# Long enough, and unlike every other word of a message.
USERS = AWKWARD.filter(lambda text: ":" not in text)
SECRETS = AWKWARD.map(lambda text: f"Zq9{text}x7W")
KEYS = st.sampled_from(
    ["password", "passwd", "pwd", "pass", "token", "key", "api_key", "secret", "auth", "sig", "signature", "session"]
)


@pytest.fixture(autouse=True)
def no_secrets_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgn_edge.redact, "_REGISTRY", Registry())


def forget() -> None:
    pgn_edge.redact._REGISTRY = Registry()


def partly_encoded(text: str) -> str:
    return "".join(f"%{ord(c):02x}" if index % 2 and ord(c) < 128 else c for index, c in enumerate(text))


SPELLINGS: tuple[Callable[[str], str], ...] = (
    *(str, quote, quote_plus, html.escape, repr, partly_encoded),
    *(lambda text: quote(text, safe=""), lambda text: quote(quote(text, safe=""), safe="")),
    *(json.dumps, lambda text: json.dumps(text, ensure_ascii=False), lambda text: quote(text, safe="").lower()),
)
MESSAGES = (
    "{}: 401 Unauthorized",
    "[rtsp @ 0x55d0c8] Could not open {}: Server returned 401 Unauthorized (authorization failed)",
    'OpenCV: Couldn\'t read video stream from file "{}"',
    "HTTPConnectionPool(host='cam', port=80): Max retries exceeded with url: {} (Caused by NewConnectionError())",
    "mail me@example.com about {} please",
    "{}\n{}",
)


def every_reading(text: str) -> Iterator[str]:
    yield text
    yield html.unescape(text)
    yield text.replace("+", " ")
    for _ in range(3):
        text = unquote(text)
        yield text
        yield text.replace("+", " ")


@given(SCHEMES, AWKWARD, AWKWARD, HOSTS, PATHS)
def test_an_address_is_shown_without_its_user_whatever_the_password_holds(
    scheme: str, user: str, password: str, host: str, path: str
) -> None:
    shown = f"{scheme}://***@{host}{path}"
    assert redact_address(f"{scheme}://{user}:{password}@{host}{path}") == shown
    assert redact_address(shown) == redact(shown) == shown, "what is redacted stays as it is"


@given(SCHEMES, HOSTS, KEYS, AWKWARD.filter(lambda text: not set(text) & set("&;#@?")))
def test_a_secret_of_a_query_is_not_shown(scheme: str, host: str, key: str, secret: str) -> None:
    address = f"{scheme}://{host}/x?channel=2&{key}={quote(secret)}&user=me"
    assert redact_address(address) == redact(address) == f"{scheme}://{host}/x?channel=2&{key}=***&user=***"
    assert redact_address(f"{scheme}://{host}/x?{key}={secret}") == f"{scheme}://{host}/x?{key}=***"


@given(USERS, SECRETS, HOSTS, PATHS, st.sampled_from(MESSAGES), st.sampled_from(SPELLINGS))
def test_a_known_password_is_in_no_message_that_quotes_the_address_in_any_encoding(
    user: str, secret: str, host: str, path: str, message: str, spell: Callable[[str], str]
) -> None:
    forget()
    address = f"rtsp://{user}:{secret}@{host}{path}"
    keep_address_secrets(address)
    for text in (message.replace("{}", spell(address)), message.replace("{}", spell(secret))):
        shown = redact(text)
        assert all("Zq9" not in reading for reading in every_reading(shown)), (text, shown)
        error = DataError(text, expected=text, got=text, do=text)
        assert "Zq9" not in f"{error} {error.subject} {error.got} {error!r}"


@given(SECRETS, SECRETS)
def test_passwords_of_a_pipeline_are_not_shown(first: str, second: str) -> None:
    forget()
    inside, value = quote(first, safe=""), second.replace("\\", "\\\\").replace('"', '\\"')
    pipeline = f'rtspsrc location="rtsp://me:{inside}@10.0.0.2/1" user-id="me" user-pw="{value}" ! decodebin ! appsink'
    shown = 'rtspsrc location="rtsp://***@10.0.0.2/1" user-id=*** user-pw=*** ! decodebin ! appsink'
    assert redact_address(pipeline) == redact(pipeline) == shown
    keep_address_secrets(pipeline)
    assert "Zq9" not in redact(f"gst_parse_launch: no element near {inside!r} or {value}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:two words@HOST/x", "rtsp://***@HOST/x"),
        ("rtsp://admin:a/b?c#d@HOST/x", "rtsp://***@HOST/x"),
        ("rtsp://TOKEN@HOST/x", "rtsp://***@HOST/x"),
        ("http://cam/v.mjpg?user=a&passwd=b", "http://cam/v.mjpg?user=***&passwd=***"),
        ("http://cam/v.mjpg?loginuse=a&loginpas=b", "http://cam/v.mjpg?loginuse=***&loginpas=***"),
        ("http://cam/v.mjpg?a&b&amp;pwd=c", "http://cam/v.mjpg?***&***&amp;pwd=***"),
        ("rtsp://cam:554/user=admin_password=abc_channel=1.sdp?real_stream", "rtsp://cam:554/user=admin_password=***"),
        ('rtspsrc location="rtsp://a b:c d@h/1" ! appsink', 'rtspsrc location="rtsp://***@h/1" ! appsink'),
        (
            "rtspsrc location=rtsp://a:b@c/1 user-pw=s@3 ! appsink",
            "rtspsrc location=rtsp://***@c/1 user-pw=*** ! appsink",
        ),
        ("admin:secret@10.0.0.2/stream", "***@10.0.0.2/stream"),
        ("rtsp:/admin:secret@10.0.0.2/stream", "***@10.0.0.2/stream"),
        ("GET /snap.jpg?token=abc HTTP/1.1", "GET /snap.jpg?token=*** HTTP/1.1"),
        ("http%3A%2F%2Fu%3Ap%40h%2Fx%3Ftoken%3Dabc%26b", "http%3A%2F%2F***@h%2Fx%3Ftoken%3D***%26***"),
        ('{"password": "a b", "label": "owl"}', '{"password": ***, "label": "owl"}'),
        ("Authorization: Basic YTpi", "Authorization: ***"),
        ("sent Bearer abcdef0123456789", "sent Bearer ***"),
        ("MqttOptions(user='me', password='a b')", "MqttOptions(user='me', password=***)"),
    ],
)
def test_secrets_are_found_by_their_place_alone(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://10.0.0.2:554/stream#12: expected a picture, got none",
        "[rtsp @ 0x55d0c8] method DESCRIBE failed: 404 Not Found",
        "rtsp://cam:554/1 does not open; write to me@example.com",
        "http://host/@name/picture.jpg",
        "sinks.mqtt.password: expected a string, got int; change it",
        "pets.pgn: expected sha256 digest abcdef0123456789, got another; export it again",
        "run: pip install 'pgn-edge[cpu]'",
        "monkey=1, inside=2, 12:30 @ noon, a@b.c",
    ],
)
def test_texts_without_a_secret_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_a_basic_header_of_a_known_user_is_not_shown() -> None:
    keep_address_secrets("rtsp://admin:two%20words@cam/1")
    header = base64.b64encode(b"admin:two words").decode()
    assert header not in redact(f"the camera refused {header}")


def test_names_keep_their_numbers_and_files_keep_their_names() -> None:
    assert public_name("rtsp://a:b@cam/1?channel=2#12") == "rtsp://***@cam/1?channel=2#12"
    assert public_name("token=1.jpg") == "token=1.jpg"


def test_a_short_secret_does_not_eat_words() -> None:
    keep_secret("door", "cat")
    assert redact("the doors, a door and the cat") == "the doors, a *** and the cat"


@pytest.mark.parametrize("text", ["timm:test_vit@224: expected", "try open_clip:ViT-B-32/openai@336.", "dino:vit@96"])
def test_a_backbone_with_its_image_size_is_no_address(text: str):
    assert redact(text) == text


@pytest.mark.parametrize("text", ["timm:secret@10.0.0.2/x", "open_clip:secret@224.example.org", "dino:secret@cam"])
def test_an_address_whose_user_is_named_as_a_family_of_backbones_is_one(text: str):
    assert "secret" not in redact(text)
