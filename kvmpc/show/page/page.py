"""The page: one HTML document that needs nothing beside it and asks nobody for anything.

No script, and a policy that would refuse one, as it refuses every request; pictures are SVG in the
document. Every number in a chart is in a table too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

from kvmpc.judge.answer import contests_of
from kvmpc.judge.change import change_between, host_differences
from kvmpc.judge.reading import read
from kvmpc.judge.told import worst
from kvmpc.result.points import points_of
from kvmpc.result.records import Result
from kvmpc.show.mail import format_mail
from kvmpc.show.page import appendix, compare, tables, words
from kvmpc.show.page.chart import Chart, Table
from kvmpc.show.page.counters import counters
from kvmpc.show.page.draw import draw
from kvmpc.show.page.looks import Look, looks_of_pagers
from kvmpc.show.page.markup import (
    answer,
    bullets,
    esc,
    heading,
    paragraph,
    preformatted,
    rows_table,
    table,
)
from kvmpc.show.page.panels import Panel, panels_of, shown_pagers
from kvmpc.show.page.published import shape_chart
from kvmpc.show.page.rate_charts import charts_of

__all__ = ["render"]

_DOUBTS = 2
"""How many of the worst cautions stand beside the answer."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(results: Sequence[tuple[str, Result]], shapes: Sequence[str] = ()) -> str:
    """Return the page for one or more results, each with the name of its file.

    shapes: names in `SHAPES` of publications to lay the rates beside.
    """
    panels = [panels_of(result) for _, result in results]
    looks = looks_of_pagers(
        spec for found in panels for panel in found for spec in shown_pagers(panel)
    )
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
    several = len(results) > 1
    return "".join(
        f'<div class="front">\n<div>\n{_answer(name, result, found, several=several)}</div>\n'
        f"<div>\n{_doubts(result)}</div>\n</div>\n"
        f"{preformatted('As text for a mail', format_mail(read(result)))}"
        for (name, result), found in zip(results, panels, strict=True)
    )


def _answer(name: str, result: Result, panels: Sequence[Panel], *, several: bool) -> str:
    told = []
    if not result.finished:
        told.append(
            paragraph(f"{name} is unfinished: the run was stopped or is still going.", "bad")
        )
    if result.question:
        told.append(paragraph(f"Asked: {result.question}"))
    contests = contests_of(points_of(result))
    for panel in panels:
        wording = words.answer_in_words(panel, contests)
        heads = [name] * several + [panel.title] * bool(panel.title)
        told.append(heading(", ".join(heads)) + answer(wording.lead, wording.more))
    told.append(paragraph(f"On {words.place_of(result)}.", "place"))
    return "".join(told)


def _doubts(result: Result) -> str:
    """Return the worst that can be said against the numbers, and where the rest stands."""
    of_run = worst([result])
    if not of_run:
        return ""
    more = len(of_run) - _DOUBTS
    rest = f"{more} more, and what is always so on this host" if more > 0 else "with remedies"
    return (
        '<div class="doubts">\n<p class="lead">What to doubt first</p>\n'
        f"{bullets(f'{each.text}. Remedy: {each.caution.remedy}.' for each in of_run[:_DOUBTS])}"
        f'<p><a href="#warnings">What tilts these numbers: {rest}</a>.</p>\n</div>\n'
    )


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


_CHANCE = "Chance alone names a row in one such comparison of twenty at most, all rows together"

_APART = (
    f"{_CHANCE}, if rounds of both runs are alike. Two runs of one kernel can differ as well: "
    "whether it became worse, kvmpc check says, best of several runs on each side."
)

_TURNED = (
    f"{_CHANCE}: both were measured in turn, in pairs of blocks whose order was drawn, so that "
    "what the host did meanwhile is in neither. Whether a row became worse, kvmpc check says."
)


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
        heading(f"{first_name} (before) and {name} (after)"),
        paragraph(
            f"The same host, Linux {kernels[0]} before and {kernels[1]} after."
            if kernels[0] != kernels[1]
            else f"The same host and the same kernel, Linux {kernels[0]}."
        ),
        answer(words.change_in_words(change)),
        paragraph(_TURNED if change.paired else _APART, "note"),
    ]
    caption = (
        "Medians; ratios are the middle of those within each pair of blocks"
        if change.paired
        else "Medians; ratios are the middle of all pairs of a round after and one before"
    )
    told.append(_table(compare.changed_table(change), caption))
    told += [
        _figure(compare.change_chart(before, after), looks, f"{key}-{number}")
        for number, (before, after) in enumerate(compare.panels_of_both(first, second))
    ]
    told.append(_table(compare.unmatched_table(change), "Rows that were not compared", prose=True))
    told.append(bullets(dict.fromkeys(map(str, change.cautions))))
    return "".join(told)


def _result(
    result: Result,
    panels: Sequence[Panel],
    looks: Mapping[str, Look],
    shapes: Sequence[str],
    key: str,
) -> str:
    told = [paragraph(f"Work: {words.work_of(result)}.")]
    told += [_panel(panel, looks, shapes, f"{key}p{number}") for number, panel in enumerate(panels)]
    return "".join(told)


def _panel(panel: Panel, looks: Mapping[str, Look], shapes: Sequence[str], key: str) -> str:
    """Return a panel: one point with its numbers first, several with theirs below the charts."""
    told = [heading(panel.title)]
    if panel.axis is None:
        told.append(_numbers(panel))
    elif panel.follows:
        listed = ", ".join(panel.follows)
        told.append(paragraph(f"Changes with {panel.axis.label}: {listed}.", "note"))
    told.append(_table(tables.scaling(panel), "How each pager scales, pages/s"))
    charts = [*charts_of(panel), *(shape_chart(panel, name) for name in shapes)]
    drawn = [chart for chart in charts if chart.lines]
    if not drawn:
        told.append(paragraph("No charts: no pager has a measured trial that verified."))
        return "".join(told)
    told += [_figure(chart, looks, f"{key}-{chart.key}") for chart in drawn]
    counted = counters(panel, shown_pagers(panel))
    if counted.rows:
        told.append(heading(panel.titled("Counters, for each page"), 4))
        told.append(
            _table(counted, "Counters of KVM, context switches and waits of readers by page")
        )
    missing = [f"{chart.title}. {chart.absent}" for chart in charts if not chart.lines]
    if missing:
        told.append(heading("Charts that this result has no data for", 4) + bullets(missing))
    if panel.axis is not None:
        told.append(heading("All points", 4) + _numbers(panel))
    return "".join(told)


def _numbers(panel: Panel) -> str:
    return rows_table(
        tables.NUMBER_HEADERS,
        tables.number_groups(panel),
        "Medians over rounds; ratio to the first pager that fetches",
    )


def _figure(chart: Chart, looks: Mapping[str, Look], name: str) -> str:
    if not chart.lines:
        return paragraph(f"{chart.title}. {chart.absent}", "absent")
    name = re.sub(r"[^A-Za-z0-9-]", "-", name)
    return (
        f'<figure id="{name}" class="chart">\n<figcaption>{esc(chart.title)}</figcaption>\n'
        f"{paragraph(f'{chart.note} {chart.bars}'.strip(), 'note')}"
        f'<div class="body">\n{draw(chart, looks, name)}\n'
        "<details open><summary>The numbers of this chart</summary>\n"
        f"{_table(chart.table, chart.title)}</details>\n</div>\n</figure>\n"
    )


def _table(cells: Table, caption: str, *, prose: bool = False) -> str:
    """Return a table, nothing where it has no rows."""
    return table(cells.headers, cells.rows, caption, prose=prose) if cells.rows else ""
