"""One trial: one guest, one pager, one measurement. Park, open the gate, join, count, verify.

`run_trial` builds everything, measures, verifies and takes everything down again, whatever happens
in between. It returns a result, failed or not; only what ends the whole run (an interrupt, a host
that cannot) is raised.
"""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace

from kvmpc.abi import kvm as abi
from kvmpc.errors import GuestError, Interrupted, KvmpcError, StuckError, WatchdogError
from kvmpc.kernel.kvm import Kvm, Vcpu
from kvmpc.loops.records import RecordArray, Return, SharedRecord, VcpuRecord
from kvmpc.pagers.pager import Pager, Scene, Supply
from kvmpc.result.metrics import SETUP, START_SKEW, TEARDOWN
from kvmpc.result.records import TrialResult
from kvmpc.trial import tally, verify
from kvmpc.trial.crew import Crew, Report, Worker
from kvmpc.trial.failures import describe_exit, error_of, failure_of
from kvmpc.trial.kvm_counters import TrialStats
from kvmpc.trial.passes import FurtherPasses
from kvmpc.trial.perf import Recorder
from kvmpc.trial.seats import Place, got
from kvmpc.trial.signals import NEVER, Interrupt
from kvmpc.trial.split import latency_split
from kvmpc.trial.timeline import Timeline, speeds
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.bitmap import MissingBitmap
from kvmpc.vm.guest import DONE_PORT, READY_PORT, TRAP_PORT, Guest
from kvmpc.vm.memory import GuestMemory
from kvmpc.vm.x86 import plan_guest
from kvmpc.work.layout import Layout
from kvmpc.work.tags import ZERO
from kvmpc.work.work import Work

__all__ = ["WATCHDOG_S", "run_trial"]

WATCHDOG_S = 10.0
"""No page for this long means that none will come."""

_POLL_S = 0.1
_PARKED_POLL_S = 0.0001

_trial_numbers = itertools.count()


class _Stopped(Exception):
    """A thread left because its record's stop flag was set."""


@dataclass(eq=False, kw_only=True)
class _VcpuWorker(Worker):
    """The thread of one vCPU."""

    record: VcpuRecord
    vcpu: Vcpu
    later: VcpuRecord | None = None

    @property
    def index(self) -> int:
        """Which vCPU it is."""
        return self.vcpu.index

    def interrupt(self) -> None:
        """Make the next KVM_RUN return at once, should the signal come just before it."""
        self.vcpu.run.immediate_exit = 1
        if self.later is not None:
            self.later.stop = 1


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
) -> TrialResult:
    """Measure `pager` once on `work`; `recorder`, if any, samples from the gate to the end.

    Raises: Interrupted, StuckError. Everything else that goes wrong is in the result.
    """
    pager.check(work)
    trial = _Trial(kvm, work, pager, round_number, watchdog_s, interrupt, ring, recorder)
    try:
        return trial.run()
    except (Interrupted, StuckError):
        raise
    except (KvmpcError, OSError, MemoryError) as error:
        failed = tally.blank_result(
            work, pager, round_number, error=str(error) or type(error).__name__
        )
        return replace(failed, counts=trial.counts)


