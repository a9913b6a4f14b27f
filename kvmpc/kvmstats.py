"""KVM's own counters over one trial, and where they have to agree with ours.

A trial reads them twice, while no vCPU runs: when all sleep at the gate, and after all are done.
The descriptors of all vCPUs of a VM are the same, so they are parsed once; each fd is opened, read
and closed in turn, so that 1024 vCPUs need one more descriptor and not 1024.
Counters never fail a trial: without them it has none, and says why where that is unexpected.
"""

from __future__ import annotations

import ctypes
import errno
import operator
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvmpc.abi import kvm as abi
from kvmpc.cautions import Caution
from kvmpc.errors import KernelError
from kvmpc.kvm import Kvm, StatsFd, Vm

__all__ = ["Layout", "TrialStats", "disagreements", "read_layout", "read_totals"]

_MAX_DESCRIPTORS = 4096
_WORD_BYTES = 8


@dataclass(frozen=True)
class Layout:
    """Where the counters are in what an fd of one kind gives.

    words: the place of each counter of `names`, in u64 from `offset`; span_words: how much to read.
    """

    offset: int
    span_words: int
    names: tuple[str, ...]
    words: tuple[int, ...]

    def values(self, fd: StatsFd) -> Sequence[int]:
        """Return the counters, one for each name. Raises: KernelError."""
        data = fd.read(self.span_words * _WORD_BYTES, self.offset)
        numbers = struct.unpack(f"={self.span_words}Q", data)
        return [numbers[word] for word in self.words]


def read_layout(fd: StatsFd) -> Layout:
    """Return where the counters are that only grow.

    A difference of instant values or of peaks says nothing; histograms are left out.
    Raises: KernelError, also where the descriptors make no sense (EPROTO).
    Source: api.rst, KVM_GET_STATS_FD: a header, an id string, the descriptors, the data.
    """
    header = abi.kvm_stats_header.from_buffer_copy(fd.read(ctypes.sizeof(abi.kvm_stats_header), 0))
    fixed = ctypes.sizeof(abi.kvm_stats_desc)
    stride = fixed + header.name_size
    if not 0 < header.num_desc <= _MAX_DESCRIPTORS or not 0 < header.name_size <= 1024:
        raise KernelError("the header of KVM's statistics", errno.EPROTO)
    descriptors = fd.read(header.num_desc * stride, header.desc_offset)
    found: dict[str, int] = {}
    for start in range(0, len(descriptors), stride):
        one = abi.kvm_stats_desc.from_buffer_copy(descriptors, start)
        name = (
            descriptors[start + fixed : start + stride]
            .partition(b"\0")[0]
            .decode("ascii", "replace")
        )
        if one.offset % _WORD_BYTES:
            raise KernelError(f"the descriptor of KVM's statistic {name}", errno.EPROTO)
        if one.flags & abi.KVM_STATS_TYPE_MASK == abi.KVM_STATS_TYPE_CUMULATIVE and one.size == 1:
            found[name] = one.offset // _WORD_BYTES
    span_words = max(found.values(), default=-1) + 1
    return Layout(header.data_offset, span_words, tuple(found), tuple(found.values()))


def read_totals(vm: Vm) -> dict[str, int]:
    """Return every counter of `vm` and the sum over its vCPUs of theirs.

    The names are the kernel's; a VM's and a vCPU's differ, for debugfs has both in one folder.
    Raises: KernelError.
    """
    with StatsFd(vm) as fd:
        of_vm = read_layout(fd)
        found = dict(zip(of_vm.names, of_vm.values(fd), strict=True))
    layout: Layout | None = None
    sums: Sequence[int] = ()
    for vcpu in vm.vcpus:
        with StatsFd(vcpu) as fd:
            if layout is None:
                layout = read_layout(fd)
                sums = [0] * len(layout.names)
            sums = list(map(operator.add, sums, layout.values(fd)))
    if layout is not None:
        found |= zip(layout.names, sums, strict=True)
    return found


class TrialStats:
    """The counters of one trial's VM: `begin` before the gate, `end` when all are done.

    deltas: what each counter grew by, empty where KVM has none or they could not be read;
    problem: why not, where KVM does offer them.
    """

    def __init__(self, kvm: Kvm, vm: Vm) -> None:
        self._vm = vm
        self._offered = kvm.check_extension(abi.KVM_CAP_BINARY_STATS_FD) > 0
        self._before: dict[str, int] = {}
        self.deltas: dict[str, int] = {}
        self.problem: str | None = None

    def begin(self) -> None:
        """Read where the counters stand."""
        self._before = self._read()

    def end(self) -> None:
        """Read them again."""
        after = self._read() if self._before else {}
        self.deltas = {name: after[name] - was for name, was in self._before.items() if after}

    def _read(self) -> dict[str, int]:
        if not self._offered:
            return {}
        try:
            return read_totals(self._vm)
        except KernelError as error:
            if error.errno != errno.ENOTTY:
                self.problem = str(error)
            return {}

    def cautions(self, counts: Mapping[str, int], *, ring: int) -> list[Caution]:
        """Return what is wrong with the counters, or between them and our `counts`."""
        if self.problem is not None:
            text = f"KVM's statistics could not be read: {self.problem}"
            return [Caution("kvm-stats-unread", text, "see ulimit -n; the counters are absent")]
        return disagreements(self.deltas, counts, ring=ring)


def disagreements(
    deltas: Mapping[str, int], counts: Mapping[str, int], *, ring: int = 3
) -> list[Caution]:
    """Return where KVM's counters and our `counts` contradict each other.

    Only what has to hold on every x86 KVM is checked, whatever its MMU:

    - ``exits`` (vcpu_enter_guest) >= KVM_RUN calls that were not interrupted: each of them entered
      the guest, and came back out of it.
    - ``pf_taken`` (since 6.0: kvm_mmu_page_fault and what it calls) >= EFAULT exits, and >= pages
      installed: both begin with a vCPU's page fault, except for accesses that KVM emulates. Not
      ``==``: a fault may be retried, and after an exit the page faults again, unless KVM mapped it
      along with its neighbour. ``pf_fixed`` has no relation: with the shadow MMU one fault may map
      8 pages, and a fault that lost a race counts as spurious.
    - ``mmio_exits`` (x86_emulate_instruction) == KVM_EXIT_MMIO: the guest's accesses are aligned,
      so each is one fragment.

    Seen to hold with NPT and the TDP MMU (6.1, 6.12), with shadow paging (6.12), and with a KVM
    without hardware paging (6.18). In ring 0 that one emulates the guest, and takes no page fault.
    """
    exits = counts.get("exits_annotated", 0) + counts.get("exits_registers", 0)
    mmio = counts.get("exits_mmio", 0)
    runs = counts.get("kvm_runs", 0) - counts.get("interrupts", 0)
    faulted = max(exits, counts.get("installs", 0) - mmio)
    relations = [
        ("exits", runs, "KVM_RUN calls", deltas.get("exits", runs) >= runs),
        ("mmio_exits", mmio, "MMIO exits", deltas.get("mmio_exits", mmio) == mmio),
    ]
    if ring == 3:
        held = deltas.get("pf_taken", faulted) >= faulted
        relations.append(("pf_taken", faulted, "missing pages met by a fault", held))
    return [
        Caution(
            "kvm-stats-disagree",
            f"KVM counted {deltas[name]} {name} where kvmpc counted {ours} {what}",
            "one of the two is wrong: do not rely on this trial before you know which",
        )
        for name, ours, what, held in relations
        if not held
    ]
