"""Texts by path: read whole and within bounds, written whole, found writable before the work.

Knows nothing of what the text is. Reading fails with UnreadableError; writing with UsageError
(unusable, found when it is made) or KernelError (a write that failed later).
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import secrets
import select
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Self

from kvmpc.errors import KernelError, UsageError, describe_errno
from kvmpc.result.streams import STDIN, STDOUT, write_whole

__all__ = ["OutputFile", "UnreadableError", "read_text"]

_MAX_TEXT_BYTES: Final = 1 << 30
"""A thousand trials of 160 vCPUs are 30 MB; what is longer than this never ends."""

_PEER_S: Final = 5.0
"""How long whoever is at the other end of a FIFO has to open it: shells start both at once."""

_LOST: Final = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE)
"""What fsync answers where data is lost; all else means that there is no fsync here. Source:
fsync(2)."""


class UnreadableError(Exception):
    """A path that holds no text; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_text(path: str, *, or_stdin: bool = False) -> str:
    """Return the UTF-8 text at `path`; with `or_stdin`, ``-`` is standard input.

    Raises: UnreadableError.
    """
    if not path:
        raise UnreadableError("no file has an empty name")
    try:
        if or_stdin and path == "-":
            return _decode(_chunks(STDIN))
        # Not to wait here for whoever writes to a FIFO: nobody may.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            is_fifo = stat.S_ISFIFO(os.fstat(fd).st_mode)
            return _decode(_chunks(fd, _PEER_S if is_fifo else 0))
        finally:
            os.close(fd)
    except OSError as error:
        reason = f"cannot be read: {describe_errno(error.errno or 0)}"
        if error.errno == errno.ENOENT and os.path.islink(path):
            reason += f"; it is a link to {os.readlink(path)!r}, which is not there"
        raise UnreadableError(reason) from error
    except MemoryError as error:
        raise UnreadableError("longer than the memory that this process may have") from error


