"""kvmpc before a terminal, a real one (a pty): what it shows fits, and nothing wraps."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

RECORDED = Path(__file__).parent / "recorded"
FRAME = re.compile(r"\r([^\r\n]*)\x1b\[K")


class Terminal:
    """A pseudo-terminal of so many columns, and all that was written to it."""

    def __init__(self, columns: int) -> None:
        self.ours, self.theirs = os.openpty()
        self.resize(columns)
        self.text = ""

    def resize(self, columns: int) -> None:
        """Give it another width."""
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self) -> bool:
        """Take what was written since; False where nobody can write any more."""
        try:
            found = os.read(self.ours, 1 << 16)
        except OSError:  # EIO: the last writer has gone
            return False
        self.text += found.decode()
        return bool(found)

    def read_all(self) -> str:
        """Close our side of it, and return all that is written until the others have, too."""
        os.close(self.theirs)
        self.theirs = -1
        while self.read():
            pass
        return self.text.replace("\r\n", "\n")

    @property
    def frames(self) -> list[str]:
        """What was drawn over the same line, one after the other."""
        return FRAME.findall(self.text)

    def close(self) -> None:
        """Close what is open."""
        os.close(self.ours)
        if self.theirs >= 0:
            os.close(self.theirs)


Make = Callable[[int], Terminal]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make a terminal that can draw; COLUMNS says nothing."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    made: list[Terminal] = []

    def make(columns: int) -> Terminal:
        made.append(Terminal(columns))
        return made[-1]

    yield make
    for each in made:
        each.close()


def _on(terminal: Terminal, kvmpc: Any, *arguments: str, **options: Any) -> str:
    """Return what a command shows on a terminal that is its output and its error."""
    process = kvmpc.start(*arguments, stdout=terminal.theirs, stderr=terminal.theirs, **options)
    text = terminal.read_all()
    assert process.finish().code in (0, 1, 5)
    return text


def _table(text: str) -> list[str]:
    """Return what stands before the warnings, which a terminal wraps as it likes."""
    return text.partition("\nwarning: ")[0].splitlines()


@pytest.mark.parametrize(("columns", "arguments"), [
    *((columns, ("show", f"{name}.json"))
      for columns in (40, 60, 80) for name in ("split", "sweep", "profile", "passes")),
    *((columns, ("check", "after.json", "--against", "before.json")) for columns in (60, 80)),
])  # fmt: skip
def test_a_table_fits_the_terminal_and_loses_no_cell(kvmpc, terminal, arguments, columns):
    arguments = [str(RECORDED / word) if word.endswith(".json") else word for word in arguments]
    whole = kvmpc(*arguments).stdout
    shown = _table(_on(terminal(columns), kvmpc, *arguments))
    assert max(map(len, shown)) <= columns
    cells = " ".join(" ".join(shown).split()) + " "
    for cell in re.findall(r"\S*\d\S*", whole):
        assert cell in cells, cell


@pytest.mark.parametrize("columns", [50, 60, 80])
def test_warnings_and_lists_fit_the_terminal(kvmpc, terminal, columns):
    result = str(RECORDED / "after.json")
    store = {"KVMPC_BASELINES": str(kvmpc.folder / "kept")}
    assert kvmpc("baseline", "save", "lab-6.12", result, result, env=store).code == 0
    for arguments in (("show", result), ("check", result, "--against", result),
                      ("baseline", "list")):  # fmt: skip
        shown = _on(terminal(columns), kvmpc, *arguments, env=store).splitlines()
        assert max(map(len, shown)) <= columns, arguments


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_with_room_shows_what_a_file_gets(kvmpc, terminal, columns):
    arguments = ("show", str(RECORDED / "after.json"))
    shown = _on(terminal(columns), kvmpc, *arguments)
    assert shown.startswith(kvmpc(*arguments).stdout)


def test_columns_says_how_wide_a_terminal_is_but_not_a_file(kvmpc, terminal):
    arguments = ("show", str(RECORDED / "after.json"))
    environment = {"COLUMNS": "50", "TERM": "xterm"}
    shown = _table(_on(terminal(200), kvmpc, *arguments, env=environment))
    assert max(map(len, shown)) <= 50
    assert kvmpc(*arguments, env=environment).stdout == kvmpc(*arguments).stdout


def test_a_terminal_without_a_size_is_a_usual_one(kvmpc, terminal):
    shown = _table(_on(terminal(0), kvmpc, "show", str(RECORDED / "after.json")))
    assert 60 < max(map(len, shown)) <= 80


@pytest.mark.kvm
@pytest.mark.parametrize("columns", [1, 20, 40, 80, 200])
def test_progress_stays_in_its_line(kvmpc, terminal, tiny, columns):
    shown = terminal(columns)
    process = kvmpc.start(
        "compare", "none", "exit,uffds=per-vcpu", *tiny, stderr=shown.theirs
    )  # fmt: skip
    shown.read_all()
    assert process.finish().code == 0
    assert len(shown.frames) == 3
    assert max(map(len, shown.frames)) < max(columns, 2)
    if columns >= 20:
        assert [re.findall(r"\d/2", frame) for frame in shown.frames] == [["0/2"], ["1/2"], ["2/2"]]
    if columns >= 80:
        assert "exit(sigbus),uffds=per-vcpu: ok" in shown.frames[-1]
        assert re.search(r"\[#+\] 2/2", shown.frames[-1])


@pytest.mark.kvm
def test_progress_follows_a_terminal_that_is_made_narrower(kvmpc, terminal):
    shown = terminal(80)
    process = kvmpc.start(
        "compare", "none", "exit", "--vcpus", "1", "--mem-per-vcpu", "92K", "--rounds", "1000",
        stderr=shown.theirs,
    )  # fmt: skip
    while len(shown.frames) < 3:
        assert shown.read()
    assert max(map(len, shown.frames)) > 30
    shown.resize(30)
    seen = len(shown.frames) + 1  # one may have been on its way
    while len(shown.frames) < seen + 5:
        assert shown.read()
    process.send(signal.SIGTERM)
    shown.read_all()
    assert process.finish().code == 130
    # The one that was asked how wide the terminal is just before may be among them, too.
    assert max(map(len, shown.frames[-4:])) < 30


@pytest.mark.kvm
@pytest.mark.parametrize("term", ["dumb", "unknown", "", None])
def test_a_terminal_that_cannot_draw_gets_no_escape(kvmpc, terminal, tiny, monkeypatch, term):
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)
    shown = terminal(80)
    text = _on(shown, kvmpc, "compare", "none", "uffd", *tiny)
    assert "\x1b" not in shown.text
    assert "\r" not in text
    assert "pages/s" in text
