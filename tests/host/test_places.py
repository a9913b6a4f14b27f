"""Cores, nodes and isolated CPUs of made-up hosts, and what is said of threads on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmpc.host.cores import shared_cores
from kvmpc.host.facts import collect
from kvmpc.judge.host_cautions import cautions_of_host
from kvmpc.work.placement import ANYWHERE, Placement
from tests.fakes.trees import plant

CPU = "sys/devices/system/cpu"
CODES = {
    "smt", "smt-shared", "numa-unpinned", "isolated-mixed", "isolated-unpinned", "boost",
    "nx-huge-pages",
}  # fmt: skip

Codes = Callable[..., list[str]]


def _smt(root: Path, cpus: int = 8, name: str = "core_cpus_list") -> Path:
    """Plant a host of half as many cores, of which CPU n and n + half are the threads."""
    half = cpus // 2
    core = {cpu: f"{cpu % half},{cpu % half + half}\n" for cpu in range(cpus)}
    return plant(
        root,
        {f"{CPU}/cpu{cpu}/topology/{name}": text for cpu, text in core.items()}
        | {f"{CPU}/cpu0/topology/thread_siblings_list": core[0], f"{CPU}/online": f"0-{cpus - 1}"},
    )


@pytest.fixture
def codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Codes:
    """Return a function that says which cautions the planted host gets."""

    def codes(vcpus: int = 2, readers: int = 1, **placement: Any) -> list[str]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
        found = cautions_of_host(
            collect(tmp_path),
            vcpu_threads=vcpus,
            reader_threads=readers,
            placement=Placement(**placement) if placement else ANYWHERE,
        )
        return [each.code for each in found if each.code in CODES]

    return codes


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_cores_of_several_threads_are_found_by_either_name(tmp_path: Path, name: str) -> None:
    _smt(tmp_path, name=name)
    assert shared_cores(range(8), tmp_path) == [{0, 4}, {1, 5}, {2, 6}, {3, 7}]
    assert shared_cores([5, 2], tmp_path) == [{2, 6}, {1, 5}]


def test_cores_of_one_thread_and_those_not_known_are_none(tmp_path: Path) -> None:
    assert shared_cores(range(8), tmp_path) == []
    plant(tmp_path, {f"{CPU}/cpu{cpu}/topology/core_cpus_list": f"{cpu}" for cpu in range(4)})
    plant(tmp_path, {f"{CPU}/cpu7/topology/core_cpus_list": "nonsense"})
    assert shared_cores(range(8), tmp_path) == []


def test_threads_that_are_not_pinned_may_share_a_core_always(tmp_path: Path, codes: Codes) -> None:
    _smt(tmp_path)
    assert codes() == ["smt"]
    assert codes(cpus="0-3") == []
    assert codes(cpus="0-4") == ["smt"]


@pytest.mark.parametrize(
    ("vcpus", "readers", "options", "expected"),
    [
        (2, 1, {}, []),
        (3, 1, {}, []),
        (4, 0, {}, []),
        (4, 1, {}, ["smt-shared"]),
        (2, 1, {"cpus": "0-1,4"}, ["smt-shared"]),
        (2, 1, {"cpus": "0,4,1"}, ["smt-shared"]),
        (1, 1, {"cpus": "0", "reader_cpus": "4"}, ["smt-shared"]),
        (1, 1, {"cpus": "0", "reader_cpus": "5"}, []),
        (2, 2, {"cpus": "0-1,4-7"}, []),
    ],
)
def test_pinned_threads_that_share_a_core_are_said(
    tmp_path: Path, codes: Codes, vcpus: int, readers: int, options: dict[str, str],
    expected: list[str],
) -> None:  # fmt: skip
    _smt(tmp_path)
    assert codes(vcpus, readers, pin=True, **options) == expected


def _two_nodes(root: Path) -> Path:
    nodes = {0: "0-3", 1: "4-7"}
    node = "sys/devices/system/node/node"
    return plant(root, {f"{node}{number}/cpulist": cpus for number, cpus in nodes.items()})


def test_threads_that_may_be_on_several_nodes_are_said(tmp_path: Path, codes: Codes) -> None:
    _two_nodes(tmp_path)
    assert codes() == ["numa-unpinned"]
    assert codes(numa="node=0") == ["numa-unpinned"]
    assert codes(pin=True) == []
    assert codes(cpus="0-3") == []
    assert codes(cpus="0-3", reader_cpus="4") == ["numa-unpinned"]


@pytest.mark.parametrize(
    ("isolated", "nohz_full", "options", "expected"),
    [
        ("\n", "(null)\n", {}, []),
        ("2-3\n", "2-3\n", {}, ["isolated-mixed", "isolated-unpinned"]),
        ("2-3\n", "\n", {"cpus": "2-3"}, ["isolated-unpinned"]),
        ("2-3\n", "\n", {"cpus": "2-3", "pin": True}, []),
        ("2-3\n", "\n", {"cpus": "0-1"}, []),
        ("\n", "4-7\n", {}, ["isolated-mixed"]),
        ("\n", "4-7\n", {"cpus": "4", "reader_cpus": "0", "pin": True}, ["isolated-mixed"]),
        ("\n", "4-7\n", {"cpus": "4-7"}, []),
    ],
)
def test_isolated_cpus_among_others_are_said(
    tmp_path: Path, codes: Codes, isolated: str, nohz_full: str, options: dict[str, Any],
    expected: list[str],
) -> None:  # fmt: skip
    plant(tmp_path, {f"{CPU}/isolated": isolated, f"{CPU}/nohz_full": nohz_full})
    assert codes(**options) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cpufreq/boost", "1\n", ["boost"]),
        ("cpufreq/boost", "0\n", []),
        ("intel_pstate/no_turbo", "0\n", ["boost"]),
        ("intel_pstate/no_turbo", "1\n", []),
    ],
)
def test_turbo_is_said_where_it_is_on(
    tmp_path: Path, codes: Codes, name: str, text: str, expected: list[str]
) -> None:
    plant(tmp_path, {f"{CPU}/{name}": text})
    assert codes() == expected


@pytest.mark.parametrize(("text", "expected"), [("Y\n", ["nx-huge-pages"]), ("N\n", [])])
def test_the_worker_of_nx_huge_pages_is_said(
    tmp_path: Path, codes: Codes, text: str, expected: list[str]
) -> None:
    plant(tmp_path, {"sys/module/kvm/parameters/nx_huge_pages": text})
    assert codes() == expected


def test_without_facts_of_cores_and_nodes_nothing_is_said(codes: Codes) -> None:
    assert codes() == []
    assert codes(pin=True) == []
