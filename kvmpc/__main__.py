"""Where kvmpc starts, as ``kvmpc`` and as ``python -m kvmpc``.

Says in a line what keeps it from starting: another Python, a library that is missing, or another
module of that name.
"""

import os
import sys
from contextlib import suppress

_NEEDED = (3, 11)


def _say(text: str) -> None:
    with suppress(OSError):  # where stderr takes nothing, the exit code says it
        os.write(2, f"kvmpc: {text}\n".encode())


def main() -> int:
    """Run the command line and return its exit code."""
    if sys.version_info < _NEEDED:
        found = f"{sys.version_info[0]}.{sys.version_info[1]} ({sys.executable})"
        needed = ".".join(map(str, _NEEDED))
        _say(f"needs Python {needed} or newer, this is {found}")
        return 3
    from kvmpc.errors import broken_install
    from kvmpc.exit_codes import EXIT_HOST, in_convention

    try:
        from kvmpc import cli
    except Exception as error:
        broken = broken_install(error)
        if broken is None:
            raise
        _say(str(broken))
        return in_convention(EXIT_HOST)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
