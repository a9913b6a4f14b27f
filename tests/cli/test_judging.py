"""``kvmpc baseline`` and ``kvmpc check`` as a process: exit codes, and which stream gets what."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmpc.result.document import to_json
from kvmpc.result.records import Result, Skip, TrialResult

HOST = {
    "kernel": {"release": "6.1.0"},
    "cpu": {"model": "AMD EPYC 7B13", "allowed_count": 8},
    "kvm": {"second_level_paging": "npt"},
}
RATES = {"none": 4e5, "uffd": 1e5, "exit": 2e5}


def _trial(pager: str, number: int, rate: float, **changes: Any) -> TrialResult:
    metrics = {"pages_per_s": rate, "fault_p99_ns": 1e10 / rate, "cpu_s_per_gib": 1e6 / rate}
    fields: dict[str, Any] = {
        "pager": pager, "label": pager.replace("exit", "exit(sigbus)"), "round": number,
        "fetches": pager != "none", "status": "ok", "error": None, "verified": "yes", "vcpus": 2,
        "expected_pages": 46, "sparse": False, "elapsed_ns": 46_000_000, "metrics": metrics,
        "counts": {}, "histogram_cycles": (), "guest_tsc_khz": None, "guest_tsc_is_host_tsc": None,
        "per_vcpu": {}, "per_reader": {}, "pages_per_node": {}, "warnings": (),
    }  # fmt: skip
    return TrialResult(**(fields | changes))


def _result(
    seed: int = 1, rounds: int = 10, *, host: Any = HOST, noise: float = 0.02, **slower: float
) -> Result:
    draw = random.Random(seed)
    trials = [
        _trial(pager, number, rate * draw.lognormvariate(0, noise) / slower.get(pager, 1))
        for number in range(1, rounds + 1)
        for pager, rate in RATES.items()
    ]
    return Result(
        tool_version="0.1.0", command=("kvmpc",), started="2025-01-31T12:00:00+00:00",
        finished=True, options={"vcpus": 2, "mem_per_vcpu_bytes": 1 << 20}, pagers=tuple(RATES),
        labels=tuple(t.label for t in trials[:3]), host=host, trials=tuple(trials), warnings=(),
    )  # fmt: skip


Keep = Callable[[str, Result], str]


@pytest.fixture
def keep(kvmpc, monkeypatch) -> Keep:
    """Write a result into the test's folder and return its path; the store is there too."""
    monkeypatch.setenv("KVMPC_BASELINES", str(kvmpc.folder / "kept"))

    def write(name: str, result: Result) -> str:
        path = Path(kvmpc.folder, f"{name}.json")
        path.write_text(to_json(result))
        return str(path)

    return write


@pytest.fixture
def lab1(kvmpc, keep) -> str:
    """Save a baseline, and return its name."""
    assert kvmpc("baseline", "save", "lab1", keep("old", _result())).code == 0
    return "lab1"


def test_baselines_are_saved_listed_and_removed(kvmpc, keep):
    old = keep("old", _result())
    empty = kvmpc("baseline", "list")
    assert (empty.code, empty.stdout) == (0, "")
    assert "none is kept" in empty.error
    saved = kvmpc("baseline", "save", "lab1", old, old)
    assert (saved.code, saved.stderr) == (0, "")
    assert "lab1: 2 runs kept in" in saved.stdout
    assert "lab1" in kvmpc("baseline", "list").stdout
    assert kvmpc("baseline", "remove", "lab1").code == 0
    assert kvmpc("baseline", "list").stdout == ""
    again = kvmpc("baseline", "remove", "lab1")
    assert again.code == 2
    assert "a name that is saved" in again.error


def test_a_name_that_is_taken_is_refused_without_force(kvmpc, keep, lab1):
    old = keep("old", _result(2))
    finished = kvmpc("baseline", "save", lab1, old)
    assert finished.code == 2
    assert "--force" in finished.error
    assert kvmpc("baseline", "save", lab1, old, "--force").code == 0


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "x.json"])
def test_a_name_that_is_a_path_is_refused(kvmpc, keep, name):
    finished = kvmpc("baseline", "save", name, keep("old", _result()))
    assert finished.code == 2
    assert not (kvmpc.folder / "kept").exists()


def test_a_baseline_with_failed_trials_is_kept_with_a_warning(kvmpc, keep):
    result = _result()
    failed = _trial("uffd", 11, 1.0, status="failed", error="lost", verified=None, metrics={})
    result = replace(result, trials=(*result.trials, failed), finished=False)
    finished = kvmpc("baseline", "save", "lab1", keep("old", result))
    assert finished.code == 0
    assert "1 of 31 trials failed" in finished.stderr
    assert "did not finish" in finished.stderr


