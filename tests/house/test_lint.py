"""What holds for every file: linters, module sizes, and nothing of one machine in it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAX_LINES = 460
"""A module that passes about 400 lines holds two things."""

MODULES = [
    path
    for path in sorted((ROOT / "kvmpc").rglob("*.py"))
    # One file for each kernel header, however long that is.
    if path.parent.name != "abi"
]


def _run(module: str, *arguments: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (extra dev)")
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    _run("ruff", "check", ".")


def test_every_file_is_formatted() -> None:
    _run("ruff", "format", "--check", ".")


@pytest.mark.parametrize("package", ["kvmpc", "bench"])
def test_mypy_finds_nothing(package: str) -> None:
    if not (ROOT / package).exists():
        pytest.skip(f"there is no {package}/")
    _run("mypy", "--strict", package)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_enough_to_hold_one_thing(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < MAX_LINES


def _files() -> list[Path]:
    """Return every text file of the repository; without git, of the folders that it consists of."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        folders = ("kvmpc", "guest", "tests", "bench")
        found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
        found += [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml")]
        listed = [str(path.relative_to(ROOT)) for path in found]
    paths = [ROOT / name for name in listed if name and "__pycache__" not in name]
    return [path for path in paths if path.is_file()]


# Put together here, or this file would hold what it looks for.
FOLDERS = "|".join(["home", "root", "work", "Users"])
MACHINE_PATH = re.compile(rf"(?<![\w.$}}~/-])/(?:{FOLDERS})/[\w.]")
REGISTRY = re.compile(
    "|".join(
        [r"https?://\S*" + name for name in ("pypi", "pythonhosted", "artifactory", r"/simple\b")]
        + ["--(?:extra-)?" + "index-url"]
    )
)


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in _files():
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, start=1)
            if pattern.search(line)
        ]
    return found


def test_no_file_names_a_folder_of_one_machine() -> None:
    assert MACHINE_PATH.search(" /" + "home/me")
    assert MACHINE_PATH.search('"/' + 'work/main"')
    assert _lines_with(MACHINE_PATH) == []


def test_no_file_names_a_package_registry() -> None:
    assert REGISTRY.search("https://" + "pypi.org/project/x")
    assert _lines_with(REGISTRY) == []
