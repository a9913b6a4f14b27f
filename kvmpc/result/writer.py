"""Where a result is written: a file that always holds a whole document, or a stream.

Owns how a document grows, not the path (`kvmpc.result.files`) and not the document
(`kvmpc.result.document`). Fails with UsageError (a path found unusable before the first trial) or
KernelError (a write that failed later).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from kvmpc.result.document import json_parts, to_json, trial_json
from kvmpc.result.files import OutputFile
from kvmpc.result.records import Result

__all__ = ["ResultWriter"]


class ResultWriter:
    """Where ``--json`` goes: a file that always holds a whole document, or a stream.

    A file keeps what it holds until `begin` replaces it; then it grows by one trial at a time, in
    place: a sweep has thousands, and writing all of them anew after each would take longer than
    they do. A stream takes one document, at `finish`.

    path: as given on the command line.

    Raises: UsageError naming ``--json`` where the path cannot be written, or another kvmpc writes
    to it: ask before a trial.
    """

    def __init__(self, path: str) -> None:
        self._output = OutputFile(path, "--json")
        self._end: int | None = None  # of the last trial in the file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.close()

    def begin(self, result: Result) -> None:
        """Make the file hold `result`. A stream waits for `finish`.

        Raises: KernelError naming the path, and what the file holds then; UsageError where another
        has made the file meanwhile.
        """
        if not self._output.is_file:
            return
        head, trials, tail = json_parts(result)
        text = head + ",".join(trials)
        self._output.write(text + tail)
        self._end = len(text)

    def append(self, result: Result) -> None:
        """Add the last of `result`'s trials to the file, which has those before it.

        Raises: KernelError naming the path, and what the file holds then.
        """
        if self._end is None:
            return
        _, _, tail = json_parts(replace(result, trials=()))
        added = ("," if len(result.trials) > 1 else "") + trial_json(result.trials[-1])
        self._output.write_from(self._end, added + tail)
        self._end += len(added)

    def finish(self, result: Result) -> None:
        """Save the last state, to a stream too.

        Raises: KernelError naming the path, and what the file holds then.
        """
        self._output.write(to_json(result))
