"""The answer record: which fields it has, and what tells two runs, two cameras and two bundles apart."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pgn_edge.runtime import Runtime
from pgn_edge.runtime.app import RunSummary, run_app
from pgn_edge.runtime.cameras import Camera, run_cameras
from pgn_edge.runtime.record import SCHEMA, AnswerRecord, utc
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import CallbackSink, JsonlSink
from pgn_edge.runtime.sources import Frame, open_source

IMAGE = np.zeros((48, 64, 3), np.uint8)
RESULT = Result("pets", "owl", 1.0, np.ones(1, np.float32), ("owl",), np.zeros(8, np.float32), None, {"vit": 1.0})
FIELDS = ["schema", "run", "at", "camera", "sequence", "name", "time_s"]
ANSWER = ["task", "bundle", "label", "score", "top", "degraded", "timings_ms"]


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_fields_stand_in_their_documented_order() -> None:
    record = AnswerRecord.of(Frame(4, "door#7", None, IMAGE, sequence=7, at_s=0.25), RESULT).to_json()
    assert list(record) == FIELDS + ANSWER
    assert (record["schema"], record["at"], record["sequence"]) == (SCHEMA, "1970-01-01T00:00:00.250Z", 7)
    docs = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text()
    assert [field for field in record if f"| `{field}` |" not in docs] == []


def test_a_time_is_utc_wherever_the_device_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert utc(1772366401.5) == "2026-03-01T12:00:01.500Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_number_breaks_the_json_of_an_answer(number: float) -> None:
    document = replace(RESULT, score=number, timings_ms={"vit": number}).to_json()
    assert (document["score"], document["timings_ms"]) == (None, {"vit": None})
    json.dumps(document, allow_nan=False)


def test_two_runs_into_one_file_can_be_told_apart(tiny_pair, tmp_path: Path) -> None:
    path, summaries = tmp_path / "out.jsonl", list[RunSummary]()
    with Runtime(tiny_pair.vit, {"pets": tiny_pair.task}, threads=1) as runtime:
        for _ in range(2):
            source = open_source(iter([IMAGE]))
            summaries.append(run_app(runtime, source, [JsonlSink(path, append=True)], camera="door"))
    first, second = lines_of(path)
    assert [first["run"], second["run"]] == [summary.run for summary in summaries]
    assert first["run"] != second["run"]
    assert re.fullmatch(r"[0-9a-f]{12}", str(first["run"]))
    assert (first["camera"], first["name"]) == ("door", "door#0")
    assert list(summaries[0].cameras) == ["door"]
    assert str(first["at"]) <= str(second["at"])


def test_an_answer_names_the_bundle_that_gave_it(tiny_pair, tmp_path: Path) -> None:
    with Runtime(tiny_pair.vit, {"pets": tiny_pair.task}, threads=1) as runtime:
        result = runtime.infer("pets", IMAGE)
    assert result.bundle == hashlib.sha256(Path(tiny_pair.task).read_bytes()).hexdigest()[:12]


def test_an_image_among_several_cameras_keeps_the_name_of_its_file(tiny_pair, tmp_path: Path) -> None:
    import cv2

    (tmp_path / "shelf").mkdir()
    cv2.imwrite(str(tmp_path / "shelf" / "box.png"), IMAGE)
    seen: list[Frame] = []
    with Runtime(tiny_pair.vit, {"pets": tiny_pair.task}, threads=1) as runtime:
        shelf = Camera("shelf", open_source(str(tmp_path / "shelf")), ("pets",))
        door = Camera("door", open_source(iter([IMAGE])), ("pets",))
        summary = run_cameras(runtime, [shelf, door], [CallbackSink(lambda frame, _: seen.append(frame))])
    assert {(frame.camera, frame.name) for frame in seen} == {("shelf", "box.png"), ("door", "door#0")}
    assert {frame.run for frame in seen} == {summary.run}


def test_frames_of_a_loop_of_ones_own_share_the_run_of_their_process() -> None:
    runs = {Frame(index, f"door#{index}", None, IMAGE).run for index in range(3)}
    assert len(runs) == 1
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, Frame(0, "door#0", None, IMAGE).run.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert {os.read(read, 100).decode()}.isdisjoint(runs)