def _chunks(fd: int, wait_s: float = 0) -> Iterator[bytes]:
    """Yield what `fd` holds, to its end; wait so long for the first writer of a FIFO."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            chunk = os.read(fd, 1 << 20)
        except BlockingIOError:  # there is a writer, who has nothing to say yet
            select.select([fd], [], [])
        else:
            if chunk:
                yield chunk
            elif time.monotonic() < deadline:  # without a writer it ends at once
                time.sleep(0.05)
                continue
            else:
                return
        deadline = 0


def _decode(chunks: Iterator[bytes]) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    found: list[str] = []
    seen = 0
    for chunk in chunks:
        begin = seen - len(decoder.getstate()[0])
        try:
            found.append(decoder.decode(chunk))
        except UnicodeDecodeError as error:
            raise UnreadableError(f"not text: byte {begin + error.start} is not UTF-8") from error
        seen += len(chunk)
        if "\0" in found[-1]:  # before all of a device is read
            raise UnreadableError("not text: there is a NUL in it")
        if seen > _MAX_TEXT_BYTES:
            raise UnreadableError(f"longer than {_MAX_TEXT_BYTES >> 20} MiB")
    if decoder.getstate()[0]:
        raise UnreadableError(f"not text: it ends within a character, at byte {seen}")
    return "".join(found)


class OutputFile:
    """A path that gets text, and can: it is opened, or made and taken back, when this is made.

    A regular file (through a symlink: its target) keeps what it holds until `write` replaces it
    whole: atomically, or in place where the folder does not allow that, and what was there goes
    back if it fails. It is locked meanwhile. ``-``, and a file that standard output goes to, is
    standard output; what is no regular file (a FIFO, a shell's ``>(...)``) is written to.

    option, allowed: what a UsageError calls it, and allows. fresh: whether there must not be such
        a file yet.

    Raises: UsageError where the path cannot be written, or another kvmpc writes to it;
    FileExistsError with `fresh`.
    """

    def __init__(
        self,
        path: str,
        option: str,
        *,
        allowed: str = "- or a file in a directory that can be written",
        fresh: bool = False,
    ) -> None:
        self.path = path
        self.option = option
        self.is_stdout = path == "-"
        # A file's true name, so that replacing it does not replace a symlink; None = a stream.
        self._file: str | None = None
        self._fd: int | None = None  # the file, locked, or the stream; None: no such file yet
        if self.is_stdout:
            return
        try:
            self._choose(fresh)
        except BlockingIOError as error:
            raise UsageError(option, path, "a file that no other kvmpc is writing to") from error
        except OSError as error:
            if fresh and isinstance(error, FileExistsError):
                raise
            if error.errno == errno.ENXIO:
                allowed = "- or a file; of a FIFO, one that somebody reads"
            reason = describe_errno(error.errno or 0)
            raise UsageError(option, path, f"{allowed}: {reason}") from error

    def _choose(self, fresh: bool) -> None:
        if not os.path.basename(self.path):
            raise OSError(errno.EISDIR if self.path else errno.ENOENT, self.path)
        if fresh and os.path.lexists(self.path):
            raise FileExistsError(errno.EEXIST, self.path)
        file = os.path.realpath(self.path)
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            self._file, self._fd = file, _try_creation(file)
            return
        # /dev/stdout may be a regular file; replacing it would lose the rest of stdout.
        self.is_stdout = _is_stdout(status)
        if self.is_stdout:
            return
        self._fd = _open_existing(self.path, is_fifo=stat.S_ISFIFO(status.st_mode))
        # /dev/fd/3 may be a file that has no name any more.
        if stat.S_ISREG(status.st_mode) and _is_at(file, self._fd):
            self._file = file
            _lock(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back, and its lock."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    @property
    def is_file(self) -> bool:
        """Whether it is a file, which can be written again; a stream takes one text."""
        return self._file is not None

    def write(self, text: str) -> None:
        """Make `text`, in UTF-8, all that is there.

        Raises: KernelError naming the path, and what it holds then; UsageError where another has
        made the file meanwhile.
        """
        try:
            if self._file is not None:
                self._replace(self._file, text.encode())
            elif self.is_stdout:
                write_whole(STDOUT, text.encode())
            elif self._fd is not None:
                write_whole(self._fd, text.encode())
        except FileExistsError as error:
            allowed = "a file that no other kvmpc has just begun"
            raise UsageError(self.option, self.path, allowed) from error
        except OSError as error:
            raise self._failed(error) from error

    def write_from(self, offset: int, text: str) -> None:
        """Put `text` in the place of what the file holds from `offset` on.

        Raises: KernelError naming the path, and what it holds then.
        """
        assert self._fd is not None
        try:
            _overwrite(self._fd, text.encode(), offset)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> KernelError:
        hint = "; ".join(getattr(error, "__notes__", ()))
        if self._file is not None and self._fd is None:
            hint = "no file was made"
        return KernelError(f"write of {self.path}", error.errno or 0, hint)

    def _replace(self, file: str, data: bytes) -> None:
        """Put `data` in the file's place at once: whoever looks finds the old or the new."""
        beside = _write_beside(file, data, self._fd)
        made = self._fd is None
        try:
            held = _create(file) if self._fd is None else self._fd
        except BaseException:
            if beside is not None:
                _discard(*beside)
            raise
        self._fd = held
        if beside is not None:
            fd, temporary = beside
            try:
                os.replace(temporary, file)
            except OSError:  # EBUSY: the file is a mount
                _discard(fd, temporary)
            else:
                self._fd = fd
                os.close(held)
                return
        try:
            if not _is_at(file, held):
                gone = OSError(errno.ENOENT, file)
                gone.add_note("it was removed or replaced meanwhile")
                raise gone
            _overwrite(held, data, 0)
        except BaseException:
            if made:
                self.close()
                with suppress(OSError):
                    os.unlink(file)
            raise


_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _create(file: str) -> int:
    """Return a new file, locked. Raises: OSError, FileExistsError."""
    # Not tempfile: its files are 0600, and a new file is to get what the umask gives.
    fd = os.open(file, _NEW, 0o666)
    try:
        _lock(fd)
    except BlockingIOError as error:  # another has found it in this instant
        os.close(fd)
        raise FileExistsError(errno.EEXIST, file) from error
    return fd


def _try_creation(file: str) -> int | None:
    """Make `file` and take it back; return it only where it cannot be taken back."""
    fd = _create(file)
    try:
        os.unlink(file)
    except OSError:
        return fd
    os.close(fd)
    return None


def _open_existing(path: str, *, is_fifo: bool) -> int:
    # Write-protected stays so. To be read, too, if it may be: what it holds can then be put back.
    if not is_fifo:
        with suppress(PermissionError):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    deadline = time.monotonic() + _PEER_S
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            os.set_blocking(fd, True)
            return fd


def _is_stdout(status: os.stat_result) -> bool:
    try:
        return os.path.samestat(status, os.fstat(STDOUT))
    except OSError:  # EBADF: stdout is closed
        return False


def _is_at(file: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(fd))
    except OSError:
        return False


def _lock(fd: int) -> None:
    """Lock a file for this process. Raises: BlockingIOError where another has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks


def _write_beside(file: str, data: bytes, old: int | None) -> tuple[int, str] | None:
    """Return a file with `data`, and `old`'s mode, in the same folder; None where it cannot be."""
    temporary = os.path.join(os.path.dirname(file), f".kvmpc-{secrets.token_hex(8)}.tmp")
    try:
        fd = _create(temporary)
    except OSError:
        return None
    try:
        if old is not None:
            os.fchmod(fd, stat.S_IMODE(os.fstat(old).st_mode))
        write_whole(fd, data)
        _sync(fd)  # before the rename: after a crash, the old or the new, not none
    except BaseException as error:
        _discard(fd, temporary)
        if isinstance(error, OSError):
            return None
        raise
    return fd, temporary


def _discard(fd: int, temporary: str) -> None:
    os.close(fd)
    with suppress(OSError):
        os.unlink(temporary)


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno in _LOST:
            raise


def _write_at(fd: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def _overwrite(fd: int, data: bytes, offset: int) -> None:
    """Put `data` in the place of all from `offset` on; if that fails, what was there goes back.

    Raises: OSError, with a note of what is there then.
    """
    size, before = os.fstat(fd).st_size, None
    with suppress(OSError):  # EBADF: not to be read
        before = os.pread(fd, size - offset, offset)
    try:
        # One call, over what is there: nobody else sees half of it, short of a crash.
        _write_at(fd, data, offset)
        if offset + len(data) < size:
            os.ftruncate(fd, offset + len(data))
        _sync(fd)
    except BaseException as error:
        kept = before is not None and _put_back(fd, before, offset, size)
        error.add_note("it holds what it held before" if kept else "it may be cut short")
        raise


def _put_back(fd: int, before: bytes, offset: int, size: int) -> bool:
    """Let the file end with `before` from `offset` on, at `size`; return whether it does."""

    def is_back() -> bool:
        return os.fstat(fd).st_size == size and os.pread(fd, size - offset, offset) == before

    try:
        if not is_back():
            os.ftruncate(fd, size)
            _write_at(fd, before, offset)
        return is_back()
    except OSError:
        return False
