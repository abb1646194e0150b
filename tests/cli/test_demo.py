"""The parts of the demo's report that need no demo."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch import nn

from pgn_edge.bundle import read_bundle
from pgn_edge.cli.demo import NAMES
from pgn_edge.cli.demo.report import Sample, canvas_strip, demo_html
from pgn_edge.cli.demo.steps import _Steps, run_demo
from pgn_edge.errors import OutputError
from pgn_edge.left_out import LeftOut
from pgn_edge.progress import silent
from pgn_edge.runtime import Runtime
from pgn_edge.runtime.bench import BenchOptions, run_bench
from pgn_edge.train.data.dataset import DataSet, LabelSpace
from pgn_edge.train.data.samples import Arrays
from pgn_edge.train.loop import History
from pgn_edge.train.task import TrainReport


@pytest.fixture
def samples(tiny_pair) -> list[Sample]:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    with Runtime(tiny_pair.vit, {"tiny": tiny_pair.task}, canvases=True) as runtime:
        return [Sample(runtime.infer("tiny", image), "7", runtime.facts) for image in images]


def test_the_strip_shows_every_canvas(samples: list[Sample]):
    picture = cv2.imdecode(np.frombuffer(canvas_strip(samples), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (3 * 80, 3 * (3 * 64 + 2 * 4), 3)


def test_the_page_holds_every_number_and_escapes_what_it_is_told(samples: list[Sample], tiny_pair, tmp_path: Path):
    bundle = read_bundle(tiny_pair.task)
    split = Arrays(bundle.golden.images, bundle.golden.top1, "tiny")
    data = DataSet("tiny", (LabelSpace(("<b>", *bundle.head.labels[1:]), "{}"),), split, split, split, {})
    history = History([1.0, 0.5], [0.25, 0.75])
    model: Any = nn.Identity()
    trained = TrainReport(tmp_path, model, data, bundle.facts.preprocess, history, 1.0, LeftOut(), "zero-shot")
    bench = run_bench(tiny_pair.vit, task=tiny_pair.task, stock=tiny_pair.stock, options=BenchOptions(2, 1, (48, 64)))
    accuracy = {key: 0.101 + index / 100 for index, key in enumerate(NAMES)}
    results = {"accuracy": accuracy, "parity": list(bundle.parity), "certificate": dict(bundle.certificate)}
    page = demo_html(results, trained, split.labels, samples, bench, b"clip")
    for key, value in accuracy.items():
        assert f'<td>{escape(NAMES[key])}</td><td class="n">{value:.1%}</td>' in page
    for rung in bundle.parity:
        assert rung["rung"] in page
    certificate = page.partition("Certificate of the inversion")[2].partition("</table>")[0]
    said = dict(re.findall(r"<td>([^<]*)</td><td[^>]*>([^<]*)</td>", certificate))
    assert (said["fp16 overflow"], said["ridge"], said["width"]) == ("no", "none", "128"), said
    assert not {"None", "True", "False"} & set(re.findall(r"\w+", certificate))
    assert page.count("<img") == 5
    assert 'src="data:video/mp4;base64,Y2xpcA=="' in page
    assert "<script" not in page
    assert 'src="http' not in page


def test_steps_are_counted_around_the_bars_of_each():
    told = []
    step = _Steps(lambda *what: told.append(what), total=2)
    with step("first"):
        step.inner("PGN")("training", 3, 4, "loss 1")
    assert told == [("demo", 0, 2, "first"), ("training: PGN", 3, 4, "loss 1"), ("demo", 1, 2, "first")]


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError):
        run_demo(tmp_path / "file" / "demo", epochs=1, seed=0, progress=silent)
