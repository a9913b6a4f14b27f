"""The table: what it says, what it must not say, and that it fits a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.caution import HOST, Caution
from kvmpc.judge.answer import contests_of
from kvmpc.judge.reading import read
from kvmpc.result.points import points_of
from kvmpc.result.records import Result
from kvmpc.show.mail import format_mail
from kvmpc.show.page.panels import panels_of
from kvmpc.show.page.words import answer_in_words
from kvmpc.show.sentences import format_warnings, notes_of
from kvmpc.show.table import MAX_COLUMNS, format_table
from tests.fakes.sweeps import sweep

Make = Callable[..., Any]


def _lines_of(text: str, start: str) -> str:
    """Return the line of the table, or the paragraph, that starts with `start`."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(start))
    rest = lines[first + 1 :]
    last = next((number for number, line in enumerate(rest) if line[:1] != " "), len(rest))
    return " ".join(line.strip() for line in [lines[first], *rest[:last]])


def _cells(text: str, start: str) -> list[str]:
    return [cell for cell in _lines_of(text, start).split("  ") if cell.strip()]


@pytest.fixture
def compared(make_result: Make, make_trial: Make) -> Any:
    rates = {
        "none": (400_000.0, 400_000.0),
        "uffd": (100_000.0, 112_345.0),
        "uffd,uffds=per-vcpu": (150_000.0, 168_000.0),
        "exit,uffds=per-vcpu": (142_000.0, 146_049.0),
    }
    return make_result(
        *(make_trial(name, at + 1, rates[name][at]) for at in range(2) for name in rates)
    )


def test_a_row_shows_rounded_numbers_in_their_columns(compared: Any) -> None:
    cells = [cell.strip() for cell in _cells(format_table(read(compared), 99), "uffd  ")]
    assert cells == [
        "uffd", "106,200", "414.7", "1.00 (1.00-1.00)", "26.5%", "12.3 us", "1 ms", "2.5", "yes",
    ]  # fmt: skip


def test_a_ratio_shows_its_range_over_few_rounds_and_the_note_calls_it_one(compared: Any) -> None:
    text = " ".join(format_table(read(compared), 99).split())
    assert "1.36 (1.30-1.42)" in text
    assert "median (range of the 2 rounds, too few for an interval)." in text
    assert "[" not in text


def test_from_six_rounds_on_a_ratio_shows_its_interval(make_result: Make, make_trial: Make) -> None:
    trials = [make_trial("uffd", number) for number in range(1, 10)]
    trials += [make_trial("exit", number, 1000.0 * number) for number in range(1, 10)]
    text = format_table(read(make_result(*trials)), 99)
    assert "5.00 [2.00-8.00]" in text
    assert "median [95% interval] of 9 rounds." in text
    few = [trial for trial in trials if trial.pager == "uffd" or trial.round < 6]
    text = " ".join(format_table(read(make_result(*few)), 99).split())
    assert "3.00 (1.00-5.00)" in text
    assert "median [95% interval] of 9 rounds, or (range) of fewer than 6." in text


def test_at_80_columns_the_spread_and_the_other_unit_stand_below(compared: Any) -> None:
    lines = format_table(read(compared)).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("uffd "))
    assert lines[at].split() == [
        "uffd", "106,200", "1.00", "26.5%", "12.3", "us", "1", "ms", "2.5", "yes",
    ]  # fmt: skip
    assert lines[at + 1].split() == ["414.7", "(1.00-1.00)"]
    assert sum(line.startswith("---") for line in lines) == 1


def test_a_single_round_shows_a_ratio_without_spread(make_result: Make, make_trial: Make) -> None:
    text = format_table(read(make_result(make_trial("uffd"), make_trial("exit", 1, 1500.0))))
    assert " 1.50 " in text
    assert "[1.50" not in text
    assert "(1.50" not in text


def test_the_reference_is_the_whole_of_its_share(compared: Any) -> None:
    assert " 100% " in _lines_of(format_table(read(compared)), "none ")


