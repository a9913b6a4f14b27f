"""``results.yaml`` of tmt, the Test Management Tool, for a test with ``result: custom``.

A list of records, each in a line of JSON, which is YAML: so the end of a run that was stopped can
be told after what it has.

Source: tmt, specification of tests, *result*, and its schema ``results.yaml`` (1.78).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from kvmpc.show.cases import Case, End, one_line

__all__ = ["tmt", "tmt_end"]


def tmt(cases: Sequence[Case]) -> str:
    """Return cases as a list in YAML, ending in a newline where there is one."""
    return "".join(f"- {_record(case)}\n" for case in cases)


def tmt_end(end: End) -> str:
    """Return what ended a command, as one more record."""
    return tmt([end.case])


def _record(case: Case) -> str:
    # As letters and not as escapes: YAML reads half a pair of surrogates where JSON reads a letter.
    return json.dumps(
        {
            "name": f"/{one_line(case.name)}",
            "result": case.said,
            "note": [why] if (why := one_line(case.why)) else [],
        },
        ensure_ascii=False,
    )
