"""The store: names, what is kept, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmpc.errors import ResultFileError, UsageError
from kvmpc.result import baselines
from kvmpc.result.document import to_json

Make = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty store, not there yet."""
    monkeypatch.setenv("KVMPC_BASELINES", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def result(make_result: Make, make_trial: Make) -> Any:
    return make_result(make_trial("uffd"), make_trial("exit"))


def test_the_folder_is_the_users_unless_given() -> None:
    assert baselines.folder({"KVMPC_BASELINES": "/k", "XDG_DATA_HOME": "/x"}) == Path("/k")
    assert baselines.folder({"XDG_DATA_HOME": "/x"}) == Path("/x/kvmpc/baselines")
    assert baselines.folder({}) == Path.home() / ".local/share/kvmpc/baselines"


def test_what_is_kept_comes_back_whole(store: Path, result: Any) -> None:
    path = baselines.save("lab1", [result, result])
    assert path == store / "lab1.json"
    assert baselines.load_against("lab1") == [result, result]
    assert baselines.load_against(str(path)) == [result, result]
    (listed,) = baselines.listed()
    assert (listed.name, listed.runs, listed.problem) == ("lab1", 2, None)
    assert listed.kernels == ("6.1.0-28-amd64",)
    assert os.listdir(store) == ["lab1.json"], "no temporary file is left"


def test_a_result_file_may_stand_for_a_baseline(tmp_path: Path, result: Any) -> None:
    file = tmp_path / "old.json"
    file.write_text(to_json(result))
    assert baselines.load_against(str(file)) == [result]


@pytest.mark.usefixtures("store")
def test_a_name_that_is_taken_needs_force(result: Any) -> None:
    baselines.save("lab1", [result])
    with pytest.raises(UsageError, match="not taken"):
        baselines.save("lab1", [result, result])
    assert len(baselines.load_against("lab1")) == 1
    baselines.save("lab1", [result, result], force=True)
    assert len(baselines.load_against("lab1")) == 2


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", ".hidden", "-x", "a b", "x\n", "ü", "x" * 101, "x.json", "a\0b"]
)
def test_a_name_is_a_plain_file_name(store: Path, result: Any, name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        baselines.save(name, [result], force=True)
    with pytest.raises(UsageError, match="letters, digits"):
        baselines.remove(name)
    assert not store.exists()


def test_an_unknown_name_is_told_with_those_that_are_known(store: Path, result: Any) -> None:
    with pytest.raises(UsageError, match="none is saved yet"):
        baselines.load_against("lab2")
    baselines.save("lab1", [result])
    for ask in (baselines.load_against, baselines.remove):
        with pytest.raises(UsageError, match="lab1"):
            ask("lab2")
    baselines.remove("lab1")
    assert baselines.listed() == []
    assert os.listdir(store) == []


@pytest.mark.usefixtures("store")
def test_a_result_without_a_sound_round_is_not_kept(make_result: Make, make_trial: Make) -> None:
    for trials in ([], [make_trial("uffd", 0)], [make_trial("uffd", 1, status="failed")]):
        with pytest.raises(UsageError, match="measured rounds"):
            baselines.save("lab1", [make_result(*trials)])


def _broken(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema": "other"}, "of schema 'other'"),
        ({"version": 2}, "newer than this kvmpc"),
        ({"version": True}, "not a version number"),
        ({"version": None}, "not a version number"),
        ({"results": []}, "not a list of results"),
        ({"results": {}}, "not a list of results"),
        ({"results": [{}]}, "not a kvmpc result"),
    ],
)
def test_a_document_of_another_kind_is_refused_and_listed_as_broken(
    store: Path, result: Any, changes: Any, told: str
) -> None:
    baselines.save("lab1", [result])
    _broken(store / "lab1.json", **changes)
    with pytest.raises(ResultFileError, match=told):
        baselines.load_against("lab1")
    (listed,) = baselines.listed()
    assert told in str(listed.problem)


def test_a_result_inside_that_is_broken_is_named_with_its_place(store: Path, result: Any) -> None:
    path = baselines.save("lab1", [result, result])
    document = json.loads(path.read_text())
    document["results"][1]["trials"][0]["vcpus"] = "two"
    path.write_text(json.dumps(document))
    with pytest.raises(ResultFileError, match=r"results\[1\]: trials\[0\].vcpus"):
        baselines.load_against("lab1")
    path.write_text('{"schema": "kvmpc-baseline", "x": NaN}')
    with pytest.raises(ResultFileError, match="NaN is not a finite number"):
        baselines.load_against("lab1")
    assert store.exists()


def test_a_folder_that_cannot_be_used_is_named(store: Path, result: Any) -> None:
    store.write_text("in the way")
    for use in (lambda: baselines.save("lab1", [result]), baselines.listed):
        with pytest.raises(UsageError, match=f"{store}.*KVMPC_BASELINES.*: ENOTDIR"):
            use()
