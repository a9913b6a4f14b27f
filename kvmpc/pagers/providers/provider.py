"""What a provider is: the way in which KVM_RUN comes back to userspace for a missing page."""

from __future__ import annotations

from typing import ClassVar

from kvmpc.kernel.kvm import SYNC_REGS
from kvmpc.kernel.need import Need
from kvmpc.vm.bitmap import MissingBitmap

__all__ = ["Provider"]


class Provider:
    """What makes the exit happen; how the page then gets there is the pager's install.

    name: as in ``exit,provider=NAME`` and in labels. uffd_features: ``UFFD_FEATURE_*`` of the
    userfaultfds that pages are installed through. vm_type: of the VM, as KVM_CREATE_VM takes it.
    needs: of this host; here the registers that a bare EFAULT leaves the page in.
    """

    name: ClassVar[str]
    uffd_features: ClassVar[int] = 0
    vm_type: ClassVar[int] = 0
    needs: ClassVar[tuple[Need, ...]] = (SYNC_REGS,)

    def slot_flags(self, bitmap: MissingBitmap) -> int:
        """Return ``KVM_MEM_*`` of the data slots, whose missing pages `bitmap` tells."""
        del bitmap
        return 0
