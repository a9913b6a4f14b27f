"""The house rule: which package may import which, as CONTRIBUTING.md draws the tree."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

import kvmpc

ROOT = Path(kvmpc.__file__).parent

MAY_IMPORT: dict[str, str] = {
    "abi": "",
    "kernel": "abi host",
    "host": "",
    "work": "",
    "assembler": "",
    "loops": "abi assembler kernel",
    "vm": "abi assembler host kernel loops work",
    "sources": "loops work",
    "pagers": "abi kernel loops sources vm work",
    "result": "work",
    "trial": "abi host kernel loops pagers result vm work",
    "judge": "result work",
    "run": "assembler host judge kernel pagers result trial vm work",
    "show": "judge result",
    "cli": "run judge result show",
}
"""Package -> the packages it may import, besides itself and the modules of the root."""

ANYBODYS = {"errors", "exit_codes", "units", "caution"}
"""The modules of the root that every package may import."""

EXTERNAL = {
    "keystone": {"assembler.assemble"},
    "matplotlib": {"show.page.draw"},
    "tabulate": {"show.*", "cli.*"},
    "click": {"cli", "cli.*"},
}
"""Library -> the modules that may import it."""


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
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


@cache
def _names(module: str) -> frozenset[str]:
    """Return what `module` imports, also within functions: ``package.module.name``."""
    found = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def _imports(module: str) -> frozenset[str]:
    """Return the modules of kvmpc that `module` imports."""
    found = set()
    for name in _names(module):
        parts = name.split(".")
        if parts[0] == "kvmpc":
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


def _package(module: str) -> str:
    return module.split(".")[0]


def _allowed(package: str) -> set[str]:
    return {package, *MAY_IMPORT[package].split()} | ANYBODYS


def test_every_package_has_its_row_and_the_root_holds_nothing_else() -> None:
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert packages - {"_guest"} == set(MAY_IMPORT)
    assert {module for module in MODULES if "." not in module} == {
        "", "__main__", *ANYBODYS, *MAY_IMPORT,
    }  # fmt: skip


@pytest.mark.parametrize("module", sorted(name for name in MODULES if _package(name) in MAY_IMPORT))
def test_a_module_imports_only_what_its_package_may(module: str) -> None:
    known = {_package(name) for name in _imports(module)}
    assert known <= _allowed(_package(module))


def test_the_modules_of_the_root_know_nothing_but_each_other() -> None:
    for module in ANYBODYS:
        assert _imports(module) <= ANYBODYS


def test_no_two_packages_and_no_two_modules_import_each_other_in_a_circle() -> None:
    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        for other in MAY_IMPORT[name].split():
            visit(other, (*path, name))

    for package in MAY_IMPORT:
        visit(package, ())
    done: set[str] = set()

    def descend(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in _imports(module):
                descend(name, (*path, module))
            done.add(module)

    for module in MODULES:
        descend(module, ())


def test_every_allowed_arrow_is_there() -> None:
    for package, allowed in MAY_IMPORT.items():
        used = {_package(name) for m in MODULES if _package(m) == package for name in _imports(m)}
        assert set(allowed.split()) <= used, package


def test_what_works_on_a_file_from_another_host_reaches_nothing_of_kvm() -> None:
    reached: set[str] = set()
    left = [module for module in MODULES if _package(module) in ("judge", "show")]
    while left:
        module = left.pop()
        if module not in reached:
            reached.add(module)
            left.extend(_imports(module))
    assert {_package(module) for module in reached} <= {
        "judge", "show", "result", "work", *ANYBODYS,
    }  # fmt: skip


@pytest.mark.parametrize("library", EXTERNAL)
def test_a_library_is_known_in_one_place(library: str) -> None:
    allowed = EXTERNAL[library]
    users = {m for m in MODULES if any(n.split(".")[0] == library for n in _names(m))}
    assert users
    for module in users:
        assert module in allowed or f"{_package(module)}.*" in allowed, module


def test_only_one_module_calls_libc() -> None:
    callers = {
        module
        for module, path in MODULES.items()
        if any(word in path.read_text("utf-8") for word in ("ctypes.CDLL", "find_library"))
    }
    assert callers == {"kernel.syscalls"}


def test_only_the_command_line_prints_or_ends_the_process() -> None:
    for module in MODULES:
        if _package(module) in ("cli", "__main__"):
            continue
        for node in ast.walk(_tree(module)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "click.echo", "sys.exit", "exit"}, module


def test_only_its_command_knows_the_page() -> None:
    users = {m for m in MODULES if any(n.startswith("show.page") for n in _imports(m))}
    assert {m for m in users if not m.startswith("show.page")} == {"cli.report"}


def test_the_command_line_imports_no_module_that_it_does_not_need_to_answer_help() -> None:
    at_once = {
        node.module
        for module in MODULES
        if _package(module) == "cli"
        for node in _tree(module).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kvmpc")
    }
    others = {name for name in at_once if not name.startswith("kvmpc.cli")}
    assert others == {"kvmpc", "kvmpc.errors", "kvmpc.exit_codes", "kvmpc.result.streams"}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_opens_with_the_line_that_says_what_lives_there(package: str) -> None:
    text = ast.get_docstring(_tree(package))
    assert text
    assert text.partition("\n")[0].endswith(".")
    if package not in ("pagers", "cli"):
        code = [node for node in _tree(package).body[1:] if not isinstance(node, ast.AnnAssign)]
        assert not code


def test_every_package_is_packed() -> None:
    # Not found by setuptools itself, which does not look behind the link kvmpc/_guest.
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text("utf-8"))
    packages = {path.parent for path in ROOT.rglob("__init__.py")}
    names = {".".join(["kvmpc", *path.relative_to(ROOT).parts]) for path in packages}
    assert set(project["tool"]["setuptools"]["packages"]) == names | {"kvmpc._guest"}