@pytest.mark.usefixtures("lab1")
@pytest.mark.parametrize("against", ["lab1", "old.json", "./old.json"])
def test_the_same_thing_measured_again_is_ok(kvmpc, keep, against):
    finished = kvmpc("check", keep("new", _result(2)), "--against", against)
    assert finished.code == 0, finished.stdout
    assert finished.stderr == ""
    assert "ok: 9 same." in finished.told


def test_a_regression_is_red_first_and_exit_code_1(kvmpc, keep, lab1):
    finished = kvmpc("check", keep("new", _result(2, uffd=1.15)), "--against", lab1)
    assert finished.code == 1
    assert finished.stderr == ""
    assert finished.stdout.splitlines()[2].split()[:3] == ["WORSE", "uffd", "rate"]
    assert "REGRESSION: 2 worse, 1 unsure, 6 same." in finished.told


def test_noise_is_not_taken_for_the_same_but_for_exit_code_5(kvmpc, keep, lab1):
    noisy = _result(2, noise=0.4)
    finished = kvmpc("check", keep("new", noisy), "--against", lab1)
    assert finished.code == 5, finished.stdout
    assert finished.stdout.splitlines()[2].split()[0] == "unsure"
    assert re.search(r"UNSURE: \d unsure.* Measure more rounds", finished.told)
    # What was noisy before cannot tell either, not even that nothing changed.
    again = kvmpc("check", "new.json", "--against", "./new.json")
    assert again.code == 5
    rows = json.loads(kvmpc("check", "new.json", "--against", lab1, "--format", "json").stdout)
    assert rows["status"] == "unsure"
    assert not {row["verdict"] for row in rows["rows"]} & {"worse", "same"}
    assert all(abs(row["sees"]) > row["limit"] for row in rows["rows"])


def test_a_regression_beside_what_is_unsure_is_a_regression(kvmpc, keep, lab1):
    trials = _result(2, noise=0.2).trials, _result(2, uffd=1.3).trials
    mixed = [t if t.pager == "none" else s for t, s in zip(*trials, strict=True)]
    new = keep("new", replace(_result(2), trials=tuple(mixed)))
    finished = kvmpc("check", new, "--against", lab1)
    assert finished.code == 1
    assert "unsure" in finished.told
    assert "REGRESSION: 3 worse" in finished.told


def test_what_alpha_holds_for_is_said_below_the_table(kvmpc, keep, lab1):
    told = kvmpc("check", keep("new", _result(2)), "--against", lab1, "--alpha", "0.02").told
    assert "a check of 9 tests like this one turns red with a probability of at most 0.02" in told
    assert "What shifts from one run to the next" in told


def test_an_improvement_is_told_and_not_red(kvmpc, keep, lab1):
    finished = kvmpc("check", keep("new", _result(2, uffd=0.8)), "--against", lab1)
    assert finished.code == 0
    assert "better" in finished.stdout


def test_limits_and_alpha_are_settable_per_metric(kvmpc, keep, lab1):
    new = keep("new", _result(2, uffd=1.15))
    loose = ("--limit", "rate=20%", "--limit", "cpu=off", "--limit", "p99=0.3")
    finished = kvmpc("check", new, "--against", lab1, *loose, "--alpha", "0.05")
    assert finished.code == 0
    assert " cpu " not in finished.stdout
    strict = ("--alpha", "rate=0.000001", "--alpha", "cpu=0.000001", "--limit", "p99=off")
    assert kvmpc("check", new, "--against", lab1, *strict).code == 2


def _scaled(result: Result, host: float = 1.0, **rates: float) -> Result:
    """Return a result with rates of pagers, and the host's own speed, multiplied."""

    def metrics(trial: TrialResult) -> dict[str, float]:
        rate = trial.metrics["pages_per_s"] * rates.get(trial.pager, 1.0) * host
        return {
            "pages_per_s": rate, "fault_p99_ns": 1e10 / rate, "cpu_s_per_gib": 1e6 / rate,
            "host_steps_per_s": 2e8 * host,
        }  # fmt: skip

    return replace(result, trials=tuple(replace(t, metrics=metrics(t)) for t in result.trials))


