"""Going on with what was cut short: only with the same plan, on the same host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmpc.errors import ResultFileError, UsageError
from kvmpc.result.document import to_json
from kvmpc.result.records import Point, Result
from kvmpc.run.resume import resume

Make = Callable[..., Any]


@pytest.fixture
def planned(make_result: Make) -> Result:
    made: Result = make_result(pagers=("uffd", "exit"), labels=("uffd", "exit"), finished=False)
    return made


def test_without_a_file_everything_is_still_to_be_measured(planned: Result, tmp_path: Path) -> None:
    assert resume(str(tmp_path / "none.json"), planned) == planned


@pytest.mark.parametrize("cut", [0, 2])
def test_trials_of_the_file_are_kept_also_of_one_that_was_cut_short(
    planned: Result, make_trial: Make, tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "r.json"
    before = replace(planned, trials=(make_trial("uffd"), make_trial("exit")), started="earlier")
    text = to_json(before)
    path.write_text(text[: len(text) - cut])
    found = resume(str(path), planned)
    assert found.trials == before.trials
    assert found.started == "earlier"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": {"vcpus": 3}}, "vcpus: 3 there, 2 here"),
        ({"pagers": ("uffd",)}, "other pagers"),
        ({"points": (Point(options={}, pagers=()),)}, "other points"),
        ({"host": {"kernel": {"release": "6.12"}}}, "kernel release: 6.12 there, 6.1.0-28-amd64"),
    ],
)
def test_another_plan_or_host_is_refused_with_what_differs(
    planned: Result, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(to_json(replace(planned, **changes)))
    with pytest.raises(UsageError, match=words):
        resume(str(path), planned)


@pytest.mark.parametrize("text", ["{}", "precious", '{"schema": "kvmpc-result"'])
def test_what_is_no_result_is_not_overwritten(planned: Result, tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ResultFileError):
        resume(str(path), planned)


def test_what_was_measured_with_another_priority_is_not_gone_on_with(
    planned: Result, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    path.write_text(to_json(planned))
    usual, first = (
        replace(planned, host={**planned.host, "scheduling": {"policy": policy, "priority": level}})
        for policy, level in (("other", 0), ("fifo", 10))
    )
    assert resume(str(path), first).host == first.host, "an older kvmpc did not say"
    path.write_text(to_json(usual))
    with pytest.raises(UsageError, match="scheduling policy: other there, fifo here"):
        resume(str(path), first)


def test_an_empty_file_holds_no_trials_yet(planned: Result, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.touch()
    assert resume(str(path), planned) == planned


@pytest.mark.parametrize("path", ["-", "/dev/null", "."])
def test_what_cannot_be_read_again_is_no_file_to_go_on_with(planned: Result, path: str) -> None:
    with pytest.raises(UsageError, match=r"--resume: .* regular file"):
        resume(path, planned)


def test_a_file_of_a_kvmpc_that_counted_every_trial_can_be_gone_on_with(
    planned: Result, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    path.write_text(to_json(planned))
    now = replace(planned, options={**planned.options, "busy_limit": 0.1})
    assert resume(str(path), now).options["busy_limit"] == 0.1
    path.write_text(to_json(replace(now, options={**now.options, "busy_limit": 0.5})))
    with pytest.raises(UsageError, match=r"busy_limit: 0\.5 there, 0\.1 here"):
        resume(str(path), now)