def test_ratio_and_share_say_what_they_refer_to(compared: Any) -> None:
    text = format_table(read(compared))
    assert "ratio: to uffd, in the same round" in text
    assert "of none: to none, in the same round" in text


def test_work_and_host_are_named(compared: Any) -> None:
    text = format_table(read(compared))
    assert _lines_of(text, "work:") == (
        "work: 2 vCPUs x 64M = 128M of memory, sequential, write, 2 rounds"
    )
    assert _lines_of(text, "host:") == (
        "host: Linux 6.1.0-28-amd64, AMD EPYC 7B13, 8 CPUs allowed (0-7), paging npt"
    )


def test_unusual_work_is_named(make_result: Make, make_trial: Make) -> None:
    options = {
        "vcpus": 160, "mem_per_vcpu_bytes": 4 << 30, "touch_pages": 512, "order": "scattered",
        "access": "read", "overlap": False, "fetch_delay_ns": 200_000,
    }  # fmt: skip
    assert _lines_of(
        format_table(read(make_result(make_trial("uffd"), options=options))), "work:"
    ) == (
        "work: 160 vCPUs x 4G = 640G of memory, sparse: 512 of 1,048,576 pages of each part "
        "touched, scattered, read, fetch delay 200 us, 1 round"
    )


def test_overlap_shows_no_fault_times_and_says_why(make_result: Make, make_trial: Make) -> None:
    options = {"vcpus": 32, "mem_per_vcpu_bytes": 64 << 20, "overlap": True}
    text = format_table(read(make_result(make_trial("uffd"), options=options)))
    assert [cell.strip() for cell in _cells(text, "uffd  ")][5:7] == ["-", "-"]
    assert "32 vCPUs share 64M (overlap)" in text
    assert "most touches find the page there" in text


def test_a_guest_host_is_called_a_virtual_machine(make_result: Make, make_trial: Make) -> None:
    host = {"cpu": {"hypervisor": True}}
    text = format_table(read(make_result(make_trial("uffd"), host=host)))
    assert _lines_of(text, "host:") == (
        "host: kernel unknown, CPU unknown, paging unknown, itself a virtual machine"
    )


@pytest.mark.parametrize("host", [{}, {"cpu": None, "kernel": [], "kvm": "?"}])
def test_host_facts_may_be_absent_or_odd(make_result: Make, make_trial: Make, host: Any) -> None:
    assert "paging unknown" in format_table(read(make_result(make_trial("uffd"), host=host)))


def test_a_sigbus_row_is_called_a_pessimistic_stand_in(
    compared: Any, make_result: Make, make_trial: Make
) -> None:
    assert "exit(sigbus) is a pessimistic stand-in" in format_table(read(compared))
    assert "stand-in" not in format_table(read(make_result(make_trial("uffd"))))


def test_cold_memory_is_said_to_hold_zeros(compared: Any) -> None:
    text = format_table(read(compared), 99)
    assert _cells(text, "none ")[-1].strip() == "zeros"
    assert "can only hold zeros" in _lines_of(text, "verified zeros:")


def test_a_failed_row_shows_no_number_and_its_reason(make_result: Make, make_trial: Make) -> None:
    text = format_table(
        read(
            make_result(
                make_trial("uffd", 1), make_trial("exit", 1), make_trial("exit", 2, status="failed")
            )
        )
    )
    assert [cell.strip() for cell in _cells(text, "exit(sigbus) ")] == [
        "exit(sigbus)", *["-"] * 7, "FAILED",
    ]  # fmt: skip
    assert (
        "exit(sigbus) failed (1 of 2 trials): vcpu1: page 22 holds the wrong tag"
        in text.splitlines()
    )


def test_a_reason_is_told_once(make_result: Make, make_trial: Make) -> None:
    trials = [make_trial("uffd", number, status="failed") for number in range(4)]
    text = format_table(read(make_result(*trials)))
    assert text.count("wrong tag") == 1
    assert "(4 of 4 trials)" in text


