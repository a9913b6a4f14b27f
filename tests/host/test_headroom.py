"""Which limits there are, what each leaves, and which one a failed call has run into."""

from __future__ import annotations

import errno
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmpc.errors import KernelError
from kvmpc.host.headroom import (
    Limit,
    address_limits,
    exhausted,
    file_limits,
    mapping_limits,
    shortage,
    thread_limits,
)
from kvmpc.kernel import syscalls
from kvmpc.kernel.threads import STACK_BYTES, small_threads
from kvmpc.units import GIB, KIB, MIB
from tests.fakes.trees import plant

LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max data size             41943040             unlimited            bytes
Max open files            20                   40                   files
Max address space         {address}            unlimited            bytes
"""
STATUS = "VmSize:\t   10240 kB\nVmData:\t    8192 kB\n"


def left(limits: list[Limit]) -> dict[str, int]:
    return {limit.name: limit.left for limit in limits}


def test_each_limit_of_address_space_leaves_what_it_does_not_count_as_taken(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/self/limits": LIMITS.format(address=52428800),
            "proc/self/status": STATUS,
            "proc/sys/vm/overcommit_memory": "2\n",
            "proc/meminfo": "CommitLimit: 4096 kB\nCommitted_AS: 1024 kB\n",
        },
    )
    assert left(address_limits(tmp_path)) == {
        "ulimit -v": 40 * MIB,
        "ulimit -d": 32 * MIB,
        "vm.overcommit_memory=2": 3 * MIB,
    }


def test_what_is_unlimited_or_not_in_force_is_no_limit(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/self/limits": LIMITS.format(address="unlimited"),
            "proc/self/status": STATUS,
            "proc/sys/vm/overcommit_memory": "0\n",
            "proc/meminfo": "CommitLimit: 4096 kB\nCommitted_AS: 1024 kB\n",
        },
    )
    assert list(left(address_limits(tmp_path))) == ["ulimit -d"]
    assert address_limits(tmp_path / "nothing") == []
    assert file_limits(tmp_path / "nothing") == []
    assert mapping_limits(tmp_path / "nothing") == []
    assert thread_limits(tmp_path / "nothing") == []


def test_open_files_and_mappings_count_what_is_taken(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/self/limits": LIMITS.format(address="unlimited"),
            "proc/self/maps": "a\nb\nc\n",
            "proc/sys/vm/max_map_count": "23\n",
            **{f"proc/self/fd/{number}": "" for number in range(7)},
        },
    )
    assert left(file_limits(tmp_path)) == {"ulimit -Hn": 33}
    assert left(mapping_limits(tmp_path)) == {"vm.max_map_count": 20}


def test_only_what_is_used_up_is_exhausted(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/self/limits": LIMITS.format(address=10240 * KIB + 100),
            "proc/self/status": STATUS,
        },
    )
    assert [limit.name for limit in exhausted(root=tmp_path)] == ["ulimit -v"]
    wanting = exhausted(wanted_bytes=33 * MIB, root=tmp_path)
    assert [limit.name for limit in wanting] == ["ulimit -v", "ulimit -d"]


def test_a_failure_of_another_kind_is_no_shortage() -> None:
    assert shortage(errno.EINVAL, wanted_bytes=1 << 60) == ""


# Of this process, really


@pytest.fixture
def soft_limit() -> Iterator[Callable[[int, int], None]]:
    """Lower a soft limit of this process for the test."""
    before: dict[int, tuple[int, int]] = {}

    def lower(which: int, value: int) -> None:
        before[which] = resource.getrlimit(which)
        resource.setrlimit(which, (value, before[which][1]))

    yield lower
    for which, limits in before.items():
        resource.setrlimit(which, limits)


def test_a_mapping_that_does_not_fit_is_told_with_the_limit_it_hits(
    soft_limit: Callable[[int, int], None],
) -> None:
    (taken,) = (
        int(line.split()[1]) * KIB
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmSize:")
    )
    soft_limit(resource.RLIMIT_AS, taken + 64 * MIB)
    with pytest.raises(KernelError, match="ENOMEM") as caught:
        syscalls.Mapping.anonymous(GIB)
    assert "ulimit -v leaves" in caught.value.hint
    assert "ulimit -v unlimited" in caught.value.hint


def test_a_thread_takes_its_small_stack_and_no_heap() -> None:
    def address_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * 4 * KIB

    leave, parked = threading.Event(), threading.Barrier(24)

    def use_a_heap() -> None:
        parked.wait()
        leave.wait()

    threads = [threading.Thread(target=use_a_heap) for _ in range(23)]
    before = address_bytes()
    with small_threads():
        for thread in threads:
            thread.start()
    parked.wait()
    taken = address_bytes() - before
    leave.set()
    for thread in threads:
        thread.join()
    # Stacks of threads that have ended are used again: so at most.
    assert taken <= 23 * (STACK_BYTES + 64 * KIB) + 2 * MIB
    assert threading.stack_size() == 0
