"""KVM's own counters: the owner of a statistics fd, and how what it gives is read.

The descriptors of all vCPUs of a VM are the same, so they are parsed once; each fd is opened, read
and closed in turn, so that 1024 vCPUs need one more descriptor and not 1024.
"""

from __future__ import annotations

import ctypes
import errno
import operator
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from kvmpc.abi import kvm as abi
from kvmpc.errors import KernelError
from kvmpc.kernel import syscalls
from kvmpc.kernel.kvm import Fd, Vcpu, Vm

__all__ = ["CounterLayout", "read_layout", "read_totals"]

_MAX_DESCRIPTORS = 4096
_WORD_BYTES = 8


@dataclass(frozen=True)
class CounterLayout:
    """Where the counters are in what an fd of one kind gives.

    words: the place of each counter of `names`, in u64 from `offset`; span_words: how much to read.
    """

    offset: int
    span_words: int
    names: tuple[str, ...]
    words: tuple[int, ...]

    def values(self, fd: StatsFd) -> Sequence[int]:
        """Return the counters, one for each name. Raises: KernelError."""
        data = fd.read(self.span_words * _WORD_BYTES, self.offset)
        numbers = struct.unpack(f"={self.span_words}Q", data)
        return [numbers[word] for word in self.words]


def read_layout(fd: StatsFd) -> CounterLayout:
    """Return where the counters are that only grow.

    A difference of instant values or of peaks says nothing; histograms are left out.
    Raises: KernelError, also where the descriptors make no sense (EPROTO).
    Source: api.rst, KVM_GET_STATS_FD: a header, an id string, the descriptors, the data.
    """
    header = abi.kvm_stats_header.from_buffer_copy(fd.read(ctypes.sizeof(abi.kvm_stats_header), 0))
    fixed = ctypes.sizeof(abi.kvm_stats_desc)
    stride = fixed + header.name_size
    if not 0 < header.num_desc <= _MAX_DESCRIPTORS or not 0 < header.name_size <= 1024:
        raise KernelError("the header of KVM's statistics", errno.EPROTO)
    descriptors = fd.read(header.num_desc * stride, header.desc_offset)
    found: dict[str, int] = {}
    for start in range(0, len(descriptors), stride):
        one = abi.kvm_stats_desc.from_buffer_copy(descriptors, start)
        name = (
            descriptors[start + fixed : start + stride]
            .partition(b"\0")[0]
            .decode("ascii", "replace")
        )
        if one.offset % _WORD_BYTES:
            raise KernelError(f"the descriptor of KVM's statistic {name}", errno.EPROTO)
        if one.flags & abi.KVM_STATS_TYPE_MASK == abi.KVM_STATS_TYPE_CUMULATIVE and one.size == 1:
            found[name] = one.offset // _WORD_BYTES
    span_words = max(found.values(), default=-1) + 1
    return CounterLayout(header.data_offset, span_words, tuple(found), tuple(found.values()))


def read_totals(vm: Vm) -> dict[str, int]:
    """Return every counter of `vm` and the sum over its vCPUs of theirs.

    The names are the kernel's; a VM's and a vCPU's differ, for debugfs has both in one folder.
    Raises: KernelError.
    """
    with StatsFd(vm) as fd:
        of_vm = read_layout(fd)
        found = dict(zip(of_vm.names, of_vm.values(fd), strict=True))
    layout: CounterLayout | None = None
    sums: Sequence[int] = ()
    for vcpu in vm.vcpus:
        with StatsFd(vcpu) as fd:
            if layout is None:
                layout = read_layout(fd)
                sums = [0] * len(layout.names)
            sums = list(map(operator.add, sums, layout.values(fd)))
    if layout is not None:
        found |= zip(layout.names, sums, strict=True)
    return found


class StatsFd(Fd):
    """The binary statistics of one VM or one vCPU.

    Opening one takes the vCPU's mutex, so nobody may be in KVM_RUN; reading it takes no lock.
    Raises: KernelError; ENOTTY before Linux 5.14.
    Source: Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD.
    """

    def __init__(self, owner: Vm | Vcpu) -> None:
        super().__init__(syscalls.ioctl(owner.fd, abi.KVM_GET_STATS_FD, call="KVM_GET_STATS_FD"))

    def read(self, size_bytes: int, offset: int) -> bytes:
        """Return `size_bytes` at `offset`. Raises: KernelError, also where there are fewer."""
        try:
            found = os.pread(self.fd, size_bytes, offset)
        except OSError as error:
            raise KernelError("read of KVM's statistics", error.errno or 0) from error
        if len(found) != size_bytes:
            raise KernelError("read of KVM's statistics", errno.ENODATA)
        return found
