"""The crew's events: whoever waits for them keeps looking up, whatever signals come."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kvmpc.loops.records import ResolverRecord
from kvmpc.trial.crew import Crew, Event, Worker


@pytest.fixture
def slow_handler() -> Iterator[None]:
    """A signal 30 ms from now, whose handler takes longer than any poll here."""
    previous = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.2))
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.usefixtures("slow_handler")
def test_a_signal_handled_past_the_deadline_does_not_turn_a_poll_into_waiting_for_ever() -> None:
    nothing: Any = None
    crew = Crew(nothing, nothing)
    late = Event("done", Worker(name="vcpu0", record=ResolverRecord()))
    # Only so that the test ends where it fails.
    rescue = threading.Timer(5, crew._events.put, (late,))
    rescue.start()
    try:
        assert next(crew.events(0.1)) is None
    finally:
        rescue.cancel()
        rescue.join()
