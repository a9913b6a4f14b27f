"""KVM. Source: include/uapi/linux/kvm.h. Additions later than Linux 6.1 name their release."""

import ctypes
from ctypes import c_int16 as s16
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64

from kvmpc.abi.ioctl import _IO, _IOR, _IOW, _IOWR
from kvmpc.abi.kvm_x86 import kvm_cpuid2, kvm_regs, kvm_sregs, kvm_sync_regs

__all__ = [
    "KVMIO",
    "KVM_API_VERSION",
    "KVM_CAP_BINARY_STATS_FD",
    "KVM_CAP_IMMEDIATE_EXIT",
    "KVM_CAP_MAX_VCPUS",
    "KVM_CAP_NR_VCPUS",
    "KVM_CAP_SYNC_REGS",
    "KVM_CAP_USER_MEMORY",
    "KVM_CAP_USER_MEMORY2",
    "KVM_CHECK_EXTENSION",
    "KVM_CREATE_VCPU",
    "KVM_CREATE_VM",
    "KVM_EXIT_AP_RESET_HOLD",
    "KVM_EXIT_DEBUG",
    "KVM_EXIT_DIRTY_RING_FULL",
    "KVM_EXIT_EXCEPTION",
    "KVM_EXIT_FAIL_ENTRY",
    "KVM_EXIT_HLT",
    "KVM_EXIT_HYPERCALL",
    "KVM_EXIT_HYPERV",
    "KVM_EXIT_INTERNAL_ERROR",
    "KVM_EXIT_INTR",
    "KVM_EXIT_IO",
    "KVM_EXIT_IOAPIC_EOI",
    "KVM_EXIT_IRQ_WINDOW_OPEN",
    "KVM_EXIT_MEMORY_FAULT",
    "KVM_EXIT_MMIO",
    "KVM_EXIT_NMI",
    "KVM_EXIT_NOTIFY",
    "KVM_EXIT_SET_TPR",
    "KVM_EXIT_SHUTDOWN",
    "KVM_EXIT_SYSTEM_EVENT",
    "KVM_EXIT_TDX",
    "KVM_EXIT_TPR_ACCESS",
    "KVM_EXIT_UNKNOWN",
    "KVM_EXIT_X86_BUS_LOCK",
    "KVM_EXIT_X86_RDMSR",
    "KVM_EXIT_X86_WRMSR",
    "KVM_EXIT_XEN",
    "KVM_GET_API_VERSION",
    "KVM_GET_REGS",
    "KVM_GET_SREGS",
    "KVM_GET_STATS_FD",
    "KVM_GET_SUPPORTED_CPUID",
    "KVM_GET_TSC_KHZ",
    "KVM_GET_VCPU_MMAP_SIZE",
    "KVM_HAS_DEVICE_ATTR",
    "KVM_MEM_READONLY",
    "KVM_RUN",
    "KVM_SET_CPUID2",
    "KVM_SET_DEVICE_ATTR",
    "KVM_SET_REGS",
    "KVM_SET_SREGS",
    "KVM_SET_USER_MEMORY_REGION",
    "KVM_SET_USER_MEMORY_REGION2",
    "KVM_STATS_TYPE_CUMULATIVE",
    "KVM_STATS_TYPE_MASK",
    "SYNC_REGS_SIZE_BYTES",
    "kvm_device_attr",
    "kvm_run",
    "kvm_stats_desc",
    "kvm_stats_header",
    "kvm_userspace_memory_region",
    "kvm_userspace_memory_region2",
]

KVM_API_VERSION = 12


# struct kvm_userspace_memory_region

KVM_MEM_READONLY = 1 << 1


class kvm_userspace_memory_region(ctypes.Structure):
    _fields_ = (
        ("slot", u32),
        ("flags", u32),
        ("guest_phys_addr", u64),
        ("memory_size", u64),
        ("userspace_addr", u64),
    )


# struct kvm_userspace_memory_region2 (Linux 6.8)


class kvm_userspace_memory_region2(ctypes.Structure):
    _fields_ = (
        ("slot", u32),
        ("flags", u32),
        ("guest_phys_addr", u64),
        ("memory_size", u64),
        ("userspace_addr", u64),
        ("guest_memfd_offset", u64),
        ("guest_memfd", u32),
        ("pad1", u32),
        ("pad2", u64 * 14),
    )


# exits of x86. MEMORY_FAULT: Linux 6.8; TDX: 6.16

KVM_EXIT_UNKNOWN = 0
KVM_EXIT_EXCEPTION = 1
KVM_EXIT_IO = 2
KVM_EXIT_HYPERCALL = 3
KVM_EXIT_DEBUG = 4
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_IRQ_WINDOW_OPEN = 7
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_SET_TPR = 11
KVM_EXIT_TPR_ACCESS = 12
KVM_EXIT_NMI = 16
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_IOAPIC_EOI = 26
KVM_EXIT_HYPERV = 27
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
KVM_EXIT_DIRTY_RING_FULL = 31
KVM_EXIT_AP_RESET_HOLD = 32
KVM_EXIT_X86_BUS_LOCK = 33
KVM_EXIT_XEN = 34
KVM_EXIT_NOTIFY = 37
KVM_EXIT_MEMORY_FAULT = 39
KVM_EXIT_TDX = 40

