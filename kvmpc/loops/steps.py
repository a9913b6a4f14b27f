"""Which variant of each step a program is linked with: `Steps`, frozen, every name an asm label.

A pager, its source and its install each decide some of them; the loops call a step by its name and
never know which variant it is. A new variant is a label in an asm file and a word here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = ["InstallStep", "Steps", "Wait"]

Fetch = Literal["fetch_now", "fetch_sleep", "fetch_now_noted", "fetch_sleep_noted"]
Stage = Literal["stage_tags", "stage_stamped", "stage_stamped_later"]
InstallStep = Literal["install_copy"]
Publish = Literal["publish_bit", "publish_stamped"]
Lost = Literal["lost_drop", "lost_wait"]
Wake = Literal["wake_range", "wake_losers"]
Take = Literal["take_now", "take_later"]
InstallDue = Literal["due_none", "due_installs"]
Wait = Literal[
    "wait_poll",
    "wait_epoll",
    "wait_read",
    "wait_spin",
    "wait_adaptive_poll",
    "wait_adaptive_epoll",
]

_NOTED: Final[Mapping[Fetch, Fetch]] = {
    "fetch_now": "fetch_now_noted",
    "fetch_sleep": "fetch_sleep_noted",
}


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The variant of every step that has some; a field is the step's name in the loops.

    fetch, stage, install, publish, lost, wake: of `resolve` (resolve.asm), in that order.
    take, install_due, wait: of a reader (take.asm, wait.asm).
    """

    fetch: Fetch = "fetch_now"
    stage: Stage = "stage_tags"
    install: InstallStep = "install_copy"
    publish: Publish = "publish_bit"
    lost: Lost = "lost_drop"
    wake: Wake = "wake_range"
    take: Take = "take_now"
    install_due: InstallDue = "due_none"
    wait: Wait = "wait_poll"

    def stamped(self) -> Steps:
        """Return the same with the variants that leave a latency split's stamps in the page."""
        if self.take == "take_later":
            # The ring keeps the time of the claim, so `fetch`, which is never called, need not.
            return replace(self, stage="stage_stamped_later", publish="publish_stamped")
        fetch = _NOTED[self.fetch]
        return replace(self, fetch=fetch, stage="stage_stamped", publish="publish_stamped")
