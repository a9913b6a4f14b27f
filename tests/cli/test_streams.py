"""Streams in every state that a shell, a harness or a terminal leaves them in."""

from __future__ import annotations

import fcntl
import os
import pty
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

RECORDED = Path(__file__).with_name("recorded")
BEFORE, AFTER = (str(RECORDED / name) for name in ("before.json", "after.json"))

TOLERANT = tuple(f"--limit={name}=1000%" for name in ("rate", "p99", "cpu"))
"""With these the noisy result is the same as itself."""

OUTCOMES = {
    "ok": (0, ("check", AFTER, "--against", AFTER, *TOLERANT)),
    "unsure": (5, ("check", AFTER, "--against", AFTER)),
    "red": (1, ("check", AFTER, "--against", BEFORE)),
    "usage": (2, ("check", AFTER)),
    "other usage": (2, ("show", "missing.json")),
    "help": (0, ("check", "--help")),
}


@contextmanager
def _descriptor(way: str) -> Iterator[int]:
    """Yield a descriptor that takes nothing, in one of the ways that streams have."""
    with ExitStack() as held:

        def keep(fd: int) -> int:
            held.callback(os.close, fd)
            return fd

        if way == "full":
            yield keep(os.open("/dev/full", os.O_WRONLY))
        elif way == "read-only":
            yield keep(os.open("/dev/null", os.O_RDONLY))
        elif way == "terminal hung up":
            terminal, other = pty.openpty()
            os.close(terminal)
            yield keep(other)
        else:
            reader, writer = os.pipe()
            keep(writer)
            if way == "reader left":
                os.close(reader)
            else:
                keep(reader)
                fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
                while True:
                    try:
                        os.write(writer, b"-" * 4096)
                    except BlockingIOError:
                        break
                if way == "never read":
                    fcntl.fcntl(writer, fcntl.F_SETFL, 0)
            yield writer


SILENT = (
    "full",
    "read-only",
    "terminal hung up",
    "reader left",
    "never read",
    "never read, EAGAIN",
)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("way", SILENT)
def test_the_exit_code_is_true_though_stderr_takes_nothing(kvmpc, way, outcome):
    code, arguments = OUTCOMES[outcome]
    with _descriptor(way) as fd:
        assert kvmpc(*arguments, stderr=fd).code == code


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("closed", [0, 1, 2, (0, 1, 2)])
def test_the_exit_code_is_true_though_streams_are_closed(kvmpc, closed, outcome):
    code, arguments = OUTCOMES[outcome]
    fds = closed if isinstance(closed, tuple) else (closed,)
    finished = kvmpc(*arguments, before=lambda: [os.close(fd) for fd in fds])
    assert finished.code == code


FIVE = ("compare", "none", "uffd", "--vcpus", "1", "--mem-per-vcpu", "64K", "--rounds", "5")


@pytest.mark.kvm
@pytest.mark.parametrize("way", SILENT)
def test_a_run_goes_on_though_its_progress_cannot_be_told(kvmpc, way):
    with _descriptor(way) as fd:
        finished = kvmpc.inject("eager-progress", *FIVE, stderr=fd)
    assert finished.code == 0
    assert finished.cells("uffd")[-1] == "yes"


@pytest.mark.kvm
def test_a_run_goes_on_though_the_terminal_of_its_bar_hangs_up(kvmpc):
    terminal, other = pty.openpty()
    process = kvmpc.start(*FIVE, "--json", str(kvmpc.json), stderr=other)
    os.close(other)
    kvmpc.wait_for_json(process)
    os.close(terminal)
    finished = process.finish()
    assert finished.code == 0
    assert finished.cells("uffd")[-1] == "yes"


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_needs_no_dev_null(kvmpc, with_dev, stream, outcome):
    code, arguments = OUTCOMES[outcome]
    within = [*with_dev("rm /dev/null"), "sh", "-c", f'exec "$@" {stream}', "sh"]
    assert kvmpc(*arguments, within=within).code == code


