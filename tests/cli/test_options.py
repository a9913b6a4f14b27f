"""What help says by heart, as what it is copied from takes too long to import: still the same."""

from __future__ import annotations

import re

import click
import pytest

from kvmpc.cli import cli
from kvmpc.cli.options import PAGERS_HELP
from kvmpc.judge.intervals import FEWEST_FOR_INTERVAL
from kvmpc.pagers import DEFAULT_COMPARE, PAGERS, parse_pager
from kvmpc.run.axes import AXES, SCALARS
from kvmpc.show.formats import KINDS

_LETTERS = {"readers": ("R", "3"), "uffds": ("K", "3"), "spin": ("TIME", "3us")}
_LETTERS |= {"drain": ("MESSAGES", "3")}
"""Keys that take a number, what stands for it, and one that can be given."""

_TOLD_BY_LABEL = {"provider"}
"""Keys that a user gives as part of the name, ``exit(sigbus)``, if at all."""


def _choices(command: str, option: str) -> list[str]:
    for parameter in cli.commands[command].params:
        if option in parameter.opts:
            assert isinstance(parameter.type, click.Choice)
            return list(parameter.type.choices)
    raise AssertionError(f"{command} has no {option}")


def test_compare_has_the_fewest_rounds_that_have_an_interval_and_says_so() -> None:
    (rounds,) = (each for each in cli.commands["compare"].params if each.name == "rounds")
    assert isinstance(rounds, click.Option)
    assert rounds.default == FEWEST_FOR_INTERVAL
    assert f"fewer than {FEWEST_FOR_INTERVAL} have a range" in (rounds.help or "")


@pytest.mark.parametrize("command", ["compare", "run", "sweep", "show", "check", "turns"])
def test_every_format_can_be_asked_for(command: str) -> None:
    assert _choices(command, "--format") == list(KINDS)


def test_every_published_shape_can_be_asked_for() -> None:
    published = pytest.importorskip("kvmpc.show.page.published")
    assert _choices("report", "--shape") == list(published.SHAPES)


def _grammar() -> dict[str, dict[str, list[str]]]:
    """Return pager -> key -> values, as help has them."""
    lines = re.sub(r"\n {3,}", "", PAGERS_HELP).splitlines()[2:]
    return {
        line.strip().partition("[")[0]: {
            key: values.split("|") for key, values in re.findall(r"\[,(\w+)=([^]]+)\]", line)
        }
        for line in lines
    }


def test_help_has_every_pager_with_its_keys() -> None:
    assert {name: set(keys) for name, keys in _grammar().items()} == {
        name: set(pager.keys) - _TOLD_BY_LABEL for name, pager in PAGERS.items()
    }


def test_every_value_in_help_can_be_given_and_the_words_are_all_there_are() -> None:
    for name, keys in _grammar().items():
        for key, values in keys.items():
            letter, number = _LETTERS.get(key, (None, None))
            assert (letter in values) == (letter is not None)
            words = [value for value in values if value != letter]
            for value in [*words, *filter(None, [number])]:
                assert parse_pager(f"{name},{key}={value}").name == name
            allowed = PAGERS[name].keys[key].allowed
            assert set(re.findall(r"[a-z-]{3,}", allowed)) == set(words)


def test_help_names_the_pagers_that_are_compared_unless_told() -> None:
    text = " ".join((cli.commands["compare"].help or "").split())
    assert f"Without PAGER: {', '.join(DEFAULT_COMPARE)}; the third " in text


def test_every_option_of_a_plan_is_an_option_of_the_command_line() -> None:
    names = {parameter.name for parameter in cli.commands["compare"].params}
    assert set(AXES) <= names
    assert set(SCALARS) - {"question"} <= names
