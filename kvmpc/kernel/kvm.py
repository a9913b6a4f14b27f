"""Kvm, Vm and Vcpu: one owner for each kind of KVM file descriptor.

They set a VM up and take it down; nothing here runs on the measured path (the KVM_RUN calls on the
fd that `Vcpu` owns are made in ``loops/x86_64/vcpu.asm``). Every object is a context manager,
closes what it owns in reverse order, and may be closed twice.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from kvmpc.abi import kvm as abi
from kvmpc.abi import kvm_x86, mman
from kvmpc.errors import HostError, KernelError
from kvmpc.host.confinement import Confinement
from kvmpc.host.facts import second_level_paging
from kvmpc.host.files import read_fields
from kvmpc.kernel import syscalls
from kvmpc.kernel.need import Need

__all__ = [
    "IMMEDIATE_EXIT",
    "KVM_DEVICE",
    "KVM_PATH",
    "SYNC_REGS",
    "USER_MEMORY",
    "Kvm",
    "Vcpu",
    "Vm",
]

KVM_PATH = "/dev/kvm"

_MAX_CPUID_ENTRIES = 256

_CANNOT_OPEN = {
    errno.ENOENT: "there is no KVM device",
    errno.ENXIO: "the KVM device has no driver",
    errno.ENODEV: "the KVM device has no driver",
    errno.EACCES: "permission denied",
    errno.EPERM: "the system forbids it",
    errno.EBUSY: "another hypervisor holds the virtualisation hardware",
}


def _cannot_open(what: str, error: KernelError, root: Path = Path("/")) -> HostError:
    """Return why there is no KVM to be had, and what would help on this very host."""
    reason = _CANNOT_OPEN.get(error.errno, str(error))
    remedy = error.hint or "see dmesg"
    if error.errno in (errno.EACCES, errno.EPERM):
        remedy = Confinement.read(root).access(KVM_PATH, root)
    elif error.errno == errno.ENOENT and os.path.exists(root / "sys/class/misc/kvm"):
        reason += " in /dev, though this kernel has KVM"
        remedy = f"{Confinement.read(root).access(KVM_PATH, root)}, or mount a real devtmpfs"
    elif error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        remedy = "load the module (modprobe kvm_intel or kvm_amd); see dmesg where it refuses"
        flags = read_fields(root / "proc/cpuinfo").get("flags", "vmx").split()
        if not {"vmx", "svm"}.intersection(flags):
            reason += ", and this processor shows neither vmx nor svm"
            remedy = (
                "enable VT-x or SVM in the firmware, or nested virtualisation in the hypervisor "
                f"if this is a VM itself; then {remedy}"
            )
    elif error.errno == errno.EBUSY:
        remedy = "stop it (VirtualBox, VMware, Xen) and try again"
    return HostError(what, reason, remedy)


class Fd:
    """Something that owns one file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            syscalls.close_fd(fd)


class Kvm(Fd):
    """The system fd, ``/dev/kvm``: what this kernel's KVM can do.

    Raises: HostError with the remedy when the device is missing, not permitted, busy, or no KVM.
    """

    def __init__(self, path: str = KVM_PATH) -> None:
        try:
            fd = syscalls.open_fd(path, os.O_RDWR)
        except KernelError as error:
            raise _cannot_open(path, error) from error
        super().__init__(fd)
        try:
            version = syscalls.ioctl(fd, abi.KVM_GET_API_VERSION, call="KVM_GET_API_VERSION")
        except KernelError as error:
            self.close()
            raise HostError(
                path, f"this is no KVM device ({error})", "mount a real devtmpfs on /dev"
            ) from error
        if version != abi.KVM_API_VERSION:
            self.close()
            raise HostError(path, f"KVM API version {version}", "use a kernel with KVM API 12")

    def check_extension(self, capability: int) -> int:
        """Return KVM_CHECK_EXTENSION: 0 for no, otherwise a capability's own value."""
        return syscalls.ioctl(
            self.fd, abi.KVM_CHECK_EXTENSION, capability, call="KVM_CHECK_EXTENSION"
        )

    def max_vcpus(self) -> int:
        """Return how many vCPUs one VM may have.

        Source: Documentation/virt/kvm/api.rst, KVM_CREATE_VCPU: MAX_VCPUS, else NR_VCPUS, else 4.
        """
        return (
            self.check_extension(abi.KVM_CAP_MAX_VCPUS)
            or self.check_extension(abi.KVM_CAP_NR_VCPUS)
            or 4
        )

    def supported_cpuid(self) -> Cpuid:
        """Return the CPUID leaves that a vCPU may be given here (KVM_GET_SUPPORTED_CPUID)."""
        table = _cpuid_table(_MAX_CPUID_ENTRIES)
        table.header.nent = _MAX_CPUID_ENTRIES
        syscalls.ioctl(self.fd, abi.KVM_GET_SUPPORTED_CPUID, table, call="KVM_GET_SUPPORTED_CPUID")
        return Cpuid(table)

    def create_vm(self, vm_type: int = 0) -> Vm:
        """Create a VM without memory and without vCPUs; `vm_type` 0 is the default type.

        Raises: KernelError.
        """
        # EINTR: the kernel checks for a pending signal while it allocates (kvm_create_vm).
        while True:
            try:
                fd = syscalls.ioctl(self.fd, abi.KVM_CREATE_VM, vm_type, call="KVM_CREATE_VM")
            except KernelError as error:
                if error.errno == errno.EBUSY:
                    # Since Linux 6.12 the hardware is switched on here, and not at open.
                    raise _cannot_open("KVM_CREATE_VM", error) from error
                if error.errno != errno.EINTR:
                    raise
            else:
                break
        vm = Vm(fd)
        try:
            vm.run_bytes = syscalls.ioctl(
                self.fd, abi.KVM_GET_VCPU_MMAP_SIZE, call="KVM_GET_VCPU_MMAP_SIZE"
            )
        except BaseException:
            vm.close()
            raise
        return vm


