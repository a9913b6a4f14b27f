"""The named baselines that a lab keeps: one file for each, with one result or several.

Owns the folder ($KVMPC_BASELINES, else kvmpc/baselines below $XDG_DATA_HOME or ~/.local/share) and
the document. A name is a file name and nothing else. Fails with UsageError (a name that is taken,
unknown or not allowed, a folder that cannot be used), ResultFileError (a document that cannot be
read) or KernelError (a write that failed).
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from kvmpc.errors import ResultFileError, UsageError, describe_errno
from kvmpc.result.document import check_version, from_document, load_document, to_json
from kvmpc.result.facts import Facts
from kvmpc.result.files import OutputFile
from kvmpc.result.records import OK, Result, Role

__all__ = ["Listed", "folder", "listed", "load_against", "remove", "save"]

SCHEMA: Final = "kvmpc-baseline"
VERSION: Final = 1

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_SUFFIX: Final = ".json"
_ALLOWED: Final = "a file in a folder of yours, which KVMPC_BASELINES can name"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A baseline in the folder; `problem` says why it cannot be used, None where it can."""

    name: str
    saved: str
    runs: int
    kernels: tuple[str, ...]
    problem: str | None


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where baselines are kept.

    Raises: UsageError where neither the environment nor the password database says.
    Source: XDG Base Directory Specification: a path that is not absolute is to be ignored.
    """
    given = environment.get("KVMPC_BASELINES")
    if given:
        return Path(given)
    data, home = (Path(environment.get(name, "")) for name in ("XDG_DATA_HOME", "HOME"))
    if not data.is_absolute():
        if not home.is_absolute():
            home = _home_of_user()
        data = home / ".local/share"
    return data / "kvmpc/baselines"


def _home_of_user() -> Path:
    try:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        home = Path()
    if not home.is_absolute():
        allowed = "a folder to keep baselines in: there is no HOME, and this user has no home"
        raise UsageError("KVMPC_BASELINES", "", allowed)
    return home


def save(name: str, results: Sequence[Result], *, force: bool = False) -> Path:
    """Keep `results` as `name`, and return the file.

    Raises: UsageError where the name is taken and not `force`, or where a result holds nothing to
    compare with; KernelError.
    """
    path = _path(name)
    for result in results:
        if not any(
            trial.role is Role.MEASURED and trial.status == OK and not trial.starved
            for trial in result.trials
        ):
            raise UsageError(
                "baseline",
                name,
                "a result with measured rounds that neither failed nor were starved",
            )
    head = {
        "schema": SCHEMA,
        "version": VERSION,
        "name": name,
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    runs = ",\n".join(to_json(result).rstrip("\n") for result in results)
    text = "{\n" + ",\n".join(lines) + f',\n"results": [\n{runs}\n]\n}}\n'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(path.parent, error) from error
    try:
        with OutputFile(str(path), "baseline", allowed=_ALLOWED, fresh=not force) as file:
            file.write(text)
    except FileExistsError as error:
        allowed = "a name that is not taken (kvmpc baseline list), or --force to replace it"
        raise UsageError("baseline", name, allowed) from error
    return path


def load_against(given: str) -> list[Result]:
    """Return the results of the baseline `given`: a name, or a file of either kind.

    A file has a slash in it or ends in ``.json``; ``-`` is standard input.

    Raises: UsageError, ResultFileError.
    """
    if given == "-" or os.sep in given or given.endswith(_SUFFIX):
        return _results(load_document(given), given)
    names = _names()
    path = _path(given)
    if given not in names:
        known = ", ".join(names) or "none is saved yet (kvmpc baseline save)"
        raise UsageError("baseline", given, f"a file, or a name that is saved: {known}")
    return _results(load_document(str(path)), str(path))


def listed() -> list[Listed]:
    """Return what is in the folder, damaged ones too, by name."""
    found = []
    for name in _names():
        path = str(_path(name))
        try:
            document = load_document(path)
            results = _results(document, path)
        except ResultFileError as error:
            found.append(Listed(name=name, saved="", runs=0, kernels=(), problem=error.reason))
            continue
        saved = document.get("saved") if isinstance(document, dict) else None
        kernels = tuple(dict.fromkeys(map(_kernel, results)))
        found.append(
            Listed(name=name, saved=str(saved or ""), runs=len(results), kernels=kernels,
                   problem=None)
        )  # fmt: skip
    return found


def remove(name: str) -> None:
    """Forget a baseline. Raises: UsageError where there is none, KernelError."""
    path = _path(name)
    try:
        path.unlink()
    except FileNotFoundError as error:
        known = ", ".join(_names()) or "none"
        raise UsageError("baseline", name, f"a name that is saved: {known}") from error
    except OSError as error:
        raise _unusable(path, error) from error


def _path(name: str) -> Path:
    if not _NAME.fullmatch(name) or name.endswith(_SUFFIX):
        raise UsageError(
            "baseline",
            name,
            "up to 100 letters, digits and . _ + -, a letter or digit first, not ending in .json",
        )
    return folder() / (name + _SUFFIX)


def _unusable(path: Path, error: OSError) -> UsageError:
    # mkdir says EEXIST of a file that is in the folder's place.
    number = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno or 0
    return UsageError("baseline", str(path), f"{_ALLOWED}: {describe_errno(number)}")


def _names() -> list[str]:
    try:
        entries = sorted(folder().iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(folder(), error) from error
    names = [path.name.removesuffix(_SUFFIX) for path in entries if path.suffix == _SUFFIX]
    return [name for name in names if _NAME.fullmatch(name)]


def _results(document: object, path: str) -> list[Result]:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return [from_document(document, path)]
    check_version(document.get("version"), path, newest=VERSION, oldest=VERSION)
    runs = document.get("results")
    if not isinstance(runs, list) or not runs:
        raise ResultFileError(path, "results: not a list of results")
    return [from_document(run, f"{path}: results[{at}]") for at, run in enumerate(runs)]


def _kernel(result: Result) -> str:
    return str(Facts(result.host).get("kernel.release") or "unknown")
