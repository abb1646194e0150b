"""Deadlines, backoff and the circuit breaker, on a clock that the test turns."""

from __future__ import annotations

import pytest

from pgn_edge.errors import EngineError
from pgn_edge.runtime.retry import Backoff, CircuitBreaker, Deadline


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_deadline_counts_down_and_stops_at_zero():
    clock = Clock()
    deadline = Deadline(2.0, clock)
    assert deadline.left_s == 2.0
    clock.now += 1.5
    assert deadline.left_s == 0.5
    clock.now += 1.5
    assert deadline.left_s == 0.0


def test_pauses_double_up_to_the_longest():
    assert list(Backoff(5, 0.1, 0.5).pauses(lambda: 1.0)) == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


def test_jitter_takes_up_to_half():
    assert list(Backoff(3, 0.1, 0.5).pauses(lambda: 0.0)) == pytest.approx([0.05, 0.1, 0.2])
    drawn = {pause for _ in range(20) for pause in Backoff(1, 0.1).pauses()}
    assert len(drawn) > 1
    assert all(0.05 <= pause <= 0.1 for pause in drawn)


def test_no_retries_no_pauses():
    assert list(Backoff(0).pauses()) == []


@pytest.mark.parametrize("wrong", [{"retries": -1}, {"first_s": -0.1}, {"most_s": float("nan")}])
def test_numbers_that_make_no_backoff(wrong: dict[str, float]):
    with pytest.raises(EngineError, match="0 or more"):
        Backoff(**wrong)


def failed(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        assert breaker.enter() == 0
        breaker.failed()


def test_it_opens_after_so_many_failures_in_a_row():
    breaker = CircuitBreaker(3, 2.0, Clock())
    failed(breaker, 2)
    assert breaker.enter() == 0
    breaker.succeeded()
    failed(breaker, 3)
    assert breaker.enter() == 2.0


def test_after_the_pause_one_may_try_and_decides_for_all():
    clock = Clock()
    breaker = CircuitBreaker(1, 2.0, clock)
    failed(breaker, 1)
    clock.now += 2.0
    assert breaker.enter() == 0
    assert breaker.enter() > 0, "two at once while it is half open"
    breaker.failed()
    assert breaker.enter() == 2.0
    clock.now += 2.0
    assert breaker.enter() == 0
    breaker.succeeded()
    assert breaker.enter() == breaker.enter() == 0


def test_who_does_not_ask_after_all_leaves_the_try_to_another():
    clock = Clock()
    breaker = CircuitBreaker(1, 2.0, clock)
    failed(breaker, 1)
    clock.now += 2.0
    assert breaker.enter() == 0
    breaker.withdrawn()
    assert breaker.enter() == 0


def test_failures_of_calls_that_were_under_way_keep_it_open():
    clock = Clock()
    breaker = CircuitBreaker(2, 2.0, clock)
    assert [breaker.enter() for _ in range(3)] == [0, 0, 0]
    breaker.failed()
    breaker.failed()
    clock.now += 1.0
    breaker.failed()
    assert breaker.enter() == 2.0
