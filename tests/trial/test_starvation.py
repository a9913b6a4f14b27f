"""What others took of a trial's CPU time: the rule on numbers, no clock and no kernel."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from kvmpc.trial.starvation import Group, Thread, lost_share, together


def busy(span: float, ran: float, **more: Any) -> Thread:
    """Return a thread that never slept: it ran or waited."""
    return Thread(span_s=span, ran_s=ran, waited_s=span - ran, times_run=9, **more)


def group(*threads: Thread, cpus: int = 2, others: float = 0.0, **more: Any) -> Group:
    """Return threads on `cpus` whose CPUs also ran `others` s for others, and were idle else."""
    span = max(thread.span_s for thread in threads)
    ran = sum(thread.ran_s for thread in threads)
    idle = max(0.0, cpus * span - ran - others - more.get("stolen_s", 0.0))
    return Group(cpus=cpus, threads=threads, **{"window_s": span, "idle_s": idle, **more})


def lost(*groups: Group, still_s: float = 0.0) -> float:
    span = max(thread.span_s for each in groups for thread in each.threads)
    return lost_share(groups, elapsed_s=span, still_s=still_s)


def test_threads_that_had_their_cpus_have_lost_nothing() -> None:
    assert lost(group(busy(1, 1), busy(1, 1))) == 0
    assert lost(group(Thread(span_s=1, ran_s=0.3, waited_s=0.0, slept=900, times_run=900))) == 0


def test_what_a_thread_waited_with_a_cpu_of_its_own_others_had() -> None:
    assert lost(group(busy(1, 0.5), busy(1, 0.7), others=0.8)) == pytest.approx(0.8 / 2.0)


@pytest.mark.parametrize("threads", [3, 8, 160])
def test_threads_that_wait_for_each_other_have_lost_nothing(threads: int) -> None:
    assert lost(group(*[busy(1, 2 / threads)] * threads)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("threads", [3, 8, 160])
def test_what_others_had_of_crowded_cpus_is_lost(threads: int) -> None:
    found = group(*[busy(1, 1.5 / threads)] * threads, others=0.5)
    assert lost(found) == pytest.approx(0.25)


def test_threads_that_end_one_after_the_other_leave_cpus_that_nobody_lost() -> None:
    # Two CPUs, three threads: the third begins to run when the first two are done.
    first, second = (Thread(span_s=1, ran_s=1, waited_s=0) for _ in range(2))
    third = Thread(span_s=2, ran_s=1, waited_s=1)
    assert lost(group(first, second, third)) == 0


def test_what_others_did_bounds_what_they_took() -> None:
    # Its kernel put both on one CPU, and left the other idle: nobody else had that.
    stacked = group(busy(10, 5), busy(10, 5), others=0.0)
    assert lost(stacked) < 0.01


def test_waits_for_a_switch_are_no_loss_where_cpus_idle() -> None:
    sleeper = Thread(span_s=1, ran_s=0.4, waited_s=0.06, slept=10_000, times_run=10_000)
    assert lost(group(sleeper, cpus=64, others=20)) == 0


def test_of_sleepers_in_a_crowd_the_part_counts_that_others_are_of_the_rest() -> None:
    sleeper = Thread(span_s=1, ran_s=0.3, waited_s=0.3, slept=100, times_run=100)
    free = group(sleeper, sleeper, sleeper, others=0.0)
    full = group(sleeper, sleeper, sleeper, others=1.1)
    half = group(sleeper, sleeper, sleeper, others=0.55)
    assert lost(free) < 0.02  # as much as ticks may hide
    assert lost(full) == pytest.approx(0.9 / 1.8, abs=0.01)
    assert 0.1 < lost(half) < lost(full)


def test_a_short_trial_is_not_accused_by_the_rounding_of_ticks() -> None:
    sleeper = Thread(span_s=0.05, ran_s=0.028, waited_s=0.006, slept=1000, times_run=1000)
    # True idle time of 24 ms may read as 10: two counters that are cut at whole ticks.
    assert lost(group(*[sleeper] * 3, idle_s=0.010, window_s=0.053)) < 0.10


@pytest.mark.parametrize("never", [0.0, 1.0])
def test_without_counters_of_cpus_only_what_is_certain_counts(never: float) -> None:
    unknown: dict[str, Any] = {"idle_s": None}
    assert lost(group(busy(1, 0.5), busy(1, 0.5), **unknown)) == pytest.approx(0.5)
    sleeper = Thread(span_s=1, ran_s=0.5, waited_s=0.4, slept=10, times_run=10)
    assert group(*[sleeper] * 3, **unknown).others_s is None
    assert lost(group(*[sleeper] * 3, **unknown)) == pytest.approx(0.1, abs=0.1 + never)


def test_without_schedstat_a_thread_that_never_slept_waited_when_it_did_not_run() -> None:
    assert lost(group(Thread(span_s=1, ran_s=0.6, waited_s=None), cpus=1, others=0.4)) == (
        pytest.approx(0.4)
    )
    asleep = Thread(span_s=1, ran_s=0.6, waited_s=None, slept=3)
    assert lost(group(asleep, cpus=1, others=0.4)) == 0


def test_stolen_time_is_lost_as_far_as_it_was_ours_and_is_certain() -> None:
    assert lost(group(busy(1, 1), stolen_s=0.01)) == 0
    stolen = group(Thread(span_s=1, ran_s=0.6, waited_s=0.0), cpus=1, stolen_s=0.4)
    assert lost(stolen) == pytest.approx(0.39 / 0.99)


def test_a_quota_is_among_others() -> None:
    kept = group(busy(1, 0.5), busy(1, 0.5), throttled_s=1.0)
    assert lost(kept) == pytest.approx(0.5)


def test_what_stood_still_is_lost_on_top() -> None:
    assert lost(group(busy(1, 1)), still_s=0.25) == 0.25
    assert lost(group(busy(1, 0.5), others=0.5, cpus=1), still_s=0.5) == pytest.approx(0.75)
    assert lost(group(busy(1, 1)), still_s=7) == 1


def test_pinned_threads_are_judged_each_by_its_own_cpu() -> None:
    # A vCPU beside a burner, its reader on a CPU that idles.
    vcpu = Thread(span_s=1, ran_s=0.3, waited_s=0.3, slept=1000, times_run=1000)
    reader = Thread(span_s=1, ran_s=0.2, waited_s=0.0, slept=1000, times_run=1000)
    apart = lost(group(vcpu, cpus=1, others=0.7), group(reader, cpus=1))
    assert apart == pytest.approx(0.29 / 0.79, abs=0.02)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([{0}, {1}, {0}], [({1}, [1]), ({0}, [0, 2])]),
        ([{0, 1}, {2, 3}, {1, 2}], [({0, 1, 2, 3}, [0, 1, 2])]),
        ([{0, 1}] * 3, [({0, 1}, [0, 1, 2])]),
    ],
)
def test_threads_compete_where_their_cpus_overlap(sets: Any, expected: Any) -> None:
    assert [
        (set(cpus), sorted(members)) for cpus, members in together(list(map(frozenset, sets)))
    ] == (expected)


def _simulate(
    random_: random.Random, cpus: int, threads: int, others: float
) -> tuple[Group, float]:
    """Return what a scheduler that never leaves a CPU idle would count, and what others took.

    Steps of 1 ms: in each a thread wants a CPU or sleeps, and each CPU is wanted by another with
    probability `others`, whose turn it is half of the time.
    """
    steps = 2000
    ran, waited, taken, theirs = [0] * threads, [0] * threads, 0, 0
    awake = random_.uniform(0.2, 1)
    for _ in range(steps):
        want = [at for at in range(threads) if random_.random() < awake]
        random_.shuffle(want)
        rivals = sum(random_.random() < others for _ in range(cpus))
        # Each rival takes its CPU if that is free, and else by a toss.
        free = cpus - min(len(want), cpus)
        won = min(rivals, free) + sum(random_.random() < 0.5 for _ in range(max(0, rivals - free)))
        theirs += won
        room = cpus - won
        for at in want[:room]:
            ran[at] += 1
        for at in want[room:]:
            waited[at] += 1
        taken += max(0, min(len(want), cpus) - room)
    made: Sequence[Thread] = [
        Thread(
            span_s=steps / 1e3, ran_s=r / 1e3, waited_s=w / 1e3,
            slept=steps - r - w, times_run=steps // 10,
        )
        for r, w in zip(ran, waited, strict=True)
    ]  # fmt: skip
    idle = cpus * steps - sum(ran) - theirs
    whole = Group(cpus=cpus, threads=made, window_s=steps / 1e3, idle_s=idle / 1e3)
    return whole, taken / 1e3


@pytest.mark.parametrize(("cpus", "threads"), list(itertools.product([1, 2, 8], [1, 2, 3, 9, 40])))
def test_the_loss_of_a_made_up_schedule_is_found_and_none_is_made_up(
    cpus: int, threads: int
) -> None:
    random_ = random.Random(cpus * 1000 + threads)
    for others in (0.0, 0.05, 0.3, 1.0):
        found, taken_s = _simulate(random_, cpus, threads, others)
        share = lost_share([found], elapsed_s=2.0)
        true = taken_s / (found.ran_s + taken_s)
        if others == 0:
            assert share < 0.01  # as much as ticks may hide
        # What sleeps in a crowd is an estimate; it errs by less than half of itself.
        assert share >= 0.5 * true - 0.02
        assert share <= 1.5 * true + 0.06
