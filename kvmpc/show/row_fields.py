"""What a row says for programs beside its rate: of which run it is, its cautions, where time went.

Names are columns of CSV and keys of JSON, the same for every row of every result, so that rows of
several can be put below each other. What was not measured is None.
"""

from __future__ import annotations

from kvmpc.judge.reading import PointReading, Reading
from kvmpc.judge.rows import Row, usable_profiles, usable_trials, values_of
from kvmpc.judge.summary import median
from kvmpc.result.facts import Facts
from kvmpc.result.metrics import INSTALL, PART_QUANTILES, PARTS, part_metric
from kvmpc.result.records import WAITERS, Result
from kvmpc.show.cells import row_name

__all__ = ["further_fields", "run_fields"]

_MODES = ("guest", "kernel", "user")


def run_fields(result: Result) -> dict[str, object]:
    """Return of which run a row is: its host, kernel, begin (ISO 8601, UTC) and kvmpc.

    kvmpc: the version that measured.
    """
    facts = Facts(result.host)
    return {
        "hostname": facts.text("hostname"),
        "kernel": facts.text("kernel.release"),
        "cpu": facts.text("cpu.model"),
        "started": result.started,
        "kvmpc": result.tool_version,
    }


def further_fields(reading: Reading, at: PointReading, row: Row) -> dict[str, object]:
    """Return what else was found of a row.

    cautions: codes of what weakens it, the worst first. Times are medians over rounds, in ns:
    install_ns_per_page of a mean, those of the split of quantiles. Shares of a profile are of all
    its CPU time, absent where it has too few samples for any (`profile_samples`).
    """
    trials = usable_trials(at.result, row.spec)
    metrics = [INSTALL, *(part_metric(part, name) for part in PARTS for name in PART_QUANTILES)]
    return {
        **{metric.key: median(values_of(trials, metric.key)) for metric in metrics},
        **_profile_fields(at, row),
        "cautions": "; ".join(_codes(reading, row_name(at.name, row.label))) or None,
    }


def _codes(reading: Reading, name: str) -> list[str]:
    return [told.code for told in reading.cautions if told.unit == "run" or name in told.places]


def _profile_fields(at: PointReading, row: Row) -> dict[str, object]:
    """Return the shares of a row's profile, of which there is one at most."""
    profile = next(iter(usable_profiles(at.result, row.spec)), None)
    telling = profile if profile is not None and profile.tells else None
    spin = telling.spin if telling else {}
    hidden = telling.irqs_off if telling else {}
    return {
        "profile_event": profile.event if profile else None,
        "profile_samples": profile.samples if profile else None,
        **{
            f"profile_{mode}_share": telling.modes.get(mode, 0.0) if telling else None
            for mode in _MODES
        },
        "profile_spin_share": sum(spin.values()) if spin else None,
        **{f"profile_spin_{waiter}_share": spin.get(waiter) for waiter in WAITERS},
        "profile_irqs_off_share": sum(hidden.values()) if hidden else None,
    }
