"""What is said of a host that tilts a comparison, and when it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvmpc.judge.host_cautions import cautions_of_host
from kvmpc.work.placement import Placement

LONGEST_SENTENCE = 160

WORST: dict[str, Any] = {
    "cpu": {
        "allowed_count": 1234,
        "online_count": 2345,
        "hypervisor": True,
        "clocksource": "hyperv_clocksource_tsc_page",
        "constant_tsc": True,
        "nonstop_tsc": False,
        "numa_nodes": [{"node": 0}, {"node": 1}],
    },
    "kernel": {"debug_options": ["KASAN", "KCSAN", "PROVE_LOCKING", "DEBUG_VM", "DEBUG_LIST"]},
    "tracing": {"tracer": "function_graph", "events": ["kvm:kvm_exit"], "functions": ["kvm_x"] * 9},
    "cpuidle": {
        "states": [
            {"name": name, "latency_us": 100, "disabled": False}
            for name in ("C1E", "C3_ACPI", "C6", "C7", "C8")
        ]
    },
    "kvm": {"vendor_module": "kvm_intel", "second_level_paging": "shadow"},
    "frequency": {"governors": ["performance", "powersave", "schedutil"], "boost": True},
    "vulnerabilities": {
        "spec_rstack_overflow": "Mitigation: Safe RET",
        "indirect_target_selection": "Mitigation: Aligned branch/return thunks",
        "l1tf": "Mitigation: PTE Inversion; VMX: flush not necessary",
        "itlb_multihit": "KVM: Mitigation: Split huge pages",
        "mds": "Not affected",
    },
    "memory": {
        "total_bytes": 1 << 44,
        "swap_total_bytes": 1 << 43,
        "swap_used_bytes": 1 << 42,
        "thp_enabled": "always",
        "ksm_run": 1,
        "numa_balancing": 1,
        "mglru_enabled": "0x0007",
        "pressure_some_avg60_percent": 0.5,
        "damon_running": ["kdamond 0", "kdamond 1", "damon_reclaim", "damon_lru_sort"],
    },
    "cgroup": {"memory_limit_bytes": 1 << 43, "quota_cpus": 1234.5},
    "load": {"avg1": 1234.56},
}


def without(name: str, key: str, value: object) -> dict[str, object]:
    """WORST with one fact changed; a value of None takes the fact away."""
    changed = {**WORST[name], key: value}
    return {**WORST, name: {k: v for k, v in changed.items() if v is not None}}


def test_the_worst_host_is_told_all_of_it_in_short_sentences() -> None:
    sentences = cautions_of_host(
        json.loads(json.dumps(WORST)), vcpu_threads=9999, reader_threads=9999
    )
    assert len(sentences) == 22
    assert [text for text in sentences if len(str(text)) > LONGEST_SENTENCE] == []
    assert all(text.text and text.remedy for text in sentences)
    assert len({text.code for text in sentences}) == 22


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("cpu", "allowed_count", 2345),
        ("cpu", "hypervisor", False),
        ("cpu", "clocksource", "tsc"),
        ("cpu", "nonstop_tsc", True),
        ("cpu", "numa_nodes", [{"node": 0}]),
        ("cpuidle", "states", []),
        ("cpuidle", "latency_limit_us", 0),
        ("kvm", "second_level_paging", "ept"),
        ("frequency", "governors", ["performance"]),
        ("frequency", "boost", False),
        ("kernel", "debug_options", ["DEBUG_LIST"]),
        ("memory", "swap_total_bytes", 0),
        ("memory", "thp_enabled", "madvise"),
        ("memory", "ksm_run", 0),
        ("memory", "numa_balancing", 0),
        ("memory", "mglru_enabled", "0x0000"),
        ("memory", "mglru_enabled", "y"),
        ("memory", "pressure_some_avg60_percent", 0.0),
        ("memory", "damon_running", []),
        ("cgroup", "memory_limit_bytes", 1 << 44),
        ("cgroup", "quota_cpus", None),
        ("load", "avg1", 0.25),
    ],
)
def test_a_fact_in_order_takes_its_sentence_away(name: str, key: str, value: object) -> None:
    everything = cautions_of_host(WORST, vcpu_threads=9999)
    fewer = cautions_of_host(without(name, key, value), vcpu_threads=9999)
    assert len(everything) - len(fewer) == 1
    assert set(fewer) - set(everything) <= {text for text in fewer if "9999" in text.text}


def test_a_fact_of_the_wrong_kind_says_nothing() -> None:
    broken: dict[str, object] = {
        "cpu": [],
        "memory": {"damon_running": "on", "ksm_run": "1"},
        "cpuidle": {"states": [3, {"name": "C6"}]},
        "vulnerabilities": {"mds": None},
    }
    assert cautions_of_host(broken, vcpu_threads=1) == []


@pytest.mark.parametrize(
    ("vcpus", "readers", "expected"),
    [(4, 0, ""), (3, 1, ""), (4, 1, "uffd pays"), (5, 0, "fewer fault at once"), (5, 9, "fewer")],
)
def test_threads_are_compared_with_the_cpus_allowed(
    vcpus: int, readers: int, expected: str
) -> None:
    facts = {"cpu": {"allowed_count": 4, "online_count": 4}}
    sentences = cautions_of_host(facts, vcpu_threads=vcpus, reader_threads=readers)
    assert len(sentences) == (1 if expected else 0)
    assert expected in "".join(map(str, sentences))


@pytest.mark.parametrize(
    ("options", "vcpus", "readers", "code"),
    [
        ({"pin": True}, 3, 1, ""),
        ({"pin": True}, 4, 1, "fewer-cpus-than-threads"),
        ({"pin": True}, 5, 0, "fewer-cpus-than-vcpus"),
        ({"pin": True, "cpus": "2-3"}, 3, 0, "fewer-cpus-than-vcpus"),
        ({"pin": True, "cpus": "0-1", "reader_cpus": "2"}, 2, 1, ""),
        ({"pin": True, "cpus": "0-1", "reader_cpus": "1"}, 1, 1, ""),
        ({"pin": True, "cpus": "0-1", "reader_cpus": "1-3"}, 2, 1, "fewer-cpus-than-threads"),
        ({"cpus": "0-1"}, 2, 0, ""),
        ({"cpus": "0-1"}, 2, 1, "fewer-cpus-than-threads"),
        ({"cpus": "0-1"}, 3, 0, "fewer-cpus-than-vcpus"),
        ({"cpus": "0-1", "reader_cpus": "2-3"}, 2, 2, ""),
        ({"numa": "local", "cpu_latency_us": 0}, 3, 1, ""),
        ({"numa": "local"}, 5, 0, "fewer-cpus-than-vcpus"),
    ],
)
def test_threads_are_compared_with_the_cpus_they_are_put_on(
    options: dict[str, Any], vcpus: int, readers: int, code: str
) -> None:
    facts = {"cpu": {"allowed": "0-3", "allowed_count": 4, "online_count": 4}}
    placement = Placement(**options)
    found = cautions_of_host(facts, vcpu_threads=vcpus, reader_threads=readers, placement=placement)
    assert [caution.code for caution in found] == ([code] if code else [])
    assert all(len(str(caution)) <= LONGEST_SENTENCE for caution in found)


@pytest.mark.parametrize(("asked_us", "sentences"), [(None, 1), (0, 0), (132, 0), (133, 1)])
def test_the_runs_own_latency_request_rules_out_deep_idle_states(
    asked_us: int | None, sentences: int
) -> None:
    states = [{"name": "C1", "latency_us": 2}, {"name": "C6", "latency_us": 133}]
    facts = {"cpuidle": {"states": states}}
    placement = Placement(cpu_latency_us=asked_us)
    assert len(cautions_of_host(facts, vcpu_threads=1, placement=placement)) == sentences


def test_a_latency_request_that_nothing_heeds_is_told_of() -> None:
    facts = {"cpuidle": {"driver": "none"}}
    assert cautions_of_host(facts, vcpu_threads=1) == []
    (caution,) = cautions_of_host(facts, vcpu_threads=1, placement=Placement(cpu_latency_us=0))
    assert caution.code == "cpu-latency-unheeded"
    assert len(str(caution)) <= LONGEST_SENTENCE
