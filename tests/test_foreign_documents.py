"""Files, answers and settings from outside: only errors of our own tree come out, whatever stands in them."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgn_edge.cli.run_config import read_config
from pgn_edge.contract import EngineFacts
from pgn_edge.documents import PgnEdgeWarning, parse_json, read_toml
from pgn_edge.errors import DataError, EngineError, PgnEdgeError
from pgn_edge.runtime.bench_compare import read_earlier
from pgn_edge.runtime.bench_options import BenchOptions
from pgn_edge.runtime.engines import TritonOptions
from pgn_edge.runtime.engines.base import TensorSpec
from pgn_edge.runtime.engines.service_answer import Expected, read_answer
from pgn_edge.runtime.engines.service_config import read_service
from pgn_edge.runtime.engines.triton_model import ServedModel
from pgn_edge.runtime.engines.triton_options import TritonAddress
from pgn_edge.runtime.engines.triton_session import Session
from pgn_edge.runtime.http_client import HttpAnswer
from pgn_edge.sidecar import read_sidecar, sidecar_path, write_sidecar
from pgn_edge.train.recipe import read_recipe
from tests.cli.test_run_config import WHOLE
from tests.core.test_sidecar import FACTS, PLAN, SIDECAR
from tests.runtime.test_service_config import FORM, OPENAI

DEEP = "[" * 5000 + "]" * 5000
SHARED = [DEEP, "9" * 5000, "9" * 400, "-" + "9" * 400, "9" * 20, "1e999", "-1", "0", "1.5", "true", '""', '"x"', "[]"]
JSON_VALUES = [
    *SHARED,
    *("Infinity", "-Infinity", "NaN", "null", "{}", '{"a": 1}', "[[1]]", "[null]", '"\\ud800"', '"\\u0000"'),
    json.dumps("x" * 10_000),
]
TOML_VALUES = [*SHARED, "inf", "nan", "{}", "{ a = 1 }", "[[1]]", '"\\u0000"', '"http://["', "1979-05-27", '"${NONE}"']


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all values, containers included."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: str) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


def edits(document: Any) -> Iterator[str]:
    """The document as text, with one value after the other replaced by each of the nasty ones."""
    for path, raw in itertools.product(leaves(document), JSON_VALUES):
        yield json.dumps(put(document, path, "@@")).replace('"@@"', raw)


def only_ours(read: Callable[[], Any], what: str) -> None:
    try:
        with contextlib.suppress(PgnEdgeError):
            read()
    except Exception as exc:
        raise AssertionError(f"{type(exc).__name__}: {str(exc)[:200]}, of {what[:300]}") from exc


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "nested too deeply"),
        ("9" * 5000, "more than 64 bits"),
        ("[18446744073709551616]", "more than 64 bits"),
        ('{"a": Infinity}', "Infinity, which JSON does not have"),
        ("1e999", "not finite"),
        ('{"a": ', "Expecting value"),
        (b"\xff", "utf-8"),
    ],
    ids=["brackets", "digits", "65 bits", "infinity", "a huge exponent", "half a document", "no UTF-8"],
)
def test_a_document_that_a_parser_chokes_on_is_one_error_of_the_callers_kind(text: str | bytes, message: str):
    with pytest.raises(DataError, match="the file: expected a JSON document") as caught:
        parse_json(text, "the file", DataError, "export it again")
    assert message in str(caught.value)


def test_numbers_of_64_bits_are_read_as_they_are():
    text = f"[{-(1 << 63)}, {(1 << 64) - 1}, 0.5]"
    assert parse_json(text, "the file", DataError, "") == [-(1 << 63), (1 << 64) - 1, 0.5]


@pytest.mark.parametrize("value", [DEEP, "9" * 5000, "9" * 400, "inf", "nan", "1e999"], ids=lambda value: value[:4])
def test_toml_that_a_parser_chokes_on_names_the_file(tmp_path: Path, value: str):
    path = tmp_path / "app.toml"
    path.write_text(f"queue = {value}\n")
    with pytest.raises(EngineError, match=r"app.toml: expected TOML"):
        read_toml(path, EngineError)


RUN = 'vit = "vit.onnx"\n[tasks]\npets = "pets.pgn"\n[cameras.front]\nsource = "0"\n'
SERVICE = 'url = "https://host/v1"\nrequest = "json"\nanswer = "data"\nbody = { image = "{base64}" }\n'


@pytest.mark.parametrize(
    ("read", "text", "key"),
    [
        (read_config, RUN + '[web]\nlisten = "8080"\ntoken = "s3cret"\n', "web.token"),
        (read_config, RUN + '[sinks.mqtt]\nhost = "broker"\nuser = "u"\npassword = "s3cret"\n', "sinks.mqtt.password"),
        (read_config, RUN.replace('"0"', '"rtsp://admin:s3cret@10.0.0.2/live"'), "cameras.front.source"),
        (read_service, SERVICE + 'token = "s3cret"\n', "token"),
        (read_service, SERVICE + 'headers = { X-API-Key = "s3cret" }\n', "headers.X-API-Key"),
    ],
    ids=["page", "broker", "camera", "service", "header"],
)
@pytest.mark.parametrize(("mode", "may"), [(0o644, "read"), (0o666, "change")])
def test_a_config_that_holds_a_secret_and_is_open_to_all_is_warned_of(
    tmp_path: Path, read: Callable[[Path], Any], text: str, key: str, mode: int, may: str
):
    path = tmp_path / "app.toml"
    path.write_text(text)
    path.chmod(mode)
    with pytest.warns(PgnEdgeWarning, match=f"may {may} this file.*{key}.*chmod 600") as caught:
        read(path)
    assert len(caught) == 1
    assert "s3cret" not in str(caught[0].message)


def test_a_private_config_and_one_that_names_variables_are_not_warned_of(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PAGE", "s3cret")
    path = tmp_path / "app.toml"
    path.write_text(RUN + '[web]\nlisten = "8080"\ntoken = "${PAGE}"\n')
    path.chmod(0o666)
    read_config(path)
    path.write_text(RUN + '[web]\nlisten = "8080"\ntoken = "s3cret"\n')
    path.chmod(0o600)
    read_config(path)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        pytest.param(WHOLE, read_config, id="run"),
        pytest.param(OPENAI + 'token = "x"\ndeadline_s = 1\nretries = 1\n', read_service, id="service"),
        pytest.param(FORM + "batch = 2\nin_flight = 1\nbreaker_pause_s = 1\n", read_service, id="form"),
        pytest.param('epochs = 2\nlr = 0.1\nbackbone = "builtin"\nprompts = 4\n', read_recipe, id="recipe"),
    ],
)
def test_any_value_of_a_config_is_taken_or_refused(tmp_path: Path, monkeypatch, text: str, read: Callable[[Path], Any]):
    for name in ("FRONT", "HOOK", "PAGE"):
        monkeypatch.setenv(name, "secret")
    path, lines = tmp_path / "app.toml", text.splitlines()
    path.touch(mode=0o600)
    for at, value in itertools.product(range(len(lines)), TOML_VALUES):
        key, sign, _ = lines[at].partition("=")
        if sign:
            path.write_text("\n".join([*lines[:at], f"{key}= {value}", *lines[at + 1 :]]))
            only_ours(lambda: read(path), f"{key}= {value}")


def test_any_value_of_a_sidecar_is_taken_or_refused(tmp_path: Path):
    plan = tmp_path / "vit.plan"
    plan.write_bytes(PLAN)
    write_sidecar(plan, SIDECAR)
    good = json.loads(sidecar_path(plan).read_text())
    for text in edits(good):
        sidecar_path(plan).write_text(text)
        only_ours(lambda: read_sidecar(plan), text)


def test_any_value_of_an_engines_facts_is_taken_or_refused():
    good = FACTS.to_metadata()
    for key in good:
        for raw in [*JSON_VALUES, b"\xff", "{", "é"]:
            only_ours(lambda: EngineFacts.from_metadata({**good, key: raw}, "vit.onnx"), f"{key} {raw!r}")  # noqa: B023
    only_ours(lambda: EngineFacts.from_metadata({b"\xff": "1", **good}, "vit.onnx"), "a key of bytes")


def test_any_value_in_what_a_triton_server_says_of_a_model_is_taken_or_refused():
    tensors = [{"name": "canvas", "datatype": "FP32", "shape": [-1, 3, 64, 64]}]
    metadata = {"versions": ["1"], "inputs": tensors, "outputs": tensors}
    facts = {key: {"string_value": value} for key, value in FACTS.to_metadata().items()}
    good = {"metadata": metadata, "config": {"max_batch_size": 8, "parameters": facts}}
    first = ServedModel.read(metadata, good["config"], "triton", "")
    for text in edits(good):
        with contextlib.suppress(ValueError, RecursionError):  # the client library parses it, and maps those
            document = json.loads(text)
            if isinstance(document, dict) and document.keys() == good.keys():
                only_ours(lambda: _served(document, first), text)  # noqa: B023


class Said:
    """Result of tritonclient, reduced to what the server said of the output."""

    def __init__(self, output: Any) -> None:
        self.output = output

    def get_output(self, name: str) -> Any:
        return self.output

    def as_numpy(self, name: str) -> np.ndarray:
        return np.zeros((1, 4), np.float32)


def test_infinity_in_the_shape_of_a_triton_answer_is_one_error():
    pytest.importorskip("tritonclient.http")
    session = Session(TritonAddress.parse("triton+http://localhost:1/vit"), TritonOptions())
    spec = TensorSpec((None, 4), np.dtype(np.float32))
    good = {"name": "y", "shape": [1, 4], "datatype": "FP32"}
    assert session._answer(Said(good), "y", spec, (1, 4), None).shape == (1, 4)
    with pytest.raises(EngineError, match="an unreadable answer"):
        session._answer(Said({**good, "shape": [float("inf"), 4]}), "y", spec, (1, 4), None)
    for text in edits(good):
        with contextlib.suppress(ValueError, RecursionError):
            output = json.loads(text)
            only_ours(lambda: session._answer(Said(output), "y", spec, (1, 4), None), text)  # noqa: B023
            only_ours(lambda: session._check_header(output, "1", "1"), text)  # noqa: B023


def _served(document: dict[str, Any], first: ServedModel) -> None:
    first.check_same(ServedModel.read(document["metadata"], document["config"], "triton", ""), "triton")


def test_any_value_in_the_answer_of_a_service_is_taken_or_refused():
    expected = Expected("service", ("data", "*", "embedding"), 1, 3)
    for text in edits({"data": [{"index": 0, "embedding": [0.5, 1, 2]}]}):
        for status in (200, 400, 302):
            answer = HttpAnswer(status, text.encode(errors="surrogatepass"), True, True, 0.0, "http://[")
            only_ours(lambda: read_answer(answer, expected), text)  # noqa: B023


def test_any_value_of_an_earlier_benchmark_is_taken_or_refused(tmp_path: Path):
    path = tmp_path / "before.json"
    options = {"scenario": "single-stream", "frames": 1}
    good = {"schema": 1, "samples_ms": {"task": [1.0, 2.0]}, "options": options, "parts": [], "environment": {}}
    for text in edits(good):
        path.write_text(text)
        only_ours(lambda: read_earlier(path, BenchOptions()), text)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_byte_of_a_graph_is_refused_or_does_no_harm(tiny_pair, tmp_path: Path, data: st.DataObject):
    from pgn_edge.export.compile import _read
    from pgn_edge.export.inspection import inspect_file

    good = tiny_pair.vit.read_bytes()
    # Weights fill the middle, and any bytes there are weights: the structure is at both ends.
    place = data.draw(st.one_of(st.integers(0, 3000), st.integers(len(good) - 6000, len(good) - 1)), "place")
    length = data.draw(st.integers(1, 4), "length")
    path = tmp_path / "damaged.onnx"
    path.write_bytes(good[:place] + data.draw(st.binary(max_size=4), "bytes") + good[place + length :])
    for read in (inspect_file, _read):
        only_ours(lambda: read(path), f"{read.__name__} at {place}")  # noqa: B023


def graph_with(key: str, value: str) -> bytes:
    """A graph of one node whose metadata hold these texts."""
    import onnx

    tensors = [onnx.helper.make_tensor_value_info(name, 1, [1, 4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, {key: value})
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("place", ["@key", "@value", "x", "y"])
def test_names_and_metadata_that_are_no_utf8_are_refused_by_the_runtime_too(tmp_path: Path, place: str):
    from pgn_edge.export.compile import _read
    from pgn_edge.export.inspection import inspect_file
    from pgn_edge.runtime.engines import open_engine

    path, mark = tmp_path / "odd.onnx", place.encode()
    path.write_bytes(graph_with("pgn_edge.@key", "@value").replace(mark, b"\xff" * len(mark)))
    for read in (open_engine, inspect_file, _read):
        with pytest.raises(EngineError):
            read(path)


@pytest.mark.parametrize("size", [0, 1, 2, 100, 4096])
def test_garbage_with_the_name_of_a_graph_is_refused_by_inspect_and_compile(tmp_path: Path, size: int):
    from pgn_edge.export.compile import _read
    from pgn_edge.export.inspection import inspect_file

    path = tmp_path / "garbage.onnx"
    for seed in range(40):
        path.write_bytes(np.random.default_rng(seed).bytes(size))
        for read in (inspect_file, _read):
            only_ours(lambda: read(path), f"{read.__name__} with seed {seed}")  # noqa: B023
