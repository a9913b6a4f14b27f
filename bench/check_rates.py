"""How often is `kvmpc check` wrong here: on the same thing twice, and on a real slowdown?

Each time runs `kvmpc compare` three times: a baseline, the same again (A/A), and once with a fetch
delay that costs about 15 % of the rate (A/B; the delay is found by measuring, and is that which
costs the less affected of uffd and exit so much, unless --delay gives it). The last two swap their
places every time. Counts how many checks turned red: as they are, with --normalise, and with
several runs taken together and compared as runs. A check of A/A that is red is a false alarm, one
of A/B that is not has missed a slowdown: *unsure* it says so itself.

Takes about 8 s a time on two CPUs with nothing else running, and says what else ran.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from common import Case, interleaved, open_session, paired, print_host, print_table

from kvmpc.errors import MismatchError
from kvmpc.exit_codes import EXIT_HOST, EXIT_OK
from kvmpc.judge.criteria import DEFAULT_ALPHA, Criteria
from kvmpc.judge.regression import Check, check
from kvmpc.judge.summary import median
from kvmpc.judge.verdicts import Status, Verdict
from kvmpc.pagers import parse_pager
from kvmpc.result.document import load
from kvmpc.result.records import Result
from kvmpc.units import format_bytes, format_ns, parse_duration_ns, parse_size_bytes
from kvmpc.work.work import Work

PAGERS = ("none", "uffd", "exit")
CANDIDATES_NS = (0, 1, 500, 1_000, 2_000, 4_000, 8_000)
WANTED_LOSS = 0.15


def _find_delay_ns(vcpus: int, size: int, rounds: int) -> int:
    """Return the delay that takes about 15 % from the pager that it costs least.

    Measured in interleaved rounds. A sleep has a least cost of its own, so that 15 % of both is
    seldom to be had.
    """
    cases = {
        f"{spec} {delay}": Case(
            parse_pager(spec), Work(vcpus=vcpus, mem_per_vcpu_bytes=size, fetch_delay_ns=delay)
        )
        for delay in CANDIDATES_NS
        for spec in PAGERS[1:]
    }
    with open_session() as session:
        found = interleaved(session, cases, rounds)
    losses: dict[int, list[float]] = {}
    for delay in CANDIDATES_NS[1:]:
        for spec in PAGERS[1:]:
            ratios = paired(found[f"{spec} {delay}"], found[f"{spec} 0"])
            losses.setdefault(delay, []).append(1 - (median(ratios) or 0))
    print_table(
        ("fetch delay", *(f"costs {spec}" for spec in PAGERS[1:])),
        [(format_ns(delay), *(f"{loss:.1%}" for loss in each)) for delay, each in losses.items()],
    )
    return min(losses, key=lambda at: abs(min(losses[at]) - WANTED_LOSS))


def _compare(path: Path, size: int, rounds: int, delay_ns: int) -> Result:
    done = subprocess.run(
        [
            sys.executable, "-m", "kvmpc", "compare", *PAGERS, "--rounds", str(rounds),
            "--mem-per-vcpu", str(size), "--fetch-delay", f"{delay_ns}ns", "--json", str(path),
        ],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    # Of a host that is too busy there is a result, which a check then refuses.
    if done.returncode not in (EXIT_OK, EXIT_HOST) or not path.is_file():
        raise click.ClickException(f"kvmpc compare: {done.stderr}")
    return load(str(path))


def _checked(old: Sequence[Result], new: Sequence[Result], criteria: Criteria) -> Check | None:
    """Return the check; None where it refused."""
    try:
        return check(old, new, criteria)
    except MismatchError as error:
        click.echo(str(error), err=True)
        return None


def _count(
    name: str, pairs: Sequence[tuple[Sequence[Result], Sequence[Result]]], criteria: Criteria
) -> tuple[str, ...]:
    checks = [_checked(old, new, criteria) for old, new in pairs]
    known = [found for found in checks if found is not None]
    red = [{_row(each) for each in found.verdicts if each.status.red} for found in known]
    unsure = sum(found.status is Status.UNSURE for found in known)
    rows = Counter(row for each in red for row in each)
    shown = ", ".join(f"{row} {count}" for row, count in rows.most_common())
    counts = (sum(map(bool, red)), unsure, len(known) - sum(map(bool, red)) - unsure)
    return name, *map(str, counts), str(len(checks) - len(known)), shown or "-"


def _row(verdict: Verdict) -> str:
    return f"{verdict.pair.label} {verdict.metric}".strip()


@click.command(help=__doc__)
@click.option("--times", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--rounds", type=click.IntRange(6, 1000), default=10, show_default=True)
@click.option("--mem-per-vcpu", "size", default="8M", show_default=True)
@click.option("--delay", help="Fetch delay of the slow side [found by measuring]")
@click.option("--alpha", type=float, default=DEFAULT_ALPHA, show_default=True)
@click.option(
    "--together",
    type=click.IntRange(2, 100),
    default=7,
    show_default=True,
    help="Runs on each side where runs are compared.",
)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path),
              help="Keep the results in this folder.")  # fmt: skip
def main(
    times: int, rounds: int, size: str, delay: str | None, alpha: float, together: int,
    keep: Path | None,
) -> None:  # fmt: skip
    """Run everything, then judge it in three ways."""
    print_host()
    size_bytes = parse_size_bytes(size, "--mem-per-vcpu")
    if delay is None:
        delay_ns = _find_delay_ns(2, size_bytes, rounds)
    else:
        delay_ns = parse_duration_ns(delay, "--delay")
    click.echo(
        f"{times} times, {rounds} rounds of {', '.join(PAGERS)}, {format_bytes(size_bytes)} of "
        f"memory a vCPU; slow side: fetch delay {format_ns(delay_ns)}"
    )
    runs: dict[str, list[Result]] = {"base": [], "same": [], "slow": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with click.progressbar(range(times), label="times", file=sys.stderr) as bar:
            for time in bar:
                order = ("base", "same", "slow") if time % 2 else ("base", "slow", "same")
                for side in order:
                    path = folder / f"{side}{time}.json"
                    slow = delay_ns if side == "slow" else 0
                    result = _compare(path, size_bytes, rounds, slow)
                    # The delay is what the check is to find: for it, the same work was slower.
                    options = runs["base"][0].options if runs["base"] else result.options
                    runs[side].append(replace(result, options=options))
    plain, normalised = Criteria(alpha=alpha), Criteria(alpha=alpha, normalise=True)
    starts = range(0, times - together + 1, together)
    rows = []
    for name, side in (("A/A", "same"), ("A/B", "slow")):
        single = [([old], [new]) for old, new in zip(runs["base"], runs[side], strict=True)]
        grouped = [
            (runs["base"][at : at + together], runs[side][at : at + together]) for at in starts
        ]
        rows.append(_count(name, single, plain))
        rows.append(_count(f"{name}, normalised", single, normalised))
        if grouped:
            what = f"{name}, {together} runs a side"
            rows.append(_count(what, grouped, plain))
            rows.append(_count(f"{what}, normalised", grouped, normalised))
    print_table(
        ("check", "red", "unsure", "ok", "refused", "rows that turned red, with how often"), rows
    )
    during = [result.during or {} for side in runs.values() for result in side]
    loads = [
        float(str(facts.get("other_cpu_s", 0))) / float(str(facts.get("elapsed_s", 1)))
        for facts in during
    ]
    click.echo(f"other processes took {median(loads):.2f} CPUs (median of runs)")


if __name__ == "__main__":
    main()
