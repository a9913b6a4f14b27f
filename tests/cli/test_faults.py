"""A trial that goes wrong: its row fails with the reason and has no rate; the others go on."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.kvm

WORK = ("--vcpus", "2", "--mem-per-vcpu", "92K", "--rounds", "1", "--warmup", "0")
QUICK = ("--watchdog", "1")


def _fails(kvmpc, fault, spec, *words, pagers=("none", "uffd", "exit"), options=()):
    """Check everything that a failed row must and must not say; return its error."""
    finished = kvmpc.inject(
        f"{fault}@{spec}", "compare", *pagers, *WORK, *options, "--json", str(kvmpc.json)
    )
    assert finished.code == 4
    assert finished.error == ""
    result = kvmpc.result()
    assert result.finished
    assert [trial.pager for trial in result.trials] == list(pagers)
    for trial in result.trials:
        if trial.pager == spec:
            assert trial.status == "failed"
            assert trial.metrics == {}
            assert trial.elapsed_ns is None
            assert trial.verified is None
            *numbers, outcome = finished.cells(trial.label)
            assert set(numbers) == {"-"}
            assert outcome == "FAILED"
            told = f"{trial.label} failed (1 of 1 trials): {trial.error}"
            assert told in finished.told
            error = trial.error
        else:
            assert trial.status == "ok"
            assert float(finished.cells(trial.label)[0].replace(",", "")) > 0
            assert finished.cells(trial.label)[-1] in ("yes", "zeros")
    for word in words:
        assert re.search(word, error), f"{word!r} not in {error!r}"
    return error


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_one_wrong_page_fails_the_row_and_is_named(kvmpc, spec):
    error = _fails(
        kvmpc, "wrong-tag", spec, r"vcpu1 found a wrong tag in 1 of its pages", r"first in page 40 "
    )
    found, expected = (re.findall(r"0x[0-9a-f]{16}", error)[i] for i in (0, 2))
    assert int(found, 16) ^ int(expected, 16) == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("uffd", ["reader0.0: UFFDIO_COPY of page (0|23): ENOTTY"]),
        ("uffd,uffds=2", ["reader1.0: UFFDIO_COPY of page 23: ENOTTY"]),
        ("exit,uffds=2", ["vcpu1: UFFDIO_COPY of page 23: ENOTTY"]),
    ],
)
def test_an_install_that_fails_names_the_thread_and_the_page(kvmpc, spec, words):
    _fails(kvmpc, "failing-install", spec, *words, pagers=("none", spec, "uffd,uffds=3"))


def test_a_reader_that_cannot_read_fails_the_row(kvmpc):
    _fails(kvmpc, "blind-reader", "uffd", "reader0.0: READ: EBADF")


def test_a_reader_that_raises_fails_the_row(kvmpc):
    _fails(
        kvmpc, "raising-reader", "uffd", "reader0.0 died", "injected: the reader's thread raised"
    )


@pytest.mark.parametrize("fault", ["gone-reader", "silent-reader"])
def test_a_reader_that_never_answers_is_found_by_the_watchdog(kvmpc, fault):
    _fails(
        kvmpc, fault, "uffd",
        "no page arrived for 1 s", "vcpu0 for page 0", "vcpu1 for page 23",
        options=QUICK,
    )  # fmt: skip


def test_one_reader_of_several_that_never_answers_is_made_up_for_by_none(kvmpc):
    spec = "uffd,uffds=2"
    _fails(
        kvmpc, "silent-reader", spec, "no page arrived for 1 s", "vcpu1 for page 23",
        pagers=("none", spec, "exit"), options=QUICK,
    )  # fmt: skip


@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_a_page_fault_in_the_guest_is_reported_with_its_registers(kvmpc, spec):
    # A store from ring 3 to word 1 of a page that is not mapped.
    _fails(
        kvmpc, "page-fault", spec,
        r"^vcpu1: exception #PF page fault", r"error code 0x6\b", r"rip 0x2[0-9a-f]{3}\b",
        r"cr2 0x400000000008$",
    )  # fmt: skip


def test_an_address_that_is_none_is_reported_with_its_vector(kvmpc):
    _fails(kvmpc, "general-protection", "exit", "^vcpu1: exception #GP", r"error code 0x0\b")


@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_a_triple_fault_is_reported_with_its_vcpu(kvmpc, spec):
    _fails(
        kvmpc, "triple-fault", spec,
        r"^vcpu1: KVM_EXIT_SHUTDOWN \(triple fault\)", r"rip 0x2[0-9a-f]{3}\b",
    )  # fmt: skip


@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_an_exit_that_nobody_asked_for_is_reported_with_its_address(kvmpc, spec):
    # Behind 46 pages of data memory, rounded up to what the guest maps.
    _fails(kvmpc, "odd-exit", spec, r"^vcpu1: KVM_EXIT_MMIO at gpa 0x10012e008\b")


def test_every_round_of_a_failing_pager_fails_and_no_other(kvmpc):
    finished = kvmpc.inject(
        "wrong-tag@uffd", "compare", "uffd", "exit", *WORK, "--rounds", "3",
        "--json", str(kvmpc.json),
    )  # fmt: skip
    assert finished.code == 4
    assert "uffd failed (3 of 3 trials)" in finished.told
    assert "No ratios: uffd, which they would refer to, failed." in finished.told
    assert [t.status for t in kvmpc.result().trials if t.pager == "exit"] == ["ok"] * 3


def test_run_of_a_failing_pager_has_the_same_exit_code(kvmpc):
    finished = kvmpc.inject("wrong-tag", "run", "exit", *WORK)
    assert finished.code == 4
    assert finished.cells("exit(sigbus)")[-1] == "FAILED"


def test_a_failed_result_is_shown_as_it_was(kvmpc):
    first = kvmpc.inject(
        "wrong-tag@uffd", "compare", "none", "uffd", *WORK, "--json", str(kvmpc.json)
    )
    shown = kvmpc("show", str(kvmpc.json))
    assert shown.code == 0
    assert shown.stdout == first.stdout


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_a_thread_that_cannot_be_started_fails_its_row_with_a_remedy(kvmpc, spec):
    finished = kvmpc.inject(
        f"thread-limit@{spec}", "compare", "none", spec, *WORK, "--vcpus", "3",
        "--json", str(kvmpc.json),
    )  # fmt: skip
    assert finished.code == 4
    result = kvmpc.result()
    assert result.finished
    of_pager = {trial.label: trial for trial in result.trials}
    assert of_pager["none"].status == "ok"
    error = of_pager[{"exit": "exit(sigbus)"}.get(spec, spec)].error
    assert re.search(r"thread vcpu[12]: the system starts no more threads", error)
    assert "remedy: raise ulimit -u" in error


def test_a_thread_that_finds_a_limit_exhausted_names_it(kvmpc):
    finished = kvmpc.inject(
        "no-address-space", "run", "uffd", *WORK, "--vcpus", "32", "--json", str(kvmpc.json)
    )
    assert finished.code == 4
    [trial] = kvmpc.result().trials
    assert "ulimit -v leaves" in trial.error
    assert "ulimit -v unlimited" in trial.error
    assert "pids" not in trial.error


def test_a_thread_that_never_leaves_ends_the_run(kvmpc):
    # Its memory cannot be unmapped any more: whatever came next would be measured beside it.
    finished = kvmpc.inject(
        "deaf-reader@uffd", "compare", "uffd", "none", *WORK, *QUICK, "--json", str(kvmpc.json)
    )
    assert finished.code == 4
    assert "kvmpc: threads would not leave: reader0.0; the run ends here" in finished.error
    result = kvmpc.result()
    assert not result.finished
    assert result.trials == ()
    assert re.search(r"^none( +-){8}$", finished.stdout, re.MULTILINE)


@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_the_fault_program_without_its_pager_changes_nothing(kvmpc, spec):
    """Otherwise the faults above could be the injector's."""
    finished = kvmpc.inject("wrong-tag@nothing", "run", spec, *WORK)
    assert finished.code == 0