@pytest.mark.parametrize("options", [(), ("--normalise",)], ids=len)
def test_a_result_that_was_rescaled_is_judged_by_what_was_done_to_it(kvmpc, keep, options):
    old = keep("old", _scaled(_result()))
    same = _result(2)

    def judged(new: Result) -> tuple[int, dict[str, set[str]]]:
        finished = kvmpc("check", keep("new", new), "--against", old, *options, "--format", "json")
        found: dict[str, set[str]] = {}
        for row in json.loads(finished.stdout)["rows"]:
            found.setdefault(row["verdict"], set()).add(row["pager"])
        return finished.code, found

    everyone = set(RATES)
    assert judged(_scaled(same)) == (0, {"same": everyone})
    slower = _scaled(same, **dict.fromkeys(RATES, 0.7))
    assert judged(slower) == (1, {"worse": everyone}), "all pagers 30 % slower"
    faster = {"better": {"none"}, "same": {"uffd", "exit"}}
    assert judged(_scaled(same, none=1.25)) == (0, faster), "only none 25 % faster"
    gone = {"missing": {"exit"}, "same": {"none", "uffd"}}
    assert judged(_without(_scaled(same), "exit")) == (1, gone), "one pager gone"
    host = (0, {"same": everyone}) if options else (1, {"worse": everyone})
    assert judged(_scaled(same, host=0.8)) == host, "the host 20 % slower"


def test_an_old_baseline_is_not_normalised_and_the_remedy_is_named(kvmpc, keep, lab1):
    finished = kvmpc("check", keep("new", _scaled(_result(2))), "--against", lab1, "--normalise")
    assert (finished.code, finished.stdout) == (2, "")
    assert "30 of 30 trials of the baseline do not have the host's own speed" in finished.error
    assert "measure that side again" in finished.error


def test_a_pager_that_fails_now_is_exit_code_4_and_a_regression_beside_it_1(kvmpc, keep, lab1):
    failed = _trial("exit", 11, 1.0, status="failed", error="lost", verified=None, metrics={})
    for slower, code in ((1.0, 4), (1.3, 1)):
        result = _result(2, uffd=slower)
        new = keep("new", replace(result, trials=(*result.trials, failed)))
        finished = kvmpc("check", new, "--against", lab1)
        assert finished.code == code
        assert "failed: exit(sigbus): 1 of 11 trials failed: lost" in finished.told


def _without(result: Result, pager: str, reason: str | None = None) -> Result:
    trials = tuple(trial for trial in result.trials if trial.pager != pager)
    skipped = () if reason is None else (Skip(point=0, pager=pager, reason=reason),)
    return replace(result, trials=trials, skipped=skipped)


@pytest.mark.parametrize("reason", [None, "UFFD_FEATURE_SIGBUS is not offered"])
def test_a_pager_that_is_gone_is_red_unless_it_is_allowed_by_name(kvmpc, keep, lab1, reason):
    new = keep("new", _without(_result(2), "exit", reason))
    finished = kvmpc("check", new, "--against", lab1)
    assert finished.code == 1
    assert finished.stdout.splitlines()[2].split()[:2] == ["MISSING", "exit(sigbus)"]
    assert "MISSING: 1 missing, 6 same." in finished.told
    assert f"missing: exit(sigbus): {f'skipped in the result: {reason}' if reason else ''}" in (
        finished.told
    )
    ktap = kvmpc("check", new, "--against", lab1, "--format", "ktap").stdout
    assert "not ok 1 exit(sigbus)" in ktap.splitlines()
    assert kvmpc("--exit-codes", "bisect", "check", new, "--against", lab1).code == 1
    for name in ("exit", "exit(sigbus)"):
        allowed = kvmpc("check", new, "--against", lab1, "--allow-missing", name)
        assert allowed.code == 0, allowed.stdout
        assert "not compared: exit(sigbus)" in allowed.told


def test_several_runs_on_each_side_are_compared_as_runs(kvmpc, keep):
    old = [keep(f"old{n}", _result(n)) for n in range(6)]
    same = [keep(f"same{n}", _result(n + 10)) for n in range(6)]
    slower = [keep(f"slower{n}", _result(n + 20, uffd=1.2)) for n in range(6)]
    assert kvmpc("baseline", "save", "runs", *old).code == 0
    fine = kvmpc("check", *same, "--against", "runs")
    assert fine.code == 0
    assert "exact Mann-Whitney tests of runs" in fine.told
    assert "compare several runs" not in fine.told
    against = [word for path in old for word in ("--against", path)]
    assert kvmpc("check", *slower, *against).code == 1


def test_hosts_that_differ_are_refused_until_the_field_is_allowed(kvmpc, keep, lab1):
    host = {**HOST, "cpu": {"model": "Xeon", "allowed_count": 8}}
    new = keep("new", _result(2, host=host))
    finished = kvmpc("check", new, "--against", lab1)
    assert finished.code == 2
    assert finished.stdout == ""
    assert "cpu.model: Xeon against AMD EPYC 7B13 in the baseline" in finished.error
    assert "--allow-host" in finished.error
    allowed = kvmpc("check", new, "--against", lab1, "--allow-host", "cpu.model")
    assert allowed.code == 0
    assert "warning: cpu.model: Xeon against" in allowed.stderr


