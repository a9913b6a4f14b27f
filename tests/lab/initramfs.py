"""The initramfs: this interpreter, what kvmpc and its tests need, KVM's modules, this checkout.

An initramfs is a chain of cpio archives, so it comes in two parts: `base` (Python and packages,
tens of MB, cached by the hash of all that goes in) and `overlay` (kernel modules, the checkout and
the jobs, made for each boot). Not compressed: loading it costs less than unpacking it in emulation.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import marshal
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from .kernels import INSTALL, Unavailable, cache_folder

__all__ = ["CHECKOUT", "Archive", "add_checkout", "base_archive"]

CHECKOUT = Path(__file__).resolve().parents[2]
_SCRIPTS = Path(__file__).with_name("guest_scripts")

PYTHON_HOME = "/py"
SITE = "/lab/site"

_PACKAGES = ("keystone-engine", "click", "tabulate", "pytest")

_NOT_NEEDED = {
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter",
    "turtledemo", "ensurepip", "lib2to3", "distutils", "pydoc_data", "venv", "xmlrpc", "sqlite3",
    "msilib", "dbm", "curses", "wsgiref", "turtle.py",
}  # fmt: skip
_NOT_NEEDED_EXTENSIONS = re.compile(
    r"_test|_codecs_|_tkinter|_sqlite|_dbm|_gdbm|_curses|audioop|ossaudio|nis\.|xxlimited|_ssl"
)


class Archive:
    """A cpio archive in the making. Source: Documentation/driver-api/early-userspace/
    buffer-format.rst, newc."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def _add(self, name: str, mode: int, content: bytes, rdev: tuple[int, int] = (0, 0)) -> None:
        name = name.strip("/")
        if name in self._names:
            return
        parent = os.path.dirname(name)
        if parent:
            self._add(parent, stat.S_IFDIR | 0o755, b"")
        self._names.add(name)
        self._parts.append(_entry(name, mode, content, len(self._names), rdev))

    def file(self, name: str, content: bytes, *, executable: bool = False) -> None:
        """Add a file; the first of a name wins."""
        self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def folder(self, name: str) -> None:
        """Add an empty folder."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def bytes(self) -> bytes:
        """Return the archive, padded so that another may follow."""
        body = b"".join([*self._parts, _entry("TRAILER!!!", 0, b"", 0, (0, 0))])
        return body + bytes(-len(body) % 512)


def _entry(name: str, mode: int, content: bytes, ino: int, rdev: tuple[int, int]) -> bytes:
    numbers = (ino, mode, 0, 0, 1, 0, len(content), 0, 0, *rdev, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers)
    head += name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _compiled(source: bytes, name: str) -> bytes:
    """Return `source` as an unchecked hash-based pyc: one that needs no source to compare with."""
    code = compile(source, name, "exec", dont_inherit=True)
    # Source: PEP 552. Flags: hash-based, not to be checked.
    flags = (0b01).to_bytes(4, "little")
    return MAGIC_NUMBER + flags + importlib.util.source_hash(source) + marshal.dumps(code)


def _libraries(binaries: list[Path]) -> set[Path]:
    """Return the shared libraries that `binaries` load, by the names under which they are found."""
    found = set()
    for binary in binaries:
        listed = subprocess.run(
            ["ldd", str(binary)], capture_output=True, text=True, timeout=30, check=False
        ).stdout
        found |= {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}
    return found


def _standard_library() -> Iterator[tuple[str, Path]]:
    """Yield (name below lib/pythonX.Y, file)."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    for folder, folders, files in os.walk(stdlib):
        folders[:] = sorted(
            name for name in folders if name not in _NOT_NEEDED and not name.startswith("config-")
        )
        for name in sorted(files):
            if name in _NOT_NEEDED or not name.endswith((".py", ".so")):
                continue
            if name.endswith(".so") and _NOT_NEEDED_EXTENSIONS.search(name):
                continue
            path = Path(folder) / name
            yield str(path.relative_to(stdlib)), path


