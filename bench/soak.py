"""Is anything left behind, wrong or stuck after thousands of trials that end in every way?

One process, one trial after another: a pager, its keys, the work, and how the trial is to end are
drawn at random from --seed. An end is: all pages; a stop at a random moment; a page that never
comes, which the watchdog has to name; a fault put in, which has to fail the trial with its own
error. After each the process must hold what it held before. --cpu-hogs and --memory-hog run beside
it, at its own priority:

    nice -n 19 python bench/soak.py --seconds 1800 --cpu-hogs 18 > soak.txt

A line a trial, printed before it begins, so that a crash or a hang (ended after --hang seconds,
with where each thread was) says in which; `--seed S --only N` runs that one again. The last line
has the figures; the exit code is 1 where anything was wrong, and then those trials are listed.
"""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import click
from common import open_session, print_host
from draws import Draw, draw

from kvmpc.errors import Interrupted, KvmpcError
from kvmpc.pagers import parse_pager
from kvmpc.run.needs import check_run
from kvmpc.run.session import Session
from kvmpc.trial.trial import run_trial
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.work.work import Work

WARM_UP = 60
"""Trials until every program is assembled, and stacks, arenas and caches are as large as ever."""

_SLACK_MAPPINGS = 40
"""Arenas of malloc and cached stacks split and merge; a mapping left a trial is hundreds."""
_NEVER_TRUE = ("stood-still", "tsc-outside", "tsc-rate")
"""Cautions that other load must not bring about; nothing here stops the process."""

_MOST_RSS_GROWTH_BYTES = 32 * MIB

_SPIN = "while os.getppid() == parent:\n for _ in range(100_000): pass"
_THRASH = (
    "held = bytearray(int(sys.argv[2]))\nwhile os.getppid() == parent:\n"
    " for at in range(0, len(held), 4096): held[at] = held[at] + 1 & 255"
)


@contextmanager
def hogs(cpu_hogs: int, memory_bytes: int) -> Iterator[None]:
    """Run children that take CPU and memory; they end with this process, however it ends."""
    head = f"import os, sys\nparent = {os.getpid()}\n"
    commands = [[head + _SPIN]] * cpu_hogs
    if memory_bytes:
        commands.append([head + _THRASH, "", str(memory_bytes)])
    children = [subprocess.Popen([sys.executable, "-c", *command]) for command in commands]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


@dataclass(frozen=True)
class Held:
    """What this process holds of the kernel; `mappings` also for malloc's arenas and stacks."""

    fds: int
    threads: int
    children: int
    mappings: int

    @classmethod
    def now(cls) -> Held:
        task = Path("/proc/self/task")
        maps = Path("/proc/self/maps").read_text("utf-8", "replace")
        # Without CONFIG_PROC_CHILDREN nobody counts them.
        listed = task / str(os.getpid()) / "children"
        children = listed.read_text().split() if listed.exists() else []
        return cls(
            len(os.listdir("/proc/self/fd")), len(os.listdir(task)), len(children), maps.count("\n")
        )


def rss_bytes() -> int:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


