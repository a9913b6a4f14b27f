"""What every run on this host needs, and what a result says of the run itself.

Handlers of signals come before anything that could be left behind: a thread of a trial can be
stopped only while they are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from kvmpc import __version__
from kvmpc.host.facts import collect
from kvmpc.kernel.kvm import Kvm
from kvmpc.trial.signals import Interrupt, hold_crashes, interruptible

__all__ = ["RunFacts", "Session"]


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before its first trial, as `Result` has it.

    command: the command line; started: ISO 8601, UTC; host: as `kvmpc.host.facts.collect` gives it.
    """

    tool_version: str
    command: tuple[str, ...]
    started: str
    host: Mapping[str, object]


@dataclass(frozen=True)
class Session:
    """An open KVM, whether somebody asked for the end, and the facts of the run: one a process."""

    kvm: Kvm
    interrupt: Interrupt
    facts: RunFacts

    @classmethod
    @contextmanager
    def open(
        cls, command: Sequence[str], told: Callable[[str], None] = lambda _: None
    ) -> Iterator[Self]:
        """Handle signals and hold KVM open for the block. In the main thread only.

        command: what was typed. told: called with the name of the first signal, in its handler.
        Raises: HostError.
        """
        with interruptible(told) as interrupt, Kvm() as kvm:
            hold_crashes()
            facts = RunFacts(
                tool_version=__version__,
                command=tuple(command),
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                host=collect(),
            )
            yield cls(kvm, interrupt, facts)
