"""kvmpc with a userfaultfd that nobody reads: its reader threads only wait for the stop flag."""

from __future__ import annotations

import sys
import time
from typing import Any

from kvmpc.cli import main
from kvmpc.loops.program import NativeProgram
from kvmpc.loops.records import Return

_call = NativeProgram.call


def call(self: NativeProgram, function: str, record: Any, *rest: Any) -> int:
    if function != "reader_loop":
        return _call(self, function, record, *rest)
    while not record.stop:
        time.sleep(0.01)
    return Return.STOPPED


NativeProgram.call = call  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
