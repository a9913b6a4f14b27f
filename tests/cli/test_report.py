"""``kvmpc report`` as its users run it: paths, refusals, and what a missing extra says."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

from kvmpc.result.document import to_json
from kvmpc.show.page.published import SHAPES
from tests.fakes.sweeps import sweep

WITHOUT_EXTRA = (
    "import sys; sys.modules['matplotlib'] = None\n"
    "from kvmpc.cli import main; sys.argv[0] = 'kvmpc'; sys.exit(main())"
)


@pytest.fixture
def with_extra() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        if os.environ.get("KVMPC_REQUIRE_LAB") == "1":
            pytest.fail("KVMPC_REQUIRE_LAB=1, but matplotlib is not installed")
        pytest.skip("matplotlib is not installed: pip install '.[report]'")


@pytest.fixture
def result(kvmpc):
    """A small result file in the folder kvmpc runs in."""
    (kvmpc.folder / "r.json").write_text(to_json(sweep((2,), rounds=1)))
    return "r.json"


@pytest.mark.usefixtures("with_extra")
def test_a_page_is_written_where_it_was_asked_for(kvmpc, result):
    finished = kvmpc("report", result, "-o", "page.html")
    assert finished.code == 0
    assert finished.stdout == ""
    text = (kvmpc.folder / "page.html").read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in kvmpc.folder.iterdir()) == ["page.html", "r.json"]


@pytest.mark.usefixtures("with_extra")
def test_a_dash_reads_standard_input_and_writes_standard_output(kvmpc):
    finished = kvmpc("report", "-", "-o", "-", given=to_json(sweep((2,), rounds=1)))
    assert finished.code == 0
    assert finished.stdout.startswith("<!DOCTYPE html>")


@pytest.mark.usefixtures("result")
@pytest.mark.parametrize("arguments", [[], ["-o", "page.html"], ["r.json"]], ids=" ".join)
def test_without_a_result_or_a_page_to_write_it_is_wrong_usage(kvmpc, arguments):
    finished = kvmpc("report", *arguments)
    assert finished.code == 2
    assert "Usage: kvmpc report" in finished.error


def test_a_page_that_cannot_be_written_is_found_before_the_results_are_read(kvmpc):
    for path in ("nowhere/page.html", ".", "./"):
        finished = kvmpc("report", "absent.json", "-o", path)
        assert finished.code == 2
        assert "--output" in finished.error
        assert "absent.json" not in finished.error


def test_a_result_is_not_overwritten_by_its_page(kvmpc, result):
    finished = kvmpc("report", result, "-o", f"./{result}")
    assert finished.code == 2
    assert "not one of the results" in finished.error
    assert (kvmpc.folder / result).read_text().startswith("{")


@pytest.mark.usefixtures("with_extra")
def test_a_page_replaces_what_a_link_points_to_and_keeps_its_mode(kvmpc, result):
    target = kvmpc.folder / "target.html"
    target.write_text("old")
    target.chmod(0o640)
    (kvmpc.folder / "link.html").symlink_to("target.html")
    assert kvmpc("report", result, "-o", "link.html").code == 0
    assert (kvmpc.folder / "link.html").is_symlink()
    assert target.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("not json", "not JSON"),
        ('{"schema": "kvmpc-result", "version": 1}', "version 1 is older"),
        ('{"schema": "other"}', "of schema 'other'"),
        ("[1]", "not a kvmpc result"),
    ],
)
def test_a_file_that_is_no_result_is_named_with_what_is_wrong(kvmpc, result, text, words):
    (kvmpc.folder / "bad.json").write_text(text)
    finished = kvmpc("report", result, "bad.json", "-o", "page.html")
    assert finished.code == 2
    assert "bad.json" in finished.error
    assert words in finished.error
    assert not (kvmpc.folder / "page.html").exists()


def test_a_result_that_is_not_there_is_named(kvmpc):
    finished = kvmpc("report", "absent.json", "-o", "page.html")
    assert finished.code == 2
    assert "absent.json: cannot be read: ENOENT" in finished.error


def test_without_the_extra_the_command_says_what_to_install_and_the_others_run(kvmpc, result):
    command = [sys.executable, "-c", WITHOUT_EXTRA]
    finished = kvmpc.start_program([*command, "report", result, "-o", "page.html"]).finish()
    assert finished.code == 3
    assert "pip install 'kvmpc[report]'" in finished.error
    assert not (kvmpc.folder / "page.html").exists()
    assert kvmpc.start_program([*command, "show", result]).finish().code == 0


def test_every_published_shape_can_be_asked_for_and_another_is_refused_by_name(kvmpc, result):
    finished = kvmpc("report", "--help")
    assert all(name in finished.stdout for name in SHAPES)
    finished = kvmpc("report", result, "-o", "page.html", "--shape", "mine")
    assert finished.code == 2
    assert "moorthy-v7" in finished.error


def test_help_does_not_load_the_drawing_library(kvmpc):
    script = (
        "import sys, kvmpc.cli as cli; sys.argv[1:] = ['report', '--help']\n"
        "cli.main(); print('matplotlib' in sys.modules, 'kvmpc.show.page' in sys.modules)"
    )
    finished = kvmpc.start_program([sys.executable, "-c", script]).finish()
    assert finished.stdout.endswith("False False\n")
