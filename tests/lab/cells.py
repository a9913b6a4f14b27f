"""The matrix: which machines, which cells in each, and what each kernel is known to do.

A cell is one `kvmpc run` of one pager with one number of vCPUs on one kernel and MMU. `judge` turns
what a machine brought back into a record for the lab's JSON; `surprises` says where a cell is not
what its kernel does. Page counts are small and prime: emulation takes a few hundred us a page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvmpc.run.rehearsal import PAGES

from .kernels import Kernel
from .machine import PROBES, Boot, Job

__all__ = ["CELLS", "MMUS", "PAGERS", "SERIES", "STOPS", "VCPUS", "Cell", "jobs", "judge",
           "surprises"]  # fmt: skip

SERIES = ("6.1", "6.12")

MMUS: Mapping[str, Mapping[str, str]] = {
    "tdp": {"kvm": "tdp_mmu=1", "kvm_amd": "npt=1"},
    "npt": {"kvm": "tdp_mmu=0", "kvm_amd": "npt=1"},
    "shadow": {"kvm_amd": "npt=0"},
}
"""Module parameters by what the MMU is called here."""

MMU_TITLES = {
    "tdp": "NPT, TDP MMU",
    "npt": "NPT, shadow MMU code (tdp_mmu=0)",
    "shadow": "shadow paging (npt=0)",
}

VCPUS: Mapping[int, int] = {1: 997, 4: 499, 160: 23}
"""Pages of each vCPU, by vCPUs."""

PAGERS = (
    "none",
    "none,host=populated",
    "uffd",
    "uffd,readers=2",
    "uffd,uffds=per-vcpu",
    "exit",
    "exit,uffds=per-vcpu",
)

STOPS = ("silent-reader", "running-uffd", "running-exit", "watchdog")

TRIAL_TESTS = ("tests/trial", "-m", "kvm and not large")
"""What pytest runs inside: all tests of the host but those for which emulation is too slow."""

_PYTHON = "/py/bin/python3"
_CELL_JSON = "/out/cell.json"
_CELL_S = 180
_COMPARE = ("--vcpus", "4", "--mem-per-vcpu", "396K", "--rounds", "1", "--warmup", "1")

# Calls a page, by probe. Source: abi.md; seen alike on 6.1 and 6.12, with NPT and with shadow
# paging. hva_to_pfn() asks GUP without sleeping, then again with; a userfault answers the first
# with "not now", and with UFFD_FEATURE_SIGBUS fails the second, after which
# check_user_page_hwpoison() asks a third time through another entry of GUP.
_CALLS_OF_ONE_PAGE = {
    "none": (0, 1, 1),
    "none,host=populated": (0, 0, 1),
    "uffd": (2, 2, 1),
    "exit": (3, 2, 2),
}

_PREFETCHED = 8
"""Pages KVM's shadow MMU maps for one fault where the host has them all: PTE_PREFETCH_NUM in
arch/x86/kvm/mmu/mmu.c. The TDP MMU does not prefetch."""

_NOISE_PER_VCPU = 12
"""Stage-2 faults that are no page's: the low slot's (code, tables, record), and the boot's."""


@dataclass(frozen=True)
class Cell:
    """One pager with one number of vCPUs."""

    vcpus: int
    pager: str

    @property
    def name(self) -> str:
        """What its job and its test are called."""
        return f"{self.vcpus}-{self.pager}"

    @property
    def pages(self) -> int:
        """Pages that all vCPUs touch together."""
        return self.vcpus * VCPUS[self.vcpus]

    @property
    def job(self) -> Job:
        """The command that measures it."""
        argv = (
            *(_PYTHON, "-m", "kvmpc", "run", self.pager, "--vcpus", str(self.vcpus)),
            *("--mem-per-vcpu", f"{VCPUS[self.vcpus] * 4}K", "--warmup", "0"),
            *("--watchdog", "30", "--json", _CELL_JSON),
        )
        return Job(f"cell {self.name}", argv, _CELL_S, files=(_CELL_JSON,))


CELLS = tuple(Cell(vcpus, pager) for vcpus in VCPUS for pager in PAGERS)


