"""README's commands, run as written: what it promises has to be true."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SHELL = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
EXAMPLES = [
    line.split("#")[0].strip() for block in SHELL for line in block.splitlines()
    if line.startswith("kvmpc ")
]  # fmt: skip


def _commands_of_help() -> list[str]:
    text = subprocess.run(
        [sys.executable, "-m", "kvmpc", "--help"], capture_output=True, text=True, check=True
    ).stdout
    return re.findall(r"^ +(kvmpc \S.*)$", text.partition("Examples:")[2], re.MULTILINE)


@pytest.mark.kvm
def test_every_example_runs_as_written_in_their_order(tmp_path: Path) -> None:
    assert len(EXAMPLES) >= 6
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    for example in EXAMPLES:
        done = subprocess.run(
            [sys.executable, "-m", *example.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        expected = 3 if " report " in example and find_spec("matplotlib") is None else 0
        assert done.returncode == expected, f"{example}: {done.stderr}"
        assert "FAILED" not in done.stdout


def test_every_example_of_the_help_is_valid() -> None:
    from kvmpc.cli import cli

    examples = _commands_of_help()
    assert len(examples) >= 5
    for example in examples:
        name, *arguments = example.split()[1:]
        command = cli.commands[name]
        command.make_context(name, arguments)  # parses; raises on what it does not know


def test_the_first_command_installs_and_runs_and_the_second_tests() -> None:
    run, test = (block.strip() for block in SHELL[:2])
    for command, does in ((run, "kvmpc compare"), (test, "pytest -q")):
        assert command.startswith("python3 -m venv")
        assert command.endswith(does)
    assert "\n" not in run + test


def test_every_pager_and_key_is_in_the_pager_table() -> None:
    from kvmpc.pagers import PAGERS

    table = README.partition("## Pagers")[2].partition("\n## ")[0]
    for name, pager in PAGERS.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}"))
        assert name == "none" or all(f"{key}=" in row for key in pager.keys if key != "provider")


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target
