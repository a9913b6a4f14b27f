"""Where results go and come from: files, folders, pipes, and what is wrong with them."""

from __future__ import annotations

import json
import os
import subprocess

import pytest


@pytest.fixture
def document(kvmpc, tiny):
    """Return the text of a good result."""
    assert kvmpc("run", "none", *tiny, "--json", str(kvmpc.json)).code == 0
    return kvmpc.json.read_text()


# More vCPUs than any KVM allows: had the host been asked first, the exit code would be 3.
IMPOSSIBLE = ("--vcpus", "1000000", "--mem-per-vcpu", "92K")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing/result.json", ["ENOENT", "No such file or directory"]),
        (".", ["EISDIR", "Is a directory"]),
        ("folder/", ["Is a directory"]),
        ("file/result.json", ["ENOTDIR", "Not a directory"]),
        ("", ["allowed: - or a file in a directory that can be written"]),
    ],
)
def test_an_unusable_output_path_is_found_before_anything_else(kvmpc, path, words):
    (kvmpc.folder / "folder").mkdir()
    (kvmpc.folder / "file").write_text("mine")
    before = sorted(kvmpc.folder.rglob("*"))
    finished = kvmpc("compare", *IMPOSSIBLE, "--json", path)
    assert finished.code == 2
    assert finished.stdout == ""
    assert f"--json: '{path}' is not possible" in finished.error
    for word in words:
        assert word in finished.error
    assert sorted(kvmpc.folder.rglob("*")) == before
    assert (kvmpc.folder / "file").read_text() == "mine"


@pytest.mark.parametrize("protected", ["folder", "file"])
def test_an_output_path_that_may_not_be_written_is_found_before_anything_else(
    kvmpc, without_capabilities, protected
):
    folder = kvmpc.folder / "folder"
    folder.mkdir()
    path = folder / "result.json"
    if protected == "file":
        path.write_text("mine")
        path.chmod(0o444)
    else:
        folder.chmod(0o555)
    finished = kvmpc("compare", *IMPOSSIBLE, "--json", str(path), within=without_capabilities)
    assert finished.code == 2
    assert finished.stdout == ""
    assert "EACCES (Permission denied)" in finished.error
    assert str(path) in finished.error
    assert [entry.name for entry in folder.iterdir()] == ["result.json"] * (protected == "file")


def test_an_output_path_stays_as_it_was_when_the_host_cannot(kvmpc):
    kvmpc.json.write_text("mine")
    assert kvmpc("compare", *IMPOSSIBLE, "--json", str(kvmpc.json)).code == 3
    assert kvmpc.json.read_text() == "mine"
    assert list(kvmpc.folder.iterdir()) == [kvmpc.json]


@pytest.mark.kvm
def test_a_result_replaces_what_was_there_and_leaves_nothing_beside_it(kvmpc, tiny):
    kvmpc.json.write_text("something older")
    kvmpc.json.chmod(0o640)
    assert kvmpc("run", "none", *tiny, "--json", str(kvmpc.json)).code == 0
    assert kvmpc.result().finished
    assert kvmpc.json.stat().st_mode & 0o777 == 0o640
    assert list(kvmpc.folder.iterdir()) == [kvmpc.json]


@pytest.mark.kvm
def test_a_full_disk_is_named_and_leaves_no_half_document(kvmpc, tiny, with_dev, devices):
    within = with_dev(
        f"{devices['kvm']} && mkdir /dev/full && mount -t tmpfs -o size=4k tmpfs /dev/full"
    )
    # What is left there afterwards is looked at inside, where the small disk still is.
    finished = kvmpc(
        "run", "none", *tiny, "--json", "/dev/full/result.json",
        within=[*within, "sh", "-c", '"$@"; code=$?; ls -A /dev/full >&2; exit $code', "sh"],
    )  # fmt: skip
    assert finished.code == 4
    assert "/dev/full/result.json" in finished.error
    assert "ENOSPC (No space left on device)" in finished.error
    assert "tmp" not in finished.error.replace("No space", "")


@pytest.mark.kvm
@pytest.mark.parametrize("arguments", [(), ("--json", "-")], ids=["table", "json"])
def test_output_onto_a_full_disk_is_an_error_and_no_traceback(kvmpc, tiny, arguments):
    with open("/dev/full", "w") as full:
        finished = kvmpc("run", "none", *tiny, *arguments, stdout=full)
    assert finished.code == 4
    assert "No space left on device" in finished.error


