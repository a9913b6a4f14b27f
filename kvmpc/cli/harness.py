"""What a harness that runs kvmpc reads: an exit code in its convention, and a whole document.

An exit code means one thing to people and another to each runner: 4 is a failed trial here and
"skipped" to kselftest. And a runner that reads a document takes an empty one for nothing to say,
so that an error is told there, too, and not on stderr alone. Both hold for a command line that
could not even be read: what was asked is then found in its words.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Final

import click

from kvmpc.cli.output import (
    EXIT_FAILED,
    EXIT_HOST,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REGRESSION,
    EXIT_USAGE,
    hand_out,
)
from kvmpc.errors import HostError, KvmpcError

__all__ = ["CONVENTIONS", "Document", "began", "ended_document", "exit_codes", "translated"]


def _codes(
    *, regression: int, usage: int, host: int, failed: int, interrupted: int
) -> dict[int, int]:
    return {
        EXIT_OK: 0,
        EXIT_REGRESSION: regression,
        EXIT_USAGE: usage,
        EXIT_HOST: host,
        EXIT_FAILED: failed,
        EXIT_INTERRUPTED: interrupted,
    }


CONVENTIONS: Final[Mapping[str, Mapping[int, int]]] = {
    # tools/testing/selftests/kselftest.h: KSFT_PASS, KSFT_FAIL, KSFT_SKIP; KSFT_XFAIL is 2.
    "kselftest": _codes(regression=1, usage=1, host=4, failed=1, interrupted=1),
    # git-bisect(1), "bisect run": 125 is "cannot be tested", 128 and above ends the bisection.
    "bisect": _codes(regression=1, usage=125, host=125, failed=125, interrupted=130),
    # Automake, "Scripts-based Testsuites", and meson: 77 is skipped, 99 an error of the test.
    "automake": _codes(regression=1, usage=99, host=77, failed=1, interrupted=99),
}
"""What each exit code of kvmpc becomes, by the name of a convention."""

_OPTION: Final = "--exit-codes"
_VARIABLE: Final = "KVMPC_EXIT_CODES"

exit_codes = click.option(
    _OPTION,
    type=click.Choice(list(CONVENTIONS)),
    envvar=_VARIABLE,
    show_envvar=True,
    expose_value=False,
    help="Exit as this harness wants it: pass, fail, skip and error in its own codes.",
)


def translated(main: Callable[[], int]) -> Callable[[], int]:
    """Make `main` return the exit code of the convention that was asked for."""

    @wraps(main)
    def translating() -> int:
        code = main()
        asked = _given(_OPTION) or os.environ.get(_VARIABLE, "")
        return CONVENTIONS.get(asked, {}).get(code, code)

    return translating


@dataclass
class Document:
    """What is printed for a runner; begun: it has been, and its end may follow."""

    begun: bool = False


def began() -> None:
    """Remember that the document has been printed: what is told now, is its end."""
    document = click.get_current_context().find_object(Document)
    if document is not None:
        document.begun = True


@contextmanager
def ended_document() -> Iterator[Document]:
    """End the document that a runner reads, where what is done within ends in an error."""
    document = Document()
    try:
        yield document
    except (Exception, KeyboardInterrupt) as error:
        _end(document, error)
        raise


def _end(document: Document, error: BaseException) -> None:
    # Here and not above: `kvmpc --help` has to answer at once.
    from kvmpc.show.cases import End
    from kvmpc.show.formats import format_end

    if isinstance(error, click.ClickException):
        reason = error.format_message()
    elif isinstance(error, KvmpcError | OSError):
        reason = "; ".join(map(str.strip, str(error).splitlines()))
    elif isinstance(error, KeyboardInterrupt | click.Abort):
        reason = "interrupted"
    else:
        reason = f"a defect of kvmpc: {error!r}"
    end = End(reason, cannot=isinstance(error, HostError), begun=document.begun)
    text = format_end(end, _given("--format") or "")
    if text:
        hand_out(text, err=_given("--json") == "-")


def _given(option: str) -> str | None:
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
