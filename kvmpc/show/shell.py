"""A command line as a shell reads it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

__all__ = ["shell_line", "shell_word"]


def shell_line(command: Iterable[str]) -> str:
    """Return `command` so that a shell (bash, zsh, ksh) reads it back exactly."""
    return " ".join(map(shell_word, command))


def shell_word(word: str, *, ascii_only: bool = False) -> str:
    """Return one word, quoted where it has to be; its bytes where it is not for print."""
    if word.isprintable() and (word.isascii() or not ascii_only):
        return shlex.quote(word)
    # What is not for print, a lone byte of a file name included, is spelled as its bytes.
    spelled = "".join(
        f"\\x{byte:02x}" if byte < 0x20 or byte > 0x7E else "\\" * (byte in b"\\'") + chr(byte)
        for byte in word.encode("utf-8", "surrogateescape")
    )
    return f"$'{spelled}'"
