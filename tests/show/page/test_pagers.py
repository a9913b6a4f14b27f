"""What the page reads out of specs and labels."""

from __future__ import annotations

import pytest

from kvmpc.show.page.pagers import family_of, is_none, readers_of


@pytest.mark.parametrize(
    ("spec", "readers"),
    [
        ("uffd", 1),
        ("uffd,readers=16", 16),
        ("uffd,uffds=per-vcpu,readers=2,fetch=blocking", 2),
        ("exit", None),
        ("exit,uffds=per-vcpu", None),
        ("none,host=populated", None),
    ],
)
def test_readers_are_those_of_a_pager_that_needs_them(spec: str, readers: int | None) -> None:
    assert readers_of(spec) == readers


def test_a_family_is_named_by_all_but_its_readers() -> None:
    assert family_of("uffd,readers=4,fetch=blocking") == "uffd,fetch=blocking"


def test_none_is_none_whatever_the_host_has() -> None:
    assert is_none("none,host=cold")
    assert not is_none("uffd")
