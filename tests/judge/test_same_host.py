"""Which differences between hosts are refused, which are told, and which are none."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from kvmpc.errors import MismatchError
from kvmpc.judge.criteria import Criteria
from kvmpc.judge.regression import check

Make = Callable[..., Any]

HOST = {
    "hostname": "lab1",
    "kernel": {"release": "6.1.0", "cmdline": "quiet"},
    "cpu": {"model": "AMD EPYC 7B13", "allowed_count": 8, "microcode": "0x1"},
    "kvm": {"second_level_paging": "npt", "vendor_module": "kvm_amd"},
    "memory": {"total_bytes": 64 << 30, "thp_enabled": "madvise"},
    "frequency": {"governors": ["performance"]},
    "cpuidle": {"states": [{"name": "POLL"}, {"name": "C1"}, {"name": "C2", "disabled": True}]},
    "vulnerabilities": {"retbleed": "Mitigation: untrained return thunk"},
    "scheduling": {"policy": "other", "priority": 0, "nice": 0, "cgroup_weights": []},
}


def _but(group: str, **facts: object) -> dict[str, object]:
    return {**HOST, group: {**HOST[group], **facts}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (_but("cpu", model="Xeon"), "cpu.model: Xeon against AMD EPYC 7B13 in the baseline"),
        (_but("cpu", allowed_count=4), "cpu.allowed_count: 4 against 8"),
        (_but("kvm", second_level_paging="shadow"), "kvm.second_level_paging: shadow against npt"),
        (_but("kvm", vendor_module=None), "kvm.vendor_module: unknown against kvm_amd"),
        (_but("memory", total_bytes=32 << 30), "memory.total: 32.0 GiB against 64.0 GiB"),
        (_but("memory", thp_enabled="always"), "memory.thp_enabled: always against madvise"),
        (_but("frequency", governors=["powersave"]), "frequency.governors: powersave against"),
        (_but("cpuidle", states=[{"name": "C1"}, {"name": "C2"}]), "cpuidle.states: C1 C2 against"),
        (_but("kernel", cmdline="mitigations=off"), "mitigations: off against auto"),
        (
            _but("scheduling", policy="fifo", priority=10),
            "scheduling.policy: fifo 10 against other",
        ),
        (_but("scheduling", policy="batch"), "scheduling.policy: batch against other"),
        (_but("scheduling", nice=19), "scheduling.nice: 19 against 0"),
        (_but("scheduling", autogroup_nice=5), "scheduling.autogroup_nice: 5 against 0"),
        (
            _but("scheduling", cgroup_weights=["cpu.weight=50"]),
            "scheduling.cgroup_weights: cpu.weight=50 against as usual",
        ),
    ],
)
def test_hosts_that_differ_are_refused_by_field(make_run: Make, host: Any, told: str) -> None:
    draw = Random(1)
    old, new = make_run(draw, host=HOST), make_run(draw, host=host)
    with pytest.raises(MismatchError) as caught:
        check([old], [new])
    assert told in str(caught.value)
    field = caught.value.problems[0].removeprefix("hosts differ in ").partition(":")[0]
    found = check([old], [new], Criteria(allow_host=(field,)))
    assert [caution.code for caution in found.cautions] == ["host-differs"]


def test_every_field_that_differs_is_named_and_each_needs_its_own_waiver(make_run: Make) -> None:
    draw = Random(1)
    host = {**_but("cpu", model="Xeon"), "kvm": {}}
    with pytest.raises(MismatchError) as caught:
        check([make_run(draw, host=HOST)], [make_run(draw, host=host)],
              Criteria(allow_host=("cpu.model",)))  # fmt: skip
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "host",
    [
        _but("kernel", release="6.12.0"),
        _but("memory", total_bytes=(64 << 30) - (1 << 30)),
        _but("vulnerabilities", retbleed="Mitigation: something new"),
        _but("cpu", microcode="0x2"),
        {**HOST, "hostname": "lab2"},
        _but("scheduling", autogroup_nice=0, cgroup_weights=None),
        # Of an older kvmpc, which did not look.
        {name: facts for name, facts in HOST.items() if name != "scheduling"},
    ],
)
def test_what_a_kernel_may_change_is_no_reason_to_refuse(make_run: Make, host: Any) -> None:
    draw = Random(1)
    check([make_run(draw, host=HOST)], [make_run(draw, host=host)])


def test_another_kvmpc_is_a_caution(make_run: Make) -> None:
    draw = Random(1)
    found = check([make_run(draw)], [make_run(draw, tool_version="0.2.0")])
    assert [caution.code for caution in found.cautions] == ["tool-version"]
    assert "0.2.0 against 0.1.0" in found.cautions[0].text


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], ["KASAN", "DEBUG_LIST"], "kernel.debug_options: KASAN, DEBUG_LIST against none"),
        (["DEBUG_LIST"], [], "kernel.debug_options: none against DEBUG_LIST"),
        (["KASAN"], ["KASAN"], None),
        (None, ["KASAN"], None),
        (["KASAN"], None, None),
    ],
)
def test_a_kernel_built_to_find_bugs_is_remarked_on_where_both_are_known(
    make_run: Make, before: Any, after: Any, told: str | None
) -> None:
    draw = Random(1)
    hosts = [{**HOST, "kernel": {"debug_options": options}} for options in (before, after)]
    old, new = (make_run(draw, host=host) for host in hosts)
    cautions = check([old], [new]).cautions
    assert len(cautions) == (told is not None)
    assert all(caution.text.startswith(str(told)) for caution in cautions)
