"""What is said of a result in sentences: what is needed to judge its table, and its cautions.

Plain text, safe to print, in paragraphs that a view wraps as it likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from kvmpc.caution import HOST
from kvmpc.judge.answer import Answer, Why, answer_of, contests_of
from kvmpc.judge.intervals import CONFIDENCE, FEWEST_FOR_INTERVAL
from kvmpc.judge.reading import PointReading, Reading
from kvmpc.judge.rows import Row
from kvmpc.judge.told import Told, of_run
from kvmpc.result.facts import Facts
from kvmpc.result.records import Result
from kvmpc.show.cells import MAX_COLUMNS, clean, paragraph
from kvmpc.show.waits import notes_on_waits
from kvmpc.units import PAGE_BYTES, format_bytes, format_ns

__all__ = [
    "failures_of",
    "fastest_of",
    "format_warnings",
    "host_of",
    "notes_of",
    "references_of",
    "warning_lines",
    "warning_texts",
    "work_of",
]

_SIGBUS_NOTE: Final = (
    "exit(sigbus) is a pessimistic stand-in for exits on a kernel's own missing bitmap: a fault "
    "walks the kernel's page lookup two or three times before it comes out, which a kernel that "
    "checks a bitmap first does not do."
)
_ZEROS_NOTE: Final = (
    "verified zeros: with the kernel's own fault (none,host=cold) a page can only hold zeros, so "
    "its contents say nothing; presence was checked."
)
_POPULATED_NOTE: Final = (
    "none,host=populated: KVM's shadow MMU maps 8 pages in one fault (the TDP MMU one), so there "
    "not every touch is a fault, and the rate is no fault rate."
)
_OVERLAP_NOTE: Final = (
    "No fault times: with overlap most touches find the page there, and are no faults."
)


def notes_of(reading: Reading) -> list[str]:
    """Return the paragraphs below a table, most needed first, each once."""
    return list(dict.fromkeys(clean(note) for note in _notes(reading)))


def format_warnings(reading: Reading, room: int = MAX_COLUMNS) -> list[str]:
    """Return what weakens a result, as `warning_lines` does."""
    return warning_lines(map(str, of_run(reading.cautions)), reading.cautions, room)


def warning_lines(of_this_run: Iterable[str], told: Iterable[Told], room: int) -> list[str]:
    """Return `warning_texts` as paragraphs as wide as `room`."""
    return [paragraph(f"warning: {said}", room) for said in warning_texts(of_this_run, told)]


def warning_texts(of_this_run: Iterable[str], told: Iterable[Told]) -> list[str]:
    """Return what is said of a run, each once, and last in one text what `told` has of its host."""
    always = dict.fromkeys(each.caution.text for each in told if each.caution.kind == HOST)
    host = [f"this host, always: {'; '.join(always)}"] if always else []
    return [*dict.fromkeys(of_this_run), *host]


def _notes(reading: Reading) -> Iterator[str]:
    """Yield the paragraphs below the table, most needed first."""
    result, points = reading.result, reading.points
    if not result.finished:
        yield "UNFINISHED: this run was stopped or is still going; the table holds what there is."
    if not result.trials:
        yield "No trial was run."
    yield from failures_of(points)
    yield from fastest_of(points)
    yield from references_of(points)
    if result.question:
        yield f"question: {result.question}"
    yield work_of(result, points)
    yield host_of(result)
    yield from notes_on_waits(points)
    shown = [row for at in points for row in at.rows if row.ok_trials]
    if any(row.pager.provider == "sigbus" for row in shown):
        yield _SIGBUS_NOTE
    if any(row.verified == "zeros" for row in shown):
        yield _ZEROS_NOTE
    if any(row.pager.keys.get("host") == "populated" for row in shown):
        yield _POPULATED_NOTE
    if any(at.result.overlap for at in points if at.result.trials):
        yield _OVERLAP_NOTE


def failures_of(points: Sequence[PointReading]) -> Iterator[str]:
    """Yield why rows have no number, or few: what failed, was starved, or cannot run here."""
    for at in points:
        yield from _failures(at)
    for at in points:
        yield from _starved(at)
    yield from _skipped(points)


def fastest_of(points: Sequence[PointReading]) -> Iterator[str]:
    """Yield which pager is shown to be the fastest, or that none is; points alike together."""
    contests = contests_of(at.result for at in points)
    where: dict[str, list[str]] = {}
    for at in points:
        answer = answer_of(at.result, contests)
        if answer is not None and answer.why is not Why.ALONE:
            where.setdefault(_fastest(answer, contests), []).append(at.name)
    named = len(points) > 1
    told = [f"{said} ({', '.join(names)})" if named else said for said, names in where.items()]
    if told:
        yield f"fastest: {'; '.join(told)}."


def _fastest(answer: Answer, contests: int) -> str:
    rounds = f"{answer.rounds} round{'' if answer.rounds == 1 else 's'}"
    rest = ", ".join(row.label for row in answer.without)
    of_rest = f", of those with a rate (not {rest})" if rest else ""
    if answer.why is Why.LED:
        return f"{answer.best.label}, in {answer.led} of {rounds}{of_rest}"
    if answer.why is Why.KIND_LED:
        return f"every {answer.best.pager.kind}, in {answer.kind_led} of {rounds}{of_rest}"
    if answer.why is Why.TOO_FEW:
        of = " of so many" if contests > 1 else ""
        return f"not shown, as {rounds} can name none{of}; {answer.needed} could"
    if answer.why is Why.NO_COMMON_ROUND:
        return "not shown, as no round measured them all"
    return f"not shown, as {answer.best.label} led in {answer.led} of {rounds} only"


def references_of(points: Sequence[PointReading]) -> Iterator[str]:
    """Yield what ratios and shares refer to, and what stands in brackets."""
    for at in points:
        yield from _references(at)


def _failures(at: PointReading) -> Iterator[str]:
    for row in at.rows:
        total = row.ok_trials + row.failed_trials
        where = f" at {at.name}" if at.name else ""
        for error in row.errors:
            yield f"{row.label} failed{where} ({row.failed_trials} of {total} trials): {error}"


def _starved(at: PointReading) -> Iterator[str]:
    """Say which rows have fewer rounds than were run, or no number, and why."""
    where = f" at {at.name}" if at.name else ""
    for row in at.rows:
        if row.starved and not row.failed:
            numbers = ", too few for numbers" if row.busy else ""
            yield f"{row.label}{where} was starved: {row.starved}{numbers}."


def _skipped(points: Sequence[PointReading]) -> Iterator[str]:
    """Say what this host could not run; what has the same reason, together."""
    where: dict[str, list[str]] = {}
    for at in points:
        for skip in at.result.skipped:
            what = at.result.pager(skip.pager).label
            where.setdefault(skip.reason, []).append(f"{what} at {at.name}" if at.name else what)
    for reason, skipped in where.items():
        yield f"skipped {', '.join(skipped)}: {reason}"


def _references(at: PointReading) -> Iterator[str]:
    """Say what ratio and share refer to, or why there is none."""
    where = f" at {at.name}" if at.name else ""
    if (base := at.ratio_base) is not None:
        if base.failed or base.busy:
            yield f"No ratios{where}: {base.label}, which they would refer to, {_lacks(base)}."
        elif len(at.rows) > 1:
            yield f"ratio: to {base.label}, in the same round; {_spread_note(at.rows)}."
    if (base := at.share_base) is not None:
        if base.failed or base.busy:
            yield f"No shares{where}: {base.label}, which they would refer to, {_lacks(base)}."
        elif len(at.rows) > 1:
            yield f"of none: to {base.label}, in the same round; median."


def _lacks(row: Row) -> str:
    return "failed" if row.failed else "was starved"


def _spread_note(rows: Sequence[Row]) -> str:
    """Say what stands behind a median, and of how many rounds it comes."""
    ratios = [row.ratio for row in rows if row.ratio is not None]
    rounds = max((ratio.n for ratio in ratios), default=0)
    if rounds < 2:
        return "one round"
    if all(ratio.is_range for ratio in ratios):
        return f"median (range of the {rounds} rounds, too few for an interval)"
    ranges = any(ratio.is_range and ratio.n > 1 for ratio in ratios)
    fewer = ", or (range) of fewer than " + str(FEWEST_FOR_INTERVAL) if ranges else ""
    return f"median [{CONFIDENCE:.0%} interval] of {rounds} rounds{fewer}"


def work_of(result: Result, points: Sequence[PointReading]) -> str:
    """Say what all points have in common, or all there is to say of the only one."""
    known = [at.result.options for at in points]
    alike = {
        name: value
        for name, value in known[0].items()
        if all(options.get(name) == value for options in known)
    }
    vcpus, part = _count(alike, "vcpus"), _count(alike, "mem_per_vcpu_bytes")
    touched, delay_ns = _count(alike, "touch_pages"), _count(alike, "fetch_delay_ns")
    overlap = all(at.result.overlap for at in points)
    said = [f"{len(points)} points"] if len(points) > 1 else []
    if vcpus is not None and part is not None:
        guest = f"{vcpus} vCPU{'' if vcpus == 1 else 's'}"
        if overlap:
            said.append(f"{guest} share {format_bytes(part)} (overlap)")
        else:
            total = format_bytes(vcpus * part)
            said.append(f"{guest} x {format_bytes(part)} = {total} of memory")
        if touched is not None and touched < part // PAGE_BYTES:
            whose = "the part they share" if overlap else "each part"
            said.append(f"sparse: {touched:,} of {part // PAGE_BYTES:,} pages of {whose} touched")
    if vcpus is None and part is not None and len(points) > 1:
        said.append(f"{format_bytes(part)} of memory {'shared' if overlap else 'a vCPU'}")
    said += [str(word) for name in ("order", "access") if (word := alike.get(name))]
    if delay_ns:
        said.append(f"fetch delay {format_ns(delay_ns)}")
    said += _placed(alike.get("placement"))
    rounds = result.measured_rounds
    said.append(f"{rounds} round{'' if rounds == 1 else 's'}")
    return f"work: {', '.join(said)}"


def _placed(placement: object) -> Iterator[str]:
    """Say where threads and memory were asked to be, if they were."""
    asked = placement if isinstance(placement, Mapping) else {}
    if asked.get("pin") or asked.get("cpus"):
        yield f"{'pinned to' if asked.get('pin') else 'on'} CPUs {asked.get('cpus') or 'allowed'}"
    if asked.get("reader_cpus"):
        yield f"readers on {asked['reader_cpus']}"
    if asked.get("numa"):
        yield f"memory {asked['numa']}"
    if asked.get("cpu_latency_us") is not None:
        yield f"CPU latency {asked['cpu_latency_us']} us"


def host_of(result: Result) -> str:
    """Return the host in a line: kernel, CPU, CPUs, paging."""
    facts = Facts(result.host)

    def known(path: str, otherwise: str) -> str:
        found = facts.get(path)
        return otherwise if found is None else str(found)

    said = [
        f"Linux {facts.get('kernel.release')}" if facts.get("kernel.release") else "kernel unknown",
        known("cpu.model", "CPU unknown"),
    ]
    if facts.get("cpu.allowed_count") is not None:
        listed = known("cpu.allowed", "")
        said.append(f"{facts.get('cpu.allowed_count')} CPUs allowed{listed and f' ({listed})'}")
    said.append(f"paging {known('kvm.second_level_paging', 'unknown')}")
    if facts.get("cpu.hypervisor") is True:
        said.append("itself a virtual machine")
    return f"host: {', '.join(said)}"


def _count(options: Mapping[str, object], name: str) -> int | None:
    found = options.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
