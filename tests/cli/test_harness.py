"""What harnesses read: exit codes in their conventions, documents that are whole, README's recipes.

What the recipes call but kvmpc (`ssh`, `build-and-boot`, `lava-test-case`) is a line of shell here.
"""

from __future__ import annotations

import json
import re
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from kvmpc.exit_codes import CONVENTIONS
from kvmpc.judge.criteria import DEFAULT_ALPHA, JUDGED
from kvmpc.judge.resampling import sizes_needed
from tests.fakes.recipes import CASES, STAND_IN, Lab, recipe

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()

NO_SUCH_HOST = ("compare", "--vcpus", "1000000", "--mem-per-vcpu", "92K")
"""More vCPUs than any KVM allows; without KVM, this host cannot either."""


@pytest.fixture
def lab(kvmpc: Any) -> Lab:
    """Make a lab of the test's folder."""
    return Lab(kvmpc.folder)


# Exit codes.

ENDS: dict[int, tuple[str, ...]] = {
    0: ("check", "same.json", "--against", "before.json"),
    1: ("check", "slower.json", "--against", "before.json"),
    2: ("check", "missing.json", "--against", "before.json"),
    3: NO_SUCH_HOST,
    4: ("check", "failed.json", "--against", "before.json"),
    5: ("check", "noisy.json", "--against", "before.json"),
}
EXPECTED = {
    "kselftest": {0: 0, 1: 1, 2: 1, 3: 4, 4: 1, 5: 4, 130: 1},
    "bisect": {0: 0, 1: 1, 2: 125, 3: 125, 4: 125, 5: 125, 130: 130},
    "automake": {0: 0, 1: 1, 2: 99, 3: 77, 4: 1, 5: 77, 130: 99},
}
"""As the harnesses document them."""


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("how", ["option", "environment"])
@pytest.mark.parametrize("convention", EXPECTED)
@pytest.mark.parametrize("own", ENDS)
def test_each_end_has_the_exit_code_of_the_convention(kvmpc, own, convention, how):
    assert kvmpc(*ENDS[own]).code == own
    if how == "option":
        finished = kvmpc("--exit-codes", convention, *ENDS[own])
    else:
        finished = kvmpc(*ENDS[own], env={"KVMPC_EXIT_CODES": convention})
    assert finished.code == EXPECTED[convention][own]


def test_readme_has_the_conventions_as_they_are():
    rows = re.findall(r"^\| `(\w+)`[^|]*\|(.+)\|$", README, re.MULTILINE)
    told = {
        name: dict(zip((0, 1, 2, 3, 4, 5, 130), map(int, re.findall(r"\d+", cells)), strict=True))
        for name, cells in rows
        if name in CONVENTIONS
    }
    assert told == CONVENTIONS == EXPECTED


@pytest.mark.parametrize("convention", EXPECTED)
@pytest.mark.parametrize(
    "arguments", [("check",), ("show", "--bogus"), ("nothing",), ("--bogus", "probe"), ()], ids=str
)
def test_what_cannot_even_be_read_has_the_convention_too(kvmpc, arguments, convention):
    expected = EXPECTED[convention][2]
    assert kvmpc("--exit-codes", convention, *arguments).code == expected
    assert kvmpc(f"--exit-codes={convention}", *arguments).code == expected
    assert kvmpc(*arguments, env={"KVMPC_EXIT_CODES": convention}).code == expected


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_convention_that_is_not_known_is_named_with_those_that_are(kvmpc, how):
    if how == "option":
        finished = kvmpc("--exit-codes", "tap", "probe")
    else:
        finished = kvmpc("probe", env={"KVMPC_EXIT_CODES": "tap"})
        assert "KVMPC_EXIT_CODES" in finished.error
    assert finished.code == 2
    for word in ("tap", *CONVENTIONS):
        assert word in finished.error


@pytest.mark.usefixtures("lab")
def test_an_empty_convention_is_none(kvmpc):
    assert kvmpc(*ENDS[2], env={"KVMPC_EXIT_CODES": ""}).code == 2


@pytest.mark.kvm
@pytest.mark.parametrize("convention", EXPECTED)
def test_a_stopped_run_has_the_exit_code_of_the_convention(kvmpc, convention):
    assert _stopped(kvmpc, "--exit-codes", convention).code == EXPECTED[convention][130]


# Documents.


def _stopped(kvmpc: Any, *before: str, options: tuple[str, ...] = ()) -> Any:
    process = kvmpc.start(
        *before, "compare", "none", "uffd", "--vcpus", "3", "--mem-per-vcpu", "3988K",
        "--rounds", "1000", "--warmup", "0", "--json", str(kvmpc.json), *options,
    )  # fmt: skip
    kvmpc.wait_for_json(process)
    process.send(signal.SIGTERM)
    return process.finish()


