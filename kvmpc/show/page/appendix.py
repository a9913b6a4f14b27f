"""What a reader needs to judge a page's numbers and to get them again, as HTML sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kvmpc.caution import HOST
from kvmpc.judge.rows import compare_rows
from kvmpc.judge.told import Told, tell
from kvmpc.result.pager_info import pager_of_spelling
from kvmpc.result.records import Result
from kvmpc.show.page import text
from kvmpc.show.page.markup import bullets, esc, heading, paragraph, table
from kvmpc.show.page.panels import Panel, shown_pagers
from kvmpc.show.page.published import SHAPES
from kvmpc.show.shell import shell_line

__all__ = ["SHOWN_FACTS", "again", "failures", "failures_of", "hosts", "notes", "warnings"]

_READ_ME = (
    "Each pager was measured on the same guest and memory, one trial of each in every round, the "
    "order rotated; ratios are taken within a round. A rate counts 4 KiB pages from the gate that "
    "frees all vCPUs to the last vCPU's last page. A trial whose pages did not verify has no rate, "
    "and a pager with a failed trial has none at all. A trial is starved, and in no number, "
    "if others had too much of its CPU time. Warm-up and profiled rounds are in no number but "
    "those that say so."
)
_SIGBUS = (
    "exit(sigbus) is a pessimistic stand-in for exits on a kernel's own missing bitmap: a fault "
    "walks the kernel's page lookup two or three times before it comes out, which a kernel that "
    "checks a bitmap first does not do."
)
_ZEROS = (
    "verified zeros: with the kernel's own fault (none,host=cold) a page can only hold zeros, so "
    "its contents say nothing; presence was checked."
)
_ABSENT = "A number that was not measured is absent (-), never 0."

SHOWN_FACTS = (
    "hostname", "distribution", "kernel.release", "kernel.cmdline", "cpu.model", "cpu.microcode",
    "cpu.online", "cpu.allowed", "cpu.sockets_count", "cpu.threads_per_core", "cpu.hypervisor",
    "cpu.clocksource", "frequency.governors", "cpuidle.driver", "kvm.vendor_module",
    "kvm.second_level_paging", "memory.total_bytes", "memory.thp_enabled",
    "memory.numa_balancing", "load.avg1", "python",
)  # fmt: skip
"""What is shown at once; everything else is one key away."""


def failures(results: Sequence[tuple[str, Result]], panels: Sequence[Sequence[Panel]]) -> str:
    """Return the rows that gave no number, with reasons."""
    rows = [
        (label, ", ".join(filter(None, [name if len(results) > 1 else "", where])), what, reason)
        for (name, _), found in zip(results, panels, strict=True)
        for panel in found
        for where, label, what, reason in failures_of(panel)
    ]
    if not rows:
        return paragraph("Nothing failed, was starved or skipped.")
    return table(("pager", "where", "what", "reason"), rows, "No numbers, and why", prose=True)


def failures_of(panel: Panel) -> list[tuple[str, str, str, str]]:
    """Return (where, pager, what became of it, reason) of what gave no number, or fewer."""
    rows = []
    labels = shown_pagers(panel)
    for index, point in enumerate(panel.points):
        place = panel.spell(index) or panel.title
        for row in compare_rows(point):
            if row.starved and not row.failed:
                became = "busy" if row.busy else f"{row.starved_trials} trials starved"
                rows.append((place, row.label, became, row.starved))
            total = row.ok_trials + row.failed_trials
            rows += [
                (place, row.label, f"failed ({row.failed_trials} of {total} trials)", error)
                for error in row.errors
            ]
        rows += [
            (place, labels.get(skip.pager, skip.pager), "skipped", skip.reason)
            for skip in point.skipped
        ]
    return rows


def warnings(results: Sequence[tuple[str, Result]]) -> str:
    """Return what weakens each result, the worst first, each thing once and with its remedy."""
    several = len(results) > 1
    rows = [
        (name, each.code, each.text, each.caution.remedy, _where(each))
        for name, result in results
        for each in tell([result], profiled=True)
    ]
    if not rows:
        return paragraph("No warnings.")
    headers = ("result", "what", "found", "remedy", "where")
    shown = slice(None if several else 1, None)
    return table(headers[shown], [row[shown] for row in rows], "Warnings", prose=True)


def _where(told: Told) -> str:
    """Return of what a caution is, its worst instance first."""
    if told.caution.kind == HOST:
        return "this host, always"
    return ", ".join(dict.fromkeys([told.where, *told.places])) or "the run"


def hosts(results: Sequence[tuple[str, Result]]) -> str:
    """Return the facts of each host: those that matter most, and then all."""
    told = []
    for name, result in results:
        facts = dict(_flat(result.host))
        shown = [(key, facts[key]) for key in SHOWN_FACTS if key in facts]
        others = [(key, value) for key, value in facts.items() if key not in SHOWN_FACTS]
        if len(results) > 1:
            told.append(heading(name))
        if not facts:
            told.append(paragraph("This result has no facts of its host."))
            continue
        told.append(table(("fact", "value"), shown, "Host", prose=True))
        told.append(
            f"<details><summary>All other facts ({len(others)})</summary>\n"
            f"{table(('fact', 'value'), others, 'All other facts', prose=True)}</details>\n"
        )
    return "".join(told)


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", "; ".join(map(_spelled, value)) or "none"
        else:
            yield f"{prefix}{key}", _spelled(value)


def _spelled(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return (
        {True: "yes", False: "no", None: "unknown"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )


def again(results: Sequence[tuple[str, Result]]) -> str:
    """Return the exact command of each result, and the spec of a sweep."""
    told = []
    for name, result in results:
        if len(results) > 1:
            told.append(heading(name))
        told.append(
            f'<pre tabindex="0" aria-label="command">{esc(shell_line(result.command))}</pre>\n'
        )
        told.append(
            paragraph(
                f"kvmpc {result.tool_version}, started {result.started}, "
                f"{'finished' if result.finished else 'not finished'}; {len(result.trials)} "
                f"trials, warm-ups included; read from {name}."
            )
        )
        if result.turns:
            told.append(
                paragraph(
                    f"The side {result.turns.side} of two that were measured in turn, in "
                    f"{len(result.turns.last_rounds)} of {len(result.turns.new_first)} blocks; "
                    f"before each block: {result.turns.command}"
                )
            )
        if result.spec:
            lines = "\n".join(map(esc, result.spec.split("\n")))
            told.append(
                "<p>The sweep's spec, as it was run:</p>\n"
                f'<pre tabindex="0" aria-label="spec">{lines}</pre>\n'
            )
    return "".join(told)


def notes(results: Sequence[tuple[str, Result]], shapes: Sequence[str]) -> str:
    """Return what words and rows mean."""
    named = {(trial.pager, trial.label) for _, result in results for trial in result.trials}
    providers = {pager_of_spelling(spec, label).provider for spec, label in named}
    verified = {trial.verified for _, result in results for trial in result.trials}
    told = [_READ_ME, f"{text.INTERVAL}.", _ABSENT]
    if "sigbus" in providers:
        told.append(_SIGBUS)
    if "zeros" in verified:
        told.append(_ZEROS)
    told += [f"Published curves {name}: {SHAPES[name].source}." for name in shapes]
    return bullets(told)
