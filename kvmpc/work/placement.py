"""Where a trial's threads and memory are to be: `Placement`, a frozen record, and its arithmetic.

Reads nothing of the host and changes nothing: what is asked is checked against this host in
``run/needs.py``, and done in ``vm/policy.py`` and ``trial/seats.py``. Everything fails with
UsageError, naming the option.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from kvmpc.errors import UsageError
from kvmpc.units import format_cpu_list

__all__ = ["ANYWHERE", "Placement", "Seating", "parse_cpus"]

_MAX_CPUS: Final = 8192
"""NR_CPUS_RANGE_END in arch/x86/Kconfig."""

_MAX_NODES: Final = 1 << 10
"""CONFIG_NODES_SHIFT is 10 at most (arch/x86/Kconfig)."""

_NO_LATENCY_LIMIT_US: Final = 2_000_000_000
"""PM_QOS_CPU_LATENCY_DEFAULT_VALUE (include/linux/pm_qos.h): a request from here on limits none."""

_CPUS_ALLOWED: Final = (
    f"a CPU list such as 0-3,8 or 0-15:2/4 (of every 4 the first 2), each CPU once, up to "
    f"{_MAX_CPUS - 1}"
)
_NUMA_ALLOWED: Final = "local, interleave, or node=N"


class Seating(NamedTuple):
    """The CPUs each thread may run on, one entry per vCPU and per reader."""

    vcpus: list[frozenset[int]]
    readers: list[frozenset[int]]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where threads run, which NUMA nodes guest memory comes from, how deep idle CPUs may sleep.

    pin: each thread on one CPU of its list, in turn; without it, anywhere in its list.
    cpus: for the vCPUs' threads, in the kernel's form; the order counts when pinned. None = all
        that this process may use.
    reader_cpus: for reader threads. None = those of `cpus` that no vCPU is pinned to, threads of
        other cores first, or all of `cpus` where there are no such.
    numa: ``local``, ``interleave`` or ``node=N``: the policy of guest memory (mbind(2)). None = it
        has none, and follows that of the process (numactl(8)).
    cpu_latency_us: the longest a CPU may take to leave an idle state, held during each trial.
        None = no request.
    """

    pin: bool = False
    cpus: str | None = None
    reader_cpus: str | None = None
    numa: str | None = None
    cpu_latency_us: int | None = None

    def __post_init__(self) -> None:
        for option, text in (("--cpus", self.cpus), ("--reader-cpus", self.reader_cpus)):
            if text is not None:
                parse_cpus(text, option)
        if self.numa is not None:
            _parse_numa(self.numa)
        limit_us = self.cpu_latency_us
        if limit_us is not None and not 0 <= limit_us < _NO_LATENCY_LIMIT_US:
            raise _latency_refusal(limit_us)

    @classmethod
    def parse(
        cls,
        *,
        pin: object = False,
        cpus: object = None,
        reader_cpus: object = None,
        numa: object = None,
        cpu_latency: object = None,
    ) -> Placement:
        """Return the placement that these options mean, as a command line or a TOML file has them.

        None = not given. A CPU list may be a number (``cpus = 3``); `cpu_latency` is a number of
        microseconds, or its text. Raises: UsageError.
        """
        if type(pin) is not bool:
            raise UsageError("--pin", pin, "true or false")
        return cls(
            pin=pin,
            cpus=_list_text("--cpus", cpus, keep_order=pin),
            reader_cpus=_list_text("--reader-cpus", reader_cpus, keep_order=pin),
            numa=None if numa is None else _numa_text(numa),
            cpu_latency_us=None if cpu_latency is None else _latency_us(cpu_latency),
        )

    @property
    def seats_threads(self) -> bool:
        """Whether threads are to be anywhere but where the process may run."""
        return self.pin or self.cpus is not None or self.reader_cpus is not None

    @property
    def node(self) -> int | None:
        """The node that guest memory is bound to, or None."""
        return None if self.numa is None else _parse_numa(self.numa)

    def seating(
        self,
        vcpus: int,
        readers: int,
        allowed: Sequence[int],
        cores: Sequence[frozenset[int]] = (),
    ) -> Seating:
        """Return which CPUs each thread may run on, `allowed` being those of the process.

        cores: the CPUs of each core that has several threads.
        """
        own = parse_cpus(self.cpus, "--cpus") if self.cpus else list(allowed)
        if self.reader_cpus:
            theirs = parse_cpus(self.reader_cpus, "--reader-cpus")
        elif self.pin:
            beside = frozenset[int]().union(*(core for core in cores if core & {*own[:vcpus]}))
            theirs = sorted(own[vcpus:], key=beside.__contains__) or own
        else:
            theirs = own
        if self.pin:
            return Seating(
                [frozenset({own[index % len(own)]}) for index in range(vcpus)],
                [frozenset({theirs[index % len(theirs)]}) for index in range(readers)],
            )
        return Seating([frozenset(own)] * vcpus, [frozenset(theirs)] * readers)

    def spare_cpus(self, vcpus: int, allowed: Sequence[int]) -> int:
        """Return how many CPUs readers can have that no vCPU needs, `allowed` being the process's.

        As many readers as vCPUs are seated at most: more have nobody to serve.
        """
        seating = self.seating(vcpus, vcpus, allowed)
        own = frozenset[int]().union(*seating.vcpus)
        theirs = frozenset[int]().union(*seating.readers)
        # On CPUs that both may use, those are free that are more than the vCPUs.
        return len(theirs - own) + min(len(theirs & own), max(0, len(own) - vcpus))


