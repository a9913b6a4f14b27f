"""Standard streams by their descriptors: written whole, whatever state they are in.

They are inherited: closed, full, a pipe that somebody else has set non-blocking. Python's own
objects lose data in silence there (a short write under ``PYTHONUNBUFFERED``).
"""

from __future__ import annotations

import errno
import os
import select

__all__ = ["STDERR", "STDIN", "STDOUT", "write_whole"]

STDIN, STDOUT, STDERR = 0, 1, 2


def write_whole(fd: int, data: bytes, *, wait_s: float | None = None) -> None:
    """Write all of `data` to `fd`, in as many calls as it takes.

    wait_s: how long it may take nothing, as a full pipe does, or a terminal that is stopped;
    None waits for ever.
    Raises: OSError, when some of it may be written; TimeoutError after `wait_s`.
    """
    left = memoryview(data)
    while left:
        if wait_s is not None and not _wait(fd, wait_s):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        try:
            # A pipe that is ready takes PIPE_BUF bytes at once; more could block for ever.
            left = left[os.write(fd, left if wait_s is None else left[: select.PIPE_BUF]) :]
        except BlockingIOError:
            _wait(fd, wait_s)


def _wait(fd: int, wait_s: float | None) -> bool:
    """Wait until `fd` takes something, or is broken, which the next write will name."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(None if wait_s is None else 1000 * wait_s))
