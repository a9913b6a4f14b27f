"""Going on with a run that was cut short: which of its trials a new one need not measure again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from kvmpc.errors import ResultFileError, UsageError
from kvmpc.judge.same_host import LATER, ONE_RUN
from kvmpc.result.document import from_json, salvage
from kvmpc.result.facts import Facts
from kvmpc.result.files import UnreadableError, read_text
from kvmpc.result.records import Result

__all__ = ["resume"]


def resume(path: str, planned: Result) -> Result:
    """Return `planned` with the trials that the file at `path` holds already.

    Where there is no file, or an empty one, nothing was measured. A file that was cut short gives
    what is whole.
    Raises: UsageError where it is of another plan or host, naming what differs; ResultFileError
    where it is no result.
    """
    if path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
        raise UsageError("--resume", path, "with --json of a regular file, which can be read again")
    if not os.path.exists(path):
        return planned
    try:
        text = read_text(path)
    except UnreadableError as error:
        raise ResultFileError(path, error.reason) from error
    if not text:
        return planned
    try:
        found = from_json(text, path)
    except ResultFileError:
        found = salvage(text, path)
    differences = list(_differences(found, planned))
    if differences:
        raise UsageError(
            "--resume", path, f"a result of the same plan on the same host ({differences[0]})"
        )
    return replace(planned, trials=found.trials, started=found.started)


def _differences(found: Result, planned: Result) -> Iterator[str]:
    for name in ("options", "points", "pagers"):
        there, here = getattr(found, name), getattr(planned, name)
        if isinstance(there, Mapping):  # an older kvmpc counted every trial
            there = {"busy_limit": here["busy_limit"], **there} if "busy_limit" in here else there
        if there != here:
            if isinstance(there, Mapping):
                keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
                yield f"{keys[0]}: {there.get(keys[0])} there, {here.get(keys[0])} here"
            else:
                yield f"other {name}: {len(there)} there, {len(here)} here"
    for path in ONE_RUN:
        group = path.partition(".")[0]
        if group in LATER and not Facts(found.host).group(group):
            continue
        there, here = (Facts(result.host).get(path) for result in (found, planned))
        if there != here:
            yield f"{path.replace('.', ' ')}: {there} there, {here} here"
