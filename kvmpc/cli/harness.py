"""What a harness that runs kvmpc reads: an exit code in its convention, and a whole document.

A runner that reads a document takes an empty one for nothing to say, so that an error is told
there, too, and not on stderr alone; also where the command line could not even be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

from kvmpc.cli.output import hand_out
from kvmpc.errors import HostError, KvmpcError, broken_install
from kvmpc.exit_codes import CONVENTIONS, OPTION, VARIABLE, given

__all__ = ["Document", "began", "ended_document", "exit_codes"]


exit_codes = click.option(
    OPTION,
    type=click.Choice(list(CONVENTIONS)),
    envvar=VARIABLE,
    show_envvar=True,
    expose_value=False,
    help="Exit as this harness wants it: pass, fail, skip and error in its own codes.",
)


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

    error = broken_install(error) or error
    if isinstance(error, click.ClickException):
        reason = error.format_message()
    elif isinstance(error, KvmpcError | OSError | MemoryError):
        reason = "; ".join(map(str.strip, str(error).splitlines())) or "out of memory"
    elif isinstance(error, KeyboardInterrupt | click.Abort):
        reason = "interrupted"
    else:
        reason = f"a defect of kvmpc: {error!r}"
    end = End(reason, cannot=isinstance(error, HostError), begun=document.begun)
    text = format_end(end, given("--format") or "")
    if text:
        hand_out(text, err=given("--json") == "-")
