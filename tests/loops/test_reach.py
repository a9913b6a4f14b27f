"""The tests of the loops, all together, reach every label and take every branch both ways."""

from __future__ import annotations

import pytest

from tests.fakes.scripted import instrumented, unreached

SUITE = ("test_crash.py", "test_entry.py", "test_gate.py", "test_inspect.py")
SUITE += ("test_reader_loop.py", "test_resolve.py", "test_stamps.py", "test_vcpu_loop.py")


def _whole_suite_ran(request: pytest.FixtureRequest) -> bool:
    config = request.config
    if config.option.keyword or any("::" in str(argument) for argument in config.args):
        return False
    modules = {item.path.name: item.module for item in request.session.items}  # type: ignore[attr-defined]
    ran = {(item.path.name, item.originalname) for item in request.session.items}  # type: ignore[attr-defined]
    return all(
        name in modules
        and all((name, test) in ran for test in vars(modules[name]) if test.startswith("test_"))
        for name in SUITE
    )


def test_every_label_and_both_ways_of_every_branch_were_reached(
    request: pytest.FixtureRequest,
) -> None:
    if not _whole_suite_ran(request):
        pytest.skip("only meaningful behind the whole of " + ", ".join(SUITE))
    assert len(instrumented().marks) > 150
    assert unreached() == []
