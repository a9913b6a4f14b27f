"""KVM. Source: include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h.

Additions later than Linux 6.1 name their release.
"""

import ctypes
from ctypes import c_int16 as s16
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64

from kvmpc.abi.ioctl import _IO, _IOR, _IOW, _IOWR

__all__ = [
    "KVMIO",
    "KVM_API_VERSION",
    "KVM_CAP_BINARY_STATS_FD",
    "KVM_CAP_GET_TSC_KHZ",
    "KVM_CAP_GUEST_MEMFD",
    "KVM_CAP_GUEST_MEMFD_FLAGS",
    "KVM_CAP_IMMEDIATE_EXIT",
    "KVM_CAP_MAX_VCPUS",
    "KVM_CAP_MAX_VCPU_ID",
    "KVM_CAP_MEMORY_ATTRIBUTES",
    "KVM_CAP_MEMORY_FAULT_INFO",
    "KVM_CAP_NR_MEMSLOTS",
    "KVM_CAP_NR_VCPUS",
    "KVM_CAP_PRE_FAULT_MEMORY",
    "KVM_CAP_SET_TSS_ADDR",
    "KVM_CAP_SYNC_MMU",
    "KVM_CAP_SYNC_REGS",
    "KVM_CAP_TSC_CONTROL",
    "KVM_CAP_USER_MEMORY",
    "KVM_CAP_USER_MEMORY2",
    "KVM_CAP_VCPU_ATTRIBUTES",
    "KVM_CHECK_EXTENSION",
    "KVM_CREATE_GUEST_MEMFD",
    "KVM_CREATE_VCPU",
    "KVM_CREATE_VM",
    "KVM_EXIT_AP_RESET_HOLD",
    "KVM_EXIT_ARM_NISV",
    "KVM_EXIT_DCR",
    "KVM_EXIT_DEBUG",
    "KVM_EXIT_DIRTY_RING_FULL",
    "KVM_EXIT_EPR",
    "KVM_EXIT_EXCEPTION",
    "KVM_EXIT_FAIL_ENTRY",
    "KVM_EXIT_HLT",
    "KVM_EXIT_HYPERCALL",
    "KVM_EXIT_HYPERV",
    "KVM_EXIT_INTERNAL_ERROR",
    "KVM_EXIT_INTR",
    "KVM_EXIT_IO",
    "KVM_EXIT_IOAPIC_EOI",
    "KVM_EXIT_IO_IN",
    "KVM_EXIT_IO_OUT",
    "KVM_EXIT_IRQ_WINDOW_OPEN",
    "KVM_EXIT_LOONGARCH_IOCSR",
    "KVM_EXIT_MEMORY_FAULT",
    "KVM_EXIT_MMIO",
    "KVM_EXIT_NMI",
    "KVM_EXIT_NOTIFY",
    "KVM_EXIT_OSI",
    "KVM_EXIT_PAPR_HCALL",
    "KVM_EXIT_RISCV_CSR",
    "KVM_EXIT_RISCV_SBI",
    "KVM_EXIT_S390_RESET",
    "KVM_EXIT_S390_SIEIC",
    "KVM_EXIT_S390_STSI",
    "KVM_EXIT_S390_TSCH",
    "KVM_EXIT_S390_UCONTROL",
    "KVM_EXIT_SET_TPR",
    "KVM_EXIT_SHUTDOWN",
    "KVM_EXIT_SYSTEM_EVENT",
    "KVM_EXIT_TDX",
    "KVM_EXIT_TPR_ACCESS",
    "KVM_EXIT_UNKNOWN",
    "KVM_EXIT_WATCHDOG",
    "KVM_EXIT_X86_BUS_LOCK",
    "KVM_EXIT_X86_RDMSR",
    "KVM_EXIT_X86_WRMSR",
    "KVM_EXIT_XEN",
    "KVM_GET_API_VERSION",
    "KVM_GET_DEVICE_ATTR",
    "KVM_GET_REGS",
    "KVM_GET_SREGS",
    "KVM_GET_STATS_FD",
    "KVM_GET_SUPPORTED_CPUID",
    "KVM_GET_TSC_KHZ",
    "KVM_GET_VCPU_MMAP_SIZE",
    "KVM_HAS_DEVICE_ATTR",
    "KVM_INTERNAL_ERROR_DELIVERY_EV",
    "KVM_INTERNAL_ERROR_EMULATION",
    "KVM_INTERNAL_ERROR_SIMUL_EX",
    "KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON",
    "KVM_MEMORY_EXIT_FLAG_PRIVATE",
    "KVM_MEM_GUEST_MEMFD",
    "KVM_MEM_LOG_DIRTY_PAGES",
    "KVM_MEM_READONLY",
    "KVM_NR_INTERRUPTS",
    "KVM_PRE_FAULT_MEMORY",
    "KVM_RUN",
    "KVM_SET_CPUID2",
    "KVM_SET_DEVICE_ATTR",
    "KVM_SET_REGS",
    "KVM_SET_SREGS",
    "KVM_SET_TSS_ADDR",
    "KVM_SET_USER_MEMORY_REGION",
    "KVM_SET_USER_MEMORY_REGION2",
    "KVM_SYNC_X86_EVENTS",
    "KVM_SYNC_X86_REGS",
    "KVM_SYNC_X86_SREGS",
    "KVM_VCPU_TSC_CTRL",
    "KVM_VCPU_TSC_OFFSET",
    "SYNC_REGS_SIZE_BYTES",
    "kvm_cpuid2",
    "kvm_cpuid_entry2",
    "kvm_create_guest_memfd",
    "kvm_device_attr",
    "kvm_dtable",
    "kvm_pre_fault_memory",
    "kvm_regs",
    "kvm_run",
    "kvm_segment",
    "kvm_sregs",
    "kvm_stats_desc",
    "kvm_stats_header",
    "kvm_sync_regs",
    "kvm_userspace_memory_region",
    "kvm_userspace_memory_region2",
    "kvm_vcpu_events",
]

