"""An installation that is not whole, or has another module of a name it needs: exit code 3.

Whatever is missing or in the way, `Process.finish` fails a test on a traceback.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = {"run": ("run", "none", "--vcpus", "1", "--mem-per-vcpu", "92K"), "probe": ("probe",)}


def _module(folder, name, text):
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


def _told(finished, *words):
    assert finished.code == 3, finished
    for word in words:
        assert word in finished.error, finished.error


@pytest.mark.kvm
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import a_part_of_openstack\n", "No module named 'a_part_of_openstack'"),
        ("__version__ = '25'\n", "has no attribute 'Ks'"),
        ("print 'of Python 2'\n", "SyntaxError"),
        ("raise RuntimeError('not configured')\n", "RuntimeError: not configured"),
        ("Ks = lambda *_: None\nKS_ARCH_X86 = KS_MODE_64 = 0\n", "has no attribute 'asm'"),
    ],
    ids=["needs others", "lacks all", "is of another Python", "raises", "lacks something"],
)
def test_another_module_named_keystone_is_told_with_its_path(kvmpc, tmp_path, command, text, said):
    env = _module(tmp_path, "keystone", text)
    path = str(tmp_path / "keystone/__init__.py")
    finished = kvmpc(*COMMANDS[command], env=env)
    _told(finished, path, said, "PYTHONPATH", "pip install keystone-engine")
    if command == "probe":
        assert finished.told.count("not tried: needs assembler") == 5
        assert "userfaultfd yes" in finished.told


@pytest.mark.kvm
def test_an_assembler_that_assembles_wrongly_is_not_used(kvmpc, tmp_path):
    env = _module(
        tmp_path, "keystone",
        "KS_ARCH_X86 = KS_MODE_64 = 0\nKsError, __version__ = ValueError, '0'\n"
        "class Ks:\n    def __init__(self, *_): pass\n"
        "    def asm(self, text): return [0x90], 1\n",
    )  # fmt: skip
    _told(kvmpc(*COMMANDS["run"], env=env), "it makes [144] of 'add rax, 1'")


@pytest.mark.parametrize("command", [("--help",), ("probe",), ("show", "x.json")])
def test_another_module_named_click_is_told_with_its_path(kvmpc, tmp_path, command):
    env = _module(tmp_path, "click", "version = 1\n")
    finished = kvmpc(*command, env=env)
    _told(finished, str(tmp_path / "click/__init__.py"), "pip install click", "PYTHONPATH")
    assert finished.stdout == ""


def test_another_module_named_tabulate_is_told_by_who_needs_it(kvmpc, tmp_path):
    env = _module(tmp_path, "tabulate", "version = 1\n")
    finished = kvmpc("probe", env=env)
    _told(finished, str(tmp_path / "tabulate/__init__.py"), "pip install tabulate")
    assert kvmpc("--help", env=env).code == 0


# Without an installation: a copy of the source tree, and the libraries that are put beside it


@pytest.fixture
def bare(kvmpc, tmp_path):
    """Return what runs kvmpc from a copy of its tree, with libraries given by name, and where."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("kvmpc", "guest"):
        shutil.copytree(
            ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    libraries = tmp_path / "libraries"
    libraries.mkdir()

    def run(names, *arguments):
        for name in names:
            top = {"keystone-engine": "keystone"}.get(name, name)
            files = distribution(name).files or []
            found = {file.parts[0] for file in files if file.parts[0].split(".")[0] == top}
            for part in found:
                source, target = Path(distribution(name).locate_file(part)), libraries / part
                if source.is_dir() and not target.exists():
                    shutil.copytree(source, target)
                elif not target.exists():
                    shutil.copy(source, target)
        # -S: no site-packages at all, so neither these libraries nor kvmpc's own metadata.
        process = kvmpc.start_program(
            [sys.executable, "-S", "-m", "kvmpc", *arguments],
            env={"PYTHONPATH": f"{tree}:{libraries}"},
        )
        return process.finish()

    return run


ALL = ("keystone-engine", "click", "tabulate")


@pytest.mark.kvm
def test_a_source_tree_works_without_being_installed(bare):
    finished = bare(ALL, "run", "exit", "--vcpus", "1", "--mem-per-vcpu", "92K")
    assert finished.code == 0
    assert finished.cells("exit(sigbus)")[-1] == "yes"
    assert bare(ALL, "probe").code == 0
    assert "version " in bare(ALL, "--version").stdout


@pytest.mark.kvm
@pytest.mark.parametrize("missing", ALL)
def test_a_library_that_is_not_installed_is_told_with_how_to_get_it(bare, missing):
    names = [name for name in ALL if name != missing]
    _told(bare(names, "probe"), "not installed", f"{sys.executable} -m pip install {missing}")


@pytest.mark.kvm
@pytest.mark.parametrize(("content", "said"), [(None, "is not there"), ("?", "cannot be loaded")])
def test_keystone_without_its_native_library_is_told_as_such(bare, tmp_path, content, said):
    assert bare(ALL, "--help").code == 0
    library = tmp_path / "libraries/keystone/libkeystone.so"
    library.unlink()
    if content:
        library.write_text(content)
    finished = bare((), "run", "none", "--vcpus", "1")
    _told(finished, f"{library} {said}", "pip install keystone-engine --force-reinstall")


def test_a_tree_without_the_guest_is_told_as_such(bare, tmp_path):
    assert bare(ALL, "--help").code == 0
    (tmp_path / "tree/kvmpc/_guest").unlink()
    finished = bare((), "run", "none", "--vcpus", "1", "--mem-per-vcpu", "92K")
    _told(finished, "kvmpc._guest", "pip install -e .")
