"""The page as text: whole, escaped, the same for the same results; without a browser."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from kvmpc.caution import HOST, Caution
from kvmpc.judge.reading import read
from kvmpc.result.records import Result
from kvmpc.show.mail import format_mail
from tests.fakes.sweeps import complete, skipped, sweep, trial

Page = Callable[..., str]

EVIL = "<script>alert('x')</script><b>&amp;\"$x^2$ _a \x1b[31m\udc80\u202e"
VOID = {"meta", "br", "link", "img", "hr", "input"}


class _Reader(HTMLParser):
    """Elements, attributes and text of a page; tags that do not match fail the test."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(document: str) -> _Reader:
    reader = _Reader()
    reader.feed(document)
    reader.close()
    assert reader.open == []
    return reader


def _with(text: str) -> Result:
    """Return a result with `text` everywhere a file may have one."""
    chance = random.Random(1)
    caution = Caution(text, text, text)
    spec = f"uffd,{text}"
    trials = [
        replace(trial(spec, n, r, chance, point=i, rate=1000.0), label=text, warnings=(caution,))
        for i, n in enumerate((1, 2))
        for r in (1, 2)
    ]
    trials.append(replace(trials[0], pager="exit", label=text, status="failed", error=text,
                          verified=None))  # fmt: skip
    result = sweep((1, 2), (spec, "exit"), trials=tuple(trials), labels=(text, text))
    return replace(
        result,
        tool_version=text, command=(text, "a b"), started=text,
        options={**result.options, text: text, "order": text},
        host={"hostname": text, "kernel": {"release": text}, text: {text: [text, {text: text}]}},
        warnings=(caution,), skipped=(skipped(0, "exit", text),), spec=text,
    )  # fmt: skip


def test_text_of_a_result_is_text_of_the_page_wherever_it_stands(page: Page) -> None:
    document = page(_with(EVIL), _with(EVIL))
    reader = _read(document)
    assert "script" not in reader.tags
    assert "b" not in reader.tags
    assert "<script>alert('x')</script><b>&amp;\"$x^2$" in reader.text
    assert "\x1b" not in document
    assert "\u202e" not in document
    document.encode("utf-8")


def test_a_label_in_a_chart_is_no_formula_and_no_hidden_entry(page: Page) -> None:
    for label in ("$x^2$", "_hidden", "a" * 200):
        document = page(_with(label))
        for svg in re.findall(r"<svg.*?</svg>", document, re.DOTALL):
            shown = label if len(label) < 50 else label[:40]
            assert shown in html.unescape(re.sub(r"<[^>]*>", "", svg)), label


def test_a_page_names_nothing_outside_itself_and_runs_nothing(page: Page) -> None:
    reader = _read(page(complete(sweep((1, 2), rounds=2)), shapes=("talk-2018",)))
    assert not {"script", "img", "link", "iframe", "object", "embed", "base", "form"} & set(
        reader.tags
    )
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src", "xlink:href", "action"):
            assert value.startswith("#"), (tag, name, value)
        assert "http:" not in value, (tag, name)
        assert "https:" not in value, (tag, name)
        assert all(to.startswith("#") for to in re.findall(r"url\(([^)]*)", value)), value
    policy = next(value for _, name, value in reader.attributes if "default-src" in value)
    assert policy.startswith("default-src 'none'")


def test_every_picture_says_in_words_what_it_shows(page: Page) -> None:
    document = page(sweep((1, 160), rounds=2))
    labels = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)"', document)
    assert len(labels) == document.count("<svg ")
    rate = next(label for label in labels if label.startswith("Rate against vCPUs"))
    assert re.search(r"uffd: [\d.]+k at 1 to [\d.]+k at 160", rate)


def test_text_in_a_chart_is_text_in_the_readers_font(page: Page) -> None:
    svg = re.search(r"<svg .*?</svg>", page(sweep((1, 2), rounds=1)), re.DOTALL)
    assert svg
    assert "<text" in svg[0]
    assert "pages/s" in svg[0]
    assert "@font-face" not in svg[0]


def test_the_same_results_give_the_same_page(page: Page) -> None:
    result = sweep((1, 2), rounds=2)
    assert page(result) == page(result)


