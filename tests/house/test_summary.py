"""What the test command says at its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import pytest

@pytest.mark.skip(reason="needs a cat")
@pytest.mark.parametrize("n", range(3))
def test_three(n): ...

def test_one(): pytest.skip("needs a dog, or\\nanother line")

def test_run(): ...

def test_other(): ...
"""


def _end(folder: Path, *arguments: str, tests: str = TESTS) -> list[str]:
    (folder / "conftest.py").write_text("from tests.conftest import pytest_terminal_summary\n")
    (folder / "test_some.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-2:]


def test_it_names_in_one_line_what_was_not_run_and_why(tmp_path: Path) -> None:
    skipped, counts = _end(tmp_path)
    assert skipped == "not run: 3 (needs a cat), 1 (needs a dog, or)"
    assert counts.startswith("2 passed, 4 skipped")


def test_it_counts_what_was_not_selected(tmp_path: Path) -> None:
    assert _end(tmp_path, "-k", "run")[0] == "not run: 5 (not selected)"


def test_it_says_nothing_where_all_was_run(tmp_path: Path) -> None:
    end = _end(tmp_path, tests="def test_run(): ...\n")
    assert end[-1].startswith("1 passed")
    assert "not run" not in "".join(end)
