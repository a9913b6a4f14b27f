"""What a table says of how readers waited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from kvmpc.judge.reading import read
from kvmpc.show.table import format_table
from kvmpc.show.waits import notes_on_waits
from kvmpc.units import PAGE_BYTES
from kvmpc.work.placement import Placement
from kvmpc.work.work import Work

Make = Callable[..., Any]

PAGES = 1000


@pytest.fixture
def notes(make_result: Make, make_trial: Make) -> Callable[..., list[str]]:
    """Return a function: the notes on a result of these pagers, with `counts` by spec."""

    def notes(
        *specs: str,
        vcpus: int = 2,
        cpus: object = 8,
        quota: object = None,
        counts: dict[str, dict[str, int]] | None = None,
        readers: int = 1,
        **options: Any,
    ) -> list[str]:
        work = Work(vcpus=vcpus, mem_per_vcpu_bytes=PAGES * PAGE_BYTES // vcpus, **options)
        trials = []
        for spec in specs:
            trial = make_trial(spec, work=work)
            more = (counts or {}).get(spec, {})
            per_reader = {"received": (1,) * readers} if spec.startswith("uffd") else {}
            trials.append(replace(trial, counts={**trial.counts, **more}, per_reader=per_reader))
        host = {"cpu": {"allowed_count": cpus}, "cgroup": {"quota_cpus": quota}}
        result = make_result(*trials, work=work, host=host, options=asdict(work))
        found = list(notes_on_waits(read(result).points))
        shown = " ".join(format_table(read(result)).split())
        assert all(note in shown for note in found)
        return found

    return notes


Notes = Callable[..., list[str]]


def test_a_reader_that_sleeps_beside_an_idle_cpu_is_told_of(notes: Notes) -> None:
    [note] = notes("uffd", "exit", vcpus=2, cpus=3)
    assert note.startswith(
        "wait: readers sleep when there is no message, though of 3 CPUs, 1 is without"
    )
    assert "wait=adaptive" in note
    [note] = notes("uffd", "exit", vcpus=2, cpus=8)
    assert "though of 8 CPUs, 6 are without a vCPU: " in note


@pytest.mark.parametrize(("cpus", "quota", "whole"), [(2, None, 2), (1, None, 1), (8, 2.5, 2)])
def test_where_every_cpu_has_a_vcpu_that_is_why_they_sleep(
    notes: Notes, cpus: int, quota: float | None, whole: int
) -> None:
    [note] = notes("uffd", "uffd,uffds=per-vcpu", "exit", vcpus=2, cpus=cpus, quota=quota)
    assert note == (
        f"wait: readers sleep when there is no message: of {whole} CPUs, none is without a vCPU, "
        "for them to spin on."
    )


@pytest.mark.parametrize("wait", ["spin", "adaptive", "adaptive,spin=5us"])
def test_readers_that_spin_are_named_with_the_cpus_they_have(notes: Notes, wait: str) -> None:
    spec = f"uffd,wait={wait}"
    [note] = notes("uffd", spec, "exit", vcpus=2, cpus=3)
    assert note == f"wait: readers spin in {spec}; of 3 CPUs, 1 is without a vCPU."
    [note] = notes("uffd", spec, "exit", vcpus=2, cpus=3, readers=4)
    assert note.endswith("without a vCPU, for 4 of them: they take turns with vCPUs.")
    [note] = notes("uffd", spec, "exit", vcpus=2, cpus=2)
    assert "of 2 CPUs, none is without a vCPU, for 1 of them" in note


def test_nothing_is_said_where_nothing_is_compared_or_known(notes: Notes) -> None:
    assert notes("uffd") == []
    assert notes("uffd", "uffd,readers=2") == []
    assert notes("none", "exit") == []
    assert notes("uffd", "exit", cpus=None) == []
    assert notes("uffd", "exit", cpus="many") == []
    for placement in (Placement(pin=True), Placement(cpus="0-1"), Placement(reader_cpus="3")):
        assert notes("uffd", "exit", placement=placement) == []


def counted(sleeps: int, brought: int) -> dict[str, int]:
    return {"switches_voluntary_readers": sleeps, "reads": brought + 777, "reads_empty": 777}


def test_wake_ups_that_found_nothing_are_told_where_they_are_many(notes: Notes) -> None:
    herd, one, alone = "uffd,readers=4,wait=poll", "uffd,readers=4", "uffd,wait=poll"
    counts = {herd: counted(4000, 1000), one: counted(1050, 1000), alone: counted(4000, 1000)}
    found = notes(herd, one, alone, counts=counts)
    assert found == [
        f"{herd}: 75% of its readers' wake-ups found nothing, or ended a wait for a lock: 4 sleeps "
        "a page, 1 reads that brought messages."
    ]


@pytest.mark.parametrize(
    "counts",
    [
        {},
        counted(0, 1000),
        counted(500, 1000),
        counted(0, 0),
        {"switches_voluntary_readers": 4000, "reads": 1},
        {"reads": 4000, "reads_empty": 1},
    ],
)
def test_nothing_is_said_of_wake_ups_that_nobody_counted(
    notes: Notes, counts: dict[str, int]
) -> None:
    assert notes("uffd,readers=4", counts={"uffd,readers=4": counts}) == []


def test_a_fetch_that_is_slept_through_is_no_wake_up_for_nothing(notes: Notes) -> None:
    spec = "uffd,readers=4"
    assert notes(spec, counts={spec: counted(4000, 1000)}) != []
    assert notes(spec, fetch_delay_ns=1, counts={spec: counted(4000, 1000)}) == []


def test_of_many_points_nothing_is_said(make_result: Make, make_trial: Make) -> None:
    points = read(make_result(make_trial("uffd"), make_trial("exit"))).points
    assert list(notes_on_waits((*points, *points))) == []
