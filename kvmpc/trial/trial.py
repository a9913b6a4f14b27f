"""One trial: one guest, one pager, one measurement. Park, open the gate, join, count, verify.

`run_trial` builds everything, measures, verifies and takes everything down again, whatever happens
in between. It returns a result, failed or not; only what ends the whole run (an interrupt, a host
that cannot) is raised.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from kvmpc.errors import Interrupted, KvmpcError, StuckError
from kvmpc.kernel.kvm import Kvm
from kvmpc.loops.records import RecordArray, SharedRecord
from kvmpc.pagers.pager import Pager
from kvmpc.result.metrics import SETUP, TEARDOWN
from kvmpc.result.records import TrialResult
from kvmpc.trial import tally, verify
from kvmpc.trial.competition import Competition
from kvmpc.trial.outcome import Finding, blank_result, fold
from kvmpc.trial.perf import Recorder
from kvmpc.trial.rig import NO_HOOKS, Rig, TrialHooks
from kvmpc.trial.samples import Window
from kvmpc.trial.signals import NEVER, Interrupt
from kvmpc.trial.speed import host_speed
from kvmpc.trial.split import latency_split
from kvmpc.trial.watchdog import WATCHDOG_S, Watchdog
from kvmpc.work.work import Work

__all__ = ["run_trial"]


def run_trial(
    kvm: Kvm,
    work: Work,
    pager: Pager,
    *,
    round_number: int = 1,
    watchdog_s: float = WATCHDOG_S,
    interrupt: Interrupt = NEVER,
    ring: int = 3,
    recorder: Recorder | None = None,
    hooks: TrialHooks = NO_HOOKS,
) -> TrialResult:
    """Measure `pager` once on `work`.

    round_number: which round of the run it is. watchdog_s: how long no page may come. ring: the
    guest's privilege level, 0 only for tests of what KVM emulates. recorder: samples from the gate
    to the end, where given.
    Raises: UsageError, Interrupted, StuckError. Everything else that goes wrong is in the result.
    """
    pager.check(work)
    begin_ns = time.monotonic_ns()
    counts = Finding()
    try:
        interrupt.check()
        with ExitStack() as held:
            gate = held.enter_context(RecordArray(SharedRecord, 1)).records[0]
            rig = held.enter_context(
                Rig(kvm, work, pager, gate, ring=ring, interrupt=interrupt, hooks=hooks)
            )
            watchdog = Watchdog(rig, interrupt, watchdog_s)
            speed = host_speed(rig.seats.vcpus[0])
            try:
                _start(rig, watchdog)
                ready_ns = time.monotonic_ns()
                watchdog.wait_parked(gate)
                if pager.starts_empty:
                    verify.verify_absent(rig.memory.presence, rig.layout, interrupt.check)
                hooks.before_gate(rig)
                watchdog.stops.begin()
                competition = Competition(rig)
                competition.begin()
                _open_gate(rig, recorder)
                _join(rig, watchdog, competition, recorder, hooks)
            finally:
                _stop(rig, held)
                counts = Finding(counts=tally.counts(rig.vcpu_records, rig.reader_records))
            hooks.before_verify(rig)
            verified = _verify(rig, interrupt)
            setup = Finding(metrics={SETUP.key: float(ready_ns - begin_ns)})
            stops = watchdog.stops
            findings = [verified, counts, speed, *_findings(rig, counts), setup, stops.finding()]
            findings.append(competition.finding(still_s=stops.still_ns / 1e9))
            end_ns = time.monotonic_ns()
        teardown = Finding(metrics={TEARDOWN.key: float(time.monotonic_ns() - end_ns)})
    except (Interrupted, StuckError):
        raise
    except (KvmpcError, OSError, MemoryError) as error:
        hooks.on_failure(error)
        text = str(error) or "out of memory: raise ulimit -v, or the memory limit of the cgroup"
        return fold(blank_result(work, pager, round_number, error=text), [counts])
    return fold(blank_result(work, pager, round_number), [*findings, teardown])


def _start(rig: Rig, watchdog: Watchdog) -> None:
    """Start all threads, readers first, and let each come as far as the gate."""
    for workers in (rig.readers, rig.vcpus):
        rig.crew.start(workers)
        watchdog.wait("ready", len(workers))


def _open_gate(rig: Rig, recorder: Recorder | None) -> None:
    """Begin what is counted and recorded, and let all run."""
    rig.stats.begin()
    if recorder is not None:
        recorder.begin(rig.program)
    rig.crew.open_gate()


def _join(
    rig: Rig,
    watchdog: Watchdog,
    competition: Competition,
    recorder: Recorder | None,
    hooks: TrialHooks,
) -> None:
    """Wait until every vCPU has its pages, then for its further passes, without readers."""
    watchdog.wait("done", len(rig.vcpus), rig.timeline)
    for reader in rig.readers:
        reader.record.stop = 1  # first of all: one that spins runs until it sees this
    competition.end()
    if recorder is not None:
        recorder.end(_windows(rig))
    rig.stats.end()
    stuck = rig.crew.stop(rig.readers, lambda: None)
    if stuck:
        raise StuckError(stuck)
    if rig.passes.records:
        watchdog.wait_parked(rig.passes.shared)
        hooks.before_passes(rig)
        rig.passes.open_gate()
        watchdog.wait("again", len(rig.vcpus), rig.timeline)
    if rig.timeline is not None:
        rig.timeline.sample(now=True)


def _windows(rig: Rig) -> list[Window]:
    """Return when each thread of the trial was at work: a reader's lasts to the last page."""
    begin_ns = rig.gate.gate_ns
    last_ns = max(record.end_ns for record in rig.vcpu_records)
    vcpus = [Window(vcpu.tid or 0, "vcpus", begin_ns, vcpu.record.end_ns) for vcpu in rig.vcpus]
    readers = [Window(reader.tid or 0, "readers", begin_ns, last_ns) for reader in rig.readers]
    return vcpus + readers