def test_a_failed_baseline_is_named(make_result: Make, make_trial: Make) -> None:
    text = format_table(read(make_result(make_trial("uffd", status="failed"), make_trial("exit"))))
    assert "No ratios: uffd, which they would refer to, failed." in text


def test_an_unverified_row_says_no(make_result: Make, make_trial: Make) -> None:
    text = format_table(read(make_result(make_trial("uffd", verified=None))))
    assert _cells(text, "uffd  ")[-1].strip() == "no"


def test_an_unfinished_result_says_so(make_result: Make, make_trial: Make) -> None:
    text = format_table(
        read(make_result(make_trial("uffd", 0), pagers=("uffd", "x"), finished=False))
    )
    assert "UNFINISHED" in text
    assert "UNFINISHED" not in format_table(read(make_result(make_trial("uffd"))))


def test_a_result_without_a_trial_has_a_table(make_result: Make) -> None:
    text = format_table(read(make_result(pagers=("uffd", "exit"), finished=False)))
    assert "No trial was run." in text
    assert [cell.strip() for cell in _cells(text, "uffd  ")] == ["uffd", *["-"] * 8]
    assert format_table(read(make_result()))


def test_warnings_alike_are_told_once_and_warm_ups_not_at_all(
    make_result: Make, make_trial: Make
) -> None:
    drifts = [
        make_trial("uffd", n, warnings=(Caution("tsc", f"the TSC drifts by {n}.5%", "wait"),))
        for n in range(4)
    ]
    result = make_result(*drifts, warnings=(Caution("ksm", "KSM runs\n ", "stop it"),))
    assert format_warnings(read(result), 99) == [
        "warning: uffd: the TSC drifts by 1.5% (the worst; so or similar in 3 trials); wait",
        "warning: KSM runs  ; stop it",
    ]
    assert "drifts" not in format_table(read(result))


@pytest.mark.parametrize("room", [40, 60, 80, 99])
def test_warnings_are_as_wide_as_there_is_room_and_hang(
    make_result: Make, make_trial: Make, room: int
) -> None:
    given = [Caution(f"c{n}", f"{n} " + "what was found " * 9, "remedy " * 9) for n in range(3)]
    trials = [make_trial("uffd", n) for n in (1, 2, 3)]
    warnings = format_warnings(read(make_result(*trials, warnings=tuple(given))), room)
    assert len(warnings) == 3
    for warning in warnings:
        first, *others = warning.splitlines()
        assert max(map(len, (first, *others))) <= room
        assert first.startswith("warning: ")
        assert others
        assert all(line.startswith("  ") for line in others)


def test_what_is_always_so_on_a_host_is_one_line_the_last(
    make_result: Make, make_trial: Make
) -> None:
    always = [Caution(f"c{n}", f"fact {n}", "no remedy", kind=HOST) for n in range(3)]
    given = (always[0], Caution("swap", "swap is on", "swapoff -a"), *always[1:])
    trials = [make_trial("uffd", n) for n in (1, 2, 3)]
    assert format_warnings(read(make_result(*trials, warnings=given))) == [
        "warning: swap is on; swapoff -a",
        "warning: this host, always: fact 0; fact 1; fact 2",
    ]


def test_text_from_a_file_cannot_steer_the_terminal(make_result: Make, make_trial: Make) -> None:
    trial = make_trial("uffd", label="uffd\x1b[2J\nx", warnings=(Caution("x", "\x9b1A", "\udc80"),))
    text = format_table(read(make_result(trial, host={"cpu": {"model": "\x1b]0;gone\x07"}})))
    assert all(letter == "\n" or letter.isprintable() for letter in text)


def test_a_wrapped_label_keeps_its_options_whole(make_result: Make, make_trial: Make) -> None:
    spec = "uffd,readers=4,uffds=per-vcpu,fetch=blocking"
    trials = [make_trial(spec, number, 1_234_567.0) for number in (1, 2)]
    text = format_table(read(make_result(*trials)))
    for part in spec.split(","):
        assert part in text
    assert "1,235,000" in text