# linux/kvm.h

KVM_API_VERSION = 12


# struct kvm_userspace_memory_region

# KVM_MEM_GUEST_MEMFD: Linux 6.8
KVM_MEM_LOG_DIRTY_PAGES = 1 << 0
KVM_MEM_READONLY = 1 << 1
KVM_MEM_GUEST_MEMFD = 1 << 2


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


# asm/kvm.h: registers


class kvm_regs(ctypes.Structure):
    _fields_ = (
        ("rax", u64),
        ("rbx", u64),
        ("rcx", u64),
        ("rdx", u64),
        ("rsi", u64),
        ("rdi", u64),
        ("rsp", u64),
        ("rbp", u64),
        ("r8", u64),
        ("r9", u64),
        ("r10", u64),
        ("r11", u64),
        ("r12", u64),
        ("r13", u64),
        ("r14", u64),
        ("r15", u64),
        ("rip", u64),
        ("rflags", u64),
    )


class kvm_segment(ctypes.Structure):
    _fields_ = (
        ("base", u64),
        ("limit", u32),
        ("selector", u16),
        ("type", u8),
        ("present", u8),
        ("dpl", u8),
        ("db", u8),
        ("s", u8),
        ("l", u8),
        ("g", u8),
        ("avl", u8),
        ("unusable", u8),
        ("padding", u8),
    )


class kvm_dtable(ctypes.Structure):
    _fields_ = (("base", u64), ("limit", u16), ("padding", u16 * 3))


KVM_NR_INTERRUPTS = 256


