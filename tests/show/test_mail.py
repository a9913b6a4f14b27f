"""The block for a mail: what it holds, and that it fits, whatever the result is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kvmpc.caution import HOST, Caution
from kvmpc.judge.reading import read
from kvmpc.result.records import Result
from kvmpc.show.mail import MAIL_COLUMNS, format_mail
from tests.fakes.sweeps import DOUBLED, PAGERS, skipped, sweep

Make = Callable[..., Any]


def mailed(result: Result) -> list[str]:
    """Return the lines of a block, having checked what every one must be."""
    text = format_mail(read(result))
    assert text.endswith("\n")
    assert text.isascii()
    lines = text.removesuffix("\n").split("\n")
    assert [line for line in lines if len(line) > MAIL_COLUMNS] == []
    assert all(line.isprintable() and line == line.rstrip() for line in lines)
    assert len(lines) < 200
    return lines


def test_it_says_what_a_list_asks_of_every_number(make_result: Make, make_trial: Make) -> None:
    cautions = (
        Caution("nested-host", "this host is itself a VM", "use another", kind=HOST),
        Caution("few-cpus", "too few CPUs", "use more"),
        Caution("idle-states", "idle states are on", "hold them off"),
        Caution("other", "what comes third", "nothing"),
    )
    trials = [
        make_trial(spec, n, rate) for n in range(1, 7) for spec, rate in (
            ("none", 1e6), ("uffd", 1e5), ("exit", 2e5), ("uffd,uffds=per-vcpu", 5e4))
    ]  # fmt: skip
    lines = mailed(make_result(*trials, warnings=cautions))
    assert lines[0] == "kvmpc 0.1.0, 2025-01-31"
    assert lines[1] == "host: Linux 6.1.0-28-amd64, AMD EPYC 7B13, 8 CPUs allowed (0-7), paging"
    told = " ".join(" ".join(lines).split())
    assert "command: kvmpc compare --vcpus 2" in told
    assert "work: 2 vCPUs x 64M = 128M of memory, sequential, write, 6 rounds" in told
    [row] = [line.split() for line in lines if line.startswith("exit(sigbus)")]
    assert row == ["exit(sigbus)", "200,000", "2.00", "[2.00-2.00]", "20%", "1", "ms", "2.5"]
    assert "ratio: to uffd, in the same round; median [95% interval] of 6 rounds." in told
    assert "doubt: too few CPUs doubt: idle states are on 2 more cautions" in told
    assert "what comes third" not in told


def test_a_row_without_numbers_says_what_became_of_it_and_why(
    make_result: Make, make_trial: Make
) -> None:
    failed = make_trial("uffd", 1, status="failed", error="wrong tag " * 100)
    lines = mailed(make_result(failed, make_trial("exit", 1), finished=False))
    [row] = [line.split() for line in lines if line.startswith("uffd ") and "FAILED" in line]
    assert row == ["uffd", "FAILED", "-", "-", "-", "-"]
    told = " ".join(lines)
    assert "uffd failed (1 of 1 trials): wrong tag" in told
    assert "UNFINISHED" in told


def test_a_sweep_of_many_points_is_cut_and_says_so() -> None:
    result = sweep(DOUBLED, ("none", "uffd", "exit"), rounds=2)
    lines = mailed(result)
    points = [line for line in lines if line.startswith("vcpus=")]
    assert points == ["vcpus=1", "vcpus=8", "vcpus=32", "vcpus=160"]
    assert "5 more points are left out" in lines
    assert "left out" not in " ".join(mailed(sweep((1, 2), ("uffd", "exit"), rounds=2)))


def test_points_without_a_rate_are_left_out_first() -> None:
    result = sweep((1, 2, 4, 8, 16, 32), ("uffd", "exit"), rounds=1)
    trials = tuple(trial for trial in result.trials if trial.point < 4)
    gone = tuple(skipped(at, spec, "no room") for at in (4, 5) for spec in ("uffd", "exit"))
    lines = mailed(replace(result, trials=trials, skipped=gone))
    assert [line for line in lines if line.startswith("vcpus=")] == [
        "vcpus=1", "vcpus=2", "vcpus=4", "vcpus=8",
    ]  # fmt: skip
    assert "2 more points are left out" in lines


def test_of_many_pagers_those_that_matter_stay(make_result: Make, make_trial: Make) -> None:
    trials = [make_trial(f"uffd,readers={n}", 1, 1000.0 + (n == 77)) for n in range(1, 100)]
    lines = mailed(make_result(*trials, make_trial("none", 1, 9e5)))
    assert "76 more pagers are left out" in lines
    shown = [line.split()[0] for line in lines if line.startswith(("uffd", "none"))]
    assert {"none", "uffd", "uffd,readers=77"} <= set(shown)
    assert len(shown) == 24


LONG = "x" * 300
CJK = "\u4e16\u754c " * 50


@pytest.mark.parametrize("text", [LONG, CJK, "", "\x1b[2J\n\r\t\udc80\u202e", "a,b," * 99])
def test_it_fits_whatever_a_file_says(text: str) -> None:
    result = sweep((1, 2), tuple(PAGERS), rounds=1, more={"order": [text, f"{text}2"]})
    trials = tuple(
        replace(trial, label=text, status="failed", error=text, metrics={}, verified=None)
        if trial.pager == "uffd"
        else trial
        for trial in result.trials
    )
    mailed(
        replace(
            result,
            trials=trials,
            labels=tuple(f"{text}{n}" for n in range(len(result.pagers))),
            pager_infos=(),
            command=("kvmpc", text, *["a b"] * 300),
            tool_version=text,
            started=text,
            host={"kernel": {"release": text}, "cpu": {"model": text}},
            warnings=(Caution("odd", text, text),),
        )
    )


def test_an_empty_result_gives_a_block_too() -> None:
    assert "No trial was run." in mailed(sweep((2,), trials=()))


def test_a_command_is_one_that_a_shell_reads_back(make_result: Make, make_trial: Make) -> None:
    import shlex

    words = ("kvmpc", "compare", *[f"uffd,readers={n}" for n in range(1, 9)], "--json", "a b.json")
    lines = mailed(make_result(make_trial("uffd"), command=words))
    first = lines.index(next(line for line in lines if line.startswith("command:")))
    block = "\n".join(lines[first : lines.index("", first)]).removeprefix("command:")
    assert tuple(shlex.split(block.replace("\\\n", " "))) == words
