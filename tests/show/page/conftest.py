"""What the tests of the page share: synthetic results, the page of one, a browser."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmpc.result.records import Result
from tests.show.page.browser import Browser, chromium_path


def _absent(reason: str) -> None:
    if os.environ.get("KVMPC_REQUIRE_LAB") == "1":
        pytest.fail(f"KVMPC_REQUIRE_LAB=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def extra() -> None:
    """Skip a test of the page where the extra is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        _absent("matplotlib is not installed: pip install '.[report]'")


@pytest.fixture(scope="session")
def page(extra: None) -> Callable[..., str]:
    """Make the page of results, named as if read from files."""
    del extra
    from kvmpc.show.page.page import render

    def make(*results: Result, shapes: tuple[str, ...] = ()) -> str:
        return render([(f"r{n}.json", result) for n, result in enumerate(results)], shapes)

    return make


@pytest.fixture
def told(page: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Result], str]:
    """Make the text of a page without pictures, in a tenth of the time.

    Every number of a picture is in the table below it.
    """
    import kvmpc.show.page.page as module

    monkeypatch.setattr(module, "draw", lambda *_: "")
    return lambda result: re.sub(r"<[^>]*>", " ", page(result))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests of a run; starting one takes a second."""
    path = chromium_path()
    if path is None:
        _absent("there is no Chromium: apt-get install chromium")
        return
    with Browser(path, Path(tmp_path_factory.mktemp("browser"))) as started:
        yield started
