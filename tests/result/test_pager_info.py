"""What a result says of its pagers, and what is made of one that does not say it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kvmpc.pagers import parse_pager
from kvmpc.result.document import from_json, to_json
from kvmpc.result.pager_info import pager_of_spelling
from kvmpc.run.describe import pager_info

Make = Callable[..., Any]

SPECS = (
    "none", "none,host=populated", "uffd", "uffd,readers=4,uffds=per-vcpu,fetch=blocking", "exit",
    "exit,uffds=per-vcpu",
)  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_an_older_result_says_the_same_by_its_spelling(spec: str) -> None:
    pager = parse_pager(spec)
    now, older = pager_info(pager), pager_of_spelling(pager.spec, pager.label)
    # Keys that came later are at their default there: what it measured had no others.
    later = {key: now.keys[key] for key in now.keys.keys() - older.keys.keys()}
    assert later == {key: pager.keys[key].default for key in later}
    assert replace(older, keys={**older.keys, **later}) == now


def test_every_key_is_there_with_its_value() -> None:
    info = pager_info(parse_pager("uffd,readers=4"))
    assert (info.kind, info.fetches, info.provider) == ("uffd", True, None)
    assert info.keys == {
        "readers": "4", "uffds": "one", "fetch": "pipelined",
        "wait": "epoll", "spin": "50us", "drain": "16",
    }  # fmt: skip
    assert pager_info(parse_pager("exit")).provider == "sigbus"
    assert not pager_info(parse_pager("none")).fetches


def test_a_provider_that_nobody_knows_yet_is_told_by_the_label() -> None:
    assert pager_of_spelling("exit", "exit(bitmap),uffds=one").provider == "bitmap"


def test_a_result_keeps_what_its_pagers_are(make_result: Make, make_trial: Make) -> None:
    infos = tuple(pager_info(parse_pager(spec)) for spec in ("uffd", "exit"))
    result = make_result(make_trial("uffd"), make_trial("exit"), pager_infos=infos)
    again = from_json(to_json(result), "x")
    assert again.pager_infos == infos
    assert again.pager("exit") is again.pager_infos[1]


def test_a_result_without_it_is_written_back_as_it_was(make_result: Make, make_trial: Make) -> None:
    result = replace(make_result(make_trial("exit")), pager_infos=())
    text = to_json(result)
    assert "pager_infos" not in json.loads(text)
    assert to_json(from_json(text, "x")) == text
    assert result.pager("exit").label == "exit(sigbus)"
