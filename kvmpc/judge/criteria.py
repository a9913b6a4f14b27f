"""What `kvmpc.judge.regression` judges, and when it calls a row red."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from kvmpc.errors import UsageError
from kvmpc.judge.same_host import IDENTITY
from kvmpc.result.metrics import CPU, FAULT_P99, RATE, Metric

__all__ = ["DEFAULT_ALPHA", "JUDGED", "Criteria", "Judged", "parse_alpha", "parse_limit"]

DEFAULT_ALPHA: Final = 0.01


@dataclass(frozen=True)
class Judged:
    """A metric that is judged: what it is called here, and the change that is tolerated."""

    name: str
    metric: Metric
    limit: float

    @property
    def rounding(self) -> float:
        """By how much a shift of its logarithm may be off, since both sides are blurred."""
        return 2 * self.metric.blur


JUDGED: Final[Mapping[str, Judged]] = {
    judged.name: judged
    for judged in (
        Judged("rate", RATE, 0.05),
        Judged("p99", FAULT_P99, 0.15),
        Judged("cpu", CPU, 0.05),
    )
}
"""By the name that ``--limit`` takes; `limit` is the default."""


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """What a check judges by.

    alpha: probability of a false alarm of the whole check.
    alphas: by metric; such a metric is a family of its own, and adds its alpha to the whole.
    limits: by metric, the relative change that is tolerated; None = the metric is not judged.
    normalise: bring each value to one speed of the host: what the whole host lost or won between
        runs is divided out.
    allow_host: facts of `hostmatch.IDENTITY` that may differ.
    allow_missing: what the baseline has measured and the result need not have: pagers, by spec or
        label, and points; what fails now, too.
    allow_unfinished: whether to judge what there is of a run that did not finish.

    Raises: UsageError.
    """

    alpha: float = DEFAULT_ALPHA
    alphas: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float | None] = field(default_factory=dict)
    normalise: bool = False
    allow_host: tuple[str, ...] = ()
    allow_missing: tuple[str, ...] = ()
    allow_unfinished: bool = False

    def __post_init__(self) -> None:
        for name in (*self.alphas, *self.limits):
            if name not in JUDGED:
                raise UsageError("metric", name, _metrics())
        for alpha in (self.alpha, *self.alphas.values()):
            if not 1e-6 <= alpha <= 0.5:
                raise UsageError("--alpha", alpha, "a probability from 0.000001 to 0.5")
        for limit in self.limits.values():
            if limit is not None and not 0 <= limit <= 10:
                raise UsageError("--limit", limit, "0% to 1000%, or off")
        for name in self.allow_host:
            if name not in IDENTITY:
                raise UsageError("--allow-host", name, ", ".join(IDENTITY))
        if not self.judged:
            raise UsageError("--limit", "off", "at least one metric that is judged")

    @property
    def judged(self) -> dict[Judged, float]:
        """The metrics that are judged, with their limits."""
        limits = {judged: self.limits.get(name, judged.limit) for name, judged in JUDGED.items()}
        return {judged: limit for judged, limit in limits.items() if limit is not None}


def parse_limit(text: str) -> tuple[str, float | None]:
    """Return the metric and the limit in ``rate=5%``, ``rate=0.05`` or ``rate=off``.

    Raises: UsageError.
    """
    name, equals, value = text.partition("=")
    if name not in JUDGED or not equals:
        raise UsageError("--limit", text, f"METRIC=PERCENT or METRIC=off; {_metrics()}")
    if value == "off":
        return name, None
    share = value.endswith("%")
    number = _number(value.removesuffix("%"))
    if number is None:
        raise UsageError("--limit", text, "a percentage such as 5%, a share such as 0.05, or off")
    return name, number / 100 if share else number


def parse_alpha(text: str) -> tuple[str | None, float]:
    """Return the metric (None: all) and the probability in ``0.01`` or ``rate=0.001``.

    Raises: UsageError.
    """
    name, equals, value = text.rpartition("=")
    number = _number(value)
    if number is None or (equals and name not in JUDGED):
        raise UsageError("--alpha", text, f"P or METRIC=P; {_metrics()}")
    return name or None, number


def _metrics() -> str:
    return f"metrics: {', '.join(JUDGED)}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
