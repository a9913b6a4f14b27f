"""Every pager, in every variant, supplies every page exactly once, and its numbers agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kvmpc.result.records import TrialResult

pytestmark = pytest.mark.kvm

DELAY_NS = 50_000


def _variants() -> Iterator[tuple[str, int]]:
    yield "none,host=cold", 0
    yield "none,host=populated", 0
    for uffds in ("one", "per-vcpu", "3"):
        for delay_ns in (0, DELAY_NS):
            yield f"exit,uffds={uffds}", delay_ns
        for readers in (1, 3):
            yield f"uffd,readers={readers},uffds={uffds}", 0
            for fetch in ("pipelined", "blocking"):
                yield f"uffd,readers={readers},uffds={uffds},fetch={fetch}", DELAY_NS


def _cases() -> Iterator[object]:
    for spec, delay_ns in _variants():
        for vcpus in (1, 3):
            for pages in (23, 997):
                for order in ("sequential", "scattered"):
                    for access in ("write", "read"):
                        if (spec, access) != ("none,host=cold", "read"):
                            name = f"{spec}-{delay_ns // 1000}us-{vcpus}x{pages}-{order}-{access}"
                            marks = [pytest.mark.large] if pages > 23 else []
                            yield pytest.param(
                                *(spec, delay_ns, vcpus, pages, order, access),
                                id=name,
                                marks=marks,
                            )


FAULT_METRICS = {f"fault_{key}_ns" for key in ("p50", "p90", "p99", "p999", "max")}


def _exits(result: TrialResult) -> int:
    return sum(result.counts[f"exits_{form}"] for form in ("annotated", "registers", "mmio"))


@pytest.mark.parametrize(("spec", "delay_ns", "vcpus", "pages", "order", "access"), list(_cases()))
def test_every_page_is_supplied_once_and_the_counts_agree(
    run: Callable[..., TrialResult],
    spec: str,
    delay_ns: int,
    vcpus: int,
    pages: int,
    order: str,
    access: str,
) -> None:
    result = run(
        spec, pages=pages, vcpus=vcpus, order=order, access=access, fetch_delay_ns=delay_ns
    )
    assert result.error is None
    assert result.status == "ok"
    assert result.verified == ("zeros" if spec == "none,host=cold" else "yes")
    expected = vcpus * pages
    assert result.expected_pages == expected
    counts, metrics = result.counts, result.metrics

    fetches = not spec.startswith("none")
    assert counts["installs"] == (expected if fetches else 0)
    assert counts["fetches"] == counts["installs"] + counts["eexist"]
    if spec.startswith("uffd"):
        assert counts["received"] >= expected
        assert counts["received"] == counts["fetches"] + counts["lost_claims"]
        assert counts["reads"] > counts["reads_empty"]
        assert _exits(result) == 0
    else:
        assert "received" not in counts
    if spec.startswith("exit"):
        assert _exits(result) >= expected
        assert counts["kvm_runs"] >= expected + vcpus
        assert counts["wakes"] == 0
    else:
        # A fault never comes out: one KVM_RUN from the gate to the end, unless a signal ends it.
        assert counts["kvm_runs"] >= vcpus
        assert _exits(result) == 0
    if _exits(result) == counts["exits_annotated"] + counts["exits_registers"]:
        assert counts["returns"] == 0

    assert ("install_ns_per_page" in metrics) == fetches
    assert ("fetch_ns_per_page" in metrics) == (delay_ns > 0)
    if delay_ns:
        assert metrics["fetch_ns_per_page"] >= 0.99 * delay_ns
    assert metrics.keys() >= FAULT_METRICS
    assert metrics["fault_p50_ns"] <= metrics["fault_p99_ns"] <= metrics["fault_max_ns"]
    assert metrics["pages_per_s"] == pytest.approx(expected / result.elapsed_ns * 1e9)
    assert (metrics["cpu_readers_s"] > 0) == spec.startswith("uffd")
    assert metrics["cpu_vcpus_s"] > 0

    assert sum(touches for _, _, touches in result.histogram_cycles) == expected
    assert result.per_vcpu["touched"] == (pages,) * vcpus
    assert {len(values) for values in result.per_vcpu.values()} == {vcpus}
    readers = {"one": 1, "per-vcpu": vcpus, "3": 3}
    count = 0
    if spec.startswith("uffd"):
        keys = dict(word.split("=") for word in spec.split(",")[1:])
        count = readers[keys["uffds"]] * int(keys["readers"])
    assert {len(values) for values in result.per_reader.values()} == {count}
    installs = sum(result.per_vcpu["installs"]) + sum(result.per_reader["installs"])
    assert installs == counts["installs"]
    if result.pages_per_node:
        assert sum(result.pages_per_node.values()) == expected


@pytest.mark.parametrize("spec", ["none", "uffd", "uffd,readers=3", "exit"])
def test_every_vcpu_starts_after_the_gate_and_ends_after_its_start(
    run: Callable[..., TrialResult], spec: str
) -> None:
    for _ in range(5):
        result = run(spec, vcpus=8)
        starts, ends = result.per_vcpu["start_ns"], result.per_vcpu["end_ns"]
        assert min(starts) >= 0
        assert all(end > start for start, end in zip(starts, ends, strict=True))
        assert result.elapsed_ns == max(ends)
        assert result.metrics["start_skew_ns"] == max(starts)


@pytest.mark.parametrize("spec", ["none", "none,host=populated", "uffd", "exit,uffds=per-vcpu"])
@pytest.mark.parametrize(("pages", "touch_pages"), [(997, 23), (1031, 997), (1024, 513)])
def test_a_sparse_run_leaves_the_other_pages_missing(
    run: Callable[..., TrialResult], spec: str, pages: int, touch_pages: int
) -> None:
    result = run(spec, pages=pages, touch_pages=touch_pages, order="scattered")
    assert result.error is None
    assert result.sparse
    assert result.expected_pages == 3 * touch_pages


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_a_trial_that_checks_no_tags_says_so(run: Callable[..., TrialResult], spec: str) -> None:
    result = run(spec, checked=False, timed=False)
    assert result.verified == "presence only"
    assert result.histogram_cycles == ()
    assert not FAULT_METRICS & result.metrics.keys()


OVERLAPPING = (
    "none",
    "none,host=populated",
    "uffd",
    "uffd,readers=3",
    "uffd,uffds=per-vcpu",
    "uffd,readers=3,uffds=3",
    "exit",
    "exit,uffds=per-vcpu",
)


@pytest.mark.large
@pytest.mark.parametrize("spec", OVERLAPPING)
def test_32_overlapping_vcpus_verify_twenty_times_in_a_row(
    run: Callable[..., TrialResult], spec: str
) -> None:
    results = [
        run(spec, pages=997, vcpus=32, overlap=True, order=order, seed=seed)
        for seed in range(10)
        for order in ("sequential", "scattered")
    ]
    assert {result.error for result in results} == {None}
    for result in results:
        assert result.expected_pages == 997
        assert result.per_vcpu["touched"] == (997,) * 32
        assert not FAULT_METRICS & result.metrics.keys()
        if not spec.startswith("none"):
            assert result.counts["installs"] == 997
    lost = sum(result.counts["lost_claims"] for result in results)
    assert (lost > 0) == (not spec.startswith("none"))


@pytest.mark.parametrize("spec", ["uffd,readers=3", "uffd,fetch=blocking,readers=3", "exit"])
def test_overlapping_vcpus_wait_for_a_page_that_is_being_fetched(
    run: Callable[..., TrialResult], spec: str
) -> None:
    # Fewer pages than vCPUs: some start at the same page.
    results = [
        run(spec, vcpus=32, overlap=True, fetch_delay_ns=200_000, seed=seed) for seed in range(5)
    ]
    assert {result.error for result in results} == {None}
    assert all(result.counts["fetches"] == 23 for result in results)
    assert sum(result.counts["lost_claims"] for result in results) > 0
    if spec == "exit":
        assert sum(result.counts["waits"] for result in results) > 0


def test_a_pipelined_reader_overlaps_fetches_and_a_blocking_one_does_not(
    run: Callable[..., TrialResult],
) -> None:
    # Long beside a fault, which takes about as long as a network does where all is emulated.
    delay_ns = 5_000_000

    def in_flight(fetch: str) -> float:
        """Return how many fetches were under way on average."""
        result = run(f"uffd,fetch={fetch}", vcpus=4, fetch_delay_ns=delay_ns)
        assert result.error is None
        assert result.metrics["fetch_ns_per_page"] >= 0.99 * delay_ns
        return result.metrics["fetch_ns_per_page"] * result.expected_pages / result.elapsed_ns

    assert in_flight("pipelined") > 2
    assert in_flight("blocking") <= 1.01
