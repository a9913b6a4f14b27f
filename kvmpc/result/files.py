"""Files of text that are replaced whole, and found writable before the work.

Fails with UsageError (unusable, found when it is made) or KernelError (a write that failed later).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import suppress

from kvmpc.errors import KernelError, UsageError, describe_errno
from kvmpc.result.streams import STDOUT, write_whole

__all__ = [
    "OutputFile",
    "create_beside",
    "lock_file",
    "put_in_place",
    "replace_file",
    "write_at",
]


class OutputFile:
    """A path that will get one text; ``-`` is standard output.

    A regular file (through a symlink: its target) keeps what it holds until `write` replaces it
    whole. What is no regular file (a FIFO, a shell's ``>(...)``) is written to.

    option: what a UsageError calls it.

    Raises: UsageError where the path cannot be written.
    """

    def __init__(self, path: str, option: str) -> None:
        self.path = path
        self._file: str | None = None  # None: a stream
        if path == "-":
            return
        try:
            self._choose(path)
        except OSError as error:
            allowed = "- or a file in a directory that can be written: "
            reason = describe_errno(error.errno or 0)
            raise UsageError(option, path, allowed + reason) from error

    def _choose(self, path: str) -> None:
        if not os.path.basename(path):
            raise IsADirectoryError(errno.EISDIR, path)
        with suppress(FileNotFoundError):
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, path)
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, path)
            if not stat.S_ISREG(mode):
                return
        self._file = os.path.realpath(path)
        # A permission bit is not the whole truth: do what `write` will do, short of its end.
        descriptor, temporary = create_beside(self._file)
        os.close(descriptor)
        os.unlink(temporary)

    def write(self, text: str) -> None:
        """Write the text, in UTF-8.

        Raises: KernelError naming the path; a regular file then holds what it held before.
        """
        try:
            if self._file is not None:
                replace_file(self._file, text)
            elif self.path == "-":
                write_whole(STDOUT, text.encode())
            else:
                with open(self.path, "w", encoding="utf-8") as stream:
                    stream.write(text)
        except OSError as error:
            raise KernelError(f"write of {self.path}", error.errno or 0) from error


def lock_file(fd: int) -> None:
    """Lock a file for this process. Raises: BlockingIOError where another has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks


def create_beside(file: str) -> tuple[int, str]:
    # Not tempfile: its files are 0600, and a new file is to get what the umask gives.
    temporary = os.path.join(os.path.dirname(file), f".kvmpc-{secrets.token_hex(8)}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(temporary, flags, 0o666), temporary


def write_at(fd: int, text: str, offset: int) -> None:
    data = memoryview(text.encode())
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def replace_file(file: str, text: str, *, fresh: bool = False) -> None:
    """Put `text` into `file` at once: whoever looks finds the old or the new, all of it.

    fresh: only where there is no such file yet. Raises: OSError.
    """
    os.close(put_in_place(file, text, keep=not fresh))


def put_in_place(file: str, text: str, *, keep: bool) -> int:
    """Put `text` in the place of `file`, atomically, and return the new file, open and locked.

    keep: it may exist; otherwise it must be new. Raises: OSError, FileExistsError.
    """
    fd, temporary = create_beside(file)
    try:
        with suppress(FileNotFoundError):
            os.fchmod(fd, stat.S_IMODE(os.stat(file).st_mode))
        lock_file(fd)
        write_at(fd, text, 0)
        os.fsync(fd)  # before the rename: after a crash, the old or the new, not none
        if keep:
            os.replace(temporary, file)
        else:
            os.link(temporary, file)
            os.unlink(temporary)
    except BaseException:
        os.close(fd)
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return fd
