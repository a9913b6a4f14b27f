"""The launcher that refuses system calls refuses those, and nothing else."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.refusing import SETUP_FAILED, refusing

_PROGRAM = """
import os, sys
for call in sys.argv[1:]:
    try:
        eval(call)
        print("done")
    except OSError as error:
        print(error.errno)
"""


def _answers(within: list[str], *calls: str, cwd: Path) -> list[str]:
    """Return what Python meets in each of `calls`: an errno, or ``done``."""
    command = [*within, sys.executable, "-c", _PROGRAM, *calls]
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if finished.returncode == SETUP_FAILED:
        pytest.skip(finished.stderr)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


def test_what_is_named_is_refused_and_nothing_else(tmp_path: Path) -> None:
    within = refusing(errno.EPERM, "link", "linkat")
    answers = _answers(
        within, "open('a', 'w')", "os.link('a', 'b')", "os.rename('a', 'b')", cwd=tmp_path
    )
    assert answers == ["done", str(errno.EPERM), "done"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_call_is_told_apart_by_an_argument(tmp_path: Path) -> None:
    within = refusing(errno.EROFS, "openat:2&0x80")  # O_EXCL
    assert _answers(within, "open('a', 'w')", "open('b', 'x')", cwd=tmp_path) == [
        "done", str(errno.EROFS),
    ]  # fmt: skip
    within = refusing(errno.EDQUOT, "ftruncate:1=4096")
    calls = ("open('a', 'w').truncate(1)", "open('a', 'w').truncate(4096)")
    assert _answers(within, *calls, cwd=tmp_path) == ["done", str(errno.EDQUOT)]


def test_launchers_nest(tmp_path: Path) -> None:
    within = [*refusing(errno.EBUSY, "rename"), *refusing(errno.EPERM, "link", "linkat")]
    calls = ("open('a', 'w')", "os.link('a', 'b')", "os.rename('a', 'b')")
    assert _answers(within, *calls, cwd=tmp_path) == ["done", str(errno.EPERM), str(errno.EBUSY)]
