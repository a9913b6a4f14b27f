"""The JSON form of a result: it survives the round trip, and no damage goes unnoticed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmpc.caution import HOST, Caution
from kvmpc.errors import ResultFileError
from kvmpc.result.document import from_json, load, to_json
from kvmpc.result.records import PROFILED, Result, Role, TrialResult, Turns

Make = Callable[..., Any]


@pytest.fixture
def result(make_result: Make, make_trial: Make) -> Result:
    trials = [make_trial("none,host=populated"), make_trial("uffd"), make_trial("exit", 2)]
    failed = make_trial("uffd", 2, status="failed", elapsed_ns=None, guest_tsc_khz=None)
    made: Result = make_result(
        *trials,
        failed,
        command=("kvmpc", "odd\\udc80name"),
        warnings=(Caution("ksm", "KSM is on", "stop it"),),
    )
    return made


def _document(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(to_json(result))
    return document


def _reason(text: str) -> str:
    with pytest.raises(ResultFileError) as caught:
        from_json(text, "r.json")
    assert caught.value.path == "r.json"
    return caught.value.reason


def _reason_after(result: Result, place: str, value: object) -> str:
    """Return the reason given for a document with `value` at a dotted place."""
    document = _document(result)
    *steps, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    inner: Any = document
    for step in steps:
        inner = inner[step]
    inner[last] = value
    return _reason(json.dumps(document))


def test_a_result_survives_the_round_trip(result: Result) -> None:
    assert from_json(to_json(result), "r.json") == result


def test_a_caution_says_no_more_than_an_older_one_did_where_it_has_no_more_to_say(
    result: Result,
) -> None:
    always = Caution("vm", "it is a VM", "none", kind=HOST, size=0.5)
    written = to_json(replace(result, warnings=(*result.warnings, always)))
    assert from_json(written, "r.json").warnings == (*result.warnings, always)
    old, new = json.loads(written)["warnings"]
    assert old.keys() == {"code", "text", "remedy"}
    assert new.keys() == old.keys() | {"kind", "size"}


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("kind", "moon", "kind is 'moon'"),
        ("kind", 1, "not a string"),
        ("size", "1", "not a number"),
    ],
)
def test_a_caution_of_no_kind_or_no_size_is_refused(
    result: Result, field: str, value: object, told: str
) -> None:
    reason = _reason_after(result, f"warnings.0.{field}", value)
    assert reason.startswith("warnings[0]")
    assert told in reason


def test_a_side_of_two_survives_the_round_trip_and_another_result_has_no_word_of_it(
    result: Result,
) -> None:
    turns = Turns(
        id="ab12", side="new", command="true", new_first=(True, False), last_rounds=(2, 5)
    )
    sided = replace(result, turns=turns)
    assert from_json(to_json(sided), "r.json") == sided
    assert "turns" not in _document(result)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("turns.side", "left", "turns: side is 'left', not 'old' or 'new'"),
        ("turns.last_rounds", [4, 2], "turns: last_rounds do not ascend"),
        ("turns.last_rounds", [2, 2], "turns: last_rounds do not ascend"),
        ("turns.last_rounds.0", -1, "turns.last_rounds[0]: -1 is less than 0"),
        ("turns.new_first.0", 1, "turns.new_first[0]: 1 is not true or false"),
        ("turns.id", None, "turns.id: null is not a string"),
        ("turns", [], "turns: [] is not an object"),
    ],
)
def test_an_odd_side_is_named_with_its_place(
    result: Result, place: str, value: object, reason: str
) -> None:
    turns = Turns(id="ab", side="old", command="true", new_first=(True,), last_rounds=(2, 5))
    assert _reason_after(replace(result, turns=turns), place, value).startswith(reason)


def test_the_document_has_each_trial_on_one_line(result: Result) -> None:
    lines = to_json(result).splitlines()
    assert sum(line.startswith('{"pager"') for line in lines) == len(result.trials)


def test_a_whole_number_is_a_sound_metric(result: Result) -> None:
    document = _document(result)
    document["trials"][0]["metrics"]["pages_per_s"] = 1000
    read = from_json(json.dumps(document), "r.json").trials[0].metrics["pages_per_s"]
    assert type(read) is float


def test_unknown_keys_are_ignored(result: Result) -> None:
    document = _document(result)
    document["moon"] = document["trials"][0]["phase"] = "full"
    assert from_json(json.dumps(document), "r.json") == result


@pytest.mark.parametrize("tenth", range(10))
def test_a_document_cut_at_any_tenth_is_refused_as_cut_short(result: Result, tenth: int) -> None:
    text = to_json(result)
    reason = _reason(text[: len(text) * tenth // 10])
    assert ("cut short" in reason) if tenth else (reason == "empty")


def test_a_document_cut_at_any_character_is_refused(result: Result) -> None:
    text = to_json(result).rstrip()
    for length in range(len(text)):
        with pytest.raises(ResultFileError):
            from_json(text[:length], "r.json")


def test_text_that_is_not_json_is_refused_with_the_place() -> None:
    assert _reason('{"schema": \n nonsense}').startswith("not JSON: Expecting value at line 2")


@pytest.mark.parametrize("text", ["[]", "7", "null", '{"schem": 1}', '"kvmpc-result"'])
def test_other_json_is_no_result(text: str) -> None:
    assert _reason(text) == "JSON, but not a kvmpc result"


def test_another_schema_is_named(result: Result) -> None:
    assert "'perf-data'" in _reason_after(result, "schema", "perf-data")


def test_a_newer_version_asks_for_an_upgrade(result: Result) -> None:
    reason = _reason_after(result, "version", 3)
    assert "version 3 is newer than this kvmpc reads (2)" in reason
    assert "upgrade" in reason


def test_an_older_version_is_refused_rather_than_misread(result: Result) -> None:
    assert "version 1 is older" in _reason_after(result, "version", 1)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None])
def test_an_odd_version_is_refused(result: Result, version: object) -> None:
    assert "is not a version number" in _reason_after(result, "version", version)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("finished", 1, "finished: 1 is not true or false"),
        ("tool_version", None, "tool_version: null is not a string"),
        ("command", "kvmpc run", 'command: "kvmpc run" is not a list'),
        ("command.1", 5, "command[1]: 5 is not a string"),
        ("options", [], "options: [] is not an object"),
        ("trials", {}, "trials: {} is not a list"),
        ("trials.3", None, "trials[3]: null is not an object"),
        ("trials.3.round", True, "trials[3].round: true is not a whole number"),
        ("trials.3.round", 1.0, "trials[3].round: 1.0 is not a whole number"),
        ("trials.0.error", 0, "trials[0].error: 0 is not a string"),
        ("trials.0.sparse", "no", 'trials[0].sparse: "no" is not true or false'),
        ("trials.0.counts.installs", "46", 'trials[0].counts.installs: "46" is not a whole number'),
        ("trials.0.metrics.mib_per_s", True, "trials[0].metrics.mib_per_s: true is not a number"),
        ("trials.0.per_vcpu.end_ns.1", None, "trials[0].per_vcpu.end_ns[1]: null is not a whole"),
        ("trials.0.histogram_cycles.1", [1, 2], "trials[0].histogram_cycles[1]: has 2 entries"),
        ("trials.2.status", "fine", "trials[2]: status is 'fine'"),
        ("trials.2.status", "failed", "trials[2]: status 'failed' does not go with error None"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_place(
    result: Result, place: str, value: object, reason: str
) -> None:
    assert _reason_after(result, place, value).startswith(reason)


def _required(record: type) -> list[str]:
    return [
        each.name
        for each in dataclasses.fields(record)
        if each.default is each.default_factory is dataclasses.MISSING
    ]


def test_every_missing_field_is_named_with_its_place(result: Result) -> None:
    for key in _required(Result):
        document = _document(result)
        del document[key]
        assert _reason(json.dumps(document)) == f"{key}: missing"
    for key in _required(TrialResult):
        document = _document(result)
        del document["trials"][2][key]
        assert _reason(json.dumps(document)) == f"trials[2].{key}: missing"


@pytest.mark.parametrize("spelled", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
def test_a_number_that_is_not_finite_is_refused(result: Result, spelled: str) -> None:
    document = _document(result)
    document["trials"][0]["metrics"]["pages_per_s"] = "HERE"
    assert "not a" in _reason(json.dumps(document).replace('"HERE"', spelled))


@pytest.mark.parametrize("text", ['{"schema": ' + "9" * 5000 + "}", "[" * 200_000])
def test_absurd_json_is_refused_and_not_a_crash(text: str) -> None:
    assert _reason(text)


def test_a_result_with_nan_cannot_be_written(make_result: Make, make_trial: Make) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(make_result(make_trial("uffd", metrics={"pages_per_s": math.nan})))


def test_a_result_of_160_vcpus_and_1000_trials_loads(make_result: Make, make_trial: Make) -> None:
    per_vcpu = {name: tuple(range(160)) for name in ("start_ns", "end_ns", "cpu_ns", "touched")}
    trials = [make_trial("uffd", number, per_vcpu=per_vcpu) for number in range(1000)]
    large = make_result(*trials)
    assert from_json(to_json(large), "r.json") == large


def test_load_reads_a_file_and_standard_input(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(to_json(result))
    assert load(str(path)) == result
    before = os.dup(0)
    try:
        with path.open() as file:
            os.dup2(file.fileno(), 0)
        assert load("-") == result
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_load_says_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="cannot be read: ENOENT"):
        load(str(tmp_path / "none.json"))
    with pytest.raises(ResultFileError, match="cannot be read: EISDIR"):
        load(str(tmp_path))


def test_load_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b'{"schema": "\xff"}')
    with pytest.raises(ResultFileError, match="byte 12 is not UTF-8"):
        load(str(path))


@pytest.mark.parametrize(("status", "error"), [("odd", None), ("failed", None), ("ok", "why")])
def test_a_trial_that_contradicts_itself_cannot_be_made(
    make_trial: Make, status: str, error: str | None
) -> None:
    with pytest.raises(ValueError, match="status"):
        make_trial("uffd", status=status, error=error)


def test_records_cannot_be_changed(make_trial: Make) -> None:
    trial: TrialResult = make_trial("uffd")
    with pytest.raises(AttributeError):
        trial.status = "failed"  # type: ignore[misc]


def test_a_round_says_what_a_trial_is_for(make_trial: Make) -> None:
    roles = [make_trial("uffd", number).role for number in (PROFILED, 0, 1, 2)]
    assert roles == [Role.PROFILED, Role.WARMUP, Role.MEASURED, Role.MEASURED]


def test_a_trial_of_before_starved_ones_were_known_is_none(result: Result) -> None:
    document = _document(result)
    for trial in document["trials"]:
        assert trial.pop("starved") is False
    assert from_json(json.dumps(document), "r.json") == result
    assert "starved" in _reason_after(result, "trials.0.starved", 1)


def test_a_starved_trial_is_one_that_an_older_kvmpc_can_read(result: Result) -> None:
    marked = dataclasses.replace(result.trials[0], starved=True)
    document = _document(dataclasses.replace(result, trials=(marked,)))
    # It knows two words, and ignores keys that it does not know.
    assert document["version"] == 2
    assert document["trials"][0]["status"] == "ok"
    assert from_json(json.dumps(document), "r.json").trials == (marked,)