def _distributions(names: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """Return the installed distributions `names` and what they require, without extras."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name in names:
                raise Unavailable(f"{name} is not installed: pip install -e '.[test]'") from None
            continue  # required on other systems only
        for requirement in found[name].requires or ():
            text, _, marker = requirement.partition(";")
            match = re.match(r"[\w.-]+", text)
            if match and "extra" not in marker:
                todo.append(match.group())
    return found


def _packages() -> Iterator[tuple[str, Path]]:
    """Yield (name below site-packages, file) of everything that kvmpc and its tests import."""
    for distribution in _distributions(_PACKAGES).values():
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            kept = path.suffix in (".py", ".so") or path.name in ("METADATA", "entry_points.txt")
            if ".." not in file.parts and kept and path.is_file():
                yield str(file), path


def _busybox() -> Path:
    path = shutil.which("busybox")
    if path is None:
        raise Unavailable(f"no busybox here: {INSTALL}")
    return Path(path)


def base_archive() -> Path:
    """Return the cached archive of interpreter, libraries and packages, made where it is missing.

    Raises: Unavailable.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = Path(os.path.realpath(sys.executable))
    inputs = [("/bin/busybox", _busybox()), (f"{PYTHON_HOME}/bin/python3", interpreter)]
    inputs += [(f"{PYTHON_HOME}/lib/{version}/{name}", path) for name, path in _standard_library()]
    inputs += [(f"{SITE}/{name}", path) for name, path in _packages()]
    binaries = [path for name, path in inputs if name.endswith(".so") or "/bin/" in name]
    libraries = sorted(_libraries(binaries))
    inputs += [(str(path), path) for path in libraries]
    contents = [(name, path.read_bytes()) for name, path in inputs]
    digest = hashlib.sha256(MAGIC_NUMBER + Path(__file__).read_bytes())
    for name, content in contents:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    cached = cache_folder() / f"base-{digest.hexdigest()[:20]}.cpio"
    if cached.is_file():
        return cached
    archive = Archive()
    for name in ("/dev", "/proc", "/sys", "/tmp", "/root", "/out"):
        archive.folder(name)
    # The kernel opens it for init's output before anything is mounted.
    archive.device("/dev/console", 5, 1)
    for name, content in contents:
        if name.endswith(".py"):
            try:
                archive.file(f"{name}c", _compiled(content, name))
            except SyntaxError:  # templates and bad examples
                continue
        else:
            archive.file(name, content, executable=".so" in name or "/bin/" in name)
    # The interpreter has moved, so what it finds relative to itself (RPATH) has to be found anew.
    folders = sorted({str(path.parent) for path in libraries})
    archive.file("/lab/library_path", ":".join(folders).encode())
    cached.parent.mkdir(parents=True, exist_ok=True)
    # Under a name of its own: two machines may be at it side by side.
    with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".partial", delete=False) as file:
        file.write(archive.bytes())
    os.rename(file.name, cached)
    return cached


def add_checkout(archive: Archive) -> None:
    """Add kvmpc with its guest, compiled ahead; its metadata; the tests of the host; /init."""
    tag = sys.implementation.cache_tag
    for root, target in ((CHECKOUT / "kvmpc", "kvmpc"), (CHECKOUT / "guest", "kvmpc/_guest")):
        for path in sorted(root.rglob("*")):
            name = f"{SITE}/{target}/{path.relative_to(root)}"
            if path.suffix not in (".py", ".asm"):
                continue
            content = path.read_bytes()
            archive.file(name, content)
            if path.suffix == ".py":
                folder, _, file = name.rpartition("/")
                pyc = f"{folder}/__pycache__/{file.removesuffix('.py')}.{tag}.pyc"
                archive.file(pyc, _compiled(content, name))
    version = importlib.metadata.version("kvmpc")
    archive.file(
        f"{SITE}/kvmpc-{version}.dist-info/METADATA",
        f"Metadata-Version: 2.1\nName: kvmpc\nVersion: {version}\n".encode(),
    )
    tests = [CHECKOUT / "pyproject.toml", CHECKOUT / "tests/conftest.py"]
    for folder in ("fakes", "trial"):
        tests += sorted((CHECKOUT / "tests" / folder).rglob("*.py"))
    for path in tests:
        archive.file(f"/lab/checkout/{path.relative_to(CHECKOUT)}", path.read_bytes())
    for path in sorted(_SCRIPTS.iterdir()):
        if path.is_file():
            name = "/init" if path.name == "init.sh" else f"/lab/scripts/{path.name}"
            archive.file(name, path.read_bytes(), executable=True)
