"""What keeps this process from what the kernel can do: who it is, its capabilities, its filters.

A refusal (EPERM, EACCES, ENOSYS) does not say who refuses. What /proc says of this process rules
most of them out; the remedies that are left are those that are true here.
"""

from __future__ import annotations

import errno
import grp
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kvmpc.host.files import read_fields, read_text

__all__ = [
    "CAP_PERFMON",
    "CAP_SYS_PTRACE",
    "REFUSALS",
    "Confinement",
    "either",
]

_ROOT = Path("/")

REFUSALS: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
"""What the kernel answers where somebody does not want a call, or where there is none."""

CAP_SYS_PTRACE: Final = (19, "SYS_PTRACE")
CAP_PERFMON: Final = (38, "PERFMON")
"""Number and name of a capability. Source: include/uapi/linux/capability.h."""

_CAP_DAC_OVERRIDE = 1

_IDENTITY = ["0", "0", "4294967295"]
_SECCOMP_FILTER = "2"


@dataclass(frozen=True)
class Confinement:
    """Who this process is to the kernel.

    uid: its effective one; groups: all of its gids; capabilities: the effective ones, a mask;
    filtered: a seccomp filter is in force; initial: it is in the initial user namespace, the only
    one whose capabilities count for the whole host.
    """

    uid: int
    groups: frozenset[int]
    capabilities: int
    filtered: bool
    initial: bool

    @classmethod
    def read(cls, root: Path = _ROOT) -> Self:
        """Return that of the calling thread; without /proc, of one that nothing keeps."""
        status = read_fields(root / "proc/self/status")
        mask = status.get("CapEff", "")
        identity = (read_text(root / "proc/self/uid_map") or " ".join(_IDENTITY)).split()
        return cls(
            uid=int((status.get("Uid", "").split() or ["0", "0"])[1]),
            groups=frozenset(
                int(gid)
                for gid in (*status.get("Gid", "").split(), *status.get("Groups", "").split())
            ),
            capabilities=int(mask, 16) if re.fullmatch("[0-9a-f]+", mask) else ~0,
            filtered=status.get("Seccomp") == _SECCOMP_FILTER,
            initial=identity == _IDENTITY,
        )

    def may(self, capability: tuple[int, str]) -> bool:
        """Return whether `capability` is in effect, for the whole host."""
        return self.initial and bool(self.capabilities >> capability[0] & 1)

    def remedies(
        self,
        call: str,
        number: int,
        *,
        capability: tuple[int, str] | None = None,
        since: str = "",
    ) -> list[str]:
        """Return what may help where `call` failed with errno `number`, the likeliest first.

        capability: what the kernel asks for; since: the release of Linux that brought the call.
        """
        found = []
        name = _system_call(call)
        if self.filtered:
            found.append(
                f"allow {name} in the seccomp filter that is in force here (docker, podman: "
                "--security-opt seccomp=PROFILE; systemd: SystemCallFilter=)"
            )
        if number == errno.ENOSYS:
            found.append(f"use Linux {since} or newer" if since else f"use a kernel with {name}")
        elif capability is not None and not self.may(capability):
            found.append(self._get(capability[1]))
        elif not self.filtered:
            found.append(
                "look who forbids it: a security module (SELinux, AppArmor: ausearch -m avc, "
                "dmesg) or kernel lockdown"
            )
        return found

    def _get(self, name: str) -> str:
        """Return how to get the capability `name`."""
        if not self.initial:
            return (
                "run outside this user namespace (a rootless container): "
                f"CAP_{name} of one does not count for the host"
            )
        if self.uid == 0:
            return (
                f"give this root CAP_{name} (docker: --cap-add {name}; systemd: AmbientCapabilities"
                "=, CapabilityBoundingSet=)"
            )
        return f"run as root or with CAP_{name}"

    def access(self, path: str, root: Path = _ROOT) -> str:
        """Return how to get to read and write the device `path`, which open(2) refused or lacks."""
        device = root / path.strip("/")
        try:
            found = os.stat(device)
        except OSError:
            return f"pass the device in (docker: --device {path})"
        mode, group = stat.S_IMODE(found.st_mode), _group_name(found.st_gid)
        of = f"{path} has mode {mode:o}, group {group}"
        permitted = (
            self.capabilities >> _CAP_DAC_OVERRIDE & 1
            or (mode & 0o600 == 0o600 and found.st_uid == self.uid)
            or (mode & 0o060 == 0o060 and found.st_gid in self.groups)
            or mode & 0o006 == 0o006
        )
        if permitted:  # by its mode, so by whoever looks before that or after
            return (
                f"allow {path} in the device cgroup (docker: --device {path}), or in the security "
                "module (SELinux, AppArmor: ausearch -m avc, dmesg)"
            )
        if mode & 0o060 == 0o060 and found.st_gid:
            return f"join the group {group} (usermod -aG {group} $USER, and log in anew): {of}"
        return f"get access to {path} (setfacl -m u:$USER:rw {path}, as root): {of}"


def _system_call(call: str) -> str:
    """Return what a filter knows `call` as: of ``vcpu0: UFFDIO_COPY of page 7``, the ioctl."""
    told = call.rpartition(": ")[2]
    if told.startswith(("a ", "/")):  # not known by its name, or a file that was to be opened
        return told if told.startswith("a ") else f"to open {told}"
    _, listed, names = told.partition(" (")
    if listed:  # any of these
        return names.rstrip(")")
    word = re.split(r"\W", told, maxsplit=1)[0]
    if word.startswith(("KVM_", "UFFDIO_", "USERFAULTFD_")):
        return f"ioctl({word})"
    return word.lower()


def _group_name(gid: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)


def either(remedies: Iterable[str]) -> str:
    """Return `remedies` as one text."""
    return "; or ".join(remedies)