def test_an_empty_and_an_all_failed_result_give_a_page_that_says_so(page: Page) -> None:
    empty = _read(page(sweep((2,), trials=()))).text
    assert "No trial was run" in empty
    chance = random.Random(1)
    failed = [trial(s, 2, 1, chance, status="failed") for s in ("uffd", "exit")]
    text = _read(page(sweep((2,), ("uffd", "exit"), trials=tuple(failed)))).text
    assert "every measured trial failed" in text
    assert "vcpu1: page 22 holds the wrong tag" in text
    assert "FAILED" in text


def test_an_unfinished_run_is_called_so(page: Page) -> None:
    assert "unfinished" in page(sweep((2,), rounds=1, finished=False))


def test_skipped_rows_warnings_with_remedies_and_the_spec_are_on_the_page(page: Page) -> None:
    text = _read(page(sweep((1, 2), rounds=1, skipped=(skipped(1, "exit", "needs 900 GiB"),)))).text
    for told in ("needs 900 GiB", "nobody measured these numbers", "does it scale?",
                 "kvmpc sweep 'a synthetic spec.toml'"):  # fmt: skip
        assert told in text


def test_what_to_doubt_first_stands_beside_the_answer_with_what_would_help(page: Page) -> None:
    said = [Caution(f"odd-{n}", f"doubt number {n}", f"mend {n}") for n in range(5)]
    always = Caution("host", "never any other way", "nothing", kind=HOST)
    text = _read(page(sweep((2,), rounds=6, warnings=(always, *said)))).text
    front = text.partition("What to doubt first")[2].partition("Work: ")[0]
    assert "doubt number 0. Remedy: mend 0." in front
    assert "doubt number 1" in front
    assert "doubt number 4" not in front.partition("As text for a mail")[0]
    assert "never any other way" not in front
    assert "doubt number 4" in text
    quiet = _read(page(sweep((2,), rounds=6, warnings=()))).text
    assert "What to doubt first" not in quiet


def test_the_block_for_a_mail_is_that_of_the_command_line(page: Page) -> None:
    result = sweep((1, 2), rounds=6)
    blocks = re.findall(r'<pre[^>]*class="block"[^>]*>(.*?)</pre>', page(result), re.DOTALL)
    assert [html.unescape(block) for block in blocks] == [format_mail(read(result))]


def test_two_results_of_one_host_are_compared_before_anything_else_is_said(page: Page) -> None:
    before = sweep((1, 2), ("uffd", "exit"), rounds=10)
    after = sweep((1, 2), ("uffd", "exit"), rounds=10, seed=2, kernel="6.13",
                  factor=lambda spec: 0.6 if spec == "uffd" else 1.0)  # fmt: skip
    document = page(before, after)
    assert "Linux 6.12.0-synthetic before and 6.13 after" in document
    assert document.index("2 of 4 rows are slower after: uffd") < document.index('id="answer"')


def test_results_of_different_hosts_are_kept_apart_and_that_is_said(page: Page) -> None:
    one = sweep((1,), trials=())
    two = replace(one, host={**one.host, "hostname": "other", "cpu": {"model": "Other"}})
    text = _read(page(one, two)).text
    assert "r1.json is of another host than r0.json" in text
    assert "hostname (synthetic and other)" in text
    assert "Before and after" not in text


@pytest.mark.parametrize("host", [{}, {"kernel": None}, {"cpu": 3, "hostname": None}])
def test_a_result_without_facts_of_its_host_gives_a_page(page: Page, host: object) -> None:
    _read(page(replace(sweep((1,), trials=()), host=host)))


def test_what_a_sweep_asks_stands_above_its_answer(page: Page) -> None:
    text = _read(page(sweep((1, 2), rounds=1, question="Do more readers help?"))).text
    assert "Asked: Do more readers help?" in text


@pytest.mark.parametrize(
    ("rounds", "bars", "cells"),
    [
        (3, "Bars are ranges: fewer than 6 rounds, too few for an interval.", "range"),
        (6, "Bars are 95% intervals.", "interval"),
    ],
)
def test_no_page_claims_an_interval_of_few_rounds(
    page: Page, rounds: int, bars: str, cells: str
) -> None:
    document = page(sweep((2,), ("none", "uffd", "exit"), rounds=rounds))
    charts = document.partition('id="answer"')[2].partition('id="warnings"')[0]
    assert bars in charts
    assert set(re.findall(r"Bars are [^.:,]+", charts)) == {re.split(r"[.:,]", bars)[0]}
    assert set(re.findall(r">(interval|range|spread)</th>", charts)) == {cells}
    assert ("(range " in charts) == (rounds < 6)
