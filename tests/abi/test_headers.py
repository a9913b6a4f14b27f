"""kvmpc/abi/*.py against the installed kernel headers, and against tables that are checked in.

Every constant and structure field that a module's `__all__` leads to is compared twice:

* with what a C program prints that includes the header (needs `cc` and the headers);
* with `table.json`, which that program printed, and `by_hand.json`, which holds what the headers
  of the day did not know, each group with its source. This needs no compiler.

After a change in kvmpc/abi: ``python tests/abi/test_headers.py`` writes `table.json` anew, and
names what has to be added to `by_hand.json`. No program writes that.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kvmpc.abi

TABLE = Path(__file__).parent / "table.json"
BY_HAND = Path(__file__).parent / "by_hand.json"

# A constant's or a structure's name -> number or size; "structure.field" -> offset, size and, for a
# number, whether it is signed. Lists, since JSON has no tuples.
Values = dict[str, int | list[int]]

HEADERS = {
    "clock": "linux/time.h",
    "epoll": "linux/eventpoll.h",
    "futex": "linux/futex.h",
    "ioctl": "linux/ioctl.h",
    "kvm": "linux/kvm.h",
    "kvm_x86": "asm/kvm.h",
    "mempolicy": "linux/mempolicy.h",
    "mman": "linux/mman.h",
    "pagemap": None,  # PM_* are in no uapi header
    "poll": "linux/poll.h",
    "prctl": "linux/prctl.h",
    "resource": "linux/resource.h",
    "unistd": "sys/syscall.h",
    "userfaultfd": "linux/userfaultfd.h",
}
"""Module -> what to include; linux/mman.h includes asm/mman.h, and so on."""

CHECKED_BY_CC = [name for name, header in HEADERS.items() if header]

GUARDS = {
    # The modes are an enum, which #ifdef cannot see.
    "MPOL_BIND": "MPOL_F_STATIC_NODES",
    "MPOL_INTERLEAVE": "MPOL_F_STATIC_NODES",
    "MPOL_LOCAL": "MPOL_MF_LAZY",
    "kvm_run.memory_fault": "KVM_EXIT_MEMORY_FAULT",
    "kvm_userspace_memory_region2": "KVM_SET_USER_MEMORY_REGION2",
}
"""What an installed header may lack, and the macro that came with it: #ifdef sees only macros."""


def load(name: str) -> ModuleType:
    return importlib.import_module(f"kvmpc.abi.{name}")


def is_aggregate(ctype: object) -> bool:
    return isinstance(ctype, type) and issubclass(ctype, ctypes.Structure | ctypes.Union)


def fields_of(kind: Any, path: str, base: int = 0) -> Iterator[tuple[str, list[int]]]:
    """Yield each field; those of a member whose type has no name in C (`_io`) one by one, too."""
    for name, ctype, *_ in kind._fields_:
        offset = base + getattr(kind, name).offset
        if name in getattr(kind, "_anonymous_", ()):
            yield from fields_of(ctype, path, offset)
            continue
        layout = [offset, ctypes.sizeof(ctype)]
        if issubclass(ctype, ctypes._SimpleCData):
            layout.append(int(ctype(-1).value < 0))
        yield f"{path}.{name}", layout
        if is_aggregate(ctype) and ctype.__name__.startswith("_"):
            yield from fields_of(ctype, f"{path}.{name}", offset)


def values_of(module: ModuleType) -> Values:
    """Return all numbers and layouts that a module exports; functions are seen by their results."""
    values: Values = {}
    for name in module.__all__:
        symbol = getattr(module, name)
        if is_aggregate(symbol):
            values[name] = ctypes.sizeof(symbol)
            values |= fields_of(symbol, name)
        elif not callable(symbol):
            values[name] = symbol
    return values