class _Trial:
    """The state of one trial between set-up and tear-down."""

    def __init__(
        self,
        kvm: Kvm,
        work: Work,
        pager: Pager,
        round_number: int,
        watchdog_s: float,
        interrupt: Interrupt,
        ring: int,
        recorder: Recorder | None,
    ) -> None:
        self.kvm, self.work, self.pager = kvm, work, pager
        self.round_number, self.watchdog_s, self.interrupt = round_number, watchdog_s, interrupt
        self.ring, self.recorder = ring, recorder
        self.layout = Layout(work)
        # Other tags each trial: a page left over from one before cannot pass for this one's.
        self.tags = pager.tags(work.seed << 32 | next(_trial_numbers))
        self.counts: dict[str, int] = {}
        self.timeline: Timeline | None = None

    def run(self) -> TrialResult:
        begin_ns = time.monotonic_ns()
        self._check_interrupt()
        with ExitStack() as stack:
            self._set_up(stack)
            try:
                self._wait_ready()
                ready_ns = time.monotonic_ns()
                self._wait_parked(self.shared)
                if self.pager.starts_empty:
                    verify.verify_absent(self.memory, self.layout, self._check_interrupt)
                self._open_gate()
                self._wait_done()
            finally:
                self._clear_out(stack)
            result = self._result(begin_ns=begin_ns, ready_ns=ready_ns)
            end_ns = time.monotonic_ns()
        teardown_ns = float(time.monotonic_ns() - end_ns)
        return replace(result, metrics={**result.metrics, TEARDOWN.key: teardown_ns})

    def _clear_out(self, stack: ExitStack) -> None:
        """Get every thread out before `stack` unmaps the memory that it runs on, or keep that."""
        try:
            self.passes.stop()
            stuck = self.crew.stop(self.crew.workers, self.supply.stop)
            if stuck:
                raise StuckError(stuck)
        except BaseException:
            stack.pop_all()
            raise
        self.counts = tally.counts(
            [worker.record for worker in self.vcpu_workers],
            [reader.record for reader in self.supply.readers],
        )

    def _set_up(self, stack: ExitStack) -> None:
        work = self.work
        self.place = stack.enter_context(Place(work))
        self.shared = stack.enter_context(RecordArray(SharedRecord, 1)).records[0]
        cpuid = self.kvm.supported_cpuid()
        plan = plan_guest(work, cpuid)
        self.memory = stack.enter_context(
            GuestMemory(plan.low_bytes, plan.data_bytes, work.placement)
        )
        self.bitmap = stack.enter_context(MissingBitmap(work.total_pages))
        self.guest = Guest(plan, self.memory, self.layout, self.tags, stamped=self.pager.fetches)
        scene = Scene(work, self.memory, self.layout, self.bitmap, self.shared, self.tags)
        self.supply: Supply = stack.enter_context(self.pager.open(scene))
        readers = self.supply.readers
        self.program = self.supply.program()
        self.crew = Crew(self.shared, self.program)
        self.passes = stack.enter_context(FurtherPasses(work, self.program))
        records = stack.enter_context(RecordArray(VcpuRecord, work.vcpus, tail_bytes=PAGE_BYTES))
        vm = stack.enter_context(self.kvm.create_vm())
        self.memory.give_to(vm)
        self.vcpu_workers: list[_VcpuWorker] = []
        self.tsc_shared = True
        for index in range(work.vcpus):
            self._check_interrupt()  # a large guest takes seconds to build
            vcpu = self.guest.create_vcpu(vm, index, cpuid, ring=self.ring)
            self.tsc_shared = vcpu.share_host_tsc() and self.tsc_shared
            record = records.records[index]
            self.supply.equip(record, records.tails[index])
            record.fd, record.run = vcpu.fd, vcpu.run_address
            record.last_page = ~0
            self.passes.equip(index, record)
            seat = self.place.vcpus[index]
            self.vcpu_workers.append(
                _VcpuWorker(
                    name=f"vcpu{index}",
                    record=record,
                    seat=seat,
                    vcpu=vcpu,
                    later=self.passes.records[index] if self.passes.records else None,
                )
            )
        self.reader_workers = [
            Worker(name=reader.name, record=reader.record, seat=seat)
            for reader, seat in zip(readers, self.place.seat_readers(len(readers)), strict=True)
        ]
        self.guest_tsc_khz = self.vcpu_workers[0].vcpu.tsc_khz()
        self.stats = TrialStats(self.kvm, vm)
        if work.sampled:
            both = [*records.records, *(reader.record for reader in readers)]
            self.timeline = Timeline(work, self.guest, both)
            stack.callback(self.timeline.close)

    # What the threads do.

    def _vcpu_body(self, worker: _VcpuWorker, report: Report) -> None:
        try:
            if self.supply.before_ready(worker.index) != Return.OK:
                raise _Stopped
            self._run_until(worker, "vcpu_loop", READY_PORT)
            worker.record.kvm_runs = 0
            report("ready")
            self._run_until(worker, "gated_vcpu_loop", DONE_PORT)
            report("done")
            if worker.later is not None:
                self._run_until(worker, "gated_vcpu_loop", DONE_PORT, worker.later)
                report("again")
        except _Stopped:
            pass

    def _reader_body(self, worker: Worker, report: Report) -> None:
        report("ready")
        code = self.program.call("reader_loop", worker.record)
        if code != Return.STOPPED:
            raise error_of(code, worker.name, worker.record)

    def _run_until(
        self, worker: _VcpuWorker, function: str, port: int, record: VcpuRecord | None = None
    ) -> None:
        """Run the vCPU, on its own record or `record`, until the guest writes to `port`."""
        record, vcpu = record or worker.record, worker.vcpu
        while True:
            code = self.program.call(function, record)
            if code == Return.EXIT:
                if record.error == 0 and vcpu.run.exit_reason == abi.KVM_EXIT_IO:
                    if vcpu.run.io.port == port:
                        return
                    if vcpu.run.io.port == TRAP_PORT:
                        raise GuestError(worker.index, self.guest.describe_trap(worker.index))
                handled = None if record.error else self.supply.handle(vcpu, record)
                if handled is None:
                    raise GuestError(worker.index, describe_exit(vcpu, record.error))
                code = handled
            if code == Return.STOPPED:
                raise _Stopped
            if code != Return.OK:
                raise error_of(code, worker.name, record)

    # What the main thread does meanwhile.

    def _wait_ready(self) -> None:
        self.crew.start(self.reader_workers, self._reader_body)
        self._await("ready", len(self.reader_workers))
        self.crew.start(self.vcpu_workers, self._vcpu_body)
        self._await("ready", len(self.vcpu_workers))

    def _wait_parked(self, gate: SharedRecord) -> None:
        """Wait until all sleep at the gate: a thread that said ready may yet wait for the GIL."""
        deadline = time.monotonic() + self.watchdog_s
        while gate.parked < self.work.vcpus:
            self._check_interrupt()
            if time.monotonic() > deadline:
                raise WatchdogError(self.watchdog_s, self._stuck())
            time.sleep(_PARKED_POLL_S)

    def _open_gate(self) -> None:
        """Begin what is counted and recorded, and let all run."""
        self.stats.begin()
        if self.recorder is not None:
            threads = {worker.tid or 0: "vcpus" for worker in self.vcpu_workers}
            threads |= {worker.tid or 0: "readers" for worker in self.reader_workers}
            self.recorder.begin(threads, self.program)
        self.crew.open_gate()

    def _wait_done(self) -> None:
        self._await("done", len(self.vcpu_workers))
        if self.recorder is not None:
            self.recorder.end()
        self.stats.end()
        stuck = self.crew.stop(self.reader_workers, lambda: None)
        if stuck:
            raise StuckError(stuck)
        if self.passes.records:
            self._wait_parked(self.passes.shared)
            self.passes.open_gate()
            self._await("again", len(self.vcpu_workers))
        if self.timeline is not None:
            self.timeline.sample(now=True)

    def _check_interrupt(self) -> None:
        if self.interrupt.signal_name is not None:
            raise Interrupted(self.interrupt.signal_name)

    def _progress(self) -> int:
        records = [self.guest.record(worker.index) for worker in self.vcpu_workers]
        return sum(int(r.touched + r.again) for r in records) + self.supply.progress()

    def _await(self, kind: str, threads: int) -> None:
        """Wait for `threads` events of `kind`; a failure, an interrupt or the watchdog ends it."""
        last_progress, last_change = -1, time.monotonic()
        if not threads:
            return
        sampled = self.timeline if kind != "ready" else None
        for event in self.crew.events(sampled.interval_s if sampled else _POLL_S):
            self._check_interrupt()
            if sampled:
                sampled.sample()
            if event is not None:
                if event.error is not None:
                    raise failure_of(event)
                if event.kind == kind:
                    threads -= 1
                last_change = time.monotonic()
                if not threads:
                    return
            elif time.monotonic() - last_change > min(1.0, self.watchdog_s / 4):
                progress = self._progress()
                if progress != last_progress:
                    last_progress, last_change = progress, time.monotonic()
                elif time.monotonic() - last_change > self.watchdog_s:
                    raise WatchdogError(self.watchdog_s, self._stuck())

    def _stuck(self) -> list[str]:
        found = []
        for worker in self.vcpu_workers:
            record = self.guest.record(worker.index)
            if worker.left.is_set():
                continue
            if record.touched < record.touches and self.shared.gate:
                page = self.layout.touched_page(worker.index, record.touched)
                found.append(f"{worker.name} for page {page}")
            elif self.passes.shared.gate:
                page = self.layout.touched_page(worker.index, record.again % record.touches)
                found.append(f"{worker.name} for page {page} in a further pass")
            else:
                found.append(f"{worker.name} before the gate")
        return found

    # Afterwards.

    def _result(self, *, begin_ns: int, ready_ns: int) -> TrialResult:
        work, guest = self.work, self.guest
        vcpus = [worker.record for worker in self.vcpu_workers]
        readers = [reader.record for reader in self.supply.readers]
        verify.verify_guest(guest, self.memory, self.layout, self.tags)
        verify.verify_presence(self.memory, self.layout, self._check_interrupt)
        if self.pager.fetches:
            verify.verify_installs([*vcpus, *readers, *self.passes.records], work.expected_pages)
            verify.verify_bitmap(self.bitmap, self.layout)
        gate_ns = self.shared.gate_ns
        timeline = self.timeline.columns(gate_ns) if self.timeline else {}
        elapsed_ns = max(record.end_ns for record in vcpus) - gate_ns
        seen_khz = tally.guest_tsc_khz_seen(guest, vcpus)
        khz = float(self.guest_tsc_khz or seen_khz)
        metrics = tally.metrics(
            work, gate_ns=gate_ns, vcpus=vcpus, readers=readers, guest=guest, guest_tsc_khz=khz
        )
        self.passes.verify(guest)
        metrics |= speeds(timeline, [r.end_ns - gate_ns for r in vcpus], self.passes.full_speed())
        metrics |= self.place.metrics()
        metrics[SETUP.key] = float(ready_ns - begin_ns)
        split, split_cautions = latency_split(
            self.memory, self.layout, self.pager, tsc_khz=khz, tsc_shared=self.tsc_shared
        )
        metrics |= split
        pages_per_node = self.memory.pages_per_node()
        return replace(
            tally.blank_result(work, self.pager, self.round_number, error=None),
            verified=self._verified(),
            elapsed_ns=elapsed_ns,
            metrics=metrics,
            counts=self.counts,
            histogram_cycles=tally.histogram(guest, work),
            guest_tsc_khz=khz,
            guest_tsc_is_host_tsc=self.tsc_shared,
            per_vcpu=tally.per_thread(vcpus, gate_ns)
            | got(self.place.vcpus)
            | {
                "touched": tuple(guest.record(i).touched for i in range(work.vcpus)),
                "longest_cycles": tuple(guest.record(i).longest_cycles for i in range(work.vcpus)),
            },
            per_reader=tally.per_thread(readers, gate_ns)
            | got(self.place.readers)
            | {"received": tuple(record.received for record in readers)},
            pages_per_node=pages_per_node,
            warnings=(
                *tally.warnings(
                    work,
                    elapsed_ns=elapsed_ns,
                    start_skew_ns=metrics[START_SKEW.key],
                    returns=self.counts["returns"],
                    guest_tsc_khz=khz,
                    tsc_khz_seen=seen_khz,
                ),
                *self.place.cautions(pages_per_node),
                *split_cautions,
                *self.stats.cautions(self.counts, ring=self.ring),
            ),
            kvm_stats=self.stats.deltas,
            timeline=timeline,
        )

    def _verified(self) -> str:
        """Return how far this trial's pages were verified."""
        if not self.work.checked:
            return "presence only"
        return "zeros" if self.tags == ZERO else "yes"