def _cpuid_table(entries: int) -> ctypes.Structure:
    class CpuidTable(ctypes.Structure):
        _fields_ = (
            ("header", kvm_x86.kvm_cpuid2),
            ("entries", kvm_x86.kvm_cpuid_entry2 * entries),
        )

    return CpuidTable()


class Cpuid:
    """The CPUID leaves given to every vCPU of a VM (struct kvm_cpuid2)."""

    def __init__(self, table: ctypes.Structure) -> None:
        self.table = table

    def _find(self, function: int) -> kvm_x86.kvm_cpuid_entry2 | None:
        for index in range(self.table.header.nent):
            entry: kvm_x86.kvm_cpuid_entry2 = self.table.entries[index]
            if entry.function == function:
                return entry
        return None

    @property
    def has_1g_pages(self) -> bool:
        """Whether the guest may map 1 GiB pages (CPUID 0x80000001 EDX bit 26)."""
        entry = self._find(0x80000001)
        return entry is not None and bool(entry.edx & 1 << 26)

    @property
    def physical_address_bits(self) -> int:
        """Guest physical address width (CPUID 0x80000008 EAX bits 7:0); 36 where not reported."""
        entry = self._find(0x80000008)
        return (entry.eax & 0xFF) if entry is not None else 36


class Vm(Fd):
    """A VM fd with the vCPUs created through it; closing it closes them first."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.run_bytes = 0
        self.vcpus: list[Vcpu] = []

    def close(self) -> None:
        """Close every vCPU, then the VM."""
        while self.vcpus:
            self.vcpus.pop().close()
        super().close()

    def set_memslot(
        self, slot: int, *, gpa: int, hva: int, size_bytes: int, flags: int = 0
    ) -> None:
        """Back guest physical memory with this process's memory.

        The mapping at `hva` must outlive the VM: KVM reads it through this process's page tables,
        and whoever calls this keeps it alive until the VM is closed.
        Raises: KernelError. Source: api.rst, KVM_SET_USER_MEMORY_REGION.
        """
        region = abi.kvm_userspace_memory_region(
            slot=slot, flags=flags, guest_phys_addr=gpa, memory_size=size_bytes, userspace_addr=hva
        )
        syscalls.ioctl(
            self.fd,
            abi.KVM_SET_USER_MEMORY_REGION,
            region,
            call=f"KVM_SET_USER_MEMORY_REGION slot {slot} of {size_bytes} bytes at {gpa:#x}",
            hint="ENOMEM: KVM's own tables for the slot did not fit"
            if size_bytes > 1 << 30
            else "",
        )

    def create_vcpu(self, index: int) -> Vcpu:
        """Create vCPU `index` and map its run structure. Raises: KernelError."""
        fd = syscalls.ioctl(self.fd, abi.KVM_CREATE_VCPU, index, call=f"KVM_CREATE_VCPU {index}")
        vcpu = Vcpu(index, fd, self.run_bytes)
        self.vcpus.append(vcpu)
        return vcpu


class Vcpu(Fd):
    """A vCPU fd and its mapped ``struct kvm_run``.

    `run` is that structure; `run_address` its hva, for the native loop. Both are valid until close.
    """

    def __init__(self, index: int, fd: int, run_bytes: int) -> None:
        super().__init__(fd)
        self.index = index
        with ExitStack() as undo:
            undo.callback(super().close)
            self._mapping = syscalls.Mapping(
                run_bytes,
                prot=mman.PROT_READ | mman.PROT_WRITE,
                flags=mman.MAP_SHARED,
                fd=fd,
                what=f"struct kvm_run of vcpu{index}",
            )
            undo.pop_all()
        self.run_address = self._mapping.address
        self.run = abi.kvm_run.from_address(self.run_address)

    def close(self) -> None:
        """Unmap the run structure and close the fd."""
        if self.fd >= 0:
            del self.run
            self._mapping.close()
        super().close()

    def _ioctl(self, name: str, argument: object = 0) -> int:
        return syscalls.ioctl(
            self.fd, getattr(abi, name), argument, call=f"{name} on vcpu{self.index}"
        )

    def set_cpuid(self, cpuid: Cpuid) -> None:
        """Give the vCPU its CPUID; before anything else, for KVM checks later state against it.

        Without it a vCPU has 36 physical address bits, and kernels from 6.12.112 on refuse long
        mode in KVM_SET_SREGS. Raises: KernelError.
        """
        self._ioctl("KVM_SET_CPUID2", cpuid.table)

    def get_sregs(self) -> kvm_x86.kvm_sregs:
        """Return segments and control registers. Raises: KernelError."""
        sregs = kvm_x86.kvm_sregs()
        self._ioctl("KVM_GET_SREGS", sregs)
        return sregs

    def set_sregs(self, sregs: kvm_x86.kvm_sregs) -> None:
        """Set segments and control registers. Raises: KernelError."""
        self._ioctl("KVM_SET_SREGS", sregs)

    def set_regs(self, regs: kvm_x86.kvm_regs) -> None:
        """Set the general registers. Raises: KernelError."""
        self._ioctl("KVM_SET_REGS", regs)

    def tsc_khz(self) -> int | None:
        """Return the guest's TSC rate, None where KVM does not tell (KVM_GET_TSC_KHZ)."""
        try:
            return self._ioctl("KVM_GET_TSC_KHZ") or None
        except KernelError as error:
            if error.errno in (errno.EIO, errno.EINVAL, errno.ENOTTY):
                return None
            raise

    def share_host_tsc(self) -> bool:
        """Make the guest's TSC the host's (KVM_VCPU_TSC_OFFSET 0); False where not offered.

        Source: Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_CTRL (Linux 5.16).
        """
        # The offset is read by the kernel during the ioctl only.
        offset = ctypes.c_uint64(0)
        attribute = abi.kvm_device_attr(
            group=kvm_x86.KVM_VCPU_TSC_CTRL,
            attr=kvm_x86.KVM_VCPU_TSC_OFFSET,
            addr=ctypes.addressof(offset),
        )
        try:
            self._ioctl("KVM_HAS_DEVICE_ATTR", attribute)
            self._ioctl("KVM_SET_DEVICE_ATTR", attribute)
        except KernelError as error:
            if error.errno in (errno.ENXIO, errno.EINVAL, errno.ENOTTY, errno.EPERM):
                return False
            raise
        return True


def _version() -> str:
    paging = second_level_paging() or "unknown"
    with Kvm() as kvm:
        vcpus = kvm.max_vcpus()
    return f"API {abi.KVM_API_VERSION}, up to {vcpus} vCPUs, second-level paging: {paging}"


def _capability(name: str, wanted: int, since: str) -> Need:
    """Return the need of KVM_CAP `name` with the bits `wanted`, in Linux since `since`."""

    def find() -> str:
        with Kvm() as kvm:
            value = kvm.check_extension(getattr(abi, name))
        if not value & wanted:
            raise HostError(name, "not offered", f"use Linux {since} or newer")
        return f"value {value:#x}"

    return Need(name, find, within=KVM_DEVICE)


KVM_DEVICE: Final = Need(KVM_PATH, _version)
USER_MEMORY: Final = _capability("KVM_CAP_USER_MEMORY", 1, "2.6.28")
IMMEDIATE_EXIT: Final = _capability("KVM_CAP_IMMEDIATE_EXIT", 1, "4.11")
SYNC_REGS: Final = _capability("KVM_CAP_SYNC_REGS", kvm_x86.KVM_SYNC_X86_REGS, "4.17")
