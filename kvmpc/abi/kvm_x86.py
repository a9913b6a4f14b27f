"""KVM's registers, CPUID and TSC on x86. Source: arch/x86/include/uapi/asm/kvm.h."""

import ctypes
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64

__all__ = [
    "KVM_NR_INTERRUPTS",
    "KVM_SYNC_X86_REGS",
    "KVM_VCPU_TSC_CTRL",
    "KVM_VCPU_TSC_OFFSET",
    "kvm_cpuid2",
    "kvm_cpuid_entry2",
    "kvm_dtable",
    "kvm_regs",
    "kvm_segment",
    "kvm_sregs",
    "kvm_sync_regs",
]

# registers


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


# struct kvm_sync_regs

KVM_SYNC_X86_REGS = 1 << 0


class kvm_sync_regs(ctypes.Structure):
    # `events` is a struct kvm_vcpu_events, which kvmpc never looks into.
    _fields_ = (("regs", kvm_regs), ("sregs", kvm_sregs), ("events", u64 * 8))


# struct kvm_cpuid2 (a header; nent entries follow it)


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


# KVM_SET_DEVICE_ATTR on a vCPU

KVM_VCPU_TSC_CTRL = 0
KVM_VCPU_TSC_OFFSET = 0
