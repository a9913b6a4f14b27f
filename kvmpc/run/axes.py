"""What every option takes, from the command line or from a sweep's spec, by one set of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kvmpc.errors import UsageError
from kvmpc.host.headroom import allowed_cpus
from kvmpc.units import parse_counts, parse_duration_ns, parse_size_bytes
from kvmpc.work.placement import Placement, parse_cpus
from kvmpc.work.work import MAX_VCPUS_DEFAULT, Work, default_mem_per_vcpu_bytes

__all__ = ["AXES", "SCALARS", "Axis", "choices_of", "option_of", "work_of"]


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


@dataclass(frozen=True)
class Axis:
    """One option of `Work`: its field there, and how a value is read.

    What says where things are to be goes into `Placement.parse` together, as it is.
    """

    work_field: str
    read: Callable[[object, str], object]

    @property
    def counts(self) -> bool:
        """Whether a string may be a list of numbers, such as ``1-160:x2``."""
        return self.read is _count


AXES: Final[Mapping[str, Axis]] = {
    "vcpus": Axis("vcpus", _count),
    "mem_per_vcpu": Axis("mem_per_vcpu_bytes", _size),
    "touch_pages": Axis("touch_pages", _count),
    "order": Axis("order", _text),
    "access": Axis("access", _text),
    "overlap": Axis("overlap", _flag),
    "fetch_delay": Axis("fetch_delay_ns", _duration),
    "passes": Axis("passes", _count),
    "timeline": Axis("timeline", _flag),
    "split": Axis("split", _flag),
    "seed": Axis("seed", _count),
    **{
        name: Axis("placement", lambda value, _: value)
        for name in ("pin", "cpus", "reader_cpus", "numa", "cpu_latency")
    },
}

SCALARS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "rounds": _count,
    "warmup": _count,
    "watchdog": _seconds,
    "profile": _flag,
    "question": _text,
}


def option_of(name: str) -> str:
    """Return how an option is spelled on the command line."""
    return "--" + name.replace("_", "-")


def work_of(values: Mapping[str, object]) -> Work:
    """Return the work that `values` (options by name, None = not given) describe.

    Raises: UsageError naming the option.
    """
    read: dict[str, object] = {}
    placed: dict[str, object] = {}
    for name, axis in AXES.items():
        if values.get(name) is not None:
            value = axis.read(values[name], option_of(name))
            if axis.work_field == "placement":
                placed[name] = value
            else:
                read[axis.work_field] = value
    placement = Placement.parse(**placed)
    cpus = parse_cpus(placement.cpus, "--cpus") if placement.cpus else allowed_cpus()
    vcpus = read.setdefault("vcpus", min(len(cpus), MAX_VCPUS_DEFAULT))
    assert isinstance(vcpus, int)
    read.setdefault("mem_per_vcpu_bytes", default_mem_per_vcpu_bytes(max(1, vcpus)))
    return Work(**read, placement=placement)  # type: ignore[arg-type]


def choices_of(name: str, value: object) -> list[object]:
    """Return the values that an axis takes: a list's, or the one."""
    if isinstance(value, list):
        if not value:
            raise UsageError(
                option_of(name), "[]", "at least one value; without the line, the default"
            )
        return [choice for item in value for choice in choices_of(name, item)]
    if isinstance(value, str) and AXES[name].counts:
        return list(parse_counts(value, option_of(name)))
    return [value]
