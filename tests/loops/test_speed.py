"""The stretch of work that tells how fast a host is: what it computes, and what it touches."""

from __future__ import annotations

import ctypes
import time

import pytest

from kvmpc.loops import speed
from kvmpc.loops.records import RecordArray, Return
from kvmpc.loops.speed import SPEED_BUFFER_BYTES, SpeedRecord
from tests.fakes.disassembly import check_against_objdump, needs_objdump

WORDS = SPEED_BUFFER_BYTES // 8


def _model(steps: int, multiplier: int, value: int, words: list[int]) -> int:
    """Do in Python what `speed` does; changes `words`, returns the value."""
    for _ in range(steps):
        value = value * multiplier % 2**64
        at = value * WORDS >> 64
        value = (value + words[at]) % 2**64
        words[at] = value
    return value


@pytest.mark.parametrize("steps", [1, 2, 5000])
def test_it_computes_what_it_says_in_all_of_its_buffer_and_nowhere_else(steps: int) -> None:
    first = [(7 * at + 1) << 40 | at for at in range(WORDS)]
    expected = list(first)
    value = _model(steps, speed._MULTIPLIER, 2**63 + 12345, expected)
    with RecordArray(SpeedRecord, 2, tail_bytes=SPEED_BUFFER_BYTES) as records:
        record, tail = records.records[0], records.tails[0]
        words = (ctypes.c_uint64 * WORDS).from_address(tail)
        words[:] = first
        record.steps, record.buffer = steps, tail
        record.multiplier, record.value = speed._MULTIPLIER, 2**63 + 12345
        assert speed._program().call("speed", record) == Return.OK
        assert record.value == value
        assert list(words) == expected
        assert (record.steps, record.buffer) == (steps, tail)
        assert record.multiplier == speed._MULTIPLIER
        assert bytes(records.records[1]) == bytes(ctypes.sizeof(SpeedRecord))
    if steps > 1000:
        touched = {at for at in range(WORDS) if first[at] != expected[at]}
        assert {at * 16 // WORDS for at in touched} == set(range(16)), "every part of the buffer"


@needs_objdump
def test_objdump_reads_in_it_what_its_listing_says() -> None:
    assert check_against_objdump(speed._program().program) > 25


def test_the_speed_is_the_median_of_its_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter([5, 1, 4, 900, 2, 3, 700, 800, 6])
    clock, begun = 0, False

    def monotonic_ns() -> int:
        nonlocal clock, begun
        clock += next(lengths) * 1000 if begun else 0
        begun = not begun
        return clock

    monkeypatch.setattr(speed.time, "monotonic_ns", monotonic_ns)
    assert speed.steps_per_s() == pytest.approx(speed.STEPS / 5e-6)


def test_it_does_every_span_anew_and_really() -> None:
    before_ns = time.thread_time_ns()
    for _ in range(20):
        assert speed.steps_per_s() > 0
    # 200 spans of 32768 steps of three cycles at the very least, at 10 GHz at the very most.
    assert time.thread_time_ns() - before_ns >= 200 * speed.STEPS * 3 / 10
