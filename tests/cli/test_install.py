"""The package as a stranger gets it: wheel, offline install, editable install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INDEX_S = 300


def _run(command, *, cwd, within_s=60):
    env = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=within_s, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the source tree: a build leaves its traces there and not in the real one."""
    copy = tmp_path_factory.mktemp("source") / "kvmpc"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("kvmpc", "guest"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheels(tree, tmp_path_factory):
    """Return a folder with kvmpc's wheel and those of all it depends on."""
    folder = tmp_path_factory.mktemp("wheels")
    built = _run(
        [sys.executable, "-m", "pip", "wheel", "-q", ".", "-w", folder],
        cwd=tree, within_s=INDEX_S,
    )  # fmt: skip
    if built.returncode:
        no_index = any(
            word in built.stderr
            for word in ("No matching distribution", "NewConnectionError", "Temporary failure")
        )
        if no_index and os.environ.get("KVMPC_REQUIRE_KVM") != "1":
            pytest.skip(f"pip cannot get what a build needs: {built.stderr.strip()[-200:]}")
        pytest.fail(built.stderr, pytrace=False)
    return folder


def _make_venv(folder):
    made = _run([sys.executable, "-m", "venv", folder], cwd=folder.parent)
    assert made.returncode == 0, made.stderr
    return folder


def _check_works(venv, elsewhere):
    """Run the installed commands from a folder that has nothing to do with the source tree."""
    script = venv / "bin" / "kvmpc"
    shown = _run([script, "--help"], cwd=elsewhere)
    assert shown.returncode == 0, shown.stderr
    assert "compare" in shown.stdout
    version = _run([script, "--version"], cwd=elsewhere)
    assert version.returncode == 0, version.stderr
    assert version.stdout.startswith("kvmpc, version ")
    probed = _run([script, "probe"], cwd=elsewhere)
    # 3: the host lacks something; what is installed must work all the same.
    assert probed.returncode in (0, 3), probed.stderr
    assert "Traceback" not in probed.stderr
    assert "keystone" in probed.stdout
    return probed


def _origin(venv, elsewhere):
    code = "import kvmpc; print(kvmpc.__path__[0])"
    return Path(_run([venv / "bin" / "python", "-c", code], cwd=elsewhere).stdout.strip())


def _trials_verified(probed):
    return sum("23 pages verified" in line for line in probed.stdout.splitlines())


def test_the_wheel_carries_every_assembly_file(wheels):
    (wheel,) = wheels.glob("kvmpc-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        licence = [name for name in packed if name.endswith("LICENSE")]
    native = {str(path.relative_to(ROOT)) for path in (ROOT / "kvmpc/loops").rglob("*.asm")}
    guest = {f"kvmpc/_{path.relative_to(ROOT)}" for path in (ROOT / "guest").rglob("*.asm")}
    assert native
    assert guest
    assert native | guest | {"kvmpc/py.typed", "kvmpc/cli/__init__.py"} <= packed
    assert licence
    assert not [name for name in packed if name.startswith(("tests/", "bench/", "guest/"))]


@pytest.mark.kvm
def test_an_offline_install_works_from_another_folder(wheels, tmp_path):
    venv = _make_venv(tmp_path / "venv")
    # As the README has it: nothing but the folder of wheels.
    installed = _run(
        [
            venv / "bin" / "python", "-m", "pip", "install", "-q", "--no-index",
            "--find-links", wheels, "kvmpc",
        ],
        cwd=tmp_path,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    probed = _check_works(venv, tmp_path)
    assert _origin(venv, tmp_path).is_relative_to(venv)
    assert _trials_verified(probed) >= 4


@pytest.mark.kvm
def test_an_editable_install_works_from_another_folder(tree, wheels, tmp_path):
    venv = _make_venv(tmp_path / "venv")
    installed = _run(
        [
            venv / "bin" / "python", "-m", "pip", "install", "-q", "--find-links", wheels,
            "--editable", tree,
        ],
        cwd=tmp_path, within_s=INDEX_S,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    probed = _check_works(venv, tmp_path)
    assert _origin(venv, tmp_path) == tree / "kvmpc"
    assert _trials_verified(probed) >= 4
