"""Results measured before the code moved into its rooms: they still say what they said.

`recorded/` holds real documents of schema 2 (a split and one with a failed row, a sweep with
skipped points, a profile, further passes, ten rounds before and after) and what ``show`` and
``check`` print of them, in every format, with their warnings and exit codes. They keep two
promises: a document that an older kvmpc wrote is read, and no number changes by the way.

Where what is said changes on purpose, ``python tests/cli/test_recorded.py`` writes it anew; the
difference is then there to be read. No program writes the documents.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "recorded"
KINDS = ("table", "markdown", "mail", "csv", "json", "ktap", "tmt")
CHECK = ("check", "after.json", "--against", "before.json")

COMMANDS: dict[str, tuple[str, ...]] = {
    f"{path.stem}.{kind}": ("show", path.name, "--format", kind)
    for path in sorted(RECORDED.glob("*.json"))
    for kind in KINDS
} | {
    f"check{'-normalised' * bool(more)}.{kind}": (*CHECK, *more, "--format", kind)
    for more in ((), ("--normalise",))
    for kind in KINDS
}


def _said(arguments: tuple[str, ...]) -> str:
    """Return exit code, standard output and standard error of a command, as one text."""
    done = subprocess.run(
        [sys.executable, "-m", "kvmpc", *arguments],
        cwd=RECORDED,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return f"{done.stdout}--- standard error, exit code {done.returncode}\n{done.stderr}"


def _expected(name: str) -> Path:
    return RECORDED / "said" / f"{name}.txt"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_recorded_result_is_shown_and_judged_as_before(name: str) -> None:
    assert _said(COMMANDS[name]) == _expected(name).read_text("utf-8")


def test_nothing_is_kept_that_no_command_says() -> None:
    assert {path.name for path in (RECORDED / "said").iterdir()} == {
        f"{name}.txt" for name in COMMANDS
    }


if __name__ == "__main__":
    for name, arguments in COMMANDS.items():
        _expected(name).write_text(_said(arguments), "utf-8")