def _records(text: str) -> list[dict[str, Any]]:
    """Return the records of tmt's YAML: a line of JSON each."""
    assert all(line.startswith("- ") for line in text.splitlines()), text
    return [json.loads(line[2:]) for line in text.splitlines()]


ERRORS = {
    "a file that is not there": ("check", "missing.json", "--against", "before.json"),
    "a baseline that is not there": ("check", "same.json", "--against", "nothing"),
    "another host's options": ("check", "same.json", "--against", "before.json", "--limit", "x=1"),
    "a run that did not finish": ("check", "unfinished.json", "--against", "before.json"),
    "an option that is not there": ("show", "same.json", "--bogus"),
    "an option's value": ("compare", "--rounds", "many"),
    "a pager that is not there": ("compare", "nothing"),
    "an argument that is missing": ("show",),
    "a command that is not there": ("nothing",),
    "a command without formats": ("probe",),
    "a spec that is not there": ("sweep", "missing.toml"),
}


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("arguments", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("spelling", [("--format", "ktap"), ("--format=ktap",)], ids=len)
def test_an_error_is_a_whole_document_of_ktap_that_bails_out(kvmpc, arguments, spelling):
    finished = kvmpc(*arguments, *spelling)
    assert finished.code == 2
    version, plan, why, failed, bail_out = finished.stdout.splitlines()
    assert (version, plan, failed) == ("KTAP version 1", "1..1", "not ok 1 kvmpc")
    reason = bail_out.removeprefix("Bail out! ")
    assert reason != bail_out
    assert why == f"# kvmpc: {reason}"
    assert "#" not in reason
    assert reason.split(";")[0].split(".")[0] in finished.error


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("arguments", ERRORS.values(), ids=ERRORS)
def test_an_error_is_a_record_of_tmt(kvmpc, arguments):
    finished = kvmpc(*arguments, "--format", "tmt")
    assert finished.code == 2
    (record,) = _records(finished.stdout)
    assert (record["name"], record["result"]) == ("/kvmpc", "error")
    assert record["note"][0].split(";")[0].split(".")[0] in finished.error


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("arguments", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("kind", ["table", "csv", "json"])
def test_an_error_is_told_on_stderr_alone_where_no_runner_reads(kvmpc, arguments, kind):
    finished = kvmpc(*arguments, "--format", kind)
    assert (finished.code, finished.stdout) == (2, "")


def test_a_host_that_cannot_is_skipped_with_the_reason(kvmpc):
    finished = kvmpc(*NO_SUCH_HOST, "--format", "ktap")
    assert finished.code == 3
    version, plan = finished.stdout.splitlines()
    assert version == "KTAP version 1"
    assert plan.startswith("1..0 # SKIP ")
    assert "remedy: " in plan
    (record,) = _records(kvmpc(*NO_SUCH_HOST, "--format", "tmt").stdout)
    assert record["result"] == "skip"
    assert "remedy: " in record["note"][0]


def test_a_library_that_is_another_is_skipped_with_its_place(kvmpc):
    (kvmpc.folder / "tomllib.py").write_text("")
    (kvmpc.folder / "sweep.toml").write_text("vcpus = 1\n")
    environment = {"PYTHONPATH": str(kvmpc.folder)}
    finished = kvmpc("sweep", "sweep.toml", "--format", "ktap", env=environment)
    assert finished.code == 3
    assert finished.stdout.startswith("KTAP version 1\n1..0 # SKIP ")
    assert str(kvmpc.folder / "tomllib.py") in finished.stdout


def test_where_json_has_stdout_the_document_is_on_stderr(kvmpc):
    finished = kvmpc(*NO_SUCH_HOST, "--format", "ktap", "--json", "-")
    assert finished.stdout == ""
    assert "KTAP version 1\n1..0 # SKIP " in finished.stderr


def test_words_behind_two_dashes_are_no_options(kvmpc):
    finished = kvmpc("show", "--", "--format", "ktap")
    assert (finished.code, finished.stdout) == (2, "")


@pytest.mark.kvm
def test_a_stopped_run_prints_what_it_has_and_bails_out(kvmpc):
    finished = _stopped(kvmpc, options=("--format", "ktap"))
    assert finished.code == 130
    version, plan, *lines, last, bail_out = finished.stdout.splitlines()
    assert (version, plan) == ("KTAP version 1", "1..3")
    assert finished.stdout.count("KTAP version 1") == 1
    assert [line for line in lines if re.match("(not )?ok 1 ", line)]
    assert last == "not ok 3 finished"
    assert bail_out == "Bail out! stopped by SIGTERM"
    shown = kvmpc("show", str(kvmpc.json), "--format", "ktap").stdout
    assert finished.stdout.removesuffix(f"{bail_out}\n") == shown


@pytest.mark.kvm
def test_a_stopped_run_has_its_end_as_one_more_record_of_tmt(kvmpc):
    records = _records(_stopped(kvmpc, options=("--format", "tmt")).stdout)
    assert [(record["name"], record["result"]) for record in records[-2:]] == [
        ("/finished", "error"), ("/kvmpc", "error"),
    ]  # fmt: skip
    assert records[-1]["note"] == ["stopped by SIGTERM"]


@pytest.mark.kvm
def test_a_finished_run_has_no_end_but_its_last_test(kvmpc, tiny):
    finished = kvmpc("compare", "none", "uffd", *tiny, "--format", "ktap")
    assert finished.code == 0
    assert finished.stdout.splitlines()[-1] == "ok 2 uffd"
    records = _records(kvmpc("compare", "none", "uffd", *tiny, "--format", "tmt").stdout)
    assert [record["result"] for record in records] == ["pass", "pass"]
    assert "pages/s" in records[1]["note"][0]


# Runs that did not finish.


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("new", "against", "side"),
    [("unfinished", "before", "the result"), ("same", "unfinished", "the baseline")],
)
def test_a_run_that_did_not_finish_is_judged_only_where_that_is_allowed(kvmpc, new, against, side):
    arguments = ("check", f"{new}.json", "--against", f"{against}.json")
    refused = kvmpc(*arguments)
    assert (refused.code, refused.stdout) == (2, "")
    assert f"a run of {side} did not finish (30 trials were run)" in refused.error
    assert "--allow-unfinished" in refused.error
    allowed = kvmpc(*arguments, "--allow-unfinished")
    assert allowed.code == 0
    assert f"warning: a run of {side} did not finish" in allowed.stderr


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(("kind", "mark"), [
    ("table", "UNFINISHED"), ("markdown", "UNFINISHED"), ("json", '"finished": false'),
    ("ktap", "not ok 4 finished"), ("tmt", '"/finished", "result": "error"'),
])  # fmt: skip
def test_every_format_marks_a_run_that_did_not_finish(kvmpc, kind, mark):
    assert mark in kvmpc("show", "unfinished.json", "--format", kind).stdout
    assert mark not in kvmpc("show", "same.json", "--format", kind).stdout


# README's recipes.


@pytest.mark.parametrize(("name", "case", "code"), [
    ("check", "same", 0), ("check", "slower", 1), ("check", "noisy", 5),
    ("runs", "same", 0), ("runs", "slower", 1),
])  # fmt: skip
def test_two_kernels_are_compared_as_readme_says(lab, name, case, code):
    # The kernel before is the same whatever the one after is.
    lines = recipe(name).splitlines()
    (before,) = [line for line in lines if "on the kernel before" in line]
    (after,) = [line for line in lines if "on the kernel after" in line]
    last = [line for line in lines if line not in (before, after)]
    for measured, script in (("same", before), (case, after)):
        assert lab.run(["sh", "-ec", script], measured).returncode == 0
    (lab.folder / "kept" / "before.json").unlink()
    done = lab.run(["sh", "-ec", "\n".join(last)], "")
    assert done.returncode == code, done.stdout + done.stderr


def test_readme_asks_for_as_many_runs_as_check_does():
    (told,) = re.findall(
        r"default five pagers \(15 tests\) need at\s+least (\d+) on each side", README
    )
    assert len(JUDGED) * 5 == 15
    assert int(told) == sizes_needed(DEFAULT_ALPHA / 15)
    assert f"kvmpc baseline save before-{told} old?.json" in recipe("runs")


# git bisect.


def _bisect(lab: Lab, case_of_bad: str, case_of_odd: str = "same") -> Any:
    """Bisect five commits: the third is odd, the last two are bad; return the run's end."""
    tree = lab.folder / "linux"
    tree.mkdir()
    # Boots a commit: what the machine then measures is what the commit's file says.
    lab.program(
        "build-and-boot",
        '#!/bin/sh\ncp case "$RESULTS/booted"; [ "$(cat case)" != unbuildable ]\n',
    )
    lab.program("ssh", '#!/bin/sh\nshift; exec "$@"\n')
    # check runs on this side, where a commit is nothing but a result; it, too, may be killed.
    lab.program("measuring", STAND_IN)
    lab.program("kvmpc", '#!/bin/sh\nCASE=$(cat "$RESULTS/booted") exec measuring "$@"\n')
    git = ["git", "-c", "user.name=lab", "-c", "user.email=lab@example.org"]
    assert lab.run([*git, "init", "-q"], "", tree).returncode == 0
    for number, case in enumerate(("same", "same", case_of_odd, case_of_bad, case_of_bad)):
        (tree / "case").write_text(case)
        (tree / "number").write_text(str(number))
        for command in (["add", "."], ["commit", "-qm", f"commit {number}"]):
            assert lab.run([*git, *command], "", tree).returncode == 0
    assert lab.run([*git, "bisect", "start", "HEAD", "HEAD~4"], "", tree).returncode == 0
    return lab.run(["sh", "-c", recipe("bisect")], "", tree)


def test_git_bisect_finds_the_commit_that_made_it_slower(lab):
    done = _bisect(lab, "slower")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is the first bad commit" in done.stdout
    assert "commit 3" in done.stdout


@pytest.mark.parametrize("odd", ["unbuildable", "noisy", "failed", "host", "usage", "killed"])
def test_git_bisect_skips_a_commit_that_cannot_be_judged(lab, odd):
    done = _bisect(lab, "slower", odd)
    assert "commit 2" not in done.stdout.partition("first bad commit")[2].partition("only")[0]
    # The odd one lies beside the bad one: git names both, and blames neither alone.
    assert "There are only 'skip'ped commits left to test" in done.stdout
    assert "is the first bad commit" not in done.stdout


def test_git_bisect_stops_where_check_is_killed(lab):
    done = _bisect(lab, "slower", "killed-check")
    assert done.returncode != 0
    assert "is the first bad commit" not in done.stdout


# LAVA.

LAVA_RESULT = {
    "same": ("pass", {"uffd_rate": "pass", "exit_sigbus_rate": "pass"}),
    "slower": ("fail", {"uffd_rate": "fail", "exit_sigbus_rate": "pass"}),
    "noisy": ("skip", {"uffd_rate": "skip", "exit_sigbus_rate": "pass"}),
    "failed": ("fail", {"none": "pass", "exit_sigbus_": "fail"}),
    "host": ("skip", {}),
    "usage": ("fail", {"kvmpc": "fail"}),
    "killed": ("fail", {}),
    "killed-check": ("fail", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_lava_is_told_every_test_and_always_the_whole(lab, case):
    yaml = pytest.importorskip("yaml")
    (action,) = yaml.safe_load(recipe("lava"))
    (definition,) = action["test"]["definitions"]
    steps = definition["repository"]["run"]["steps"]
    # As LAVA does: all steps are one script, and a step that fails ends it.
    (lab.folder / "run.sh").write_text("\n".join(["set -e", *steps]) + "\n")
    lab.program(
        "lava-test-case", '#!/bin/sh\n[ "$2" = --result ] && echo "CASE $1 $3" >>"$RESULTS/told"\n'
    )
    done = lab.run(["sh", "-e", "run.sh"], case)
    assert done.returncode == 0, done.stderr
    told = [line.split()[1:] for line in (lab.folder / "told").read_text().splitlines()]
    whole, tests = LAVA_RESULT[case]
    assert told[0] == ["kvmpc-exit", whole]
    assert tests.items() <= dict(told[1:]).items()
    assert bool(tests) == bool(told[1:])
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name, _ in told)


# kselftest: its wrapper as a program; tests/lab has the kernel's own runner and parser.


@pytest.mark.parametrize(("case", "code"), [
    ("same", 0), ("slower", 1), ("noisy", 4), ("failed", 1), ("host", 4), ("usage", 1),
    ("killed", 137), ("killed-check", 137),
])  # fmt: skip
def test_kselftest_has_its_exit_codes_from_the_wrapper(lab, case, code):
    lab.program("kvmpc.sh", recipe("kselftest"))
    done = lab.run([str(lab.programs / "kvmpc.sh")], case)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("not ok" in done.stdout) == (case in ("slower", "failed", "usage"))


# tmt: the test's own script and its file; tests/lab has tmt itself.

TMT_RESULTS = {
    "same": {"pass"},
    "slower": {"pass", "fail"},
    "noisy": {"pass", "skip"},
    "failed": {"pass", "fail"},
    "host": {"skip"},
    "usage": {"error"},
    "killed": set(),
    "killed-check": set(),
}


@pytest.mark.parametrize("case", CASES)
def test_tmt_has_a_record_of_every_test_in_its_file(lab, case):
    text = recipe("tmt")
    assert "result: custom" in text
    script = textwrap.dedent(text.partition("test: |\n")[2])
    data = lab.folder / "data"
    data.mkdir()
    lab.run(["env", f"TMT_TEST_DATA={data}", "bash", "-c", script], case)
    records = _records((data / "results.yaml").read_text())
    assert {record["result"] for record in records} == TMT_RESULTS[case]
    assert all(re.match("/.", record["name"]) for record in records)
