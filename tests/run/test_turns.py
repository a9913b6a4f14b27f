"""Measuring in turn: the order, the commands, how blocks become two results, and every end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kvmpc.caution import Caution
from kvmpc.errors import HostError, KernelError, KvmpcError, UsageError
from kvmpc.judge.turns import MOVED
from kvmpc.result.document import from_json, to_json
from kvmpc.result.records import NEW, OLD, Result, Skip
from kvmpc.run.process import Ended
from kvmpc.run.turns import Sides, TurnsPlan, _result_of, draw_order, run_turns
from kvmpc.trial.signals import Interrupt

Make = Callable[..., Any]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the file in which commands and blocks note that they ran."""
    return tmp_path / "log"


@pytest.fixture
def plan(log: Path) -> Callable[..., TurnsPlan]:
    """Make a plan whose commands note their side."""

    def make(**changes: Any) -> TurnsPlan:
        fields: dict[str, Any] = {
            "commands": {OLD: f"echo old >>{log}", NEW: f"echo new >>{log}"},
            "at_end": f"echo end >>{log}",
            "pairs": 3,
            "seed": 1,
            "words": ("uffd",),
            "command_timeout_s": 20.0,
        }
        return TurnsPlan(**(fields | changes))

    return make


class Blocks:
    """Stands in for `compare_block`: notes that it ran, and returns what a test wants of it."""

    def __init__(self, make_result: Make, make_trial: Make, log: Path) -> None:
        self.make_result, self.make_trial, self.log = make_result, make_trial, log
        self.changes: Mapping[int, dict[str, Any]] = {}
        self.raises: Mapping[int, Exception] = {}
        self.count = 0

    def __call__(self, words: Sequence[str], interrupt: Interrupt) -> Result:
        assert words == ("uffd",)
        interrupt.check()
        self.count += 1
        with self.log.open("a") as file:
            file.write("block\n")
        if self.count in self.raises:
            raise self.raises[self.count]
        trials = [self.make_trial("uffd", number, 1000.0 * self.count) for number in (0, 1, 2)]
        result: Result = self.make_result(*trials)
        return replace(result, **self.changes.get(self.count, {}))


@pytest.fixture
def blocks(make_result: Make, make_trial: Make, log: Path) -> Blocks:
    """Measure nothing."""
    return Blocks(make_result, make_trial, log)


def _run(plan: TurnsPlan, blocks: Blocks, **options: Any) -> tuple[Sides, list[KvmpcError]]:
    on_block = options.pop("on_block", lambda *_: None)
    return run_turns(plan, ("kvmpc", "turns"), on_block, compare=blocks, **options)


def _ran(log: Path) -> list[str]:
    return log.read_text().split()


def test_the_order_of_each_pair_is_drawn_and_seeded() -> None:
    order = draw_order(400, 1)
    assert order == draw_order(400, 1)
    assert order[:12] == draw_order(12, 1)
    assert order != draw_order(400, 2)
    # Binomial(400, 1/2): further than 35 from 200 has a probability below 0.0005.
    assert 165 < sum(order) < 235
    assert 165 < sum(one != other for one, other in pairwise(order)) < 235


def test_before_each_block_is_its_sides_command_and_after_all_the_last(plan, blocks, log) -> None:
    _, failures = _run(plan(), blocks)
    assert failures == []
    expected = []
    for new_first in draw_order(3, 1):
        first, second = ("new", "old") if new_first else ("old", "new")
        expected += [first, "block", second, "block"]
    assert _ran(log) == [*expected, "end"]


def test_blocks_of_a_side_become_one_result_with_rounds_numbered_on(plan, blocks) -> None:
    sides, _ = _run(plan(), blocks)
    assert set(sides) == {OLD, NEW}
    order = draw_order(3, 1)
    for side, result in sides.items():
        assert from_json(to_json(result), "r.json") == result
        assert [trial.round for trial in result.trials] == [0, 1, 2, 0, 3, 4, 0, 5, 6]
        assert result.finished
        assert result.options["rounds"] == 6
        assert result.command == ("kvmpc", "turns")
        assert result.turns is not None
        assert result.turns.side == side
        assert result.turns.last_rounds == (2, 4, 6)
        assert result.turns.new_first == order
        assert [result.turns.block_of(n) for n in range(-1, 8)] == [
            None, None, 0, 0, 1, 1, 2, 2, None,
        ]  # fmt: skip
        # Which block of all it was, each with a rate of its own.
        numbers = [
            2 * pair + 1 + ((side == NEW) != new_first) for pair, new_first in enumerate(order)
        ]
        rates = [trial.metrics["pages_per_s"] for trial in result.trials if trial.round]
        assert rates == [1000.0 * number for number in numbers for _ in range(2)]
    assert sides[OLD].turns.id == sides[NEW].turns.id
    assert sides[OLD].turns.id != _run(plan(), blocks)[0][OLD].turns.id


