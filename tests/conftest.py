"""What every test folder shares: whether a test that needs KVM runs, skips, or fails without."""

from __future__ import annotations

import os
import signal
from collections import Counter
from functools import cache

import pytest

from kvmpc.errors import KvmpcError
from kvmpc.kernel.kvm import Kvm
from kvmpc.kernel.userfaultfd import query_features
from tests.fakes.results import make_result, make_trial

__all__ = ["make_result", "make_trial"]


def pytest_configure() -> None:
    """Take nothing that a launcher left for the default: the tests hand it on to what they start.

    A shell's ``pytest &`` ignores Ctrl-C, nohup a hangup; kvmpc leaves that so, as it should.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's own
        if signal.getsignal(number) == signal.SIG_IGN:
            own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, own)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Tests count trials, and may run beside anything. What starves them is asked for by name.
    os.environ["KVMPC_BUSY_LIMIT"] = "off"


@cache
def _why_no_kvm() -> str | None:
    try:
        with Kvm():
            pass
        query_features()
    except KvmpcError as error:
        return str(error)
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `kvm` where there is none; with KVMPC_REQUIRE_KVM=1 fail it instead."""
    if item.get_closest_marker("kvm") is None:
        return
    reason = _why_no_kvm()
    if reason is None:
        return
    if os.environ.get("KVMPC_REQUIRE_KVM") == "1":
        pytest.fail(f"KVMPC_REQUIRE_KVM=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End by saying in one line what was not run, and why: a dot tells nobody what is missing."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ").split("\n")[0]
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple)
    )
    said = [f"{count} ({reason})" for reason, count in reasons.most_common()]
    if deselected := len(terminalreporter.stats.get("deselected", ())):
        said.append(f"{deselected} (not selected)")
    if said:
        terminalreporter.write_line(f"not run: {', '.join(said)}")
