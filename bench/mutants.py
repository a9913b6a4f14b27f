"""Do the tests see it when one instruction of the loops or of the guest is wrong?

Every statement of kvmpc/loops/x86_64/ and guest/x86_64/ is changed in every way that a slip might
(left out, a condition turned or off by one, a constant or a field off by one, ``mov`` for ``add``,
a call too early, a lock forgotten), one change at a time. Each such mutant is assembled anew in a
process of its own and run against the tests that come to its line, the quickest first, until one
of them is red: the loops on the scripted kernel, the guest on the scripted processor, then what
looks at the program as it stands.

A mutant that no test sees is wrong or it is equivalent: no result of kvmpc could differ. Those are
in equivalents.json, each under the reason why. Exit code 1 if any other survives, or if one that is
there is seen by a test, or is none any more. All of them take half an hour; --sample a minute.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
from _pytest.runner import runtestprotocol

from kvmpc.assembler import assemble, x86_64
from kvmpc.assembler.assemble import AssemblerError
from kvmpc.assembler.x86_64 import CONDITIONS, PREFIXES, Symbols
from kvmpc.loops import program as loops
from kvmpc.loops import speed
from kvmpc.vm import guest

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENTS = Path(__file__).with_name("equivalents.json")
TESTS = ("tests/loops", "tests/vm/test_touch.py", "tests/vm/test_rules.py")
CPU_S, WALL_S = 10, 120
"""A test that needs more of its processor's time, or of anybody's, does not come back."""

OPTIONS = (
    *("-q", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler"),
    # Nobody reads what a red test says.
    *("--tb=native", "--assert=plain"),
    # What compares a program with itself, or looks at none.
    *(
        f"--ignore=tests/loops/test_{name}.py"
        for name in (
            "builds",
            "mutants",
            "reach",
            "records",
            "tsc",
        )
    ),
)
ON_MEMORY = "tests/loops/test_resolve_on_memory.py"

# --- what is changed ---------------------------------------------------------------------------

_SWAPS = {
    "mov": ("add",), "add": ("mov", "sub"), "sub": ("add",), "inc": ("dec",), "dec": ("inc",),
    "shl": ("shr",), "shr": ("shl",), "or": ("and", "mov"), "and": ("or",), "xor": ("or", "mov"),
    "rol": ("ror",), "bt": ("bts",), "bts": ("bt", "btr"), "btr": ("bt", "bts"), "bsr": ("bsf",),
    "imul": ("mov",), "sbb": ("sub",), "cmp": ("test",), "test": ("cmp",),
}  # fmt: skip
_NEIGHBOURS = {"b": "be", "be": "b", "a": "ae", "ae": "a", "l": "le", "le": "l", "g": "ge"}
_TOKEN = re.compile(r"(?<![\w.])(0x[0-9a-fA-F]+|[0-9]+|[A-Z][A-Z0-9_]{2,}|[a-z_]+\.[a-z_0-9]+)\b")
_LABEL = re.compile(r"(\.?[a-z_][a-z0-9_]*):")


@dataclass(frozen=True, order=True)
class Mutant:
    """One statement changed: `lines` are what stands for the file's lines from `line` on."""

    file: str
    line: int
    name: str
    lines: tuple[str, ...] = field(compare=False)


@dataclass
class _Statement:
    line: int
    scope: str
    text: str


def _statements(text: str) -> Iterator[_Statement]:
    """Yield each statement with where it stands: label of the function, and the one within it."""
    function = within = ""
    for number, line in enumerate(text.split("\n"), start=1):
        statement = line.partition(";")[0].strip()
        if match := _LABEL.fullmatch(statement):
            local = match[1].startswith(".")
            function, within = (function, match[1]) if local else (match[1], "")
        elif statement.startswith(".macro"):
            function, within = statement.split()[1], ""
        elif statement and not statement.startswith("."):
            yield _Statement(number, function + within, statement)


