"""The page in a real browser: quiet, alone, whole, readable at two widths and by keyboard."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kvmpc.result.records import Result
from tests.fakes.sweeps import DOUBLED, PAGERS, complete, sweep, trial
from tests.show.page.browser import Browser

MANY = tuple(PAGERS)
WIDTHS = (1280, 800)

RESULTS: dict[str, Callable[[], Result]] = {
    "one point": lambda: complete(sweep((8,), MANY, rounds=3)),
    "sweep": lambda: complete(sweep(DOUBLED, MANY, rounds=3)),
    "sweep of two": lambda: sweep((1, 2), rounds=3, more={"fetch_delay_ns": [0, 200_000]}),
    "all failed": lambda: _all_failed(),
    "empty": lambda: sweep((2,), trials=()),
}


def _all_failed() -> Result:
    import random

    chance = random.Random(1)
    trials = [trial(spec, 2, n, chance, status="failed") for n in (0, 1) for spec in PAGERS]
    return replace(sweep((2,)), trials=tuple(trials))


@pytest.fixture(scope="module")
def opened(
    browser: Browser, page: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], Browser]:
    """Open the page of one of `RESULTS` at a width."""
    folder = tmp_path_factory.mktemp("pages")

    def show(name: str, width: int) -> Browser:
        file = folder / f"{name}.html"
        if not file.exists():
            shapes = ("moorthy-v7",) if name == "sweep" else ()
            file.write_text(page(RESULTS[name](), shapes=shapes), "utf-8")
        browser.open(file, width)
        pictures = os.environ.get("KVMPC_PICTURES")
        if pictures:
            browser.screenshot(Path(pictures) / f"{name}-{width}.png")
        return browser

    return show


both = pytest.mark.parametrize("width", WIDTHS)
each = pytest.mark.parametrize("name", RESULTS)


@both
@each
def test_a_page_says_nothing_to_the_console_and_asks_nobody_for_anything(
    opened: Callable[[str, int], Browser], name: str, width: int
) -> None:
    browser = opened(name, width)
    assert browser.logged == []
    assert [url for url in browser.requested if not url.startswith("file:")] == []
    assert len(browser.requested) == 1


@both
@each
def test_a_page_is_no_wider_than_its_window(
    opened: Callable[[str, int], Browser], name: str, width: int
) -> None:
    browser = opened(name, width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


_LABELS_THAT_OVERLAP = """
[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].filter(text => text.textContent.trim());
  const boxes = texts.map(text => text.getBoundingClientRect());
  return texts.flatMap((text, i) => texts.slice(i + 1).flatMap((other, j) => {
    const a = boxes[i], b = boxes[i + 1 + j];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    return wide > 1 && high > 3
      ? [svg.closest('figure').id + ': ' + text.textContent + ' | ' + other.textContent] : [];
  }));
})
"""

_LABELS_OUTSIDE = """
[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const inner = text.getBoundingClientRect();
    return inner.left < box.left - 2 || inner.right > box.right + 2;
  }).map(text => svg.closest('figure').id + ': ' + text.textContent);
})
"""


@both
@pytest.mark.parametrize("name", ["one point", "sweep", "sweep of two"])
def test_no_label_of_a_chart_lies_on_another_or_outside(
    opened: Callable[[str, int], Browser], name: str, width: int
) -> None:
    browser = opened(name, width)
    assert browser.evaluate(_LABELS_THAT_OVERLAP) == []
    assert browser.evaluate(_LABELS_OUTSIDE) == []


CHARTS = {
    "rate", "share", "ratio", "install", "cpus", "cpu", "spin", "p50", "p99", "latency", "locks",
    "split", "fairness", "timeline", "readers-rate", "readers-install", "readers-cpus",
    "readers-spin",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "charts"),
    [("one point", CHARTS), ("sweep", CHARTS | {"latency-8", "shape-moorthy-v7"})],
)
def test_every_chart_is_there_and_drawn(
    opened: Callable[[str, int], Browser], name: str, charts: set[str]
) -> None:
    browser = opened(name, 1280)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('figure.chart')].map(figure => {"
        " const box = figure.querySelector('svg[role=img]').getBoundingClientRect();"
        " return [figure.id, box.width, box.height]; })"
    )
    assert {found.removeprefix("r0p0-") for found, _, _ in sizes} == charts
    assert min(width for _, width, _ in sizes) > 500
    assert min(height for _, _, height in sizes) > 80


@both
@pytest.mark.parametrize("name", ["one point", "sweep"])
def test_every_chart_has_its_numbers_in_a_table_that_is_seen_without_a_mouse(
    opened: Callable[[str, int], Browser], name: str, width: int
) -> None:
    browser = opened(name, width)
    assert (
        browser.evaluate(
            "[...document.querySelectorAll('figure.chart')]"
            ".filter(f => !(f.querySelector('table tbody tr')?.getBoundingClientRect().height > 5))"
            ".map(f => f.id)"
        )
        == []
    )
    # What is wider than its box is reached by the keyboard.
    assert (
        browser.evaluate(
            "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1"
            " && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)"
            " && e.tabIndex != 0).length"
        )
        == 0
    )


def test_a_table_that_is_wider_than_its_box_is_scrolled_by_the_keyboard(
    opened: Callable[[str, int], Browser],
) -> None:
    browser = opened("sweep", 800)
    browser.evaluate("void (window.box = [...document.querySelectorAll('.scroll')]"
                     ".find(e => e.scrollWidth > e.clientWidth + 20))")  # fmt: skip
    browser.evaluate("box.focus()")
    assert browser.evaluate("document.activeElement === box")
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            browser.call(
                "Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight",
                windowsVirtualKeyCode=39,
            )  # fmt: skip
    # Scrolling is smooth, and on a busy host late.
    moved = (
        "new Promise(done => { const look = left => box.scrollLeft || !left"
        " ? done(box.scrollLeft) : setTimeout(look, 100, left - 1); look(150); })"
    )
    assert browser.evaluate(moved) > 0


def test_no_two_things_of_a_page_have_one_identifier_and_every_reference_leads_somewhere(
    opened: Callable[[str, int], Browser],
) -> None:
    browser = opened("sweep", 1280)
    assert (
        browser.evaluate(
            "(() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id);"
            " return ids.filter((id, i) => ids.indexOf(id) != i); })()"
        )
        == []
    )
    assert (
        browser.evaluate(
            "[...document.querySelectorAll('[href^=\"#\"]')].map(e => e.getAttribute('href'))"
            ".filter(to => !document.getElementById(to.slice(1)))"
        )
        == []
    )


def test_a_page_prints(opened: Callable[[str, int], Browser]) -> None:
    assert opened("sweep", 1280).print().startswith(b"%PDF")
