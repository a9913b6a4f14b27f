"""Profiles: what is read from perf script, whose lock a sample waited for, what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmpc.caution import Caution
from kvmpc.judge.reading import read
from kvmpc.result.document import from_json, to_json
from kvmpc.result.records import PROFILED, WAITERS, Profile, Result
from kvmpc.show.profile_table import format_profiles
from kvmpc.trial.samples import (
    SPIN,
    WAITS,
    Sample,
    Window,
    cautions,
    parse,
    summarise,
    waiter,
    waits,
)

RECORDED = Path(__file__).with_name("perf_script.txt")
KERNEL = 0xFFFFFFFF81000000


def chain(*functions: str) -> tuple[tuple[int, str], ...]:
    """Return kernel frames, the innermost first."""
    return tuple((KERNEL + 16 * n, function) for n, function in enumerate(functions))


def sample(
    *functions: str, tid: int = 23, at_ns: int = 50, weight: int = 1, event: str = "cycles"
) -> Sample:
    return Sample(tid, at_ns, weight, event, chain(*functions))


# --- reading


def test_a_sample_is_a_line_and_its_chain() -> None:
    text = """
 1836   465.528274480:     500250 cpu-clock: 
\tffffffff816a43c5 native_queued_spin_lock_slowpath.part.0
\tffffffff8226031d handle_userfault
\t    7f4bd4869279 vcpu_loop
\t               0 [unknown]

 1838   465.528274:     500251 cpu-clock: 