def differences(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    return [
        f"{name}: ours {ours[name]}, theirs {theirs[name]}"
        for name in ours
        if name in theirs and ours[name] != theirs[name]
    ]


# ---- what the headers say


def c_statement(name: str, value: int | list[int], *, is_structure: bool) -> str:
    structure, _, path = name.partition(".")
    if not path:
        what = f"sizeof(struct {name})" if is_structure else name
        return f'printf("{name} %llu\\n", (unsigned long long)({what}));'
    member = f"((struct {structure} *)0)->{path}"
    formats, numbers = "%zu %zu", [f"offsetof(struct {structure}, {path})", f"sizeof({member})"]
    if isinstance(value, list) and len(value) == 3:  # only a number can be cast
        formats += " %d"
        numbers.append(f"((__typeof__({member}))-1 < 0)")
    return f'printf("{name} {formats}\\n", {", ".join(numbers)});'


def c_program(module: ModuleType, header: str) -> str:
    # linux/userfaultfd.h uses _IO and the like without including them.
    headers = ("stddef.h", "stdio.h", "linux/ioctl.h", header)
    lines = [*(f"#include <{name}>" for name in headers), "int main(void) {"]
    for name, value in values_of(module).items():
        structure = name.partition(".")[0]
        is_structure = is_aggregate(getattr(module, structure))
        guard = None if is_structure else name
        for prefix, macro in GUARDS.items():
            if name == prefix or name.startswith(f"{prefix}."):
                guard = macro
        statement = c_statement(name, value, is_structure=is_structure)
        lines += [f"#ifdef {guard}", statement, "#endif"] if guard else [statement]
    return "\n".join([*lines, "return 0; }", ""])


def run_cc(*arguments: str, source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["cc", "-x", "c", *arguments, "-"],
        input=source,
        capture_output=True,
        text=True,
        check=False,
    )


def missing_tool(header: str) -> str | None:
    """Return why no C program can be asked, or None."""
    if platform.machine() != "x86_64":
        return f"the headers are those of {platform.machine()}"
    if shutil.which("cc") is None:
        return "no C compiler (cc)"
    if run_cc("-E", source=f"#include <stdio.h>\n#include <{header}>\n").returncode:
        return f"no <{header}>: install linux-libc-dev and libc6-dev"
    return None


def values_in_header(module: ModuleType, header: str) -> Values:
    """Return what the header says; a name that it does not know is absent."""
    with tempfile.TemporaryDirectory() as directory:
        program = f"{directory}/print"
        built = run_cc("-o", program, source=c_program(module, header))
        assert built.returncode == 0, built.stderr
        printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    values: Values = {}
    for line in printed.splitlines():
        name, *numbers = line.split()
        values[name] = [int(n) for n in numbers] if "." in name else int(numbers[0])
    return values


@pytest.fixture(params=CHECKED_BY_CC)
def module_and_header(request: pytest.FixtureRequest) -> tuple[ModuleType, Values]:
    header = HEADERS[request.param]
    assert header is not None
    if reason := missing_tool(header):
        pytest.skip(reason)
    module = load(request.param)
    return module, values_in_header(module, header)


# ---- what the tables say


def from_headers() -> Values:
    values: Values = json.loads(TABLE.read_text())
    return values


def by_hand() -> Values:
    """Return the hand-written values, where a number may be a string such as "0xAA" or "1<<3"."""
    values: Values = {}
    for group in json.loads(BY_HAND.read_text()):
        assert group["source"]
        for name, value in group["symbols"].items():
            assert name not in values, f"{name} is in {BY_HAND.name} twice"
            if isinstance(value, str):
                number, _, shift = value.partition("<<")
                value = int(number, 0) << int(shift or "0")
            values[name] = value
    return values


def tables() -> Values:
    return from_headers() | by_hand()


def write_table() -> int:
    """Write `table.json` anew and name what it lacks. Returns an exit code."""
    known: Values = {}
    for name, header in HEADERS.items():
        if header is None:
            continue
        if reason := missing_tool(header):
            print(reason, file=sys.stderr)
            return 3
        known |= values_in_header(load(name), header)
    rows = (f" {json.dumps(name)}: {json.dumps(known[name])}" for name in known)
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    for symbol in (symbol for name in HEADERS for symbol in values_of(load(name))):
        if symbol not in known:
            state = "by hand" if symbol in by_hand() else f"MISSING: add it to {BY_HAND.name}"
            print(f"not in these headers: {symbol} ({state})")
    return 0


# ---- tests


def test_every_module_has_its_header() -> None:
    files = {path.stem for path in Path(kvmpc.abi.__path__[0]).glob("*.py")}
    assert files - {"__init__"} == set(HEADERS)


@pytest.mark.parametrize("name", HEADERS)
def test_all_names_every_number_and_structure(name: str) -> None:
    module = load(name)
    defined = {
        symbol
        for symbol, value in vars(module).items()
        if isinstance(value, int)
        or (is_aggregate(value) and value.__module__ == module.__name__ and symbol[0] != "_")
    }
    assert sorted(defined - set(module.__all__)) == []


def test_no_name_is_in_two_modules() -> None:
    names = [name for module in HEADERS for name in load(module).__all__]
    assert len(names) == len(set(names))


def test_values_are_those_of_the_header(module_and_header: tuple[ModuleType, Values]) -> None:
    module, header = module_and_header
    assert header, "the header knows none of the names"
    assert differences(values_of(module), header) == []


def test_what_the_header_does_not_know_is_in_the_tables(
    module_and_header: tuple[ModuleType, Values],
) -> None:
    module, header = module_and_header
    unknown = [name for name in values_of(module) if name not in header]
    print("not in these headers:", *unknown)  # pytest -rP shows it
    assert [name for name in unknown if name not in tables()] == []


@pytest.mark.parametrize("name", HEADERS)
def test_values_are_those_of_the_tables(name: str) -> None:
    ours, known = values_of(load(name)), tables()
    assert [symbol for symbol in ours if symbol not in known] == []
    assert differences(ours, known) == []


def test_the_tables_hold_nothing_else() -> None:
    ours = {symbol for name in HEADERS for symbol in values_of(load(name))}
    assert sorted(tables().keys() - ours) == []


def test_the_tables_agree_where_both_know_a_name() -> None:
    assert differences(by_hand(), from_headers()) == []


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(1, 2), ([0, 8, 0], [8, 8, 0]), ([0, 8, 0], [0, 4, 0]), ([0, 8, 0], [0, 8, 1])],
)
def test_a_wrong_number_offset_size_or_sign_is_a_difference(ours: object, theirs: object) -> None:
    assert differences({"x": ours}, {"x": theirs}) == [f"x: ours {ours}, theirs {theirs}"]


if __name__ == "__main__":
    sys.exit(write_table())
