"""What bench/mutants.py changes, and that the tests see it; of all of it a part, by -m mutants."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.fakes.scripts import BENCH, load_script

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = BENCH / "mutants.py"
SAMPLE, SEED = 60, 1

KNOWN = (
    # Each of them once got past every test.
    "resolve.asm supply: add [rbx + resolver.install_cycles], rax -> mov ",
    "touch.asm touch.same: mov [rsi + WRITTEN_WORD], rsi -> nothing",
    "touch.asm touch.next: lfence -> nothing",
    "touch.asm touch.shorter: cmova rax, rdx -> nothing",
    "touch.asm touch.within: mov [rdi + guest.end_cycles], rax -> nothing",
    "touch.asm touch.within: rdtsc -> nothing",
    "resolve.asm stage_tags: mov [rdi + LAST_WORD], rax -> nothing",
    "resolve.asm supply: call publish -> before the rest",
    "resolve.asm claim: lock bts qword ptr [rax], r12 -> bts ",
    "resolve.asm claim: lock bts qword ptr [rax], r12 -> nothing",
)


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    """Return the script as a module."""
    return load_script("mutants")


def test_every_statement_of_every_file_is_changed_in_more_than_one_way(mutants: ModuleType) -> None:
    for file, text in mutants.all_sources().items():
        found = mutants.mutants_of(file, text)
        assert len({mutant.name for mutant in found}) == len(found)
        labels = {f"{name}:" for name in re.findall(r"^(\.?\w+):$", text, re.M)}
        for number, line in enumerate(text.split("\n"), start=1):
            statement = line.partition(";")[0].strip()
            if not statement or statement.startswith(".") or statement in labels:
                continue
            left_out = [m for m in found if m.line == number and m.lines == ("    ",)]
            assert len(left_out) == 1, f"{file}:{number}: {statement}"


def test_a_mutant_differs_from_the_file_in_its_own_lines_only(mutants: ModuleType) -> None:
    sources = list(mutants.all_sources().items())
    for file, text in sources:
        for mutant in mutants.mutants_of(file, text):
            [changed] = [new for name, new in mutants.mutated(sources, mutant) if name == file]
            old, new = text.split("\n"), changed.split("\n")
            assert len(new) == len(old)
            pairs = enumerate(zip(old, new, strict=True), start=1)
            differ = [number for number, (one, other) in pairs if one != other]
            assert differ, mutant.name
            assert differ[0] >= mutant.line
            assert differ[-1] < mutant.line + len(mutant.lines)


def test_what_once_got_past_the_tests_is_among_them(mutants: ModuleType) -> None:
    names = [
        mutant.name
        for file, text in mutants.all_sources().items()
        for mutant in mutants.mutants_of(file, text)
    ]
    for known in KNOWN:
        assert [name for name in names if name.startswith(known)], known
    assert len(names) > 2000


def test_every_equivalent_is_a_mutant_and_has_a_reason(mutants: ModuleType) -> None:
    names = {
        mutant.name
        for file, text in mutants.all_sources().items()
        for mutant in mutants.mutants_of(file, text)
    }
    equivalents = mutants.read_equivalents()
    assert set(equivalents) <= names
    assert all(len(reason.split()) > 5 for reason in equivalents.values())
    assert not [known for known in KNOWN for name in equivalents if name.startswith(known)]


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


@pytest.mark.mutants
def test_a_sample_of_mutants_is_caught_but_for_those_that_are_equivalent() -> None:
    done = _run("--sample", str(SAMPLE), "--seed", str(SEED), "--limit", "1200")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not run: 0" in done.stdout


@pytest.mark.mutants
def test_what_once_got_past_the_tests_is_caught() -> None:
    done = _run(*(word for known in KNOWN for word in ("--only", known)), "--limit", "1200")
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = [line.split() for line in done.stdout.splitlines() if line.startswith("all ")]
    count, caught, equivalent, survived = map(int, row[1:])
    assert count == caught >= len(KNOWN)
    assert equivalent == survived == 0
