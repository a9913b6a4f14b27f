"""Every metric is defined once, and its key ends in its unit."""

from __future__ import annotations

import pytest

from kvmpc.result.metrics import FAULT_P99, METRICS, Metric, part_metric


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_key_ends_in_its_unit(metric: Metric) -> None:
    unit = metric.unit.lower().replace("/", "_per_")
    # cpu_s_per_gib and pages_per_s are a quantity that is all unit, or begin with what it is of.
    assert metric.key == unit or metric.key.endswith(f"_{unit}")
    assert metric.better in (-1, 0, 1)
    assert metric.meaning


def test_families_are_made_by_rule() -> None:
    assert METRICS["fault_p99_ns"] is FAULT_P99
    assert METRICS["install_back_p50_ns"] is part_metric("install_back", "p50")
    with pytest.raises(KeyError):
        part_metric("install", "p98")
