"""KVM's own counters over one trial, and where they have to agree with ours.

A trial reads them twice, while no vCPU runs: when all sleep at the gate, and after all are done.
Counters never fail a trial: without them it has none, and says why where that is unexpected.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from kvmpc.abi import kvm as abi
from kvmpc.caution import Caution
from kvmpc.errors import KernelError
from kvmpc.kernel.kvm import Kvm, Vm
from kvmpc.kernel.kvm_stats import read_totals
from kvmpc.trial.outcome import Finding

__all__ = ["TrialStats", "disagreements"]


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

    def finding(self, counts: Mapping[str, int], *, ring: int) -> Finding:
        """Return the counters, and where they contradict our `counts`."""
        cautions = self.cautions(counts, ring=ring)
        return Finding(kvm_stats=self.deltas, cautions=tuple(cautions))

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
            size=abs(deltas[name] - ours),
        )
        for name, ours, what, held in relations
        if not held
    ]
