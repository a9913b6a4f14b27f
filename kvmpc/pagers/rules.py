"""Which keys of a pager go together, with each other and with the work: one pure function.

A rule is about two settings that can both be had, but not at once. What values a key has is said by
its `Key`; what is more than a guest has pages, by who counts them (`kvmpc.pagers.shares`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from kvmpc.errors import UsageError
from kvmpc.pagers.spec import DEFAULT_SPIN
from kvmpc.work.work import Work

__all__ = ["Rule", "clash_of", "refuse_clash"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Two settings that clash.

    pager: the kind of pager it is about. one, other: keys of it as ``{key}``, or options of the
    work. holds: whether both are as the rule has them, by the values of all keys as a spec has them
    and the work. instead: what would do, and why these do not.
    """

    pager: str
    one: str
    other: str
    holds: Callable[[Mapping[str, str], Work], bool]
    instead: str


_RULES: Final = (
    Rule(
        pager="none",
        one="--access read",
        other="none,host=cold",
        holds=lambda keys, work: keys["host"] == "cold" and work.access == "read",
        instead="--access write, or none,host=populated: the kernel answers reads of untouched "
        "memory with one shared zero page, so nothing would be paged in",
    ),
    Rule(
        pager="uffd",
        one="spin={spin}",
        other="wait={wait}",
        holds=lambda keys, _: keys["spin"] != DEFAULT_SPIN and keys["wait"] != "adaptive",
        instead="wait=adaptive: nothing else spins for a time, and then sleeps",
    ),
    Rule(
        pager="uffd",
        one="wait=read",
        other="--fetch-delay and fetch=pipelined",
        holds=lambda keys, work: (
            keys["wait"] == "read" and keys["fetch"] == "pipelined" and work.fetch_delay_ns > 0
        ),
        instead="fetch=blocking, or another wait: a reader asleep in read(2) does not wake for a "
        "page that comes in meanwhile",
    ),
)


def clash_of(pager: str, keys: Mapping[str, str], work: Work) -> Rule | None:
    """Return the first rule that a pager of the kind `pager` breaks on `work`, if any.

    keys: every key of that kind with its value as a spec has it, those at their default as well.
    """
    return next((rule for rule in _RULES if rule.pager == pager and rule.holds(keys, work)), None)


def refuse_clash(pager: str, keys: Mapping[str, str], work: Work) -> None:
    """Refuse what `clash_of` finds. Raises: UsageError that names both."""
    rule = clash_of(pager, keys, work)
    if rule is not None:
        one, other = rule.one.format_map(keys), rule.other.format_map(keys)
        raise UsageError(f"{one} with {other}", one, rule.instead)
