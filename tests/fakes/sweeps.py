"""Results that nobody measured: the shapes of the 2018 talk over vCPUs, with seeded noise.

For the report alone: no figure here is of any machine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from kvmpc.caution import Caution
from kvmpc.result.metrics import (
    CPU,
    CPU_READERS,
    CPU_VCPUS,
    FAULT_P50,
    FAULT_P99,
    FULL_SPEED,
    INSTALL,
    MIB_RATE,
    RATE,
    TO_95_SPEED,
    TO_HALF_SPEED,
    part_metric,
)
from kvmpc.result.records import PROFILED, Point, Profile, Result, Skip, TrialResult
from kvmpc.units import PAGE_BYTES
from kvmpc.work.work import Work
from tests.fakes.results import fake_result, fake_trial, info_of

__all__ = ["DOUBLED", "PAGERS", "USUAL", "complete", "skipped", "sweep", "trial"]

DOUBLED = (1, 2, 4, 8, 16, 32, 64, 128, 160)
TSC_KHZ = 2_500_000.0
PAGES_PER_VCPU = 997

PAGERS: Mapping[str, Callable[[int], float]] = {
    "none": lambda n: 340e3 * n / (1 + n / 90),
    "uffd": lambda n: 56e3 * (n**0.45 if n <= 4 else 4**0.45 * (4 / n) ** 0.09),
    "uffd,readers=4": lambda n: 60e3 * (n**0.4 if n <= 4 else 4**0.4 * (4 / n) ** 0.3),
    "uffd,fetch=blocking": lambda n: 40e3 * n**0.1,
    "none,host=populated": lambda n: 500e3 * n / (1 + n / 120),
    "uffd,uffds=per-vcpu": lambda n: 55e3 * n / (1 + n / 20),
    "exit": lambda n: 90e3 * n / (1 + n / 60),
    "exit,uffds=per-vcpu": lambda n: 95e3 * n / (1 + n / 75),
}
"""Pages/s of all vCPUs together, by the number of vCPUs."""


USUAL = (
    "none", "uffd", "uffd,readers=4", "uffd,uffds=per-vcpu", "exit", "exit,uffds=per-vcpu",
)  # fmt: skip


def trial(
    spec: str,
    vcpus: int,
    round_number: int,
    chance: random.Random,
    *,
    point: int = 0,
    rate: float | None = None,
    **changes: Any,
) -> TrialResult:
    """Return one trial of a pager whose rate is `rate`, give or take 3 %."""
    wanted = PAGERS[spec](vcpus) if rate is None else rate
    pages_per_s = wanted * math.exp(chance.gauss(0, 0.03))
    work = work_of(vcpus)
    pages = work.expected_pages
    elapsed_ns = round(pages / pages_per_s * 1e9)
    fault_ns = vcpus / pages_per_s * 1e9
    info = info_of(spec)
    busy = min(vcpus, 160) * (0.9 if info.kind == "exit" else 0.35) + info.fetches * 1.0
    cpu_s = busy * elapsed_ns / 1e9
    ends = [round(elapsed_ns * chance.uniform(0.9, 1)) for _ in range(vcpus - 1)]
    metrics = {
        RATE.key: pages_per_s,
        MIB_RATE.key: pages_per_s / 256,
        CPU_VCPUS.key: cpu_s * 0.8,
        CPU_READERS.key: cpu_s * 0.2,
        CPU.key: cpu_s / (pages / 262144),
        FAULT_P50.key: fault_ns * 0.9,
        FAULT_P99.key: fault_ns * 4,
    }
    if info.fetches:
        metrics[INSTALL.key] = 900 + fault_ns * 0.2
    made_up = {
        "metrics": metrics,
        "histogram_cycles": histogram(fault_ns, pages, chance),
        "guest_tsc_khz": TSC_KHZ,
        "per_vcpu": {"start_ns": (1000,) * vcpus, "end_ns": (*ends, elapsed_ns)},
        "point": point,
    }
    return fake_trial(spec, round_number, pages_per_s, work=work, **(made_up | changes))


def work_of(vcpus: int) -> Work:
    """Return what a trial with so many vCPUs works on."""
    return Work(vcpus=vcpus, mem_per_vcpu_bytes=PAGES_PER_VCPU * PAGE_BYTES)


def histogram(
    fault_ns: float, touches: int, chance: random.Random
) -> tuple[tuple[int, int, int], ...]:
    """Return log-linear buckets, 16 to a power of two, around a fault time."""
    found: dict[tuple[int, int], int] = {}
    for _ in range(200):
        cycles = max(32, round(fault_ns * TSC_KHZ / 1e6 * math.exp(chance.gauss(-0.1, 0.5))))
        width = 1 << (cycles.bit_length() - 5)
        lowest = cycles // width * width
        key = (lowest, lowest + width - 1)
        found[key] = found.get(key, 0) + max(1, touches // 200)
    return tuple((low, high, count) for (low, high), count in sorted(found.items()))


def sweep(
    vcpus: Sequence[int] = DOUBLED,
    pagers: Sequence[str] = USUAL,
    *,
    rounds: int = 6,
    seed: int = 1,
    factor: Callable[[str], float] = lambda _: 1.0,
    more: Mapping[str, Sequence[object]] | None = None,
    kernel: str = "6.12.0-synthetic",
    **changes: Any,
) -> Result:
    """Return a sweep over vCPUs (one point alone is no sweep), with a warm-up round.

    factor: what a pager's rate is multiplied by. more: other options to cross, by name.
    """
    chance = random.Random(seed)
    crossed: list[dict[str, object]] = [{"vcpus": n} for n in vcpus]
    for name, values in (more or {}).items():
        crossed = [{**options, name: value} for value in values for options in crossed]
    trials = []
    for number in range(rounds + 1):
        for index, options in enumerate(crossed):
            for spec in pagers:
                n = int(str(options["vcpus"]))
                rate = PAGERS.get(spec, PAGERS["uffd"])(n) * factor(spec)
                trials.append(trial(spec, n, number, chance, point=index, rate=rate))
    fields: dict[str, Any] = {
        "command": ("kvmpc", "sweep", "a synthetic spec.toml"),
        "options": {**asdict(work_of(vcpus[0])), "rounds": rounds, "warmup": 1},
        "pagers": tuple(pagers),
        "host": {
            "hostname": "synthetic",
            "distribution": "none: no machine has measured this",
            "kernel": {"release": kernel, "cmdline": "quiet"},
            "cpu": {
                "model": "Synthetic CPU", "vendor": "none", "online_count": 192,
                "allowed": "0-191", "allowed_count": 192,
                "numa_nodes": [{"node": 0, "cpus": "0-95"}, {"node": 1, "cpus": "96-191"}],
            },
            "kvm": {"second_level_paging": "npt", "vendor_module": "kvm_amd"},
        },
        "warnings": (Caution("synthetic", "nobody measured these numbers", "measure"),),
        "points": tuple(Point(options=o, pagers=tuple(pagers)) for o in crossed),
        "spec": 'question = "does it scale?"\nvcpus = [1, 2, 4]\n',
    }  # fmt: skip
    if len(crossed) == 1:
        fields |= {"points": (), "spec": None}
    return fake_result(*trials, **(fields | changes))


def complete(result: Result) -> Result:
    """Return a result with all that a trial may have: the latency split, a profile, a timeline."""
    trials = [replace(t, metrics={**t.metrics, **_split(t), **_speeds(t)}, kvm_stats={
        "exits": 2 * t.expected_pages, "pf_fixed": t.expected_pages, "tlb_flush": 1,
    }, timeline=_timeline(t)) for t in result.trials]  # fmt: skip
    first = {(t.point, t.pager): t for t in trials}
    trials += [replace(t, round=PROFILED, profile=_profile(t)) for t in first.values()]
    return replace(result, trials=tuple(trials))


def _profile(trial: TrialResult) -> Profile:
    waits = 0.9 * (1 - 1 / trial.vcpus) if trial.fetches else 0.01
    return Profile(
        event="cpu-clock",
        frequency_hz=1999,
        samples=1234,
        modes={"guest": 0.1, "kernel": 0.85, "user": 0.05},
        roles={"vcpus": 0.7, "readers": 0.3},
        spin={"userfaultfd": waits * 0.7, "mmu_lock": waits * 0.2, "mmap_vma": 0.0,
              "page_allocator": 0.0, "other": waits * 0.1},
        irqs_off={"userfaultfd": 0.05, "other": 0.01},
        top={"native_queued_spin_lock_slowpath": waits, "(guest)": 0.1},
    )  # fmt: skip


def _timeline(trial: TrialResult) -> dict[str, tuple[int, ...]]:
    """Return a course that gets faster all the time, until every page is there."""
    steps, elapsed_ns = 23, trial.elapsed_ns or 0
    touches = tuple(trial.expected_pages * n * n // steps**2 for n in range(steps + 1))
    ns = tuple(elapsed_ns * n // steps for n in range(steps + 1))
    return {"ns": ns, "touches": touches, "installs": touches}


def _speeds(trial: TrialResult) -> dict[str, float]:
    elapsed_ns = float(trial.elapsed_ns or 0)
    return {
        FULL_SPEED.key: 2.5 * trial.metrics[RATE.key],
        TO_HALF_SPEED.key: 0.6 * elapsed_ns,
        TO_95_SPEED.key: 0.9 * elapsed_ns,
    }


def _split(trial: TrialResult) -> dict[str, float]:
    whole = trial.metrics[FAULT_P50.key]
    if not trial.fetches:
        return {}
    shares = {"noticed": 0.4, "fetch": 0.05, "install": 0.35, "back": 0.2}
    return {
        part_metric(part, name).key: whole * share * factor
        for part, share in shares.items()
        for name, factor in (("p50", 1.0), ("p99", 6.0))
    }


def skipped(point: int, spec: str, reason: str) -> Skip:
    """Return a row that a host could not run."""
    return Skip(point=point, pager=spec, reason=reason)