def jobs(*, host_tests: bool = True) -> list[Job]:
    """Return everything one boot does."""
    kvmpc = (_PYTHON, "-m", "kvmpc")
    found = [
        Job("probe", (*kvmpc, "probe", "--json"), 120),
        Job("compare", (*kvmpc, "compare", *_COMPARE, "--json", "/out/compare.json"), 180,
            files=("/out/compare.json",)),
        *(cell.job for cell in CELLS),
        *(Job(f"stop {kind}", (_PYTHON, "/lab/scripts/stop.py", kind), 120) for kind in STOPS),
        Job("huge pages", (_PYTHON, "/lab/scripts/huge_pages.py"), 120),
    ]  # fmt: skip
    if host_tests:
        pytest = (_PYTHON, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider")
        found.append(
            Job("host tests", (*pytest, *TRIAL_TESTS), 3600, cwd="/lab/checkout",
                env={"KVMPC_REQUIRE_KVM": "1"})
        )  # fmt: skip
    return found


def _cell_record(
    cell: Cell, report: Mapping[str, Any], absent: Mapping[str, str]
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "vcpus": cell.vcpus,
        "pager": cell.pager,
        "status": "failed",
        "error": report["stderr"].strip()[-600:],
        "verified": None,
        "pages": cell.pages,
        "seconds": report["seconds"],
        "exits": {},
        "returns": None,
        "calls_per_page": {
            name: round(report["calls"][name] / (cell.pages + PAGES), 3)
            for name in PROBES
            if name in report["calls"] and name not in absent
        },
        "calls": dict(report["calls"]),
    }
    text = report["files"][_CELL_JSON]
    if report["timed_out"]:
        record["error"] = "did not end within its time; " + record["error"]
    elif text:
        (trial,) = json.loads(text)["trials"]
        record |= {key: trial[key] for key in ("status", "error", "verified")}
        counts = trial["counts"]
        record["exits"] = {
            form: counts[f"exits_{form}"]
            for form in ("annotated", "registers", "mmio")
            if f"exits_{form}" in counts
        }
        record["returns"] = counts.get("returns")
        record["pages_per_s"] = trial["metrics"].get("pages_per_s")
        if report["exit_code"] != 0 and record["status"] == "ok":
            record |= {"status": "failed", "error": f"exit code {report['exit_code']}"}
    return record


def pagers_that_run(report: Mapping[str, Any]) -> list[str]:
    """Return the checks of `kvmpc probe` in which a pager supplied pages."""
    try:
        checks = json.loads(report["stdout"])
    except ValueError:
        return []
    return [c["name"] for c in checks if "trial" in c["name"] and c["status"] == "yes"]


def judge(kernel: Kernel, mmu: str, boot: Boot) -> dict[str, Any]:
    """Return the record of one boot for the lab's JSON."""
    reports = boot.reports
    stops = []
    for kind in STOPS:
        report = reports.get(f"stop {kind}")
        if report is not None:
            try:
                found = json.loads(report["stdout"])
            except ValueError:
                found = {"error": report["stderr"].strip()[-600:]}
            stops.append({"kind": kind, **found})
    try:
        huge_pages = json.loads(reports["huge pages"]["stdout"])
    except ValueError:
        huge_pages = {"error": reports["huge pages"]["stderr"].strip()[-600:]}
    host = reports.get("host tests")
    return {
        "kernel": kernel.name,
        "release": boot.facts["release"],
        "mmu": mmu,
        "parameters": boot.facts["parameters"],
        "boot_s": boot.boot_s,
        "total_s": boot.total_s,
        "complaints": boot.complaints,
        "absent_probes": boot.absent_probes,
        "probe": {key: reports["probe"][key] for key in ("exit_code", "stdout", "stderr")},
        "compare": {key: reports["compare"][key] for key in ("exit_code", "stdout", "stderr")},
        "compare_result": json.loads(reports["compare"]["files"]["/out/compare.json"] or "null"),
        "cells": [
            _cell_record(cell, reports[cell.job.name], boot.absent_probes)
            for cell in CELLS
            if cell.job.name in reports
        ],
        "stops": stops,
        "huge_pages": huge_pages,
        "host_tests": host
        and {
            "exit_code": host["exit_code"],
            "seconds": host["seconds"],
            "summary": (host["stdout"].strip().splitlines() or [""])[-1],
            "stdout": host["stdout"][-8000:],
        },
    }


def surprises(mmu: str, cell: Mapping[str, Any]) -> list[str]:
    """Return where a cell's exits and calls are not what Debian's 6.1 and 6.12 do."""
    found = []
    name = cell["pager"].split(",")[0]
    exits, pages = cell["exits"], cell["pages"]
    # No mainline x86 kernel to 6.12 at least annotates the EFAULT of a failed GUP:
    # kvm_handle_error_pfn() returns a bare -EFAULT; "Do a KVM_MEMORY_FAULT EXIT when stage-2 fault
    # handler EFAULTs" (Moorthy, 2024) was posted only. KVM_CAP_MEMORY_FAULT_INFO (6.8) is there
    # for guest_memfd. In ring 3 nothing is emulated, so no exit is MMIO, shadow paging included.
    expected = {"annotated": 0, "registers": pages if name == "exit" else 0, "mmio": 0}
    if exits != expected:
        found.append(f"exits {exits}, not {expected}")
    key = cell["pager"] if cell["pager"] in _CALLS_OF_ONE_PAGE else name
    for probe, calls in zip(PROBES, _CALLS_OF_ONE_PAGE[key], strict=True):
        if probe not in cell["calls"]:
            continue
        # A trial is rehearsed first, on a guest of one vCPU.
        seen, least = cell["calls"][probe], calls * (pages + PAGES)
        if key == "none,host=populated" and mmu != "tdp":
            least //= _PREFETCHED
        # A vCPU that is woken, and finds its page gone on, asks again: never less, little more.
        most = least + pages // 20 + 8
        if probe == "kvm_mmu_page_fault":
            most += _NOISE_PER_VCPU * (cell["vcpus"] + 1)
        if not least <= seen <= most:
            found.append(f"{seen} calls of {probe}, not {least} to {most} ({calls} a page)")
    return found
