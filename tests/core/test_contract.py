"""The facts that travel with every engine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pgn_edge.contract import PREFIX, EngineFacts
from pgn_edge.errors import EngineError, GeometryError, PgnEdgeError
from pgn_edge.geometry import Geometry
from pgn_edge.preprocess import Preprocess

FACTS = EngineFacts(
    role="vit",
    backbone="open_clip:ViT-B-32/openai",
    fingerprint="ab" * 32,
    geometry=Geometry((224, 224), 32, 16),
    preprocess=Preprocess((224, 224), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
    precision="fp16",
    opset=20,
    output="embedding",
)
GOOD = FACTS.to_json()


def test_survives_json():
    assert EngineFacts.from_json(json.loads(json.dumps(GOOD)), "here") == FACTS


def test_facts_from_before_there_were_other_canvases():
    old = {key: value for key, value in GOOD.items() if key not in ("canvas", "transport")}
    assert EngineFacts.from_json(old, "here") == FACTS


def test_a_canvas_of_eight_bits_that_loses_something():
    facts = replace(FACTS, canvas="uint8", transport="jpeg:75")
    assert EngineFacts.from_metadata(facts.to_metadata(), "here") == facts


def test_survives_metadata_beside_foreign_keys():
    metadata = {**FACTS.to_metadata(), "author": "someone else", "names": "{0: 'cat'}"}
    assert EngineFacts.from_metadata(metadata, "here") == FACTS


def test_metadata_are_strings_under_one_prefix():
    for key, value in FACTS.to_metadata().items():
        assert key.startswith(PREFIX)
        assert isinstance(value, str)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param({}, "no pgn_edge facts", id="nothing"),
        pytest.param({**GOOD, "schema": 2}, "schema 2", id="a later schema"),
        pytest.param({**GOOD, "schema": "1"}, "schema '1'", id="schema as a word"),
        pytest.param({k: v for k, v in GOOD.items() if k != "opset"}, "opset", id="a field is missing"),
        pytest.param({**GOOD, "role": "head"}, "'head'", id="unknown role"),
        pytest.param({**GOOD, "precision": "fp8"}, "'fp8'", id="unknown precision"),
        pytest.param({**GOOD, "output": ["embedding"]}, r"at `\$.output`", id="a list for a word"),
        pytest.param({**GOOD, "canvas": "uint16"}, "'uint16'", id="unknown canvas"),
        pytest.param({**GOOD, "transport": "gif"}, "'gif'", id="unknown transport"),
        pytest.param(
            {**GOOD, "transport": 75}, r"Expected `str`, got `int` - at `\$.transport`", id="a number for a transport"
        ),
        pytest.param(
            {**GOOD, "opset": "latest"}, r"Expected `int`, got `str` - at `\$.opset`", id="a word for a number"
        ),
        pytest.param(
            {**GOOD, "opset": float("inf")}, r"Expected `int`, got `float` - at `\$.opset`", id="Infinity for a number"
        ),
    ],
)
def test_facts_that_make_no_sense(data: dict[str, Any], says: str):
    with pytest.raises(EngineError, match=says):
        EngineFacts.from_json(data, "here")


@pytest.mark.parametrize("key", ["geometry", "preprocess"])
@pytest.mark.parametrize("value", [None, {}, [], "text", 1], ids=repr)
def test_parts_that_make_no_sense(key: str, value: Any):
    with pytest.raises(GeometryError):
        EngineFacts.from_json({**GOOD, key: value}, "here")


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({}, id="no metadata"),
        pytest.param({"author": "someone"}, id="foreign metadata"),
        pytest.param({**FACTS.to_metadata(), PREFIX + "role": "vit"}, id="not JSON"),
        pytest.param({**FACTS.to_metadata(), PREFIX + "role": "[" * 100_000}, id="nested without end"),
    ],
)
def test_metadata_that_make_no_sense(metadata: dict[str, str]):
    with pytest.raises(PgnEdgeError) as caught:
        EngineFacts.from_metadata(metadata, "vit.onnx")
    assert str(caught.value).startswith("vit.onnx: ")
