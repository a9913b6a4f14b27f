"""Sources: which steps each links, and which of them a trial's work asks for."""

from __future__ import annotations

import pytest

from kvmpc.loops.records import ResolverRecord
from kvmpc.loops.steps import Steps
from kvmpc.sources.choice import source_of
from kvmpc.sources.delay import Delay
from kvmpc.sources.source import Source
from kvmpc.work.work import Work


def make_work(delay_ns: int) -> Work:
    return Work(vcpus=1, mem_per_vcpu_bytes=4096, fetch_delay_ns=delay_ns)


def test_pages_are_at_hand_unless_the_work_has_a_delay() -> None:
    assert type(source_of(make_work(0))) is Source
    assert source_of(make_work(9)) == Delay(9)


def test_a_source_at_hand_changes_no_step_and_no_record() -> None:
    source, record, steps = Source(), ResolverRecord(), Steps(lost="lost_wait")
    source.equip(record)
    assert bytes(record) == bytes(ResolverRecord())
    assert source.blocking(steps) == source.pipelined(steps) == steps
    assert not source.waits


def test_a_delay_keeps_what_the_pager_chose() -> None:
    steps = Steps(lost="lost_wait", wake="wake_losers")
    slept, queued = Delay(5).blocking(steps), Delay(5).pipelined(steps)
    assert (slept.fetch, slept.take, slept.lost) == ("fetch_sleep", "take_now", "lost_wait")
    assert (queued.fetch, queued.take, queued.install_due) == (
        "fetch_now", "take_later", "due_installs",
    )  # fmt: skip


@pytest.mark.parametrize("delay_ns", [1, 200_000])
def test_a_record_gets_the_delay_by_both_clocks(delay_ns: int) -> None:
    record = ResolverRecord()
    Delay(delay_ns).equip(record)
    back_ns = record.fetch_delay_cycles * record.ns_per_cycle_q32 / 2**32
    assert record.fetch_delay_ns == delay_ns
    assert back_ns == pytest.approx(delay_ns, abs=1)
