"""The page: one HTML document that needs nothing beside it and asks nobody for anything.

No script, and a policy that would refuse one, as it refuses every request; pictures are SVG in the
document. Every number in a chart is in a table too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

from kvmpc.judge.change import change_between, host_differences
from kvmpc.judge.rows import compare_rows
from kvmpc.result.records import Result
from kvmpc.show.page import appendix, compare, text, words
from kvmpc.show.page.chart import Chart, Table
from kvmpc.show.page.counters import counters
from kvmpc.show.page.draw import Look, draw, looks_of
from kvmpc.show.page.markup import bullets, esc, paragraph, rows_table, table
from kvmpc.show.page.panels import Panel, panels_of, shown_pagers
from kvmpc.show.page.published import shape_chart
from kvmpc.show.page.rate_charts import charts_of
from kvmpc.show.table import verdict_of

__all__ = ["render"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(results: Sequence[tuple[str, Result]], shapes: Sequence[str] = ()) -> str:
    """Return the page for one or more results, each with the name of its file.

    shapes: names in `SHAPES` of publications to lay the rates beside.
    """
    panels = [panels_of(result) for _, result in results]
    looks = looks_of(spec for found in panels for panel in found for spec in shown_pagers(panel))
    parts: list[tuple[str, str, str]] = []
    compared, apart = _comparison(results, looks)
    if compared:
        parts.append(("compared", "Before and after", compared))
    parts.append(("answer", "The answer", _answers(results, panels)))
    for number, ((name, result), found) in enumerate(zip(results, panels, strict=True)):
        title = "What was measured" if len(results) == 1 else f"{name}: {words.place_of(result)}"
        parts.append((f"r{number}", title, _result(result, found, looks, shapes, f"r{number}")))
    parts += [
        ("failures", "Failed and skipped", appendix.failures(results, panels)),
        ("warnings", "What tilts these numbers", appendix.warnings(results)),
        ("hosts", "Hosts", apart + appendix.hosts(results)),
        ("again", "How to reproduce", appendix.again(results)),
        ("reading", "How to read this", appendix.notes(results, shapes)),
    ]
    return _document(_title(results), parts)


def _document(title: str, parts: Sequence[tuple[str, str, str]]) -> str:
    style = files("kvmpc.show.page").joinpath("report.css").read_text("utf-8")
    links = "".join(f'<li><a href="#{key}">{esc(name)}</a></li>\n' for key, name, _ in parts)
    sections = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title">\n'
        f'<h2 id="{key}-title">{esc(name)}</h2>\n{body}</section>\n'
        for key, name, body in parts
    )
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{esc(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{esc(title)}</h1></header>\n"
        f'<nav aria-label="Contents"><ul>\n{links}</ul></nav>\n'
        f"<main>\n{sections}</main>\n</body>\n</html>\n"
    )


def _title(results: Sequence[tuple[str, Result]]) -> str:
    names = dict.fromkeys(
        str(result.host.get("hostname", "an unnamed host")) for _, result in results
    )
    days = sorted({result.started[:10] for _, result in results})
    return f"kvmpc: demand paging on {' and '.join(names)}, {' and '.join(days)}"


def _answers(results: Sequence[tuple[str, Result]], panels: Sequence[Sequence[Panel]]) -> str:
    told = []
    for (name, result), found in zip(results, panels, strict=True):
        if not result.finished:
            told.append(
                paragraph(f"{name} is unfinished: the run was stopped or is still going.", "bad")
            )
        if result.question:
            told.append(paragraph(f"Asked: {result.question}"))
        for panel in found:
            heads = [name] * (len(results) > 1) + [panel.title] * bool(panel.title)
            answer = words.answer_in_words(panel)
            heading = f"<h3>{esc(', '.join(heads))}</h3>\n" if heads else ""
            told.append(
                f'{heading}<div class="answer">\n{paragraph(answer.lead, "lead")}'
                f"{bullets(filter(None, answer.more))}</div>\n"
            )
        told.append(paragraph(f"On {words.place_of(result)}.", "place"))
        if result.warnings:
            told.append(
                f'<p class="place">Warnings that tilt these numbers: {len(result.warnings)}, '
                '<a href="#warnings">with remedies</a>.</p>\n'
            )
    return "".join(told)


def _comparison(
    results: Sequence[tuple[str, Result]], looks: Mapping[str, Look]
) -> tuple[str, str]:
    """Return the comparison of every later result with the first, and why some are not compared."""
    if len(results) < 2:
        return "", ""
    (first_name, first), *others = results
    told, apart = [], []
    for number, (name, result) in enumerate(others):
        differ = host_differences(first, result)
        if differ:
            apart.append(
                paragraph(
                    f"{name} is of another host than {first_name}, so the two are kept apart and "
                    f"no ratio is taken between them: {'; '.join(differ)}."
                )
            )
            continue
        told.append(_compared(first_name, first, name, result, looks, f"c{number}"))
    return "".join(told) + ("".join(apart) if told else ""), "".join(apart)


def _compared(
    first_name: str,
    first: Result,
    name: str,
    second: Result,
    looks: Mapping[str, Look],
    key: str,
) -> str:
    change = change_between(first, second)
    kernels = [words.fact(result, "kernel", "release") for result in (first, second)]
    told = [
        f"<h3>{esc(f'{first_name} (before) and {name} (after)')}</h3>\n",
        paragraph(
            f"The same host, Linux {kernels[0]} before and {kernels[1]} after."
            if kernels[0] != kernels[1]
            else f"The same host and the same kernel, Linux {kernels[0]}."
        ),
        f'<div class="answer">\n{paragraph(words.change_in_words(change), "lead")}</div>\n',
        paragraph(
            "Of intervals at 95 %, one in twenty leaves 1 out by chance: to decide whether a row "
            "became worse, use kvmpc check, which tests it.",
            "note",
        ),
    ]
    if change.rows:
        caption = "Medians, and their ratios with 95 % bootstrap intervals"
        told.append(_table(compare.changed_table(change), caption))
    told += [
        _figure(compare.change_chart(before, after), looks, f"{key}-{number}")
        for number, (before, after) in enumerate(compare.panels_of_both(first, second))
    ]
    if change.unmatched:
        caption = "Rows that were not compared"
        told.append(_table(compare.unmatched_table(change), caption, prose=True))
    told.append(bullets(dict.fromkeys(map(str, change.cautions))))
    return "".join(told)


def _result(
    result: Result,
    panels: Sequence[Panel],
    looks: Mapping[str, Look],
    shapes: Sequence[str],
    key: str,
) -> str:
    told = []
    for number, panel in enumerate(panels):
        if panel.title:
            told.append(f"<h3>{esc(panel.title)}</h3>\n")
        if panel.follows:
            told.append(
                paragraph(
                    f"Changes with {panel.axis.label if panel.axis else ''}: "
                    f"{', '.join(panel.follows)}.",
                    "note",
                )
            )
        if panel.axis is None:
            told.append(_numbers(panel))
        told.append(_scaling(panel))
        charts = [*charts_of(panel), *(shape_chart(panel, name) for name in shapes)]
        if not any(chart.lines for chart in charts):
            told.append(paragraph("No charts: no pager has a measured trial that verified."))
            continue
        told += [_figure(c, looks, f"{key}p{number}-{c.key}") for c in charts if c.lines]
        counted = counters(panel, shown_pagers(panel))
        if counted.rows:
            told.append(f"<h4>{esc(panel.titled('Counters, for each page'))}</h4>\n")
            told.append(_table(counted, "KVM's own counters and context switches by page"))
        missing = [f"{c.title}. {c.absent}" for c in charts if not c.lines]
        if missing:
            told.append(f"<h4>Charts that this result has no data for</h4>\n{bullets(missing)}")
        if panel.axis is not None:
            told.append(f"<h4>All points</h4>\n{_numbers(panel)}")
    return paragraph(f"Work: {words.work_of(result)}.") + "".join(told)


def _numbers(panel: Panel) -> str:
    """Return the table of a panel: what the terminal shows, for each point."""
    groups = []
    for index, point in enumerate(panel.points):
        rows = [
            (
                row.label,
                text.number(row.pages_per_s),
                text.number(row.mib_per_s),
                text.interval(row.ratio).replace(" [", "\n["),
                text.percent(row.share_of_none),
                text.duration(row.fault_p50_ns),
                text.duration(row.fault_p99_ns),
                text.number(row.cpu_s_per_gib),
                verdict_of(row, point),
                str(row.ok_trials),
            )
            for row in compare_rows(point)
        ]
        groups.append((panel.spell(index), rows))
    headers = (
        "pager", "pages/s", "MiB/s", "ratio", "of none", "fault p50", "fault p99", "CPU s/GiB",
        "verified", "rounds",
    )  # fmt: skip
    return rows_table(headers, groups, "Medians over rounds; ratio to the first pager that fetches")


def _scaling(panel: Panel) -> str:
    scaling = words.scaling_of(panel)
    if not scaling:
        return ""
    headers = ("pager", "first", "peak", "peak at", "last", "last of peak", "last over first")
    return table(headers, scaling, "How each pager scales, pages/s")


def _figure(chart: Chart, looks: Mapping[str, Look], name: str) -> str:
    if not chart.lines:
        return paragraph(f"{chart.title}. {chart.absent}", "absent")
    name = re.sub(r"[^A-Za-z0-9-]", "-", name)
    return (
        f'<figure id="{name}" class="chart">\n<figcaption>{esc(chart.title)}</figcaption>\n'
        f"{paragraph(chart.note, 'note')}"
        f'<div class="body">\n{draw(chart, looks, name)}\n'
        "<details open><summary>The numbers of this chart</summary>\n"
        f"{_table(chart.table, chart.title)}</details>\n</div>\n</figure>\n"
    )


def _table(cells: Table, caption: str, *, prose: bool = False) -> str:
    return table(cells.headers, cells.rows, caption, prose=prose)
