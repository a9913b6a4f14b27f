"""kvmpc given what nobody would give it: ``fuzz.py --seed N --cases N [--kind KIND]...``.

Each case is a kvmpc of its own (a fork, so that thousands take seconds), which measures nothing:
whatever would is also given an output path that cannot be. Prints each finding with all it takes to
have it again: a traceback, an exit code that is not one of ours, 1 or 5 but of ``check``, no
word of what is wrong, a hang. Exits with 1 where there are any.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import importlib
import json
import os
import random
import re
import resource
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("recorded")
SPECS = Path(__file__).resolve().parents[2] / "bench"

NOWHERE = "nowhere/out"
"""An output path that cannot be: it is refused once all else was read."""

HANG_S = 60

_PIPE_BYTES = 1 << 20
"""All that a case may say; one that says more hangs."""

EXIT_CODES = (0, 2, 3, 4, 130)

FORMATS = ("table", "markdown", "mail", "csv", "json", "ktap")


@dataclass
class Case:
    """One kvmpc: what is typed, what is in its folder, and what surrounds it."""

    words: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    env: Mapping[str, str | None] = field(default_factory=dict)
    closed: tuple[int, ...] = ()
    limits: Mapping[int, int] = field(default_factory=dict)
    gone: bool = False  # the working directory

    def told(self) -> str:
        """Return it for a person."""
        surrounds = {
            "env": self.env, "closed": self.closed, "limits": self.limits, "gone": self.gone,
        }  # fmt: skip
        changed = " ".join(f"{name}={value}" for name, value in surrounds.items() if value)
        return f"kvmpc {shlex.join(self.words)} {changed}".rstrip()


# --- what is odd ---

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 7, 160, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63),
    10**30, 10**400, 0.0, -0.0, 0.5, 1e-300, 5e-324, 1e-18, 1e18, 1e300, 1.7e308, -1e300,
    1e15 + 0.5, float("nan"), float("inf"), -float("inf"),
)  # fmt: skip

PASSING = (0, 1, -1, 2, 7, 160, 10**6, 2**31, 2**53 + 1, 2**63, 2**64 - 1, 0.5, 1e-18, 1e18, -1e18)

TEXTS = (
    "", " ", "-", "--", "0", "1", "-1", "none", "uffd", "exit", "\x00", "a\x00b", "a\nb", "\x1b[2J",
    "\ud800", "\udcff", "\u202e", "ä" * 50, "x" * 5000, "%s", "{}", "../..", "/", "1e999", "1-",
    "9" * 30, "9" * 5000, "0x10", "1_000", "\u0661", "²", "64K", "1ns", "<script>", "|", ",", "=",
    "uffd,readers=99999999999", "0-99999999999",
    "none,host=", "exit,provider=x", "ok", "failed", "true",
    "2020-13-01",
)  # fmt: skip


def odd_value(draw: random.Random, deep: int = 0) -> Any:
    """Return a JSON value that does not belong anywhere."""
    kinds: list[Callable[[], Any]] = [
        lambda: draw.choice(NUMBERS),
        lambda: draw.choice(TEXTS),
        lambda: draw.choice((None, True, False, [], {}, [[]], [{}])),
    ]
    if deep < 3:
        kinds += [
            lambda: [odd_value(draw, deep + 1) for _ in range(draw.randrange(4))],
            lambda: {draw.choice(TEXTS): odd_value(draw, deep + 1) for _ in range(3)},
            lambda: _nested(draw.choice((5, 30, 500, 5000))),
        ]
    return draw.choice(kinds)()


def _nested(levels: int) -> str:
    """Return what `_dumps` spells as so many lists: Python 3.12's json makes no 5000 itself."""
    return f"<{levels} lists>"


# --- results ---


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return (holder, key) of everything inside a JSON value."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        holder = todo.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            found += [(holder, key) for key in keys]
            todo += [holder[key] for key in keys]
    return found