@pytest.mark.parametrize("value", [1e-9, 0.000_123_4, 0.0, 999.96, 9_999.6, 123_456_789.0, 1e300])
@pytest.mark.parametrize("label", ["uffd", "x" * 300, "exit(sigbus)," + "uffds=per-vcpu," * 9])
def test_every_line_fits_80_columns(
    make_result: Make, make_trial: Make, value: float, label: str
) -> None:
    names = ("pages_per_s", "mib_per_s", "cpu_s_per_gib", "fault_p50_ns", "fault_p99_ns")
    metrics = dict.fromkeys(names, value)
    trials = [make_trial(name, at) for name in ("none", "uffd") for at in (1, 2)]
    odd = [make_trial("odd", at, metrics=metrics, label=label) for at in (1, 2)]
    failed = make_trial("bad", status="failed", error="no room: " + "y" * 300)
    caution = Caution("z", "z " * 300, "z")
    text = format_table(read(make_result(*trials, *odd, failed, warnings=(caution,))))
    assert max(map(len, text.splitlines())) <= MAX_COLUMNS == 80
    assert "e+0" not in text.replace("1e+0", "") or value >= 1e8


def test_numbers_of_a_large_host_keep_their_spread(make_result: Make, make_trial: Make) -> None:
    trials = [
        make_trial(name, at, rate * (1 + at / 50))
        for at in (1, 2, 3)
        for name, rate in (("none", 12_345_678.0), ("uffd", 345_678.0), ("exit", 4_567_890.0))
    ]
    assert "13.2 (13.2-13.2)" in format_table(read(make_result(*trials)), 99)
    assert "(13.2-13.2)" in format_table(read(make_result(*trials)))


def _fastest(result: Result) -> str:
    """Return what is said of the fastest below the table, and see that the mail says the same."""
    reading = read(result)
    (said,) = (note for note in notes_of(reading) if note.startswith("fastest"))
    assert said in " ".join(format_mail(reading).split())
    return said


def test_the_fastest_pager_is_named_where_it_is_shown(make_result: Make, make_trial: Make) -> None:
    def rounds(*rates: tuple[str, float], count: int) -> Result:
        return make_result(  # type: ignore[no-any-return]
            *(make_trial(name, n, rate + n) for n in range(1, count + 1) for name, rate in rates)
        )

    two = (("none", 9000.0), ("uffd", 1000.0), ("exit", 2000.0))
    assert _fastest(rounds(*two, count=6)) == "fastest: exit(sigbus), in 6 of 6 rounds."
    assert _fastest(rounds(*two, count=5)) == (
        "fastest: not shown, as 5 rounds can name none; 6 could."
    )
    tied = (*two, ("exit,uffds=per-vcpu", 2000.0))
    assert _fastest(rounds(*tied, count=6)) == "fastest: every exit, in 6 of 6 rounds."
    assert _fastest(rounds(("uffd", 2000.0), ("exit", 2000.0), count=6)) == (
        "fastest: not shown, as uffd led in 0 of 6 rounds only."
    )
    alone = notes_of(read(rounds(*two[:2], count=6)))
    assert not any(note.startswith("fastest") for note in alone)


def test_the_fastest_of_each_point_is_named_and_the_page_says_the_same() -> None:
    for rounds, said in (
        (8, "fastest: not shown, as 8 rounds can name none of so many; 9 could (vcpus=1, "),
        (9, "fastest: exit(sigbus), in 9 of 9 rounds (vcpus=1, "),
    ):
        result = sweep(pagers=("none", "uffd", "exit"), rounds=rounds)
        assert _fastest(result).startswith(said)
        wording = answer_in_words(panels_of(result)[0], contests_of(points_of(result)))
        assert ("is the fastest pager" in wording.lead) == ("not shown" not in said)
