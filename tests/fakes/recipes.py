"""README's recipes for harnesses, and a lab to run them in where nothing is measured.

A recipe is taken from README and run as it stands. The kvmpc it finds is the real one, but what
`compare` would measure for minutes is there already.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kvmpc.result.document import to_json
from kvmpc.result.records import Result
from tests.fakes.results import fake_result, fake_trial

__all__ = ["CASES", "STAND_IN", "Lab", "recipe"]

README = Path(__file__).resolve().parents[2] / "README.md"

CASES = ("same", "slower", "noisy", "failed", "host", "usage", "killed", "killed-check")
"""What may come of a recipe: what was measured is the same, is slower, is too noisy to tell, has a
trial that failed; this host cannot; the command is wrong; `compare`, or `check`, is killed."""

STAND_IN = f"""#!{sys.executable}
import os, signal, sys
from pathlib import Path
from kvmpc.cli import main
from kvmpc.exit_codes import in_convention

words, case = sys.argv[1:], os.environ["CASE"]
if ("killed", "compare") == (case, words[0]) or case == "killed-check" and "check" in words:
    os.kill(os.getpid(), signal.SIGKILL)
if words[0] != "compare":
    sys.exit(main())
if case in ("host", "usage"):  # the real one will not get as far as to measure
    sys.argv += ["--bogus"] if case == "usage" else ["--vcpus", "1000000", "--mem-per-vcpu", "92K"]
    sys.exit(main())
measured = Path(os.environ["RESULTS"], "same.json" if case == "killed-check" else case + ".json")
to = words[words.index("--json") + 1]
Path("/dev/stdout" if to == "-" else to).write_text(measured.read_text())
if "--format" in words:
    sys.argv[1:] = ["show", str(measured), "--format", words[words.index("--format") + 1]]
    main()
sys.exit(in_convention(4 if case == "failed" else 0))
"""
"""kvmpc, but what `compare` measured is there already, or it ends in another way: as $CASE says."""


def recipe(name: str) -> str:
    """Return the block of README behind the mark of that name."""
    pattern = rf"^<!-- {name} -->\n```\w*\n(.*?)^```$"
    found = re.search(pattern, README.read_text(), re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def made_up(
    *, slower: float = 1.0, noisy: bool = False, failed: bool = False, finished: bool = True
) -> Result:
    """Return a result of three pagers, ten rounds each."""
    rates = {"none": 4e5, "uffd": 1e5 / slower, "exit": 2e5}
    trials = [
        fake_trial(name, number, rate * (1 + number / (20 if noisy and name == "uffd" else 1000)))
        for number in range(1, 11)
        for name, rate in rates.items()
    ]
    if failed:
        trials.append(fake_trial("exit", 11, status="failed"))
    return fake_result(*trials, finished=finished)


@dataclass
class Lab:
    """A folder with results and a baseline, and programs that are found before all others."""

    folder: Path

    def __post_init__(self) -> None:
        self.programs.mkdir()
        self.program("kvmpc", STAND_IN)
        made = {
            "before": made_up(),
            "same": made_up(),
            "slower": made_up(slower=1.3),
            "noisy": made_up(slower=1.3, noisy=True),
            "failed": made_up(failed=True),
            "unfinished": made_up(finished=False),
        }
        for name, result in made.items():
            (self.folder / f"{name}.json").write_text(to_json(result))
        saved = self.run([*["kvmpc", "baseline", "save", "before", "before.json"]], "")
        assert saved.returncode == 0, saved.stderr

    @property
    def programs(self) -> Path:
        """Where programs are."""
        return self.folder / "programs"

    def program(self, name: str, text: str) -> None:
        """Make a program that recipes find."""
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def run(
        self, command: list[str], case: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; case: one of `CASES`, what comes of kvmpc in it."""
        env = {
            **os.environ,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "CASE": case,
            "RESULTS": str(self.folder),
            "KVMPC_BASELINES": str(self.folder / "kept"),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
        }
        return subprocess.run(
            command, cwd=cwd or self.folder, env=env, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