@pytest.mark.kvm
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_what_a_run_opens_does_not_take_the_place_of_a_closed_stream(kvmpc, tiny, closed):
    finished = kvmpc(
        "run", "uffd", *tiny, "--json", str(kvmpc.json),
        before=lambda: [os.close(fd) for fd in closed],
    )  # fmt: skip
    assert finished.code == 0
    assert kvmpc.result().finished  # and nothing was written into the file that was not meant


DOCUMENTS = {
    "csv": ("show", AFTER, "--format", "csv"),
    "json": ("show", AFTER, "--format", "json"),
    "ktap": ("check", AFTER, "--against", AFTER, *TOLERANT, "--format", "ktap"),
    "ktap of unsure": ("check", AFTER, "--against", AFTER, "--format", "ktap"),
    "ktap of red": ("check", AFTER, "--against", BEFORE, "--format", "ktap"),
    **({"page": ("report", AFTER, "-o", "-")} if find_spec("matplotlib") else {}),
    "probe": ("probe", "--json"),
}


LONG = [name for name in DOCUMENTS if name in ("json", "page")]


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("way", ["full", "read-only", "terminal hung up", "reader left"])
def test_a_document_that_is_not_whole_is_no_success(kvmpc, way, document):
    with _descriptor(way) as fd:
        finished = kvmpc(*DOCUMENTS[document], stdout=fd)
    assert finished.code == (3 if document == "probe" and "remedy" in finished.stderr else 4)
    assert "kvmpc: write of " in finished.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_for_a_closed_stdout_is_no_success(kvmpc, document):
    finished = kvmpc(*DOCUMENTS[document], before=lambda: os.close(1))
    assert finished.code == (3 if document == "probe" and "remedy" in finished.stderr else 4)


@pytest.mark.parametrize("document", LONG)
def test_a_disk_that_fills_up_within_a_document_is_seen(kvmpc, with_dev, document):
    within = with_dev("mkdir /dev/small && mount -t tmpfs -o size=4k tmpfs /dev/small")
    shell = 'exec "$@" >/dev/small/document'
    arguments = DOCUMENTS[document]
    if document == "json":  # of more than a page of memory
        arguments = ("show", str(RECORDED / "sweep.json"), "--format", "json")
    finished = kvmpc(
        *arguments, within=[*within, "sh", "-c", shell, "sh"], env={"PYTHONUNBUFFERED": "1"}
    )
    assert finished.code == 4
    assert "ENOSPC" in finished.error


@pytest.mark.kvm
@pytest.mark.parametrize(("kind", "code"), [("table", 0), ("ktap", 4)])
def test_only_a_document_on_stderr_has_to_arrive(kvmpc, tiny, kind, code):
    with _descriptor("full") as fd:
        finished = kvmpc("run", "none", *tiny, "--json", "-", "--format", kind, stderr=fd)
    assert finished.code == code
    assert finished.stdout.endswith("}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("document", LONG)
def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_everything(kvmpc, document, unbuffered):
    expected = kvmpc(*DOCUMENTS[document]).stdout
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = kvmpc.start(*DOCUMENTS[document], stdout=writer, env={"PYTHONUNBUFFERED": unbuffered})
    os.close(writer)
    parts: list[bytes] = []

    def read() -> None:
        while part := os.read(reader, 1000):
            parts.append(part)

    thread = threading.Thread(target=read)
    thread.start()
    finished = process.finish()
    thread.join()
    os.close(reader)
    assert finished.code == 0
    assert b"".join(parts).decode() == expected


def test_a_shell_gets_its_completion(kvmpc):
    finished = kvmpc(env={"_KVMPC_COMPLETE": "bash_source"})
    assert finished.code == 0
    assert "_kvmpc_completion()" in finished.stdout
    assert kvmpc("probe", env={"_KVMPC_COMPLETE": "nonsense"}).code == 2
