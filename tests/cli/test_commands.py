"""What each command says when all is well: streams, exit code, and the JSON read back."""

from __future__ import annotations

import json
import os
import pty
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from kvmpc.host.files import Cgroups
from kvmpc.host.headroom import allowed_cpus
from kvmpc.pagers import parse_pager
from kvmpc.result.document import from_json
from kvmpc.run.defaults import default_pagers
from kvmpc.work.work import Work


def _default_labels(vcpus: int) -> list[str]:
    """Return what is compared unless told, on this host: which uffd is best depends on its CPUs."""
    work = Work(vcpus=vcpus, mem_per_vcpu_bytes=23 * 4096)
    specs = default_pagers(work, allowed_cpus(), Cgroups().quota_cpus())
    return [parse_pager(spec).label for spec in specs]


@pytest.mark.kvm
@pytest.mark.parametrize("vcpus", [1, 2])
def test_compare_measures_and_verifies_five_pagers_by_default(kvmpc, tiny, vcpus):
    labels = _default_labels(vcpus)
    finished = kvmpc("compare", *tiny, "--vcpus", str(vcpus), "--json", str(kvmpc.json))
    assert finished.code == 0
    assert finished.error == ""
    for label in labels:
        cells = finished.cells(label)
        assert float(cells[0].replace(",", "")) > 0
        assert cells[-1] == ("zeros" if label == "none" else "yes")
    assert max(map(len, finished.stdout.splitlines())) < 100
    result = kvmpc.result()
    assert result.finished
    assert [trial.label for trial in result.trials] == labels
    for trial in result.trials:
        assert trial.status == "ok"
        assert trial.verified in ("yes", "zeros")
        assert trial.vcpus == vcpus
        assert trial.expected_pages == 23 * vcpus
        assert trial.metrics["pages_per_s"] == pytest.approx(23e9 * vcpus / trial.elapsed_ns)
        if trial.fetches:
            assert trial.counts["installs"] == 23 * vcpus
    words = (*tiny, "--vcpus", str(vcpus), "--json", str(kvmpc.json))
    assert result.command == ("kvmpc", "compare", *words)
    assert result.options["mem_per_vcpu_bytes"] == 23 * 4096
    assert result.options["rounds"] == 1
    assert result.options["warmup"] == 0


@pytest.mark.kvm
def test_whole_pages_are_verified_where_that_is_asked_for(kvmpc, tiny):
    finished = kvmpc(
        "compare", "none", "none,host=populated", "uffd", "exit", *tiny,
        "--verify", "page", "--json", str(kvmpc.json),
    )  # fmt: skip
    assert finished.code == 0
    told = {"none": "zeros"} | dict.fromkeys(
        ("none,host=populated", "uffd", "exit(sigbus)"), "whole"
    )
    result = kvmpc.result()
    assert {trial.label: trial.verified for trial in result.trials} == told
    assert result.options["verify"] == "page"
    assert finished.cells("uffd")[-1] == "whole"
    shown = kvmpc("show", str(kvmpc.json), "--format", "ktap")
    assert shown.code == 0
    assert shown.stdout.count("\nok ") == 4
    assert "verified whole" in shown.stdout


def test_what_nobody_asked_otherwise_has_rounds_for_an_interval(kvmpc):
    work = ("--vcpus", "1", "--mem-per-vcpu", "92K", "--warmup", "0")
    (kvmpc.folder / "s.toml").write_text('vcpus = 1\nmem_per_vcpu = "92K"\nwarmup = 0\n')
    for command in (("compare", *work), ("sweep", "s.toml")):
        finished = kvmpc(*command, "--format", "json")
        assert finished.code == 0, finished
        for row in json.loads(finished.stdout)["rows"]:
            assert row["rounds"] == 6
            assert (row["ratio_spread"], row["ratio_coverage"]) == ("interval", 0.96875)


