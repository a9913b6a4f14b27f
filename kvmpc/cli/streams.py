"""Standard output and error: writing to them never fails, what was lost is told by the exit code.

A run of hours does not end because a progress line cannot be shown, and an error that cannot be
told keeps its exit code. So `main` puts these two in the place of Python's: nothing, of ours or of
click, writes past them.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmpc.result.streams import STDERR, STDIN, STDOUT, write_whole

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Stream", "standard_streams", "stderr", "stdout"]

_PATIENCE_S = 5.0
"""How long a message waits for a reader that does not read; the next one does not wait at all."""

_NOBODY = (errno.EPIPE, errno.EBADF)
"""The reader has left, or there was none from the start (``>&-``)."""


class _Bytes(io.RawIOBase):
    """Bytes to whoever takes them."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        raw = bytes(data)
        self._put(raw)
        return len(raw)


class Stream(io.TextIOBase):
    """Text to a standard descriptor: people's text with `write`, a document with `hand_out`.

    patience_s: how long text waits for its reader before it is dropped; None waits for ever.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, fd: int, patience_s: float | None) -> None:
        self._fd, self._patience_s = fd, patience_s
        self._terminal = os.isatty(fd)
        self._lost: OSError | None = None
        self._document = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Return whether somebody sits before it."""
        return self._terminal

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write text for people; what cannot be written is dropped."""
        wait_s = 0 if self._lost and self._patience_s else self._patience_s
        self._put(text.encode(self.encoding, self.errors), wait_s)
        return len(text)

    @property
    def buffer(self) -> _Bytes:
        """Where click writes bytes, such as a shell's completion."""
        return _Bytes(self._put)

    def hand_out(self, text: str) -> None:
        """Write a document: in UTF-8, and if it does not arrive whole, `failure` says so."""
        self._document = True
        self._put(text.encode("utf-8", self.errors), None)

    def _put(self, data: bytes, wait_s: float | None = None) -> None:
        if self._lost and self._patience_s is None:
            return  # not with a hole in it
        try:
            write_whole(self._fd, data, wait_s=wait_s)
        except OSError as error:
            self._lost = error

    @property
    def document_lost(self) -> bool:
        """Whether a document, which somebody relies on, did not arrive."""
        return self._document and self._lost is not None

    @property
    def failure(self) -> OSError | None:
        """Why something was lost that somebody waits for; None where nobody was there to tell."""
        if self._lost is None or self._document:
            return self._lost
        hung_up = self._terminal and self._lost.errno == errno.EIO
        return None if hung_up or self._lost.errno in _NOBODY else self._lost


stdout = Stream(STDOUT, None)
stderr = Stream(STDERR, _PATIENCE_S)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let everything in the block write to `stdout` and `stderr`.

    Descriptors that are closed get a placeholder that fails as they do (EBADF): otherwise the next
    file to be opened, /dev/kvm or a result, would be what messages are written into.
    """
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            # Not /dev/null, which a bare chroot may lack. Source: open(2), O_PATH.
            placeholder = os.open("/", os.O_PATH)
            if placeholder != fd:
                os.dup2(placeholder, fd)
                os.close(placeholder)
    before = sys.stdout, sys.stderr
    for stream, python in ((stdout, sys.stdout), (stderr, sys.stderr)):
        stream.encoding = getattr(python, "encoding", None) or "utf-8"
    sys.stdout, sys.stderr = stdout, stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
