"""Where a result is written: no failure loses the last document, and no output path surprises."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmpc.errors import KernelError, ResultFileError, UsageError
from kvmpc.result.document import from_json, load, salvage, trial_json
from kvmpc.result.records import Result
from kvmpc.result.writer import ResultWriter

Make = Callable[..., Any]


@pytest.fixture
def result(make_result: Make, make_trial: Make) -> Result:
    trials = [make_trial("uffd"), make_trial("exit", 2)]
    made: Result = make_result(*trials, command=("kvmpc", "odd\udc80name"))
    return made


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_writer_leaves_an_existing_file_alone_until_its_first_write(
    result: Result, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    path.write_text("precious")
    writer = ResultWriter(str(path))
    assert path.read_text() == "precious"
    writer.begin(result)
    assert load(str(path)) == result
    assert _names(tmp_path) == {"r.json"}


def test_checking_a_new_path_creates_nothing(tmp_path: Path) -> None:
    ResultWriter(str(tmp_path / "r.json"))
    assert _names(tmp_path) == set()


def test_each_write_and_the_finish_replace_the_document(
    result: Result, make_result: Make, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    writer = ResultWriter(str(path))
    writer.begin(make_result(finished=False))
    assert not load(str(path)).finished
    writer.finish(result)
    assert load(str(path)) == result


def test_a_new_file_has_the_mode_the_umask_gives_and_an_old_one_keeps_its_own(
    result: Result, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.touch()
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        ResultWriter(str(old)).begin(result)
        ResultWriter(str(new)).begin(result)
    finally:
        os.umask(before)
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode & 0o777 == 0o640


def test_a_symlink_stays_and_its_target_is_written(result: Result, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to("there/r.json")
    ResultWriter(str(link)).begin(result)
    assert link.is_symlink()
    assert load(str(tmp_path / "there/r.json")) == result


def test_a_writer_keeps_its_file_when_the_working_directory_changes(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    writer = ResultWriter("r.json")
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.begin(result)
    assert load(str(tmp_path / "r.json")) == result


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere/r.json", "ENOENT"),
        (".", "EISDIR"),
        ("file.txt/r.json", "ENOTDIR"),
        ("new/", "EISDIR"),
        ("loop", "ELOOP"),
        ("n" * 256, "ENAMETOOLONG"),
    ],
)
def test_a_path_that_cannot_be_written_is_found_at_once(
    tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = _names(tmp_path)
    with pytest.raises(UsageError, match=reason) as caught:
        ResultWriter(f"{tmp_path}/{name}")
    assert caught.value.option == "--json"
    assert _names(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_or_file_without_permission_is_found_at_once(tmp_path: Path) -> None:
    protected = tmp_path / "protected.json"
    protected.touch(mode=0o444)
    with pytest.raises(UsageError, match="EACCES"):
        ResultWriter(str(protected))
    tmp_path.chmod(0o555)
    with pytest.raises(UsageError, match="EACCES"):
        ResultWriter(str(tmp_path / "r.json"))
    tmp_path.chmod(0o755)


def test_a_file_system_that_takes_no_files_is_found_at_once() -> None:
    with pytest.raises(UsageError, match="--json"):
        ResultWriter("/proc/kvmpc.json")


def test_a_failed_beginning_keeps_the_last_document_and_leaves_nothing(
    result: Result,
    make_result: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "r.json"
    writer = ResultWriter(str(path))
    writer.begin(result)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KernelError, match=r"write of .*r\.json: ENOSPC") as caught:
        writer.begin(make_result())
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert load(str(path)) == result
    assert _names(tmp_path) == {"r.json"}


def test_an_interrupted_beginning_keeps_the_last_document_and_leaves_nothing(
    result: Result, make_result: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    writer = ResultWriter(str(path))
    writer.begin(result)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        writer.begin(make_result())
    monkeypatch.undo()
    assert load(str(path)) == result
    assert _names(tmp_path) == {"r.json"}


def test_standard_output_gets_one_document_at_the_end(
    result: Result, make_result: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    writer = ResultWriter("-")
    writer.begin(make_result(finished=False))
    assert capfd.readouterr().out == ""
    writer.finish(result)
    assert from_json(capfd.readouterr().out, "-") == result


def test_a_fifo_gets_one_document_at_the_end(
    result: Result, make_result: Make, tmp_path: Path
) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        writer = ResultWriter(str(path))
        writer.begin(make_result(finished=False))
        with pytest.raises(BlockingIOError):  # somebody writes, and has nothing to say yet
            os.read(reader, 1)
        writer.finish(result)
        assert from_json(os.read(reader, 1 << 20).decode(), "fifo") == result
    finally:
        os.close(reader)


def test_a_file_that_stdout_goes_to_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    program = (
        "from kvmpc.result.writer import ResultWriter\n"
        "from kvmpc.result.records import Result\n"
        "print('table', flush=True)\n"
        "ResultWriter('/dev/stdout').finish(Result(tool_version='0', command=(), started='',"
        " finished=True, options={}, pagers=(), labels=(), host={}, trials=(), warnings=()))\n"
        "print('more')\n"
    )
    with path.open("w") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, check=True)
    first, *document, last = path.read_text().splitlines()
    assert (first, last) == ("table", "more")
    assert from_json("\n".join(document), "out").finished


def test_a_full_device_is_named() -> None:
    writer = ResultWriter("/dev/full")
    with pytest.raises(KernelError, match="write of /dev/full: ENOSPC"):
        writer.finish(
            Result(
                tool_version="0",
                command=(),
                started="",
                finished=True,
                options={},
                pagers=(),
                labels=(),
                host={},
                trials=(),
                warnings=(),
            )
        )


def _grow(writer: ResultWriter, trials: list[Any], make_result: Make, **changes: Any) -> Result:
    """Write the trials one by one; return the last result."""
    result: Result = make_result(finished=False, **changes)
    writer.begin(result)
    for trial in trials:
        result = replace(result, trials=(*result.trials, trial))
        writer.append(result)
    return result


@pytest.fixture
def trials(make_trial: Make) -> list[Any]:
    return [make_trial("uffd", number) for number in range(1, 8)]


def test_a_file_that_grows_is_a_whole_document_after_every_trial(
    trials: list[Any], make_result: Make, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    result: Result = make_result(finished=False)
    with ResultWriter(str(path)) as writer:
        writer.begin(result)
        for trial in trials:
            result = replace(result, trials=(*result.trials, trial))
            writer.append(result)
            assert load(str(path)) == result
        writer.finish(replace(result, finished=True))
    assert load(str(path)) == replace(result, finished=True)
    assert _names(tmp_path) == {"r.json"}


def test_a_disk_that_fills_leaves_what_was_written_before(
    trials: list[Any], make_result: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    with ResultWriter(str(path)) as writer:
        result = _grow(writer, trials[:3], make_result)
        pwrite, calls = os.pwrite, iter(range(10))

        def fill(fd: int, data: Any, offset: int) -> int:
            call = next(calls)
            if call == 1:  # a part was written, and then there is no more room
                raise OSError(errno.ENOSPC, "full")
            return pwrite(fd, bytes(data)[:200], offset)

        monkeypatch.setattr(os, "pwrite", fill)
        with pytest.raises(KernelError, match="ENOSPC"):
            writer.append(replace(result, trials=(*result.trials, trials[3])))
        monkeypatch.undo()
        assert load(str(path)) == result


def test_every_cut_of_a_file_salvages_all_trials_that_are_whole(
    trials: list[Any], make_result: Make, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    with ResultWriter(str(path)) as writer:
        result = _grow(writer, trials, make_result)
    text = path.read_text()
    ends = [text.index(trial_json(trial)) + len(trial_json(trial)) for trial in trials]
    for cut in (*ends, ends[2] - 1, ends[2] + 1, len(text) - 3, ends[0] - 50):
        found = salvage(text[:cut], "r.json")
        assert found == replace(result, trials=result.trials[: sum(end <= cut for end in ends)])
    with pytest.raises(ResultFileError, match="before its first trial"):
        salvage(text[:100], "r.json")


def test_a_file_that_another_kvmpc_writes_to_is_refused(
    trials: list[Any], make_result: Make, tmp_path: Path
) -> None:
    path = str(tmp_path / "r.json")
    with ResultWriter(path) as writer:
        early = ResultWriter(path)  # before there is a file
        _grow(writer, trials[:1], make_result)
        with pytest.raises(UsageError, match="no other kvmpc"):
            ResultWriter(path)
        with pytest.raises(UsageError, match="no other kvmpc"):
            early.begin(make_result())
    with ResultWriter(path) as writer:
        writer.begin(make_result())
    assert _names(tmp_path) == {"r.json"}


def test_a_file_whose_folder_was_removed_meanwhile_is_not_said_to_be_written(
    result: Result, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with ResultWriter(str(folder / "r.json")) as writer:
        writer.begin(result)
        shutil.rmtree(folder)
        with pytest.raises(KernelError, match=r"ENOENT .*; it was removed or replaced meanwhile"):
            writer.finish(result)


def test_a_file_that_was_moved_away_meanwhile_is_written_anew(
    result: Result, make_result: Make, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    with ResultWriter(str(path)) as writer:
        writer.begin(make_result(finished=False))
        path.rename(tmp_path / "moved.json")
        writer.finish(result)
    assert load(str(path)) == result
    assert not load(str(tmp_path / "moved.json")).finished


def test_a_write_that_is_short_goes_on(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    for call in ("write", "pwrite"):
        whole = getattr(os, call)
        monkeypatch.setattr(
            os, call, lambda fd, data, *at, whole=whole: whole(fd, bytes(data)[:100], *at)
        )
    with ResultWriter(str(path)) as writer:
        _grow(writer, list(result.trials), lambda **changes: replace(result, trials=(), **changes))
    assert load(str(path)).trials == result.trials