"""  # noqa: W291 - perf writes it so
    assert list(parse(text.splitlines())) == [
        Sample(
            1836,
            465_528_274_480,
            500250,
            "cpu-clock",
            (
                (0xFFFFFFFF816A43C5, "native_queued_spin_lock_slowpath"),
                (0xFFFFFFFF8226031D, "handle_userfault"),
                (0x7F4BD4869279, "vcpu_loop"),
                (0, "[unknown]"),
            ),
        ),
        Sample(1838, 465_528_274_000, 500251, "cpu-clock", ()),
    ]


@pytest.mark.parametrize(
    "head",
    [
        " 1836  0.000000007:   2500 cycles:P: ",
        "1836/1836  0.000000007:  2500 cycles:",
        "   1836 0.000000007: 2500 cycles:ppp:",
        "1836     0.000000007:     2500   cycles: ",
    ],
)
def test_the_head_of_other_versions_is_read_too(head: str) -> None:
    [found] = parse([head, "\tffffffff816a43c5 clear_page_erms"])
    assert (found.tid, found.time_ns, found.weight, found.event) == (1836, 7, 2500, "cycles")
    assert found.function == "clear_page_erms"


def test_an_address_on_the_line_of_the_event_is_its_only_frame() -> None:
    [found] = parse([" 1836  1.000000:  2500 cycles:  ffffffff816a43c5 clear_page_erms"])
    assert found.frames == ((0xFFFFFFFF816A43C5, "clear_page_erms"),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        "nonsense",
        "\tffffffff816a43c5 a_frame_without_a_head",
        "9" * 5000,
        "a: b: c:",
        " 1836    2500 cycles: ",  # not stamped: nobody knows whether it counts
    ],
)
def test_what_is_no_sample_is_passed_over(text: str) -> None:
    assert list(parse(text.splitlines())) == []


def test_a_sample_is_of_the_guest_the_kernel_or_the_program() -> None:
    found = [sample(), sample("vfs_read"), Sample(1, 1, 1, "cycles", ((4096, "x"),))]
    assert [one.mode for one in found] == ["guest", "kernel", "user"]
    assert found[0].function == "(guest)"


# --- whose lock it is

SLOW = "native_queued_spin_lock_slowpath"


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        # handle_userfault() queues the fault under fault_pending_wqh.lock.
        ((SLOW, "_raw_spin_lock_irq", "handle_userfault", "do_anonymous_page"), "userfaultfd"),
        # A reader takes the fault off the queue.
        ((SLOW, "_raw_spin_lock_irq", "userfaultfd_ctx_read", "userfaultfd_read"), "userfaultfd"),
        # handle_userfault() wakes who polls: fd_wqh's lock, in the wait queue's own function.
        ((SLOW, "__wake_up_common_lock", "__wake_up", "handle_userfault"), "userfaultfd"),
        # UFFDIO_COPY wakes the vCPU: the helper is inlined into the ioctl.
        ((SLOW, "_raw_spin_lock_irq", "userfaultfd_ioctl", "__x64_sys_ioctl"), "userfaultfd"),
        (("queued_read_lock_slowpath", "ep_poll_callback", "handle_userfault"), "userfaultfd"),
        # The woken thread's run queue is no queue of the userfaultfd.
        ((SLOW, "raw_spin_rq_lock_nested", "try_to_wake_up", "handle_userfault"), "run_queue"),
        ((SLOW, "_raw_spin_lock", "__schedule", "schedule", "handle_userfault"), "run_queue"),
        # TDP MMU: read; shadow MMU: write. The rwlock waits on a spin lock of its own.
        (("queued_read_lock_slowpath", "_raw_read_lock", "kvm_tdp_mmu_page_fault"), "mmu_lock"),
        ((SLOW, "queued_write_lock_slowpath", "_raw_write_lock", "direct_page_fault"), "mmu_lock"),
        (("queued_write_lock_slowpath", "paging64_page_fault", "kvm_mmu_page_fault"), "mmu_lock"),
        (("queued_write_lock_slowpath", "kvm_mmu_notifier_invalidate_range_start"), "mmu_lock"),
        # The same fault looks the page up: mmap_lock.
        (
            ("rwsem_spin_on_owner", "rwsem_down_read_slowpath", "down_read_killable",
             "get_user_pages_unlocked", "hva_to_pfn", "kvm_mmu_faultin_pfn", "direct_page_fault"),
            "mmap_vma",
        ),
        (("osq_lock", "rwsem_optimistic_spin", "rwsem_down_write_slowpath"), "mmap_vma"),
        # A rwsem's own wait_lock belongs to it.
        ((SLOW, "_raw_spin_lock_irq", "rwsem_wake", "up_read", "mfill_atomic"), "mmap_vma"),
        ((SLOW, "down_read_trylock", "lock_vma_under_rcu", "exc_page_fault"), "mmap_vma"),
        ((SLOW, "_raw_spin_lock", "rmqueue_bulk", "get_page_from_freelist"), "page_allocator"),
        ((SLOW, "_raw_spin_lock", "free_pcppages_bulk", "free_unref_page"), "page_allocator"),
        # Locks of the copy that are none of these: the page table's, the memory cgroup's.
        ((SLOW, "_raw_spin_lock", "mfill_atomic_install_pte", "userfaultfd_ioctl"), "other"),
        ((SLOW, "_raw_spin_lock_irq", "folio_lruvec_lock_irq", "userfaultfd_ioctl"), "other"),
        ((SLOW, "_raw_spin_lock", "mcopy_atomic_pte", "__mcopy_atomic", "userfaultfd_ioctl"),
         "other"),
        ((SLOW, "_raw_spin_lock", "__pmd_alloc", "mfill_atomic", "userfaultfd_ioctl"), "other"),
        ((SLOW, "_raw_spin_lock", "__anon_vma_prepare", "userfaultfd_ioctl"), "other"),
        # Whoever took it inside an interrupt, the function that was interrupted did not.
        ((SLOW, "_raw_spin_lock_irqsave", "rcu_core", "handle_softirqs", "__irq_exit_rcu",
          "asm_sysvec_apic_timer_interrupt", "handle_userfault"), "other"),
        ((SLOW, "_raw_spin_lock", "asm_sysvec_call_function_single", "handle_userfault"), "other"),
        # lockdep's own lock, of its graph.
        ((SLOW, "__lock_acquire", "lock_acquire", "_raw_spin_lock_irq", "handle_userfault"),
         "other"),
        # Other kernels: with DEBUG_SPINLOCK, ...
        (("do_raw_spin_lock", "_raw_spin_lock_irq", "handle_userfault"), "userfaultfd"),
        # ... as a guest of KVM, of Hyper-V and of Xen, ...
        (("kvm_wait", "pv_wait_head_or_lock", "__pv_queued_spin_lock_slowpath",
          "_raw_spin_lock_irq", "userfaultfd_ctx_read"), "userfaultfd"),
        (("hv_qlock_wait", "__pv_queued_spin_lock_slowpath", "direct_page_fault"), "mmu_lock"),
        (("xen_qlock_wait", "__pv_queued_spin_lock_slowpath", "rmqueue_bulk"), "page_allocator"),
        (("virt_spin_lock", "_raw_spin_lock_irq", "handle_userfault"), "userfaultfd"),
        # ... with PREEMPT_RT.
        (("rt_spin_lock", "handle_userfault"), "userfaultfd"),
        (("rtmutex_spin_on_owner", "rtlock_slowlock_locked", "rt_spin_lock", "handle_userfault"),
         "userfaultfd"),
        ((SLOW, "_raw_spin_lock_irqsave", "rtlock_slowlock", "rt_spin_lock", "__wake_up",
          "userfaultfd_ioctl"), "userfaultfd"),
        (("rt_write_lock", "kvm_mmu_notifier_invalidate_range_start"), "mmu_lock"),
        (("rwbase_read_lock", "down_read", "lock_mm_and_find_vma"), "mmap_vma"),
        ((SLOW, "_raw_spin_lock", "vfs_write", "do_syscall_64"), "other"),
        ((SLOW,), "other"),
    ],
)  # fmt: skip
def test_the_first_function_above_a_spin_wait_says_whose_lock_it_is(
    functions: tuple[str, ...], expected: str
) -> None:
    assert SPIN.fullmatch(functions[0])
    assert waits(chain(*functions))
    assert waiter(chain(*functions)) == expected


@pytest.mark.parametrize(
    "function",
    ["_raw_spin_unlock_irqrestore", "finish_task_switch", "clear_page_erms", "schedule",
     "lock_acquire", "lock_release", "do_raw_spin_unlock", "rt_spin_unlock",
     "__pv_queued_spin_unlock_slowpath", "rt_mutex_slowunlock"],
)  # fmt: skip
def test_giving_a_lock_back_and_keeping_books_of_it_is_no_wait(function: str) -> None:
    assert not SPIN.fullmatch(function)
    assert not waits(chain(function, "handle_userfault"))


def test_what_a_guest_does_instead_of_spinning_is_the_wait_and_no_interrupt_is() -> None:
    """It gives its CPU away: the innermost frame is whatever halts, there."""
    above = ("kvm_wait", "__pv_queued_spin_lock_slowpath", "_raw_spin_lock_irq", "handle_userfault")
    halted = chain("native_safe_halt", *above)
    assert waits(halted)
    assert waiter(halted) == "userfaultfd"
    interrupted = chain("tcp_ack", "handle_softirqs", "asm_common_interrupt", *above)
    assert not waits(interrupted)


def test_a_function_of_the_program_with_a_kernels_name_decides_nothing() -> None:
    frames = (*chain(SLOW), (0x7F0000001000, "handle_userfault"))
    assert waiter(frames) == "other"


def test_every_entry_of_the_table_has_a_waiter_and_a_source() -> None:
    assert {wait.waiter for wait in WAITS} | {"other"} == set(WAITERS)
    assert all(
        ".c" in wait.reason or ".h" in wait.reason or "mmu/" in wait.reason for wait in WAITS
    )


# --- shares

WINDOWS = [Window(23, "vcpus", 10, 100), Window(24, "readers", 10, 200)]


def summed(*samples: Sample) -> Profile:
    found = summarise(samples, WINDOWS, frequency_hz=997)
    assert found is not None
    return found


def test_shares_are_of_the_time_of_the_trials_threads() -> None:
    found = summed(
        sample(SLOW, "handle_userfault", weight=50),
        sample("clear_page_erms", weight=20),
        sample(SLOW, "userfaultfd_ctx_read", tid=24, weight=10),
        Sample(23, 50, 20, "cycles", ()),
        sample(SLOW, "rmqueue", tid=99, weight=1000),  # the main thread
    )
    assert found.samples == 4
    assert found.spin == {
        "userfaultfd": 0.6, "mmu_lock": 0, "mmap_vma": 0, "page_allocator": 0, "run_queue": 0,
        "other": 0,
    }  # fmt: skip
    assert found.modes == {"kernel": 0.8, "guest": 0.2}
    assert found.roles == {"vcpus": 0.9, "readers": 0.1}
    assert list(found.top.items()) == [(SLOW, 0.6), ("clear_page_erms", 0.2), ("(guest)", 0.2)]
    assert cautions(found)[0].code == "profile-short"


def test_a_thread_counts_from_the_gate_to_its_own_last_page() -> None:
    outside = [
        sample("exit_mmap", at_ns=at, tid=tid) for at, tid in ((9, 23), (101, 23), (201, 24))
    ]
    inside = [sample("vfs_read", at_ns=at, tid=tid) for at, tid in ((10, 23), (100, 23), (200, 24))]
    found = summed(*outside, *inside)
    assert (found.samples, found.top) == (3, {"vfs_read": 1.0})
    assert summarise(outside, WINDOWS, frequency_hz=997) is None


def test_a_thread_of_several_trials_has_a_window_in_each() -> None:
    windows = [*WINDOWS, Window(23, "vcpus", 500, 600)]
    samples = [sample("vfs_read", at_ns=at) for at in (50, 300, 550)]
    found = summarise(samples, windows, frequency_hz=997, trials=2)
    assert found is not None
    assert (found.samples, found.trials) == (2, 2)


def test_samples_of_next_to_no_weight_tell_next_to_nothing() -> None:
    alike = summed(*[sample("vfs_read", weight=7)] * 400)
    assert (alike.samples, alike.effective_samples, alike.tells) == (400, 400, True)
    # As perf begins with cycles: periods of 1 until it has found one that fits.
    mixed = summed(*[sample("vfs_read", weight=1)] * 390, *[sample("vfs_read", weight=10**6)] * 10)
    assert (mixed.samples, mixed.weight, mixed.tells) == (400, 10, False)
    assert [caution.code for caution in cautions(mixed)] == ["profile-short"]


def test_what_a_clock_cannot_see_is_told_apart_from_waiting() -> None:
    hidden = ("_raw_spin_unlock_irq", "handle_userfault")
    clock = summed(sample(*hidden, event="cpu-clock"), sample("vfs_read", event="cpu-clock"))
    assert clock.irqs_off["userfaultfd"] == 0.5
    assert sum(clock.spin.values()) == 0
    assert cautions(clock)[0].code == "profile-clock"
    switch = ("finish_task_switch", "__schedule", "schedule", "handle_userfault")
    asleep = summed(sample(*switch, event="cpu-clock"), sample("vfs_read", event="cpu-clock"))
    assert (asleep.irqs_off["run_queue"], asleep.irqs_off["userfaultfd"]) == (0.5, 0)
    pmu = summed(sample(*hidden), sample("vfs_read"))
    assert pmu.irqs_off == {}


def test_without_samples_of_the_trials_threads_there_is_no_profile() -> None:
    assert summarise([], WINDOWS, frequency_hz=997) is None
    assert summarise([sample("x", tid=99)], WINDOWS, frequency_hz=997) is None


def test_without_names_nobody_is_said_to_wait_for_nothing() -> None:
    found = summed(sample("[unknown]"), sample("[unknown]"))
    assert found.spin == {}
    assert cautions(found)[0].code == "profile-no-symbols"


def test_without_samples_of_the_kernel_nobody_is_said_to_wait_for_nothing() -> None:
    found = summed(Sample(23, 50, 1, "cycles:u", ((4096, "vcpu_loop"),)))
    assert (found.spin, found.modes) == ({}, {"user": 1.0})


def test_the_time_of_lockdep_is_no_wait_and_is_said() -> None:
    found = summed(*[sample("lock_acquire", "_raw_spin_lock_irq", "handle_userfault")] * 300)
    assert sum(found.spin.values()) == 0
    [caution] = cautions(found)
    assert caution.code == "profile-lockdep"
    assert "100%" in caution.text


# --- a real recording: uffd with four readers, two vCPUs, Linux 6.18, perf 6.1; some left out


def recorded_windows() -> list[Window]:
    """Return what the recording's head says of its threads: tid, role, begin and end."""
    told = [line[2:].split() for line in RECORDED.read_text().splitlines() if line[:1] == "#"][1:]
    return [Window(int(tid), role, int(begin), int(end)) for tid, role, begin, end in told]


