"""Trials on real KVM, one process: how they are run, and how a test gets at their inside."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from kvmpc.errors import HostError
from kvmpc.kernel.kvm import Kvm
from kvmpc.pagers import parse_pager
from kvmpc.pagers.pager import Supply
from kvmpc.result.records import TrialResult
from kvmpc.run.needs import check_run
from kvmpc.trial.rig import TrialHooks
from kvmpc.trial.signals import Interrupt, interruptible
from kvmpc.trial.trial import run_trial
from kvmpc.units import PAGE_BYTES
from kvmpc.work.work import Work

Run = Callable[..., TrialResult]

_RUN_OPTIONS = ("ring", "watchdog_s", "round_number")
_MOMENTS = [field.name for field in fields(TrialHooks)]


@pytest.fixture(scope="session")
def kvm() -> Iterator[Kvm]:
    """KVM, opened once."""
    with Kvm() as kvm:
        yield kvm


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    """The handlers a run installs; pytest's own are back afterwards."""
    with interruptible() as interrupt:
        yield interrupt


@pytest.fixture
def run(kvm: Kvm, interrupt: Interrupt) -> Run:
    """Run one trial: spec of a pager, pages of a part, any other option of Work, trial or hooks.

    before_ready(supply, vcpu): besides the hooks of a trial, in the vCPU's thread before the gate.
    """

    def run(spec: str, *, pages: int = 23, vcpus: int = 3, **options: Any) -> TrialResult:
        trial = {key: options.pop(key) for key in _RUN_OPTIONS if key in options}
        hooks = {key: options.pop(key) for key in _MOMENTS if key in options}
        if "before_ready" in options:
            more = [hooks["on_supply"]] if "on_supply" in hooks else []
            hooks["on_supply"] = _in_vcpus_threads(options.pop("before_ready"), *more)
        work = Work(vcpus=vcpus, mem_per_vcpu_bytes=pages * PAGE_BYTES, **options)
        return run_trial(
            kvm, work, parse_pager(spec), interrupt=interrupt, hooks=TrialHooks(**hooks), **trial
        )

    return run


@pytest.fixture
def run_large(kvm: Kvm, run: Run) -> Iterator[Run]:
    """The same for what not every host has room for: then the test is skipped with the reason."""
    limits = {
        which: resource.getrlimit(which)
        for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
    }

    def run_large(spec: str, *, pages: int, vcpus: int, **options: Any) -> TrialResult:
        work = Work(vcpus=vcpus, mem_per_vcpu_bytes=pages * PAGE_BYTES, **options)
        try:
            check_run(kvm, work, [parse_pager(spec)])
        except HostError as error:
            pytest.skip(str(error))
        return run(spec, pages=pages, vcpus=vcpus, **options)

    yield run_large
    for which, values in limits.items():
        resource.setrlimit(which, values)


def _in_vcpus_threads(
    do: Callable[[Supply, int], None], then: Callable[[Supply], None] = lambda _: None
) -> Callable[[Supply], None]:
    """Return an `on_supply` that makes each vCPU's thread `do` something before the gate."""

    def on_supply(supply: Supply) -> None:
        inner = supply.before_ready

        def before_ready(vcpu: int) -> int:
            code = inner(vcpu)
            do(supply, vcpu)
            return code

        supply.before_ready = before_ready
        then(supply)

    return on_supply


@dataclass(frozen=True)
class Held:
    """What this process holds of the kernel."""

    fds: int
    threads: int
    mappings: int
    children: int


@pytest.fixture
def held() -> Callable[[], Held]:
    """Count this process's file descriptors, threads and mappings."""

    def held() -> Held:
        with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
            mappings = sum(1 for _ in file)
        found = 0
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # gone meanwhile
                found += int(entry.read_text().rpartition(")")[2].split()[1]) == os.getpid()
        return Held(
            fds=len(os.listdir("/proc/self/fd")),
            threads=len(os.listdir("/proc/self/task")),
            mappings=mappings,
            children=found,
        )

    return held


@pytest.fixture
def fds_left() -> Iterator[Callable[[int], None]]:
    """Lower RLIMIT_NOFILE so that exactly so many more descriptors can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def fds_left(count: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)  # so that what follows can open a file
        with os.scandir("/proc/self/fd") as found:
            # The directory's own descriptor is among them and free again afterwards.
            used = {int(entry.name) for entry in found}
        used = {fd for fd in used if os.path.exists(f"/proc/self/fd/{fd}")}
        limit = 0
        while count:
            count -= limit not in used
            limit += 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, 1), before[1]))

    yield fds_left
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