def test_another_kernel_is_compared_and_stand_in_rows_are_marked(kvmpc, keep, lab1):
    new = keep("new", _result(2, host={**HOST, "kernel": {"release": "6.12.0"}}))
    finished = kvmpc("check", new, "--against", lab1)
    assert finished.code == 0
    assert "kernel: 6.12.0 against 6.1.0" in finished.told
    assert "warning: exit(sigbus): what this stand-in costs depends on" in finished.stderr


def test_a_check_that_could_never_turn_red_is_refused(kvmpc, keep, lab1):
    finished = kvmpc("check", keep("new", _result(2, rounds=2)), "--against", lab1)
    assert finished.code == 2
    assert finished.stdout == ""
    assert "2 rounds against 10 could never turn red" in finished.error
    assert "--rounds 6" in finished.error


def test_options_that_differ_are_refused_by_name(kvmpc, keep, lab1):
    other = replace(_result(2), options={"vcpus": 4, "mem_per_vcpu_bytes": 1 << 20})
    finished = kvmpc("check", keep("new", other), "--against", lab1)
    assert finished.code == 2
    assert "vcpus=4 against 2" in finished.error


@pytest.mark.usefixtures("lab1")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--against", "lab2"], ["lab2", "a name that is saved"]),
        (["--against", "../lab1"], ["../lab1", "ENOENT"]),
        (["--against", ".lab1"], [".lab1", "letters, digits"]),
        (["--against", "lab1", "--limit", "speed=5%"], ["speed=5%", "rate, p99, cpu"]),
        (["--against", "lab1", "--limit", "rate"], ["--limit", "METRIC=PERCENT"]),
        (["--against", "lab1", "--limit", "rate=nan"], ["--limit", "0% to 1000%"]),
        (["--against", "lab1", "--limit", "rate=-5%"], ["--limit", "0% to 1000%"]),
        (["--against", "lab1", "--limit", "rate=x%"], ["--limit", "a percentage"]),
        (["--against", "lab1", "--alpha", "2"], ["--alpha", "2.0", "a probability"]),
        (["--against", "lab1", "--alpha", "nan"], ["--alpha", "a probability"]),
        (["--against", "lab1", "--alpha", "speed=0.1"], ["--alpha", "rate, p99, cpu"]),
        (["--against", "lab1", "--alpha", "0.1", "--alpha", "0.2"], ["--alpha", "once"]),
        (["--against", "lab1", "--allow-host", "colour"], ["--allow-host", "cpu.model"]),
        (["--against", "lab1", "--allow-missing", "exti"], ["exti", "none, uffd, exit(sigbus)"]),
        (["--against", "lab1", "--format", "xml"], ["--format", "ktap"]),
        ([], ["--against"]),
    ],
    ids=" ".join,
)
def test_bad_usage_is_exit_code_2_and_says_what_is_allowed(kvmpc, keep, arguments, words):
    finished = kvmpc("check", keep("new", _result(2)), *arguments)
    assert finished.code == 2
    assert finished.stdout == ""
    for word in words:
        assert word in finished.error


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "empty"),
        ("{}", "not a kvmpc result"),
        ('{"schema": "kvmpc-baseline", "version": 7}', "newer than this kvmpc"),
        ('{"schema": "kvmpc-result", "version": 1}', "older than this kvmpc"),
        ('{"schema": "kvmpc-rows", "version": 1}', "of schema 'kvmpc-rows'"),
        ('{"schema": NaN}', "NaN is not a finite number"),
    ],
)
def test_a_baseline_of_another_kind_is_refused(kvmpc, keep, content, told):
    (kvmpc.folder / "odd.json").write_text(content)
    finished = kvmpc("check", keep("new", _result()), "--against", "odd.json")
    assert finished.code == 2
    assert told in finished.error
    assert finished.stdout == ""