def _into_closed_pipe(kvmpc, *arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = kvmpc.start(*arguments, stdout=writer)
    finally:
        os.close(writer)
    return process.finish()


@pytest.mark.kvm
def test_whoever_stops_reading_a_table_changes_nothing_else(kvmpc, tiny):
    finished = _into_closed_pipe(kvmpc, "compare", "none", "uffd", *tiny, "--json", str(kvmpc.json))
    assert finished.error == ""
    assert finished.code == 0
    assert kvmpc.result().finished


@pytest.mark.kvm
def test_a_document_that_nobody_takes_is_an_error(kvmpc, tiny):
    finished = _into_closed_pipe(kvmpc, "run", "none", *tiny, "--json", "-")
    assert finished.error.endswith("kvmpc: write of -: EPIPE (Broken pipe)")
    assert finished.code == 4


@pytest.mark.kvm
def test_whoever_stops_reading_probe_changes_nothing(kvmpc):
    finished = _into_closed_pipe(kvmpc, "probe")
    assert (finished.code, finished.stderr) == (0, "")


@pytest.mark.kvm
def test_nobody_needs_to_take_stderr(kvmpc, tiny):
    finished = kvmpc("run", "none", *tiny, before=lambda: os.close(2), stderr=None)
    assert finished.code == 0
    assert finished.cells("none")[-1] == "zeros"


@pytest.mark.kvm
def test_a_pipe_into_head_works(kvmpc, document):
    del document
    program = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" show "$1" | head -1', kvmpc.command[0], kvmpc.json],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert program.stdout.startswith("pager ")
    assert len(program.stdout.splitlines()) == 1
    assert "Traceback" not in program.stderr
    assert program.returncode == 0


def _without_end(text: str) -> str:
    return text[: len(text) // 2]


def _newer(text: str) -> str:
    return json.dumps({**json.loads(text), "version": 1000})


def _other(text: str) -> str:
    return json.dumps({**json.loads(text), "schema": "pytest-benchmark"})


def _damaged(text: str) -> str:
    document = json.loads(text)
    document["trials"][0]["expected_pages"] = "23"
    return json.dumps(document)


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without_end, ["cut short"]),
        (_newer, ["version 1000 is newer than this kvmpc reads", "upgrade kvmpc"]),
        (_other, ["schema 'pytest-benchmark'", "kvmpc-result"]),
        (_damaged, ["trials[0].expected_pages", '"23" is not a whole number']),
        (lambda _: "pages/s 12345\n", ["not JSON"]),
        (lambda _: "", ["empty"]),
        (lambda _: "[1, 2, 3]", ["JSON, but not a kvmpc result"]),
        (lambda text: text.replace(",", "", 1), ["not JSON", "line 3"]),
    ],
    ids=["truncated", "newer", "other schema", "wrong type", "text", "empty", "list", "damaged"],
)
@pytest.mark.parametrize("way", ["file", "stdin"])
def test_show_says_what_is_wrong_with_a_document(kvmpc, document, damage, words, way):
    text = damage(document)
    assert text != document
    path = kvmpc.folder / "bad.json"
    path.write_text(text)
    finished = kvmpc("show", str(path)) if way == "file" else kvmpc("show", "-", given=text)
    assert finished.code == 2
    assert finished.stdout == ""
    assert (str(path) if way == "file" else "standard input") in finished.error
    for word in words:
        assert word in finished.error


def test_show_names_a_file_that_it_cannot_read(kvmpc):
    missing = kvmpc("show", "missing.json")
    assert missing.code == 2
    assert "missing.json: cannot be read: ENOENT" in missing.error
    folder = kvmpc("show", str(kvmpc.folder))
    assert folder.code == 2
    assert "EISDIR" in folder.error


def test_show_refuses_what_is_not_text(kvmpc):
    path = kvmpc.folder / "binary.json"
    path.write_bytes(b"\x7fELF\xff\xfe")
    finished = kvmpc("show", str(path))
    assert finished.code == 2
    assert "not UTF-8" in finished.error
