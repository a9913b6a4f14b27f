"""kvmpc on a host where others have the CPUs: what it counts, says, and exits with."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from kvmpc.result.document import load, to_json
from kvmpc.result.metrics import LOST
from kvmpc.result.records import Role
from tests.fakes.results import fake_result, fake_trial

BUSY = {"KVMPC_BUSY_LIMIT": "10%"}
SMALL = ("--vcpus", "1", "--mem-per-vcpu", "8M", "--warmup", "0")

BURN = "print(flush=True)\nwhile True: pass"


@pytest.fixture
def crowded():
    """Keep this process, what it starts, and two others that always run, on one CPU."""
    allowed = os.sched_getaffinity(0)
    with ExitStack() as held:
        os.sched_setaffinity(0, {min(allowed)})
        held.callback(os.sched_setaffinity, 0, allowed)
        for _ in range(2):
            burner = held.enter_context(
                subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE)
            )
            held.callback(burner.kill)
            burner.stdout.readline()
        yield


@pytest.fixture
def in_quota():
    """A command that runs its arguments in a control group with a tenth of one CPU."""
    for root, files in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "90000", "cpu.cfs_quota_us": "9000"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": "9000 90000"}),
    ):
        group = root / f"kvmpc-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if all((group / name).exists() for name in files):
                for name, value in files.items():
                    (group / name).write_text(value)
                yield ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]
                return
        finally:
            group.rmdir()
    pytest.skip("no control group with a quota can be made here")


@pytest.fixture
def starved():
    """A run of two pagers, of which one was starved in all rounds, the other in one."""
    trials = [
        fake_trial("uffd", 1, 200.0, starved=True, metrics={"pages_per_s": 2e2, LOST.key: 0.4}),
        *(fake_trial("uffd", number) for number in (1, 2, 3)),
        *(
            fake_trial("exit", number, starved=True, metrics={"pages_per_s": 9.0, LOST.key: 0.83})
            for number in (1, 1, 1, 2, 2, 2, 3, 3, 3)
        ),
    ]
    return fake_result(*trials, options={"vcpus": 2, "rounds": 3, "busy_limit": 0.1})


@pytest.mark.kvm
def test_a_quota_that_bites_is_named_with_its_own_remedy(kvmpc, in_quota):
    work = ("--vcpus", "1", "--mem-per-vcpu", "16M", "--warmup", "0")
    finished = kvmpc("run", "exit", *work, "--json", str(kvmpc.json), within=in_quota, env=BUSY)
    assert finished.code == 3, finished
    assert "too busy to measure: a cgroup's quota withheld up to" in finished.error
    assert "remedy: lift it (cpu.max" in finished.error
    assert "others had" not in " ".join(finished.stdout.split())
    trials = load(str(kvmpc.json)).trials
    assert all(trial.starved and trial.metrics["throttled_cpu_s"] > 0 for trial in trials)


@pytest.mark.kvm
@pytest.mark.usefixtures("crowded")
def test_beside_two_loops_it_says_that_the_host_is_too_busy(kvmpc):
    finished = kvmpc(
        # Not none: on a fast host its trial is over within a slice of the scheduler's.
        "compare",
        "uffd",
        "exit",
        *SMALL,
        "--rounds",
        "2",
        "--json",
        str(kvmpc.json),
        env=BUSY,
    )
    assert finished.code == 3
    assert "this host is too busy to compare: others had up to" in finished.error
    assert "10% is allowed" in finished.error
    assert "remedy: " in finished.error
    assert finished.cells("exit(sigbus)")[-1] == finished.cells("uffd")[-1] == "busy"
    assert set(finished.cells("exit(sigbus)")[:-1]) == {"-"}
    result = load(str(kvmpc.json))
    assert result.finished
    assert result.options["busy_limit"] == 0.1
    measured = [trial for trial in result.trials if trial.role is Role.MEASURED]
    assert len(measured) == 2 * 2 * 3  # each twice again
    assert all(trial.starved for trial in measured)
    assert all(trial.metrics[LOST.key] > 0.10 for trial in measured)
    assert all(trial.metrics["wait_vcpus_s"] > 0 for trial in measured)


@pytest.mark.kvm
@pytest.mark.usefixtures("crowded")
def test_told_to_count_everything_it_does_and_cautions(kvmpc):
    finished = kvmpc("run", "exit", *SMALL, "--json", str(kvmpc.json))
    assert finished.code == 0
    (trial,) = load(str(kvmpc.json)).trials
    assert not trial.starved
    said = " ".join(finished.stderr.split())
    assert "of the CPU time that its threads asked for: vcpu0 waited for" in said


@pytest.mark.kvm
@pytest.mark.usefixtures("crowded")
def test_each_harness_takes_a_busy_host_for_one_that_cannot(kvmpc):
    arguments = ("run", "exit", *SMALL, "--busy-limit", "10")
    skipped = {"kselftest": 4, "bisect": 125, "automake": 77}
    for convention, code in skipped.items():
        assert kvmpc("--exit-codes", convention, *arguments).code == code
    finished = kvmpc(*arguments, "--format", "ktap")
    assert finished.code == 3
    assert finished.stdout.splitlines()[1] == "1..1"
    assert "ok 1 exit(sigbus) # SKIP this host was too busy: others had" in finished.stdout
    assert "Bail out!" not in finished.stdout


@pytest.mark.kvm
def test_a_sweep_goes_on_with_what_was_starved(kvmpc, request):
    (kvmpc.folder / "s.toml").write_text(
        'pagers = ["exit"]\nvcpus = 1\nmem_per_vcpu = "8M"\nrounds = 2\nwarmup = 1\n'
    )
    arguments = ("sweep", "s.toml", "--json", str(kvmpc.json), "--busy-limit", "10%")
    request.getfixturevalue("crowded")
    assert kvmpc(*arguments).code == 3
    assert len(load(str(kvmpc.json)).trials) == 1 + 2 * 3
    assert kvmpc(*arguments, "--resume").code == 3
    result = load(str(kvmpc.json))
    assert len(result.trials) == 1 + 2 * 6
    assert result.finished


@pytest.mark.kvm
def test_a_spec_may_say_how_busy_the_host_may_be_and_the_command_line_has_the_last_word(kvmpc):
    spec = 'pagers = ["none"]\nvcpus = 1\nmem_per_vcpu = "92K"\nrounds = 1\nbusy_limit = 25\n'
    (kvmpc.folder / "s.toml").write_text(spec)
    arguments = ("sweep", "s.toml", "--json", str(kvmpc.json))
    assert kvmpc(*arguments, env={"KVMPC_BUSY_LIMIT": ""}).code in (0, 3)
    assert load(str(kvmpc.json)).options["busy_limit"] == 0.25
    kvmpc.json.unlink()
    assert kvmpc(*arguments, "--busy-limit", "off").code == 0
    assert load(str(kvmpc.json)).options["busy_limit"] is None


@pytest.mark.parametrize(
    "value", ["0", "-1", "100", "1e9", "nan", "inf", "ten", "", "10%%", "%", "on", "0x10", "OFF"]
)
def test_a_limit_that_makes_no_sense_is_refused_before_anything_is_allocated(kvmpc, value):
    finished = kvmpc("compare", "--busy-limit", value)
    assert finished.code == 2
    assert f"--busy-limit: {value!r} is not possible; allowed: a percentage" in finished.error


@pytest.mark.parametrize("value", ["0", '"on"', "true", "[1, 2]", "200"])
def test_a_limit_in_a_spec_is_no_other(kvmpc, value):
    (kvmpc.folder / "s.toml").write_text(f"vcpus = 1\nbusy_limit = {value}\n")
    finished = kvmpc("sweep", "s.toml", env={"KVMPC_BUSY_LIMIT": ""})
    assert finished.code == 2
    assert "busy_limit" in finished.error


def test_the_table_says_which_trials_do_not_count_and_why(kvmpc, starved):
    finished = kvmpc("show", "-", given=to_json(starved))
    assert finished.code == 0
    assert finished.cells("exit(sigbus)")[-1] == "busy"
    assert finished.cells("uffd")[0] == "1,000"
    assert (
        "uffd was starved: others had up to 40% of the CPU time that its threads asked for in 1 "
        "of 4 trials, 3 of 3 rounds are left." in finished.told
    )
    assert "in 9 of 9 trials, 0 of 3 rounds are left, too few for numbers." in finished.told


def test_machines_and_runners_are_told_too(kvmpc, starved):
    given = to_json(starved)
    rows = list(
        csv.DictReader(io.StringIO(kvmpc("show", "-", "--format", "csv", given=given).stdout))
    )
    assert [(row["verified"], row["rounds"], row["starved_trials"]) for row in rows] == [
        ("yes", "3", "1"), ("busy", "0", "9"),
    ]  # fmt: skip
    assert rows[1]["pages_per_s"] == ""
    assert "others had up to 83%" in rows[1]["reason"]
    document = json.loads(kvmpc("show", "-", "--format", "json", given=given).stdout)
    assert document["rows"][1]["pages_per_s"] is None
    assert document["rows"][1]["starved_trials"] == 9
    tmt = kvmpc("show", "-", "--format", "tmt", given=given).stdout.splitlines()
    assert [json.loads(line[2:])["result"] for line in tmt] == ["pass", "skip"]


def test_a_busy_run_is_no_baseline_and_is_not_judged(kvmpc, starved):
    (kvmpc.folder / "busy.json").write_text(to_json(starved))
    good = fake_result(*(fake_trial(p, n) for n in range(1, 11) for p in ("uffd", "exit")))
    (kvmpc.folder / "good.json").write_text(to_json(good))
    env = {"KVMPC_BASELINES": str(kvmpc.folder / "kept")}
    finished = kvmpc("baseline", "save", "half", "busy.json", env=env)
    assert finished.code == 0
    assert "this host is too busy to compare" in finished.stderr
    wholly = fake_result(*(t for t in starved.trials if t.starved))
    (kvmpc.folder / "wholly.json").write_text(to_json(wholly))
    assert kvmpc("baseline", "save", "none", "wholly.json", env=env).code == 2
    finished = kvmpc("check", "wholly.json", "--against", "./good.json")
    assert finished.code == 2
    assert "the host of the result was too busy: others had up to 83%" in finished.error


def test_the_page_says_it(kvmpc, starved):
    pytest.importorskip("matplotlib")
    (kvmpc.folder / "r.json").write_text(to_json(starved))
    assert kvmpc("report", "r.json", "-o", "p.html").code == 0
    page = (kvmpc.folder / "p.html").read_text()
    assert "others had up to 83% of the CPU time that its threads asked for" in page
    assert ">busy<" in page


@pytest.mark.kvm
@pytest.mark.parametrize(
    "within", [["chrt", "-f", "10"], ["nice", "-n", "19"], ["chrt", "-b", "0"]], ids=" ".join
)
def test_another_priority_is_another_host_to_a_check(kvmpc, within):
    if os.geteuid():
        pytest.skip("needs root, for a real-time policy")
    if within[0] == "nice" and os.getpriority(os.PRIO_PROCESS, 0) == 19:
        pytest.skip("is as nice as can be already")
    few = ("compare", "none", "--vcpus", "1", "--mem-per-vcpu", "92K", "--rounds", "10")
    assert kvmpc(*few, "--json", "plain.json").code == 0
    assert kvmpc(*few, "--json", "other.json", within=within).code == 0
    refused = kvmpc("check", "other.json", "--against", "./plain.json")
    assert refused.code == 2
    field = "scheduling.nice" if within[0] == "nice" else "scheduling.policy"
    assert f"hosts differ in {field}: " in refused.error
    allowed = kvmpc("check", "other.json", "--against", "./plain.json", "--allow-host", field)
    assert "hosts differ" not in allowed.error
