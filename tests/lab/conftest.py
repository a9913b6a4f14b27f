"""The lab's machines: booted once each, two side by side, for the tests that were selected."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from . import cells, results
from .kernels import Unavailable, cache_folder, debian_kernel, qemu_path
from .machine import LabError, Machine

SIDE_BY_SIDE = max(1, min(4, len(os.sched_getaffinity(0))))
"""Machines at a time; each keeps one CPU busy."""

_REQUIRED = os.environ.get("KVMPC_REQUIRE_LAB") == "1"


def result_path() -> Path:
    """Return where the lab's JSON goes: KVMPC_LAB_JSON, else into the cache."""
    return Path(os.environ.get("KVMPC_LAB_JSON") or cache_folder() / "lab.json")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what boots machines unless `-m` or KVMPC_REQUIRE_LAB=1 asks for it."""
    if _REQUIRED or "lab" in config.getoption("markexpr"):
        return
    skip = pytest.mark.skip(reason="boots other kernels for minutes: run with -m lab")
    for item in items:
        if item.get_closest_marker("lab") is not None:
            item.add_marker(skip)


def _boot(series: str, mmu: str, stop: threading.Event) -> dict[str, Any]:
    kernel = debian_kernel(series)
    boot = Machine(kernel, cells.MMUS[mmu]).run(cells.jobs(), stop=stop)
    return cells.judge(kernel, mmu, boot)


@pytest.fixture(scope="session")
def boots(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], dict[str, Any]]]:
    """Give a machine's record by series and MMU; waits for it.

    All machines that selected tests need are started at once, as many at a time as CPUs allow.
    """
    wanted: dict[Any, None] = dict.fromkeys(
        item.callspec.params["machine"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.get_closest_marker("lab") is not None
        and hasattr(item, "callspec")
        and "machine" in item.callspec.params
    )
    stop = threading.Event()
    futures: dict[tuple[str, str], Future[dict[str, Any]]] = {}
    pool = ThreadPoolExecutor(SIDE_BY_SIDE)
    try:
        qemu_path()
        for series in {series for series, _ in wanted}:
            debian_kernel(series)  # one download each, before two machines want it
    except Unavailable as error:
        futures.update(dict.fromkeys(wanted, _failed(error)))
    else:
        for series, mmu in wanted:
            futures[series, mmu] = pool.submit(_boot, series, mmu, stop)

    def record(series: str, mmu: str) -> dict[str, Any]:
        try:
            return futures[series, mmu].result()
        except Unavailable as error:
            if _REQUIRED:
                pytest.fail(f"KVMPC_REQUIRE_LAB=1, but {error}", pytrace=False)
            pytest.skip(str(error))
        except LabError as error:
            pytest.fail(str(error), pytrace=False)

    try:
        yield record
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        good = [
            future.result()
            for future in futures.values()
            if future.done() and not future.cancelled() and future.exception() is None
        ]
        if good:
            results.save(result_path(), good)


def _failed(error: Exception) -> Future[dict[str, Any]]:
    future: Future[dict[str, Any]] = Future()
    future.set_exception(error)
    return future


@pytest.fixture(scope="session")
def machine(
    request: pytest.FixtureRequest, boots: Callable[[str, str], dict[str, Any]]
) -> dict[str, Any]:
    """One machine's record; the test is parametrized with its (series, MMU)."""
    return boots(*request.param)
