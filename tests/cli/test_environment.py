"""What kvmpc inherits: variables, the user, the working directory, standard input, libraries."""

from __future__ import annotations

import importlib.util
import os
import shlex
from pathlib import Path

import pytest

from kvmpc.exit_codes import EXIT_OK, EXIT_UNSURE

RECORDED = Path(__file__).with_name("recorded") / "before.json"
TREE = Path(__file__).resolve().parents[2]


@pytest.fixture
def homeless(as_user) -> list[str]:
    """Return a command that runs its arguments as a user whom no file knows, without HOME."""
    return ["env", "-u", "HOME", "-u", "XDG_DATA_HOME", "-u", "KVMPC_BASELINES", *as_user()]


@pytest.mark.parametrize(
    "command",
    [("list",), ("save", "lab1", str(RECORDED)), ("remove", "lab1")],
    ids=lambda words: words[0],
)
def test_without_a_home_the_variable_to_set_is_named(kvmpc, homeless, command):
    finished = kvmpc("baseline", *command, within=homeless)
    assert finished.code == 2
    assert finished.error.startswith("kvmpc: KVMPC_BASELINES: ")
    assert "no HOME" in finished.error


@pytest.mark.kvm
def test_who_has_no_home_can_measure_and_judge(kvmpc, homeless, tiny):
    kvmpc.folder.chmod(0o777)
    within = [*homeless, "env", f"KVMPC_BASELINES={kvmpc.folder}/kept"]
    assert kvmpc("baseline", "save", "lab1", str(RECORDED), within=within).code == 0
    # It is judged; that it is noisy is not what is asked here.
    judged = kvmpc("check", str(RECORDED), "--against", "lab1", within=within)
    assert judged.code in (EXIT_OK, EXIT_UNSURE), judged
    assert kvmpc("run", "none", *tiny, within=homeless).code in (0, 3)  # /dev/kvm may be root's


@pytest.mark.parametrize("value", ["", "relative"])
@pytest.mark.parametrize("name", ["XDG_DATA_HOME", "HOME"])
def test_a_folder_that_is_not_absolute_is_as_none(kvmpc, name, value):
    home = kvmpc.folder / "home"
    env = {"KVMPC_BASELINES": "", "XDG_DATA_HOME": "", "HOME": str(home), name: value}
    finished = kvmpc("baseline", "list", env=env)
    assert finished.code == 0
    if name == "XDG_DATA_HOME":
        assert f"none is kept in {home}/.local/share/kvmpc/baselines" in finished.error
    assert "relative" not in finished.error
    assert list(kvmpc.folder.iterdir()) == []


@pytest.mark.parametrize("command", [("list",), ("save", "lab1", str(RECORDED))], ids=["list", "s"])
def test_a_file_in_the_place_of_the_store_is_wrong_usage(kvmpc, command):
    finished = kvmpc("baseline", *command, env={"KVMPC_BASELINES": str(RECORDED)})
    assert finished.code == 2
    assert f"'{RECORDED}'" in finished.error
    assert "KVMPC_BASELINES" in finished.error
    assert "ENOTDIR" in finished.error


def test_a_store_that_may_not_be_written_is_wrong_usage(kvmpc, without_capabilities):
    store = kvmpc.folder / "kept"
    store.mkdir()
    store.chmod(0o555)
    finished = kvmpc(
        "baseline", "save", "lab1", str(RECORDED),
        within=without_capabilities, env={"KVMPC_BASELINES": str(store)},
    )  # fmt: skip
    assert finished.code == 2
    assert "EACCES" in finished.error


def test_a_baseline_that_is_a_dangling_link_is_named_as_one(kvmpc):
    store = kvmpc.folder / "kept"
    store.mkdir()
    (store / "lab1.json").symlink_to("moved-away.json")
    env = {"KVMPC_BASELINES": str(store)}
    for words in (
        ("check", str(RECORDED), "--against", "lab1"),
        ("check", str(RECORDED), "--against", str(store / "lab1.json")),
        ("show", str(store / "lab1.json")),
    ):
        finished = kvmpc(*words, env=env)
        assert finished.code == 2
        assert "it is a link to 'moved-away.json', which is not there" in finished.error
    assert "moved-away.json" in kvmpc("baseline", "list", env=env).told
    assert "not taken" in kvmpc("baseline", "save", "lab1", str(RECORDED), env=env).error
    assert kvmpc("baseline", "remove", "lab1", env=env).code == 0


