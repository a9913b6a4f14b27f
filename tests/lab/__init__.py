"""kvmpc on other kernels: Debian's, or one given by path, under QEMU's software emulation."""
