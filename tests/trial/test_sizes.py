"""Guests as large as the question asks for: many vCPUs, and more memory than the host has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmpc.result.records import TrialResult
from kvmpc.units import GIB, PAGE_BYTES

pytestmark = [pytest.mark.kvm, pytest.mark.large]

PART_PAGES = 4 * GIB // PAGE_BYTES


@pytest.mark.parametrize("vcpus", [160, 1024])
@pytest.mark.parametrize(
    "spec", ["none", "uffd", "uffd,uffds=per-vcpu", "exit", "exit,uffds=per-vcpu"]
)
def test_hundreds_of_vcpus_verify(
    run_large: Callable[..., TrialResult], spec: str, vcpus: int
) -> None:
    result = run_large(spec, vcpus=vcpus, pages=7)
    assert result.error is None
    assert result.per_vcpu["touched"] == (7,) * vcpus
    assert min(result.per_vcpu["start_ns"]) >= 0


@pytest.mark.parametrize("spec", ["none", "none,host=populated", "uffd", "exit,uffds=per-vcpu"])
def test_a_guest_above_64_gib_verifies(run_large: Callable[..., TrialResult], spec: str) -> None:
    result = run_large(spec, vcpus=20, pages=PART_PAGES, touch_pages=997)
    assert result.error is None
    assert result.expected_pages == 20 * 997


@pytest.mark.parametrize(("spec", "touch_pages"), [("exit", 512), ("uffd", 23)])
def test_a_sparse_guest_of_640_gib_verifies(
    run_large: Callable[..., TrialResult], spec: str, touch_pages: int
) -> None:
    result = run_large(spec, vcpus=160, pages=PART_PAGES, touch_pages=touch_pages)
    assert result.error is None
    assert result.sparse
    assert result.counts["installs"] == 160 * touch_pages


def test_one_part_of_many_gib_is_touched_to_its_end(
    run_large: Callable[..., TrialResult],
) -> None:
    result = run_large("exit", vcpus=3, pages=16 * PART_PAGES, touch_pages=997, overlap=True)
    assert result.error is None
    assert result.counts["installs"] == 997
