"""What every option takes, and what work they describe together."""

from __future__ import annotations

from typing import Any

import pytest

from kvmpc.errors import UsageError
from kvmpc.run.axes import AXES, choices_of, work_of
from kvmpc.units import MIB
from kvmpc.work.work import Work


@pytest.mark.parametrize(
    ("cpus", "options", "vcpus"),
    [(3, {}, 3), (997, {}, 160), (997, {"cpus": "0-4,7"}, 6), (3, {"cpus": "1", "vcpus": 23}, 23)],
)
def test_there_are_as_many_vcpus_as_cpus_unless_told_and_no_more_than_the_talk_had(
    cpus: int, options: dict[str, object], vcpus: int
) -> None:
    assert work_of(options, range(cpus)).vcpus == vcpus


@pytest.mark.parametrize(("vcpus", "mib"), [(1, 64), (32, 64), (33, 16), (160, 16)])
def test_memory_follows_the_vcpus_unless_told(vcpus: int, mib: int) -> None:
    assert work_of({}, range(vcpus)).mem_per_vcpu_bytes == mib * MIB
    assert work_of({"mem_per_vcpu": "3M"}, range(vcpus)).mem_per_vcpu_bytes == 3 * MIB


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("vcpus", "23", 23),
        ("mem_per_vcpu", "1M", MIB),
        ("touch_pages", "23", 23),
        ("overlap", "true", True),
        ("fetch_delay", "20us", 20_000),
        ("fetch_delay", 0, 0),
        ("passes", "3", 3),
        ("verify", "page", "page"),
    ],
)
def test_an_option_is_read_from_text_and_from_toml_alike(name: str, text: Any, value: Any) -> None:
    assert getattr(work_of({name: text}, range(3)), AXES[name].work_field) == value
    assert work_of({name: value if type(value) is bool else text}, range(3)) == work_of(
        {name: text}, range(3)
    )


def test_what_is_not_given_is_as_work_has_it() -> None:
    none = dict.fromkeys(AXES)
    assert work_of(none, range(3)) == Work(vcpus=3, mem_per_vcpu_bytes=64 * MIB)


@pytest.mark.parametrize("value", ["1,2,4", "1-4:x2", [1, "2,4"], [[1, 2], 4]])
def test_numbers_may_be_lists_and_ranges(value: object) -> None:
    assert choices_of("vcpus", value) == [1, 2, 4]


def test_a_text_is_one_choice_and_no_choice_is_refused() -> None:
    assert choices_of("cpus", "1,2,4") == ["1,2,4"]
    with pytest.raises(UsageError, match=r"--mem-per-vcpu.*at least one value"):
        choices_of("mem_per_vcpu", [])
