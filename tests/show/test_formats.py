"""CSV, JSON, Markdown and KTAP of results and checks: their grammar, and what they must hold."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kvmpc.caution import HOST, Caution
from kvmpc.judge.criteria import Criteria
from kvmpc.judge.reading import read
from kvmpc.judge.regression import check
from kvmpc.judge.told import tell, worst
from kvmpc.result.records import FEWEST_SAMPLES, PROFILED, Point, Profile, Skip
from kvmpc.show.formats import KINDS, format_check, format_result
from kvmpc.show.mail import MAIL_COLUMNS
from kvmpc.show.row_fields import run_fields
from kvmpc.show.table import MAX_COLUMNS

Make = Callable[..., Any]

TEST_LINE = re.compile(r"(ok|not ok) (\d+) ([^#]+?)( # SKIP (.+))?")


def _tests(text: str) -> list[tuple[str, str, str | None]]:
    """Return (ok, name, skip) of each test, having checked the grammar of the whole."""
    version, plan, *lines = text.splitlines()
    assert text.endswith("\n")
    assert version == "KTAP version 1"
    found = []
    for line in lines:
        if line.startswith("#"):
            assert line.startswith("# ")
            assert not line.startswith("# Subtest")
            continue
        match = TEST_LINE.fullmatch(line)
        assert match, line
        assert int(match[2]) == len(found) + 1
        found.append((match[1], match[3], match[5]))
    assert plan == f"1..{len(found)}"
    assert not lines or not lines[-1].startswith("#"), "nothing is read after the last test"
    return found


@pytest.fixture
def swept(make_result: Make, make_trial: Make) -> Any:
    """Return a sweep of two points: one whole, one with a failed and a skipped pager."""
    trials = [
        make_trial(name, number, rate * number, point=point)
        for point in (0, 1)
        for number in (1, 2, 3)
        for name, rate in (("none", 3e5), ("uffd", 1e5))
    ]
    trials.append(make_trial("exit", 1, 2e5, point=0))
    trials.append(make_trial("uffd", 4, point=1, status="failed", error="wrong # tag\x1b[2J"))
    pagers = ("none", "uffd", "exit")
    return make_result(
        *trials,
        pagers=pagers,
        labels=("none", "uffd", "exit(sigbus)"),
        points=tuple(Point(options={"vcpus": n}, pagers=pagers) for n in (2, 160)),
        skipped=(Skip(point=1, pager="exit", reason="not enough memory"),),
    )


@pytest.fixture
def checked(make_result: Make, make_trial: Make) -> Any:
    """Return a check with every kind of verdict."""

    def side(**rates: float) -> Any:
        return make_result(
            *(
                make_trial(name, number, rate * (1 + number / 1000))
                for number in range(1, 11)
                for name, rate in rates.items()
            )
        )

    old = side(none=3e5, uffd=1e5, exit=2e5, gone=1.0)
    new = side(none=4e5, uffd=8e4, exit=2e5, new=1.0)
    failed = make_trial("exit", 11, status="failed")
    return check([old], [replace(new, trials=(*new.trials, failed))])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ends_in_one_newline_and_is_safe_to_print(
    swept: Any, checked: Any, make_result: Make, kind: str
) -> None:
    for text in (
        format_result(read(swept), kind),
        format_check(checked, kind),
        format_result(read(make_result()), kind),
    ):
        assert text == "" or text.endswith("\n")
        assert all(letter == "\n" or letter.isprintable() for letter in text)


def test_a_result_in_ktap_and_json_says_what_weakens_it(
    make_result: Make, make_trial: Make
) -> None:
    late = [
        make_trial("uffd", n, warnings=(Caution("start-skew", f"late # {n}", "wait", size=n),))
        for n in (1, 2, 3)
    ]
    always = Caution("nested-host", "it is a VM", "none", kind=HOST)
    reading = read(make_result(*late, warnings=(always,)))
    assert format_result(reading, "ktap").splitlines()[1:4] == [
        "1..1",
        "# warning: uffd: late ? 3 (the worst; so or similar in 3 trials); wait",
        "# warning: this host, always: it is a VM",
    ]
    worst, host = json.loads(format_result(reading, "json"))["warnings"]
    assert worst == {
        "code": "start-skew", "text": "late # 3", "remedy": "wait", "kind": "run", "size": 3,
        "where": "uffd", "times": 3, "times_of": "trial",
    }  # fmt: skip
    assert (host["kind"], host["where"], host["times"]) == ("host", None, 1)


def test_an_unknown_kind_is_a_defect(swept: Any, checked: Any) -> None:
    with pytest.raises(ValueError, match="xml"):
        format_result(read(swept), "xml")
    with pytest.raises(ValueError, match="xml"):
        format_check(checked, "xml")


# Results.


def test_ktap_has_a_test_for_each_pager_at_each_point(swept: Any) -> None:
    text = format_result(read(swept), "ktap")
    assert _tests(text) == [
        ("ok", "vcpus=2: none", None),
        ("ok", "vcpus=2: uffd", None),
        ("ok", "vcpus=2: exit(sigbus)", None),
        ("ok", "vcpus=160: none", None),
        ("not ok", "vcpus=160: uffd", None),
        ("ok", "vcpus=160: exit(sigbus)", "not enough memory"),
    ]
    assert "# vcpus=160: uffd: 1 of 4 trials failed: wrong ? tag?[2J" in text.splitlines()
    assert "# vcpus=2: uffd: 200,000 pages/s, ratio 1.00 (range 1.00-1.00), 3 rounds" in text


def test_ktap_calls_a_row_that_was_not_verified_not_ok(make_result: Make, make_trial: Make) -> None:
    result = make_result(make_trial("uffd", verified=None), make_trial("exit", 0))
    assert _tests(format_result(read(result), "ktap")) == [
        ("not ok", "uffd", None),
        ("ok", "exit(sigbus)", "no round was measured"),
    ]


def test_ktap_of_nothing_has_an_empty_plan(make_result: Make) -> None:
    assert format_result(read(make_result()), "ktap") == "KTAP version 1\n1..0\n"


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_row_for_each_pager_at_each_point_and_empty_cells_for_what_is_absent(
    swept: Any,
) -> None:
    rows = _rows(format_result(read(swept), "csv"))
    assert [(row["vcpus"], row["label"], row["verified"]) for row in rows] == [
        ("2", "none", "zeros"),
        ("2", "uffd", "yes"),
        ("2", "exit(sigbus)", "yes"),
        ("160", "none", "zeros"),
        ("160", "uffd", "FAILED"),
        ("160", "exit(sigbus)", "skipped"),
    ]
    assert rows[1]["pages_per_s"] == "200000.0"
    assert (rows[1]["pages_per_s_low"], rows[1]["pages_per_s_high"]) == ("100000.0", "300000.0")
    assert (rows[1]["pages_per_s_spread"], rows[1]["pages_per_s_coverage"]) == ("range", "")
    assert rows[1]["touch_pages"] == ""
    assert (rows[4]["pages_per_s"], rows[4]["ratio"], rows[4]["failed_trials"]) == ("", "", "1")
    assert rows[5]["reason"] == "not enough memory"


@pytest.mark.parametrize(
    ("rounds", "spread", "coverage"),
    [(1, "range", None), (5, "range", None), (6, "interval", 0.96875), (9, "interval", 0.9609375)],
)
def test_machines_are_told_what_low_and_high_are(
    make_result: Make, make_trial: Make, rounds: int, spread: str, coverage: float | None
) -> None:
    trials = [
        make_trial(name, number, 1000.0 + number)
        for number in range(1, rounds + 1)
        for name in ("uffd", "exit")
    ]
    _, row = json.loads(format_result(read(make_result(*trials)), "json"))["rows"]
    for name in ("pages_per_s", "ratio", "fault_p50_ns", "fault_p99_ns"):
        assert (row[f"{name}_spread"], row[f"{name}_coverage"]) == (spread, coverage)
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_json_has_the_same_rows_and_says_what_it_is(swept: Any) -> None:
    document = json.loads(format_result(read(swept), "json"))
    assert (document["schema"], document["version"]) == ("kvmpc-rows", 1)
    as_csv = _rows(format_result(read(swept), "csv"))
    assert list(document["rows"][0]) == list(as_csv[0])
    assert document["rows"][4]["pages_per_s"] is None
    assert {"unsteady"} == {warning["code"] for warning in document["warnings"]}


def test_rows_of_two_kernels_can_be_told_apart(make_result: Make, make_trial: Make) -> None:
    def rows(release: str, started: str) -> list[dict[str, str]]:
        host = {"hostname": "lab1", "kernel": {"release": release}, "cpu": {"model": "EPYC"}}
        late = Caution("start-skew", "late", "wait", size=0.1)
        trials = [make_trial("uffd", n, warnings=(late,)) for n in (1, 2, 3)]
        result = make_result(
            *trials, make_trial("exit"), host=host, started=started, tool_version="0.9",
            options={"pinned": True, "vcpus": 2},
        )  # fmt: skip
        return _rows(format_result(read(result), "csv"))

    old = rows("6.1", "2026-01-02T03:04:05+00:00")
    both = [*old, *rows("6.12", "2026-02-02T03:04:05+00:00")]
    assert [(row["kernel"], row["label"]) for row in both] == [
        ("6.1", "uffd"), ("6.1", "exit(sigbus)"), ("6.12", "uffd"), ("6.12", "exit(sigbus)"),
    ]  # fmt: skip
    assert len({row["started"] for row in both}) == 2
    assert (old[0]["hostname"], old[0]["cpu"], old[0]["kvmpc"]) == ("lab1", "EPYC", "0.9")
    assert (old[0]["pinned"], old[0]["overlap"]) == ("true", "false")
    assert (old[0]["cautions"], old[1]["cautions"]) == ("start-skew", "")


@pytest.mark.parametrize("host", [{}, {"kernel": 3, "cpu": None, "hostname": []}])
def test_a_run_whose_host_is_not_known_has_empty_cells(
    make_result: Make, make_trial: Make, host: Any
) -> None:
    reading = read(make_result(make_trial("uffd"), host=host))
    (row,) = _rows(format_result(reading, "csv"))
    assert (row["hostname"], row["kernel"], row["cpu"]) == ("", "", "")
    assert json.loads(format_result(reading, "json"))["kernel"] is None


def test_a_row_has_its_split_its_installs_and_its_profile(
    make_result: Make, make_trial: Make
) -> None:
    metrics = {"install_ns_per_page": 700.0, "noticed_p50_ns": 5000.0, "back_p99_ns": 90.0}
    profile = Profile(
        event="cycles", frequency_hz=999, samples=1000, modes={"guest": 0.1, "kernel": 0.9},
        roles={}, spin={"userfaultfd": 0.25, "mmu_lock": 0.125}, irqs_off={}, top={},
    )  # fmt: skip
    reading = read(
        make_result(
            make_trial("uffd", metrics={"pages_per_s": 1000.0, **metrics}),
            make_trial("uffd", PROFILED, profile=profile),
            make_trial("exit"),
        )
    )
    uffd, other = json.loads(format_result(reading, "json"))["rows"]
    assert {name: uffd[name] for name in metrics} == metrics
    found = {name: value for name, value in uffd.items() if name.startswith("profile_")}
    assert found == {
        "profile_event": "cycles", "profile_samples": 1000, "profile_guest_share": 0.1,
        "profile_kernel_share": 0.9, "profile_user_share": 0.0, "profile_spin_share": 0.375,
        "profile_spin_userfaultfd_share": 0.25, "profile_spin_mmu_lock_share": 0.125,
        "profile_spin_mmap_vma_share": None, "profile_spin_page_allocator_share": None,
        "profile_spin_other_share": None, "profile_irqs_off_share": None,
        "profile_spin_run_queue_share": None,
    }  # fmt: skip
    assert {other[name] for name in found} == {None}


def test_a_profile_of_too_few_samples_has_no_share_in_a_row(
    make_result: Make, make_trial: Make
) -> None:
    profile = Profile(
        event="cycles", frequency_hz=999, samples=FEWEST_SAMPLES - 1, modes={"kernel": 1.0},
        roles={}, spin={"userfaultfd": 0.25}, irqs_off={"mmu_lock": 0.1}, top={},
    )  # fmt: skip
    trials = [make_trial("uffd"), make_trial("uffd", PROFILED, profile=profile)]
    (row,) = json.loads(format_result(read(make_result(*trials)), "json"))["rows"]
    assert row["profile_samples"] == FEWEST_SAMPLES - 1
    shares = [name for name in row if name.startswith("profile_") and name.endswith("_share")]
    assert {row[name] for name in shares} == {None}


def test_markdown_has_a_table_for_each_point(swept: Any) -> None:
    text = format_result(read(swept), "markdown")
    assert text.count("| pager |") == 2
    assert "**vcpus=160**" in text
    assert "| uffd | - | - |" in text
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_a_table_of_points_names_them_and_tells_notes_once(swept: Any) -> None:
    text = format_result(read(swept), "table")
    lines = text.splitlines()
    assert lines.index("vcpus=2") < lines.index("vcpus=160")
    assert text.count("ratio: to uffd") == 1
    assert "No ratios at vcpus=160: uffd" in text
    assert "uffd failed at vcpus=160 (1 of 4 trials): wrong # tag?[2J" in text
    assert "skipped exit(sigbus) at vcpus=160: not enough memory" in text
    assert "work: 2 points, 64M of memory a vCPU, sequential, write, 4 rounds" in text
    assert max(map(len, lines)) <= MAX_COLUMNS
    # Columns of all points stand below each other.
    assert len({line.index("zeros" if "zeros" in line else "yes") for line in lines
                if line.startswith(("none ", "exit(")) and line.endswith("yes")}) == 1  # fmt: skip


# Checks.


def test_ktap_of_a_check_has_not_ok_for_what_turned_red(checked: Any) -> None:
    text = format_check(checked, "ktap")
    tests = {name: (ok, skip) for ok, name, skip in _tests(text)}
    assert tests["uffd: rate"] == ("not ok", None)
    assert tests["exit(sigbus)"] == ("not ok", None)
    assert tests["none: rate"] == ("ok", None)
    assert tests["gone"] == ("not ok", None)
    assert "# gone: missing: not in the result" in text.splitlines()
    assert tests["new"] == ("ok", "not compared: not in the baseline")
    assert re.search(r"^# uffd: rate: worse: 100,500 to 80,440, -20.0% \[", text, re.MULTILINE)


def test_the_table_of_a_check_begins_with_what_turned_red(checked: Any) -> None:
    text = format_check(checked, "table")
    lines = text.splitlines()
    rows = [line.split() for line in lines[2:] if line and not line.startswith(" ")]
    assert [row[0] for row in rows[:4]] == ["WORSE", "MISSING", "FAILED", "better"]
    assert [row[1] for row in rows[:4]] == ["uffd", "gone", "exit(sigbus)", "none"]
    assert "REGRESSION: 1 worse, 1 missing, 1 failed, 1 better, 4 same." in text
    assert "failed: exit(sigbus): 1 of 11 trials failed: vcpu1: page 22 holds" in text
    assert "missing: gone: not in the result" in text
    assert "not compared: new: not in the baseline" in text
    assert max(map(len, lines)) <= MAX_COLUMNS


def test_a_check_says_of_which_runs_it_is(checked: Any) -> None:
    document = json.loads(format_check(checked, "json"))
    rows = _rows(format_check(checked, "csv"))
    for side, runs in (("baseline", checked.baseline), ("new", checked.new)):
        (told,) = document[f"{side}_runs"]
        assert {name: told[name] for name in run_fields(runs[0])} == run_fields(runs[0])
        assert told["cautions"] == [each.code for each in tell(runs)]
        for row in rows:
            assert row[f"{side}_kernel"] == told["kernel"]
            assert row[f"{side}_started"] == told["started"]
            assert row[f"{side}_kvmpc"] == told["kvmpc"]


def test_the_mail_of_a_check_has_the_host_the_command_and_the_doubts(checked: Any) -> None:
    text = format_check(checked, "mail")
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= MAIL_COLUMNS
    whole = " ".join(text.split())
    assert f"kvmpc {checked.new[0].tool_version} check: " in whole
    assert f"Linux {checked.new[0].host['kernel']['release']}" in whole
    assert f"command: {' '.join(checked.new[0].command)}" in whole
    for told in worst(checked.new, 2):
        assert f"doubt: {told.text}" in whole


def test_json_and_csv_of_a_check_hold_every_number(checked: Any) -> None:
    document = json.loads(format_check(checked, "json"))
    assert (document["schema"], document["version"]) == ("kvmpc-check", 2)
    assert document["status"] == "worse"
    assert document["rows"][0]["verdict"] == "worse"
    assert document["rows"][0]["change"] == pytest.approx(-0.2, abs=0.001)
    assert document["rows"][0]["p_worse"] < document["rows"][0]["adjusted_worse"] <= 0.01
    assert document["rows"][0]["sees"] == pytest.approx(-0.06, abs=0.01)
    assert document["rows"][1]["change"] is None
    rows = _rows(format_check(checked, "csv"))
    assert [row["verdict"] for row in rows] == [row["verdict"] for row in document["rows"]]
    assert list(rows[0]) == list(document["rows"][0])
    assert rows[1]["change"] == ""


def test_a_long_point_and_label_fit_the_table(make_result: Make, make_trial: Make) -> None:
    spec = "uffd,readers=4,uffds=per-vcpu,fetch=blocking"
    pagers = (spec,)
    points = tuple(
        Point(options={"vcpus": n, "mem_per_vcpu_bytes": n << 30, "order": f"order{n}",
                       "fetch_delay_ns": 1000 * n}, pagers=pagers)
        for n in (100, 160)
    )  # fmt: skip
    result = make_result(
        *(make_trial(spec, number, 1e9 * number**3, point=at)
          for number in range(1, 11) for at in (0, 1)),
        points=points,
        pagers=pagers,
        labels=pagers,
    )  # fmt: skip
    slower = [replace(t, metrics={**t.metrics, "pages_per_s": t.metrics["pages_per_s"] / 30})
              for t in result.trials]  # fmt: skip
    red = replace(result, trials=tuple(slower))
    for text in (
        format_check(check([result], [red], Criteria()), "table"),
        format_check(check([red], [result], Criteria()), "table"),
        format_check(check([result], [result], Criteria()), "table"),
        format_result(read(result), "table"),
    ):
        assert max(map(len, text.splitlines())) <= MAX_COLUMNS