def _spoiled(result: Result, path: list[Any], value: Any) -> str:
    """Return a document with another value at a path; `...` takes what is there away."""
    document = json.loads(to_json(result))
    *to, last = path
    at = document
    for name in to:
        at = at[name]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["version"], 1, "older than this kvmpc"),
        (["version"], 99, "newer than this kvmpc"),
        (["trials"], ..., "trials"),
        (["pagers"], ..., "pagers"),
        (["trials", 4, "metrics"], ..., "metrics"),
        (["trials", 4, "status"], "strange", "status"),
        (["trials", 4, "metrics", "pages_per_s"], "many", "pages_per_s"),
        (["trials", 4, "point"], 7, "point 7"),
    ],
    ids=str,
)
@pytest.mark.parametrize("side", ["new", "old"])
def test_a_damaged_side_is_refused_with_its_name_and_field(kvmpc, keep, side, path, value, told):
    for name in ("new", "old"):
        keep(name, _result())
    (kvmpc.folder / f"{side}.json").write_text(_spoiled(_result(), path, value))
    finished = kvmpc("check", "new.json", "--against", "./old.json")
    assert (finished.code, finished.stdout) == (2, "")
    assert f"{side}.json" in finished.error
    assert told in finished.error


def test_a_metric_that_is_zero_or_absent_in_a_trial_is_one_round_less(kvmpc, lab1):
    result = _result(2)
    for number, value in ((0, 0.0), (1, -1.0), (2, ...)):
        text = _spoiled(result, ["trials", number, "metrics", "pages_per_s"], value)
        (kvmpc.folder / "new.json").write_text(text)
        finished = kvmpc("check", "new.json", "--against", lab1, "--format", "json")
        assert finished.code == 0, finished.stderr
        counts = {
            (r["pager"], r["metric"]): r["new_n"] for r in json.loads(finished.stdout)["rows"]
        }
        assert sorted(counts.values()) == [9] + [10] * 8


def test_runs_of_different_length_are_compared_as_they_are(kvmpc, keep, lab1):
    shorter = kvmpc(
        "check", keep("new", _result(2, rounds=7)), "--against", lab1, "--format", "json"
    )
    assert shorter.code == 0, shorter.stdout
    rows = json.loads(shorter.stdout)["rows"]
    assert {(row["baseline_n"], row["new_n"]) for row in rows} == {(10, 7)}
    sides = [
        [keep(f"{side}{n}", _result(n + 50 * side, rounds=3 + n)) for n in range(7)]
        for side in (0, 1)
    ]
    against = [word for path in sides[0] for word in ("--against", path)]
    several = kvmpc("check", *sides[1][:6], *against, "--format", "json")
    assert several.code in (0, 5)
    rows = json.loads(several.stdout)["rows"]
    assert {(row["baseline_n"], row["new_n"]) for row in rows} == {(7, 6)}


def test_cpus_that_changed_between_the_sides_are_told_or_refused(kvmpc, keep):
    def of(allowed: str, count: int) -> Result:
        cpu = {"model": "AMD EPYC 7B13", "allowed": allowed, "allowed_count": count}
        return _result(2, host={**HOST, "cpu": cpu})

    old = keep("old", of("0-7", 8))
    elsewhere = kvmpc("check", keep("new", of("8-15", 8)), "--against", old)
    assert elsewhere.code == 0
    assert "warning: cpu.allowed: 8-15 against 0-7 in the baseline" in elsewhere.stderr
    fewer = kvmpc("check", keep("new", of("0-5", 6)), "--against", old)
    assert (fewer.code, fewer.stdout) == (2, "")
    assert "cpu.allowed_count: 6 against 8" in fewer.error


@pytest.mark.parametrize("kind", ["table", "markdown", "csv", "json", "ktap"])
def test_show_and_check_print_every_format_to_stdout(kvmpc, keep, lab1, kind):
    new = keep("new", _result(2, uffd=1.15))
    shown = kvmpc("show", new, "--format", kind)
    checked = kvmpc("check", new, "--against", lab1, "--format", kind)
    assert (shown.code, checked.code) == (0, 1)
    for finished in (shown, checked):
        assert finished.stdout.strip()
        assert finished.stderr == ""
        if kind == "json":
            json.loads(finished.stdout)
        if kind == "ktap":
            assert finished.stdout.startswith("KTAP version 1\n1..")


@pytest.mark.kvm
def test_compare_and_run_print_formats_and_the_raw_result_beside(kvmpc, tiny):
    finished = kvmpc("compare", "none", "uffd", *tiny, "--format", "csv", "--json", "result.json")
    assert finished.code == 0
    assert finished.stdout.splitlines()[0].startswith(
        "hostname,kernel,cpu,started,kvmpc,point,vcpus,"
    )
    assert len(finished.stdout.splitlines()) == 3
    assert "other_cpu_s" in (kvmpc.result().during or {})
    ran = kvmpc("run", "uffd", *tiny, "--format", "ktap", "--json", "-")
    assert ran.code == 0
    assert json.loads(ran.stdout)["schema"] == "kvmpc-result"
    assert "ok 1 uffd" in ran.stderr
