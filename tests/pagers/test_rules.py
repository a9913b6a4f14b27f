"""Which keys go together: the full product of all values of all keys with all work, without KVM."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from kvmpc.errors import UsageError
from kvmpc.pagers import PAGERS, parse_pager
from kvmpc.pagers.rules import clash_of
from kvmpc.units import PAGE_BYTES
from kvmpc.work.work import Work

VALUES = {
    "host": ("cold", "populated"),
    "readers": ("1", "3"),
    "uffds": ("one", "per-vcpu", "3"),
    "fetch": ("pipelined", "blocking"),
    "wait": ("epoll", "poll", "read", "spin", "adaptive"),
    "spin": ("50us", "20us"),
    "drain": ("16", "1"),
    "provider": ("sigbus",),
}
"""All values of a key that is a choice; of a number, its default and another."""

WORKS = [
    Work(
        vcpus=vcpus,
        mem_per_vcpu_bytes=23 * PAGE_BYTES,
        access=access,
        fetch_delay_ns=delay_ns,
        overlap=overlap,
    )
    for vcpus, access, delay_ns, overlap in itertools.product(
        (1, 3), ("write", "read"), (0, 50_000), (False, True)
    )
]


def _product() -> Iterator[tuple[str, dict[str, str], Work]]:
    for name, pager in PAGERS.items():
        for values in itertools.product(*(VALUES[key] for key in pager.keys)):
            for work in WORKS:
                yield name, dict(zip(pager.keys, values, strict=True)), work


def _clashes(name: str, keys: dict[str, str], work: Work) -> set[tuple[str, str]]:
    """Return each two that exclude each other, in other words than the rules have."""
    found = set()
    if name == "none" and keys["host"] == "cold" and work.access == "read":
        found.add(("--access read", "none,host=cold"))
    if name == "uffd":
        if keys["wait"] in ("epoll", "poll", "read", "spin") and keys["spin"] == "20us":
            found.add(("spin=20us", f"wait={keys['wait']}"))
        if keys["wait"] == "read" and keys["fetch"] == "pipelined" and work.fetch_delay_ns:
            found.add(("wait=read", "--fetch-delay and fetch=pipelined"))
    return found


def _refusal(name: str, keys: dict[str, str], work: Work) -> UsageError | None:
    pager = parse_pager(",".join([name, *(f"{key}={value}" for key, value in keys.items())]))
    assert pager.values == keys
    try:
        pager.check(work)
    except UsageError as error:
        return error
    return None


def test_every_combination_is_accepted_or_refused_with_the_two_that_clash() -> None:
    named, accepted = set(), 0
    for name, keys, work in _product():
        clashes = _clashes(name, keys, work)
        assert (clash_of(name, keys, work) is not None) == bool(clashes)
        refusal = _refusal(name, keys, work)
        assert (refusal is not None) == bool(clashes)
        if refusal is None:
            accepted += 1
            continue
        one, _, other = refusal.option.partition(" with ")
        assert (one, other) in clashes
        assert refusal.given == one
        named.add((one, other))
    assert accepted > 0
    assert named == {
        ("--access read", "none,host=cold"),
        ("wait=read", "--fetch-delay and fetch=pipelined"),
        *(("spin=20us", f"wait={wait}") for wait in ("epoll", "poll", "read", "spin")),
    }


def test_the_product_has_every_word_that_a_key_can_have() -> None:
    for pager in PAGERS.values():
        for key, rule in pager.keys.items():
            if " or " in rule.allowed and "," not in rule.allowed:
                assert VALUES[key] == tuple(rule.allowed.split(" or "))
            assert rule.default in VALUES[key]


@pytest.mark.parametrize(
    ("spec", "work", "instead"),
    [
        ("none", {"access": "read"}, "none,host=populated"),
        ("uffd,spin=20us", {}, "wait=adaptive"),
        ("uffd,wait=read", {"fetch_delay_ns": 1}, "fetch=blocking"),
    ],
)
def test_a_refusal_says_what_would_do(spec: str, work: dict[str, object], instead: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pager(spec).check(
            Work(vcpus=1, mem_per_vcpu_bytes=23 * PAGE_BYTES, **work)  # type: ignore[arg-type]
        )
    assert instead in caught.value.allowed