@pytest.mark.kvm
def test_one_run_is_one_measurement_and_its_ends_are_a_range(kvmpc):
    finished = kvmpc("run", "exit", "--vcpus", "1", "--mem-per-vcpu", "92K", "--format", "json")
    assert finished.code == 0, finished
    (row,) = json.loads(finished.stdout)["rows"]
    assert (row["rounds"], row["pages_per_s_spread"]) == (1, "range")
    assert row["pages_per_s_low"] == row["pages_per_s"] == row["pages_per_s_high"]
    assert row["pages_per_s_coverage"] is None


@pytest.mark.kvm
def test_every_round_has_every_pager_and_warm_up_touches_an_eighth(kvmpc, tiny):
    pagers = ("none", "uffd", "exit")
    finished = kvmpc(
        "compare", *pagers, *tiny, "--rounds", "2", "--warmup", "1", "--json", str(kvmpc.json)
    )
    assert finished.code == 0
    trials = kvmpc.result().trials
    assert [trial.round for trial in trials] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {trial.expected_pages for trial in trials if trial.round == 0} == {23 // 8}
    for number in (1, 2):
        assert sorted(t.pager for t in trials if t.round == number) == sorted(pagers)
    assert trials[0].pager != trials[3].pager != trials[6].pager


@pytest.mark.kvm
@pytest.mark.parametrize(
    "arguments",
    [
        ["--order", "scattered"],
        ["--access", "read"],
        ["--overlap", "--vcpus", "3"],
        ["--touch-pages", "7"],
        ["--fetch-delay", "50us"],
        ["--seed", "4294967295"],
    ],
    ids=" ".join,
)
def test_compare_takes_every_work_option(kvmpc, tiny, arguments):
    finished = kvmpc("compare", *tiny, *arguments, "--json", str(kvmpc.json))
    assert finished.code == 0
    assert {trial.verified for trial in kvmpc.result().trials} <= {"yes", "zeros"}


@pytest.mark.kvm
def test_compare_with_reads_takes_populated_memory_as_its_reference(kvmpc, tiny):
    finished = kvmpc("compare", *tiny, "--access", "read")
    assert finished.code == 0
    assert finished.cells("none,host=populated")[-1] == "yes"


@pytest.mark.kvm
@pytest.mark.parametrize("pager", ["none", "none,host=populated", "uffd,readers=2", "exit"])
def test_run_measures_one_pager(kvmpc, tiny, pager):
    finished = kvmpc("run", pager, *tiny, "--json", str(kvmpc.json))
    assert finished.code == 0
    assert [trial.pager for trial in kvmpc.result().trials] == [pager]


@pytest.mark.kvm
def test_a_label_from_a_table_can_be_given_as_a_pager(kvmpc, tiny):
    finished = kvmpc("run", "exit(sigbus),uffds=per-vcpu", *tiny)
    assert finished.code == 0
    assert finished.cells("exit(sigbus),uffds=per-vcpu")[-1] == "yes"


@pytest.mark.kvm
def test_json_on_stdout_is_pure_and_the_table_goes_to_stderr(kvmpc, tiny):
    finished = kvmpc("compare", "none", "uffd", *tiny, "--json", "-")
    assert finished.code == 0
    result = from_json(finished.stdout, "stdout")
    assert result.finished
    assert [trial.pager for trial in result.trials] == ["none", "uffd"]
    assert finished.stderr.startswith("pager ")


@pytest.mark.kvm
def test_show_prints_the_table_that_compare_printed(kvmpc, tiny):
    compared = kvmpc("compare", *tiny, "--json", str(kvmpc.json))
    shown = kvmpc("show", str(kvmpc.json))
    assert shown.code == 0
    assert shown.stdout == compared.stdout
    assert shown.stderr == compared.stderr
    piped = kvmpc("show", "-", given=kvmpc.json.read_text())
    assert (piped.code, piped.stdout) == (0, compared.stdout)


@pytest.mark.kvm
def test_probe_finds_all_that_the_default_comparison_needs(kvmpc):
    finished = kvmpc("probe")
    assert finished.code == 0
    assert finished.stderr == ""
    for name in (
        "/dev/kvm",
        "userfaultfd",
        "UFFD_FEATURE_SIGBUS",
        "trial of uffd",
        "trial of exit",
    ):
        rows = [line for line in finished.stdout.splitlines() if line.startswith(f"{name} ")]
        assert [row.removeprefix(name).split()[0] for row in rows] == ["yes"]


@pytest.mark.kvm
def test_probe_tells_the_same_as_json(kvmpc):
    finished = kvmpc("probe", "--json")
    assert finished.code == 0
    assert finished.stderr == ""
    checks = {check["name"]: check for check in json.loads(finished.stdout)}
    assert checks["/dev/kvm"]["status"] == "yes"
    assert checks["trial of exit"]["needed_for"] == "exit"
    assert "23 pages verified" in checks["trial of uffd"]["detail"]
    vcpus = min(160, len(allowed_cpus()))
    specs = default_pagers(
        Work(vcpus=vcpus, mem_per_vcpu_bytes=4096), allowed_cpus(), Cgroups().quota_cpus()
    )
    assert checks["compare"]["detail"].startswith(f"{' '.join(specs)}, with {vcpus} vCPUs")
    assert {check["status"] for check in checks.values()} <= {"yes", "info"}


@pytest.mark.kvm
def test_progress_is_shown_on_a_terminal_and_only_on_stderr(kvmpc, tiny):
    ours, theirs = pty.openpty()
    try:
        process = kvmpc.start("run", "none", *tiny, stderr=theirs)
        os.close(theirs)
        shown = bytearray()
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # EIO: the other end of a terminal was closed
            pass
        finished = process.finish()
    finally:
        os.close(ours)
    assert finished.code == 0
    assert b"trials" in shown
    assert "trials  " not in finished.stdout
    assert "\r" not in finished.stdout


@pytest.mark.kvm
def test_python_m_is_the_same_program(kvmpc, tiny):
    finished = kvmpc.start_program(
        [sys.executable, "-m", "kvmpc", "run", "none", *tiny, "--json", "-"]
    ).finish()
    assert finished.code == 0
    assert from_json(finished.stdout, "stdout").trials[0].status == "ok"


def test_the_version_is_that_of_the_package(kvmpc):
    from importlib.metadata import version

    finished = kvmpc("--version")
    assert finished.code == 0
    assert finished.stdout.split()[-1] == version("kvmpc")


@pytest.mark.parametrize("command", ["compare", "run"])
def test_help_ends_with_the_grammar_of_pagers(kvmpc, command):
    finished = kvmpc(command, "--help")
    assert finished.code == 0
    end = finished.stdout.rstrip().splitlines()[-5:]
    assert end[0].strip() == "PAGER is name[,key=value...]:"
    names = [line.split("[")[0].strip() for line in end[1:]]
    assert [name for name in names if name] == ["none", "uffd", "exit"]


def _examples(help_text: str) -> list[list[str]]:
    """Return the commands below `Examples:`, without the program's name."""
    lines = iter(help_text.splitlines())
    assert any(line.strip() == "Examples:" for line in lines), help_text
    commands = []
    for line in lines:
        words = line.split()
        if words[:1] != ["kvmpc"]:
            break
        commands.append(words[1:])
    return commands


@pytest.mark.parametrize(
    "command",
    [[], ["probe"], ["show"], ["report"], ["check"], ["turns"], ["baseline"], ["baseline", "save"]],
    ids=lambda words: " ".join(["kvmpc", *words]),
)
def test_help_ends_with_examples(kvmpc, command):
    finished = kvmpc(*command, "--help")
    assert finished.code == 0
    assert _examples(finished.stdout)


@pytest.mark.kvm
def test_the_examples_of_help_work_as_written(kvmpc, tiny):
    examples = _examples(kvmpc("--help").stdout)
    assert {words[0] for words in examples} == {
        "probe", "compare", "run", "sweep", "show", "report",
    }  # fmt: skip
    (kvmpc.folder / "bench").symlink_to(Path(__file__).parents[2] / "bench")
    for words in examples:
        # Given last, these win over the example's own sizes; all else is as written.
        smaller = tiny if words[0] in ("compare", "run") else ()
        finished = kvmpc(*words, *smaller)
        expected = 3 if words[0] == "report" and find_spec("matplotlib") is None else 0
        assert finished.code == expected, (words, finished)