def _by_name(places: list[tuple[Any, Any]]) -> dict[str, list[tuple[Any, Any]]]:
    named: dict[str, list[tuple[Any, Any]]] = {}
    for holder, key in places:
        name = key if isinstance(key, str) else f"[{type(holder[key]).__name__}]"
        named.setdefault(name, []).append((holder, key))
    return named


def mutated(draw: random.Random, document: Any) -> bytes:
    """Return the text of a result in which something was changed, or its text damaged."""
    document = copy.deepcopy(document)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        # By name first: there are a thousand numbers in a list for each name of a field.
        named = _by_name(_places(document))
        places = named[draw.choice(sorted(named))]
        everywhere = draw.random() < 0.3
        change = draw.choice((_replace, _replace, _replace, _scale, _remove, _double, _rename))
        state = draw.getrandbits(64)
        for holder, key in places if everywhere else [draw.choice(places)]:
            with suppress(KeyError, IndexError):  # an earlier change took it away
                change(random.Random(state), holder, key)
    text = _dumps(document)
    if draw.random() < 0.1:
        text = _damaged(draw, text)
    return text


def _dumps(document: Any) -> bytes:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        text = json.dumps(document)
    finally:
        sys.set_int_max_str_digits(limit)
    lists = re.compile('"<([0-9]+) lists>"')
    return lists.sub(lambda found: "[" * int(found[1]) + "]" * int(found[1]), text).encode()


def _replace(draw: random.Random, holder: Any, key: Any) -> None:
    old = holder[key]
    if type(old) in (int, float) and draw.random() < 0.9:
        # Mostly such as the reader lets pass, so that what stands behind it is met, too.
        number = draw.choice(NUMBERS if draw.random() < 0.2 else PASSING)
        holder[key] = type(old)(number) if abs(number) < 1e300 else number
    elif isinstance(old, str) and draw.random() < 0.8:
        holder[key] = draw.choice(TEXTS)
    else:
        holder[key] = odd_value(draw)


def _scale(draw: random.Random, holder: Any, key: Any) -> None:
    if type(holder[key]) in (int, float):
        by = draw.choice((-1, 0, 2, 1000, 10**6, 10**12))
        holder[key] = type(holder[key])(holder[key] * by)


def _remove(draw: random.Random, holder: Any, key: Any) -> None:
    del draw
    del holder[key]


def _double(draw: random.Random, holder: Any, key: Any) -> None:
    if isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    elif isinstance(holder[key], list):
        holder[key] = holder[key] * draw.choice((0, 2, 50))