def _where_nothing_is(kvmpc) -> list[str]:
    """Return a command that runs its arguments in a folder that was removed."""
    gone = shlex.quote(str(kvmpc.folder / "gone"))
    return ["sh", "-c", f'mkdir {gone} && cd {gone} && rmdir {gone} && exec "$@"', "sh"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, ("show", "rel.json")),
        (2, ("run", "none", "--json", "rel.json")),
        (2, ("report", str(RECORDED), "-o", "rel.html")),
        (2, ("baseline", "save", "lab1", str(RECORDED))),
        (2, ("sweep", "rel.toml")),
        (0, ("show", str(RECORDED))),
        (0, ("baseline", "list")),
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, tuple) else str(words),
)
def test_a_working_directory_that_was_removed_is_no_traceback(kvmpc, code, words):
    finished = kvmpc(*words, within=_where_nothing_is(kvmpc), env={"KVMPC_BASELINES": "kept"})
    assert finished.code == code
    assert code == 0 or "ENOENT" in finished.error


@pytest.mark.kvm
def test_a_working_directory_that_was_removed_is_not_needed(kvmpc, tiny):
    finished = kvmpc("run", "none", *tiny, within=_where_nothing_is(kvmpc))
    assert (finished.code, finished.error) == (0, "")


@pytest.mark.parametrize("words", [("show", "-"), ("report", "-", "-o", "p.html")])
def test_a_closed_standard_input_is_named(kvmpc, words):
    finished = kvmpc(*words, before=lambda: os.close(0), stdin=None)
    assert finished.code == 2
    assert "standard input: cannot be read: EBADF" in finished.error


@pytest.mark.parametrize(
    "words",
    [
        ("check", "-", "--against", "-"),
        ("report", "-", "-", "-o", "p.html"),
        ("baseline", "save", "lab1", "-", "-"),
    ],
    ids=lambda words: words[0],
)
def test_standard_input_is_not_two_results(kvmpc, words):
    finished = kvmpc(*words, given=RECORDED.read_text())
    assert finished.code == 2
    assert "once, not 2 times" in finished.error


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "'': no file has an empty name"),
        ("/dev/null", "/dev/null: empty"),
        ("/dev/zero", "/dev/zero: not text: there is a NUL in it"),
        ("/dev/urandom", "/dev/urandom: not text"),
        (".", ".: cannot be read: EISDIR"),
        ("/proc/self/mem", "/proc/self/mem: cannot be read: EIO"),
    ],
)
def test_what_is_no_result_is_named_for_what_it_is(kvmpc, path, words):
    for command in (("show",), ("check", str(RECORDED), "--against"), ("report", "-o", "p.html")):
        if command[0] != "check" or "/" in path:  # else the name of a baseline
            finished = kvmpc(*command, path)
            assert finished.code == 2
            assert words in finished.error


def test_a_fifo_that_nobody_writes_to_ends(kvmpc):
    os.mkfifo(kvmpc.folder / "fifo")
    finished = kvmpc("show", "fifo")
    assert finished.code == 2
    assert "fifo: empty" in finished.error


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs kvmpc[report]")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MPLBACKEND", "nonsense"),
        ("SOURCE_DATE_EPOCH", "nonsense"),
        ("MPLCONFIGDIR", "/proc/nowhere"),
        ("TMPDIR", "/nowhere"),
    ],
)
def test_what_the_environment_says_of_other_plots_is_not_heard(kvmpc, name, value):
    finished = kvmpc("report", str(RECORDED), "-o", "p.html", env={name: value})
    assert finished.code == 0, finished.error


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs kvmpc[report]")
def test_a_drawing_library_that_does_not_load_is_what_this_host_cannot(kvmpc):
    (kvmpc.folder / "matplotlibrc").write_bytes(b"backend: \xff\n")
    finished = kvmpc("report", str(RECORDED), "-o", "p.html")
    assert finished.code == 3
    assert "matplotlib, which draws the charts, does not load: UnicodeDecodeError" in finished.error
    assert "remedy: " in finished.error
    assert not (kvmpc.folder / "p.html").exists()
