"""What every option takes, from the command line or from a sweep's spec, by one set of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kvmpc.errors import UsageError
from kvmpc.units import parse_counts, parse_duration_ns, parse_size_bytes
from kvmpc.work.placement import Placement, parse_cpus
from kvmpc.work.work import MAX_VCPUS_DEFAULT, Work, default_mem_per_vcpu_bytes

__all__ = ["AXES", "SCALARS", "Option", "busy_limit_of", "choices_of", "work_of"]


def _count(value: object, option: str) -> int:
    if isinstance(value, str):
        counts = parse_counts(value, option)
        if len(counts) == 1:
            return counts[0]
    elif type(value) is int:
        return value
    raise UsageError(option, value, "a whole number")


def _text(value: object, option: str) -> str:
    if not isinstance(value, str):
        raise UsageError(option, value, "text")
    return value


def _flag(value: object, option: str) -> bool:
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise UsageError(option, value, "true or false")
    return value


def _size(value: object, option: str) -> int:
    return value if type(value) is int else parse_size_bytes(_text(value, option), option)


def _duration(value: object, option: str) -> int:
    return parse_duration_ns("0" if value == 0 else _text(value, option), option)


def _seconds(value: object, option: str) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, int | float | str):
            return float(value)
    except ValueError:
        pass
    raise UsageError(option, value, "a number of seconds")


def busy_limit_of(value: object, option: str) -> float | None:
    """Return the share of CPU time that others may have of a trial; None for any."""
    if value == "off":
        return None
    try:
        if not isinstance(value, bool) and isinstance(value, int | float | str):
            percent = float(str(value).removesuffix("%"))
            if 0 < percent < 100:
                return percent / 100
    except ValueError:
        pass
    raise UsageError(option, value, "a percentage above 0 and below 100, or off")


@dataclass(frozen=True)
class Option:
    """One option of `Work`: its field there, and how a value is read.

    What says where things are to be goes into `Placement.parse` together, as it is.
    """

    work_field: str
    read: Callable[[object, str], Any]

    @property
    def counts(self) -> bool:
        """Whether a string may be a list of numbers, such as ``1-160:x2``."""
        return self.read is _count


AXES: Final[Mapping[str, Option]] = {
    "vcpus": Option("vcpus", _count),
    "mem_per_vcpu": Option("mem_per_vcpu_bytes", _size),
    "touch_pages": Option("touch_pages", _count),
    "order": Option("order", _text),
    "access": Option("access", _text),
    "overlap": Option("overlap", _flag),
    "fetch_delay": Option("fetch_delay_ns", _duration),
    "passes": Option("passes", _count),
    "timeline": Option("timeline", _flag),
    "split": Option("split", _flag),
    "verify": Option("verify", _text),
    "seed": Option("seed", _count),
    **{
        name: Option("placement", lambda value, _: value)
        for name in ("pin", "cpus", "reader_cpus", "numa", "cpu_latency")
    },
}

SCALARS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "rounds": _count,
    "warmup": _count,
    "watchdog": _seconds,
    "profile": _flag,
    "busy_limit": busy_limit_of,
    "question": _text,
}


def _option_of(name: str) -> str:
    """Return how an option is spelled on the command line."""
    return "--" + name.replace("_", "-")


def work_of(values: Mapping[str, object], cpus: Sequence[int]) -> Work:
    """Return the work that `values` (options by name, None = not given) describe.

    cpus: those that this process may use: as many vCPUs there are unless told.
    Raises: UsageError naming the option.
    """
    read: dict[str, Any] = {}
    placed: dict[str, object] = {}
    for name, axis in AXES.items():
        if values.get(name) is not None:
            value = axis.read(values[name], _option_of(name))
            if axis.work_field == "placement":
                placed[name] = value
            else:
                read[axis.work_field] = value
    placement = Placement.parse(**placed)
    if placement.cpus:
        cpus = parse_cpus(placement.cpus, "--cpus")
    vcpus = read.setdefault("vcpus", min(len(cpus), MAX_VCPUS_DEFAULT))
    read.setdefault("mem_per_vcpu_bytes", default_mem_per_vcpu_bytes(max(1, vcpus)))
    return Work(**read, placement=placement)


def choices_of(name: str, value: object) -> list[object]:
    """Return the values that an axis takes: a list's, or the one.

    Raises: UsageError naming the option.
    """
    if isinstance(value, list):
        if not value:
            raise UsageError(
                _option_of(name), "[]", "at least one value; without the line, the default"
            )
        return [choice for item in value for choice in choices_of(name, item)]
    if isinstance(value, str) and AXES[name].counts:
        return list(parse_counts(value, _option_of(name)))
    return [value]