def test_a_real_recording_is_understood() -> None:
    samples, windows = list(parse(RECORDED.read_text().splitlines())), recorded_windows()
    assert len(windows) == 6
    ends = {window.tid: window.end_ns for window in windows}
    late = [one for one in samples if one.time_ns > ends.get(one.tid, one.time_ns)]
    assert "PyCFuncPtr_call" in {name for one in late for _, name in one.frames}
    found = summarise(samples, windows, frequency_hz=1999)
    assert found is not None
    assert found.event == "cpu-clock"
    assert found.samples == sum(one.tid in ends for one in samples) - len(late)
    assert found.tells
    assert found.irqs_off["userfaultfd"] > 0.03
    assert found.irqs_off["run_queue"] > 0.1
    assert found.modes["guest"] > 0.05
    assert found.modes["kernel"] > 0.5
    assert "[unknown]" not in found.top


# --- what is said


def profiled(**changes: Any) -> Profile:
    fields: dict[str, Any] = {
        "event": "cycles",
        "frequency_hz": 1999,
        "samples": 4096,
        "modes": {"kernel": 0.9, "guest": 0.1},
        "roles": {"vcpus": 1.0},
        "spin": {"userfaultfd": 0.5, "mmu_lock": 0.25, "mmap_vma": 0.0312, "other": 0.0},
        "irqs_off": {},
        "top": {SLOW: 0.75, "clear_page_erms": 0.05},
    }
    return Profile(**(fields | changes))


