"""Facts of any host: what is absent or odd says nothing, and what is read is what is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.host.facts import fact_names
from kvmpc.judge import same_host
from kvmpc.judge.host_cautions import cautions_of_host
from kvmpc.judge.reading import read
from kvmpc.result.facts import Facts
from kvmpc.show.table import format_table
from kvmpc.work.placement import Placement

Make = Callable[..., Any]


def test_a_fact_is_found_by_its_path() -> None:
    facts = Facts({"cpu": {"model": "x", "allowed_count": 8, "numa_nodes": [1]}, "hostname": "lab"})
    assert facts.text("hostname") == "lab"
    assert facts.text("cpu.model") == "x"
    assert facts.number("cpu.allowed_count") == 8
    assert facts.items("cpu.numa_nodes") == [1]
    assert facts.group("cpu")["model"] == "x"


@pytest.mark.parametrize("odd", [{}, {"cpu": None}, {"cpu": []}, {"cpu": {"model": {}}}])
def test_what_is_absent_or_odd_is_none(odd: Any) -> None:
    facts = Facts(odd)
    assert facts.text("cpu.model") is None
    assert facts.number("cpu.model") is None
    assert facts.items("cpu.model") is None
    assert facts.get("cpu.model.name") is None
    assert facts.group("cpu.model") == {}


def test_every_fact_that_anybody_reads_is_one_that_is_written(
    make_result: Make, make_trial: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: set[str] = set(same_host.ONE_RUN)
    get = Facts.get

    def noted(self: Facts, path: str) -> object:
        paths.add(path)
        return get(self, path)

    monkeypatch.setattr(Facts, "get", noted)
    host = {
        "cpu": {"allowed": "0-7", "allowed_count": 8, "online_count": 9, "numa_nodes": [0, 1]},
        "kvm": {"vendor_module": "kvm_intel"},
        "memory": {"swap_total_bytes": 1, "mglru_enabled": "0x0007", "numa_balancing": 1},
    }
    for placement in (Placement(), Placement(pin=True, cpu_latency_us=0)):
        cautions_of_host(host, vcpu_threads=2, reader_threads=1, placement=placement)
    result = make_result(make_trial("uffd"), host=host)
    same_host.differences(host, host)
    same_host.remarks(result, result)
    format_table(read(result))
    assert len(paths) > 35
    known = fact_names()
    # Below a module's name, keys are the kernel's.
    assert {path for path in paths if not path.startswith("kvm.modules.")} <= known
    assert "kvm.modules" in known