def test_what_blocks_say_of_the_host_is_put_together(plan, blocks) -> None:
    hosts = {
        number: {"host": {"memory": {"thp_enabled": "never" if number > 3 else "always",
                                     "available_bytes": number}},
                 "during": {"elapsed_s": 1.5, "cpus_count": 2, "max_khz": [1, 2],
                            "reclaim": {"allocstall": 2}},
                 "warnings": (Caution("a", "b", "c"),),
                 "skipped": (Skip(point=0, pager="exit", reason="no"),)}
        for number in range(1, 7)
    }  # fmt: skip
    blocks.changes = hosts
    sides, _ = _run(plan(), blocks)
    for result in sides.values():
        assert result.during == {
            "elapsed_s": 4.5, "cpus_count": 2, "max_khz": [1, 2], "reclaim": {"allocstall": 6},
        }  # fmt: skip
        assert [caution.code for caution in result.warnings] == ["a", MOVED]
        assert result.warnings[1].text == (
            "the host moved between blocks of one side: memory.thp_enabled: never after always"
        )
        assert len(result.skipped) == 1


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize(
    "error", [KernelError("read", 5), HostError("uffd", "no", "yes"), KvmpcError("odd")]
)
def test_a_block_that_fails_ends_it_with_the_command_at_the_end(
    plan, blocks, log, number, error
) -> None:
    blocks.raises = {number: error}
    sides, failures = _run(plan(), blocks)
    assert len(failures) == 1
    assert type(failures[0]) is type(error)
    assert _ran(log).count("block") == number
    assert _ran(log)[-1] == "end"
    assert sum(len(side.trials) for side in sides.values()) == 3 * (number - 1)
    assert not (len(sides) == 2 and all(side.finished for side in sides.values()))


def test_an_error_that_says_what_the_host_cannot_says_on_which_side(plan, blocks) -> None:
    blocks.raises = {1: HostError("uffd", "no userfaultfd", "allow it")}
    _, failures = _run(plan(), blocks)
    side = "new" if draw_order(3, 1)[0] else "old"
    assert str(failures[0]) == f"side {side}: uffd: no userfaultfd\n  remedy: allow it"


def test_the_command_at_the_end_is_run_even_after_a_defect(plan, blocks, log) -> None:
    blocks.raises = {2: ZeroDivisionError("a defect")}
    with pytest.raises(ZeroDivisionError):
        _run(plan(), blocks)
    assert _ran(log)[-1] == "end"


def test_what_cannot_be_saved_ends_it(plan, blocks, log) -> None:
    def fail(*_: object) -> None:
        raise KernelError("write of a.json", 28)

    _, failures = _run(plan(), blocks, on_block=fail)
    assert [str(failure) for failure in failures] == [
        "write of a.json: ENOSPC (No space left on device)"
    ]
    assert _ran(log)[1:] == ["block", "end"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo it is; echo not there >&2; exit 3",
         ["ended with exit code 3\n  | it is\n  | not there\n", "run it by hand"]),
        ("kill -TERM $$", ["was ended by SIGTERM"]),
        ("nothing-of-that-name", ["ended with exit code 127", "not found"]),
        ("sleep 600", ["did not end within 0.5 s", "--command-timeout"]),
        ("for i in $(seq 99); do echo line $i; done; false", ["  | ...\n  | line 80\n", "line 99"]),
        ("printf 'a\\033[31mb\\n'; false", ["  | a [31mb"]),
    ],
)  # fmt: skip
def test_a_command_that_fails_ends_it_and_says_why(plan, blocks, log, command, words) -> None:
    order = draw_order(1, 1)
    side = NEW if order[0] else OLD
    made = plan(commands={OLD: command, NEW: command}, command_timeout_s=0.5)
    _, failures = _run(made, blocks)
    assert len(failures) == 1
    assert isinstance(failures[0], HostError)
    assert str(failures[0]).startswith(f"--{side} {command!r}: ")
    for word in words:
        assert word in str(failures[0])
    assert _ran(log) == ["end"]


