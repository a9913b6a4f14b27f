"""KTAP version 1: what kernel test runners read.

Flat: subtests would say the same of points, but fewer parsers read them. What a test measured
stands before it in a diagnostic line, since whatever follows the last test is no longer read.

A document is whole whatever happens. Where this host cannot it is a plan of none with the reason;
where kvmpc itself failed, a test that is not ok and ``Bail out!``, which not every parser knows.

Source: Documentation/dev-tools/ktap.rst, tools/testing/kunit/kunit_parser.py (6.1); the plan of
none and ``Bail out!``: TAP 13, tools/testing/selftests/kselftest.h.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvmpc.show.cases import Case, End, Said, one_line

__all__ = ["ktap", "ktap_end"]


def ktap(cases: Sequence[Case], warnings: Sequence[str] = ()) -> str:
    """Return cases as a document, ending in a newline; warnings as diagnostic lines before them."""
    lines = ["KTAP version 1", f"1..{len(cases)}"]
    lines += [f"# warning: {_plain(warning)}" for warning in warnings]
    for count, case in enumerate(cases, start=1):
        name, why = _plain(case.name), _plain(case.why)
        skipped = case.said is Said.SKIP
        if not skipped:
            # With the name before it: "Subtest:" at its head would mean something.
            lines.append(f"# {name}: {why}")
        ok = "ok" if case.said in (Said.PASS, Said.SKIP) else "not ok"
        lines.append(f"{ok} {count} {name}" + f" # SKIP {why}".rstrip() * skipped)
    return "\n".join(lines) + "\n"


def ktap_end(end: End) -> str:
    """Return the end of a document, or the document of what ended before it had one."""
    bail_out = f"Bail out! {_plain(end.reason)}\n"
    if end.begun:
        return bail_out
    if end.case.said is Said.SKIP:
        return f"KTAP version 1\n1..0 # SKIP {_plain(end.reason)}\n"
    return ktap([end.case]) + bail_out


def _plain(text: str) -> str:
    """Return `text` in one line and without ``#``, which would begin a directive."""
    return one_line(text.replace("#", "?"))
