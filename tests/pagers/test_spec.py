"""Pager specs: what is read, what is refused and how, and the one way each is written back."""

from __future__ import annotations

import itertools

import pytest

from kvmpc.errors import UsageError
from kvmpc.pagers import DEFAULT_COMPARE, PAGERS, parse_pager
from kvmpc.units import PAGE_BYTES
from kvmpc.work.work import Work


def make_work(vcpus: int = 3, pages: int = 23, **options: object) -> Work:
    """Make work of `vcpus` parts of `pages` pages."""
    return Work(vcpus=vcpus, mem_per_vcpu_bytes=pages * PAGE_BYTES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("none", "none"),
        ("none,host=cold", "none"),
        ("none,host=populated", "none,host=populated"),
        ("uffd", "uffd"),
        ("uffd,readers=1,uffds=one,fetch=pipelined", "uffd"),
        ("uffd,uffds=1", "uffd"),
        ("uffd,readers=03", "uffd,readers=3"),
        ("uffd,fetch=blocking,uffds=3,readers=3", "uffd,readers=3,uffds=3,fetch=blocking"),
        (" uffd, readers = 3 ", "uffd,readers=3"),
        ("uffd,wait=epoll,spin=50us,drain=16", "uffd"),
        ("uffd,drain=1,wait=poll,readers=3", "uffd,readers=3,wait=poll,drain=1"),
        ("uffd,spin=0.05ms,wait=adaptive", "uffd,wait=adaptive"),
        ("uffd,wait=adaptive,spin=1.5ms", "uffd,wait=adaptive,spin=1500us"),
        ("uffd,wait=adaptive,spin=20000ns", "uffd,wait=adaptive,spin=20us"),
        ("uffd,wait=adaptive,spin=1234ns", "uffd,wait=adaptive,spin=1234ns"),
        ("exit", "exit"),
        ("exit,provider=sigbus", "exit"),
        ("exit,uffds=3", "exit,uffds=3"),
    ],
)
def test_a_spec_is_written_back_with_its_keys_in_order_and_no_defaults(
    spec: str, canonical: str
) -> None:
    pager = parse_pager(spec)
    assert pager.spec == canonical
    assert parse_pager(pager.spec) == pager


WAITS = ("epoll", "poll", "read", "spin", "adaptive")


def _all_specs() -> list[str]:
    uffds = ["one", "per-vcpu", "3", "4096"]
    return [
        *(f"none,host={host}" for host in ("cold", "populated")),
        *(
            f"uffd,readers={readers},uffds={count},fetch={fetch}"
            for readers, count, fetch in itertools.product(
                (1, 3, 1024), uffds, ("pipelined", "blocking")
            )
        ),
        *(
            f"uffd,readers={readers},wait={wait},drain={drain}"
            for readers, wait, drain in itertools.product((1, 3), WAITS, (1, 16, 1024))
            if wait != "epoll"
        ),
        *(f"uffd,wait=adaptive,spin={spin}" for spin in ("1us", "1s", "1500ns")),
        *(f"exit,uffds={count}" for count in uffds),
    ]


@pytest.mark.parametrize("spec", _all_specs())
def test_spec_and_label_of_every_variant_read_back_as_the_same_pager(spec: str) -> None:
    pager = parse_pager(spec)
    assert parse_pager(pager.spec) == pager
    assert parse_pager(pager.label) == pager
    assert parse_pager(pager.label).label == pager.label


def test_no_two_variants_share_a_spec_or_a_label() -> None:
    pagers = [parse_pager(spec) for spec in _all_specs()]
    assert len({pager.spec for pager in pagers}) == len(pagers)
    assert len({pager.label for pager in pagers}) == len(pagers)


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("exit", "exit(sigbus)"),
        ("exit,uffds=per-vcpu", "exit(sigbus),uffds=per-vcpu"),
        ("uffd,readers=3", "uffd,readers=3"),
        ("none", "none"),
    ],
)
def test_an_exit_pager_is_always_shown_with_its_provider(spec: str, label: str) -> None:
    assert parse_pager(spec).label == label
    assert parse_pager(label).spec == spec


