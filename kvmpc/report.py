"""A result as text for a terminal: the table, and below it what is needed to judge the table.

Under 100 columns whatever the result holds, and safe to print: text from a file of another host
may not move the cursor. Computes nothing but roundings; the numbers are those of kvmpc.stats.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from kvmpc.doubts import doubts
from kvmpc.results import Result
from kvmpc.stats import Row, Summary, baseline_pager, compare_rows, reference_pager
from kvmpc.units import PAGE_BYTES, format_bytes, format_ns

__all__ = ["MAX_COLUMNS", "format_table", "format_warnings"]

MAX_COLUMNS: Final = 99

_ABSENT: Final = "-"
_HEADERS: Final = (
    "pager",
    "pages/s",
    "MiB/s",
    "ratio",
    "of\nnone",
    "fault\np50",
    "fault\np99",
    "CPU s\n/GiB",
    "verified",
)
_MIN_PAGER_COLUMNS: Final = 16  # holds fetch=pipelined
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


def format_table(result: Result) -> str:
    """Return the table of `result` and the notes below it, ending in a newline."""
    rows = compare_rows(result)
    notes = (
        textwrap.fill(_clean(note), MAX_COLUMNS, subsequent_indent="  ")
        for note in _notes(result, rows)
    )
    return "\n".join([_table(rows), "", *notes]) + "\n"


def format_warnings(result: Result) -> list[str]:
    """Return what tilts or weakens the result, each with its remedy.

    What several measured trials say with other numbers is said once, in the words of the first,
    with how many said it.
    """
    told = list(dict.fromkeys(map(str, (*result.warnings, *doubts(result)))))
    alike: dict[str, list[str]] = {}
    for trial in result.trials:
        for caution in trial.warnings if trial.round > 0 else ():
            text = re.sub(r"[\d.,]+", "#", caution.text)
            alike.setdefault(text, []).append(f"{trial.label}: {caution}")
    for texts in alike.values():
        more = f" (so or similar in {len(texts)} trials)" if len(texts) > 1 else ""
        told.append(texts[0] + more)
    return [_clean(f"warning: {text}") for text in told]


def _table(rows: Sequence[Row]) -> str:
    cells = [_cells(row, with_spread=True) for row in rows]
    if _room_for_pager(cells) < _MIN_PAGER_COLUMNS:
        cells = [_cells(row, with_spread=False) for row in rows]
    room = max(_MIN_PAGER_COLUMNS, _room_for_pager(cells))
    body = [
        [_wrap_label(row.label, room), *numbers] for row, numbers in zip(rows, cells, strict=True)
    ]
    rule = ["-" * width for width in _widths([_HEADERS, *body])]
    # Here and not above: importing it takes longer than `kvmpc --help` may.
    from tabulate import tabulate

    # The headers are rows: as headers, each would get two columns of padding.
    return tabulate(
        [_HEADERS, rule, *body],
        tablefmt="plain",
        disable_numparse=True,  # the cells are rounded already
        colalign=("left", *["right"] * (len(_HEADERS) - 2), "left"),
    )


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(len(line) for cell in column for line in cell.split("\n"))
        for column in zip(*rows, strict=True)
    ]


def _cells(row: Row, *, with_spread: bool) -> list[str]:
    """Return what stands right of the pager's name."""
    share = row.share_of_none
    return [
        _number(row.pages_per_s),
        _number(row.mib_per_s),
        _ratio(row.ratio, with_spread=with_spread),
        _ABSENT if share is None else _capped(share * 100, ".0f" if share >= 1 else ".3g") + "%",
        _duration(row.fault_p50_ns),
        _duration(row.fault_p99_ns),
        _number(row.cpu_s_per_gib),
        _verdict(row),
    ]


def _verdict(row: Row) -> str:
    if row.failed:
        return "FAILED"
    if not row.ok_trials:
        return _ABSENT
    return row.verified if row.verified in ("yes", "zeros") else "no"


def _room_for_pager(cells: Sequence[Sequence[str]]) -> int:
    separators = 2 * (len(_HEADERS) - 1)
    return MAX_COLUMNS - separators - sum(_widths([_HEADERS[1:], *cells]))