def _stop(rig: Rig, held: ExitStack) -> None:
    """Get every thread out before `held` unmaps the memory that it runs on, or keep that."""
    try:
        rig.stop()
    except BaseException:
        held.pop_all()
        raise


def _verify(rig: Rig, interrupt: Interrupt) -> Finding:
    """Return how far the pages were verified. Raises: VerifyError, Interrupted, OSError."""
    presence, layout = rig.memory.presence, rig.layout
    verify.verify_guest(rig.guest, presence, layout, rig.tags)
    verify.verify_presence(presence, layout, interrupt.check)
    if rig.pager.fetches:
        records = [*rig.vcpu_records, *rig.reader_records, *rig.passes.records]
        verify.verify_counts(records, rig.work.expected_pages)
        verify.verify_bitmap(rig.bitmap, layout)
    rig.passes.verify(rig.guest)
    if rig.work.checked:
        # Every thread is out; a page that is lost just now must be zeros, not a SIGBUS or a hang.
        rig.supply.stop()
        verify.verify_contents(
            rig.program,
            rig.memory,
            layout,
            rig.tags,
            interrupt.check,
            stamped=rig.work.split and rig.pager.fetches,
        )
    return verify.verified(rig.work, rig.tags)


def _findings(rig: Rig, counts: Finding) -> list[Finding]:
    """Return what each producer of numbers has found, in the order of its cautions."""
    gate_ns = rig.gate.gate_ns
    threads = tally.finding(
        rig.work,
        gate_ns=gate_ns,
        vcpus=rig.vcpu_records,
        readers=rig.reader_records,
        guest=rig.guest,
        told_tsc_khz=rig.tsc_khz,
        tsc_shared=rig.tsc_shared,
        returns=counts.counts["returns"],
    )
    progress = rig.timeline.finding(gate_ns) if rig.timeline else Finding()
    full_speed = rig.passes.full_speed()
    return [
        threads,
        progress,
        tally.speeds(progress.timeline, threads.per_vcpu["end_ns"], full_speed),
        rig.seats.finding(rig.memory.presence.pages_per_node()),
        latency_split(
            rig.memory,
            rig.layout,
            rig.pager,
            tsc_khz=threads.guest_tsc_khz or 0.0,
            tsc_shared=rig.tsc_shared,
        ),
        rig.stats.finding(counts.counts, ring=rig.ring),
    ]
