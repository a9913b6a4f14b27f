"""Every file that kvmpc writes, where the file system or the folder allows less than others do."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from kvmpc.result.document import load
from tests.fakes.refusing import refusing

RECORDED = Path(__file__).with_name("recorded") / "before.json"

RENAMES = ("rename", "renameat", "renameat2")
EXCLUSIVE = "openat:2&0x80"  # O_EXCL

# More vCPUs than any KVM allows: had the host been asked first, the exit code would be 3.
IMPOSSIBLE = ("--vcpus", "1000000", "--mem-per-vcpu", "64K")

NOT_THERE = [
    (errno.EPERM, ("link", "linkat")),
    (errno.ENOSYS, ("link", "linkat", "fsync", "flock", "fchmod")),
    (errno.EBUSY, RENAMES),
    (errno.EXDEV, RENAMES),
    (errno.EINVAL, ("fsync",)),
    (errno.EROFS, ("fsync",)),
    (errno.EPERM, ("fchmod",)),
    (errno.ENOLCK, ("flock",)),
]
"""What file systems and sandboxes do without, and what they answer then."""

needs_report = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs kvmpc[report]")


@pytest.fixture
def writers(kvmpc, tiny, monkeypatch) -> dict[str, tuple[Path, Sequence[str]]]:
    """Return each command that writes a file, by name, with the file."""
    store = kvmpc.folder / "kept"
    monkeypatch.setenv("KVMPC_BASELINES", str(store))
    page = kvmpc.folder / "page.html"
    return {
        "run": (kvmpc.json, ("run", "none", *tiny, "--json", str(kvmpc.json))),
        "report": (page, ("report", str(RECORDED), "-o", str(page))),
        "save": (store / "lab1.json", ("baseline", "save", "lab1", str(RECORDED))),
    }


def _check(command: str, path: Path) -> None:
    """Fail where `path` is not what `command` writes, or anything is left beside it."""
    text = path.read_text()
    if command == "run":
        assert load(str(path)).finished
    elif command == "save":
        assert json.loads(text)["name"] == "lab1"
    else:
        assert text.rstrip().endswith("</html>")
    assert [entry.name for entry in path.parent.iterdir() if entry.is_file()] == [path.name]


@pytest.mark.kvm
@pytest.mark.parametrize(("number", "calls"), NOT_THERE)
@pytest.mark.parametrize("before", [None, "something older"], ids=["new", "old"])
@pytest.mark.parametrize("command", ["run", "save"])
def test_a_file_is_written_without_what_the_file_system_lacks(
    kvmpc, writers, command, before, number, calls
):
    path, arguments = writers[command]
    if before is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(before * 10_000)  # longer than what comes
        arguments = [*arguments, *["--force"] * (command == "save")]
    finished = kvmpc(*arguments, within=refusing(number, *calls))
    assert (finished.code, finished.error) == (0, "")
    _check(command, path)


@needs_report
def test_a_page_is_written_where_nothing_can_be_renamed(kvmpc, writers):
    path, arguments = writers["report"]
    finished = kvmpc(*arguments, within=refusing(errno.EBUSY, *RENAMES))
    assert finished.code == 0
    _check("report", path)


@pytest.mark.kvm
@pytest.mark.parametrize("command", ["run", pytest.param("report", marks=needs_report), "save"])
def test_a_file_in_a_folder_that_takes_no_new_ones_is_written(
    kvmpc, writers, without_capabilities, command
):
    path, arguments = writers[command]
    path.parent.mkdir(exist_ok=True)
    path.write_text("something older")
    path.parent.chmod(0o555)
    arguments = [*arguments, *["--force"] * (command == "save")]
    finished = kvmpc(*arguments, within=without_capabilities)
    assert finished.code == 0, finished.error
    _check(command, path)


@pytest.mark.kvm
def test_a_file_that_is_a_mount_is_written(kvmpc, tiny, within_mounts):
    kvmpc.json.write_text("something older")
    behind = kvmpc.folder / "behind"
    behind.touch()
    within = within_mounts(f"mount --bind {behind} {kvmpc.json}")
    finished = kvmpc("run", "none", *tiny, "--json", str(kvmpc.json), within=within)
    assert (finished.code, finished.error) == (0, "")
    assert load(str(behind)).finished
    assert kvmpc.json.read_text() == "something older"


@pytest.fixture(scope="session")
def within_mounts() -> Callable[[str], list[str]]:
    """Return a command that runs its arguments after shell, in a mount namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")

    def within(script: str) -> list[str]:
        return [
            "unshare", "--mount", "--propagation", "private",
            "sh", "-c", f'{{ {script}; }} || exit 99\nexec "$@"', "sh",
        ]  # fmt: skip

    return within


