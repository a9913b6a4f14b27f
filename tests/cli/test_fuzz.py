"""Odd input of every kind, the same each time; ``fuzz.py`` by hand has other seeds, and more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = {"surrounded": 15, "result": 40, "spec": 60, "line": 60}
"""Of each kind; together 16 s on two CPUs, beside another run of the tests."""


@pytest.mark.parametrize("kind", CASES)
def test_whatever_is_given_there_is_an_answer(kind: str) -> None:
    program = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(program), "--seed", "7", "--cases", str(CASES[kind])]
    done = subprocess.run(
        [*command, "--kind", kind], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
