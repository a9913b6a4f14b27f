"""What harnesses make of kvmpc, themselves: the kernel's KTAP parser, kselftest's runner, tmt.

tools/testing/kunit/kunit_parser.py and tools/testing/selftests/kselftest/runner.sh come from
Debian's linux-source package: from the lab's cache, or, where KVMPC_REQUIRE_LAB=1 asks for it,
downloaded into it (139 MB, of which a few files are kept). tmt is used where it is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kvmpc.judge.reading import read
from kvmpc.judge.regression import check
from kvmpc.result.records import Point, Result, Skip, TrialResult
from kvmpc.show.cases import End
from kvmpc.show.formats import format_check, format_end, format_result
from tests.fakes.recipes import CASES, Lab, recipe

from .kernels import Unavailable, cache_folder

PACKAGE = "linux-source-6.1"
FETCH = "KVMPC_REQUIRE_LAB=1 pytest tests/lab/test_ktap.py (Debian 12; downloads 139 MB)"

READ = """
import json, sys
sys.path.insert(0, sys.argv[1])
import kunit_parser
test = kunit_parser.parse_run_tests(sys.stdin.read().splitlines())
print("\\n" + json.dumps({
    "status": test.status.name,
    "counts": vars(test.counts),
    "tests": [[each.name, each.status.name, each.log] for each in test.subtests],
}))
"""


def _fetch(folder: Path) -> None:
    """Put the parser into `folder`. Raises: Unavailable."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(suffix=".partial", dir=folder.parent))
    source = f"./usr/src/{PACKAGE}.tar.xz"
    unpack = (
        f"dpkg-deb --fsys-tarfile *.deb | tar -xOf - {source} | "
        "tar -xJf - --wildcards --strip-components=3 '*/tools/testing/kunit/*.py' "
        "'*/tools/testing/selftests/kselftest/*'"
    )
    download = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", PACKAGE]
    try:
        for command in (download, ["sh", "-c", unpack]):
            done = subprocess.run(
                command, cwd=partial, capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode:
                raise Unavailable(f"{command[0]}: {done.stderr.strip()[-300:]}; apt-get update")
        for archive in partial.glob("*.deb"):
            archive.unlink()
        partial.rename(folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{PACKAGE} cannot be had here: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@pytest.fixture(scope="module")
def kernel_tools() -> Path:
    """Return the folder of the kernel's tools; skips where it is neither cached nor asked for."""
    folder = cache_folder() / f"{PACKAGE}-testing"
    if not (folder / "kunit" / "kunit_parser.py").exists():
        if os.environ.get("KVMPC_REQUIRE_LAB") != "1":
            pytest.skip(f"the kernel's test runners are not in {cache_folder()}: {FETCH}")
        try:
            _fetch(folder)
        except Unavailable as error:
            pytest.fail(str(error), pytrace=False)
    return folder


@pytest.fixture
def parser(kernel_tools: Path) -> Path:
    """Return the folder of the kernel's parser."""
    return kernel_tools / "kunit"


def _parsed(parser: Path, text: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(parser)],
        input=text, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _trial(pager: str, number: int, rate: float, **changes: Any) -> TrialResult:
    fields: dict[str, Any] = {
        "pager": pager, "label": pager, "fetches": pager != "none", "round": number, "status": "ok",
        "error": None, "verified": "yes", "vcpus": 2, "expected_pages": 46, "sparse": False,
        "elapsed_ns": 46_000_000, "metrics": {"pages_per_s": rate, "cpu_s_per_gib": 2.5},
        "counts": {}, "histogram_cycles": (), "guest_tsc_khz": None, "guest_tsc_is_host_tsc": None,
        "per_vcpu": {}, "per_reader": {}, "pages_per_node": {}, "warnings": (),
    }  # fmt: skip
    return TrialResult(**(fields | changes))


def _result(*, uffd: float = 1e5, points: int = 1, failing: bool = False) -> Result:
    draw = Random(1)
    pagers = ("none", "uffd", "exit(sigbus),uffds=per-vcpu")
    trials = [
        _trial(name, number, rate * draw.lognormvariate(0, 0.02), point=at)
        for at in range(points)
        for number in range(1, 11)
        for name, rate in (("none", 3e5), ("uffd", uffd), (pagers[2], 2e5))
    ]
    if failing:
        error = "vcpu1: page 22\nholds # the wrong tag\nnot ok 1 - forged\nKTAP version 1\n1..9"
        failed = {"status": "failed", "error": error, "verified": None, "metrics": {}}
        trials.append(_trial("uffd", 11, 0.0, **failed))
    return Result(
        tool_version="0.1.0", command=("kvmpc",), started="2025-01-31T12:00:00+00:00",
        finished=True, options={"vcpus": 2, "mem_per_vcpu_bytes": 1 << 20}, pagers=pagers,
        labels=pagers, host={"kernel": {"release": "6.1"}}, trials=tuple(trials), warnings=(),
        points=tuple(Point(options={"vcpus": 2 << at, "mem_per_vcpu_bytes": 4096}, pagers=pagers)
                     for at in range(points)) if points > 1 else (),
    )  # fmt: skip


def test_a_result_is_read_with_every_pager_passed(parser: Path) -> None:
    found = _parsed(parser, format_result(read(_result()), "ktap"))
    assert found["status"] == "SUCCESS"
    assert found["counts"] == {"passed": 3, "failed": 0, "crashed": 0, "skipped": 0, "errors": 0}
    assert [(name, status) for name, status, _ in found["tests"]] == [
        ("none", "SUCCESS"), ("uffd", "SUCCESS"), ("exit(sigbus),uffds=per-vcpu", "SUCCESS"),
    ]  # fmt: skip
    assert "pages/s" in found["tests"][1][2][0]


def test_points_failures_and_skips_are_read_as_what_they_are(parser: Path) -> None:
    result = replace(
        _result(points=2, failing=True),
        skipped=(Skip(point=1, pager="none", reason="not enough memory # at all"),),
    )
    kept = tuple(t for t in result.trials if (t.point, t.pager) != (1, "none"))
    found = _parsed(parser, format_result(read(replace(result, trials=kept)), "ktap"))
    assert found["status"] == "FAILURE"
    assert found["counts"] == {"passed": 4, "failed": 1, "crashed": 0, "skipped": 1, "errors": 0}
    assert ["vcpus=4: none", "SKIPPED"] in [each[:2] for each in found["tests"]]
    assert ["vcpus=2: uffd", "FAILURE"] in [each[:2] for each in found["tests"]]


def test_a_check_is_read_with_its_regression_failed(parser: Path) -> None:
    found = _parsed(parser, format_check(check([_result()], [_result(uffd=8e4)]), "ktap"))
    assert found["status"] == "FAILURE"
    assert found["tests"][0][:2] == ["uffd: rate", "FAILURE"]
    assert found["counts"] == {"passed": 5, "failed": 1, "crashed": 0, "skipped": 0, "errors": 0}


def test_a_check_in_order_passes_and_what_is_not_compared_is_skipped(parser: Path) -> None:
    less = replace(_result(), pagers=("none", "uffd"), labels=("none", "uffd"))
    less = replace(less, trials=tuple(t for t in less.trials if t.pager in less.pagers))
    found = _parsed(parser, format_check(check([less], [_result()]), "ktap"))
    assert found["status"] == "SUCCESS"
    assert found["counts"] == {"passed": 4, "failed": 0, "crashed": 0, "skipped": 1, "errors": 0}
    gone = _parsed(parser, format_check(check([_result()], [less]), "ktap"))
    assert gone["status"] == "FAILURE"
    assert gone["counts"] == {"passed": 4, "failed": 1, "crashed": 0, "skipped": 0, "errors": 0}


def test_a_run_that_did_not_finish_is_read_as_a_failure(parser: Path) -> None:
    found = _parsed(parser, format_result(read(replace(_result(), finished=False)), "ktap"))
    assert found["status"] == "FAILURE"
    assert found["counts"] == {"passed": 3, "failed": 1, "crashed": 0, "skipped": 0, "errors": 0}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("cannot", [False, True])
def test_an_end_is_never_read_as_a_success(parser: Path, begun: bool, cannot: bool) -> None:
    before = format_result(read(replace(_result(), finished=False)), "ktap") if begun else ""
    end = End("no such # thing\nok 1 forged", cannot=cannot, begun=begun)
    found = _parsed(parser, before + format_end(end, "ktap"))
    if cannot and not begun:  # a plan of none, which this parser has no word for
        assert found["status"] == "NO_TESTS"
    else:
        assert found["status"] == "FAILURE"
    assert found["counts"]["passed"] == (3 if begun else 0)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Make a lab of the test's folder."""
    return Lab(tmp_path)


@pytest.mark.parametrize(("case", "status"), [
    ("same", "SUCCESS"), ("slower", "FAILURE"), ("noisy", "SKIPPED"), ("failed", "FAILURE"),
    ("host", "SKIPPED"), ("usage", "FAILURE"), ("killed", "FAILURE"), ("killed-check", "FAILURE"),
])  # fmt: skip
def test_kselftest_runs_the_wrapper_and_its_output_is_read_as_what_came_of_it(
    kernel_tools: Path, parser: Path, lab: Lab, case: str, status: str
) -> None:
    base = lab.folder / "selftests"
    shutil.copytree(kernel_tools / "selftests" / "kselftest", base / "kselftest")
    tests = base / "kvm"
    tests.mkdir()
    lab.program("kvmpc.sh", recipe("kselftest"))
    shutil.move(lab.programs / "kvmpc.sh", tests / "kvmpc.sh")
    (tests / "settings").write_text("timeout=0\n")
    shutil.copy(lab.folder / "before.json", tests)
    run = f"BASE_DIR={base}; . {base}/kselftest/runner.sh; run_many {tests}/kvmpc.sh"
    done = lab.run(["sh", "-c", run], case, tests)
    found = _parsed(parser, done.stdout)
    assert [each[:2] for each in found["tests"]] == [["selftests: kvm: kvmpc.sh", status]]
    assert ("# KTAP version 1" in done.stdout) == (case != "killed"), done.stdout


TMT_SUMMARY = {
    "same": (0, "tests passed"),
    "slower": (1, "failed"),
    "noisy": (0, "skipped"),
    "failed": (1, "failed"),
    "host": (4, "1 test skipped"),
    "usage": (2, "1 error"),
    "killed": (2, "1 error"),
    "killed-check": (2, "1 error"),
}
"""tmt's exit code, and what its last line has."""


@pytest.mark.parametrize("case", CASES)
def test_tmt_reads_what_came_of_the_test_in_readme(lab: Lab, case: str) -> None:
    tmt = os.environ.get("KVMPC_TMT") or shutil.which("tmt")
    if tmt is None or not Path("/usr/bin/rsync").exists():
        pytest.skip("needs tmt (pip install tmt; KVMPC_TMT says where) and rsync, which it runs")
    tree = lab.folder / "tree"
    for name, text in (
        (".fmf/version", "1\n"),
        ("plan.fmf", "discover: {how: fmf}\nprovision: {how: local}\nexecute: {how: tmt}\n"),
        ("kvmpc/main.fmf", recipe("tmt")),
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    shutil.copy(lab.folder / "before.json", tree / "kvmpc")
    for command in (["init", "-q"], ["add", "-A"]):
        assert lab.run(["git", *command], case, tree).returncode == 0
    # tmt gives a test an environment of its own.
    given = [f"PATH={lab.programs}:{os.environ['PATH']}", f"CASE={case}", f"RESULTS={lab.folder}"]
    done = lab.run(
        [tmt, "--feeling-safe", "run", "--id", str(lab.folder / "run"),
         *(word for line in given for word in ("--environment", line)),
         "--all", "--skip", "prepare"],  # which would install packages on this machine
        case, tree,
    )  # fmt: skip
    code, told = TMT_SUMMARY[case]
    assert done.returncode == code, done.stdout + done.stderr
    (total,) = re.findall(r"^total: (.*)$", done.stdout + done.stderr, re.MULTILINE)
    assert told in total
