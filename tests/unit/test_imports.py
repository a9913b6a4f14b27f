"""Data flows one way: which module may know which."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import kvmpc

ROOT = Path(kvmpc.__file__).parent

LAYERS = (
    ("errors", "units", "abi", "cautions", "schema"),
    ("syscalls", "config", "source", "stamps", "interrupt", "kernelfs", "placement", "outputfile"),
    ("kvm", "uffd", "memory", "headroom", "tilts", "latency", "placing", "watch"),
    ("native", "guest", "host", "kvmstats"),
    ("pagers", "crew", "verify", "results", "resultfile", "resampling", "points", "stats"),
    ("doubts", "hostmatch", "criteria", "matching", "gate", "baselines"),
    ("cells", "report", "verdicts", "ktap", "formats"),
    (
        "tally",
        "passes",
        "split",
        "timeline",
        "limits",
        "failures",
        "profile",
        "profiletable",
        "splittable",
    ),
    ("htmlreport",),
    ("perf",),
    ("trial",),
    ("profiled",),
    ("plan", "sweepspec", "resume", "schedule", "probe"),
    ("cli",),
    ("__main__",),
)
"""Bottom first. A module imports from its own layer or from those below; a package is one entry."""

ONLY = {
    # What works on a JSON file from another host.
    "results": {"errors", "units", "resultfile", "cautions", "schema"},
    "schema": set(),
    "profile": {"cautions", "results"},
    "profiletable": {"points", "profile", "results", "stats"},
    "splittable": {"points", "results", "stats", "units"},
    "resultfile": {"errors", "outputfile", "units", "results"},
    "outputfile": {"errors"},
    "resampling": set(),
    "points": {"config", "units"},
    "stats": {"errors", "units", "results", "resultfile", "resampling"},
    "doubts": {"cautions", "points", "resampling", "results", "stats"},
    "hostmatch": {"cautions", "results", "units"},
    "criteria": {"errors", "hostmatch"},
    "matching": {"cautions", "errors", "hostmatch", "points", "results", "stats"},
    "gate": {"cautions", "criteria", "errors", "matching", "resampling", "results", "stats"},
    "baselines": {"errors", "outputfile", "results"},
    "cells": {"stats", "units"},
    "report": {"cells", "doubts", "points", "resampling", "results", "stats", "units"},
    "verdicts": {"cells", "doubts", "gate", "report", "results"},
    "ktap": {"cells", "gate", "points", "report", "results", "stats", "verdicts"},
    "htmlreport": {
        "htmlreport",
        "cautions",
        "cells",
        "doubts",
        "hostmatch",
        "matching",
        "points",
        "profile",
        "report",
        "resampling",
        "results",
        "stats",
        "units",
    },
    # What reads the host's files.
    "kernelfs": {"errors", "units"},
    "headroom": {"errors", "units", "kernelfs"},
    "tilts": {"cautions", "errors", "units", "kernelfs", "placement"},
    "placement": {"errors", "kernelfs", "units"},
    "host": {"errors", "units", "kernelfs", "headroom", "tilts"},
    # What knows nothing of pagers, or of anything.
    "errors": set(),
    "stamps": set(),
    "units": {"errors"},
    "abi": {"abi"},
    "syscalls": {"abi", "errors", "units"},
    "source": {"errors", "units"},
    "kvmstats": {"abi", "cautions", "errors", "kvm"},
    "guest": {"abi", "config", "errors", "kvm", "memory", "native", "source", "units", "stamps"},
    "native": {"abi", "errors", "native", "syscalls", "units", "stamps"},
}
"""Modules that may know only these."""


def _modules() -> dict[str, Path]:
    """Return every module by its name within the package, ``__init__`` under its package's."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


MODULES = _modules()


@cache
def _imports(module: str) -> frozenset[str]:
    """Return the modules of the package that `module` imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] != "kvmpc":
                continue
            # `from kvmpc.units import MIB` names something within a module: the longest that is
            # a module is what is imported.
            found.add(
                next(
                    ".".join(parts[1:end])
                    for end in range(len(parts), 0, -1)
                    if ".".join(parts[1:end]) in MODULES
                )
            )
    return frozenset(found - {module, ""})


def _entry(module: str) -> str:
    return module.split(".")[0]


def _layer(module: str) -> int:
    return next(n for n, names in enumerate(LAYERS) if _entry(module) in names)


def test_every_module_has_its_layer() -> None:
    named = [name for names in LAYERS for name in names]
    assert len(named) == len(set(named))
    assert {_entry(module) for module in MODULES if module} == set(named)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_a_module_imports_only_from_its_layer_and_below(module: str) -> None:
    above = {name for name in _imports(module) if _layer(name) > _layer(module)}
    assert not above


@pytest.mark.parametrize("module", sorted(name for name in MODULES if _entry(name) in ONLY))
def test_a_module_that_may_know_little_knows_no_more(module: str) -> None:
    assert {_entry(name) for name in _imports(module)} <= ONLY[_entry(module)]


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in _imports(module):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize(
    "name",
    [
        "results",
        "resultfile",
        "report",
        "baselines",
        "gate",
        "formats",
        "profiletable",
        "htmlreport.page",
    ],
)
def test_what_works_on_a_file_from_another_host_reaches_nothing_of_kvm(name: str) -> None:
    reached: set[str] = set()
    left = [name]
    while left:
        module = left.pop()
        if module not in reached:
            reached.add(module)
            left.extend(_imports(module))
    assert not reached & {"syscalls", "kvm", "uffd", "memory", "guest", "trial", "host"}
    assert not {module for module in reached if _entry(module) in ("abi", "native", "pagers")}


def test_only_the_charts_know_the_drawing_library_and_only_its_command_the_page() -> None:
    draws = {
        module
        for module, path in MODULES.items()
        if any(name in path.read_text("utf-8") for name in ("import matplotlib", "from matplotlib"))
    }
    assert draws == {"htmlreport.charts"}
    users = {m for m in MODULES if any(_entry(n) == "htmlreport" for n in _imports(m))}
    assert {_entry(m) for m in users} == {"htmlreport", "cli"}
    assert {m for m in users if _entry(m) == "cli"} == {"cli.reporting"}


def test_only_syscalls_calls_libc() -> None:
    callers = {
        module
        for module, path in MODULES.items()
        if any(word in path.read_text("utf-8") for word in ("ctypes.CDLL", "find_library"))
    }
    assert callers == {"syscalls"}


def test_only_the_command_line_prints_or_ends_the_process() -> None:
    for module, path in MODULES.items():
        if _entry(module) in ("cli", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "click.echo", "sys.exit", "exit"}, module


def test_the_command_line_imports_no_module_that_it_does_not_need_to_answer_help() -> None:
    at_once = {
        node.module
        for module, path in MODULES.items()
        if _entry(module) == "cli"
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kvmpc")
    }
    assert {name for name in at_once if name.split(".")[1] != "cli"} == {"kvmpc.errors"}
