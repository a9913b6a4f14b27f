"""Bad input: exit code 2 before the host is even looked at, and a message that helps."""

from __future__ import annotations

import pytest

PAGE_WORDS = "a multiple of the page, 4096 bytes"
SIZE_WORDS = "a whole number with an optional unit K, M, G or T"
TIME_WORDS = "a number with a unit ns, us, ms or s (or 0)"
WATCHDOG_WORDS = "up to 3600 s, and at least ten times --fetch-delay"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vcpus", "0"], ["--vcpus", "0", "1 up to what KVM allows"]),
        (["--vcpus", "-1"], ["--vcpus", "-1", "whole numbers as in 8, 1,2,4"]),
        (["--vcpus", "many"], ["--vcpus", "many", "whole numbers"]),
        (["--vcpus", "1.5"], ["--vcpus", "1.5", "whole numbers"]),
        (["--mem-per-vcpu", "0"], ["--mem-per-vcpu", "0", PAGE_WORDS]),
        (["--mem-per-vcpu", "4095"], ["--mem-per-vcpu", "4095", PAGE_WORDS]),
        (["--mem-per-vcpu", "4097"], ["--mem-per-vcpu", "4097", PAGE_WORDS]),
        (["--mem-per-vcpu", "9K"], ["--mem-per-vcpu", "9216", PAGE_WORDS]),
        (["--mem-per-vcpu", "-4K"], ["--mem-per-vcpu", "'-4K'", SIZE_WORDS]),
        (["--mem-per-vcpu", "1.5M"], ["--mem-per-vcpu", "'1.5M'", SIZE_WORDS]),
        (["--mem-per-vcpu", "4X"], ["--mem-per-vcpu", "'4X'", SIZE_WORDS]),
        (["--mem-per-vcpu", ""], ["--mem-per-vcpu", "''", SIZE_WORDS]),
        (["--touch-pages", "24"], ["--touch-pages", "24", "1 to 23, the pages in 92K"]),
        (["--touch-pages", "0"], ["--touch-pages", "0", "1 to 23"]),
        (["--touch-pages", "-23"], ["--touch-pages", "-23", "1 to 23"]),
        (["--touch-pages", "all"], ["--touch-pages", "'all'", "integer"]),
        (["--order", "random"], ["--order", "'random'", "sequential or scattered"]),
        (["--access", "execute"], ["--access", "'execute'", "write or read"]),
        (["--verify", "pages"], ["--verify", "'pages'", "words or page"]),
        (["--verify", ""], ["--verify", "''", "words or page"]),
        (["--seed", "-1"], ["--seed", "-1", "0 to 4294967295"]),
        (["--seed", "4294967296"], ["--seed", "4294967296", "0 to 4294967295"]),
        (["--seed", "x"], ["--seed", "'x'", "integer"]),
        (["--rounds", "0"], ["--rounds", "0", "1 to 1000"]),
        (["--rounds", "1001"], ["--rounds", "1001", "1 to 1000"]),
        (["--warmup", "-1"], ["--warmup", "-1", "0 to 1000"]),
        (["--warmup", "1001"], ["--warmup", "1001", "0 to 1000"]),
        (["--fetch-delay", "5"], ["--fetch-delay", "'5'", TIME_WORDS]),
        (["--fetch-delay", "-1us"], ["--fetch-delay", "'-1us'", TIME_WORDS]),
        (["--fetch-delay", "soon"], ["--fetch-delay", "'soon'", TIME_WORDS]),
        (["--fetch-delay", "11s"], ["--fetch-delay", "11000000000ns", "0 to 10s"]),
        (["--watchdog", "0"], ["--watchdog", "0", WATCHDOG_WORDS]),
        (["--watchdog", "-1"], ["--watchdog", "-1", WATCHDOG_WORDS]),
        (["--watchdog", "3601"], ["--watchdog", "3601", WATCHDOG_WORDS]),
        (["--watchdog", "nan"], ["--watchdog", "nan", WATCHDOG_WORDS]),
        (["--watchdog", "inf"], ["--watchdog", "inf", WATCHDOG_WORDS]),
        (["--watchdog", "late"], ["--watchdog", "'late'", "float"]),
        (["--watchdog", "1", "--fetch-delay", "200ms"], ["--watchdog", "1.0", WATCHDOG_WORDS]),
    ],
    ids=" ".join,
)
def test_a_bad_option_value_is_named_with_what_is_allowed(kvmpc, tiny, arguments, words):
    finished = kvmpc("compare", "none", "uffd", *tiny, *arguments)
    assert finished.code == 2
    assert finished.stdout == ""
    for word in words:
        assert word in finished.error


