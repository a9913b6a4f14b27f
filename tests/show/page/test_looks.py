"""One pager, one look: on every page, beside whatever else, in whatever order."""

from __future__ import annotations

import itertools
import random

from kvmpc.show.page.looks import looks_in_turn, looks_of_pagers
from tests.fakes.sweeps import PAGERS

DEFAULT = ("none", "uffd", "uffd,uffds=per-vcpu", "exit", "exit,uffds=per-vcpu")
MANY = (
    *PAGERS,
    *(f"uffd,readers={n}" for n in (2, 8, 16, 32, 64, 128, 160)),
    "uffd,uffds=4", "exit,uffds=4", "uffd,uffds=per-vcpu,readers=2",
)  # fmt: skip


def test_a_pager_looks_the_same_alone_and_among_others_in_any_order() -> None:
    alone = {spec: looks_of_pagers([spec])[spec] for spec in MANY}
    chance = random.Random("kvmpc looks")
    for _ in range(20):
        some = chance.sample(MANY, chance.randint(1, len(MANY)))
        assert looks_of_pagers(some) == {spec: alone[spec] for spec in some}


def test_pagers_of_one_page_differ_in_colour_or_marker() -> None:
    for specs in (DEFAULT, MANY, [f"uffd,readers={n}" for n in range(1, 14)]):
        looks = looks_of_pagers(specs)
        assert len({(colour, marker) for colour, marker, _ in looks.values()}) == len(specs)


def test_what_is_no_pager_has_no_pagers_colour() -> None:
    pagers = {colour for colour, _, _ in looks_of_pagers([*MANY, "odd", "odd,uffds=9"]).values()}
    others = looks_in_turn([f"part-{n}" for n in range(12)])
    assert not pagers & {colour for colour, _, _ in others.values()}
    assert all(a != b for a, b in itertools.combinations(others.values(), 2))


def test_a_spec_of_a_later_kvmpc_or_of_nobody_has_a_look_too() -> None:
    odd = ("", ",", "uffd,readers=x", "uffd,readers=" + "9" * 4000, "uffd,\udc80=1", "push,a=b")
    assert set(looks_of_pagers(odd)) == set(odd)