class Soak:
    """Runs draws and keeps the figures."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stopped_at = 0.0
        self._before = Held.now()
        self._fd_limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.ends: Counter[str] = Counter()
        self.pages = 0
        self.slowest_stop_s = 0.0
        signal.signal(signal.SIGALRM, self._stop)

    def _stop(self, *_: object) -> None:
        self._stopped_at = time.monotonic()
        self._session.interrupt.signal_name = "SIGALRM"

    def run(self, draw: Draw) -> str | None:
        """Run one; return what was wrong. Raises: Interrupted by other than its own stop."""
        self._stopped_at = 0.0
        signal.setitimer(signal.ITIMER_REAL, draw.stop_s or 0)
        try:
            result = run_trial(
                self._session.kvm,
                draw.work,
                draw.pager,
                watchdog_s=draw.watchdog_s,
                interrupt=self._session.interrupt,
                hooks=draw.hooks,
            )
        except Interrupted as error:
            if error.signal_name != "SIGALRM":
                raise
            self.ends["stop"] += 1
            self.slowest_stop_s = max(self.slowest_stop_s, time.monotonic() - self._stopped_at)
            return self._left()
        except KvmpcError as error:
            return f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_NOFILE, self._fd_limits)
            if self._stopped_at:
                self._session.interrupt.signal_name = None
        if draw.fault:
            self.ends["watchdog" if draw.never_ends else "fault"] += 1
            if re.search(draw.expected, str(result.error)) is None:
                return f"{result.error!r} where {draw.expected!r} was due"
        elif result.error is not None or result.verified not in ("yes", "zeros"):
            return f"{result.error!r}, verified {result.verified!r}"
        elif false := [str(one) for one in result.warnings if one.code in _NEVER_TRUE]:
            return "; ".join(false)
        else:
            self.ends["ok"] += 1
            self.pages += draw.work.expected_pages
        return self._left()

    def _left(self) -> str | None:
        """Return what is held more than before: a thread is gone a moment after it was joined."""
        for _ in range(100):
            held = Held.now()
            found = [
                f"{getattr(held, name) - getattr(self._before, name):+} {name}"
                for name in ("fds", "threads", "children")
                if getattr(held, name) != getattr(self._before, name)
            ]
            if not found:
                return None
            time.sleep(0.01)
        self.ends["leak"] += 1
        self._before = held
        return "left " + ", ".join(found)


@click.command(help=__doc__)
@click.option("--seconds", type=float, default=60.0, show_default=True)
@click.option("--trials", type=click.IntRange(1), default=None, help="No more than so many.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--only", type=click.IntRange(0), default=None, help="This trial of the seed alone.")
@click.option("--cpu-hogs", type=click.IntRange(0), default=0)
@click.option("--memory-hog", type=click.IntRange(0), default=0, help="Bytes.")
@click.option("--hang", type=float, default=300.0, show_default=True, help="Seconds for a trial.")
def main(
    seconds: float, trials: int | None, seed: int, only: int | None, cpu_hogs: int,
    memory_hog: int, hang: float,
) -> None:  # fmt: skip
    print_host()
    faulthandler.enable()
    faulthandler.dump_traceback_later(hang, exit=True)  # a thread, which is counted from now on
    numbers = range(trials) if trials is not None else count()
    wrong: list[str] = []
    begin, warm_rss, warm_mappings, held = time.monotonic(), rss_bytes(), 0, Held.now()
    with hogs(cpu_hogs, memory_hog), open_session() as session:
        largest = Work(vcpus=160, mem_per_vcpu_bytes=9 * PAGE_BYTES)
        check_run(session.kvm, largest, [parse_pager("uffd,uffds=per-vcpu,readers=3")])
        soak = Soak(session)
        for number in numbers if only is None else [only]:
            if time.monotonic() - begin > seconds:
                break
            drawn = draw(seed, number)
            click.echo(f"{number}: {drawn}: ", nl=False)
            sys.stdout.flush()
            faulthandler.dump_traceback_later(hang, exit=True)
            problem = soak.run(drawn)
            click.echo(problem or "as expected")
            if problem:
                wrong.append(f"--seed {seed} --only {number}: {drawn}: {problem}")
            held = Held.now()
            if number < WARM_UP:
                warm_rss = rss_bytes()
                warm_mappings = max(warm_mappings, held.mappings)
    grown, more = rss_bytes() - warm_rss, held.mappings - warm_mappings
    if more > _SLACK_MAPPINGS:
        wrong.append(f"{more} more mappings than after {WARM_UP} trials")
    if grown > _MOST_RSS_GROWTH_BYTES:
        wrong.append(f"{grown / MIB:.1f} MiB more resident than after {WARM_UP} trials")
    for line in wrong:
        click.echo(f"WRONG {line}")
    ends = soak.ends
    click.echo(
        f"{sum(ends.values()) - ends['leak']} trials in {time.monotonic() - begin:.0f} s, "
        f"{soak.pages} pages verified, {ends['stop']} stops (slowest {soak.slowest_stop_s:.2f} s), "
        f"{ends['watchdog']} by the watchdog, {ends['fault']} faults, {ends['leak']} leaks, "
        f"{more:+} mappings, RSS {grown / MIB:+.1f} MiB, {len(wrong)} wrong"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
