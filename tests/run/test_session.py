"""What a session holds while it is open, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
from importlib.metadata import version

import pytest

from kvmpc.errors import HostError
from kvmpc.run import session as module
from kvmpc.run.session import Session
from kvmpc.trial.signals import KICK_SIGNAL

HANDLED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGCONT, KICK_SIGNAL,
)  # fmt: skip

pytestmark = pytest.mark.kvm


def handlers() -> list[object]:
    """Return who handles the signals that a run handles."""
    return [signal.getsignal(number) for number in HANDLED]


def test_signals_are_handled_and_kvm_is_open_within_the_block_only() -> None:
    before = handlers()
    with Session.open(("kvmpc",)) as session:
        assert all(now != then for now, then in zip(handlers(), before, strict=True))
        fd = session.kvm.fd
        os.fstat(fd)
        assert session.kvm.max_vcpus() >= 1
    assert handlers() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_signal_is_told_of_and_known_to_whoever_looks() -> None:
    told: list[str] = []
    with Session.open((), told.append) as session:
        assert session.interrupt.signal_name is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert session.interrupt.signal_name == "SIGTERM"
    assert told == ["SIGTERM"]


def test_a_host_without_kvm_leaves_the_signals_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise HostError("/dev/kvm", "there is none", "load the module")

    monkeypatch.setattr(module, "Kvm", refuse)
    before = handlers()
    with pytest.raises(HostError), Session.open(()):
        pytest.fail("opened")
    assert handlers() == before


def test_the_facts_are_those_of_this_run() -> None:
    with Session.open(["kvmpc", "compare"]) as session:
        facts = session.facts
    assert facts.tool_version == version("kvmpc")
    assert facts.command == ("kvmpc", "compare")
    assert facts.started.endswith("+00:00")
    kernel = facts.host["kernel"]
    assert isinstance(kernel, dict)
    assert kernel["release"] == os.uname().release
