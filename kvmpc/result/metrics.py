"""Every metric of a trial, defined once: what emits one and what reads one name it by object.

A document has the key alone, whose end is the unit. Families are made by rule: quantiles of fault
times, and of each part of a fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kvmpc.result.histogram import BLUR

__all__ = [
    "CPU",
    "CPU_LATENCY",
    "CPU_READERS",
    "CPU_VCPUS",
    "FAIRNESS",
    "FAULT_MAX",
    "FAULT_P50",
    "FAULT_P99",
    "FAULT_QUANTILES",
    "FETCH",
    "FINISH_SPREAD",
    "FULL_SPEED",
    "HOST_SPEED",
    "INSTALL",
    "LOST",
    "METRICS",
    "MIB_RATE",
    "OTHERS",
    "PARTS",
    "PART_QUANTILES",
    "RATE",
    "SETUP",
    "START_SKEW",
    "STOLEN",
    "TEARDOWN",
    "THROTTLED",
    "TO_95_SPEED",
    "TO_HALF_SPEED",
    "WAIT_READERS",
    "WAIT_VCPUS",
    "Metric",
    "part_metric",
]


@dataclass(frozen=True)
class Metric:
    """One metric: its `key` in a trial's metrics, its unit, and what it is.

    better: +1 where more is better, -1 where less is, 0 where neither.
    blur: a value is known only to a factor of e^blur to either side, as one from a histogram.
    """

    key: str
    unit: str
    better: int
    meaning: str
    blur: float = 0.0


RATE: Final = Metric("pages_per_s", "pages/s", +1, "pages from the gate to the last vCPU's last")
MIB_RATE: Final = Metric("mib_per_s", "MiB/s", +1, "the same rate in bytes")
CPU: Final = Metric("cpu_s_per_gib", "s/GiB", -1, "CPU time of vCPU threads and readers")
CPU_VCPUS: Final = Metric("cpu_vcpus_s", "s", -1, "CPU time of all vCPU threads")
CPU_READERS: Final = Metric("cpu_readers_s", "s", -1, "CPU time of all reader threads")
WAIT_VCPUS: Final = Metric(
    "wait_vcpus_s", "s", -1, "in which vCPU threads could have run and had no CPU, summed"
)
WAIT_READERS: Final = Metric("wait_readers_s", "s", -1, "the same of all reader threads")
LOST: Final = Metric(
    "lost_share", "share", -1, "of the CPU time that its threads asked for, what others had of it"
)
OTHERS: Final = Metric("others_cpu_s", "s", -1, "what else the trial's CPUs ran meanwhile")
STOLEN: Final = Metric("stolen_cpu_s", "s", -1, "what a hypervisor took of its CPUs meanwhile")
THROTTLED: Final = Metric(
    "throttled_cpu_s", "s", -1, "in which a quota kept its control group from CPUs"
)
START_SKEW: Final = Metric("start_skew_ns", "ns", -1, "from the gate until the last vCPU started")
SETUP: Final = Metric("setup_ns", "ns", 0, "from the trial's begin until all were at the gate")
TEARDOWN: Final = Metric("teardown_ns", "ns", 0, "from the last page until all was given back")
INSTALL: Final = Metric("install_ns_per_page", "ns/page", -1, "in installs, of pages fetched")
FETCH: Final = Metric("fetch_ns_per_page", "ns/page", 0, "in fetches: the delay really had")
CPU_LATENCY: Final = Metric("cpu_latency_us", "us", 0, "the latency limit in force for idle CPUs")
FAIRNESS: Final = Metric("fairness_share", "share", +1, "Jain's index of the vCPUs' rates")
FINISH_SPREAD: Final = Metric("finish_spread_ns", "ns", -1, "from the first vCPU's end to the last")
FULL_SPEED: Final = Metric(
    "full_speed_touches_per_s", "touches/s", 0, "touches of all vCPUs with every page there"
)
HOST_SPEED: Final = Metric(
    "host_steps_per_s", "steps/s", 0, "a fixed loop that the kernel has no part in, right before"
)
TO_HALF_SPEED: Final = Metric("to_half_speed_ns", "ns", -1, "from the gate to half of full speed")
TO_95_SPEED: Final = Metric("to_95_speed_ns", "ns", -1, "from the gate to 95 % of full speed")

FAULT_QUANTILES: Final[Mapping[float, Metric]] = {
    quantile: Metric(
        f"fault_{name}_ns", "ns", -1, f"{quantile:.1%} of touches took no longer", blur=BLUR
    )
    for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))
}
"""A guest's touch of a missing page, by quantile."""

FAULT_P50: Final = FAULT_QUANTILES[0.5]
FAULT_P99: Final = FAULT_QUANTILES[0.99]
FAULT_MAX: Final = Metric("fault_max_ns", "ns", -1, "the longest touch")

PARTS: Final[Mapping[str, str]] = {
    "noticed": "from the guest's touch until the resolver has the page",
    "fetch": "from there until its bytes are there",
    "install": "the install itself",
    "back": "from the install's return until the guest goes on",
    "install_back": "from before the install until the guest goes on",
}
"""What a fault's time is split into."""

PART_QUANTILES: Final[Mapping[str, float]] = {"p50": 0.5, "p99": 0.99}

_BY_PART: Final = {
    (part, name): Metric(f"{part}_{name}_ns", "ns", -1, f"{meaning}; {quantile:.0%} of pages")
    for part, meaning in PARTS.items()
    for name, quantile in PART_QUANTILES.items()
}


def part_metric(part: str, quantile: str) -> Metric:
    """Return the metric of a part of `PARTS` at a quantile of `PART_QUANTILES`.

    Raises: KeyError.
    """
    return _BY_PART[part, quantile]


METRICS: Final[Mapping[str, Metric]] = {
    metric.key: metric
    for metric in (
        RATE, MIB_RATE, CPU, CPU_VCPUS, CPU_READERS, WAIT_VCPUS, WAIT_READERS, LOST, OTHERS,
        STOLEN, THROTTLED, START_SKEW, SETUP, TEARDOWN, INSTALL, FETCH,
        CPU_LATENCY, FAIRNESS, FINISH_SPREAD, FULL_SPEED, HOST_SPEED, TO_HALF_SPEED,
        TO_95_SPEED,
        *FAULT_QUANTILES.values(), FAULT_MAX, *_BY_PART.values(),
    )
}  # fmt: skip
"""By key."""