def _wrap_label(label: str, columns: int) -> str:
    """Return `label` in lines of at most `columns`, broken after a comma where that is possible."""
    lines = [""]
    for part in _clean(label).replace(",", ",\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > columns:
            lines.append(" ")
        lines[-1] += part
        while len(lines[-1]) > columns:
            lines[-1:] = [lines[-1][:columns], lines[-1][columns:]]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    """Return `value` with four significant digits, and commas between its thousands."""
    if value is None:
        return _ABSENT
    rounded = float(f"{value:.4g}")
    if rounded >= 1e8 or 0 < rounded < 1e-3:
        return f"{rounded:.3g}"
    return f"{rounded:,.0f}" if rounded >= 1000 else f"{rounded:.4g}"


def _ratio(ratio: Summary | None, *, with_spread: bool) -> str:
    if ratio is None:
        return _ABSENT
    if ratio.n == 1 or not with_spread:
        return _three_digits(ratio.median)
    spread = f"{_three_digits(ratio.lowest)}-{_three_digits(ratio.highest)}"
    return f"{_three_digits(ratio.median)} [{spread}]"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return _capped(value, ".3g" if value < 0.0995 else f".{decimals}f")


def _capped(value: float, digits: str) -> str:
    """Return `value`, or on which side of every sensible value it lies."""
    if value > 9999:
        return ">9999"
    return "<0.001" if 0 < value < 0.001 else format(value, digits)


def _duration(value_ns: float | None) -> str:
    # Rounded before the unit is chosen: 999.9 ns is 1 us, not 1e+03 ns.
    return _ABSENT if value_ns is None else format_ns(float(f"{value_ns:.3g}"))


def _notes(result: Result, rows: Sequence[Row]) -> Iterator[str]:
    """Return the paragraphs below the table, most needed first."""
    if not result.finished:
        yield "UNFINISHED: this run was stopped or is still going; the table holds what there is."
    if not result.trials:
        yield "No trial was run."
    yield from _failures(rows)
    yield from _references(result, rows)
    yield _work(result)
    yield _host(result.host)
    shown = [row for row in rows if row.ok_trials]
    if any("(sigbus)" in row.label for row in shown):
        yield _SIGBUS_NOTE
    if any(row.verified == "zeros" for row in shown):
        yield _ZEROS_NOTE
    if any(row.spec == "none,host=populated" for row in shown):
        yield _POPULATED_NOTE
    if shown and _option(result, "overlap"):
        yield _OVERLAP_NOTE


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        total = row.ok_trials + row.failed_trials
        for error in row.errors:
            yield f"{row.label} failed ({row.failed_trials} of {total} trials): {error}"


def _references(result: Result, rows: Sequence[Row]) -> Iterator[str]:
    """Say what ratio and share refer to, or why there is none."""
    by_spec = {row.spec: row for row in rows}
    baseline = by_spec.get(baseline_pager(result) or "")
    reference = by_spec.get(reference_pager(result) or "")
    if baseline is not None:
        if baseline.failed:
            yield f"No ratios: {baseline.label}, which they would refer to, failed."
        elif len(rows) > 1:
            yield f"ratio: to {baseline.label}, in the same round; median [lowest-highest]."
    if reference is not None:
        if reference.failed:
            yield f"No shares: {reference.label}, which they would refer to, failed."
        elif len(rows) > 1:
            yield f"of none: to {reference.label}, in the same round; median."


def _work(result: Result) -> str:
    vcpus, part = _count(result, "vcpus"), _count(result, "mem_per_vcpu_bytes")
    touched, delay_ns = _count(result, "touch_pages"), _count(result, "fetch_delay_ns")
    overlap = bool(_option(result, "overlap"))
    said = []
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
    said += [str(word) for name in ("order", "access") if (word := _option(result, name))]
    if delay_ns:
        said.append(f"fetch delay {format_ns(delay_ns)}")
    rounds = len({trial.round for trial in result.trials if trial.round > 0})
    said.append(f"{rounds} round{'' if rounds == 1 else 's'}")
    return f"work: {', '.join(said)}"


def _host(facts: Mapping[str, object]) -> str:
    cpu, kernel, kvm = _group(facts, "cpu"), _group(facts, "kernel"), _group(facts, "kvm")
    said = [
        f"Linux {kernel['release']}" if "release" in kernel else "kernel unknown",
        str(cpu.get("model", "CPU unknown")),
    ]
    if "allowed_count" in cpu:
        listed = f" ({cpu['allowed']})" if "allowed" in cpu else ""
        said.append(f"{cpu['allowed_count']} CPUs allowed{listed}")
    said.append(f"paging {kvm.get('second_level_paging', 'unknown')}")
    if cpu.get("hypervisor") is True:
        said.append("itself a virtual machine")
    return f"host: {', '.join(said)}"


def _group(facts: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = facts.get(name)
    return found if isinstance(found, Mapping) else {}


def _option(result: Result, name: str) -> object:
    return result.options.get(name)


def _count(result: Result, name: str) -> int | None:
    found = _option(result, name)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _clean(text: str) -> str:
    """Return `text` without what is not for print: escapes, and halves of characters."""
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text
    )
