"""A sweep's spec: what is measured for it, and what is refused, by name, before anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvmpc.errors import UsageError
from kvmpc.run.plan import Plan, make_plan
from kvmpc.run.sweep import read_spec
from kvmpc.units import MIB

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def spec(tmp_path: Path) -> Any:
    """Read a spec from its text."""

    def read(text: str, *settings: str, **options: Any) -> Plan:
        path = tmp_path / "s.toml"
        path.write_text(text)
        return read_spec(str(path), settings, **options)

    return read


def _shape(plan: Plan) -> list[tuple[int, int, tuple[str, ...]]]:
    return [
        (
            point.work.vcpus,
            point.work.mem_per_vcpu_bytes // MIB,
            tuple(p.spec for p in point.pagers),
        )
        for point in plan.points
    ]


def test_every_option_may_be_a_list_and_all_combinations_are_measured(spec: Any) -> None:
    plan = spec(
        'vcpus = [1, 3]\nmem_per_vcpu = ["1M", "2M"]\npagers = ["uffd", "exit"]\n'
        'overlap = [false, true]\nrounds = 5\nwarmup = 0\nquestion = "?"\n'
    )
    both = ("uffd", "exit")
    assert _shape(plan) == [
        (vcpus, mib, both) for vcpus in (1, 3) for mib in (1, 2) for _ in range(2)
    ]
    assert [point.work.overlap for point in plan.points] == [False, True] * 4
    assert (plan.rounds, plan.warmup, plan.question, len(plan)) == (5, 0, "?", 80)


def test_grids_add_up_and_a_point_that_two_have_is_one_point(spec: Any) -> None:
    plan = spec(
        'mem_per_vcpu = "1M"\n[[grid]]\nvcpus = "1-4:x2"\npagers = ["uffd"]\n'
        '[[grid]]\nvcpus = 4\npagers = ["uffd,readers=1-8:x2", "exit"]\n'
    )
    readers = tuple(f"uffd,readers={n}" for n in (2, 4, 8))
    assert _shape(plan) == [
        (1, 1, ("uffd",)),
        (2, 1, ("uffd",)),
        (4, 1, ("uffd", *readers, "exit")),
    ]


def test_a_line_is_set_anew_wherever_it_stands(spec: Any) -> None:
    text = 'vcpus = 2\n[[grid]]\nmem_per_vcpu = "4G"\n[[grid]]\nmem_per_vcpu = ["8G", "1G"]\n'
    plan = spec(text, "mem_per_vcpu=1M", "rounds=7", 'pagers=["exit"]', "vcpus=3,5")
    assert _shape(plan) == [(3, 1, ("exit",)), (5, 1, ("exit",))]
    assert plan.rounds == 7
    assert _shape(spec("vcpus = 1", "pagers=uffd exit", "mem_per_vcpu=1M")) == [
        (1, 1, ("uffd", "exit"))
    ]


def test_placement_is_an_option_like_others(spec: Any) -> None:
    plan = spec('cpus = ["0", "0-1"]\npin = [true, false]\nnuma = "local"\n')
    assert [(p.work.placement.cpus, p.work.placement.pin) for p in plan.points] == [
        ("0", True), ("0", False), ("0-1", True), ("0-1", False),
    ]  # fmt: skip
    assert {point.work.placement.numa for point in plan.points} == {"local"}
    assert [point.work.vcpus for point in plan.points] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cpu = 3", ["cpu", "unknown key", "vcpus"]),
        ("[[grid]]\nrounds = 3", ["rounds", "unknown key"]),
        ("vcpus = true", ["--vcpus", "True", "whole number"]),
        ("vcpus = 1.5", ["--vcpus", "1.5", "whole number"]),
        ("vcpus = [1, 'many']", ["--vcpus", "many"]),
        ("vcpus = []", ["--vcpus", "at least one value"]),
        ("vcpus = 0", ["--vcpus", "0", "1 up to"]),
        ("mem_per_vcpu = 1.5", ["--mem-per-vcpu", "1.5"]),
        ("mem_per_vcpu = '4X'", ["--mem-per-vcpu", "4X"]),
        ("fetch_delay = 200", ["--fetch-delay", "200"]),
        ("overlap = 'yes'", ["--overlap", "yes", "true or false"]),
        ("order = 'odd'", ["--order", "odd", "scattered"]),
        ("pin = 'x'", ["--pin", "x"]),
        ("cpus = '0-'", ["--cpus", "0-"]),
        ("rounds = [1, 2]", ["rounds", "one value"]),
        ("rounds = 0", ["--rounds", "0", "1 to 1000"]),
        ("watchdog = 'soon'", ["watchdog", "soon"]),
        ("pagers = []", ["pagers", "uffd"]),
        ("pagers = [1]", ["pagers", "uffd"]),
        ("pagers = ['uffd,readers=0-4']", ["readers=0"]),
        ("pagers = ['uffd', 'uffd,readers=1']", ["each pager once"]),
        ("pagers = ['ufd']", ["ufd", "none, uffd, exit"]),
        ("grid = 3", ["grid", "[[grid]]"]),
        ("grid = [3]", ["grid", "[[grid]]"]),
        ("vcpus = ", ["TOML"]),
        ("vcpus = 1\nvcpus = 2", ["TOML"]),
    ],
)
def test_a_slip_is_named_with_what_is_allowed(spec: Any, text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        spec(text)
    for word in words:
        assert word in str(caught.value)


def test_a_spec_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, word in (("nowhere", "ENOENT"), ("binary", "UTF-8"), (".", "EISDIR")):
        with pytest.raises(UsageError, match=word):
            read_spec(str(tmp_path / name))


def test_more_than_ten_thousand_trials_are_asked_about_before_they_are_made(spec: Any) -> None:
    text = "vcpus = '1-9999'\nseed = '1-9999'\n"
    with pytest.raises(UsageError, match="--yes"):
        spec(text)
    with pytest.raises(UsageError, match="--yes"):
        spec("vcpus = '1-1000'\nrounds = 3\n")
    assert len(spec("vcpus = '1-1000'\nrounds = 3\npagers = ['uffd']\n", confirmed=True)) == 4000


def test_the_command_line_makes_the_same_plan(spec: Any) -> None:
    text = 'vcpus = "1-4:x2"\nmem_per_vcpu = "1M"\nfetch_delay = "20us"\npagers = ["uffd"]\n'
    plan = make_plan(
        {"vcpus": "1,2,4", "mem_per_vcpu": "1M", "fetch_delay": "20us", "touch_pages": None},
        ["uffd"],
        rounds=3,
        warmup=1,
        watchdog_s=10.0,
    )
    assert plan.points == spec(text).points


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_spec_opens_with_its_question_time_and_memory(path: Path) -> None:
    plan = read_spec(str(path), confirmed=True)
    comment = path.read_text().partition("\nquestion")[0]
    assert plan.question
    assert "?" in plan.question
    assert all(line.startswith("#") for line in comment.split("\n") if line)
    for word in ("?", "needs", "iB"):
        assert word in comment.lower() or word in comment
    assert any(word in comment for word in ("minute", "hour", "day"))


def test_the_talks_experiment_has_its_vcpus_and_readers() -> None:
    plan = read_spec(str(BENCH / "talk-2018.toml"))
    steps = [1, 2, 4, 8, 16, 32, 64, 128, 160]
    assert [point.work.vcpus for point in plan.points] == steps
    assert {point.work.mem_per_vcpu_bytes for point in plan.points} == {4 << 30}
    readers = [p.spec for p in plan.points[-1].pagers if p.spec.startswith("uffd")]
    polling = ["uffd,wait=poll", *(f"uffd,readers={n},wait=poll" for n in steps[1:])]
    assert readers == ["uffd", *polling]
