"""What a provider is: the way in which KVM_RUN comes back to userspace for a missing page."""

from __future__ import annotations

from typing import ClassVar

from kvmpc.abi import kvm as kvm_abi
from kvmpc.abi import kvm_x86 as x86_abi
from kvmpc.errors import HostError
from kvmpc.kernel.kvm import Kvm
from kvmpc.vm.bitmap import MissingBitmap

__all__ = ["Provider"]


class Provider:
    """What makes the exit happen; how the page then gets there is the pager's install.

    name: as in ``exit,provider=NAME`` and in labels. uffd_features: ``UFFD_FEATURE_*`` of the
    userfaultfds that pages are installed through. vm_type: of the VM, as KVM_CREATE_VM takes it.
    """

    name: ClassVar[str]
    uffd_features: ClassVar[int] = 0
    vm_type: ClassVar[int] = 0

    def check_host(self, kvm: Kvm) -> None:
        """Refuse what this kernel lacks. Raises: HostError.

        Here: the registers that a bare EFAULT leaves the page in.
        """
        if not kvm.check_extension(kvm_abi.KVM_CAP_SYNC_REGS) & x86_abi.KVM_SYNC_X86_REGS:
            raise HostError("KVM_CAP_SYNC_REGS", "not offered", "use Linux 4.17 or newer")

    def slot_flags(self, bitmap: MissingBitmap) -> int:
        """Return ``KVM_MEM_*`` of the data slots, whose missing pages `bitmap` tells."""
        del bitmap
        return 0
