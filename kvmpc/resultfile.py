"""Where a result is written: a file that always holds a whole document, or a stream.

Owns the output path and its temporary file, not the document: that is `kvmpc.results`. Fails with
UsageError (a path found unusable before the first trial) or KernelError (a write that failed
later).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from pathlib import Path

from kvmpc.errors import KernelError, UsageError, describe_errno
from kvmpc.results import Result, to_json

__all__ = ["ResultWriter"]


class ResultWriter:
    """Where ``--json`` goes: a file that always holds a whole document, or a stream.

    A regular file (through a symlink: its target) is replaced atomically by every `write`, so
    that the last complete document outlives whatever comes next; until the first `write` it keeps
    what it holds. ``-``, whatever stdout goes to, and anything that is not a regular file (a
    FIFO, a shell's ``>(...)``) take one document, at `finish`.

    path: as given on the command line.

    Raises: UsageError naming ``--json`` where the path cannot be written: ask before a trial.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stdout = path == "-"
        # A file's true name, so that replacing it does not replace a symlink; None = a stream.
        self._file: str | None = None
        if self._stdout:
            return
        try:
            self._choose(path)
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
        _check_replaceable(path, self._file)

    def write(self, result: Result) -> None:
        """Save what is known so far; a stream waits for `finish`.

        Raises: KernelError naming the path; the file then holds what it held before.
        """
        if self._file is not None:
            try:
                _replace(self._file, to_json(result))
            except OSError as error:
                raise self._failed(error, "it holds what it held before") from error

    def finish(self, result: Result) -> None:
        """Save the last state, to a stream too.

        Raises: KernelError naming the path.
        """
        if self._file is not None:
            self.write(result)
            return
        text = to_json(result)
        try:
            if self._stdout:
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                Path(self.path).write_text(text, encoding="ascii")
        except OSError as error:
            raise self._failed(error, "") from error

    def _failed(self, error: OSError, hint: str) -> KernelError:
        return KernelError(f"write of {self.path}", error.errno or 0, hint)


def _is_stdout(status: os.stat_result) -> bool:
    try:
        return os.path.samestat(status, os.fstat(1))
    except OSError:  # EBADF: stdout is closed
        return False


def _check_replaceable(path: str, file: str) -> None:
    """Try what `_replace` will do, short of doing it: a permission bit is not the whole truth."""
    if not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, path)
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(file, os.O_WRONLY | os.O_CLOEXEC))  # write-protected stays so
    descriptor, temporary = _create_beside(file)
    os.close(descriptor)
    os.unlink(temporary)


def _create_beside(file: str) -> tuple[int, str]:
    # Not tempfile: its files are 0600, and a new result is to get what the umask gives.
    temporary = os.path.join(os.path.dirname(file), f".kvmpc-{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(temporary, flags, 0o666), temporary


def _replace(file: str, text: str) -> None:
    descriptor, temporary = _create_beside(file)
    try:
        with open(descriptor, "w", encoding="ascii") as stream:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(os.stat(file).st_mode))
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)  # before the rename: after a crash, the old or the new, not none
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