@pytest.mark.parametrize(
    ("pager", "words"),
    [
        ("swap", ["PAGER", "'swap'", "none, uffd, exit"]),
        ("", ["PAGER", "''", "none, uffd, exit"]),
        ("UFFD", ["PAGER", "'UFFD'", "none, uffd, exit"]),
        ("exit(bitmap)", ["PAGER", "'exit(bitmap)'", "none, uffd, exit"]),
        ("uffd,reader=2", ["uffd,reader=2", "'reader=2'", "readers, uffds, fetch"]),
        ("uffd,readers", ["uffd,readers", "'readers'", "key=value", "readers, uffds, fetch"]),
        ("uffd,", ["uffd,", "''", "key=value", "readers, uffds, fetch"]),
        ("none,readers=2", ["none,readers=2", "'readers=2'", "host"]),
        ("exit,fetch=blocking", ["exit,fetch=blocking", "'fetch=blocking'", "uffds, provider"]),
        ("uffd,readers=1,readers=2", ["'readers=2'", "readers once"]),
        ("uffd,uffds=one,uffds=one", ["'uffds=one'", "uffds once"]),
        ("uffd,readers=0", ["'readers=0'", "readers=1 to 1024"]),
        ("uffd,readers=1025", ["'readers=1025'", "readers=1 to 1024"]),
        ("uffd,readers=two", ["'readers=two'", "readers=1 to 1024"]),
        ("uffd,readers=-1", ["'readers=-1'", "readers=1 to 1024"]),
        ("uffd,uffds=0", ["'uffds=0'", "uffds=one, per-vcpu, or 1 to 4096"]),
        ("uffd,uffds=4097", ["'uffds=4097'", "uffds=one, per-vcpu, or 1 to 4096"]),
        ("exit,uffds=all", ["'uffds=all'", "uffds=one, per-vcpu, or 1 to 4096"]),
        ("exit,provider=bitmap", ["'provider=bitmap'", "provider=sigbus"]),
        ("uffd,wait=sleep", ["'wait=sleep'", "wait=epoll or poll or read or spin or adaptive"]),
        ("uffd,drain=0", ["'drain=0'", "drain=1 to 1024"]),
        ("uffd,wait=adaptive,spin=20", ["'spin=20'", "spin=1us to 1s"]),
        ("uffd,spin=20us", ["spin=20us with wait=epoll", "'spin=20us'", "wait=adaptive"]),
        ("uffd,wait=spin,spin=1s", ["spin=1s with wait=spin", "'spin=1s'", "wait=adaptive"]),
        ("exit,wait=spin", ["'wait=spin'", "uffds, provider"]),
        ("uffd,fetch=lazy", ["'fetch=lazy'", "fetch=pipelined or blocking"]),
        ("none,host=warm", ["'host=warm'", "host=cold or populated"]),
        ("uffd,uffds=24", ["uffds", "'24'", "at most 23, the pages of guest memory"]),
    ],
)
def test_a_bad_pager_is_named_with_what_is_allowed(kvmpc, tiny, pager, words):
    finished = kvmpc("compare", "none", pager, *tiny)
    assert finished.code == 2
    assert finished.stdout == ""
    for word in words:
        assert word in finished.error


@pytest.mark.parametrize(
    "pagers", [("uffd", "uffd"), ("uffd", "uffd,readers=1,uffds=one"), ("exit", "exit(sigbus)")]
)
def test_a_pager_given_twice_is_refused_however_it_is_spelled(kvmpc, tiny, pagers):
    finished = kvmpc("compare", *pagers, *tiny)
    assert finished.code == 2
    assert "each pager once" in finished.error
    assert f"'{pagers[0]}'" in finished.error


@pytest.mark.parametrize("readers", [1, 2])
def test_a_reader_that_cannot_wake_for_a_page_is_refused_with_what_to_do_instead(
    kvmpc, tiny, readers
):
    spec = f"uffd,readers={readers},wait=read"
    finished = kvmpc("compare", spec, "exit", *tiny, "--fetch-delay", "50us")
    assert finished.code == 2
    assert finished.stdout == ""
    for word in ("wait=read", "--fetch-delay", "fetch=pipelined", "fetch=blocking"):
        assert word in finished.error


@pytest.mark.parametrize("pager", ["none", "none,host=cold"])
def test_reads_of_cold_memory_are_refused_with_what_to_do_instead(kvmpc, tiny, pager):
    finished = kvmpc("compare", pager, "uffd", *tiny, "--access", "read")
    assert finished.code == 2
    for word in ("--access read", "none,host=cold", "none,host=populated", "zero page"):
        assert word in finished.error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["Usage: kvmpc", "compare", "probe", "run", "show"]),
        (["measure"], ["No such command 'measure'"]),
        (["compare", "--vcpu", "1"], ["No such option", "--vcpu"]),
        (["compare", "--json"], ["--json", "requires an argument"]),
        (["run"], ["Missing argument 'PAGER'"]),
        (["run", "none", "uffd"], ["unexpected extra argument", "uffd"]),
        (["show"], ["Missing argument", "FILE"]),
        (["probe", "now"], ["unexpected extra argument", "now"]),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_a_wrong_command_line_says_what_is_wrong(kvmpc, arguments, words):
    finished = kvmpc(*arguments)
    assert finished.code == 2
    assert finished.stdout == ""
    for word in words:
        assert word in finished.error


@pytest.mark.parametrize("command", ["compare", "run"])
def test_commands_that_measure_refuse_the_same_things(kvmpc, tiny, command):
    finished = kvmpc(command, "swap", *tiny)
    assert finished.code == 2
    assert "none, uffd, exit" in finished.error