def test_a_command_at_the_end_that_fails_is_told_beside_what_went_wrong_before(
    plan, blocks
) -> None:
    blocks.raises = {1: KvmpcError("before")}
    sides, failures = _run(plan(at_end="false"), blocks)
    assert [str(failure).partition(":")[0] for failure in failures] == [
        "before", "--finally 'false'",
    ]  # fmt: skip
    assert sides == {}


def test_a_command_at_the_end_that_fails_leaves_what_was_measured(plan, blocks) -> None:
    sides, failures = _run(plan(at_end="false"), blocks)
    assert [type(failure) for failure in failures] == [HostError]
    assert all(side.finished for side in sides.values())


def test_whoever_asks_for_the_end_gets_it_and_the_last_command(plan, blocks, log) -> None:
    told: list[str] = []

    def ask(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    _, failures = _run(plan(), blocks, on_block=ask, told=told.append)
    assert [str(failure) for failure in failures] == ["stopped by SIGTERM"]
    assert told == ["SIGTERM"]
    assert _ran(log)[1:] == ["block", "end"]


def test_without_a_command_at_the_end_there_is_none(plan, blocks, log) -> None:
    _run(plan(at_end=None), blocks)
    assert "end" not in _ran(log)


def test_hours_have_to_be_confirmed_after_the_first_pair(plan, blocks, log, monkeypatch) -> None:
    clock = iter(range(0, 10**9, 4000))
    monkeypatch.setattr("kvmpc.run.turns.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("kvmpc.run.turns._run_command", lambda *_: None)
    _, failures = _run(plan(), blocks)
    assert isinstance(failures[0], UsageError)
    assert "--yes: the rest takes" in str(failures[0])
    assert _ran(log) == ["block", "block"]
    sides, failures = _run(plan(), blocks, confirmed=True)
    assert failures == []
    assert all(side.finished for side in sides.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pairs": 0}, ["--pairs", "0", "1 to 500"]),
        ({"pairs": 501}, ["--pairs", "501", "1 to 500"]),
        ({"command_timeout_s": 0.0}, ["--command-timeout", "above 0"]),
        ({"command_timeout_s": float("nan")}, ["--command-timeout", "nan"]),
        ({"command_timeout_s": 1e9}, ["--command-timeout", "up to 86400 s"]),
        ({"commands": {OLD: " ", NEW: "true"}}, ["--old", "' '", "a shell command"]),
        ({"commands": {OLD: "true", NEW: "a\0b"}}, ["--new", "a shell command"]),
        ({"at_end": ""}, ["--finally", "''", "a shell command"]),
    ],
)
def test_a_bad_plan_is_refused_with_what_is_allowed(plan, changes, words) -> None:
    with pytest.raises(UsageError) as caught:
        plan(**changes)
    for word in words:
        assert word in str(caught.value)


def _ended(code: int | None, stdout: str = "", stderr: str = "") -> Ended:
    return Ended(code, True, stdout, stderr)


def test_a_block_that_says_what_the_host_cannot_is_taken_at_its_word() -> None:
    said = "a table\nwarning: a thing\nkvmpc: /dev/kvm: not there\n  remedy: modprobe kvm_amd\n"
    with pytest.raises(HostError) as caught:
        _result_of(_ended(3, "", said))
    assert str(caught.value) == "kvmpc compare: /dev/kvm: not there\n  remedy: modprobe kvm_amd"


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (_ended(-11, "", "Fatal Python error"), ["was ended by SIGSEGV", "Fatal Python error"]),
        (_ended(130, "", "kvmpc: stopped by SIGTERM"), ["exit code 130", "stopped by SIGTERM"]),
        (_ended(4, "", "kvmpc: no memory"), ["exit code 4", "no memory"]),
        (_ended(0, "", ""), ["exit code 0"]),
        (_ended(None, "", ""), ["could not be killed"]),
        (_ended(0, "{"), ["kvmpc compare", "cut short"]),
    ],
)
def test_a_block_that_gives_no_result_is_an_error(ended: Ended, words: list[str]) -> None:
    with pytest.raises(KvmpcError) as caught:
        _result_of(ended)
    assert not isinstance(caught.value, HostError)
    for word in words:
        assert word in str(caught.value)


def test_a_block_with_failed_trials_is_a_result_and_one_that_was_stopped_is_none(
    make_result: Make, make_trial: Make
) -> None:
    result = make_result(make_trial("uffd", status="failed"))
    assert _result_of(_ended(4, to_json(result))) == result
    assert _result_of(_ended(3, to_json(result), "kvmpc: this host: too busy")) == result
    with pytest.raises(KvmpcError):
        _result_of(_ended(4, to_json(replace(result, finished=False))))
