"""KTAP as kvmpc prints it, read by the kernel's own parser (tools/testing/kunit/kunit_parser.py).

The parser comes from Debian's linux-source package: from the lab's cache, or, where
KVMPC_REQUIRE_LAB=1 asks for it, downloaded into it (139 MB, of which five files are kept).
"""

from __future__ import annotations

import json
import os
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
from kvmpc.show.formats import format_check, format_result

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
        "tar -xJf - --wildcards --strip-components=4 '*/tools/testing/kunit/*.py'"
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
def parser() -> Path:
    """Return the folder of the kernel's parser; skips where it is neither cached nor asked for."""
    folder = cache_folder() / f"{PACKAGE}-kunit"
    if not (folder / "kunit_parser.py").exists():
        if os.environ.get("KVMPC_REQUIRE_LAB") != "1":
            pytest.skip(f"the kernel's KTAP parser is not in {cache_folder()}: {FETCH}")
        try:
            _fetch(folder)
        except Unavailable as error:
            pytest.fail(str(error), pytrace=False)
    return folder


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
    found = _parsed(parser, format_check(check([_result()], [less]), "ktap"))
    assert found["status"] == "SUCCESS"
    assert found["counts"] == {"passed": 4, "failed": 0, "crashed": 0, "skipped": 1, "errors": 0}
