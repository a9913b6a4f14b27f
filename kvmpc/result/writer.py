"""Where a result is written: a file that always holds a whole document, or a stream.

Owns the output path and its temporary file, not the document: that is `kvmpc.result.document`.
Fails with UsageError (a path found unusable before the first trial) or KernelError (a write that
failed later).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Self

from kvmpc.errors import KernelError, UsageError, describe_errno
from kvmpc.result.document import json_parts, to_json, trial_json
from kvmpc.result.files import create_beside, lock_file, put_in_place, write_at
from kvmpc.result.records import Result
from kvmpc.result.streams import STDOUT, write_whole

__all__ = ["ResultWriter"]


class ResultWriter:
    """Where ``--json`` goes: a file that always holds a whole document, or a stream.

    A regular file (through a symlink: its target) keeps what it holds until `begin` replaces it
    atomically; then it grows by one trial at a time, in place: a sweep has thousands, and writing
    all of them anew after each would take longer than they do. It is locked meanwhile. ``-``,
    whatever stdout goes to, and anything that is not a regular file (a FIFO, a shell's ``>(...)``)
    take one document, at `finish`.

    path: as given on the command line.

    Raises: UsageError naming ``--json`` where the path cannot be written, or another kvmpc writes
    to it: ask before a trial.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stdout = path == "-"
        # A file's true name, so that replacing it does not replace a symlink; None = a stream.
        self._file: str | None = None
        self._lock: int | None = None
        self._fd: int | None = None
        self._end = 0  # of the last trial in the file
        self._length = 0  # of the file
        if self._stdout:
            return
        try:
            self._choose(path)
        except BlockingIOError as error:
            allowed = "a file that no other kvmpc is writing to"
            raise UsageError("--json", path, allowed) from error
        except OSError as error:
            allowed = "- or a file in a directory that can be written: "
            reason = describe_errno(error.errno or 0)
            raise UsageError("--json", path, allowed + reason) from error

    def _choose(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, path)
            # /dev/stdout may be a regular file; replacing it would lose the rest of stdout.
            self._stdout = _is_stdout(status)
            if self._stdout:
                return
            if not stat.S_ISREG(status.st_mode):
                if not os.access(path, os.W_OK):
                    raise PermissionError(errno.EACCES, path)
                return
        self._file = os.path.realpath(path)
        self._lock = _check_replaceable(path, self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self._fd, self._lock):
            if fd is not None:
                os.close(fd)
        self._fd = self._lock = None

    def begin(self, result: Result) -> None:
        """Make the file hold `result`. A stream waits for `finish`.

        Raises: KernelError naming the path; the file then holds what it held before.
        """
        if self._file is None:
            return
        head, trials, tail = json_parts(result)
        text = head + ",".join(trials)
        try:
            fd = put_in_place(self._file, text + tail, keep=self._lock is not None)
        except FileExistsError as error:
            allowed = "a file that no other kvmpc has just begun"
            raise UsageError("--json", self.path, allowed) from error
        except OSError as error:
            raise self._failed(error, "it holds what it held before") from error
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._end, self._length = fd, len(text), len(text) + len(tail)
        if self._lock is None:
            self._lock = os.dup(fd)

    def append(self, result: Result) -> None:
        """Add the last of `result`'s trials to the file, which has those before it.

        Raises: KernelError naming the path; the file then holds what it held before.
        """
        if self._fd is None:
            return
        _, _, tail = json_parts(replace(result, trials=()))
        added = ("," if len(result.trials) > 1 else "") + trial_json(result.trials[-1])
        before = os.pread(self._fd, self._length - self._end, self._end)
        try:
            # One call, over the tail: nobody else sees half of it, short of a crash.
            write_at(self._fd, added + tail, self._end)
            os.fsync(self._fd)
        except OSError as error:
            # Its place is still its own: what was there before goes back.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._length)
                os.pwrite(self._fd, before, self._end)
            raise self._failed(error, "it holds what it held before") from error
        self._end += len(added)
        self._length = self._end + len(tail)

    def finish(self, result: Result) -> None:
        """Save the last state, to a stream too.

        Raises: KernelError naming the path.
        """
        if self._file is not None:
            self.begin(result)
            return
        text = to_json(result)
        try:
            if self._stdout:
                write_whole(STDOUT, text.encode())
            else:
                Path(self.path).write_text(text, encoding="ascii")
        except OSError as error:
            raise self._failed(error, "") from error

    def _failed(self, error: OSError, hint: str) -> KernelError:
        return KernelError(f"write of {self.path}", error.errno or 0, hint)


def _is_stdout(status: os.stat_result) -> bool:
    try:
        return os.path.samestat(status, os.fstat(STDOUT))
    except OSError:  # EBADF: stdout is closed
        return False


def _check_replaceable(path: str, file: str) -> int | None:
    """Try what `put_in_place` will do, short of doing it: a permission bit is not the whole truth.

    Returns the file as it is, open and locked, or None where there is none yet.
    """
    if not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, path)
    lock = None
    with contextlib.suppress(FileNotFoundError):
        lock = os.open(file, os.O_WRONLY | os.O_CLOEXEC)  # write-protected stays so
    try:
        if lock is not None:
            lock_file(lock)
        descriptor, temporary = create_beside(file)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    os.close(descriptor)
    os.unlink(temporary)
    return lock
