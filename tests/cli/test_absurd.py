"""Results that say absurd things: every reader names the place, or shows what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

RECORDED = Path(__file__).with_name("recorded")

READERS = (
    ("show", "odd.json"),
    ("show", "odd.json", "--format", "csv"),
    ("show", "odd.json", "--format", "ktap"),
    ("report", "odd.json", "-o", "page.html"),
    ("check", "odd.json", "--against", "sound.json"),
    ("check", "sound.json", "--against", "odd.json"),
    ("baseline", "save", "lab1", "odd.json"),
)


@pytest.fixture
def document(kvmpc) -> dict[str, Any]:
    """Return a result as parsed JSON; the sound one is in the folder, too."""
    text = (RECORDED / "before.json").read_text()
    (kvmpc.folder / "sound.json").write_text(text)
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _put(document: Any, place: str, spelled: str) -> str:
    """Return the document's text with what is `spelled` at a dotted place."""
    *steps, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    inner = document
    for step in steps:
        inner = inner[step]
    inner[last] = "HERE"
    return json.dumps(document).replace('"HERE"', spelled)


@pytest.mark.parametrize("command", READERS, ids=lambda words: " ".join(words[:2]))
def test_every_reader_names_the_place_of_an_absurd_number(kvmpc, document, command):
    text = _put(document, "during.steal_cpu_s", "1" + "0" * 400)
    (kvmpc.folder / "odd.json").write_text(text)
    finished = kvmpc(*command, env={"KVMPC_BASELINES": str(kvmpc.folder / "kept")})
    assert finished.code == 2
    assert finished.stdout == "" or "ktap" in command
    assert "odd.json: during.steal_cpu_s: 1000" in finished.error
    assert "is not a number below 2**64" in finished.error


@pytest.mark.parametrize(
    ("place", "spelled", "said"),
    [
        ("host.load.avg1", "1e300", "1e+300 is not a number below 2**64"),
        ("options.vcpus", "-" + "9" * 30, "is not a number below 2**64"),
        ("host.load.avg1", "9" * 5000, "Infinity is not a finite number"),
        ("host.load.avg1", "-Infinity", "-Infinity is not a finite number"),
        ("host.load.avg1", "5e-324", "5e-324 is neither 0 nor a number above 2**-64"),
        ("host.cpu.model", '"' + "x" * 2_000_000 + '"', "is longer than 1048576"),
        ("host.cpu.model", "[" * 200 + "]" * 200, "more than 20 levels"),
        ("host.cpu.model", "[" * 100_000 + "]" * 100_000, "deeper or longer than can be read"),
        ("trials.0.vcpus", "-1", "trials[0].vcpus: -1 is less than 0"),
        ("trials.0.guest_tsc_khz", "0", "trials[0].guest_tsc_khz: 0.0 is less than 1"),
        ("trials.0.guest_tsc_khz", "NaN", "trials[0].guest_tsc_khz: NaN is not a finite number"),
        ("trials.0.histogram_cycles.0.2", "-7", "histogram_cycles[0][2]: -7 is less than 0"),
        ("trials.0.round", "-2", "trials[0].round: -2 is less than -1"),
        ("trials.0.metrics.pages_per_s", "1e999", "pages_per_s: Infinity is not a finite number"),
    ],
    ids=lambda value: value[:24],
)
def test_an_absurd_value_is_damage_with_its_place(kvmpc, document, place, spelled, said):
    (kvmpc.folder / "odd.json").write_text(_put(document, place, spelled))
    finished = kvmpc("show", "odd.json")
    assert finished.code == 2
    assert finished.stdout == ""
    assert said in finished.error
    assert len(finished.error) < 500


def test_no_text_of_a_profile_moves_the_cursor(kvmpc):
    text = (RECORDED / "profile.json").read_text()
    for name in ("event", "text"):
        text = re.sub(rf'"{name}": "[^"]*"', rf'"{name}": "\\u001b[2J\\ud800"', text)
    (kvmpc.folder / "odd.json").write_text(text)
    finished = kvmpc("show", "odd.json")
    assert finished.code == 0
    assert "\x1b" not in finished.stdout
    assert "samples of ?[2J?" in finished.told


def test_a_place_moves_no_cursor(kvmpc, document):
    document["host"]["\x1b[2J\ud800"] = 10**30
    (kvmpc.folder / "odd.json").write_text(json.dumps(document))
    finished = kvmpc("show", "odd.json")
    assert finished.code == 2
    assert r'host["\u001b[2J\ud800"]: 1000' in finished.error
