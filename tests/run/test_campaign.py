"""All trials of a plan: run in order, told of one by one, and what is left where it ends early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmpc.errors import HostError, Interrupted, KernelError, KvmpcError, UsageError
from kvmpc.result.document import to_json
from kvmpc.result.metrics import LOST
from kvmpc.result.points import points_of
from kvmpc.result.records import PROFILED, Result, Skip, TrialResult
from kvmpc.run import campaign as module
from kvmpc.run.campaign import Campaign, measure, planned_result
from kvmpc.run.schedule import PlannedTrial, Schedule
from kvmpc.run.session import RunFacts, Session
from kvmpc.trial.signals import Interrupt
from tests.fakes.schedules import make_schedule

Make = Callable[..., Any]

FACTS = RunFacts(tool_version="0", command=("kvmpc",), started="", host={"cpu": {}})
SESSION = Session(None, Interrupt(), FACTS)  # type: ignore[arg-type]


def make_campaign(schedule: Schedule) -> Campaign:
    """Make the campaign of a schedule on a host that has nothing to say."""
    return Campaign(SESSION, schedule, planned_result(schedule.plan, schedule.skipped, FACTS))


class FakeTrials:
    """Measures nothing: notes what it was asked, and may be interrupted."""

    def __init__(self, make_trial: Make, *, interrupt_at: int | None = None, **fields: Any) -> None:
        self.asked: list[PlannedTrial] = []
        self.interrupt_at = interrupt_at
        # Over in no time, as these are, unless a test says how long one takes.
        self.make_trial, self.fields = make_trial, {"elapsed_ns": 1, **fields}

    def __call__(self, session: Session, planned: PlannedTrial, watchdog_s: float) -> TrialResult:
        assert session is SESSION
        assert watchdog_s == 7.0
        if len(self.asked) == self.interrupt_at:
            raise Interrupted("SIGINT")
        self.asked.append(planned)
        made: TrialResult = self.make_trial(
            planned.pager.spec, planned.round, point=planned.point, **self.fields
        )
        return made


class Told:
    """Notes what it is told after each trial, and raises at the one it is to."""

    def __init__(self, error: KvmpcError | None = None, at: int = 1) -> None:
        self.results: list[Result] = []
        self.left_s: list[float | None] = []
        self.error, self.at = error, at

    def __call__(self, result: Result, left_s: float | None) -> None:
        self.results.append(result)
        self.left_s.append(left_s)
        if self.error is not None and len(self.results) == self.at:
            raise self.error


def test_trials_are_run_in_order_and_the_result_grows_by_each(make_trial: Make) -> None:
    schedule, trials, told = make_schedule(vcpus="1,2"), FakeTrials(make_trial), Told()
    result, stopped = make_campaign(schedule).run(told, measure=trials)
    planned = list(schedule.trials())
    assert trials.asked == planned
    assert [(trial.point, trial.round, trial.pager) for trial in result.trials] == [
        (each.point, each.round, each.pager.spec) for each in planned
    ]
    for count, seen in enumerate(told.results, start=1):
        assert seen.trials == result.trials[:count]
        assert not seen.finished
    assert stopped is None
    assert result.finished
    assert result.during is not None
    assert "elapsed_s" in result.during


def test_the_seconds_that_are_left_end_at_none(make_trial: Make) -> None:
    told = Told()
    make_campaign(make_schedule()).run(told, measure=FakeTrials(make_trial))
    assert None not in told.left_s
    assert told.left_s[0]
    assert told.left_s[-1] == 0


@pytest.mark.parametrize("count", [0, 1, 4])
def test_what_was_measured_before_an_interrupt_is_kept(make_trial: Make, count: int) -> None:
    result, stopped = make_campaign(make_schedule()).run(
        Told(), measure=FakeTrials(make_trial, interrupt_at=count)
    )
    assert isinstance(stopped, Interrupted)
    assert len(result.trials) == count
    assert not result.finished
    assert result.during is not None


class Starving(FakeTrials):
    """Of each trial that it is asked for, the first so many lose half of their CPU time."""

    def __init__(self, make_trial: Make, starved: int) -> None:
        super().__init__(make_trial)
        self.starved = starved

    def __call__(self, session: Session, planned: PlannedTrial, watchdog_s: float) -> TrialResult:
        trial = super().__call__(session, planned, watchdog_s)
        lost = 0.5 if self.asked.count(planned) <= self.starved else 0.01
        return replace(trial, metrics={**trial.metrics, LOST.key: lost})


@pytest.mark.parametrize(("starved", "times"), [(0, 1), (1, 2), (2, 3), (9, 3)])
def test_a_starved_trial_is_run_again_at_once_and_not_for_ever(
    make_trial: Make, starved: int, times: int
) -> None:
    schedule = make_schedule(rounds=2, busy_limit=0.1)
    trials, told = Starving(make_trial, starved), Told()
    result, stopped = make_campaign(schedule).run(told, measure=trials)
    planned = list(schedule.trials())
    # A warm-up is marked, and need not be good.
    assert trials.asked == [each for each in planned for _ in range(times if each.round else 1)]
    marks = [trial.starved for trial in result.trials if trial.round]
    assert marks == ([True] * min(starved, 3) + [False] * (starved < 3)) * 6
    assert {trial.starved for trial in result.trials if not trial.round} == {starved > 0}
    assert len(told.results) == len(result.trials)
    assert told.left_s[-1] == 0
    assert (result.finished, stopped) == (True, None)


@pytest.mark.parametrize("busy_limit", [None, 0.6])
def test_within_the_limit_or_without_one_every_trial_counts(
    make_trial: Make, busy_limit: float | None
) -> None:
    trials = Starving(make_trial, 9)
    result, _ = make_campaign(make_schedule(busy_limit=busy_limit)).run(Told(), measure=trials)
    assert len(result.trials) == 12
    assert not any(trial.starved for trial in result.trials)
    assert result.options["busy_limit"] == busy_limit


def test_a_profiled_trial_is_not_starved_by_perf_nor_one_of_which_nothing_is_known(
    make_trial: Make,
) -> None:
    schedule = make_schedule(profile=True, busy_limit=0.1)
    result, _ = make_campaign(schedule).run(Told(), measure=Starving(make_trial, 9))
    assert {trial.starved for trial in result.trials if trial.round == PROFILED} == {False}
    unknown, _ = make_campaign(schedule).run(Told(), measure=FakeTrials(make_trial))
    assert not any(trial.starved for trial in unknown.trials)


def test_whoever_is_told_can_end_it_and_the_trial_stays(make_trial: Make) -> None:
    error = KernelError("write", 28)
    trials = FakeTrials(make_trial)
    result, stopped = make_campaign(make_schedule()).run(Told(error, at=2), measure=trials)
    assert stopped is error
    assert len(result.trials) == len(trials.asked) == 2
    assert not result.finished


def test_a_defect_of_whoever_is_told_is_no_end_of_ours(make_trial: Make) -> None:
    def on_trial(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_campaign(make_schedule()).run(on_trial, measure=FakeTrials(make_trial))


LONG = {"elapsed_ns": 3600 * 10**9}
"""An hour, of which a trial of twice the size is taken to be two."""


def test_what_takes_over_an_hour_is_asked_about_once_the_first_point_can_tell(
    make_trial: Make,
) -> None:
    trials, told = FakeTrials(make_trial, **LONG), Told()
    schedule = make_schedule(vcpus="1,2", warmup=0)
    result, stopped = make_campaign(schedule).run(told, measure=trials)
    assert isinstance(stopped, UsageError)
    assert (stopped.option, stopped.given) == ("--yes", "not given")
    assert stopped.allowed.startswith("--yes: the rest takes about ")
    # Every pager of the first point, once; the last of them was told of first.
    assert [(trial.point, trial.pager) for trial in result.trials] == [
        (0, "none"), (0, "uffd"), (0, "exit"),
    ]  # fmt: skip
    assert len(told.results) == 3


def test_it_is_asked_of_what_was_run_now_and_not_of_what_a_file_had(make_trial: Make) -> None:
    whole = make_schedule(vcpus="2,1", warmup=0)
    done = tuple(make_trial(t.pager.spec, t.round, point=t.point) for t in list(whole.trials())[:4])
    campaign = make_campaign(replace(whole, done=done))
    campaign = replace(campaign, result=replace(campaign.result, trials=done))
    result, stopped = campaign.run(Told(), measure=FakeTrials(make_trial, **LONG))
    assert isinstance(stopped, UsageError)
    assert [(trial.point, trial.round) for trial in result.trials[4:]] == [(1, 1), (1, 1), (1, 2),
        (1, 2), (1, 2)]  # fmt: skip


@pytest.mark.parametrize("fields", [LONG, {}])
def test_nobody_is_asked_who_confirmed_or_who_has_not_long_to_wait(
    make_trial: Make, fields: dict[str, int]
) -> None:
    campaign = make_campaign(make_schedule(vcpus="1,2"))
    result, stopped = campaign.run(
        Told(), confirmed=bool(fields), measure=FakeTrials(make_trial, **fields)
    )
    assert stopped is None
    assert result.finished


def test_with_nothing_left_it_is_finished_at_once(make_trial: Make) -> None:
    whole = make_schedule()
    done = tuple(make_trial(t.pager.spec, t.round, point=t.point) for t in whole.trials())
    trials = FakeTrials(make_trial)
    result, stopped = make_campaign(replace(whole, done=done)).run(Told(), measure=trials)
    assert (result.finished, stopped, trials.asked) == (True, None, [])


# Before the first trial


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[Skip, ...]], HostError]:
    """Make the host refuse these; return what it says."""

    def refusing(skipped: tuple[Skip, ...]) -> HostError:
        refusal = HostError("memory", "too small", "add some")
        monkeypatch.setattr(
            module, "what_cannot_run", lambda *_: (skipped, refusal if skipped else None)
        )
        return refusal

    return refusing


def test_what_a_host_cannot_run_of_several_points_is_skipped_with_the_reason(
    refusing: Callable[..., HostError],
) -> None:
    skip = Skip(point=1, pager="uffd", reason="no")
    refusing((skip,))
    campaign = Campaign.prepare(SESSION, make_schedule(vcpus="1,2").plan)
    assert campaign.result.skipped == (skip,)
    assert {(t.point, t.pager.spec) for t in campaign.schedule.trials()} == {
        (0, "none"), (0, "uffd"), (0, "exit"), (1, "none"), (1, "exit"),
    }  # fmt: skip


def test_a_single_point_is_refused_whole_and_so_are_several_of_which_nothing_can_run(
    refusing: Callable[..., HostError],
) -> None:
    refusal = refusing((Skip(point=0, pager="uffd", reason="no"),))
    with pytest.raises(HostError) as caught:
        Campaign.prepare(SESSION, make_schedule().plan)
    assert caught.value is refusal
    skipped = tuple(Skip(point=point, pager="uffd", reason="no") for point in (0, 1))
    refusal = refusing(skipped)
    with pytest.raises(HostError) as caught:
        Campaign.prepare(SESSION, make_schedule(("uffd",), vcpus="1,2").plan)
    assert caught.value is refusal


def test_trials_that_a_file_holds_are_not_left_to_be_run(
    refusing: Callable[..., HostError], make_trial: Make, tmp_path: Path
) -> None:
    refusing(())
    schedule, path = make_schedule(), tmp_path / "r.json"
    first = Campaign.prepare(SESSION, schedule.plan, str(path))
    assert list(first.schedule.trials()) == list(schedule.trials())
    measured, _ = first.run(Told(), measure=FakeTrials(make_trial, interrupt_at=4))
    path.write_text(to_json(measured))
    second = Campaign.prepare(SESSION, schedule.plan, str(path))
    assert second.result.trials == measured.trials
    assert list(second.schedule.trials()) == list(schedule.trials())[4:]


def test_the_result_of_a_sweep_says_once_what_all_points_share() -> None:
    result = planned_result(make_schedule(vcpus="1,2", seed=7).plan, (), FACTS)
    assert [point.options for point in result.points] == [{"vcpus": 1}, {"vcpus": 2}]
    assert "vcpus" not in result.options
    assert (result.options["seed"], result.options["rounds"]) == (7, 3)
    assert [found.options["vcpus"] for found in points_of(result)] == [1, 2]
    assert (result.command, result.host) == (FACTS.command, FACTS.host)
    single = planned_result(make_schedule().plan, (), FACTS)
    assert (single.points, single.options["vcpus"]) == ((), 3)


# One trial


@pytest.mark.parametrize("number", [0, 2, PROFILED])
def test_a_planned_trial_is_run_as_its_round_says_and_knows_its_point(
    monkeypatch: pytest.MonkeyPatch, make_trial: Make, number: int
) -> None:
    asked = []

    def run(kind: str) -> Any:
        def run(kvm: object, work: object, pager: Any, **options: Any) -> TrialResult:
            asked.append((kind, kvm, work, options.get("round_number"), options["watchdog_s"]))
            assert options["interrupt"] is SESSION.interrupt
            made: TrialResult = make_trial(pager.spec, number)
            return made

        return run

    monkeypatch.setattr(module, "run_trial", run("plain"))
    monkeypatch.setattr(module, "run_profiled", run("profiled"))
    planned = replace(next(iter(make_schedule().trials())), round=number, point=3)
    assert measure(SESSION, planned, 7.0).point == 3
    kind = "profiled" if number == PROFILED else "plain"
    shown = None if number == PROFILED else number
    assert asked == [(kind, None, planned.work, shown, 7.0)]