def test_a_profile_survives_the_file(
    make_trial: Callable[..., Any], make_result: Callable[..., Result]
) -> None:
    result = make_result(make_trial("uffd", PROFILED, profile=profiled()))
    assert from_json(to_json(result), "x") == result


def test_a_profile_of_an_older_kvmpc_is_read_and_written_back_as_it_was(
    make_trial: Callable[..., Any], make_result: Callable[..., Result]
) -> None:
    text = to_json(make_result(make_trial("uffd", PROFILED, profile=profiled())))
    assert "effective_samples" not in text
    assert '"trials": 1' not in text
    found = from_json(text, "x")
    assert to_json(found) == text
    assert found.trials[0].profile is not None
    assert found.trials[0].profile.weight == 4096


@pytest.mark.parametrize("share", [1.0000001, 7.0, 1e18])
def test_a_share_that_cannot_be_is_shown_as_all_and_no_traceback(
    make_trial: Callable[..., Any], make_result: Callable[..., Result], share: float
) -> None:
    made = profiled(spin={"userfaultfd": share}, modes={"kernel": share}, top={"f": share})
    text = format_profiles(read(make_result(make_trial("uffd", PROFILED, profile=made))))
    assert "100%" in text


def test_the_table_shows_shares_and_functions(
    make_trial: Callable[..., Any], make_result: Callable[..., Result]
) -> None:
    result = make_result(make_trial("uffd"), make_trial("uffd", PROFILED, profile=profiled()))
    text = format_profiles(read(result), 99)
    row = next(line for line in text.splitlines() if line.startswith("uffd "))
    told = " ".join(text.split())
    below = text.splitlines()[text.splitlines().index(row) + 1]
    assert row.split()[1:] == ["10%", "90%", "0.0%", "78%", "50%", "25%", "3.1%", "0.0%"]
    assert below.split()[:5] == ["[9.1-11]", "[89-91]", "[0.0-0.1]", "[77-79]", "[48-52]"]
    assert f"uffd (4096 samples of cycles): 75% [74-76] {SLOW}, 5.0% [4.4-5.7] clear_page" in told
    assert "irqs off" not in text
    assert all(len(line) < 100 for line in text.splitlines())