def _changed(statement: str) -> Iterator[str]:
    """Yield what else a statement could have become; "" where it is left out."""
    yield ""
    prefix, _, rest = statement.partition(" ")
    if prefix in PREFIXES:
        yield rest.strip()
    else:
        prefix, rest = "", statement
    head = f"{prefix} " if prefix else ""
    mnemonic, _, operands = rest.partition(" ")
    for verb in ("j", "cmov"):
        condition = mnemonic.removeprefix(verb)
        if mnemonic.startswith(verb) and condition in CONDITIONS:
            code = CONDITIONS[condition]
            opposite = next(name for name, other in CONDITIONS.items() if other == code ^ 1)
            spelled = next(name for name, other in CONDITIONS.items() if other == code)
            always = "jmp" if verb == "j" else "mov"
            yield f"{verb}{opposite} {operands}"
            yield f"{always} {operands}"
            if spelled in _NEIGHBOURS:
                yield f"{verb}{_NEIGHBOURS[spelled]} {operands}"
    for other in _SWAPS.get(mnemonic, ()):
        yield f"{head}{other} {operands}"
    for match in _TOKEN.finditer(operands):
        before, after = operands[: match.start()], operands[match.end() :]
        if before.endswith("*"):
            continue  # a scale
        steps = (8,) if "." in match[1] else (1, -1)
        for step in steps:
            sign = "+" if step > 0 else "-"
            yield f"{head}{mnemonic} {before}{match[1]} {sign} {abs(step)}{after}"


def _moved(statements: Sequence[_Statement], at: int) -> tuple[int, str] | None:
    """Return where a call would stand if it came before all else of its block: line, and block."""
    one = statements[at]
    first = at
    while first and statements[first - 1].scope == one.scope:
        first -= 1
    return None if first == at or not one.text.startswith("call ") else (statements[first].line, "")


def mutants_of(file: str, text: str) -> list[Mutant]:
    """Return every mutant of a source file; no two have one name."""
    statements, lines = list(_statements(text)), text.split("\n")
    seen: Counter[str] = Counter()
    found: list[Mutant] = []

    def add(line: int, name: str, replaced: Sequence[str]) -> None:
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name} #{seen[name]}"
        found.append(Mutant(file, line, name, tuple(replaced)))

    for at, one in enumerate(statements):
        where = f"{file} {one.scope}: {one.text}"
        for instead in dict.fromkeys(_changed(one.text)):
            add(one.line, f"{where} -> {instead or 'nothing'}", [f"    {instead}"])
        if moved := _moved(statements, at):
            first = moved[0]
            between = lines[first - 1 : one.line - 1]
            add(first, f"{where} -> before the rest", [f"    {one.text}", *between])
    return found


def all_sources() -> dict[str, str]:
    """Return every source file's text, by name."""
    return dict([*loops.read_sources(), *speed.read_sources(), *guest.read_sources()])


def mutated(sources: Sequence[tuple[str, str]], mutant: Mutant) -> list[tuple[str, str]]:
    """Return `sources` with the mutant's lines in place."""
    result = []
    for name, text in sources:
        if name == mutant.file:
            lines = text.split("\n")
            begin = mutant.line - 1
            lines[begin : begin + len(mutant.lines)] = mutant.lines
            text = "\n".join(lines)
        result.append((name, text))
    return result


# --- how it is run -----------------------------------------------------------------------------

SURVIVED, CAUGHT, NO_PROGRAM, UNKNOWN = range(4)


@dataclass
class Outcome:
    """What became of a mutant: `how` is the test that saw it, or how its process ended."""

    mutant: Mutant
    caught: bool
    how: str = ""


