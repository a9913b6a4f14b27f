"""What makes a point the same, and what it is called."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from kvmpc.result.points import differing_options, identity, point_names, shown_option
from kvmpc.work.work import Work


def test_a_point_is_named_by_what_varies_with_its_units() -> None:
    base = {"vcpus": 2, "order": "sequential"}
    names = point_names(
        [
            {**base, "mem_per_vcpu_bytes": 64 << 20, "fetch_delay_ns": 0, "touch_pages": None},
            {**base, "mem_per_vcpu_bytes": 4096, "fetch_delay_ns": 200_000, "touch_pages": 1},
        ]
    )
    assert names == [
        "mem_per_vcpu=64M touch_pages=- fetch_delay=0ns",
        "mem_per_vcpu=4K touch_pages=1 fetch_delay=200us",
    ]


def test_the_only_point_needs_no_name() -> None:
    assert point_names([{"vcpus": 2}]) == [""]
    assert point_names([]) == []


def test_nested_options_are_named_by_their_path() -> None:
    names = point_names([{"placement": {"pin": True, "cpus": "0"}}, {"placement": {"pin": False}}])
    assert names == ["placement.pin=yes placement.cpus=0", "placement.pin=no placement.cpus=-"]


def test_what_an_older_result_does_not_name_has_its_default() -> None:
    old = identity({"vcpus": 2, "mem_per_vcpu_bytes": 4096})
    new = identity(asdict(Work(vcpus=2, mem_per_vcpu_bytes=4096)))
    assert differing_options(old, new) == {}
    assert differing_options(old, identity({"vcpus": 4, "mem_per_vcpu_bytes": 4096})) == {
        "vcpus": (2, 4)
    }


def test_true_and_one_are_not_alike() -> None:
    assert differing_options({"a": True}, {"a": 1}) == {"a": (True, 1)}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("overlap", True, "overlap=yes"),
        ("overlap", False, "overlap=no"),
        ("fetch_delay_ns", "odd", "fetch_delay_ns=odd"),
        ("x", 1.5, "x=1.5"),
    ],
)
def test_an_option_is_shown_as_people_write_it(name: str, value: Any, shown: str) -> None:
    assert shown_option(name, value) == shown
