"""The command line: the only place that prints and that picks exit codes.

Modules that a command needs are imported when it runs: ``kvmpc --help`` has to answer at once.
"""

from __future__ import annotations

import faulthandler
import signal
import traceback

import click

from kvmpc import __version__
from kvmpc.cli.check import baseline, check
from kvmpc.cli.harness import ended_document, exit_codes
from kvmpc.cli.measure import compare, run, sweep
from kvmpc.cli.output import say, true_code
from kvmpc.cli.probe import probe
from kvmpc.cli.report import report
from kvmpc.cli.show import show
from kvmpc.cli.streams import standard_streams
from kvmpc.cli.turns import turns
from kvmpc.errors import HostError, Interrupted, KvmpcError, UsageError, broken_install
from kvmpc.exit_codes import (
    EXIT_FAILED,
    EXIT_HOST,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    in_convention,
)
from kvmpc.result.streams import STDERR

__all__ = ["cli", "main"]

_EPILOG = """\b
Examples:
  kvmpc probe
  kvmpc compare
  kvmpc compare --vcpus 160 --mem-per-vcpu 4M --json result.json
  kvmpc compare uffd,readers=4 exit --fetch-delay 200us
  kvmpc run exit --vcpus 8
  kvmpc compare --vcpus 1-160:x2 --mem-per-vcpu 4M
  kvmpc sweep bench/smoke.toml
  kvmpc show result.json
  kvmpc report result.json -o report.html

\b
Exit codes: 0 ok, 1 regression, 2 wrong usage or no comparison, 3 this host cannot or is too busy
(the message says what would help), 4 a trial failed or a document is not whole, 5 check could not
tell, 130 interrupted. Those of other harnesses: --exit-codes.
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@exit_codes
def cli() -> None:
    """Compare the mechanisms that feed a KVM guest its missing pages.

    A guest of N vCPUs touches memory that is not there yet; a pager supplies it. kvmpc measures
    pagers on the same guest in one run and verifies every page.
    """


for _command in (probe, compare, run, sweep, show, report, baseline, check, turns):
    cli.add_command(_command)

_EXIT_CODES: tuple[tuple[type[KvmpcError], int], ...] = (
    (UsageError, EXIT_USAGE),
    (HostError, EXIT_HOST),
    (Interrupted, EXIT_INTERRUPTED),
    (KvmpcError, EXIT_FAILED),
)


def _speak_up() -> None:
    """Let a crash say where it was, and let no signal be blocked because the parent had it so.

    A hang says it too, of all threads, when it is ended by SIGQUIT (Ctrl-\\).
    """
    faulthandler.enable(STDERR, all_threads=False)  # of many, the one that crashed may not be shown
    if signal.getsignal(signal.SIGQUIT) == signal.SIG_DFL:
        faulthandler.register(signal.SIGQUIT, STDERR, chain=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> int:
    """Run the command line and return its exit code, in the convention that was asked for."""
    with standard_streams():
        _speak_up()
        return in_convention(true_code(_run()))


def _run() -> int:
    try:
        with ended_document() as document:
            result = cli.main(standalone_mode=False, obj=document)
    except SystemExit as left:  # of click, whose 1 is ours for a regression
        return EXIT_USAGE if left.code else EXIT_OK
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE  # whatever click thinks
    except KvmpcError as error:
        say(f"kvmpc: {error}", err=True)
        return next(code for family, code in _EXIT_CODES if isinstance(error, family))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (OSError, MemoryError) as error:  # a limit that no check foresaw
        say(f"kvmpc: {error or 'out of memory'}", err=True)
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - Python's own exit code means regression
        broken = broken_install(error)
        if broken is not None:
            say(f"kvmpc: {broken}", err=True)
            return EXIT_HOST
        # A defect of ours.
        traceback.print_exc()
        return EXIT_FAILED
    return result if isinstance(result, int) else EXIT_OK
