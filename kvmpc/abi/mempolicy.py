"""mbind(2). Source: include/uapi/linux/mempolicy.h."""

__all__ = ["MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_LOCAL"]

MPOL_BIND = 2
MPOL_INTERLEAVE = 3
MPOL_LOCAL = 4  # Linux 3.8
