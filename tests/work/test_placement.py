"""Placement: what is asked, read strictly, and where it puts each thread."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from kvmpc.errors import UsageError
from kvmpc.work.placement import ANYWHERE, Placement, parse_cpus
from kvmpc.work.work import Work


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", [0]),
        ("0-3,8", [0, 1, 2, 3, 8]),
        ("8,0-3", [8, 0, 1, 2, 3]),
        (" 3 , 1-2 ", [3, 1, 2]),
        ("7-7", [7]),
        ("0-16:2/4", [0, 1, 4, 5, 8, 9, 12, 13, 16]),
        ("9-38:4/10", [9, 10, 11, 12, 19, 20, 21, 22, 29, 30, 31, 32]),
        ("1-10:1/3,0", [1, 4, 7, 10, 0]),
        ("5-6:3/3", [5, 6]),
        ("8191", [8191]),
    ],
)
def test_a_cpu_list_is_read_as_the_kernel_reads_it_and_in_its_order(
    text: str, cpus: list[int]
) -> None:
    assert parse_cpus(text, "--cpus") == cpus


@pytest.mark.parametrize(
    "text",
    [
        "", ",", "0,", "a", "-1", "1-", "-", "0--3", "3-0", "0x1", "1.5", "all", "0-N", "0 1",
        "0-3:0/2", "0-3:3/2", "0-3:1/0", "0-3:1", "3:1/2", "0-3:1/2/3", "0,0", "0-3,2", "8192",
        "0-8192", "0-999999999", "9" * 5000, "٣", "0-3\n4",
    ],
)  # fmt: skip
@pytest.mark.parametrize("option", ["--cpus", "--reader-cpus"])
def test_what_is_no_cpu_list_is_refused_by_option_and_with_what_is_allowed(
    text: str, option: str
) -> None:
    with pytest.raises(UsageError) as refused:
        Placement.parse(**{option.strip("-").replace("-", "_"): text})
    assert refused.value.option == option
    assert "0-3,8" in refused.value.allowed


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"pin": "yes"}, "--pin"),
        ({"pin": 1}, "--pin"),
        ({"pin": None}, "--pin"),
        ({"cpus": True}, "--cpus"),
        ({"cpus": -1}, "--cpus"),
        ({"cpus": 1.5}, "--cpus"),
        ({"cpus": [0, 1]}, "--cpus"),
        ({"reader_cpus": {}}, "--reader-cpus"),
        ({"numa": ""}, "--numa"),
        ({"numa": "node"}, "--numa"),
        ({"numa": "node="}, "--numa"),
        ({"numa": "node=-1"}, "--numa"),
        ({"numa": "node=1024"}, "--numa"),
        ({"numa": "node=0,1"}, "--numa"),
        ({"numa": "Local"}, "--numa"),
        ({"numa": 0}, "--numa"),
        ({"cpu_latency": -1}, "--cpu-latency"),
        ({"cpu_latency": "-1"}, "--cpu-latency"),
        ({"cpu_latency": "1ms"}, "--cpu-latency"),
        ({"cpu_latency": "low"}, "--cpu-latency"),
        ({"cpu_latency": True}, "--cpu-latency"),
        ({"cpu_latency": 1.0}, "--cpu-latency"),
        ({"cpu_latency": 2_000_000_000}, "--cpu-latency"),
        ({"cpu_latency": "2000000000"}, "--cpu-latency"),
    ],
)
def test_other_values_that_make_no_sense_are_refused_by_option(
    options: dict[str, Any], option: str
) -> None:
    with pytest.raises(UsageError) as refused:
        Placement.parse(**options)
    assert refused.value.option == option
    assert refused.value.allowed


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({}, {}),
        ({"pin": True}, {"pin": True}),
        ({"cpus": "3,1,0-0"}, {"cpus": "0-1,3"}),
        ({"cpus": "3,1,2", "pin": True}, {"cpus": "3,1-2", "pin": True}),
        ({"cpus": 3}, {"cpus": "3"}),
        ({"reader_cpus": "0-7:1/2"}, {"reader_cpus": "0,2,4,6"}),
        ({"numa": "local"}, {"numa": "local"}),
        ({"numa": "interleave"}, {"numa": "interleave"}),
        ({"numa": "node=007"}, {"numa": "node=7"}),
        ({"cpu_latency": 0}, {"cpu_latency_us": 0}),
        ({"cpu_latency": "0"}, {"cpu_latency_us": 0}),
        ({"cpu_latency": "20us"}, {"cpu_latency_us": 20}),
    ],
)
def test_options_are_held_in_one_form_however_they_are_written(
    options: dict[str, Any], fields: dict[str, object]
) -> None:
    placement = Placement.parse(**options)
    assert asdict(placement) == asdict(ANYWHERE) | fields
    assert placement == Placement(**asdict(placement))


def test_work_holds_its_placement_and_passes_it_on_to_a_warm_up() -> None:
    placement = Placement(pin=True, numa="node=1")
    work = Work(vcpus=3, mem_per_vcpu_bytes=23 * 4096, placement=placement)
    assert asdict(work)["placement"] == asdict(placement)
    assert work.scaled_down(8).placement == placement
    assert Work(vcpus=3, mem_per_vcpu_bytes=4096).placement == ANYWHERE


ALLOWED = (2, 3, 5, 7)


@pytest.mark.parametrize(
    ("options", "vcpus", "readers"),
    [
        # Readers take what the vCPUs leave, or all in turn where they leave none.
        ({}, [2, 3], [5, 7, 5]),
        ({"cpus": "7,2-3"}, [7, 2], [3, 3, 3]),
        ({"cpus": "7,2"}, [7, 2], [7, 2, 7]),
        ({"cpus": "3"}, [3, 3], [3, 3, 3]),
        ({"reader_cpus": "7,5"}, [2, 3], [7, 5, 7]),
        ({"cpus": "5", "reader_cpus": "5"}, [5, 5], [5, 5, 5]),
    ],
)
def test_pinned_threads_have_one_cpu_each_in_turn(
    options: dict[str, str], vcpus: list[int], readers: list[int]
) -> None:
    seating = Placement(pin=True, **options).seating(2, 3, ALLOWED)
    assert seating.vcpus == [{cpu} for cpu in vcpus]
    assert seating.readers == [{cpu} for cpu in readers]


@pytest.mark.parametrize(
    ("options", "vcpus", "readers"),
    [
        ({}, ALLOWED, ALLOWED),
        ({"cpus": "2-3"}, (2, 3), (2, 3)),
        ({"reader_cpus": "7"}, ALLOWED, (7,)),
        ({"cpus": "2", "reader_cpus": "5,7"}, (2,), (5, 7)),
    ],
)
def test_threads_that_are_not_pinned_have_all_of_their_list(
    options: dict[str, str], vcpus: tuple[int, ...], readers: tuple[int, ...]
) -> None:
    placement = Placement(**options)
    seating = placement.seating(2, 3, ALLOWED)
    assert seating.vcpus == [set(vcpus)] * 2
    assert seating.readers == [set(readers)] * 3
    assert placement.seats_threads == bool(options)


@pytest.mark.parametrize(
    ("options", "vcpus", "readers"),
    [
        ({}, [0, 1], [2, 3, 6, 7, 4, 5, 2]),
        ({"cpus": "0-1,4-6"}, [0, 1], [6, 4, 5, 6, 4, 5, 6]),
        ({"cpus": "0-1,4-5"}, [0, 1], [4, 5, 4, 5, 4, 5, 4]),
        ({"cpus": "3,7"}, [3, 7], [3, 7, 3, 7, 3, 7, 3]),
        ({"reader_cpus": "4-5"}, [0, 1], [4, 5, 4, 5, 4, 5, 4]),
    ],
)
def test_a_reader_is_pinned_beside_a_vcpu_only_where_all_other_cores_are_taken(
    options: dict[str, str], vcpus: list[int], readers: list[int]
) -> None:
    cores = [frozenset({cpu, cpu + 4}) for cpu in range(4)]
    seating = Placement(pin=True, **options).seating(2, 7, range(8), cores)  # type: ignore[arg-type]
    assert seating.vcpus == [{cpu} for cpu in vcpus]
    assert seating.readers == [{cpu} for cpu in readers]
