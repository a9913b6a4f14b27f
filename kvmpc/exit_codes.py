"""What kvmpc's exit codes mean, here and to each harness: 4 is a failed trial, "skipped" elsewhere.

5 is a check that could not tell. To a harness that is a test skipped: as a pass it would hide what
nobody looked at closely enough, as a failure cry wolf on every noisy host.

Which convention is asked for is found in the words of the command line, since it holds also for one
that could not be read, and for an installation that cannot start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

__all__ = [
    "CONVENTIONS",
    "EXIT_FAILED",
    "EXIT_HOST",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_REGRESSION",
    "EXIT_UNSURE",
    "EXIT_USAGE",
    "OPTION",
    "VARIABLE",
    "given",
    "in_convention",
]

EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, EXIT_HOST, EXIT_FAILED, EXIT_UNSURE = range(6)
EXIT_INTERRUPTED = 130


def _codes(
    *, regression: int, usage: int, host: int, failed: int, unsure: int, interrupted: int
) -> dict[int, int]:
    return {
        EXIT_OK: 0,
        EXIT_REGRESSION: regression,
        EXIT_USAGE: usage,
        EXIT_HOST: host,
        EXIT_FAILED: failed,
        EXIT_UNSURE: unsure,
        EXIT_INTERRUPTED: interrupted,
    }


CONVENTIONS: Final[Mapping[str, Mapping[int, int]]] = {
    # tools/testing/selftests/kselftest.h: KSFT_PASS, KSFT_FAIL, KSFT_SKIP; KSFT_XFAIL is 2.
    "kselftest": _codes(regression=1, usage=1, host=4, failed=1, unsure=4, interrupted=1),
    # git-bisect(1), "bisect run": 125 is "cannot be tested", 128 and above ends the bisection.
    "bisect": _codes(regression=1, usage=125, host=125, failed=125, unsure=125, interrupted=130),
    # Automake, "Scripts-based Testsuites", and meson: 77 is skipped, 99 an error of the test.
    "automake": _codes(regression=1, usage=99, host=77, failed=1, unsure=77, interrupted=99),
}
"""What each exit code of kvmpc becomes, by the name of a convention."""

OPTION: Final = "--exit-codes"
VARIABLE: Final = "KVMPC_EXIT_CODES"


def in_convention(code: int) -> int:
    """Return `code` in the convention that was asked for."""
    asked = given(OPTION) or os.environ.get(VARIABLE, "")
    return CONVENTIONS.get(asked, {}).get(code, code)


def given(option: str) -> str | None:
    """Return the last value that the command line has for `option`, by its words alone."""
    found = None
    words = iter(sys.argv[1:])
    for word in words:
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else next(words, None)
    return found
