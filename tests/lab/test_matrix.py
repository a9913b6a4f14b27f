"""kvmpc on Debian's 6.1 and 6.12, each with three MMUs, under QEMU's software emulation.

Each machine is booted once and does everything; the tests look at what came back.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from . import cells
from .cells import CELLS, MMUS, SERIES, STOPS, Cell

MACHINES = [(series, mmu) for mmu in MMUS for series in SERIES]

QUICK = {("6.12", "tdp"), ("6.1", "tdp"), ("6.1", "shadow"), ("6.12", "shadow")}
"""What CI boots: each kernel with the MMU that hosts have, and with the one that differs most."""

pytestmark = [
    pytest.mark.lab,
    pytest.mark.parametrize(
        "machine",
        [
            pytest.param(
                machine,
                id="-".join(machine),
                marks=[pytest.mark.quick] if machine in QUICK else [],
            )
            for machine in MACHINES
        ],
        indirect=True,
    ),
]


@pytest.fixture
def cell_record(machine: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """What one cell's run gave."""
    found: dict[str, Any]
    (found,) = (
        record
        for record in machine["cells"]
        if (record["vcpus"], record["pager"]) == (cell.vcpus, cell.pager)
    )
    return found


every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)


def test_the_machine_has_the_mmu_it_was_asked_for(machine: dict[str, Any]) -> None:
    parameters = machine["parameters"]
    found = parameters["kvm.tdp_mmu"], parameters["kvm_amd.npt"]
    if machine["mmu"] == "shadow":
        assert found[1] in ("N", "0")
    else:
        assert found == ("Y" if machine["mmu"] == "tdp" else "N", "Y")


def test_probe_finds_that_every_pager_can_run(machine: dict[str, Any]) -> None:
    probe = machine["probe"]
    assert probe["exit_code"] == 0, probe["stderr"]
    trials = [check for check in json.loads(probe["stdout"]) if "trial" in check["name"]]
    assert len(trials) == 5
    assert {check["status"] for check in trials} == {"yes"}


def test_compare_verifies_every_row(machine: dict[str, Any]) -> None:
    compare = machine["compare"]
    assert compare["exit_code"] == 0, compare["stderr"]
    result = machine["compare_result"]
    assert result["finished"]
    assert len(result["trials"]) == 2 * len(result["pagers"]) == 10
    assert {trial["status"] for trial in result["trials"]} == {"ok"}


@every_cell
def test_every_page_is_supplied_and_verified(cell: Cell, cell_record: dict[str, Any]) -> None:
    assert cell_record["status"] == "ok", cell_record["error"]
    # The kernel's own fault can only give zeros.
    assert cell_record["verified"] == ("zeros" if cell.pager == "none" else "yes")
    assert cell_record["returns"] == 0


@every_cell
def test_exits_and_page_lookups_are_those_of_this_kernel(
    machine: dict[str, Any], cell_record: dict[str, Any]
) -> None:
    assert not machine["absent_probes"]
    assert cells.surprises(machine["mmu"], cell_record) == []


@pytest.mark.parametrize("kind", STOPS)
def test_vcpus_leave_within_two_seconds_of_a_stop(machine: dict[str, Any], kind: str) -> None:
    (stop,) = (stop for stop in machine["stops"] if stop["kind"] == kind)
    assert "error" not in stop, stop
    assert stop["gone_s"] < 2
    if kind in ("silent-reader", "watchdog"):
        # Otherwise the test would not be about a vCPU that sleeps in a fault.
        assert stop["asleep_in"] == ["handle_userfault"]
    if kind == "watchdog":
        assert stop["exit_code"] == 4
    else:
        assert stop["exit_code"] == 130
        assert "stopped by SIGINT" in stop["stderr"]


def test_no_huge_page_gets_into_guest_memory(machine: dict[str, Any]) -> None:
    assert "error" not in machine["huge_pages"], machine["huge_pages"]
    assert machine["huge_pages"]["pages_found"] == [0, 0, 0, 0]


def test_the_tests_of_real_kvm_pass_inside(machine: dict[str, Any]) -> None:
    assert machine["host_tests"]["exit_code"] == 0, machine["host_tests"]["stdout"]


def test_the_kernel_reports_no_defect(machine: dict[str, Any]) -> None:
    assert machine["complaints"] == []
