"""What counts as having stood still, and what does not: no clock but that of the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvmpc.trial import stops
from kvmpc.trial.signals import Interrupt
from kvmpc.trial.stops import Stops

MS = 1_000_000
BEGIN = {
    "now_ns": 5_000 * MS, "suspended_ns": 77 * MS, "ran_ns": 400 * MS, "waited_ns": 300 * MS,
    "sleeps": 1000, "continued": 3,
}  # fmt: skip


@pytest.fixture
def stood(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return how long it stood still, in ms, after looks between which so much went on."""

    def stood(*looks: dict[str, Any]) -> float:
        moment = stops._Moment(**BEGIN)
        monkeypatch.setattr(stops._Moment, "now", lambda _: moment)
        found = Stops(Interrupt())
        for look in looks:
            more = {
                name: None if value is None else (getattr(moment, name) or 0) + value
                for name, value in look.items()
            }
            moment = replace(moment, **more)
            found.look()
        assert bool(found.finding().cautions) == bool(found.still_ns)
        return found.still_ns / MS

    return stood


POLL = {"now_ns": 101 * MS, "sleeps": 1, "ran_ns": MS // 2}


def test_polls_that_end_in_time_are_no_stop(stood: Any) -> None:
    assert stood(*[POLL] * 100) == 0


def test_what_is_left_of_the_time_is_a_stop(stood: Any) -> None:
    look = {"now_ns": 2000 * MS, "sleeps": 2, "ran_ns": 10 * MS, "waited_ns": 90 * MS}
    assert stood(POLL, look, POLL) == 1900


@pytest.mark.parametrize(
    "look",
    [
        {"now_ns": 2000 * MS, "sleeps": 1, "waited_ns": 1890 * MS},
        {"now_ns": 2000 * MS, "sleeps": 1, "ran_ns": 1890 * MS},
        # It wakes every 5 ms to ask for the GIL.
        {"now_ns": 2000 * MS, "sleeps": 400},
        # A kernel that does not say how long a thread waited.
        {"now_ns": 2000 * MS, "sleeps": 1, "waited_ns": None},
    ],
    ids=["waits for a CPU", "runs", "waits for the GIL", "may have waited"],
)
def test_a_watching_thread_that_is_late_is_no_stop(stood: Any, look: dict[str, Any]) -> None:
    assert stood(POLL, look, POLL) == 0


@pytest.mark.parametrize("waited_ns", [0, None])
def test_a_stop_that_was_ended_is_one_however_short(stood: Any, waited_ns: int | None) -> None:
    look = {"now_ns": 30 * MS, "sleeps": 2, "continued": 1, "waited_ns": waited_ns}
    assert stood(look, POLL) == 30


def test_a_suspended_machine_is_one_whose_clocks_part(stood: Any) -> None:
    assert stood(POLL, POLL | {"suspended_ns": 3_600_000 * MS}, POLL) == 3_600_000
    assert stood(POLL, POLL | {"suspended_ns": MS}, POLL) == 0


def test_what_was_before_the_trial_is_forgotten() -> None:
    interrupt = Interrupt()
    found = Stops(interrupt)
    interrupt.continued += 1
    found.begin()
    found.look()
    assert found.finding().cautions == ()


def test_this_thread_has_all_of_these_clocks() -> None:
    interrupt = Interrupt()
    found = Stops(interrupt)
    interrupt.continued += 1
    found.look()
    (caution,) = found.finding().cautions
    assert caution.code == "stood-still"
