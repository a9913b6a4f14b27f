"""Work: right from the moment it exists, or refused with what is allowed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from kvmpc.errors import UsageError
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.work.work import Work, default_mem_per_vcpu_bytes


def make_work(**options: Any) -> Work:
    """Make work of 3 vCPUs with 23 pages each, but for what is given."""
    return Work(**{"vcpus": 3, "mem_per_vcpu_bytes": 23 * PAGE_BYTES, **options})


@pytest.mark.parametrize(
    ("options", "option", "allowed"),
    [
        ({"vcpus": 0}, "--vcpus", "1 up to"),
        ({"vcpus": -5}, "--vcpus", "1 up to"),
        ({"mem_per_vcpu_bytes": 0}, "--mem-per-vcpu", "multiple of the page, 4096 bytes"),
        ({"mem_per_vcpu_bytes": 4095}, "--mem-per-vcpu", "multiple of the page"),
        ({"mem_per_vcpu_bytes": 23 * 4096 + 1}, "--mem-per-vcpu", "multiple of the page"),
        ({"mem_per_vcpu_bytes": -4096}, "--mem-per-vcpu", "multiple of the page"),
        ({"touch_pages": 0}, "--touch-pages", "1 to 23, the pages in 92K"),
        ({"touch_pages": 24}, "--touch-pages", "1 to 23"),
        ({"order": "random"}, "--order", "sequential or scattered"),
        ({"access": "exec"}, "--access", "write or read"),
        ({"seed": -1}, "--seed", "0 to 4294967295"),
        ({"seed": 1 << 32}, "--seed", "0 to 4294967295"),
        ({"fetch_delay_ns": -1}, "--fetch-delay", "0 to 10s"),
        ({"fetch_delay_ns": 10**10 + 1}, "--fetch-delay", "0 to 10s"),
        ({"passes": 0}, "--passes", "1 to 1000000"),
        ({"passes": 1000001}, "--passes", "1 to 1000000"),
    ],
)
def test_what_makes_no_sense_is_refused_by_option_and_with_what_is_allowed(
    options: dict[str, Any], option: str, allowed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make_work(**options)
    assert caught.value.option == option
    assert allowed in caught.value.allowed
    assert str(next(iter(options.values()))) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"vcpus": 1, "mem_per_vcpu_bytes": PAGE_BYTES},
        {"touch_pages": 1},
        {"touch_pages": 23},
        {"seed": (1 << 32) - 1},
        {"fetch_delay_ns": 10**10},
    ],
)
def test_the_limits_themselves_are_allowed(options: dict[str, Any]) -> None:
    make_work(**options)


@pytest.mark.parametrize(
    ("options", "total", "expected", "parts"),
    [
        ({}, 69, 69, 3),
        ({"touch_pages": 7}, 69, 21, 3),
        ({"overlap": True}, 23, 23, 1),
        ({"overlap": True, "touch_pages": 7}, 23, 7, 1),
    ],
)
def test_overlapping_vcpus_share_one_part_and_others_have_their_own(
    options: dict[str, Any], total: int, expected: int, parts: int
) -> None:
    work = make_work(**options)
    assert (work.total_pages, work.expected_pages, work.parts) == (total, expected, parts)
    assert work.sparse == ("touch_pages" in options)


def test_touching_every_page_on_request_is_not_sparse() -> None:
    assert not make_work(touch_pages=23).sparse


def test_a_warm_up_touches_an_eighth_but_at_least_a_page() -> None:
    assert make_work(mem_per_vcpu_bytes=997 * PAGE_BYTES).scaled_down(8).touched_per_part == 124
    assert make_work(touch_pages=23).scaled_down(8).touched_per_part == 2
    assert make_work(touch_pages=7).scaled_down(8).touched_per_part == 1


def test_a_warm_up_changes_nothing_else() -> None:
    work = make_work(order="scattered", access="read", overlap=True, seed=7, fetch_delay_ns=1)
    small = work.scaled_down(8)
    assert vars(small) | {"touch_pages": None} == vars(work)


def test_work_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make_work().vcpus = 4  # type: ignore[misc]


def test_the_default_memory_gets_smaller_above_32_vcpus() -> None:
    assert default_mem_per_vcpu_bytes(1) == default_mem_per_vcpu_bytes(32) == 64 * MIB
    assert default_mem_per_vcpu_bytes(33) == default_mem_per_vcpu_bytes(1024) == 16 * MIB