@pytest.mark.parametrize(
    ("spec", "given", "allowed"),
    [
        ("", "", "none, uffd, exit"),
        ("magic", "magic", "none, uffd, exit"),
        ("UFFD", "UFFD", "none, uffd, exit"),
        ("exit(magic)", "exit(magic)", "none, uffd, exit"),
        ("none(sigbus)", "none(sigbus)", "none, uffd, exit"),
        ("exit(sigbus)x", "exit(sigbus)x", "none, uffd, exit"),
        ("uffd,", "", "key=value with a key of uffd: readers, uffds, fetch, wait, spin, drain"),
        ("uffd,readers", "readers", "key=value with a key of uffd: readers, uffds, fetch"),
        ("uffd,speed=3", "speed=3", "key=value with a key of uffd: readers, uffds, fetch"),
        ("uffd,provider=sigbus", "provider=sigbus", "a key of uffd: readers, uffds, fetch"),
        ("exit,readers=3", "readers=3", "key=value with a key of exit: uffds, provider"),
        ("none,uffds=3", "uffds=3", "key=value with a key of none: host"),
        ("uffd,readers=3,readers=3", "readers=3", "readers once"),
        ("exit(sigbus),provider=sigbus", "provider=sigbus", "provider once"),
        ("uffd,readers=0", "readers=0", "readers=1 to 1024"),
        ("uffd,readers=1025", "readers=1025", "readers=1 to 1024"),
        ("uffd,readers=-3", "readers=-3", "readers=1 to 1024"),
        ("uffd,readers=three", "readers=three", "readers=1 to 1024"),
        ("uffd,readers=\u0663", "readers=\u0663", "readers=1 to 1024"),
        ("uffd,readers=\u00b2", "readers=\u00b2", "readers=1 to 1024"),
        ("uffd,readers=", "readers=", "readers=1 to 1024"),
        ("uffd,uffds=0", "uffds=0", "uffds=one, per-vcpu, or 1 to 4096"),
        ("exit,uffds=4097", "uffds=4097", "uffds=one, per-vcpu, or 1 to 4096"),
        ("exit,uffds=all", "uffds=all", "uffds=one, per-vcpu, or 1 to 4096"),
        ("uffd,fetch=eager", "fetch=eager", "fetch=pipelined or blocking"),
        ("uffd,wait=sleep", "wait=sleep", "wait=epoll or poll or read or spin or adaptive"),
        ("uffd,wait=", "wait=", "wait=epoll or poll or read or spin or adaptive"),
        ("uffd,wait=spin,wait=spin", "wait=spin", "wait once"),
        ("uffd,wait=adaptive,spin=20", "spin=20", "spin=1us to 1s"),
        ("uffd,wait=adaptive,spin=0", "spin=0", "spin=1us to 1s"),
        ("uffd,wait=adaptive,spin=999ns", "spin=999ns", "spin=1us to 1s"),
        ("uffd,wait=adaptive,spin=1001ms", "spin=1001ms", "spin=1us to 1s"),
        ("uffd,wait=adaptive,spin=-1us", "spin=-1us", "spin=1us to 1s"),
        ("uffd,wait=adaptive,spin=nan", "spin=nan", "spin=1us to 1s"),
        ("uffd,drain=0", "drain=0", "drain=1 to 1024"),
        ("uffd,drain=1025", "drain=1025", "drain=1 to 1024"),
        ("exit,wait=spin", "wait=spin", "key=value with a key of exit: uffds, provider"),
        ("none,host=warm", "host=warm", "host=cold or populated"),
        ("exit,provider=magic", "provider=magic", "provider=sigbus"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_was_given_and_what_is_allowed(
    spec: str, given: str, allowed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pager(spec)
    assert caught.value.option.startswith("PAGER")
    assert caught.value.given == given
    assert allowed in caught.value.allowed


@pytest.mark.parametrize("spec", DEFAULT_COMPARE)
def test_the_default_comparison_is_written_canonically(spec: str) -> None:
    assert parse_pager(spec).spec == spec


def test_every_pager_is_found_by_its_own_name() -> None:
    assert {name: pager.name for name, pager in PAGERS.items()} == {n: n for n in PAGERS}


def test_cold_memory_is_not_read() -> None:
    with pytest.raises(UsageError, match="one shared zero page"):
        parse_pager("none").check(make_work(access="read"))
    parse_pager("none").check(make_work(access="write"))
    parse_pager("none,host=populated").check(make_work(access="read"))


@pytest.mark.parametrize("name", ["uffd", "exit"])
def test_a_share_of_less_than_a_page_is_refused(name: str) -> None:
    parse_pager(f"{name},uffds=69").check(make_work())
    with pytest.raises(UsageError, match="at most 69, the pages of guest memory"):
        parse_pager(f"{name},uffds=70").check(make_work())
    with pytest.raises(UsageError, match="at most 23"):
        parse_pager(f"{name},uffds=per-vcpu").check(make_work(vcpus=24, overlap=True))


@pytest.mark.parametrize(
    ("spec", "readers", "fds"),
    [
        ("none", 0, 0),
        ("exit", 0, 1),
        ("exit,uffds=per-vcpu", 0, 5),
        ("exit,uffds=3", 0, 3),
        ("uffd", 1, 1),
        ("uffd,readers=3", 3, 1 + 3),
        ("uffd,uffds=per-vcpu", 5, 5),
        ("uffd,readers=2,uffds=per-vcpu", 10, 5 + 10),
        ("uffd,readers=3,wait=adaptive", 3, 1 + 3),
        ("uffd,wait=adaptive", 1, 1),
        *((f"uffd,readers=3,wait={wait}", 3, 1) for wait in ("poll", "read", "spin")),
    ],
)
def test_a_pager_tells_how_many_threads_and_descriptors_it_takes(
    spec: str, readers: int, fds: int
) -> None:
    pager, work = parse_pager(spec), make_work(vcpus=5)
    assert (pager.reader_count(work), pager.fd_count(work)) == (readers, fds)


@pytest.mark.parametrize("spec", [spec for spec in _all_specs() if spec != "none,host=cold"])
def test_no_page_that_a_pager_brings_has_a_tag_of_zero(spec: str) -> None:
    rule = parse_pager(spec).tags(0)
    assert all(rule.tag(page * PAGE_BYTES) for page in range(997))
    assert all(rule.last_word(page * PAGE_BYTES) for page in range(997))


def test_cold_memory_holds_zeros() -> None:
    rule = parse_pager("none").tags(7)
    assert rule.tag(23 * PAGE_BYTES) == rule.last_word(23 * PAGE_BYTES) == 0