ANYWHERE: Final = Placement()
"""Nothing asked for."""


def parse_cpus(text: str, option: str) -> list[int]:
    """Return the CPUs of a list, in its order.

    Read as strictly as the kernel reads one, and more so: a CPU that is named twice is refused,
    since it would be unclear what pins to it. ``N`` and ``all`` are left to the kernel.
    Source: Documentation/admin-guide/kernel-parameters.rst, "cpu lists"; bitmap_parselist in lib.

    Raises: UsageError naming `option`.
    """
    cpus: list[int] = []
    for region in text.split(","):
        match = re.fullmatch(
            r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9})/(\d{1,9}))?)?", region.strip(), re.ASCII
        )
        if match is None:
            raise UsageError(option, text, _CPUS_ALLOWED)
        first, last = int(match[1]), int(match[2] or match[1])
        used, group = int(match[3] or 1), int(match[4] or 1)
        if not first <= last < _MAX_CPUS or not 1 <= used <= group:
            raise UsageError(option, text, _CPUS_ALLOWED)
        cpus.extend(cpu for cpu in range(first, last + 1) if (cpu - first) % group < used)
    if len(set(cpus)) < len(cpus):
        raise UsageError(option, text, _CPUS_ALLOWED)
    return cpus


def _list_text(option: str, given: object, *, keep_order: bool) -> str | None:
    if given is None:
        return None
    if type(given) is int:
        given = str(given)
    if not isinstance(given, str):
        raise UsageError(option, given, _CPUS_ALLOWED)
    cpus = parse_cpus(given, option)
    # Two ways to write one set are one point of a sweep, and one baseline.
    return format_cpu_list(cpus, sort=not keep_order)


def _parse_numa(text: str) -> int | None:
    """Return the node of ``node=N``, or None for the other modes."""
    if text in ("local", "interleave"):
        return None
    match = re.fullmatch(r"node=(\d{1,4})", text, re.ASCII)
    if match is None or int(match[1]) >= _MAX_NODES:
        raise UsageError("--numa", text, _NUMA_ALLOWED)
    return int(match[1])


def _numa_text(given: object) -> str:
    if not isinstance(given, str):
        raise UsageError("--numa", given, _NUMA_ALLOWED)
    node = _parse_numa(given)
    return given if node is None else f"node={node}"


def _latency_refusal(given: object) -> UsageError:
    allowed = f"whole microseconds, 0 to {_NO_LATENCY_LIMIT_US - 1}"
    return UsageError("--cpu-latency", given, allowed)


def _latency_us(given: object) -> int:
    if type(given) is int:
        return given
    match = re.fullmatch(r"(\d{1,10}) ?(?:us)?", given, re.ASCII) if type(given) is str else None
    if match is None:
        raise _latency_refusal(given)
    return int(match[1])
