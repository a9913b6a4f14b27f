"""What the tests of the native loops share: a scripted kernel, and the memory records point to."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator

import pytest

from tests.fakes.scripted import ScriptedKernel, Setting

LAST = "test_reach.py"
_HANG_S = 120


@pytest.fixture
def kernel() -> Iterator[ScriptedKernel]:
    """A kernel with an empty script. A loop that never comes back ends the test run."""
    faulthandler.dump_traceback_later(_HANG_S, exit=True)
    try:
        yield ScriptedKernel()
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def setting() -> Iterator[Setting]:
    """Bitmaps and buffers for 23 pages behind one userfaultfd."""
    made = Setting()
    yield made
    made.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the test that asks what the others have reached behind all of them.

    Skip what runs the others on mutants, unless `-m` asks for it.
    """
    items.sort(key=lambda item: item.path.name == LAST)
    if "mutants" in config.getoption("markexpr"):
        return
    skip = pytest.mark.skip(reason="runs a minute or two on mutants: run with -m mutants")
    for item in items:
        if item.get_closest_marker("mutants") is not None:
            item.add_marker(skip)
