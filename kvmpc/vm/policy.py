"""The NUMA policy of guest memory, set before anything touches it.

What a policy means for a page depends on who allocates it, and in which mapping. A page of guest
memory is allocated by the vCPU's thread for ``none`` (in its fault, or when it fills memory ahead)
and for ``exit`` (in UFFDIO_COPY), by a reader's thread for ``uffd``; in each case under the policy
of guest memory's mapping, as UFFDIO_COPY allocates under that of its destination. So ``node=N`` and
``interleave`` (by page number) put a page on the same node whatever the pager is; ``local`` does
not. A mapping with a policy of its own is left alone by NUMA balancing.
Source: ``vma_alloc_folio`` in mm/userfaultfd.c and mm/memory.c; ``vma_policy_mof`` and
``get_vma_policy`` in mm/mempolicy.c.
"""

from __future__ import annotations

import errno
from pathlib import Path

from kvmpc.abi import mempolicy
from kvmpc.errors import HostError, KernelError
from kvmpc.host.numa import usable_nodes
from kvmpc.kernel import syscalls
from kvmpc.work.placement import Placement

__all__ = ["bind_memory"]

_ROOT = Path("/")


def bind_memory(placement: Placement, address: int, size_bytes: int, root: Path = _ROOT) -> None:
    """Give a mapping the policy that `placement` asks for; call it before anything touches it.

    Raises: HostError where mbind(2) is not there or not permitted, KernelError.
    """
    if placement.numa is None:
        return
    mode, nodes = mempolicy.MPOL_LOCAL, list[int]()
    if placement.node is not None:
        mode, nodes = mempolicy.MPOL_BIND, [placement.node]
    elif placement.numa == "interleave":
        mode, nodes = mempolicy.MPOL_INTERLEAVE, usable_nodes(root)
    try:
        syscalls.mbind(address, size_bytes, mode, nodes)
    except KernelError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            raise HostError(
                f"--numa {placement.numa}",
                str(error),
                "use a kernel with CONFIG_NUMA; in a container, allow mbind in its seccomp profile "
                "(docker: --cap-add SYS_NICE)",
            ) from error
        raise