# struct kvm_run, shared with the kernel by mmap() of a vCPU's fd. Of the exits, those that a guest
# of ours can cause.


class _hw(ctypes.Structure):
    _fields_ = (("hardware_exit_reason", u64),)


class _fail_entry(ctypes.Structure):
    _fields_ = (("hardware_entry_failure_reason", u64), ("cpu", u32))


class _io(ctypes.Structure):
    _fields_ = (
        ("direction", u8),
        ("size", u8),
        ("port", u16),
        ("count", u32),
        ("data_offset", u64),
    )


class _mmio(ctypes.Structure):
    _fields_ = (("phys_addr", u64), ("data", u8 * 8), ("len", u32), ("is_write", u8))


class _internal(ctypes.Structure):
    _fields_ = (("suberror", u32), ("ndata", u32), ("data", u64 * 16))


class _memory_fault(ctypes.Structure):
    _fields_ = (("flags", u64), ("gpa", u64), ("size", u64))


class _exit(ctypes.Union):
    _fields_ = (
        ("hw", _hw),
        ("fail_entry", _fail_entry),
        ("io", _io),
        ("mmio", _mmio),
        ("internal", _internal),
        ("memory_fault", _memory_fault),
        ("padding", u8 * 256),
    )


SYNC_REGS_SIZE_BYTES = 2048


class _s(ctypes.Union):
    _fields_ = (("regs", kvm_sync_regs), ("padding", u8 * SYNC_REGS_SIZE_BYTES))


class kvm_run(ctypes.Structure):
    _anonymous_ = ("_exit",)
    _fields_ = (
        ("request_interrupt_window", u8),
        ("immediate_exit", u8),
        ("padding1", u8 * 6),
        ("exit_reason", u32),
        ("ready_for_interrupt_injection", u8),
        ("if_flag", u8),
        ("flags", u16),
        ("cr8", u64),
        ("apic_base", u64),
        ("_exit", _exit),
        ("kvm_valid_regs", u64),
        ("kvm_dirty_regs", u64),
        ("s", _s),
    )


# device control API


class kvm_device_attr(ctypes.Structure):
    _fields_ = (("flags", u32), ("group", u32), ("attr", u64), ("addr", u64))


# binary statistics, read from a KVM_GET_STATS_FD

KVM_STATS_TYPE_MASK = 0xF
KVM_STATS_TYPE_CUMULATIVE = 0


class kvm_stats_header(ctypes.Structure):
    _fields_ = (
        ("flags", u32),
        ("name_size", u32),
        ("num_desc", u32),
        ("id_offset", u32),
        ("desc_offset", u32),
        ("data_offset", u32),
    )


class kvm_stats_desc(ctypes.Structure):
    _fields_ = (
        ("flags", u32),
        ("exponent", s16),
        ("size", u16),
        ("offset", u32),
        ("bucket_size", u32),
    )


# capabilities; USER_MEMORY2: Linux 6.8

KVM_CAP_USER_MEMORY = 3
KVM_CAP_NR_VCPUS = 9
KVM_CAP_MAX_VCPUS = 66
KVM_CAP_SYNC_REGS = 74
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_BINARY_STATS_FD = 203
KVM_CAP_USER_MEMORY2 = 231


# ioctls for /dev/kvm

KVMIO = 0xAE
KVM_GET_API_VERSION = _IO(KVMIO, 0x00)
KVM_CREATE_VM = _IO(KVMIO, 0x01)
KVM_CHECK_EXTENSION = _IO(KVMIO, 0x03)
KVM_GET_VCPU_MMAP_SIZE = _IO(KVMIO, 0x04)
KVM_GET_SUPPORTED_CPUID = _IOWR(KVMIO, 0x05, kvm_cpuid2)

# ioctls for a VM's fd; REGION2: Linux 6.8

KVM_CREATE_VCPU = _IO(KVMIO, 0x41)
KVM_SET_USER_MEMORY_REGION = _IOW(KVMIO, 0x46, kvm_userspace_memory_region)
KVM_SET_USER_MEMORY_REGION2 = _IOW(KVMIO, 0x49, kvm_userspace_memory_region2)

# ioctls for a vCPU's fd (the device attributes and the statistics for a VM's, too)

KVM_RUN = _IO(KVMIO, 0x80)
KVM_GET_REGS = _IOR(KVMIO, 0x81, kvm_regs)
KVM_SET_REGS = _IOW(KVMIO, 0x82, kvm_regs)
KVM_GET_SREGS = _IOR(KVMIO, 0x83, kvm_sregs)
KVM_SET_SREGS = _IOW(KVMIO, 0x84, kvm_sregs)
KVM_SET_CPUID2 = _IOW(KVMIO, 0x90, kvm_cpuid2)
KVM_GET_TSC_KHZ = _IO(KVMIO, 0xA3)
KVM_GET_STATS_FD = _IO(KVMIO, 0xCE)
KVM_SET_DEVICE_ATTR = _IOW(KVMIO, 0xE1, kvm_device_attr)
KVM_HAS_DEVICE_ATTR = _IOW(KVMIO, 0xE3, kvm_device_attr)
