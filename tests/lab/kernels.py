"""Kernels to boot: Debian's cloud images by series, or one given by path.

Owns the cache of packages and initramfs parts. Downloads only what apt offers on this machine, and
never installs it. `Unavailable` says what is missing and the command that helps.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Kernel", "Unavailable", "cache_folder", "debian_kernel", "given_kernel", "qemu_path"]

_APT_S = 120
_QEMU = "qemu-system-x86_64"

INSTALL = "apt-get update && apt-get install -y qemu-system-x86 busybox-static"


class Unavailable(Exception):
    """The lab cannot run here; the text ends with what would help."""


@dataclass(frozen=True)
class Kernel:
    """A kernel and its modules.

    name: what tables call it, such as ``Debian 6.12.117-1``; release: as ``uname -r`` says;
    modules: the folder with ``kernel/`` in it, None where everything is built in.
    """

    name: str
    release: str
    image: Path
    modules: Path | None

    def module(self, name: str) -> bytes | None:
        """Return a module's decompressed ELF file; None where there is none (built in)."""
        if self.modules is None:
            return None
        for path in sorted(self.modules.rglob("*.ko*")):
            if path.name.split(".")[0].replace("-", "_") == name.replace("-", "_"):
                return _decompressed(path)
        return None

    def with_dependencies(self, names: list[str]) -> dict[str, bytes]:
        """Return `names` and all they depend on, in an order in which they can be loaded."""
        found: dict[str, bytes] = {}
        for name in names:
            content = self.module(name)
            if content is None:
                continue
            # Source: scripts/mod/modpost.c, add_depends. modules.dep is made at installation only.
            match = re.search(rb"\0depends=([^\0]*)\0", content)
            needed = match.group(1).decode().split(",") if match and match.group(1) else []
            found |= self.with_dependencies([item for item in needed if item not in found])
            found[name.replace("-", "_")] = content
        return found


def _decompressed(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".zst":
        if shutil.which("zstd") is None:
            raise Unavailable(f"{path.name} needs zstd: apt-get install -y zstd")
        return subprocess.run(
            ["zstd", "-dc", path], check=True, capture_output=True, timeout=60
        ).stdout
    return content


def cache_folder() -> Path:
    """Return where downloads are kept: KVMPC_LAB_CACHE, else below the user's cache folder."""
    given = os.environ.get("KVMPC_LAB_CACHE")
    if given:
        return Path(given)
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "kvmpc-lab"


def qemu_path() -> str:
    """Return QEMU's path. Raises: Unavailable."""
    path = shutil.which(_QEMU)
    if path is None:
        raise Unavailable(f"no {_QEMU} here: {INSTALL}")
    return path


def _apt(*command: str, cwd: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise Unavailable(
            f"no {command[0]} here to find Debian's kernels with: use a Debian system, or "
            "python -m tests.lab --kernel PATH --modules DIR"
        )
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=_APT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command)} took more than {_APT_S} s") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()[-300:]}; try: apt-get update")
    return done.stdout


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _newest_package(series: str) -> tuple[str, str]:
    """Return (package, version) of the newest cloud kernel of `series` that apt can download."""
    pattern = re.compile(rf"linux-image-{re.escape(series)}\.\d[\w.+-]*cloud-amd64")
    names = [name for name in _apt("apt-cache", "pkgnames").split() if pattern.fullmatch(name)]
    offered = []
    if names:
        for line in _apt("apt-cache", "madison", *names).splitlines():
            package, version, where = (part.strip() for part in line.split("|"))
            if "Packages" in where:
                offered.append((_natural(version), _natural(package), package, version))
    if not offered:
        raise Unavailable(
            f"apt offers no linux-image-{series}.*-cloud-amd64 here: apt-get update "
            "(6.12 is in trixie, and in bookworm-backports or bookworm-security)"
        )
    _, _, package, version = max(offered)
    return package, version


def debian_kernel(series: str) -> Kernel:
    """Return Debian's newest cloud kernel of `series` (``6.12``), downloaded where not cached.

    Raises: Unavailable.
    """
    package, version = _newest_package(series)
    folder = cache_folder() / f"{package}_{version.replace(':', '%3a')}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(suffix=".partial", dir=folder.parent))
        try:
            _apt(
                *("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root"),
                f"{package}={version}",
                cwd=partial,
            )
            (archive,) = partial.glob("*.deb")
            _apt("dpkg-deb", "-x", str(archive), str(partial))
            archive.unlink()
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    (image,) = (folder / "boot").glob("vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    modules = next(
        (root for root in (folder / "lib/modules", folder / "usr/lib/modules") if root.is_dir()),
        None,
    )
    if modules is None:
        raise Unavailable(f"{package} has no modules")
    return Kernel(f"Debian {version}", release, image, modules / release)


def release_of(image: Path) -> str:
    """Return the release a bzImage was built as.

    Source: Documentation/arch/x86/boot.rst, kernel_version: offset 0x20e, less 0x200.
    """
    with image.open("rb") as file:
        head = file.read(0x10000)
    if head[0x202:0x206] != b"HdrS":
        raise Unavailable(f"{image} is no bzImage: give arch/x86/boot/bzImage of a built tree")
    start = int.from_bytes(head[0x20E:0x210], "little") + 0x200
    return head[start : head.index(b"\0", start)].decode("ascii", "replace").split()[0]


def given_kernel(image: Path, modules: Path | None) -> Kernel:
    """Return the kernel at `image`; `modules` is INSTALL_MOD_PATH, a module folder, or a tree.

    Raises: Unavailable.
    """
    release = release_of(image)
    if modules is not None:
        inside = modules / "lib/modules" / release
        modules = inside if inside.is_dir() else modules
        if not any(modules.rglob("kvm.ko*")):
            raise Unavailable(
                f"no kvm.ko below {modules}: make modules_install INSTALL_MOD_PATH=DIR "
                "(leave --modules out where KVM is built in)"
            )
    kernel = Kernel(release, release, image, modules)
    # Source: include/linux/vermagic.h, VERMAGIC_STRING: begins with the release.
    built_for = re.search(rb"\0vermagic=(\S+)", kernel.module("kvm") or b"")
    if built_for and built_for[1].decode() != release:
        raise Unavailable(
            f"kvm.ko below {modules} is of {built_for[1].decode()}, but {image} is {release}: "
            "make modules_install INSTALL_MOD_PATH=DIR for this build"
        )
    return kernel
