"""Which pagers are compared unless told: the best uffd that there are CPUs for among them."""

from __future__ import annotations

import itertools

import pytest

from kvmpc.pagers import DEFAULT_COMPARE, parse_pager
from kvmpc.run.defaults import best_uffd, default_pagers
from kvmpc.run.plan import Grid
from kvmpc.units import PAGE_BYTES
from kvmpc.work.placement import Placement
from kvmpc.work.work import Work

SLEEPING = "uffd,uffds=per-vcpu"
PER_VCPU = "uffd,uffds=per-vcpu,wait=adaptive"


@pytest.mark.parametrize(
    ("vcpus", "spare", "spec"),
    [
        (1, 0, SLEEPING),
        (1, 1, PER_VCPU),
        (1, 99, PER_VCPU),
        (4, 0, SLEEPING),
        (4, 1, "uffd,uffds=1,wait=adaptive"),
        (4, 3, "uffd,uffds=3,wait=adaptive"),
        (4, 4, PER_VCPU),
        (5, 1, SLEEPING),
        (5, 2, "uffd,uffds=2,wait=adaptive"),
        (160, 0, SLEEPING),
        (160, 39, SLEEPING),
        (160, 40, "uffd,uffds=40,wait=adaptive"),
        (160, 160, PER_VCPU),
    ],
)
def test_a_reader_spins_where_it_has_a_cpu_and_few_enough_vcpus_to_serve(
    vcpus: int, spare: int, spec: str
) -> None:
    assert best_uffd(vcpus, spare) == spec


def test_no_reader_spins_without_a_cpu_of_its_own_and_none_serves_more_than_four_vcpus() -> None:
    for vcpus, spare in itertools.product(range(1, 40), range(50)):
        pager = parse_pager(best_uffd(vcpus, spare))
        work = Work(vcpus=vcpus, mem_per_vcpu_bytes=23 * PAGE_BYTES)
        if pager.values["wait"] == "adaptive":
            assert vcpus / 4 <= pager.reader_count(work) <= min(spare, vcpus)
        else:
            assert spare < vcpus / 4
            assert pager.spec == SLEEPING


def specs(vcpus: int, cpus: int, quota: float | None = None, **options: object) -> tuple[str, ...]:
    work = Work(vcpus=vcpus, mem_per_vcpu_bytes=23 * PAGE_BYTES, **options)  # type: ignore[arg-type]
    return default_pagers(work, range(cpus), quota)


def test_there_are_five_and_all_but_one_are_the_same_on_every_host() -> None:
    for vcpus, cpus in itertools.product((1, 2, 3, 8, 160), (1, 2, 3, 8, 16, 200)):
        found = specs(vcpus, cpus)
        assert len(found) == len(set(found)) == 5
        assert found[:2] + found[3:] == DEFAULT_COMPARE[:2] + DEFAULT_COMPARE[3:]
        assert found[2] == best_uffd(vcpus, max(0, cpus - vcpus))
    assert specs(2, 2) == DEFAULT_COMPARE


def test_ratios_refer_to_the_plain_userfaultfd_whatever_the_cpus() -> None:
    for cpus in (1, 2, 8):
        pagers = [parse_pager(spec) for spec in specs(2, cpus)]
        assert next(pager.spec for pager in pagers if pager.fetches) == "uffd"


def test_reads_want_a_reference_that_brings_pages() -> None:
    assert specs(1, 2, access="read") == (
        "none,host=populated", "uffd", PER_VCPU, "exit", "exit,uffds=per-vcpu",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("quota", "spec"),
    [(None, PER_VCPU), (4.0, PER_VCPU), (3.9, "uffd,uffds=1,wait=adaptive"), (2.0, SLEEPING),
     (0.5, SLEEPING)],
)  # fmt: skip
def test_a_quota_leaves_no_time_to_spin_in(quota: float | None, spec: str) -> None:
    assert specs(2, 8, quota)[2] == spec


@pytest.mark.parametrize(
    ("placement", "spare"),
    [
        (Placement(), 6),
        (Placement(cpus="0-2"), 1),
        (Placement(cpus="0-1"), 0),
        (Placement(cpus="0"), 0),
        (Placement(cpus="0-1", reader_cpus="2-4"), 3),
        (Placement(cpus="0-2", reader_cpus="2-3"), 2),
        (Placement(cpus="0-1", reader_cpus="1-2"), 1),
        (Placement(reader_cpus="7"), 1),
        (Placement(pin=True), 2),
        (Placement(pin=True, cpus="0-1"), 0),
        (Placement(pin=True, cpus="0-2"), 1),
        (Placement(pin=True, reader_cpus="0-1"), 0),
        (Placement(pin=True, reader_cpus="1-2"), 1),
    ],
)
def test_a_reader_has_a_cpu_where_it_is_seated_on_one_that_no_vcpu_needs(
    placement: Placement, spare: int
) -> None:
    assert placement.spare_cpus(2, range(8)) == spare
    work = Work(vcpus=2, mem_per_vcpu_bytes=23 * PAGE_BYTES, placement=placement)
    assert default_pagers(work, range(8))[2] == best_uffd(2, spare)


def test_each_point_has_what_its_own_vcpus_leave() -> None:
    grid = Grid(None, {"vcpus": [1, 2, 4], "mem_per_vcpu": [23 * PAGE_BYTES]})
    thirds = {point.work.vcpus: point.pagers[2].spec for point in grid.points(range(4))}
    assert thirds == {1: PER_VCPU, 2: PER_VCPU, 4: SLEEPING}


def test_pagers_that_were_named_are_what_is_measured() -> None:
    grid = Grid(["uffd", "exit"], {"vcpus": [1], "mem_per_vcpu": [23 * PAGE_BYTES]})
    [point] = grid.points(range(8))
    assert [pager.spec for pager in point.pagers] == ["uffd", "exit"]
