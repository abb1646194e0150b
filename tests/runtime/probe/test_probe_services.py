"""What a probe finds out about a real HTTP service, which fails on cue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgn_edge.errors import EngineError
from pgn_edge.runtime.probe import Finding, ProbeOptions, Report, run_probe
from pgn_edge.runtime.probe.finding import SURE, UNKNOWN
from pgn_edge.runtime.probe.units import CLIP
from tests.runtime.embedding_server import FORM_PATH, JSON_PATH, EmbeddingServer
from tests.runtime.probe.toys import OUT, SIDE, Toy, encoder, reference

REQUESTS = {
    JSON_PATH: 'request = "json"\nanswer = "data.*.embedding"\nbody = { model = "tiny", input = ["{data_url}"] }',
    FORM_PATH: 'request = "multipart"\nanswer = "embeddings"\nfield = "file"\nfields = { model = "tiny" }',
}
Probe = Callable[..., Report]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backbone that the service runs, as pgn-edge exports it."""
    path = tmp_path_factory.mktemp("stock") / "stock.onnx"
    path.write_bytes(reference(Toy(), CLIP))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingServer]:
    path = tmp_path_factory.mktemp("service") / "twin.onnx"
    path.write_bytes(encoder(Toy()))
    with EmbeddingServer("--onnx", path, "--mean", *CLIP.mean, "--std", *CLIP.std) as running:
        yield running


@pytest.fixture
def probe(server: EmbeddingServer, stock: Path, tmp_path: Path) -> Probe:
    """Probe the server, which behaves as its cue says; counted under the name of the test."""

    def run(path: str = JSON_PATH, known: bool = True, cue: Any = None, **options: Any) -> Report:
        config = tmp_path / "service.toml"
        config.write_text(f'url = "{server.url(path, **cue or {})}"\n{REQUESTS[path]}\nbatch = 4\n')
        return run_probe(config, ProbeOptions(**{"reference": stock if known else None, **options}))

    return run


def one(report: Report, what: str) -> Finding:
    return next(finding for finding in report.findings if finding.what == what)


def sure(report: Report) -> dict[str, str]:
    return {finding.what: finding.answer for finding in report.findings if finding.confidence >= SURE}


def test_a_service_as_it_should_be(probe: Probe):
    report = probe()
    expected = {
        "canvas": f"{SIDE} x {SIDE}",
        "formats": "png",
        "width": str(OUT),
        "colour order": "RGB",
        "normalisation": "inside",
        "deterministic": "yes",
        "extra patches": "cropped",
        "re-encoding": "lossless",
        "alpha": "dropped",
        "backbone": "yes",
    }
    assert expected.items() <= sure(report).items()
    assert one(report, "rate limit").answer == UNKNOWN
    assert "Unsupported" in one(report, "formats").evidence or "webp is refused" in one(report, "formats").evidence
    options = report.settings.options
    assert (options["layout"], options["library space"], options["transport"]) == ("inset", "pixel", "png")
    assert "--uint8 --transport png" in report.settings.commands[1]
    assert report.calls <= 100, "the help says how many"


def test_a_form_without_a_reference_finds_the_size_by_itself(probe: Probe):
    report = probe(FORM_PATH, known=False)
    assert {"canvas": f"{SIDE} x {SIDE}", "re-encoding": "lossless"}.items() <= sure(report).items()
    assert "a large picture is answered as in its full size" in one(report, "canvas").evidence
    assert "--reference" in one(report, "backbone").evidence
    assert "415" not in one(report, "formats").evidence, "its own words"
    assert report.calls <= 100


def test_a_service_that_resizes(probe: Probe):
    report = probe(cue={"fault": "resize"})
    assert sure(report)["re-encoding"] == "resampled"
    assert not report.settings.adaptable
    assert "--size" in report.settings.notes[0]


def test_a_service_that_re_encodes(probe: Probe):
    report = probe(cue={"fault": "reencode"})
    assert {"re-encoding": "jpeg:75", "backbone": "alike"}.items() <= sure(report).items()
    assert "--transport jpeg:75" in report.settings.commands[0]
    assert one(report, "extra patches").answer in (UNKNOWN, "cropped")


def test_a_backbone_is_not_denied_where_pixels_do_not_arrive(server: EmbeddingServer, tmp_path: Path, probe: Probe):
    (tmp_path / "other.onnx").write_bytes(reference(Toy(seed=1), CLIP))
    report = probe(cue={"fault": "reencode"}, reference=tmp_path / "other.onnx")
    assert one(report, "backbone").answer == UNKNOWN
    assert "pixels do not reach it as they were sent: jpeg:75" in one(report, "backbone").evidence


def test_another_dimension_is_told_with_both(probe: Probe):
    report = probe(cue={"fault": "narrow"}, most_calls=20)
    assert sure(report)["width"] == str(OUT - 1)
    assert one(report, "backbone").answer == "unknown"
    assert f"{OUT - 1} and {OUT} numbers" in one(report, "backbone").evidence
    assert f"another dimension than the {OUT}" in one(report, "width").evidence


def test_a_limited_rate_is_waited_for(probe: Probe):
    report = probe(cue={"status": 429, "times": 1, "key": "rate"}, most_calls=20)
    assert sure(report)["rate limit"] == "limited"
    assert "status 429 1 times in 20 requests; waited 0.5 s" in one(report, "rate limit").evidence


def test_sizes_that_are_refused_are_told(probe: Probe):
    cue = {"status": 422, "times": 1, "key": "size", "said": "image size must be 224"}
    report = probe(cue=cue, most_calls=20)
    assert sure(report)["sizes refused"] == f"{SIDE} x {SIDE}"
    assert one(report, "sizes refused").evidence == "it said: image size must be 224"


@pytest.mark.parametrize(
    ("cue", "says"),
    [
        pytest.param({"status": 413, "said": "image too large"}, "rejects the size.*image too large", id="every size"),
        pytest.param({"status": 415, "said": "only TIFF"}, "rejects the format.*only TIFF", id="every format"),
        pytest.param({"token": "secret"}, "refuses the token", id="no rights"),
    ],
)
def test_a_service_that_takes_nothing(probe: Probe, cue: dict[str, Any], says: str):
    with pytest.raises(EngineError, match=says):
        probe(cue={**cue, "key": says}, known=False)
