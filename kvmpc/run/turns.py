"""Two states of one host measured in turn: a command for each side, and a fresh process a block.

A pair is a block of rounds on either side, next to each other in time, in an order that is drawn.
A block is ``kvmpc compare`` in a process of its own, which has ended before the next side's command
is run: nothing of kvmpc holds KVM open then, so that its modules can be reloaded. What a block says
of the host was read after the command of its side. Shows and writes nothing.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from kvmpc.caution import Caution
from kvmpc.errors import HostError, KvmpcError, UsageError
from kvmpc.exit_codes import EXIT_FAILED, EXIT_HOST, EXIT_OK, EXIT_USAGE, VARIABLE
from kvmpc.judge.host_cautions import LOAD
from kvmpc.judge.turns import cautions_within
from kvmpc.result.document import from_json
from kvmpc.result.records import NEW, OLD, Result, Role, TrialResult, Turns
from kvmpc.run.process import Ended, run_process
from kvmpc.trial.signals import NEVER, Interrupt, interruptible
from kvmpc.units import format_wait

__all__ = ["MAX_PAIRS", "OnBlock", "Sides", "TurnsPlan", "compare_block", "draw_order", "run_turns"]

MAX_PAIRS: Final = 500
_MAX_COMMAND_S: Final = 86_400
_LONG_S: Final = 3600.0
_SHOWN_LINES: Final = 20
_WITH_RESULT: Final = (EXIT_OK, EXIT_FAILED, EXIT_HOST)
"""Exit codes of a block that may have a result for all that: trials failed, or are worth nothing
on this host. What that does to a row, `check` says."""

_UNMAP_S: Final = 60.0
"""How long a block that is asked for its end may take: it may have a large guest to unmap."""

Sides = Mapping[str, Result]
"""What was measured of each side, by its name."""

OnBlock = Callable[[Sides, Result, float | None], None]
"""Told after each block: both sides so far, the block alone, and the seconds that are left."""

Compare = Callable[[Sequence[str], Interrupt], Result]
"""What `compare_block` does: a test may put something else in its place."""


@dataclass(frozen=True, kw_only=True)
class TurnsPlan:
    """What is measured in turn.

    commands: by side, what is run before each of its blocks (``sh -c``); at_end: what is run at the
        end, however it comes.
    pairs: of blocks; seed: of their order. words: the arguments of ``kvmpc compare`` of a block.
    command_timeout_s: how long a command may take.

    Raises: UsageError.
    """

    commands: Mapping[str, str]
    at_end: str | None
    pairs: int
    seed: int
    words: tuple[str, ...]
    command_timeout_s: float

    def __post_init__(self) -> None:
        named = {f"--{side}": command for side, command in self.commands.items()}
        for option, command in {**named, "--finally": self.at_end}.items():
            if command is not None and (not command.strip() or "\0" in command):
                raise UsageError(
                    option, command, "a shell command; true where nothing is to be done"
                )
        if not 1 <= self.pairs <= MAX_PAIRS:
            raise UsageError("--pairs", self.pairs, f"1 to {MAX_PAIRS}")
        if not 0 < self.command_timeout_s <= _MAX_COMMAND_S:
            raise UsageError(
                "--command-timeout", self.command_timeout_s, f"above 0, up to {_MAX_COMMAND_S} s"
            )


def draw_order(pairs: int, seed: int) -> tuple[bool, ...]:
    """Return for each pair whether ``new`` is measured first: what the test of pairs relies on."""
    from random import Random

    draw = Random(f"turn {seed}")
    return tuple(draw.random() < 0.5 for _ in range(pairs))


def run_turns(
    plan: TurnsPlan,
    command: Sequence[str],
    on_block: OnBlock,
    told: Callable[[str], None] = lambda _: None,
    *,
    confirmed: bool = False,
    compare: Compare | None = None,
) -> tuple[Sides, list[KvmpcError]]:
    """Run all blocks; return what was measured, and what ended it early or went wrong at its end.

    command: what was typed. on_block: what it raises ends the run, if it is a `KvmpcError`.
    told: called with the name of the first signal that asks for the end, in its handler; a second
    one only hurries. In the main thread only.
    confirmed: whether it may take as long as it takes; otherwise, what takes more than an hour ends
    with a `UsageError` after the first pair. Whatever happens, the command at the end is run.
    """
    compare = compare or compare_block
    order = draw_order(plan.pairs, plan.seed)
    blocks: dict[str, list[Result]] = {OLD: [], NEW: []}
    identity, begin = secrets.token_hex(8), time.monotonic()
    failures: list[KvmpcError] = []

    def sides() -> Sides:
        return {
            side: _joined(
                done, command,
                Turns(id=identity, side=side, command=plan.commands[side], new_first=order,
                      last_rounds=()),
            )
            for side, done in blocks.items() if done
        }  # fmt: skip

    def measure(interrupt: Interrupt) -> None:
        for number, side in enumerate(_sides_of(order), start=1):
            interrupt.check()
            _run_command(f"--{side}", plan.commands[side], plan.command_timeout_s, interrupt)
            block = _on_side(side, lambda: compare(plan.words, interrupt))
            blocks[side].append(block)
            left_s = (time.monotonic() - begin) / number * (2 * plan.pairs - number)
            on_block(sides(), block, left_s)
            if number == 2 and left_s > _LONG_S and not confirmed:
                wait = format_wait(left_s)
                raise UsageError("--yes", "not given", f"--yes: the rest takes {wait}")

    def tidy_up() -> None:
        if plan.at_end is not None:
            _run_command("--finally", plan.at_end, plan.command_timeout_s, NEVER)

    with interruptible(told, patient=True) as interrupt:
        try:
            failures += _failure_of(lambda: measure(interrupt))
        finally:
            failures += _failure_of(tidy_up)
    return sides(), failures


def _failure_of(work: Callable[[], None]) -> list[KvmpcError]:
    try:
        work()
    except KvmpcError as error:
        return [error]
    return []


def _sides_of(order: Sequence[bool]) -> list[str]:
    return [side for new_first in order for side in ((NEW, OLD) if new_first else (OLD, NEW))]


def _run_command(option: str, text: str, within_s: float, interrupt: Interrupt) -> None:
    """Run a shell command. Raises: HostError where it fails, or takes too long; Interrupted."""
    ended = run_process(["/bin/sh", "-c", text], interrupt, within_s=within_s)
    interrupt.check()
    if ended.in_time and ended.code == 0:
        return
    how = ended.how if ended.in_time else f"did not end within {within_s:g} s"
    raise HostError(
        f"{option} {text!r}",
        "\n  | ".join([how, *_last_lines(ended.stdout + ended.stderr)]),
        "see what it says, and run it by hand"
        + ("" if ended.in_time else ", or give it longer (--command-timeout)"),
    )


def _on_side(side: str, measure: Callable[[], Result]) -> Result:
    """Return a block; an error that says what this host cannot says on which side."""
    try:
        return measure()
    except HostError as error:
        raise HostError(f"side {side}: {error.what}", error.reason, error.remedy) from error


def compare_block(words: Sequence[str], interrupt: Interrupt) -> Result:
    """Measure a block in a fresh kvmpc, as this one was started, and return its result.

    Raises: HostError where it says that this host cannot; KvmpcError where it says anything else
    than a result; Interrupted.
    """
    # As this process was started: by another name, or from another folder, it may be another kvmpc.
    started = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    ended = run_process(
        [sys.executable, *started, "compare", *words, "--json", "-", "--yes"],
        interrupt,
        grace_s=_UNMAP_S,
        env={name: text for name, text in os.environ.items() if name != VARIABLE},
    )
    interrupt.check()
    return _result_of(ended)


def _result_of(ended: Ended) -> Result:
    if ended.code in _WITH_RESULT and ended.stdout.strip():
        result = from_json(ended.stdout, "kvmpc compare")
        if result.finished:
            return result
    # Its error is the last thing it says, after tables, warnings and progress.
    said = f"\n{ended.stderr}".rpartition("\nkvmpc: ")[2].strip()
    if ended.code in (EXIT_HOST, EXIT_USAGE):
        reason, _, remedy = said.partition("\n  remedy: ")
        raise HostError("kvmpc compare", reason, remedy or "see what the side's command changed")
    raise KvmpcError("\n  | ".join([f"kvmpc compare {ended.how}", *_last_lines(said)]))


def _last_lines(text: str) -> list[str]:
    lines = ["".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()]
    cut = ["..."] if len(lines) > _SHOWN_LINES else []
    return cut + lines[-_SHOWN_LINES:]


def _joined(blocks: Sequence[Result], command: Sequence[str], turns: Turns) -> Result:
    """Return the blocks of one side as one result, their rounds numbered on."""
    trials: list[TrialResult] = []
    last_rounds: list[int] = []
    for block in blocks:
        before = last_rounds[-1] if last_rounds else 0
        numbers = [trial.round for trial in block.trials if trial.role is Role.MEASURED]
        last_rounds.append(before + max(numbers, default=1))
        trials += [
            replace(trial, round=before + trial.round) if trial.role is Role.MEASURED else trial
            for trial in block.trials
        ]
    warnings: dict[str, Caution] = {}
    began_all = turns.new_first[0] == (turns.side == NEW)
    for number, block in enumerate(blocks):
        for caution in block.warnings:
            if caution.code == LOAD and not (began_all and number == 0):
                continue  # what ran before this block was the block before it
            known = warnings.get(caution.code)
            if known is None or caution.size > known.size:
                warnings[caution.code] = caution
    moved = cautions_within([block.host for block in blocks])
    first = blocks[0]
    return replace(
        first,
        command=tuple(command),
        finished=len(blocks) == len(turns.new_first),
        options={**first.options, "rounds": last_rounds[-1]},
        trials=tuple(trials),
        warnings=(*warnings.values(), *moved),
        skipped=tuple(dict.fromkeys(skip for block in blocks for skip in block.skipped)),
        during=_together([block.during or {} for block in blocks]),
        turns=replace(turns, last_rounds=tuple(last_rounds)),
    )


def _together(during: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return what the host did in all blocks: times and events add up, of all else the last."""
    whole: dict[str, object] = {}
    for facts in during:
        for name, value in facts.items():
            so_far = whole.get(name)
            if name != "cpus_count" and _is_number(value) and _is_number(so_far):
                whole[name] = so_far + value  # type: ignore[operator]
            elif isinstance(value, Mapping) and isinstance(so_far, Mapping):
                whole[name] = _together([so_far, value])
            else:
                whole[name] = value
    return whole


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