class kvm_sregs(ctypes.Structure):
    _fields_ = (
        ("cs", kvm_segment),
        ("ds", kvm_segment),
        ("es", kvm_segment),
        ("fs", kvm_segment),
        ("gs", kvm_segment),
        ("ss", kvm_segment),
        ("tr", kvm_segment),
        ("ldt", kvm_segment),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        ("cr0", u64),
        ("cr2", u64),
        ("cr3", u64),
        ("cr4", u64),
        ("cr8", u64),
        ("efer", u64),
        ("apic_base", u64),
        ("interrupt_bitmap", u64 * ((KVM_NR_INTERRUPTS + 63) // 64)),
    )


class _exception(ctypes.Structure):
    _fields_ = (
        ("injected", u8),
        ("nr", u8),
        ("has_error_code", u8),
        ("pending", u8),
        ("error_code", u32),
    )


class _interrupt(ctypes.Structure):
    _fields_ = (("injected", u8), ("nr", u8), ("soft", u8), ("shadow", u8))


class _nmi(ctypes.Structure):
    _fields_ = (("injected", u8), ("pending", u8), ("masked", u8), ("pad", u8))


class _smi(ctypes.Structure):
    _fields_ = (("smm", u8), ("pending", u8), ("smm_inside_nmi", u8), ("latched_init", u8))


class _triple_fault(ctypes.Structure):
    _fields_ = (("pending", u8),)


class kvm_vcpu_events(ctypes.Structure):
    _fields_ = (
        ("exception", _exception),
        ("interrupt", _interrupt),
        ("nmi", _nmi),
        ("sipi_vector", u32),
        ("flags", u32),
        ("smi", _smi),
        ("triple_fault", _triple_fault),
        ("reserved", u8 * 26),
        ("exception_has_payload", u8),
        ("exception_payload", u64),
    )


# asm/kvm.h: struct kvm_sync_regs

KVM_SYNC_X86_REGS = 1 << 0
KVM_SYNC_X86_SREGS = 1 << 1
KVM_SYNC_X86_EVENTS = 1 << 2


class kvm_sync_regs(ctypes.Structure):
    _fields_ = (("regs", kvm_regs), ("sregs", kvm_sregs), ("events", kvm_vcpu_events))


# asm/kvm.h: struct kvm_cpuid2 (a header; nent entries follow it)


class kvm_cpuid_entry2(ctypes.Structure):
    _fields_ = (
        ("function", u32),
        ("index", u32),
        ("flags", u32),
        ("eax", u32),
        ("ebx", u32),
        ("ecx", u32),
        ("edx", u32),
        ("padding", u32 * 3),
    )


class kvm_cpuid2(ctypes.Structure):
    _fields_ = (("nent", u32), ("padding", u32))


# asm/kvm.h: KVM_SET_DEVICE_ATTR on a vCPU

KVM_VCPU_TSC_CTRL = 0
KVM_VCPU_TSC_OFFSET = 0


# linux/kvm.h: exits. MEMORY_FAULT: Linux 6.8; TDX: 6.16

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
KVM_EXIT_S390_SIEIC = 13
KVM_EXIT_S390_RESET = 14
KVM_EXIT_DCR = 15
KVM_EXIT_NMI = 16
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_OSI = 18
KVM_EXIT_PAPR_HCALL = 19
KVM_EXIT_S390_UCONTROL = 20
KVM_EXIT_WATCHDOG = 21
KVM_EXIT_S390_TSCH = 22
KVM_EXIT_EPR = 23
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_S390_STSI = 25
KVM_EXIT_IOAPIC_EOI = 26
KVM_EXIT_HYPERV = 27
KVM_EXIT_ARM_NISV = 28
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
KVM_EXIT_DIRTY_RING_FULL = 31
KVM_EXIT_AP_RESET_HOLD = 32
KVM_EXIT_X86_BUS_LOCK = 33
KVM_EXIT_XEN = 34
KVM_EXIT_RISCV_SBI = 35
KVM_EXIT_RISCV_CSR = 36
KVM_EXIT_NOTIFY = 37
KVM_EXIT_LOONGARCH_IOCSR = 38
KVM_EXIT_MEMORY_FAULT = 39
KVM_EXIT_TDX = 40

# in struct kvm_run: io.direction
KVM_EXIT_IO_IN = 0
KVM_EXIT_IO_OUT = 1

# in struct kvm_run: memory_fault.flags
KVM_MEMORY_EXIT_FLAG_PRIVATE = 1 << 3

# in struct kvm_run: internal.suberror
KVM_INTERNAL_ERROR_EMULATION = 1
KVM_INTERNAL_ERROR_SIMUL_EX = 2
KVM_INTERNAL_ERROR_DELIVERY_EV = 3
KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4


# linux/kvm.h: struct kvm_run, shared with the kernel by mmap() of a vCPU's fd. Of the exits, those
# that a guest of ours can cause.


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


class _system_event_payload(ctypes.Union):
    _fields_ = (("flags", u64), ("data", u64 * 16))


class _system_event(ctypes.Structure):
    _anonymous_ = ("_payload",)
    _fields_ = (("type", u32), ("ndata", u32), ("_payload", _system_event_payload))


class _memory_fault(ctypes.Structure):
    _fields_ = (("flags", u64), ("gpa", u64), ("size", u64))


class _exit(ctypes.Union):
    _fields_ = (
        ("hw", _hw),
        ("fail_entry", _fail_entry),
        ("io", _io),
        ("mmio", _mmio),
        ("internal", _internal),
        ("system_event", _system_event),
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


# linux/kvm.h: device control API


class kvm_device_attr(ctypes.Structure):
    _fields_ = (("flags", u32), ("group", u32), ("attr", u64), ("addr", u64))


# linux/kvm.h: binary statistics, read from a KVM_GET_STATS_FD


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


# linux/kvm.h: guest_memfd (Linux 6.8), KVM_PRE_FAULT_MEMORY (Linux 6.11)


class kvm_create_guest_memfd(ctypes.Structure):
    _fields_ = (("size", u64), ("flags", u64), ("reserved", u64 * 6))


class kvm_pre_fault_memory(ctypes.Structure):
    _fields_ = (("gpa", u64), ("size", u64), ("flags", u64), ("padding", u64 * 5))


# linux/kvm.h: capabilities. 231 to 234: Linux 6.8; 236: 6.11; 244: 6.18

KVM_CAP_USER_MEMORY = 3
KVM_CAP_SET_TSS_ADDR = 4
KVM_CAP_NR_VCPUS = 9
KVM_CAP_NR_MEMSLOTS = 10
KVM_CAP_SYNC_MMU = 16
KVM_CAP_TSC_CONTROL = 60
KVM_CAP_GET_TSC_KHZ = 61
KVM_CAP_MAX_VCPUS = 66
KVM_CAP_SYNC_REGS = 74
KVM_CAP_VCPU_ATTRIBUTES = 127
KVM_CAP_MAX_VCPU_ID = 128
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_BINARY_STATS_FD = 203
KVM_CAP_USER_MEMORY2 = 231
KVM_CAP_MEMORY_FAULT_INFO = 232
KVM_CAP_MEMORY_ATTRIBUTES = 233
KVM_CAP_GUEST_MEMFD = 234
KVM_CAP_PRE_FAULT_MEMORY = 236
KVM_CAP_GUEST_MEMFD_FLAGS = 244


# linux/kvm.h: ioctls for /dev/kvm

KVMIO = 0xAE
KVM_GET_API_VERSION = _IO(KVMIO, 0x00)
KVM_CREATE_VM = _IO(KVMIO, 0x01)
KVM_CHECK_EXTENSION = _IO(KVMIO, 0x03)
KVM_GET_VCPU_MMAP_SIZE = _IO(KVMIO, 0x04)
KVM_GET_SUPPORTED_CPUID = _IOWR(KVMIO, 0x05, kvm_cpuid2)

# linux/kvm.h: ioctls for a VM's fd; REGION2: Linux 6.8

KVM_CREATE_VCPU = _IO(KVMIO, 0x41)
KVM_SET_USER_MEMORY_REGION = _IOW(KVMIO, 0x46, kvm_userspace_memory_region)
KVM_SET_TSS_ADDR = _IO(KVMIO, 0x47)
KVM_SET_USER_MEMORY_REGION2 = _IOW(KVMIO, 0x49, kvm_userspace_memory_region2)
KVM_CREATE_GUEST_MEMFD = _IOWR(KVMIO, 0xD4, kvm_create_guest_memfd)

# linux/kvm.h: ioctls for a vCPU's fd (the device attributes and the statistics for a VM's, too)

KVM_RUN = _IO(KVMIO, 0x80)
KVM_GET_REGS = _IOR(KVMIO, 0x81, kvm_regs)
KVM_SET_REGS = _IOW(KVMIO, 0x82, kvm_regs)
KVM_GET_SREGS = _IOR(KVMIO, 0x83, kvm_sregs)
KVM_SET_SREGS = _IOW(KVMIO, 0x84, kvm_sregs)
KVM_SET_CPUID2 = _IOW(KVMIO, 0x90, kvm_cpuid2)
KVM_GET_TSC_KHZ = _IO(KVMIO, 0xA3)
KVM_GET_STATS_FD = _IO(KVMIO, 0xCE)
KVM_PRE_FAULT_MEMORY = _IOWR(KVMIO, 0xD5, kvm_pre_fault_memory)
KVM_SET_DEVICE_ATTR = _IOW(KVMIO, 0xE1, kvm_device_attr)
KVM_GET_DEVICE_ATTR = _IOW(KVMIO, 0xE2, kvm_device_attr)
KVM_HAS_DEVICE_ATTR = _IOW(KVMIO, 0xE3, kvm_device_attr)