def _rename(draw: random.Random, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[draw.choice(TEXTS)] = holder.pop(key)


def _damaged(draw: random.Random, text: bytes) -> bytes:
    at = draw.randrange(len(text))
    return draw.choice(
        (
            text[:at],
            text[:at] + bytes([draw.randrange(256)]) + text[at + 1 :],
            text[:at] + text[at + draw.randrange(200) :],
            b"\xef\xbb\xbf" + text,
            text + text,
            text.decode().encode("utf-16"),
        )
    )


def result_case(draw: random.Random) -> Case:
    """Return a command that reads a mutated result."""
    name = draw.choice(sorted(path.name for path in RECORDED.glob("*.json")))
    sound = (RECORDED / name).read_bytes()
    odd = mutated(draw, json.loads(sound))
    files = {"odd.json": odd, "sound.json": sound}
    env = {"KVMPC_BASELINES": "kept"}
    kind = draw.choice(FORMATS)
    choices: list[list[str]] = [
        *[["show", "odd.json", "--format", each] for each in (*FORMATS, kind)],
        ["report", "odd.json", "-o", "page.html"],
        ["report", "sound.json", "odd.json", "-o", "page.html"],
        ["check", "odd.json", "--against", "sound.json", "--format", kind],
        ["check", "sound.json", "--against", "odd.json", "--format", kind],
        ["check", "odd.json", "--against", "odd.json", "--normalise"],
        ["check", "odd.json", "odd.json", "--against", "sound.json", "sound.json"],
        ["baseline", "save", "lab1", "odd.json"],
        ["baseline", "list"],
    ]
    words = draw.choice(choices)
    if words[:2] == ["baseline", "list"]:
        files = {"kept/odd.json": odd, "kept/sound.json": sound}
    return Case(words, files, env)


# --- specs ---

KEYS = (
    "vcpus", "mem_per_vcpu", "touch_pages", "order", "access", "overlap", "fetch_delay", "passes",
    "timeline", "split", "verify", "seed", "pin", "cpus", "reader_cpus", "numa", "cpu_latency",
    "rounds", "warmup", "watchdog", "profile", "busy_limit", "question", "pagers", "grid",
)  # fmt: skip

VALUES = (
    "0", "1", "-1", "1.5", "nan", "inf", "1e400", "1e300", "9" * 25, "9" * 5000, "true", '"true"',
    '""', '"x"', '"1-160:x2"', '"1-999999999"', '"0-99999999999"', '"64K"', '"9999999T"', '"200us"',
    '"99999999999999999999s"', "[]", "[1, 2]", '["1-9", 3]', "[[1]]", "{}", "{a = 1}", "2020-01-01",
    "1979-05-27T07:32:00Z", "07:32:00", '"uffd exit"', '["uffd", "uffd"]', '["none,host=cold"]',
    '["uffd,readers=1-100000:1"]', '"uffd,readers=0"', '"uffd,readers=9999999999"', '"local"',
    '"node=0"', '"node=99"', '"\\u0000"', '"\\n"', '"sequential"', '"scattered"', '"read"',
    '"write"', '"page"', "0x7fffffffffffffff", '"0"', '"1,1"', '"node=' + "9" * 30 + '"',
    "[" * 2000 + "]" * 2000,
)  # fmt: skip


def spec_case(draw: random.Random) -> Case:
    """Return a sweep of an odd spec."""
    if draw.random() < 0.3:
        text = draw.choice(sorted(SPECS.glob("*.toml"))).read_bytes()
        text = _damaged(draw, text)
    else:
        lines = [
            f"{draw.choice(KEYS)} = {draw.choice(VALUES)}" for _ in range(draw.randrange(1, 5))
        ]
        if draw.random() < 0.3:
            lines.insert(
                draw.randrange(len(lines)), draw.choice(("[[grid]]", "[grid]", "[grid.x]"))
            )
        text = "\n".join(lines).encode()
    words = ["sweep", "odd.toml", "--json", NOWHERE]
    for _ in range(draw.choice((0, 0, 1, 2))):
        words += ["--set", f"{draw.choice(KEYS)}={draw.choice(VALUES)}".replace("\x00", "")]
    return Case(words, {"odd.toml": text})


# --- command lines ---

OPTIONS = {
    **{f"--{key.replace('_', '-')}": True for key in KEYS[:21] if key not in ("question",)},
    **dict.fromkeys(("--overlap", "--timeline", "--split", "--pin", "--profile"), False),
    "--format": True, "--json": True, "--yes": False, "--limit": True, "--alpha": True,
    "--allow-host": True, "--allow-missing": True, "--against": True, "--normalise": False,
    "--force": False, "--shape": True, "--output": True, "--set": True, "--resume": False,
    "--help": False, "-h": False,
}  # fmt: skip

ARGUMENTS = (
    *(text for text in TEXTS if "\x00" not in text and "\ud800" not in text),
    *(str(number) for number in NUMBERS if number != 10**400),
    "uffd", "exit", "none,host=populated", "uffd,readers=1-4", "uffd,wait=read",
    "uffd,wait=adaptive,spin=1us", "uffd,drain=1-4", "uffd,spin=1e99s", "sound.json",
    "rate=3%", "p99=off",
    "rate=nan%", "cpu=1e400%", "rate=-5%", "0.5", "p99=2", "1e-400", "200us", "1.5ms", "4M", "0-3",
    "1-9:x2", "0-4000000000", "node=0", "local", "interleave", "read", "scattered",
    "kernel.release",
)  # fmt: skip

COMMANDS = (
    ["run"], ["compare"], ["sweep"], ["show"], ["report"], ["check"], ["baseline"],
    ["baseline", "save"], ["baseline", "list"], ["baseline", "remove"], [],
)  # fmt: skip


def line_case(draw: random.Random) -> Case:
    """Return a command line of odd words."""
    words = list(draw.choice(COMMANDS))
    for _ in range(draw.choice((0, 1, 2, 3, 5))):
        if draw.random() < 0.6:
            option = draw.choice(sorted(OPTIONS))
            words += [option, draw.choice(ARGUMENTS)] if OPTIONS[option] else [option]
        else:
            words.append(draw.choice(ARGUMENTS))
    if words[:1] in (["run"], ["compare"], ["sweep"]):
        words += ["--json", NOWHERE]  # the last one counts
    sound = (RECORDED / "sweep.json").read_bytes()
    return Case(words, {"sound.json": sound}, {"KVMPC_BASELINES": "kept"})


# --- surroundings ---

VARIABLES = (
    "HOME", "XDG_DATA_HOME", "KVMPC_BASELINES", "TMPDIR", "MPLCONFIGDIR", "MPLBACKEND", "COLUMNS",
    "LINES", "TERM", "LANG", "LC_ALL", "TZ", "PATH", "USER", "SOURCE_DATE_EPOCH", "MATPLOTLIBRC",
    "NO_COLOR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
)  # fmt: skip


def surrounded_case(draw: random.Random) -> Case:
    """Return a sound command in an odd place."""
    given = [text for text in TEXTS if "\x00" not in text and "\ud800" not in text]
    words = draw.choice(
        (
            ["show", "sound.json"], ["check", "sound.json", "--against", "sound.json"],
            ["report", "sound.json", "-o", "page.html"], ["baseline", "list"],
            ["baseline", "save", "lab1", "sound.json"], ["baseline", "remove", "lab1"],
            ["show", "-"], ["report", "sound.json", "-o", "-"], ["--help"], ["sweep", "--help"],
            ["run", "none", "--json", NOWHERE],
        )
    )  # fmt: skip
    sound = (RECORDED / draw.choice(("sweep.json", "split.json"))).read_bytes()
    env: dict[str, str | None] = {"KVMPC_BASELINES": "kept"}
    for _ in range(draw.choice((0, 1, 2))):
        env[draw.choice(VARIABLES)] = draw.choice((None, *given, "/proc", "/nowhere", "/dev/null"))
    limits = {}
    if draw.random() < 0.4:
        name, values = draw.choice(
            (
                (resource.RLIMIT_FSIZE, (0, 1, 4096, 20_000)),
                (resource.RLIMIT_NOFILE, (3, 4, 5, 6, 8, 20)),
                (resource.RLIMIT_STACK, (65536, 1 << 20)),
                (resource.RLIMIT_CORE, (0,)),
                (resource.RLIMIT_NPROC, (0, 1)),
            )
        )
        limits = {name: draw.choice(values)}
    return Case(
        words,
        {"sound.json": sound},
        env,
        closed=draw.choice(((), (), (0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2))),
        limits=limits,
        gone=draw.random() < 0.2,
    )


@dataclass(frozen=True)
class Kind:
    """A kind of cases, and what may be loaded once for all of them."""

    make: Callable[[random.Random], Case]
    loaded: tuple[str, ...]


_READ = ("kvmpc.judge.reading", "kvmpc.judge.regression", "kvmpc.show.formats")
_PLAN = ("kvmpc.run.campaign", "kvmpc.run.sweep", "kvmpc.show.check_table")

KINDS: Mapping[str, Kind] = {
    "surrounded": Kind(surrounded_case, (*_READ, *_PLAN)),  # what draws reads the environment
    "result": Kind(result_case, (*_READ, "kvmpc.show.page.page")),
    "spec": Kind(spec_case, _PLAN),
    "line": Kind(line_case, _PLAN),
}


# --- how it is run ---


def run(case: Case, folder: Path) -> str | None:
    """Run a case in `folder`; return what is wrong with how it ended, None where nothing is."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    # Not files, which a limit of their size would cut.
    pipes = [os.pipe() for _ in range(2)]
    for _, writer in pipes:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    pid = os.fork()
    if pid == 0:
        _become(case, folder, *(writer for _, writer in pipes))
    said = []
    _, status = os.waitpid(pid, 0)
    for reader, writer in pipes:
        os.close(writer)
        with open(reader, errors="replace") as stream:
            said.append(stream.read())
    return _judged(case, status, *said)


def _become(case: Case, folder: Path, out: int, err: int) -> None:
    """Run kvmpc in this process, which ends with it."""
    code = 99
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(HANG_S)
        os.chdir(folder)
        if case.gone:
            os.mkdir("gone")
            os.chdir("gone")
            os.rmdir("../gone")
        for name, value in case.env.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        stdin = os.open(os.devnull, os.O_RDONLY)
        for number, fd in enumerate((stdin, out, err)):
            os.dup2(fd, number)
        os.closerange(3, 256)
        for number in case.closed:
            os.close(number)
        _reopen(case.closed)
        from kvmpc.cli import main

        for name, value in case.limits.items():
            resource.setrlimit(name, (value, value))
        sys.argv = ["kvmpc", *case.words]
        try:
            code = main()
        except SystemExit as error:  # as the console script lets it pass
            code = error.code if isinstance(error.code, int) else 1 if error.code else 0
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException as error:  # noqa: BLE001 - what `main` lets pass, Python would tell
        os.write(2, f"Traceback: {error!r}".encode())
    finally:
        os._exit(code)


def _reopen(closed: tuple[int, ...]) -> None:
    """Give this process the streams that Python makes as it starts."""
    modes = ((0, "r", "stdin"), (1, "w", "stdout"), (2, "w", "stderr"))
    for number, mode, name in modes:
        stream = None
        if number not in closed:
            errors = "backslashreplace" if number == 2 else "surrogateescape"
            stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def _judged(case: Case, status: int, out: str, err: str) -> str | None:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "a hang" if number == signal.SIGALRM else f"killed by {signal.Signals(number).name}"
    code = os.WEXITSTATUS(status)
    if "Traceback" in err:
        return "a traceback: " + err[-2000:]
    if code not in EXIT_CODES and not (code in (1, 5) and case.words[:1] == ["check"]):
        return f"exit code {code}: {err[-500:]}"
    if code in (2, 3, 4) and not err.strip() and not out.strip() and 2 not in case.closed:
        return f"exit code {code} without a word"
    return None


def findings(seed: int, cases: int, kind: str) -> Iterator[str]:
    """Run `cases` cases of a kind; yield what is found."""
    for number in range(cases):
        case = KINDS[kind].make(random.Random(f"{seed}.{kind}.{number}"))
        with tempfile.TemporaryDirectory() as folder:
            wrong = run(case, Path(folder))
        if wrong is not None:
            yield f"[{seed}.{kind}.{number}] {case.told()}\n{wrong}"


def main() -> int:
    """Look, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=100, help="of each kind")
    parser.add_argument("--kind", action="append", choices=KINDS)
    given = parser.parse_args()
    count = 0
    for kind in given.kind or KINDS:
        for module in KINDS[kind].loaded:  # once, before the forks
            with suppress(ImportError):
                importlib.import_module(module)
        for found in findings(given.seed, given.cases, kind):
            count += 1
            print(found, end="\n\n", flush=True)
    return bool(count)


if __name__ == "__main__":
    sys.exit(main())
