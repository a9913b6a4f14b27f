"""The tables of a panel that belong to no chart."""

from __future__ import annotations

from dataclasses import replace

from kvmpc.show.page.panels import panels_of
from kvmpc.show.page.tables import NUMBER_HEADERS, number_groups, scaling
from tests.fakes.sweeps import skipped, sweep


def test_scaling_tells_where_a_pager_peaks() -> None:
    rows = {row[0]: row for row in scaling(panels_of(sweep((1, 4, 160), rounds=3))[0]).rows}
    assert rows["uffd"][3] == "4 vCPUs"
    assert rows["none"][3] == "160 vCPUs"


def test_a_single_point_does_not_scale_and_neither_does_a_pager_with_one_rate() -> None:
    assert scaling(panels_of(sweep((4,), rounds=1))[0]).rows == ()
    result = sweep((1, 4), ("uffd", "exit"), rounds=1)
    trials = tuple(t for t in result.trials if t.pager == "uffd" or t.vcpus == 1)
    (panel,) = panels_of(replace(result, trials=trials))
    assert [row[0] for row in scaling(panel).rows] == ["uffd"]


def test_numbers_have_a_group_for_each_point_and_a_row_for_each_pager() -> None:
    result = sweep((1, 2), ("uffd", "exit"), rounds=2)
    result = replace(
        result,
        trials=tuple(t for t in result.trials if t.pager == "uffd" or t.vcpus == 1),
        skipped=(skipped(1, "exit", "no memory"),),
    )
    groups = number_groups(panels_of(result)[0])
    assert [name for name, _ in groups] == ["1 vCPU", "2 vCPUs"]
    assert [[row[0] for row in rows] for _, rows in groups] == [["uffd", "exit(sigbus)"]] * 2
    assert dict(zip(NUMBER_HEADERS, groups[1][1][1], strict=True)) == {
        "pager": "exit(sigbus)", "verified": "skipped", "rounds": "0",
        **dict.fromkeys(NUMBER_HEADERS[1:8], "-"),
    }  # fmt: skip