@pytest.mark.kvm
@pytest.mark.parametrize("before", [None, "something older"], ids=["new", "old"])
@pytest.mark.parametrize(
    "within",
    [
        refusing(errno.ENOSPC, "fsync"),
        refusing(errno.EIO, "fsync"),
        refusing(errno.EDQUOT, "pwrite64", "write:0&0xfc"),  # not the standard streams
        ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh"],  # SIGXFSZ, too
    ],
    ids=["ENOSPC", "EIO", "EDQUOT", "EFBIG"],
)
def test_after_a_write_that_failed_there_is_what_was_there(kvmpc, tiny, within, before):
    if before is not None:
        kvmpc.json.write_text(before)
    finished = kvmpc("run", "none", *tiny, "--json", str(kvmpc.json), within=within)
    assert finished.code == 4
    assert f"kvmpc: write of {kvmpc.json}: E" in finished.error
    left = "no file was made" if before is None else "it holds what it held before"
    assert finished.error.endswith(left)
    if before is None:
        assert list(kvmpc.folder.iterdir()) == []
    else:
        assert kvmpc.json.read_text() == before
        assert list(kvmpc.folder.iterdir()) == [kvmpc.json]


@pytest.mark.kvm
def test_a_full_disk_with_the_file_as_its_mount_keeps_it_whole(kvmpc, tiny, within_mounts):
    within = within_mounts(
        "mount -t tmpfs -o size=4k tmpfs /mnt && echo older >/mnt/r.json && touch here "
        "&& mount --bind /mnt/r.json here"
    )
    finished = kvmpc(
        "run", "none", *tiny, "--json", "here",
        within=[*within, "sh", "-c", '"$@"; code=$?; cat here; exit $code', "sh"],
    )  # fmt: skip
    assert finished.code == 4
    assert "write of here: ENOSPC" in finished.error
    assert "it holds what it held before" in finished.error
    assert finished.stdout == "older\n"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOSPC])
def test_a_file_that_cannot_be_made_is_found_before_the_host_is_asked(kvmpc, number):
    finished = kvmpc(
        "run", "none", *IMPOSSIBLE, "--json", "new.json", within=refusing(number, EXCLUSIVE)
    )
    assert finished.code == 2
    assert "--json: 'new.json' is not possible" in finished.error
    assert errno.errorcode[number] in finished.error


def test_a_fifo_that_nobody_reads_is_found_before_the_host_is_asked(kvmpc):
    os.mkfifo(kvmpc.folder / "fifo")
    finished = kvmpc("run", "none", *IMPOSSIBLE, "--json", "fifo")
    assert finished.code == 2
    assert "of a FIFO, one that somebody reads: ENXIO" in finished.error


@pytest.mark.kvm
def test_a_fifo_may_be_opened_by_its_reader_last(kvmpc, tiny):
    os.mkfifo(kvmpc.folder / "fifo")
    process = kvmpc.start("run", "none", *tiny, "--json", "fifo")
    reader = subprocess.run(
        ["cat", kvmpc.folder / "fifo"], capture_output=True, text=True, timeout=60, check=True
    )
    assert process.finish().code == 0
    assert json.loads(reader.stdout)["finished"]


@pytest.mark.kvm
def test_a_file_without_a_name_gets_the_document(kvmpc, tiny):
    with open(kvmpc.folder / "gone", "w+") as file:
        os.unlink(file.name)
        command = [*kvmpc.command, "run", "none", *tiny, "--json", f"/dev/fd/{file.fileno()}"]
        done = subprocess.run(
            command, pass_fds=[file.fileno()], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.load(file)["finished"]
    assert list(kvmpc.folder.iterdir()) == []


@pytest.mark.kvm
def test_a_name_may_be_as_long_as_the_file_system_allows(kvmpc, tiny):
    assert kvmpc("run", "none", *tiny, "--json", "n" * 255).code == 0
    longer = kvmpc("run", "none", *IMPOSSIBLE, "--json", "n" * 256)
    assert longer.code == 2
    assert "ENAMETOOLONG" in longer.error


@pytest.mark.kvm
def test_a_path_may_be_as_long_as_the_kernel_allows(kvmpc, tiny):
    """The temporary file's name is longer than the file's."""
    folder = str(kvmpc.folder)
    longest = os.pathconf("/", "PC_PATH_MAX") - 1
    while longest - len(folder) > 110:
        folder += "/" + "d" * 99
    folder += "/" + "d" * (longest - len(folder) - len("//r"))
    os.makedirs(folder)
    path = folder + "/r"
    finished = kvmpc("run", "none", *tiny, "--json", path)
    assert (finished.code, finished.error) == (0, "")
    assert load(path).finished
