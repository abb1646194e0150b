"""What the page remembers: right numbers, nothing that grows, nothing that JSON cannot hold."""

from __future__ import annotations

import json
import threading
import tracemalloc
from dataclasses import replace
from time import monotonic

import numpy as np
import pytest

from pgn_edge.runtime.drift import Drift
from pgn_edge.runtime.result import Result
from pgn_edge.runtime.sinks import CallbackSink
from pgn_edge.runtime.web.state import MOST_CAMERAS, MOST_ROWS, TOP, State
from tests.runtime.web.conftest import frame_at

LABELS = tuple("abcdefgh")
SCORES = np.array([0.5, 0.1, 0.3, 0.02, 0.02, 0.02, 0.02, 0.02], np.float32)
RESULT = Result("pets", "a", 0.5, SCORES, LABELS, np.zeros(4, np.float32), None, {"pgn": 1.0, "vit": 8.0})
DRIFT = Drift(3, 0.5, -1.25, 0.125)


def test_a_second_becomes_a_row_of_means() -> None:
    state = State()
    now = monotonic()
    state.write(frame_at(0, captured_s=now - 1.0, dropped=2), [RESULT])
    state.write(frame_at(1, captured_s=now - 2.0, dropped=3), [replace(RESULT, timings_ms={"pgn": 3.0, "vit": 8.0})])
    state.tick({"pets": DRIFT})
    state.tick({"pets": None})
    document = json.loads(json.dumps(state.document(-1, {})))
    first, second = document["rows"]
    assert first["cameras"]["front"]["fps"] == 2
    assert 1500 <= first["cameras"]["front"]["age_ms"] < 60_000
    assert first["stages_ms"] == {"pgn": 2.0, "vit": 8.0}
    assert first["drift"] == {"pets": {"entropy_z": -1.25, "usage_divergence": 0.125, "strange": None, "alarm": False}}
    assert second["cameras"]["front"] == {"fps": 0, "age_ms": None}, "a second without a frame is a gap"
    assert second["stages_ms"] == {"pgn": None, "vit": None}
    assert second["drift"] == {"pets": None}
    (camera,) = document["cameras"]
    assert (camera["frames"], camera["dropped"], camera["fps"], camera["size_hw"]) == (2, 5, 1.0, [90, 160])
    assert [top["label"] for top in camera["answers"][0]["top"]] == ["a", "c", "b", "d", "e"][:TOP]


def test_only_rows_that_the_reader_lacks_are_given() -> None:
    state = State()
    for _ in range(5):
        state.tick({})
    assert [row["row"] for row in state.document(2, {})["rows"]] == [3, 4]
    assert state.document(4, {})["rows"] == []
    assert state.document(99, {})["rows"] == []


def test_nothing_grows_with_time() -> None:
    state, frames = State(), [frame_at(index) for index in range(4)]
    for _ in range(MOST_ROWS + 10):
        state.write(frames[0], [RESULT])
        state.tick({"pets": DRIFT})
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for index in range(3 * MOST_ROWS):
        state.write(frames[index % 4], [RESULT])
        state.tick({"pets": DRIFT})
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    rows = state.document(-1, {})["rows"]
    assert len(rows) == MOST_ROWS
    assert rows[-1]["row"] == 4 * MOST_ROWS + 9
    # All rows were made anew: what they hold now was counted, what they held before was not.
    assert grown < 2000 * MOST_ROWS


def test_cameras_beyond_the_last_one_are_not_remembered() -> None:
    state = State()
    taken = [state.write(frame_at(0, f"camera {number}"), [RESULT]) for number in range(MOST_CAMERAS + 2)]
    assert taken == [True] * MOST_CAMERAS + [False] * 2
    state.expect("one more", lambda: 0)
    assert len(state.document(-1, {})["cameras"]) == MOST_CAMERAS
    assert state.write(frame_at(1, "camera 3"), [RESULT]), "those that are known go on"


def test_no_number_breaks_the_document() -> None:
    state = State()
    state.write(frame_at(0), [replace(RESULT, score=float("nan"), timings_ms={"vit": float("inf")})])
    state.tick({"pets": Drift(1, 0.5, float("inf"), float("nan"))})
    document = state.document(-1, {})
    json.dumps(document, allow_nan=False)
    assert document["rows"][0]["stages_ms"] == {"vit": None}
    assert document["cameras"][0]["answers"][0]["score"] is None


def test_a_degraded_answer_has_no_label() -> None:
    state = State()
    nothing = replace(RESULT, label="", score=0.0, scores=np.zeros(8, np.float32), degraded="canvas")
    state.write(frame_at(0), [nothing])
    (answer,) = state.document(-1, {})["cameras"][0]["answers"]
    assert (answer["degraded"], answer["label"], answer["top"]) == ("canvas", None, [])


def test_answers_of_a_task_that_was_removed_go() -> None:
    state = State()
    state.write(frame_at(0), [RESULT, replace(RESULT, task="roads")])
    state.tick({"roads": None})
    assert [answer["task"] for answer in state.document(-1, {})["cameras"][0]["answers"]] == ["roads"]


def test_a_camera_that_is_expected_is_shown_without_a_picture() -> None:
    state = State()
    state.expect("back", lambda: 7)
    (camera,) = state.document(-1, {})["cameras"]
    assert (camera["name"], camera["reconnects"], camera["size_hw"], camera["answers"]) == ("back", 7, None, [])
    assert state.picture("back") is None
    assert state.canvas("back", "pets") is None


@pytest.mark.parametrize("seconds", [4.0, 6.0])
def test_silence_begins_after_five_seconds(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    state = State()
    state.write(frame_at(0), [RESULT])
    later = monotonic() + seconds
    monkeypatch.setattr("pgn_edge.runtime.web.state.monotonic", lambda: later)
    silent_s = state.document(-1, {})["cameras"][0]["silent_s"]
    assert silent_s == (None if seconds < 5 else pytest.approx(6.0, abs=0.5))


def test_losses_of_sinks_are_read_when_they_are_asked_for() -> None:
    state = State()
    with CallbackSink(lambda frame, results: 1 / 0, "drop") as sink:
        state.watch("mine", sink)
        sink.write(frame_at(0), [RESULT])
        (shown,) = state.document(-1, {})["sinks"]
    assert (shown["name"], shown["sent"], shown["lost"]) == ("mine", 0, 1)
    assert "division" in shown["last_error"]


def test_writers_and_readers_do_not_lose_anything_between_them() -> None:
    state, stop = State(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            state.tick({"pets": DRIFT})
            json.dumps(state.document(-1, {}))

    def write(camera: str) -> None:
        for index in range(500):
            state.write(frame_at(index, camera), [RESULT])

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(camera,)) for camera in "aab"]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    state.tick({"pets": DRIFT})
    document = state.document(-1, {})
    assert {camera["name"]: camera["frames"] for camera in document["cameras"]} == {"a": 1000, "b": 500}