class Runner:
    """A plugin of pytest: runs the tests it was given against each mutant, instead of once."""

    def __init__(self, mutants: Sequence[Mutant], until: float) -> None:
        self.mutants, self.until = list(mutants), until
        self.outcomes: list[Outcome] = []
        self.no_program = self.not_run = 0
        self.wrong: str | None = None
        self._durations: dict[str, float] = {}
        self._reached: dict[str, set[tuple[str, int]]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all tests once as they are, then those that matter for each mutant."""
        scripted = importlib.import_module("tests.fakes.scripted")
        processor = importlib.import_module("tests.fakes.scripted_cpu").ScriptedCpu
        scripted.tsc()  # of the loops as they are
        _remember_instructions()
        marks = scripted.instrumented()
        for item in session.items:
            marks.reached[:] = [0] * len(marks.reached)
            processor.reached.clear()
            begin = time.monotonic()
            if not _passes(item):
                self.wrong = f"{item.nodeid} fails without any mutant"
                return True
            self._durations[item.nodeid] = time.monotonic() - begin
            hit = zip(marks.marks, marks.reached, strict=False)
            self._reached[item.nodeid] = set(processor.reached)
            for mark in [mark for mark, there in hit if there]:
                name, line, *_ = mark.split(":")
                self._reached[item.nodeid].add((name, int(line)))
        places = {place for reached in self._reached.values() for place in reached}
        for number, mutant in enumerate(self.mutants):
            if time.monotonic() > self.until:
                self.not_run = len(self.mutants) - number
                break
            self._try(mutant, self._chosen(session.items, mutant, places))
            if (number + 1) % 100 == 0:
                click.echo(f"{number + 1} of {len(self.mutants)}", err=True)
        return True

    def _chosen(
        self, items: Sequence[pytest.Item], mutant: Mutant, places: set[tuple[str, int]]
    ) -> list[pytest.Item]:
        """Return the tests that come to a mutant's line, then those that come to none at all."""
        behind = [line for name, line in places if name == mutant.file and line <= mutant.line]
        nearest = (mutant.file, max(behind, default=0))

        def rank(item: pytest.Item) -> tuple[int, float] | None:
            reached, took = self._reached[item.nodeid], self._durations[item.nodeid]
            if not reached:
                return (1, took)
            if nearest in reached or mutant.file == "rules.asm":
                return (0, took)
            return None

        ranked = [(order, item) for item in items if (order := rank(item))]
        return [item for _, item in sorted(ranked, key=lambda pair: pair[0])]

    def _try(self, mutant: Mutant, items: Sequence[pytest.Item]) -> None:
        said, says = os.pipe()
        child = os.fork()
        if not child:
            os.close(said)
            os._exit(_run_mutant(mutant, items, says))
        os.close(says)
        with os.fdopen(said, encoding="utf-8", errors="replace") as pipe:
            words = pipe.read().split("\n")
        status = os.waitpid(child, 0)[1]
        how = words[-1]
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            ended = "does not come back" if name in ("SIGALRM", "SIGPROF") else name
            self.outcomes.append(Outcome(mutant, True, f"{ended} in {how}"))
        elif (code := os.WEXITSTATUS(status)) == NO_PROGRAM:
            self.no_program += 1
        elif code == UNKNOWN:
            self.wrong = f"{mutant.name}: the scripted processor does not know it"
        else:
            self.outcomes.append(Outcome(mutant, code != SURVIVED, how))
            if code == SURVIVED:
                click.echo(f"survives: {mutant.name}", err=True)


def _passes(item: pytest.Item) -> bool:
    reports = runtestprotocol(item, log=False, nextitem=None)
    return not any(report.failed for report in reports)


def _run_mutant(mutant: Mutant, items: Sequence[pytest.Item], says: int) -> int:
    """In a process of its own: put the mutant in place, run tests up to the first that is red."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    _put_in_place(mutant)
    unknown = importlib.import_module("tests.fakes.scripted_cpu").UnknownInstruction
    for item in items:
        os.write(says, f"\n{item.nodeid}".encode())
        _begin_to_count()
        for report in runtestprotocol(item, log=False, nextitem=None):
            if report.failed:
                said = str(report.longrepr)
                if AssemblerError.__name__ in said:
                    return NO_PROGRAM
                return UNKNOWN if unknown.__name__ in said else CAUGHT
    return SURVIVED


def _begin_to_count() -> None:
    """Have the kernel end this process, whatever it is in, if what comes now never ends."""
    for number, clock, seconds in (
        (signal.SIGPROF, signal.ITIMER_PROF, CPU_S),
        (signal.SIGALRM, signal.ITIMER_REAL, WALL_S),
    ):
        signal.signal(number, signal.SIG_DFL)
        signal.setitimer(clock, seconds)


READERS = (loops.read_sources, speed.read_sources, guest.read_sources)
_READ = {reader: reader() for reader in READERS}
"""What is changed is what was read at the beginning, whoever edits it meanwhile."""


def _put_in_place(mutant: Mutant) -> None:
    """Let whoever reads sources from now on find the mutant, and forget what was built before."""
    for reader, sources in _READ.items():
        changed = mutated(sources, mutant)
        for module in list(sys.modules.values()):
            if vars(module).get("read_sources") is reader:
                setattr(module, "read_sources", lambda changed=changed: list(changed))  # noqa: B010
    scripted: Any = sys.modules["tests.fakes.scripted"]
    for cached in (loops.load, guest.assemble_guest, scripted.instrumented, scripted._loaded):
        cached.cache_clear()
    speed._program.cache_clear()


def _remember_instructions() -> None:
    """Check each instruction once a run, not once a mutant: most of them are always the same."""
    check, known = x86_64.canonical, dict[tuple[object, ...], str]()

    def canonical(words: Sequence[str], text: str, symbols: Symbols) -> str:
        key = (*words, text, symbols.constants.get("UNIT_BYTES"))
        if key not in known:
            known[key] = check(words, text, symbols)
        return known[key]

    setattr(assemble, "canonical", canonical)  # noqa: B010


# --- what it says ------------------------------------------------------------------------------


def read_equivalents() -> dict[str, str]:
    """Return the reason for each mutant that is known to be equivalent, by name."""
    groups = json.loads(EQUIVALENTS.read_text("utf-8"))
    return {name: group["reason"] for group in groups for name in group["mutants"]}


def _report(runner: Runner, known: dict[str, str]) -> tuple[list[str], list[str]]:
    """Print what became of the mutants of each file; return the survivors and the known caught."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    survivors, seen = [], []
    for outcome in runner.outcomes:
        name = outcome.mutant.name
        if outcome.caught:
            kind = "caught"
            seen += [f"{name}  [{outcome.how}]"] if name in known else []
        else:
            kind = "equivalent" if name in known else "survived"
            survivors += [] if name in known else [name]
        rows[outcome.mutant.file][kind] += 1
    kinds = ("caught", "equivalent", "survived")
    click.echo(f"{'':16}" + "".join(f"{kind:>12}" for kind in ("mutants", *kinds)))
    total: Counter[str] = sum(rows.values(), Counter())
    for file, row in [*sorted(rows.items()), ("all", total)]:
        cells = [sum(row.values()), *(row[kind] for kind in kinds)]
        click.echo(f"{file:16}" + "".join(f"{cell:12}" for cell in cells))
    click.echo(
        f"{runner.no_program} more are no program: they do not assemble; not run: {runner.not_run}"
    )
    return survivors, seen


@click.command(help=__doc__)
@click.option("--sample", type=click.IntRange(1), help="Only so many of them, drawn by --seed.")
@click.option("--seed", type=int, default=1, show_default=True, help="Which ones --sample draws.")
@click.option("--only", metavar="TEXT", multiple=True,
              help="Only those whose name has TEXT, or another --only's.")  # fmt: skip
@click.option("--part", nargs=2, type=int, default=(1, 1), metavar="K N",
              help="The K-th of N parts, to be run side by side.")  # fmt: skip
@click.option("--limit", "limit_s", type=float, default=3600.0, show_default=True,
              help="Seconds after which no further one is begun.")  # fmt: skip
@click.option("--kvm", is_flag=True,
              help="Also `resolve` on real userfaultfds; five times as long.")  # fmt: skip
@click.option("--how", is_flag=True, help="Also say of each how it was caught.")
def main(
    sample: int | None,
    seed: int,
    only: tuple[str, ...],
    part: tuple[int, int],
    limit_s: float,
    kvm: bool,
    how: bool,
) -> None:
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    everything = [
        mutant for name, text in sorted(all_sources().items()) for mutant in mutants_of(name, text)
    ]
    known = read_equivalents()
    gone = sorted(known.keys() - {mutant.name for mutant in everything})
    chosen = [one for one in everything if not only or any(text in one.name for text in only)]
    if sample is not None:
        # In the order drawn: what a limit of time leaves of them is a sample as well.
        chosen = random.Random(seed).sample(chosen, min(sample, len(chosen)))
    chosen = chosen[part[0] - 1 :: part[1]]
    runner = Runner(chosen, time.monotonic() + limit_s)
    with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        options = [*OPTIONS, *(() if kvm else (f"--ignore={ON_MEMORY}",))]
        pytest.main([*TESTS, *options], plugins=[runner])
    if runner.wrong:
        raise click.ClickException(runner.wrong)
    if how:
        for outcome in runner.outcomes:
            click.echo(f"{outcome.mutant.name}  [{outcome.how if outcome.caught else 'survived'}]")
    survivors, seen = _report(runner, known)
    for title, names in (
        ("survived, and equivalents.json does not say why:", survivors),
        ("called equivalent, and yet seen:", seen),
        ("called equivalent, and no mutant any more:", gone),
    ):
        if names:
            click.echo("\n  ".join((title, *names)))
    if survivors or seen or gone:
        sys.exit(1)


if __name__ == "__main__":
    main()
