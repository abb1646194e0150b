"""Progress in a log: never silent for more than 30 s, and never a line for each frame."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pgn_edge.progress import EVERY_S, ProgressLines


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written() -> list[str]:
    return []


@pytest.fixture
def lines(clock: Clock, written: list[str]) -> ProgressLines:
    return ProgressLines(written.append, clock)


def test_a_stage_says_its_start_and_its_end(lines: ProgressLines, written: list[str]):
    for done in range(101):
        lines("train", done, 100, f"loss {done}")
    assert written == ["train: 0 of 100, loss 0", "train: 100 of 100, loss 100"]


def test_a_stage_that_is_done_at_once_is_one_line(lines: ProgressLines, written: list[str]):
    lines("read", 7, 7)
    assert written == ["read: 7 of 7"]


def test_a_long_stage_without_a_terminal_says_something_every_30_s(clock: Clock, written: list[str]):
    times = []
    lines = ProgressLines(lambda line: times.append(clock.now), clock)
    lines("train", 0, 10_000)
    for done in range(1, 1001):
        clock.now += 0.125
        lines("train", done, 10_000)
    gaps = [after - before for before, after in pairwise([*times, clock.now])]
    assert max(gaps) <= EVERY_S
    assert len(times) == 1 + 125 // EVERY_S


def test_a_camera_without_an_end_is_not_a_line_a_frame(lines: ProgressLines, clock: Clock, written: list[str]):
    for frames in range(1, 1001):
        clock.now += 0.0625
        lines("frames", frames, frames)
    assert written[0] == "frames: 1 of 1"
    assert len(written) == 1 + 62 // EVERY_S


def test_a_silent_library_call_is_followed_by_the_thread(lines: ProgressLines, clock: Clock, written: list[str]):
    lines.begin("loading torch …")
    for _ in range(65):
        clock.now += 1
        lines.beat()
    assert written == ["loading torch …, 30 s since the start", "loading torch …, 60 s since the start"]
    lines("export", 1, 3)
    for _ in range(31):
        clock.now += 1
        lines.beat()
    assert written[-1] == "export: 1 of 3, 95 s since the start"


def test_a_command_of_two_seconds_writes_nothing(lines: ProgressLines, clock: Clock, written: list[str]):
    lines.begin("loading torch …")
    clock.now += 2
    lines.beat()
    assert written == []


def test_a_note_writes_no_escape_into_a_terminal(lines: ProgressLines, written: list[str]):
    lines("read", 0, 2, "a\x1b[31m\nname.png")
    assert written == ["read: 0 of 2, a [31m name.png"]