def test_what_a_clock_cannot_tell_has_a_row_of_its_own_below(
    make_trial: Callable[..., Any], make_result: Callable[..., Result]
) -> None:
    found = profiled(event="cpu-clock", irqs_off={"userfaultfd": 0.05, "run_queue": 0.25})
    result = make_result(make_trial("uffd"), make_trial("uffd", PROFILED, profile=found))
    lines = format_profiles(read(result)).splitlines()
    [first, second] = [line.split() for line in lines if line.startswith(" irqs off")]
    assert first == ["irqs", "off", "30%", "5.0%"]
    assert second == ["irqs", "off", "25%"]


@pytest.mark.parametrize("changes", [{"samples": 199}, {"effective_samples": 199}])
def test_a_profile_of_too_few_samples_shows_their_number_and_no_share(
    make_trial: Callable[..., Any], make_result: Callable[..., Result], changes: dict[str, Any]
) -> None:
    trials = (make_trial("uffd"), make_trial("uffd", PROFILED, profile=profiled(**changes)))
    text = format_profiles(read(make_result(*trials)))
    samples = changes.get("samples", 4096)
    assert f"uffd ({samples} samples of cycles): too few samples for shares, which take 200" in text
    assert "%" not in text


def test_a_pager_that_could_not_be_profiled_says_why(
    make_trial: Callable[..., Any], make_result: Callable[..., Result]
) -> None:
    why = Caution("profile-absent", "not profiled: there is no perf in PATH", "install perf")
    text = format_profiles(read(make_result(make_trial("uffd", PROFILED, warnings=(why,)))))
    assert "not profiled: there is no perf in PATH; install perf" in text
    assert "spin" not in text


def test_a_result_without_profiles_has_no_such_table(
    make_trial: Callable[..., Any], make_result: Callable[..., Result]
) -> None:
    assert format_profiles(read(make_result(make_trial("uffd")))) == ""


def test_a_pager_with_a_failed_trial_shows_no_profile(
    make_trial: Callable[..., Any], make_result: Callable[..., Result]
) -> None:
    trials = (
        make_trial("uffd"),
        make_trial("exit", status="failed"),
        make_trial("uffd", PROFILED, profile=profiled()),
        make_trial("exit", PROFILED, profile=profiled()),
    )
    lines = format_profiles(read(make_result(*trials))).splitlines()
    assert [line for line in lines if "%" in line and line.startswith("uffd ")]
    (told,) = [line for line in lines if line.startswith("exit")]
    assert told == "exit(sigbus) has no profile to show: another trial of it failed"
