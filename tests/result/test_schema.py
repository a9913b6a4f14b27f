"""Records as a schema: what a parsed JSON value must be, and how what is wrong is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from kvmpc.result.schema import Mismatch, reader, shown


@dataclass(frozen=True)
class Inner:
    count: int


@dataclass(frozen=True)
class Outer:
    name: str
    share: float | None
    inner: tuple[Inner, ...]
    span: tuple[int, int] = (0, 0)
    by_name: Mapping[str, Inner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "wrong":
            raise ValueError("name is wrong")


WHOLE = {"name": "x", "share": 1, "inner": [{"count": 1}], "span": [1, 2], "by_name": {}}


def test_a_value_becomes_the_record_it_describes() -> None:
    assert reader(Outer)(WHOLE) == Outer("x", 1.0, (Inner(1),), (1, 2), {})
    assert reader(Outer)({"name": "x", "share": None, "inner": []}) == Outer("x", None, ())
    assert reader(Outer)({**WHOLE, "later": 1}) == reader(Outer)(WHOLE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 1}, "name: 1 is not a string"),
        ({"name": "wrong"}, "name is wrong"),
        ({"share": True}, "share: true is not a number"),
        ({"inner": [{"count": 1}, {"count": True}]}, "inner[1].count: true is not a whole number"),
        ({"inner": [{}]}, "inner[0].count: missing"),
        ({"inner": {}}, "inner: {} is not a list"),
        ({"span": [1]}, "span: has 1 entries, not 2"),
        ({"by_name": {"a": {"count": None}}}, "by_name.a.count: null is not a whole number"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: dict[str, object], said: str) -> None:
    with pytest.raises(Mismatch) as caught:
        reader(Outer)({**WHOLE, **change})
    assert str(caught.value) == said


def test_an_annotation_that_json_cannot_fill_is_a_defect() -> None:
    with pytest.raises(TypeError, match="no way to read"):
        reader(set)


def test_a_long_value_is_shortened_in_a_message() -> None:
    assert len(shown("x" * 100)) == 40
